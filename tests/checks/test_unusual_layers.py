"""Right layers of unusual kinds pass all checks and train: complex, half and integer parameters, experts, lazy maps.

python -m pytest tests/checks/test_unusual_layers.py
"""

import random

import numpy as np
import pytest
import torch
from broken_layers import HalvedGradient
from conftest import TINY
from right_layers import (
    RIGHT,
    S5,
    Experts,
    ExponentialGates,
    HalfProjection,
    IntegerParameter,
    Lazy,
    Lru,
    Mean,
    NumpyStart,
    StraightThrough,
    TableByLength,
)
from subjects import JUDGING, failed, rows, subject_of

from dataset.common import Batch
from src import checks
from src.checks import gradients, leftovers, numerics, repeatability
from src.flags.fields import UserError
from src.storage import checkpoint
from src.utils.training import make_optimizer, make_scaler, make_scheduler, train_step

CPU = torch.device("cpu")


@pytest.mark.slow
@pytest.mark.parametrize("layer", RIGHT, ids=lambda c: c.__name__)
def test_an_unusual_right_layer_passes_all_checks(layer):
    assert failed(checks.run(subject_of(layer), JUDGING)) == []


@pytest.mark.parametrize(
    ("layer", "check"),
    [
        (Lru, gradients.differences_float64),
        (Lru, gradients.float32),
        (Lru, repeatability.backward_twice),
        (S5, gradients.float32),
        (S5, numerics.bf16_gradients),
        (HalfProjection, gradients.differences_float64),
        (HalfProjection, gradients.float32),
        (IntegerParameter, gradients.float32),
        (Experts, gradients.every_parameter),
        (Lazy, repeatability.initialisation),
        (NumpyStart, repeatability.initialisation),
        (NumpyStart, repeatability.same_seed),
        (TableByLength, leftovers.growth),
    ],
    ids=lambda value: value.__name__,
)
def test_an_unusual_right_layer_passes_the_check_that_concerns_it(layer, check):
    results = rows(check, layer).values()
    assert [r.status for r in results] == ["pass"] * len(results), results


@pytest.mark.parametrize("layer", RIGHT, ids=lambda c: c.__name__)
def test_an_unusual_right_layer_passes_the_quick_form(layer):
    assert failed(checks.quick(subject_of(layer).model(awake=False), 16, CPU)) == []


def trained(layer, steps=3):
    """(the losses of some steps on one batch, the model, its weights before)."""
    subject = subject_of(layer, lr=1e-2, warmup_steps=0, precision="fp32")
    args, model = subject.args, subject.model(awake=False).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = make_optimizer(model, args, CPU)
    scheduler, scaler = make_scheduler(optimizer, args, steps), make_scaler(args, CPU)
    x = subject.tokens(4, 20)
    batch = Batch(
        x, x.roll(-1, dims=1), torch.ones_like(x, dtype=torch.bool), torch.full((4,), 20), -torch.ones_like(x)
    )
    losses = [train_step(model, batch, optimizer, scheduler, scaler, CPU, args)["loss"] for _ in range(steps)]
    return losses, model, before


@pytest.mark.parametrize("layer", RIGHT, ids=lambda c: c.__name__)
def test_an_unusual_right_layer_trains_all_parameters_but_those_of_integers(layer):
    losses, model, before = trained(layer)
    assert losses[-1] < losses[0]
    trainable = [name for name, p in model.named_parameters() if p.requires_grad and "experts" not in name]
    assert [name for name in trainable if torch.equal(model.state_dict()[name], before[name])] == []
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters() if not p.requires_grad)


def test_the_optimiser_is_fused_only_where_all_parameters_are_real():
    def fused(layer):
        return make_optimizer(subject_of(layer).model(), subject_of(layer).args, CPU).defaults["fused"]

    assert fused(IntegerParameter)  # it is not trained
    assert fused(HalfProjection)
    assert not fused(Lru)


def test_complex_parameters_under_fp16_are_a_user_error():
    subject = subject_of(Lru, precision="fp16")
    with pytest.raises(UserError, match="--precision: got fp16, but the model has complex parameters"):
        make_optimizer(subject.model(), subject.args, CPU)


# --- dtypes ----------------------------------------------------------------------------------------------------------


class _AllKinds(Mean):
    def __init__(self, args):
        super().__init__(args)
        for kind in KINDS:
            self.register_buffer(f"a_{str(kind).split('.')[1]}", torch.ones(3).to(kind))


