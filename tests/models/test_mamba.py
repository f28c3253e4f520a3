"""Mamba: the block against a float64 loop that is written here, mambapy's weights and outputs, state, start and memory.

python -m pytest tests/models/test_mamba.py
"""

import importlib.util
import math

import pytest
import torch
from small_models import NoTask, decoding_gap, disturb

from src.flags.fields import UserError
from src.flags.run_flags import resolve
from src.models.backbone import Backbone
from src.models.mamba import Mamba, build_model
from src.ops.choices import choices

numba_only = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")
BACKENDS = ["selective_scan=eager,causal_conv=eager", pytest.param("numba", marks=numba_only)]
SHAPES = {
    "in_proj.weight": (64, 16),
    "conv1d.weight": (32, 1, 4),
    "conv1d.bias": (32,),
    "x_proj.weight": (33, 32),
    "dt_proj.weight": (32, 1),
    "dt_proj.bias": (32,),
    "A_log": (32, 16),
    "D": (32,),
    "out_proj.weight": (16, 32),
}


def make(seed=0, **given):
    """A small layer, its parameters away from their start so that each of them counts."""
    torch.manual_seed(seed)
    return disturb(Mamba(resolve(NoTask, Mamba, **{"d_model": 16, **given})), 0.1)


def draw(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain_block(weights, x, neg_eigen=False):
    """The block in float64, token by token, by the paper's equations. It uses nothing of this project. x (T, D)."""
    w = {name: value.double() for name, value in weights.items()}
    E, N = w["A_log"].shape
    R = w["dt_proj.weight"].shape[1]
    window, h, outputs = [], torch.zeros(E, N, dtype=torch.float64), []
    for s in x.double():
        inside = w["in_proj.weight"] @ s
        v, z = inside[:E], inside[E:]
        if "conv1d.weight" in w:
            K = w["conv1d.weight"].shape[2]
            window = [*window, v][-K:]
            v = w["conv1d.bias"] + sum(
                w["conv1d.weight"][:, 0, K - 1 - back] * past for back, past in enumerate(reversed(window))
            )
        u = v / (1 + torch.exp(-v))
        rows = w["x_proj.weight"] @ u
        delta = torch.log1p(torch.exp(w["dt_proj.weight"] @ rows[:R] + w["dt_proj.bias"]))
        for e in range(E):
            decay = torch.exp(-delta[e] * torch.exp(w["A_log"][e]))
            h[e] = (2 * decay - 1 if neg_eigen else decay) * h[e] + delta[e] * rows[R : R + N] * u[e]
        y = h @ rows[R + N :] + w["D"] * u
        outputs.append(w["out_proj.weight"] @ (y * z / (1 + torch.exp(-z))))
    return torch.stack(outputs)


CASES = [
    {},
    {"neg_eigen": True},
    {"d_state": 5, "expand": 3, "dt_rank": 4, "d_conv": 2},
    {"short_conv": 0},
    {"short_conv": 1},
    {"short_conv": 6},
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: ",".join(f"{k}={v}" for k, v in c.items()) or "published")
@pytest.mark.parametrize("backend", BACKENDS)
def test_block_agrees_with_the_equations_of_the_paper(backend, case):
    layer, x = make(backend=backend, **case), draw(2, 21, 16)
    want = torch.stack([plain_block(layer.state_dict(), row, case.get("neg_eigen", False)) for row in x])
    torch.testing.assert_close(layer(x).double(), want, atol=1e-5, rtol=1e-4)


def test_comparison_with_the_paper_catches_a_missing_convolution():
    layer, x = make(), draw(1, 9, 16)
    weights = {name: value for name, value in layer.state_dict().items() if "conv1d" not in name}
    assert (plain_block(weights, x[0]) - layer(x)[0]).abs().max() > 1e-3


@pytest.mark.parametrize("case", CASES, ids=lambda c: ",".join(f"{k}={v}" for k, v in c.items()) or "published")
@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_and_prefills_give_what_forward_gives(backend, case):
    """From an empty and from a used state; 1e-5 allows float32 sums in another order."""
    layer = make(backend=backend, **case)
    assert decoding_gap(layer, draw(2, 37, 16), (), (1, 20), (2, 3, 37)) <= 1e-5


def test_state_is_float32_of_fixed_size_and_holds_nothing_more():
    layer = make(d_state=8)
    window, h = layer.init_state(3, 100)
    assert (window.shape, h.shape, window.dtype, h.dtype) == ((3, 3, 32), (3, 32, 8), torch.float32, torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        _, state = layer.prefill(draw(3, 50, 16), (window, h))
        _, state = layer.step(draw(3, 16), state)
    assert [(t.dtype, t.untyped_storage().nbytes()) for t in state] == [
        (torch.float32, 4 * 3 * 3 * 32),
        (torch.float32, 4 * 3 * 32 * 8),
    ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_bf16_autocast_stays_near_float32(backend):
    """Four products in bf16, 8 bits each: 3 % of the largest output. Every parameter gets a float32 gradient."""
    layer, x = make(backend=backend), draw(2, 65, 16)
    want = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        got = layer(x)
    assert got.dtype == torch.bfloat16
    assert (got.float() - want).abs().max() < 0.03 * want.abs().max()
    (exact,) = torch.autograd.grad(want.square().sum(), [layer.x_proj.weight])
    got.float().square().sum().backward()
    assert all(
        p.grad is not None and p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in layer.parameters()
    )
    assert (layer.x_proj.weight.grad - exact).abs().max() < 0.05 * exact.abs().max()


def test_gradients_are_those_of_finite_differences():
    layer = make(d_model=4, d_state=3).double()
    x = draw(1, 6, 4).double().requires_grad_()
    names, values = zip(*layer.named_parameters(), strict=True)

    def run(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *values), atol=1e-7)


@pytest.mark.skipif(importlib.util.find_spec("mambapy") is None, reason="mambapy is not installed")
@pytest.mark.parametrize("backend", BACKENDS)
def test_state_dict_moves_to_mambapy_and_back_with_the_same_output(backend):
    from mambapy.mamba import MambaBlock, MambaConfig

    ours, theirs = make(backend=backend), MambaBlock(MambaConfig(d_model=16, n_layers=1))
    x = draw(2, 64, 16)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-4)
    other = make(seed=7, backend=backend)
    other.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(other(x), ours(x))


def test_parameters_have_the_published_names_and_shapes():
    assert {name: tuple(p.shape) for name, p in make().named_parameters()} == SHAPES
    assert not [name for name, _ in make(short_conv=0).named_parameters() if "conv" in name]
    assert make(short_conv=6).conv1d.weight.shape == (32, 1, 6)
    assert make(short_conv=-1, d_conv=3).conv1d.weight.shape == (32, 1, 3)
    assert make(d_model=40).dt_proj.weight.shape == (80, 3)  # 40 / 16, rounded up


def test_initialisation_is_the_published_one():
    torch.manual_seed(0)
    layer = Mamba(resolve(NoTask, Mamba, d_model=512))
    torch.testing.assert_close(layer.A_log.exp(), torch.arange(1.0, 17).expand(1024, 16))
    assert torch.equal(layer.D, torch.ones(1024))
    assert layer.dt_proj.weight.abs().max() <= 32**-0.5
    assert layer.dt_proj.weight.std().item() == pytest.approx(32**-0.5 / 3**0.5, rel=0.02)  # of a uniform distribution
    steps = torch.nn.functional.softplus(layer.dt_proj.bias)
    assert steps.min() >= 0.000999
    assert steps.max() <= 0.1001
    # log-uniform; 0.15 is 3.6 standard errors of 1,024 draws
    assert steps.log().mean().item() == pytest.approx(math.log(0.01), abs=0.15)
    assert [name for name, p in layer.named_parameters() if getattr(p, "_no_weight_decay", False)] == [
        "A_log",
        "D",
        "dt_proj.bias",
    ]


def kept_bytes(layer, x):
    """Bytes of unique storages that `layer` keeps for the backward pass, without the parameters."""
    own = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    storages = {}

    def pack(t):
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = layer(x)
    assert y.requires_grad
    return sum(size for place, size in storages.items() if place not in own)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bytes_kept_for_the_backward_pass_do_not_grow_with_the_states(backend):
    x = draw(2, 64, 16)
    few, many = (kept_bytes(make(backend=backend, d_state=n), x) for n in (16, 64))
    assert few == many
    # Per token: x (D), in_proj's output (2 E), the convolved input, the scan's output, silu(z), their product (E each).
    # numba's swiglu computes silu(z) again.
    assert few == 4 * 2 * 64 * (16 + (5 if backend == "numba" else 6) * 32)


@pytest.mark.skipif(importlib.util.find_spec("mambapy") is None, reason="mambapy is not installed")
def test_count_of_kept_bytes_catches_a_layer_that_keeps_its_states():
    from mambapy.mamba import MambaBlock, MambaConfig

    x = draw(2, 64, 16)
    few, many = (kept_bytes(MambaBlock(MambaConfig(d_model=16, n_layers=1, d_state=n)), x) for n in (16, 64))
    assert many > 3 * few


def test_model_is_the_backbone_around_the_layer_and_names_its_ops():
    args = resolve(NoTask, Mamba, d_model=16)
    model = build_model(11, args)
    assert isinstance(model, Backbone)
    assert isinstance(model.blocks[0].mixer, Mamba)
    assert model.cache_kind() == "own"
    record = choices(dict.fromkeys(Mamba.ops, ()), args, "cpu")
    assert list(record) == ["causal_conv", "selective_scan", "swiglu", "linear"]
    assert all(entry["reason"] for entry in record.values())


def test_backend_that_cannot_run_is_an_error_and_is_not_replaced():
    with pytest.raises(UserError, match="unknown backend 'fast' for selective_scan"):
        make(backend="selective_scan=fast")
    with pytest.raises(RuntimeError, match="needs mamba_ssm and a cuda device"):
        make(backend="mamba_ssm")(draw(1, 3, 16))


def test_published_kernel_decodes_a_longer_prompt_step_by_step(monkeypatch):
    """It starts from zero only, so a prompt that follows other text goes through `step`."""
    layer, x = make(), draw(2, 9, 16)
    with torch.no_grad():
        _, state = layer.prefill(x[:, :5], layer.init_state(2, 9))
        layer.scan_backend = "mamba_ssm"
        y, _ = layer.prefill(x[:, 5:], state)
        layer.scan_backend = "auto"
        torch.testing.assert_close(y, layer(x)[:, 5:], atol=1e-5, rtol=1e-5)
