"""The settings of a translation model: a YAML file, read into dataclasses. Anything wrong is one line.

    config = load_config("src/numpy_transformer/configs/tiny_enfr.yaml")
    config.model.d_model

The file has `name` and the sections `data`, `model` and `train`. A key that is not a field below is an error, and so is
a key that comes twice. A path is relative to the folder of the YAML file. The YAML may hold plain values only.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from src.flags.fields import UserError, check_value, default_of, field_types, option, suggest

MOST_BYTES = 1 << 16  # of a YAML file
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text in one line"}


@dataclass(frozen=True)
class DataConfig:
    """Where the sentence pairs are, and how much of them is used."""

    path: str = option(dataclasses.MISSING, "a .csv, .tsv or .parquet file with one pair per row")
    source: str = option(dataclasses.MISSING, "the column of the sentences to translate")
    target: str = option(dataclasses.MISSING, "the column of their translations")
    split: str = option("", "the column that says train or heldout; empty: all rows are for training")
    limit: int = option(0, "use the first so many training pairs; 0 = all", least=0)
    max_len: int = option(32, "longest sentence of a side, in tokens, with its <eos>", least=2, most=1024)
    max_words: int = option(20_000, "largest vocabulary of a side; rarer words are <unk>", least=5, most=1_000_000)


@dataclass(frozen=True)
class ModelConfig:
    """The sizes of the model."""

    d_model: int = option(64, "width", least=1, most=4096)
    n_head: int = option(2, "heads; they divide d_model", least=1, most=256)
    n_layer: int = option(2, "layers of the encoder, and as many of the decoder", least=1, most=64)
    d_ff: int = option(256, "hidden width of the feed-forward layer", least=1, most=16_384)
    pre_norm: bool = option(True, "true: norms before the sublayers; false: after the sums, as in the paper of 2017")
    dtype: str = option("float32", "float64 is for checks", choices=("float32", "float64"))


@dataclass(frozen=True)
class TrainConfig:
    """The optimisation."""

    optimiser: str = option("adam", "how gradients change parameters", choices=("adam", "sgd"))
    lr: float = option(3e-3, "peak learning rate", above=0.0, most=100.0)
    warmup_steps: int = option(50, "steps of linear warm-up; then the rate falls in a straight line", least=0)
    epochs: int = option(100, "passes over the training pairs", least=1, most=1_000_000)
    batch_size: int = option(25, "pairs per step", least=1, most=65_536)
    grad_clip: float = option(1.0, "largest gradient norm; 0 = no clipping", least=0.0, most=1e6)
    eval_every: int = option(10, "epochs between two measurements of the held-out loss", least=1)
    seed: int = option(1337, "seed of the initial parameters and of the order", least=0, most=2**31 - 1)


@dataclass(frozen=True)
class Config:
    """All settings. folder: that of the YAML file, where relative paths begin."""

    name: str
    data: DataConfig
    model: ModelConfig
    train: TrainConfig
    folder: Path

    def settings(self) -> dict[str, dict]:
        """{section: {key: value}}, as JSON can hold it."""
        return {part: dataclasses.asdict(getattr(self, part)) for part in SECTIONS}

    def pairs_path(self) -> Path:
        """The file of sentence pairs."""
        return self.folder / self.data.path


SECTIONS = {"data": DataConfig, "model": ModelConfig, "train": TrainConfig}


def load_config(path: str) -> Config:
    """The settings in a YAML file. UserError of one line for a file that cannot be read or holds something else."""
    document = _read_yaml(Path(path), f"--config: '{path}'")
    where = f"--config: '{path}'"
    _refuse_unknown(where, document, ("name", *SECTIONS), "key")
    name = document.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UserError(
            f"{where}: name: got {_shown(name)}, allowed: letters, digits and . _ - (the run is in runs/<name>)"
        )
    parts = {part: _section(where, part, cls, document.get(part, {})) for part, cls in SECTIONS.items()}
    model = parts["model"]
    if model.d_model % model.n_head:
        raise UserError(
            f"{where}: model.n_head: got {model.n_head}, allowed: a divisor of model.d_model={model.d_model}; "
            f"try {math.gcd(model.n_head, model.d_model)}"
        )
    return Config(name=name, folder=Path(path).parent, **parts)


def _section(where: str, part: str, config_class, values):
    """One section as its dataclass; UserError for an unknown or missing key, a wrong type, or a value out of bounds."""
    if not isinstance(values, dict):
        raise UserError(f"{where}: {part}: got {_shown(values)}, allowed: keys and values")
    _refuse_unknown(where, values, [f.name for f in dataclasses.fields(config_class)], f"key of {part}")
    types, found = field_types(config_class), {}
    for field in dataclasses.fields(config_class):
        name = f"{where}: {part}.{field.name}"
        if field.name in values:
            found[field.name] = _typed(name, types[field.name], values[field.name])
            check_value(field, found[field.name], name)
        elif default_of(field) is dataclasses.MISSING:
            raise UserError(f"{name}: is missing, allowed: {field.metadata['help']}")
    return config_class(**found)


def _typed(name: str, kind: type, value):
    """The value of a key as its type has it. YAML reads 1e-3, which has no dot, as text: it is a number here."""
    if kind is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    elif type(value) is kind and (kind is not str or value.isprintable()):
        return value
    raise UserError(f"{name}: got {_shown(value)}, allowed: {KINDS[kind]}")


def _refuse_unknown(where: str, values: dict, allowed, what: str) -> None:
    """UserError for the first key that is not allowed, with the nearest one that is."""
    for key in values:
        if key not in allowed:
            near = suggest(str(key), allowed)
            raise UserError(f"{where}: unknown {what} {_shown(key)}, allowed: {', '.join(allowed)}{near}")


def _shown(value) -> str:
    """A value for a message, in one short line."""
    return f"{value!r:.60}" if value is not None else "nothing"


class _Loader(yaml.SafeLoader):
    """PyYAML's loader of plain values, which refuses a key that comes twice. It can build no Python object."""

    def construct_mapping(self, node, deep=False):
        """{key: value} of a YAML mapping; a YAMLError for a key that comes twice."""
        keys = [child.value for child, _ in node.value]
        for i, (child, _) in enumerate(node.value):
            if child.value in keys[:i]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {child.value!r:.60} comes twice", child.start_mark
                )
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path, where: str) -> dict:
    """The mapping in a YAML file; UserError of one line where it cannot be read, is no YAML, or is something else."""
    try:
        if path.is_file() and path.stat().st_size > MOST_BYTES:
            raise UserError(f"{where}: has {path.stat().st_size} bytes, allowed: a YAML file of at most {MOST_BYTES}")
        document = yaml.load(path.read_bytes().decode("utf-8"), _Loader)
    except OSError as error:
        kinds = {FileNotFoundError: "no such file", IsADirectoryError: "which is a folder"}
        what = kinds.get(type(error), f"which cannot be read: {error.strerror}")
        raise UserError(
            f"{where}: {what}, allowed: a YAML file such as those in src/numpy_transformer/configs"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: byte {error.start} is no UTF-8, allowed: a YAML file in UTF-8") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: is no YAML of plain values ({_reason(error)})") from None
    if not isinstance(document, dict):
        what = "is empty" if document is None else f"holds a {type(document).__name__}"
        raise UserError(f"{where}: {what}, allowed: the keys name, {', '.join(SECTIONS)}")
    return document


def _reason(error: Exception) -> str:
    """What is wrong with a YAML text, and in which line, in one line."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).partition("\n")[0] or type(error).__name__
    return f"line {mark.line + 1}: {problem}" if mark else problem
