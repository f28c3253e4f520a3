"""Right layers pass: every registered one, those that the broken layers are made of, and unusual ones.

python -m pytest tests/checks/test_right_layers.py
"""

import pytest
import torch
from broken_layers import HalvedGradient, Mean, NoisyLeak, Replayed
from subjects import JUDGING, failed, results_of, rows, subject_of
from torch import nn

from src import checks
from src.checks import causality, decoding, gradients, numerics, repeatability, shapes
from src.flags.fields import UserError
from src.models import MODELS
from src.models.contract import ARModel
from src.models.template import _WholeModel

# In a default run. The quick form looks at every layer there (test_quick_checks.py).
FIRST = ("transformer", "template")


@pytest.mark.parametrize(
    "name", [name if name in FIRST else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_every_registered_layer_passes(name):
    assert failed(results_of(name).values()) == []


@pytest.mark.parametrize("model_class", [Mean, Replayed, _WholeModel], ids=lambda c: c.__name__)
def test_what_the_broken_layers_are_made_of_passes(model_class):
    """Otherwise a broken layer might fail for another reason than its own."""
    assert failed(checks.run(subject_of(model_class), JUDGING)) == []


def test_replay_is_named_and_fails_under_strict():
    found = rows(decoding.cache, Replayed)
    assert found["cache"].value == "replay"
    assert failed(found.values()) == []
    assert len(failed(checks.strict(found.values()))) == 1
    assert rows(decoding.steps_from_empty, Replayed)["steps from an empty state"].note.startswith("replay ")


# --- skipped checks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check_function", "row", "model_class", "why"),
    [
        (causality.changed_tokens, "changed tokens", NoisyLeak, "the same tokens twice differ"),
        (causality.shorter_sequence, "shortened sequence", NoisyLeak, "the same tokens twice differ"),
        (numerics.extreme_inputs, "layer inputs zero", _WholeModel, "a whole model has no mixer"),
        (repeatability.initialisation, "initialisation in the backbone", _WholeModel, "a whole model has no mixer"),
    ],
    ids=["noise", "noise in lengths", "inputs", "initialisation"],
)
def test_what_cannot_be_checked_is_skipped_with_its_reason(check_function, row, model_class, why):
    result = rows(check_function, model_class)[row]
    assert result.status == "skipped"
    assert why in result.note
    assert failed(checks.strict([result]))


def test_a_position_table_skips_the_length_that_it_does_not_have():
    result = results_of("transformer")["longer than trained"]
    assert result.status == "skipped"
    assert "a position table of 32 tokens" in result.note
    assert failed(checks.strict([result]))


class _Lookup(ARModel):
    """A whole model without an nn.Embedding."""

    def __init__(self, vocab_size, args):
        super().__init__()
        self.table = nn.Parameter(torch.randn(vocab_size, vocab_size))

    def forward(self, x, attn_mask=None):
        return self.table[x]


def test_a_whole_model_without_an_embedding_skips_the_gradient_of_inputs_alone():
    results = checks.run(subject_of(_Lookup), ("causality", "gradients"))
    assert [r.name for r in results if r.status == "skipped"] == ["gradient of later inputs"]
    assert failed(results) == []


# --- layers that refuse a size or a dtype ----------------------------------------------------------------------------


class _RefusesNarrow(Replayed):
    def __init__(self, args):
        if args.d_model < 16:
            raise UserError(f"--d_model: got {args.d_model}, allowed: >= 16")
        super().__init__(args)


def test_a_layer_may_refuse_a_width_in_words():
    result = rows(shapes.width_8, _RefusesNarrow)["width 8"]
    assert result.status == "skipped"
    assert "refused: --d_model: got 8" in result.note
    assert rows(gradients.differences_float64, _RefusesNarrow)["gradients, float64"].status == "pass"


class _Single(Replayed):
    """Computes in float32 for every dtype of its input."""

    def forward(self, x):
        return super().forward(x.float()).to(x.dtype)


class _Rounds(Replayed):
    """Rounds to float32 on the way."""

    def mix(self, v):
        return super().mix(v.float()).to(v.dtype)


@pytest.mark.parametrize(
    ("model_class", "why"),
    [(_Single, "does not run in float64"), (_Rounds, "rounds float64 to float32")],
    ids=["refused", "rounded"],
)
def test_a_layer_without_float64_is_judged_in_float32(model_class, why):
    assert why in rows(gradients.differences_float64, model_class)["gradients, float64"].note
    assert rows(gradients.float32, model_class)["gradients, float32"].status == "pass"


class _WrongInFloat32Alone(_Rounds):
    def mix(self, v):
        return HalvedGradient.apply(v.float()).to(v.dtype)


def test_without_float64_differences_catch_a_wrong_backward_pass():
    assert rows(gradients.differences_float64, _WrongInFloat32Alone)["gradients, float64"].status == "skipped"
    assert rows(gradients.float32, _WrongInFloat32Alone)["gradients, float32"].status == "fail"
