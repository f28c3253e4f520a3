"""What `speed` measures: a model class with resolved flags, built the same way here and in the process for memory.

    subject, lines = make_subject(name, model, model_class, given, max_len, device)     # may raise UserError
    subject.build(device)                                # the model, from its seed
    Subject.from_spec(subject.spec())                    # the same subject in another process

The vocabulary has VOCABULARY symbols. A layer that was published with a learned position table gets sinusoids, unless
--pos asks for the table. A table of the longest length would be most of a small model's parameters, and of its
optimiser's time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from src.flags.fields import UserError, own_config
from src.flags.groups import MachineConfig, ModelConfig, TrainConfig
from src.flags.registry import is_path
from src.flags.run_flags import RunArgs, resolve, to_dict

if TYPE_CHECKING:
    from src.models.match import Counts

VOCABULARY = 64
DEFAULTS = {"d_model": 128, "n_layer": 2, "n_head": 4, "dropout": 0.0}
OWN_POSITIONS = ("rope", "alibi")  # encodings that a mixer applies itself
# The panels load the training loop when they are called, and --compile loads torch._dynamo at the first step.
PRELOADED = ("src.setup.plan", "src.models.match", "src.utils.training", "torch._dynamo")
MATCH = ("match_params", "match_count", "match_state")
MOST_LAYERS_TRIED = 3  # depths tried before a size counts as out of reach for a layer


class NoTask:
    """In place of a task: random tokens have none."""

    Config = None


@dataclass(frozen=True)
class Subject:
    """One model that is measured.

    name: as in the rows, unique.  model: what --model named.  args: resolved flags.
    max_len: rows of a learned position table.  backends: {op: {"backend", "reason"}} of the ops that the model calls.
    """

    name: str
    model: str
    model_class: type
    args: RunArgs
    max_len: int
    backends: dict
    parameters: int
    longest: int | None = None  # tokens of the longest sequence that the model can take; None: any
    remarks: tuple[str, ...] = ()  # what must be known beside its figures of decoding (src/measure/speed/forms.py)

    def build(self, device):
        """The model, freshly initialised from its seed, in training mode."""
        from src.models.backbone import build
        from src.storage.randomness import seed_all

        seed_all(self.args.seed)
        return build(self.model_class, VOCABULARY, self.args, self.max_len).to(device)

    def settings(self) -> dict:
        """The flags of this model, for its rows; a user's file is named by its stem."""
        own = own_config(self.model_class)
        names = [
            f.name
            for part in (ModelConfig, own)
            if part is not None
            for f in dataclasses.fields(part)
            if f.name not in MATCH
        ]
        values = to_dict(self.args)
        return {
            name: Path(self.model).stem if name == "model" and is_path(self.model) else values[name] for name in names
        }

    def spec(self) -> dict:
        """JSON-able; see `from_spec`."""
        return {
            "name": self.name,
            "model": self.model,
            "args": to_dict(self.args),
            "max_len": self.max_len,
            "backends": self.backends,
            "parameters": self.parameters,
        }

    def imports(self) -> list[str]:
        """Modules that building and running it loads. A user's file is left out, because it may do anything."""
        from src.ops.backends import OPS

        needs = {
            name
            for op, choice in self.backends.items()
            for backend in choice["backend"].split("+")
            for name in OPS[op][backend].needs
        }
        own = set() if is_path(self.model) else {self.model_class.__module__}
        return sorted({*PRELOADED, *needs, *own, *(f"src.ops.{op}" for op in self.backends)})

    @classmethod
    def from_spec(cls, spec: dict) -> Subject:
        from src.setup.classes import find_model

        model_class = find_model(spec["model"], tuple(spec["args"].get("layers", ())))
        args = resolve(NoTask, model_class, preset={}, **spec["args"])
        return cls(
            spec["name"], spec["model"], model_class, args, spec["max_len"], spec["backends"], spec["parameters"]
        )


