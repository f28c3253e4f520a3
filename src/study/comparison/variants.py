"""Known variants of published layers that change the answer on some tasks: one line of VARIANTS each.

A comparison in which they are left out may say more about a default than about a layer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from src.flags.fields import own_config
from src.flags.groups import ModelConfig
from src.study.comparison.sides import Side


@dataclass(frozen=True)
class Variant:
    """A flag that changes the answer.

    flags: what the variant's side has more.  topic: what it is about.  why: the finding, in words.
    own: the flag belongs to the layer itself; otherwise `models` names the layers to which it matters.
    """

    topic: str
    tasks: tuple[str, ...]
    flags: tuple[str, ...]
    why: str
    models: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """The name of its flag."""
        return self.flags[0].removeprefix("--")


VARIANTS = (
    Variant(
        "state tracking",
        ("parity", "mod_arith", "word_problem"),
        ("--neg_eigen",),
        "without negative eigenvalues they cannot follow a parity (Grazzi et al. 2024)",
    ),
    Variant(
        "recall",
        ("recall", "induction"),
        ("--short_conv", "4"),
        "a short convolution lets them compare neighbours (Arora et al. 2023)",
        ("linear_attention", "gla", "retnet"),
    ),
    Variant(
        "copying beyond the training length",
        ("copy", "reverse", "selective_copy"),
        ("--pos", "alibi"),
        "it has positions at every length (Press et al. 2021; Jelassi et al. 2024)",
        ("transformer",),
    ),
)


def missing(tasks: Sequence[str], models: Sequence[Side], classes: dict[str, type]) -> list[tuple[Variant, list[Side]]]:
    """The variants that matter for these tasks and that no side has yet, with the sides that they would add.

    tasks: names of tasks.  classes: {label of a model: its class}.
    """
    found = []
    for variant in VARIANTS:
        bases = [
            side
            for side in models
            if not side.flags and not side.is_file and _has(variant, side.name, classes[side.label])
        ]
        new = [Side(side.kind, side.name, variant.flags) for side in bases]
        new = [side for side in new if side.label not in {m.label for m in models}]
        if new and set(tasks) & set(variant.tasks):
            found.append((variant, new))
    return found


def _has(variant: Variant, name: str, model_class: type) -> bool:
    if variant.models:
        return name in variant.models
    own = own_config(model_class)
    shared = {f.name for f in dataclasses.fields(ModelConfig)}
    return own is not None and variant.flag in {f.name for f in dataclasses.fields(own)} - shared


def question(variant: Variant, sides: Sequence[Side]) -> str:
    """'state tracking: deltanet and mamba have --neg_eigen (...); add them with --variants'."""
    names = [side.name for side in sides]
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    have = "has" if len(names) == 1 else "have"
    return f"{variant.topic}: {listed} {have} {' '.join(variant.flags)}: {variant.why}; --variants adds it"


def with_variants(tasks: Sequence[str], models: Sequence[Side], classes: dict[str, type]) -> tuple[Side, ...]:
    """The models, each followed by its variants."""
    added: dict[str, list[Side]] = {}
    for _, sides in missing(tasks, models, classes):
        for side in sides:
            added.setdefault(side.name, []).append(side)
    return tuple(found for side in models for found in (side, *(added.get(side.name, ()) if not side.flags else ())))
