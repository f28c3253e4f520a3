"""Flags as dataclasses: bounds, choices, layers over each other, JSON and back, suggestions.

python -m pytest tests/flags/test_fields.py
"""

import dataclasses
import json
import math
from dataclasses import dataclass

import pytest

from dataset import TASKS
from dataset.task import LengthConfig, Task
from src.flags.fields import UserError, check_value, field_types, option, parse_value, suggest
from src.flags.groups import SHARED, ControlConfig
from src.flags.run_flags import SMALL, config_parts, resolve, to_dict
from src.models import MODELS

NUMERIC = [
    (part, f)
    for part in (*SHARED, ControlConfig, LengthConfig)
    for f in dataclasses.fields(part)
    if field_types(part)[f.name] in (int, float)
]


class Plain(Task):
    """A task without flags of its own."""


class Own(Task):
    """A task with flags of its own, and a small layer."""

    @dataclass(frozen=True)
    class Config:
        n_things: int = option(3, "things", least=1, most=9)
        names: tuple[str, ...] = option(("a",), "names")

    small = {"n_things": 2, "lr": 0.5, "d_model": 8}  # noqa: RUF012 (a test task)


def field_of(part, name):
    return next(f for f in dataclasses.fields(part) if f.name == name)


def outside(f, kind):
    """Values just outside a field's bounds."""
    step = 1 if kind is int else 1e-6
    rules = f.metadata
    values = [rules["least"] - step] if rules["least"] is not None else []
    values += [rules["above"]] if rules["above"] is not None else []
    return values + ([rules["most"] + step] if rules["most"] is not None else [])


def inside(f, kind):
    rules = f.metadata
    return [rules[k] for k in ("least", "most") if rules[k] is not None] + (
        [rules["above"] + 1] if rules["above"] is not None else []
    )


@pytest.mark.parametrize(("part", "f"), [pytest.param(p, f, id=f.name) for p, f in NUMERIC])
def test_a_number_is_taken_at_its_bounds_and_refused_outside_them(part, f):
    kind = field_types(part)[f.name]
    check_value(f, f.default)
    assert outside(f, kind), f"--{f.name} has no bound, so that nonsense would pass"
    for value in outside(f, kind):
        with pytest.raises(UserError, match=f"--{f.name}: got "):
            check_value(f, value)
    for value in inside(f, kind):
        check_value(f, value)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf"])
def test_a_number_must_be_finite(text):
    part = next(p for p in SHARED if any(f.name == "lr" for f in dataclasses.fields(p)))
    with pytest.raises(UserError, match="finite"):
        parse_value(field_of(part, "lr"), float, text)


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("epochs", "2.5", "a whole number"),
        ("epochs", "many", "a whole number"),
        ("lr", "fast", "a number"),
        ("compile", "maybe", "true or false"),
        ("pos", "rop", "did you mean 'rope'"),
    ],
)
def test_text_of_another_type_is_one_line_that_says_what_is_allowed(name, text, allowed):
    part = next(p for p in SHARED if any(f.name == name for f in dataclasses.fields(p)))
    with pytest.raises(UserError) as caught:
        parse_value(field_of(part, name), field_types(part)[name], text)
    assert f"--{name}: got '{text}'" in str(caught.value)
    assert allowed in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["2x,4x,256", "2x 4x 256", ["2x", "4x,256"], ["2x,", "4x", "256"]])
def test_lists_take_commas_or_spaces(text):
    part = SHARED[0]
    assert parse_value(field_of(part, "eval_lengths"), field_types(part)["eval_lengths"], text) == ("2x", "4x", "256")


def test_layers_lie_over_each_other():
    base = resolve(Own, preset={})
    assert (base.d_model, base.lr, base.n_things, base.context_len) == (384, 3e-4, 3, 512)
    small = resolve(Own)
    assert (small.d_model, small.lr, small.n_things, small.context_len) == (8, 0.5, 2, SMALL["context_len"])
    given = resolve(Own, d_model=16, n_things=5)
    assert (given.d_model, given.lr, given.n_things) == (16, 0.5, 5)
    preset = resolve(Own, preset={"d_model": 24, "n_things": 7}, n_things=1)
    assert (preset.d_model, preset.lr, preset.n_things) == (24, 3e-4, 1)


def test_batch_size_and_epochs_that_were_typed_outrank_what_a_preset_replaces_them_by():
    assert resolve(Plain).batch_chars == SMALL["batch_chars"]
    assert resolve(Plain, batch_size=8).batch_chars == 0
    assert resolve(Plain, batch_size=8, batch_chars=100).batch_chars == 100
    assert resolve(Plain).max_steps == SMALL["max_steps"]
    assert resolve(Plain, epochs=2, train_size=10).max_steps == 0
    assert resolve(Plain, epochs=2, max_steps=7).max_steps == 7


def test_the_run_configuration_is_frozen_and_flat():
    args = resolve(Own)
    with pytest.raises(dataclasses.FrozenInstanceError):
        args.lr = 1.0
    assert [f.name for f in dataclasses.fields(args)] == [
        f.name for part in config_parts(Own) for f in dataclasses.fields(part)
    ]


@pytest.mark.parametrize("name", TASKS)
def test_a_configuration_survives_json(name):
    task_class = TASKS[name].load()
    args = resolve(task_class, MODELS["template"].load(), eval_lengths=("2x", "40"), lr=1)
    assert isinstance(args.lr, float)
    stored = json.loads(json.dumps(to_dict(args)))
    assert stored["eval_lengths"] == ["2x", "40"]
    assert to_dict(resolve(task_class, MODELS["template"].load(), preset={}, **stored)) == to_dict(args)


@pytest.mark.parametrize("layer", ["preset", "given"])
def test_a_name_that_does_not_exist_is_an_error_in_every_layer(layer):
    options = {"preset": {"n_thing": 1}} if layer == "preset" else {"n_thing": 1}
    with pytest.raises(UserError, match=r"--n_thing: no such flag.*did you mean 'n_things'"):
        resolve(Own, **options)


@pytest.mark.parametrize("layer", ["preset", "given"])
def test_a_value_out_of_bounds_is_an_error_in_every_layer(layer):
    options = {"preset": {"n_things": 10}} if layer == "preset" else {"n_things": 10}
    with pytest.raises(UserError, match="--n_things: got 10, allowed: <= 9"):
        resolve(Own, **options)


@pytest.mark.parametrize("name", TASKS)
def test_the_small_layer_of_a_task_names_flags_that_exist(name):
    task_class = TASKS[name].load()
    args = resolve(task_class)
    for key, value in {**SMALL, **task_class.small}.items():
        assert getattr(args, key) == value
        assert not isinstance(value, float) or math.isfinite(value)


def test_an_own_flag_that_exists_already_is_an_error():
    @dataclass(frozen=True)
    class Clashing:
        lr: float = option(1.0, "again")

    with pytest.raises(UserError, match=r"flag --lr of .*Clashing already exists"):
        config_parts(type("Clash", (Task,), {"Config": Clashing}))

    @dataclass(frozen=True)
    class Control:
        resume: bool = option(False, "again")

    with pytest.raises(UserError, match=r"--resume .*\(control\)"):
        config_parts(type("Clash", (Task,), {"Config": Control}))


def test_suggestions_are_near_or_absent():
    assert suggest("neddle", TASKS) == "; did you mean 'needle'?"
    assert suggest("xqzzy", TASKS) == ""
