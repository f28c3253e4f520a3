"""The models that `speed` compares: each a name or a file, with flags of its own where it is in quotes.

    entries = read_entries(["deltanet --neg_eigen", "gru,mamba"])     # {label: Entry}; UserError where one is wrong
    entries["deltanet --neg_eigen"].given                             # {"neg_eigen": True}

A text with a flag in it is one model. Any other text is a list of names, with commas or spaces. Flags in quotes win
over the same flags outside, which hold for all models.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from src.flags.fields import UserError, field_types, own_config
from src.flags.groups import MachineConfig, MeasureControl, ModelConfig
from src.flags.parser import Parser, add_flags, first_look, read_flags
from src.measure.speed.plan import SpeedConfig
from src.measure.speed.subjects import OWN_POSITIONS
from src.setup.sides import Side, read_sides


@dataclass(frozen=True)
class Entry:
    """One model that is measured.

    label: its name in rows, tables and figures.  text: as it was typed.  model: its name, or the path of its file.
    given: the typed values of its own flags.
    """

    label: str
    text: str
    model: str
    model_class: type
    given: dict = field(default_factory=dict)

    @contextlib.contextmanager
    def blamed(self) -> Iterator[None]:
        """Name this model in a UserError, if it has flags of its own."""
        try:
            yield
        except UserError as error:
            if not self.given:
                raise
            raise UserError(f"--model: '{self.label}': {error}") from error


def model_flags() -> type:
    """ModelConfig without the flags that `speed` does not have, or has with another meaning."""
    types = field_types(ModelConfig)
    kept = [
        (f.name, types[f.name], dataclasses.field(default=f.default, metadata=f.metadata))
        for f in dataclasses.fields(ModelConfig)
        if f.name not in ("model", "match_state")
    ]
    made = dataclasses.make_dataclass("ModelFlags", kept, frozen=True, namespace={"__module__": __name__})
    made.__doc__ = "model (shared by all that are named)"
    return made


def read_entries(texts: Sequence[str], layers: tuple[str, ...] = (), labels: Sequence[str] = ()) -> dict[str, Entry]:
    """{label: Entry} of what --model names, in order.

    layers: --layers, for a hybrid without layers of its own.  labels: --labels; empty: names and flags.
    Raises UserError for an unknown model, for none, for one that is named twice, and for flags that it does not have.
    """
    words = [word for text in texts for word in _split(text)]
    if not words:
        raise UserError("--model: got none, allowed: one or several names from `list`, or paths to your own .py files")
    twice = [w for w in words if words.count(w) > 1]
    if twice:
        raise UserError(f"--model: names '{twice[0]}' twice, allowed: once")
    read_sides("model", [w for w in words if _has_flags(w)])  # two texts, one label
    sides = [read_sides("model", [word])[0] for word in words]
    if layers and not any(side.name == "hybrid" and not _layers(side) for side in sides):
        raise UserError("--layers: only goes with --model hybrid, which is not among the models named")
    found = [_entry(label, *pair, layers) for label, *pair in zip(_labels(sides, labels), words, sides, strict=True)]
    return {entry.label: entry for entry in found}


def _has_flags(text: str) -> bool:
    return not Path(text).is_file() and any(word.startswith("--") for word in text.split())


def _split(text: str) -> list[str]:
    """The models that a text names."""
    return [text] if _has_flags(text) or Path(text).is_file() else text.replace(",", " ").split()


def _labels(sides: Sequence[Side], typed: Sequence[str]) -> list[str]:
    """Those that were typed, else the sides' own; a file whose stem another one has gets a number."""
    if typed:
        if len(typed) != len(sides):
            raise UserError(
                f"--labels: got {len(typed)} for {len(sides)} models, allowed: one for each, with spaces between them; "
                "one that has a space in quotes"
            )
        again = [label for label in typed if typed.count(label) > 1 or not label.strip()]
        if again:
            raise UserError(f"--labels: got '{again[0]}', allowed: texts that differ, none of them empty")
        return list(typed)
    found: list[str] = []
    for side in sides:
        label, n = side.label, 2
        while label in found:
            label, n = f"{side.label}-{n}", n + 1
        found.append(label)
    return found


def _layers(side: Side) -> tuple[str, ...]:
    return first_look(list(side.flags)).layers


def _entry(label: str, word: str, side: Side, layers: tuple[str, ...]) -> Entry:
    from src.setup.classes import find_model

    own_layers = _layers(side) or layers
    name = side.name if side.flags else word
    model_class = find_model(name, own_layers if name == "hybrid" else ())
    if not side.flags:
        return Entry(label, word, word, model_class)
    return Entry(label, " ".join(word.split()), name, model_class, _given(side, model_class))


def _given(side: Side, model_class: type) -> dict:
    """The typed values of a side's own flags. UserError for one that the model does not have."""
    parts = [part for part in (model_flags(), own_config(model_class)) if part is not None]
    reader = Parser(prog="", scope="of this model", add_help=False)
    try:
        for part in parts:
            add_flags(reader, part, "")
        _check_shared(reader.parse_known_args(list(side.flags))[1])
        given = read_flags(reader.parse_strict(list(side.flags)), parts)
        _check_positions(given, side.name, model_class)
    except UserError as error:
        raise UserError(f"--model: '{side.label}': {error}") from error
    return given


def _check_shared(unknown: Sequence[str]) -> None:
    """UserError if one of these words is a flag that cannot differ between the models of a measurement."""
    shared = {f.name for part in (SpeedConfig, MachineConfig, MeasureControl) for f in dataclasses.fields(part)}
    for name in (word.split("=")[0].removeprefix("--") for word in unknown if word.startswith("--")):
        if name in shared:
            raise UserError(f"--{name} holds for all models, allowed: outside the quotes")


def _check_positions(given: Mapping, name: str, model_class: type) -> None:
    """UserError for an encoding that the model applies itself, and this one does not have."""
    pos = given.get("pos")
    if pos in OWN_POSITIONS and pos not in model_class.positions:
        own = ("learned", "sinusoidal", "none", *model_class.positions)
        raise UserError(f"--pos: got '{pos}', which {name} does not have, allowed: {', '.join(own)}")
