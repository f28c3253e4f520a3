"""The quick form of the checks, which `train` runs on a layer of the user's own.

python -m pytest tests/checks/test_quick_checks.py
"""

import copy

import pytest
import torch
from broken_layers import (
    BatchNormalisation,
    ForgetfulStep,
    FutureNormalisation,
    KnowsTheLength,
    LeakBehindAGate,
    LeakyConvolution,
    Mean,
    NoisyLeak,
    PrefillFromNothing,
    Replayed,
    StalePrefill,
    StateInTheModule,
)
from subjects import failed, subject_of

from src import checks
from src.checks import CHECKS
from src.checks.rows import ROWS
from src.models import MODELS
from src.models.backbone import build
from src.models.template import _WholeModel


def quick(model, long=0, **run):
    """The results of the quick form for a built model.  long: see checks.quick; 0 because it takes a second."""
    return checks.quick(model, 16, torch.device("cpu"), long=long, **run)


@pytest.mark.parametrize("name", MODELS)
def test_every_registered_layer_passes_quickly_once_built(name):
    results = quick(subject_of(MODELS[name].load()).model())
    assert failed(results) == []
    assert {r.group for r in results} == {"repeatability", "isolation", "causality", "decoding", "training"}
    assert checks.without_answer(results) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_registered_layer_passes_at_the_sizes_of_a_run_in_bf16(name):
    model = subject_of(MODELS[name].load()).model()
    results = quick(model, checks.LONG, lengths=(200, 300), batch=8, precision="bf16")
    assert failed(results) == []
    assert checks.without_answer(results) == []


@pytest.mark.parametrize("model_class", [Mean, Replayed, _WholeModel], ids=lambda c: c.__name__)
def test_a_right_layer_of_the_users_own_passes(model_class):
    assert failed(quick(subject_of(model_class).model(awake=False))) == []


@pytest.mark.parametrize(
    "model_class",
    [LeakyConvolution, LeakBehindAGate, FutureNormalisation, BatchNormalisation, KnowsTheLength, NoisyLeak],
    ids=lambda c: c.__name__,
)
def test_the_quick_form_says_who_sees_the_future(model_class):
    results = quick(subject_of(model_class).model(awake=False))
    assert checks.sees_the_future(results)


@pytest.mark.parametrize(
    ("model_class", "is_found"),
    [(ForgetfulStep, True), (StalePrefill, True), (PrefillFromNothing, True), (StateInTheModule, False)],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_layer_that_only_decodes_wrongly_does_not_see_the_future(model_class, is_found):
    """A state in the module needs two decodings to be found, and the quick form has one at a time."""
    results = quick(subject_of(model_class).model())
    assert checks.sees_the_future(results) == []
    assert bool(failed(results)) is is_found


def test_the_quick_form_leaves_model_and_random_state_as_they_were():
    model = subject_of(BatchNormalisation).model(awake=False).train()
    before, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    quick(model)
    assert model.training
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("max_len", [1, 2, 30, 70])
def test_the_quick_form_stays_within_a_position_table(max_len):
    attention = MODELS["transformer"].load()
    model = build(attention, 16, subject_of(attention).args, max_len)
    results = quick(model)
    assert failed(results) == []


class _Raises(Replayed):
    def mix(self, v):
        raise KeyError("no such thing")


def test_the_quick_form_names_the_line_of_the_users_layer():
    results = quick(subject_of(_Raises).model())
    assert all("in mix)" in r.note for r in results if r.status == "fail")
    assert checks.sees_the_future(results) == []
    names = {r.name for r in checks.without_answer(results)}
    assert {name for f in CHECKS["causality"] for name in ROWS[f.__name__]} - names == {"changed tokens under autocast"}