KINDS = {
    torch.float32: torch.float64,
    torch.complex64: torch.complex128,
    torch.complex128: torch.complex128,
    torch.float64: torch.float64,
    torch.bfloat16: torch.bfloat16,
    torch.float16: torch.float16,
    torch.int64: torch.int64,
    torch.uint8: torch.uint8,
    torch.bool: torch.bool,
}


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_check_in_float64_changes_single_precision_alone(kind):
    name = f"blocks.0.mixer.a_{str(kind).split('.')[1]}"
    assert subject_of(_AllKinds).model().get_buffer(name).dtype is kind
    assert subject_of(_AllKinds).model(dtype=torch.float64).get_buffer(name).dtype is KINDS[kind]


class _HalfAComplexGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        return z * 2

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad.real.to(grad.dtype)  # the imaginary part is lost


class _WrongComplexBackward(Lru):
    def _inputs(self, x):
        lam, u = super()._inputs(x)
        return lam, _HalfAComplexGradient.apply(u)


def test_a_wrong_gradient_of_complex_parameters_is_caught():
    result = rows(gradients.differences_float64, _WrongComplexBackward)["gradients, float64"]
    assert result.status == "fail"


class _WrongInHalf(HalfProjection):
    def project(self, h):
        return self.value(h) + HalvedGradient.apply(self.rounded(h.bfloat16())).to(h.dtype)


def test_a_wrong_gradient_behind_a_projection_in_bf16_is_caught():
    assert rows(gradients.differences_float64, _WrongInHalf)["gradients, float64"].status == "fail"


# --- what is declared, and what is measured --------------------------------------------------------------------------


class _Undeclared(StraightThrough):
    surrogate_gradient = False


def test_a_surrogate_gradient_is_reported_where_it_is_declared_and_fails_elsewhere():
    name = "gradients, float64"
    declared, hidden = (rows(gradients.differences_float64, c)[name] for c in (StraightThrough, _Undeclared))
    assert declared.status == "measured"
    assert "StraightThrough declares surrogate_gradient = True" in declared.note
    assert hidden.status == "fail"


def test_inputs_that_no_block_gives_are_measured():
    found = rows(numerics.extreme_inputs, ExponentialGates)
    assert found["layer inputs x 10, not finite"].status == "pass"
    assert found["layer inputs x 100, not finite"].status == "measured"
    assert found["layer inputs x 100, not finite"].value > 0


# --- lazy parameters -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", ["published", "torch", "normal", "xavier"])
def test_lazy_maps_have_their_shape_before_anything_reads_them(init):
    model = subject_of(Lazy, init=init).model()
    assert model.get_parameter("blocks.0.mixer.lazy.weight").shape == (16, 16)


class _NeverUsed(Lazy):
    def project(self, h):
        return self.value(h)


def test_a_lazy_map_that_is_not_used_is_a_user_error():
    with pytest.raises(UserError, match="does not use the lazy parameter"):
        subject_of(_NeverUsed).model()


# --- runs ------------------------------------------------------------------------------------------------------------

FILE = """
import random
import numpy as np
import torch
from torch import nn
from src.models.base import Mixer

class Layer(Mixer):
    def __init__(self, args):
        super().__init__()
        self.b = nn.Parameter(torch.randn(args.d_model, args.d_model, dtype=torch.complex64) / args.d_model)
        self.order = nn.Parameter(torch.randperm(args.d_model), requires_grad=False)
        self.out = nn.LazyLinear(args.d_model)
        self.scale = nn.Parameter(torch.tensor(np.random.rand()).float())

    def forward(self, x):
        if self.training and random.random() + np.random.rand() < 0.8:
            return torch.zeros_like(x)
        h = (x[..., self.order].to(self.b.dtype) @ self.b).cumsum(1).real
        return self.scale * self.out(h / torch.arange(1, x.shape[1] + 1)[:, None])
"""


@pytest.mark.slow
def test_a_run_of_such_a_layer_is_decided_by_its_seed(main, tmp_path):
    """It has complex, integer and lazy parameters, and leaves itself out by the generators of Python and NumPy."""
    (tmp_path / "layer.py").write_text(FILE)
    for name in ("one", "two"):
        command = ["--task", "rle", "--model", str(tmp_path / "layer.py"), *TINY, "--out_dir", tmp_path / name]
        assert main(*command)[0] == 0
        random.random()
        np.random.rand()
    weights = [checkpoint.load(tmp_path / name / "ckpt.pt")["model"] for name in ("one", "two")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert weights[0]["blocks.0.mixer.b"].dtype is torch.complex64
