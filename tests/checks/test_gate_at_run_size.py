"""The quick form at the sizes of a run, and what it says where it has no answer.

python -m pytest tests/checks/test_gate_at_run_size.py
"""

import os
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from broken_layers import LeakFarAway, LeakUnderAutocast, Mean, NoiseInEval, Replayed, RowsAboveFour
from subjects import failed, subject_of

from dataset import TASKS
from src import checks
from src.checks.admission import FARTHEST, batch_of, longest, objection
from src.flags.run_flags import resolve

NONE = 0  # no long pass


def quick(model_class, lengths=(24,), long=NONE, **run):
    """The results of the quick form for a layer in a run of sequences of these lengths."""
    model = subject_of(model_class).model(awake=False)
    return checks.quick(model, 16, torch.device("cpu"), lengths=lengths, long=long, **run)


def words(results) -> str:
    found = objection(results)
    return found[0] if found else ""


# --- the sizes of the run ---------------------------------------------------------------------------------------------


class LeakBeyond128(LeakFarAway):
    start = 128


class LeakOfAFullBatch(Replayed):
    """In a batch of 57 each output contains the next token."""

    def mix(self, v):
        return v if len(v) != 57 else v + v.roll(-1, dims=1)


@pytest.mark.parametrize(
    ("layer", "run"),
    [
        (LeakBeyond128, {"lengths": (256,)}),
        (LeakBeyond128, {"lengths": (24, 200)}),
        (LeakFarAway, {"long": 1117}),
        (LeakOfAFullBatch, {"batch": 57}),
        (LeakUnderAutocast, {"precision": "bf16"}),
    ],
    ids=["training length", "evaluation length", "long pass", "batch", "precision"],
)
def test_a_leak_that_shows_at_the_size_of_the_run_alone_is_found(layer, run):
    assert words(quick(layer, **run)).startswith("sees the future")
    assert words(quick(layer)) == ""


def test_a_layer_that_mixes_many_rows_is_not_said_to_see_the_future():
    results = quick(RowsAboveFour)
    assert words(results).startswith("mixes the rows of a batch: check 'other rows changed' failed")
    assert checks.sees_the_future(results) == []


class MaskOf80(Replayed):
    """A mask for 80 tokens."""

    def __init__(self, args):
        super().__init__(args)
        self.register_buffer("mask", torch.ones(80, 80).tril() / 80)

    def mix(self, v):
        return self.mask[: v.shape[1], : max(v.shape[1], 81 * (v.shape[1] > 80))] @ v


def test_a_layer_for_the_length_of_the_run_need_not_run_longer():
    results = quick(MaskOf80, lengths=(80,), long=150)
    assert words(results) == ""
    assert failed(results) == []
    assert (
        "150 tokens, more than the training has, were left out (RuntimeError"
        in next(r for r in results if r.name == "changed tokens").note
    )
    assert words(quick(MaskOf80, lengths=(81,))).startswith(
        "is not known to be causal: check 'changed tokens' could not be run: RuntimeError"
    )


class OverflowsAt900(Replayed):
    """Weights 0.9^-t are infinite from t = 842 on."""

    def mix(self, v):
        p = torch.arange(v.shape[1])[:, None]
        return (v * 0.9**-p).cumsum(1) * 0.9**p


def test_infinite_logits_are_no_leak():
    """They are beyond the run here, so the layer is admitted. Within the run there is no answer."""
    assert words(quick(OverflowsAt900, long=1117)) == ""
    assert "could not be judged: logits or gradients are NaN or infinite at 900 tokens" in words(
        quick(OverflowsAt900, lengths=(900,))
    )


# --- randomness and errors --------------------------------------------------------------------------------------------


class LeakTimesNumpyNoise(Replayed):
    def mix(self, v):
        return v + 0.1 * F.pad(v[:, 1:], (0, 0, 0, 1)).detach() * (1 + 1e-3 * np.random.rand())


class LeakTimesPythonNoise(Replayed):
    def mix(self, v):
        return v + 0.1 * F.pad(v[:, 1:], (0, 0, 0, 1)).detach() * (1 + 1e-3 * random.random())


class LeakTimesSystemNoise(Replayed):
    """The noise has no seed, but all rows of a pass share it."""

    def mix(self, v):
        return v + 0.1 * F.pad(v[:, 1:], (0, 0, 0, 1)).detach() * (1 + 1e-3 * os.urandom(1)[0] / 255)


@pytest.mark.parametrize("layer", [LeakTimesNumpyNoise, LeakTimesPythonNoise, LeakTimesSystemNoise])
def test_noise_hides_no_leak(layer):
    assert words(quick(layer)).startswith("sees the future, so it is not causal: check 'changed tokens' failed")


class NoiseOfEachRow(Replayed):
    """Noise without a seed, in a layer that is causal."""

    generator = np.random.default_rng()

    def mix(self, v):
        return super().mix(v) + 0.1 * torch.from_numpy(self.generator.normal(size=v.shape)).to(v)


@pytest.mark.parametrize("layer", [NoiseOfEachRow, NoiseInEval], ids=lambda c: c.__name__)
def test_what_cannot_be_judged_is_refused_and_not_called_a_leak(layer):
    results = quick(layer)
    silent = [r for r in checks.without_answer(results) if r.group == "causality"]
    assert silent
    assert all(r.status == "skipped" for r in silent)
    assert all("could not be judged: the model is random, the same tokens twice differ by" in r.note for r in silent)
    assert checks.sees_the_future(results) == []
    assert words(results)


class LayerDrop(Mean):
    """In training half of the layers are left out, drawn by Python's generator."""

    def forward(self, x):
        return x if self.training and random.random() < 0.5 else super().forward(x)


def test_layer_drop_of_a_seeded_generator_is_admitted():
    assert words(quick(LayerDrop, batch=8)) == ""


def test_the_quick_form_leaves_all_generators_as_they_were():
    before = random.getstate(), np.random.get_state()[1].tolist()
    quick(LayerDrop)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


class SpoilsTheBackwardPass(Replayed):
    """An operation in place changes what the backward pass needs."""

    def mix(self, v):
        y = v.exp()
        z = y.cumsum(1)
        y += 1
        return z / 50


def test_an_error_in_a_check_is_not_called_a_leak():
    results = quick(SpoilsTheBackwardPass)
    assert checks.sees_the_future(results) == []
    assert "check 'gradient of later inputs' could not be run: RuntimeError: " in words(results)


# --- what a run is ----------------------------------------------------------------------------------------------------


def test_the_lengths_are_those_of_training_and_of_the_longest_evaluation_up_to_a_bound():
    task = TASKS["reverse"].load()
    task = task(resolve(task, Replayed, preset={}))
    trained = task.max_tokens()
    assert longest(task, ()) == longest(task, (3, trained)) == (trained,)
    assert longest(task, (trained + 1, trained + 9)) == (trained, trained + 9)
    assert longest(task, (10**6,)) == (trained, FARTHEST)


@pytest.mark.parametrize(
    ("flags", "rows"),
    [
        ({"batch_size": 48}, 48),
        ({"batch_size": 48, "micro_batch_size": 12}, 12),
        ({"batch_chars": 10_000}, None),
    ],
)
def test_the_batch_is_that_of_one_forward_pass_of_training(flags, rows):
    task_class = TASKS["reverse"].load()
    args = resolve(task_class, Replayed, preset={"batch_chars": 0}, **flags)
    task = task_class(args)
    assert batch_of(args, task) == (rows or 10_000 // task.max_tokens())
