"""Flags as dataclasses: one definition gives the parser, `--help`, the checks and the JSON of a run.

A flag is a dataclass field that `option(default, help, ...)` makes. The shared flags are here, in the groups that
`--help` shows. A task's or a model's own flags are the fields of the `Config` in its file. `resolve` combines three
layers

    dataclass default  <  preset  <  what the user typed

to one frozen, flat object, `RunFlags` (`args.d_model`, `args.needle_len`, ...). Nothing here imports torch, so that
`--help` and `list` answer at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import typing
from dataclasses import dataclass


class UserError(ValueError):
    """The user's input is wrong (exit code 2). The message is one line: what, what was got, what is allowed."""


def option(default, help, *, least=None, most=None, above=None, choices=None, shorthand=None, paths=False):
    """A dataclass field that is a flag.

    least, above, most: bounds (>=, >, <=) of a number.  choices: the allowed strings.
    shorthand: {flag: value}, further flags that set this one (`--rope` for `--pos rope`).
    paths: the flag may name several paths; the field holds the first.
    A field of type tuple[...] is a list flag, which takes commas or spaces.
    """
    metadata = {
        "help": help,
        "least": least,
        "most": most,
        "above": above,
        "choices": choices,
        "shorthand": shorthand or {},
        "paths": paths,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class DataConfig:
    """data"""

    task: str = option("", "a name from `list`, or a path to your own .py with one Task subclass")
    context_len: int = option(512, "characters of the longest prompt body a task draws", least=1)
    train_size: int = option(
        20_000,
        "training examples; 0 = fresh ones that never repeat (language: windows per epoch, 0 = all)",
        least=0,
    )
    val_size: int = option(1_000, "validation examples (language: windows, 0 = all)", least=0)
    test_size: int = option(2_000, "test examples (language: windows, 0 = all)", least=0)
    train_lengths: str = option(
        "uniform",
        "uniform: each training batch has one length, drawn between the task's minimum and maximum; fixed: the maximum",
        choices=("uniform", "fixed"),
    )
    eval_lengths: tuple[str, ...] = option(
        (), "further test lengths: multiples of the training maximum or numbers, such as 2x,4x,256"
    )
    loss_on: str = option(
        "answer", "answer: train what is scored; all: train every written character", choices=("answer", "all")
    )
    data_path: str = option("", "file or folder with the text of a language task")


@dataclass(frozen=True)
class ModelConfig:
    """model"""

    model: str = option("", "a name from `list`, or a path to your own .py with one Mixer or ARModel subclass")
    d_model: int = option(384, "width of the residual stream", least=1)
    n_layer: int = option(6, "number of blocks", least=1)
    n_head: int = option(6, "heads of a mixer that has them", least=1)
    dropout: float = option(0.1, "dropout probability", least=0.0, most=0.95)
    dim_ffn: int = option(
        -1,
        "hidden width of the block's MLP; 0 = no MLP, -1 = as the layer was published (4 x d_model or none)",
        least=-1,
    )
    norm: str = option(
        "auto", "norm of the backbone; auto = as the layer was published", choices=("auto", "layer", "rms")
    )
    short_conv: int = option(
        -1,
        "width of a causal convolution on q, k, v, or on the layer's input; 0 = off, -1 = as published",
        least=-1,
        most=64,
    )
    fair: bool = option(
        False,
        "the same norm (rms), MLP (4 x d_model) and short convolution (4) for every layer, not the published ones",
    )
    match_params: str = option(
        "", "solve d_model and dim_ffn for this many parameters (250000, 250k, 1M), or for those of a model named here"
    )
    match_state: int = option(
        0,
        "solve d_model for this many bytes of decoding state at the task's longest sequence, batch 1; 0 = off",
        least=0,
    )
    pos: str = option(
        "auto",
        "position encoding; auto = learned for transformer, none for recurrent layers",
        choices=("auto", "learned", "sinusoidal", "none", "rope", "alibi"),
        shorthand={"--rope": "rope"},
    )
    embed_std: float = option(1.0, "standard deviation of the initial embeddings", above=0.0, most=100.0)
    tie_weights: bool = option(False, "share the embedding's weights with the output head")
    bias: bool = option(True, "biases in the linear maps and norms of the backbone and of attention")


@dataclass(frozen=True)
class TrainConfig:
    """optimisation"""

    lr: float = option(3e-4, "peak learning rate", above=0.0, most=100.0)
    min_lr: float = option(0.0, "learning rate at the end of the cosine", least=0.0, most=100.0)
    warmup_steps: int = option(200, "steps of linear warm-up", least=0)
    epochs: int = option(5, "passes over the training set", least=1)
    max_steps: int = option(0, "optimiser steps; when given, replaces --epochs, in both directions", least=0)
    batch_size: int = option(32, "examples per optimiser step, over all processes", least=1)
    batch_chars: int = option(0, "characters per optimiser step; when given, replaces --batch_size", least=0)
    micro_batch_size: int = option(
        0, "examples per forward pass, with gradients accumulated; 0 = the whole batch", least=0
    )
    grad_clip: float = option(1.0, "largest gradient norm; 0 = no clipping", least=0.0)
    weight_decay: float = option(
        0.01, "AdamW's weight decay (norms, biases and marked parameters get none)", least=0.0, most=10.0
    )
    label_smoothing: float = option(
        0.0, "label smoothing of the training loss; reported losses are never smoothed", least=0.0, most=0.9
    )


@dataclass(frozen=True)
class MachineConfig:
    """run"""

    precision: str = option(
        "auto", "auto = bf16 where the device is fast at it, else fp32", choices=("auto", "fp32", "fp16", "bf16")
    )
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    threads: int = option(0, "CPU threads; 0 = torch's choice", least=0, most=1024)
    compile: bool = option(False, "torch.compile the model")
    backend: str = option("auto", "kernels: auto, NAME for all ops that have it, or op=NAME,...")
    seed: int = option(1337, "seed of initialisation, data and order", least=0, most=2**31 - 1)
    allow_noncausal: bool = option(
        False, "train a layer that the causality check caught seeing the future; every figure then says so"
    )
    eval_every: int = option(0, "steps between validations; 0 = a tenth of the run", least=0)


def machine_flags(*names: str, **changed) -> type:
    """A dataclass made of some fields of MachineConfig, for a command that does not have all of them.

        Machine = machine_flags("device", "threads", seed="seed of the inputs")
        Machine = machine_flags("threads", seed=option(0, "seed of weights and tokens", least=0, most=2**31 - 1))

    names: fields that stay as they are.
    changed: further fields. A text replaces the help. An `option` replaces the whole flag.
    The fields keep the order of MachineConfig. Raises ValueError for a name that MachineConfig does not have.
    """
    known, types = {f.name: f for f in dataclasses.fields(MachineConfig)}, field_types(MachineConfig)
    wanted = {**dict.fromkeys(names), **changed}
    for name in wanted:
        if name not in known:
            raise ValueError(f"machine_flags: got '{name}', allowed: {', '.join(known)}")

    def flag(field: dataclasses.Field, change) -> dataclasses.Field:
        if isinstance(change, dataclasses.Field):
            return change
        metadata = {**field.metadata, "help": change or field.metadata["help"]}
        return dataclasses.field(default=field.default, metadata=metadata)

    specs = [(name, types[name], flag(field, wanted[name])) for name, field in known.items() if name in wanted]
    namespace = {"__module__": __name__, "__doc__": MachineConfig.__doc__}
    return dataclasses.make_dataclass("MachineFlags", specs, frozen=True, namespace=namespace)


@dataclass(frozen=True)
class ControlConfig:
    """control"""

    preset: str = option("auto", "small (default on a CPU), base (default on CUDA), or a name from `list --presets`")
    out_dir: str = option("", "run directory; default runs/<timestamp>", paths=True)
    overwrite: bool = option(False, "replace an existing run in --out_dir")
    eval_only: bool = option(False, "evaluate the checkpoints of --out_dir, print JSON")
    vis_only: bool = option(False, "redraw the figures of --out_dir; several directories are overlaid into --figures")
    resume: bool = option(False, "continue the run in --out_dir")
    figures: str = option("", "folder for the overlay of several --out_dir (with --vis_only)")
    quiet: bool = option(False, "no progress, only the run directory")
    log: str = option("none", "also log to tensorboard", choices=("none", "tensorboard"))


@dataclass(frozen=True)
class MeasureControl:
    """control"""  # of the commands that measure: speed, profile, kernels, study

    out_dir: str = option("", "run directory; default runs/<timestamp>; one with the same flags is continued")
    overwrite: bool = option(False, "replace the results in --out_dir")
    vis_only: bool = option(False, "redraw the figures of --out_dir and print its tables, without torch")
    quiet: bool = option(False, "no progress and no tables, only the run directory")


class RunFlags:
    """The flags of a run, frozen and flat: `flags.d_model`, `flags.needle_len`. Some may be `auto` (see `RunArgs`).

    `resolve` makes the class from the shared groups and the fields of the task's and the model's `Config`.
    """


class RunArgs(RunFlags):
    """The flags of a run in which `auto` is decided.

    The machine decides device, precision and threads. The model decides --pos, --norm, --dim_ffn and --short_conv. A
    hybrid keeps `auto` where each of its layers decides for itself.
    """


def resolved(flags: RunFlags, **values) -> RunArgs:
    """The same flags with these values in place, as the type that needs no further decision."""
    current = {f.name: getattr(flags, f.name) for f in dataclasses.fields(flags)}
    specs = tuple((f.name, f.type, f.default) for f in dataclasses.fields(flags))
    return _flags_class(RunArgs, specs)(**{**current, **values})


@functools.lru_cache(maxsize=256)
def _flags_class(base: type, specs: tuple[tuple, ...]) -> type:
    """A frozen subclass of `base`, made once. specs: (name, type, default) of each field."""
    fields = [(name, kind, dataclasses.field(default=default)) for name, kind, default in specs]
    return dataclasses.make_dataclass(base.__name__, fields, frozen=True, bases=(base,))


SHARED = (DataConfig, ModelConfig, TrainConfig, MachineConfig)

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


def suggest(name: str, allowed: typing.Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest allowed name; an empty string where none is near."""
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


@functools.lru_cache(maxsize=256)
def field_types(config_class) -> dict[str, type]:
    return typing.get_type_hints(config_class)


def parse_value(field: dataclasses.Field, kind, text):
    """The value of a flag's text (or list of texts). UserError for a wrong type, or a value that is out of bounds."""
    flag = "--" + field.name
    if typing.get_origin(kind) is tuple:
        words = [text] if isinstance(text, str) else text
        item = typing.get_args(kind)[0]
        return tuple(_convert(flag, item, part) for word in words for part in word.replace(",", " ").split())
    value = _convert(flag, kind, text)
    check_value(field, value)
    return value


def _convert(flag, kind, text):
    if kind is bool:
        words = {"true": True, "1": True, "false": False, "0": False}
        if str(text).lower() not in words:
            raise UserError(f"{flag}: got '{text}', allowed: true or false")
        return words[str(text).lower()]
    if kind not in (int, float):
        return str(text)
    try:
        return kind(text)
    except ValueError:
        raise UserError(f"{flag}: got '{text}', allowed: {'a whole number' if kind is int else 'a number'}") from None


def check_value(field: dataclasses.Field, value) -> None:
    """Raise UserError when `value` is outside the bounds or the choices of its field."""
    rules, flag = field.metadata, "--" + field.name
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{flag}: got {value}, allowed: a finite number")
    if rules.get("choices") and value not in rules["choices"]:
        raise UserError(
            f"{flag}: got '{value}', allowed: {', '.join(rules['choices'])}{suggest(str(value), rules['choices'])}"
        )
    for name, broken, sign in (
        ("least", lambda b: value < b, ">="),
        ("above", lambda b: value <= b, ">"),
        ("most", lambda b: value > b, "<="),
    ):
        bound = rules.get(name)
        if bound is not None and broken(bound):
            raise UserError(f"{flag}: got {value}, allowed: {sign} {bound}")


def own_config(cls):
    """The `Config` dataclass of a task or model class, or None."""
    config = getattr(cls, "Config", None)
    return config if config is not None and dataclasses.is_dataclass(config) else None


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
            value = given.get(f.name, preset.get(f.name, f.default))
            value = tuple(value) if isinstance(value, list) else float(value) if types[f.name] is float else value
            if typing.get_origin(types[f.name]) is not tuple:
                check_value(f, value)
            values[f.name] = value
            specs.append((f.name, types[f.name], f.default))
    if "batch_size" in given and "batch_chars" not in given:  # the size that the user typed wins over the preset's
        values["batch_chars"] = 0
    if "epochs" in given and "max_steps" not in given:  # passes over a finite training set win over a preset's steps
        values["max_steps"] = 0
        if "train_size" not in given:
            values["train_size"] = DataConfig.train_size
    return _flags_class(RunFlags, tuple(specs))(**values)


def to_dict(args: RunFlags) -> dict:
    """JSON-able values of a run configuration, in the order of the flags."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(args).items()}
