"""Known variants of published layers that change the answer on some tasks: one line of VARIANTS each.

A comparison in which they are left out may say more about a default than about a layer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from src.flags.fields import own_config
from src.flags.groups import ModelConfig
from src.setup.sides import Side


@dataclass(frozen=True)
class Variant:
    """A flag that changes the answer.

    flags: what the variant's side has more.  topic: what it is about.  why: the finding, in words.
    models: the layers to which it matters; empty where it matters to each layer that has the flag itself.
    beyond: it matters only where lengths beyond training are tested.
    """

    topic: str
    tasks: tuple[str, ...]
    flags: tuple[str, ...]
    why: str
    models: tuple[str, ...] = ()
    beyond: bool = False

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
        beyond=True,
    ),
)


def missing(
    tasks: Mapping[str, bool], models: Sequence[Side], classes: Mapping[str, type]
) -> list[tuple[Variant, list[Side]]]:
    """The variants that matter for these tasks and that no side has yet, with the sides that they would add.

    tasks: {name of a task: whether it is tested at lengths beyond training}.  classes: {label of a model: its class}.
    """
    labels = {side.label for side in models}
    found = []
    for variant in VARIANTS:
        if not any(name in variant.tasks and (beyond or not variant.beyond) for name, beyond in tasks.items()):
            continue
        bases = [s for s in models if not s.flags and not s.is_file and _has(variant, s.name, classes[s.label])]
        new = [Side(side.kind, side.name, variant.flags) for side in bases]
        new = [side for side in new if side.label not in labels]
        if new:
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


def with_variants(tasks: Mapping[str, bool], models: Sequence[Side], classes: Mapping[str, type]) -> tuple[Side, ...]:
    """The models, each followed by its variants."""
    added = [side for _, sides in missing(tasks, models, classes) for side in sides]
    return tuple(
        found
        for side in models
        for found in (side, *(new for new in added if new.name == side.name and not side.flags))
    )