def make_subject(
    name: str,
    model: str,
    model_class,
    given: dict,
    max_len: int,
    device,
    match: str = "",
    named: Callable[[str], Counts] | None = None,
) -> tuple[Subject, list[str]]:
    """(a subject, lines that say what --match_params solved).

    given: typed flags; those of other models are ignored.
    match, named: --match_params, and the parameters of the model that it names; default: with the same typed flags.
    """
    from src.models.backbone import ops_of, resolve_auto
    from src.models.match import counts, read_target
    from src.models.match import match as solve
    from src.ops.choices import choices
    from src.setup.classes import blaming

    args = arguments(model_class, {**given, "model": model}, device)
    lines: list[str] = []
    with blaming("model", model):
        if match:
            mine = counts(model_class, args, VOCABULARY, max_len)
            named = named or (lambda name: counts_of(name, given, max_len, device))
            target = read_target(match, given.get("match_count", ModelConfig.match_count), mine, named)
            args, lines = solve(
                model_class, args, given, lambda a: counts(model_class, a, VOCABULARY, max_len), None, target, 0
            )
        args = resolve_auto(model_class, args)
        args = dataclasses.replace(args, backend=backends_for(args.backend, ops_of(model_class, args)))
        count = counts(model_class, args, VOCABULARY, max_len).total
    return Subject(
        name, model, model_class, args, max_len, choices(ops_of(model_class, args), args, device), count
    ), lines


def arguments(model_class, given: dict, device):
    """The frozen flags of a model before `resolve_auto`: DEFAULTS, then those of `given` that the model has."""
    known = {
        f.name
        for part in (ModelConfig, TrainConfig, MachineConfig, own_config(model_class))
        if part is not None
        for f in dataclasses.fields(part)
    }
    mine = {k: v for k, v in given.items() if k in known and k not in MATCH}
    if mine.get("pos") in OWN_POSITIONS and mine["pos"] not in model_class.positions:
        del mine["pos"]  # --pos rope applies to the layers that have it, and this one does not
    if mine.get("pos", "auto") == "auto" and model_class.default_pos == "learned" and not mine.get("fair"):
        mine["pos"] = "sinusoidal"
    return resolve(NoTask, model_class, preset=DEFAULTS, **{**mine, "device": str(device)})


def counts_of(model: str, given: dict, max_len: int, device, model_class=None) -> Counts:
    """The parameters of a model with these typed flags. model: its name or path."""
    from src.models.match import counts
    from src.setup.classes import find_model

    model_class = model_class or find_model(model)
    return counts(model_class, arguments(model_class, {**given, "model": model}, device), VOCABULARY, max_len)


def sized_subject(name: str, model: str, model_class, given: dict, max_len: int, device, target: int) -> Subject:
    """A subject of about `target` parameters in all. The width is solved; the depth grows slowly with the size.

    Raises UserError if no depth comes near enough.
    """
    free = {k: v for k, v in given.items() if k not in ("d_model", "dim_ffn")}
    if "n_layer" in given or hasattr(model_class, "layers"):
        depths = [given.get("n_layer")]
    else:
        depths = [depth_for(target) + extra for extra in range(MOST_LAYERS_TRIED)]
    for depth in depths:
        try:
            return make_subject(
                name,
                model,
                model_class,
                {**free, "match_count": "all", **({"n_layer": depth} if depth else {})},
                max_len,
                device,
                str(target),
            )[0]
        except UserError as error:
            last = error
    raise last


def depth_for(parameters: int) -> int:
    """Blocks of a model of this size: 2 for 1M, 3 for 3M, 5 for 10M, 8 for 30M."""
    return max(1, round(2 * (parameters / 1e6) ** 0.4))


def backends_for(text: str, ops: tuple[str, ...]) -> str:
    """The part of --backend that is about these ops, so that one flag serves models with different ops."""
    from src.ops.backends import read_flag

    mine = {op: name for op, name in read_flag(text).items() if op in ops}
    return ",".join(f"{op}={name}" for op, name in mine.items()) or "auto"


def check_backends(text: str, subjects: Iterable[Subject]) -> None:
    """UserError if --backend names only ops that none of the models uses."""
    from src.models.backbone import ops_of
    from src.ops.backends import read_flag

    named = set(read_flag(text))
    used = {op for s in subjects for op in ops_of(s.model_class, s.args)}
    uses = "only " + ", ".join(sorted(used)) if used else "none of the ops with backends"
    if named and not named & used:
        raise UserError(f"--backend: got '{text}', but these models use {uses}; leave it out, or see `list`")


def check_positions(pos: str, classes: dict[str, type]) -> None:
    """UserError if --pos names an encoding that none of the models has. classes: {name of a model: its class}."""
    if pos in OWN_POSITIONS and not any(pos in c.positions for c in classes.values()):
        raise UserError(
            f"--pos: got '{pos}', which none of {', '.join(classes)} has, allowed: learned, sinusoidal, none"
        )
