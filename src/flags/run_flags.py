"""The flags of a run as one frozen, flat object: `args.d_model`, `args.needle_len`.

args = resolve(Needle, Attention, preset=layer, lr=1e-3)        # RunFlags: defaults < preset < what was typed
args = resolved(args, pos="learned")                            # RunArgs: nothing is left to decide
"""

from __future__ import annotations

import dataclasses
import functools

from src.flags import kinds
from src.flags.fields import UserError, check_value, default_of, field_types, own_config, suggest
from src.flags.groups import SHARED, ControlConfig, DataConfig


class RunFlags:
    """The flags of a run, frozen and flat: `flags.d_model`, `flags.needle_len`. Some may be `auto` (see `RunArgs`).

    `resolve` makes the class from the shared groups and the fields of the task's and the model's `Config`.
    """


class RunArgs(RunFlags):
    """The flags of a run in which `auto` is decided.

    The machine decides device, precision and threads. The model decides --pos, --init, --norm, --mlp, --dim_ffn,
    --short_conv and --bias. A hybrid keeps `auto` where each of its layers decides for itself.
    """


def resolved(flags: RunFlags, **values) -> RunArgs:
    """The same flags with these values in place, as the type that needs no further decision."""
    current = {f.name: getattr(flags, f.name) for f in dataclasses.fields(flags)}
    specs = tuple((f.name, f.type) for f in dataclasses.fields(flags))
    return _flags_class(RunArgs, specs)(**{**current, **values})


@functools.lru_cache(maxsize=256)
def _flags_class(base: type, specs: tuple[tuple, ...]) -> type:
    """A frozen subclass of `base`, made once. specs: (name, type) of each field."""
    return dataclasses.make_dataclass(base.__name__, specs, frozen=True, bases=(base,))


# The layer below each task's own `small`: what the two cores of a laptop train in a minute or two. The dataclass
# defaults are `base`.
SMALL = {
    "context_len": 64,
    "train_size": 0,
    "d_model": 64,
    "n_layer": 2,
    "n_head": 4,
    "dropout": 0.0,
    "lr": 3e-3,
    "min_lr": 3e-5,
    "warmup_steps": 50,
    "max_steps": 1500,
    "batch_chars": 4096,
    "embed_std": 0.3,
}


def small_layer(task_class) -> dict:
    """The flag values of --preset small for a task."""
    return {**SMALL, **getattr(task_class, "small", {})}


def config_parts(task_class=None, model_class=None) -> list:
    """The dataclasses whose fields make up a run configuration; UserError when two of them define one flag."""
    parts = [*SHARED, *(c for c in map(own_config, (task_class, model_class)) if c is not None)]
    seen: dict[str, str] = {f.name: "control" for f in dataclasses.fields(ControlConfig)}
    for part in parts:
        for f in dataclasses.fields(part):
            if f.name in seen:
                raise UserError(
                    f"flag --{f.name} of {part.__qualname__} already exists ({seen[f.name]}); rename the field"
                )
            seen[f.name] = part.__qualname__
    return parts


def resolve(task_class, model_class=None, *, preset: dict | None = None, **given) -> RunFlags:
    """The frozen run configuration: defaults, then `preset`, then `given`; every value checked.

    `preset` None means the small layer of this task (SMALL, then `task_class.small`); {} means plain defaults.
    Used by the commands, and by tests and scripts: `args = resolve(Needle, needle_len=2)`.
    """
    if preset is None:
        preset = small_layer(task_class)
    parts = config_parts(task_class, model_class)
    known = {f.name for part in parts for f in dataclasses.fields(part)}
    for name in (*preset, *given):
        if name not in known:
            raise UserError(f"--{name}: no such flag for this task and model{suggest(name, known)}")
    values = {}
    specs = []
    for part in parts:
        types = field_types(part)
        for f in dataclasses.fields(part):
            value = given.get(f.name, preset.get(f.name, default_of(f)))
            if value is dataclasses.MISSING:
                raise UserError(f"--{f.name}: missing, {part.__qualname__} has no default for it; give it a value")
            if value is None and default_of(f) is not None and not kinds.without_none(types[f.name])[1]:
                raise UserError(f"--{f.name}: got null, allowed: {kinds.metavar(types[f.name])}")
            values[f.name] = kinds.from_json("--" + f.name, types[f.name], value)
            check_value(f, values[f.name])
            specs.append((f.name, types[f.name]))
    if "batch_size" in given and "batch_chars" not in given:  # the size that the user typed wins over the preset's
        values["batch_chars"] = 0
    if "epochs" in given and "max_steps" not in given:  # passes over a finite training set win over a preset's steps
        values["max_steps"] = 0
        if "train_size" not in given:
            values["train_size"] = DataConfig.train_size
    return _flags_class(RunFlags, tuple(specs))(**values)


def drop_rate(args: RunFlags, place: str) -> float:
    """The dropout of a place that has a flag of its own, "embed" or "attn": --dropout where that flag is -1."""
    rate = getattr(args, f"{place}_dropout")
    return args.dropout if rate < 0 else rate


def to_dict(args: RunFlags) -> dict:
    """JSON-able values of a run configuration, in the order of the flags."""
    return {f.name: kinds.to_json(getattr(args, f.name)) for f in dataclasses.fields(args)}
