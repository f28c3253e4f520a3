"""A wrong shape or dtype is one line in `check`, `speed` and `train`, before anything else.

python -m pytest tests/checks/test_forms.py
"""

import pytest
import torch
from broken_layers import Mean, Replayed
from subjects import subject_of

from src.commands import check
from src.flags.fields import UserError
from src.measure.speed.plan import tried
from src.measure.speed.subjects import make_subject
from src.models import MODELS
from src.models.template import _WholeModel
from src.setup.classes import find_model
from src.setup.forms import check_forms

FILE = """
import torch
from torch import nn
from src.models.base import Mixer

class Mine(Mixer):
    def __init__(self, args):
        super().__init__()
        self.l = nn.Linear(args.d_model, args.d_model)
        self.lstm = nn.LSTM(args.d_model, args.d_model, batch_first=True)

    def forward(self, x):
        return {returned}
"""
WRONG = {
    "self.l(x)[..., :1]": r"the forward of the mixer in '.*' returns \(\d+, \d+, 1\), allowed: a tensor of shape",
    "self.lstm(x)": r"the forward of the mixer in '.*' returns tuple, allowed: a tensor of shape",
    "self.l(x).double()": r"the forward of the mixer in '.*' returns float64, allowed: float32",
    "torch.view_as_complex(torch.stack([x, x], -1))": r"returns complex64, allowed: float32",
    "self.l(x)[:, -1]": r"returns \(\d+, \d+\), allowed: a tensor of shape",
}


@pytest.fixture(params=WRONG, ids=["broadcast", "tuple", "float64", "complex", "last token"])
def wrong(request, tmp_path):
    """(path of a layer file, the message that names its fault)."""
    path = tmp_path / "mine.py"
    path.write_text(FILE.format(returned=request.param), encoding="utf-8")
    return str(path), WRONG[request.param]


def test_check_names_a_wrong_form_in_one_line_and_stops(wrong):
    with pytest.raises(UserError, match=wrong[1]) as caught:
        check.main(["--model", wrong[0], "--quiet"])
    assert "\n" not in str(caught.value)


def test_speed_names_a_wrong_form_in_one_line(wrong):
    device = torch.device("cpu")
    subject, _ = make_subject("mine", wrong[0], find_model(wrong[0]), {"d_model": 8, "threads": 1}, 64, device)
    with pytest.raises(UserError, match=wrong[1]) as caught:
        tried(subject, device)
    assert "\n" not in str(caught.value)


def test_train_names_a_wrong_form_in_one_line(wrong, main, tmp_path):
    sizes = "--task reverse --max_len 8 --max_steps 2 --val_size 9 --test_size 9 --d_model 8 --n_layer 1 --threads 1"
    code, _, err = main(*sizes.split(), "--model", wrong[0], "--out_dir", tmp_path / "run")
    assert code == 2
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def _form(model_class) -> None:
    subject = subject_of(model_class)
    check_forms("x", subject.model(), subject.tokens(2, 9), subject.vocab_size)


class StepOfThreeAxes(Mean):
    def step(self, x, state):
        y, state = super().step(x, state)
        return y[:, None], state


class StepWithoutState(Mean):
    def step(self, x, state):
        return super().step(x, state)[0]


class OneLogit(_WholeModel):
    def forward(self, x, attn_mask=None):
        return super().forward(x)[..., :1]


@pytest.mark.parametrize(
    ("model_class", "message"),
    [
        (StepOfThreeAxes, r"the step of the mixer in 'x' returns \(2, 1, 16\), allowed: a tensor of shape \(2, 16\)"),
        (StepWithoutState, r"the step of the mixer in 'x' returns Tensor, allowed: \(output, state\)"),
        (OneLogit, r"the forward of the model in 'x' returns \(2, 9, 1\), allowed: a tensor of shape \(2, 9, 16\)"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_steps_and_logits_have_forms_too(model_class, message):
    with pytest.raises(UserError, match=message):
        _form(model_class)


class Half(Replayed):
    """A bf16 output of a float32 layer does not change the dtype of the residual stream."""

    def mix(self, v):
        return v.bfloat16()


@pytest.mark.parametrize("model_class", [Half, Mean, _WholeModel], ids=lambda c: c.__name__)
def test_right_forms_pass(model_class):
    _form(model_class)


@pytest.mark.parametrize("name", MODELS)
def test_registered_layers_have_right_forms(name):
    _form(MODELS[name].load())
