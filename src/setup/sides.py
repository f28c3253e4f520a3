"""The sides of a comparison: its tasks, models and settings, each a name with flags of its own.

    read_sides("model", ["transformer,mamba", "deltanet --neg_eigen"])    # three sides
    read_settings(["n_layer=1,2", "dropout=0,0.1"])                       # four settings

A text with a space is one side: a name, and flags of its own. Another text may name several sides, with commas.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from src.flags.fields import UserError
from src.flags.own_files import absolute
from src.flags.registry import is_path


@dataclass(frozen=True)
class Side:
    """One task, preset or model of a comparison.

    name: a registered name, or the whole path of a user's file.  flags: its own words, as they were typed.
    """

    kind: str
    name: str
    flags: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """'mamba', 'deltanet --neg_eigen', 'my_layer': what tables and figures show."""
        return " ".join([Path(self.name).stem if self.is_file else self.name, *self.flags])

    @property
    def is_file(self) -> bool:
        """Whether this is a user's own file."""
        return is_path(self.name)

    @property
    def words(self) -> tuple[str, ...]:
        """Its part of a command line of `train`."""
        return (f"--{self.kind}", self.name, *self.flags)


@dataclass(frozen=True)
class Setting:
    """One choice of the values of --set and --fair.

    flags: {flag: its text}.  label: what tables show; empty where there is only one setting.
    """

    flags: tuple[tuple[str, str], ...] = ()
    label: str = ""

    @property
    def words(self) -> tuple[str, ...]:
        """Its part of a command line of `train`."""
        return tuple(word for name, value in self.flags for word in (f"--{name}", value))


def read_sides(kind: str, texts: Sequence[str]) -> tuple[Side, ...]:
    """The sides that --task, --preset or --model names, in order.

    Raises UserError for a text that cannot be read, and for two sides with one label.
    """
    sides = [side for text in texts for side in _read(kind, text)]
    labels = [side.label for side in sides]
    for i, label in enumerate(labels):
        if label in labels[:i]:
            first, second = sides[labels.index(label)], sides[i]
            advice = "rename one of the files" if first.name != second.name else "name it once"
            raise UserError(f"--{kind}: got '{label}' twice, allowed: sides with labels of their own; {advice}")
    return tuple(sides)


def _read(kind: str, text: str) -> list[Side]:
    if Path(text).is_file() or not any(c.isspace() for c in text.strip()):
        names = [text] if Path(text).is_file() else [name for name in text.strip().split(",") if name]
        if not names:
            raise UserError(f"--{kind}: got '{text}', allowed: a name from `list`, or a path to your own .py file")
        return [Side(kind, _whole(name)) for name in names]
    try:
        name, *flags = shlex.split(text)
    except ValueError as error:
        raise UserError(
            f"--{kind}: got '{text}' ({error}), allowed: a name and its flags, such as 'gru --n_layer 1'"
        ) from error
    if flags and not flags[0].startswith("--"):
        raise UserError(
            f"--{kind}: got '{text}', allowed: a name, and then flags that begin with --; several names need commas, "
            "or quotes of their own"
        )
    return [Side(kind, _whole(name), tuple(flags))]


def _whole(name: str) -> str:
    """A path made absolute: a run may be continued from any folder."""
    return str(absolute(name)) if is_path(name) else name


def read_settings(texts: Sequence[str], fair: str = "no") -> tuple[Setting, ...]:
    """Every combination of the values of --set, each as published or under --fair, or both ("no", "yes", "both")."""
    axes: dict[str, list[str]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.removeprefix("--")
        found = [value for value in values.split(",") if value]
        if not equals or not name or not found:
            raise UserError(f"--set: got '{text}', allowed: FLAG=VALUE,VALUE such as n_layer=1,2")
        if name in axes:
            raise UserError(f"--set: got {name} twice, allowed: once, with all its values")
        if len(set(found)) < len(found):
            raise UserError(f"--set: got {name}={values}, allowed: values that differ")
        axes[name] = found
    forms = {"no": [()], "yes": [(("fair", "true"),)], "both": [(), (("fair", "true"),)]}[fair]
    choices = [
        (*zip(axes, values, strict=True), *form) for form in forms for values in itertools.product(*axes.values())
    ]
    shown = {name for name, values in axes.items() if len(values) > 1}
    return tuple(Setting(choice, _label(choice, shown, fair)) for choice in choices)


def _label(choice: tuple, shown: set[str], fair: str) -> str:
    words = [f"{name}={value}" for name, value in choice if name in shown]
    if fair == "both":
        words.append("fair" if ("fair", "true") in choice else "published")
    return " ".join(words)
