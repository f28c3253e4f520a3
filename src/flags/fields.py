"""A flag is a dataclass field: one definition gives the parser, `--help`, the checks and the JSON of a run.

    lr: float = option(3e-4, "peak learning rate", above=0.0, most=100.0)

groups.py has the shared flags, run_flags.py makes the flags of a run from them, parser.py reads a command line.
Nothing here imports torch, so that `--help` and `list` answer at once.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import sys
import typing

from src.flags import kinds
from src.flags.kinds import UserError, suggest

__all__ = [
    "UserError",
    "check_value",
    "copy_of",
    "default_of",
    "field_types",
    "option",
    "own_config",
    "parse_value",
    "suggest",
]


def option(
    default,
    help,
    *,
    least=None,
    most=None,
    above=None,
    below=None,
    choices=None,
    shorthand=None,
    paths=False,
    bare=None,
):
    """A dataclass field that is a flag.

    least, above, most, below: bounds (>=, >, <=, <) of a number.  choices: the allowed strings.
    shorthand: {flag: value}, further flags that set this one (`--rope` for `--pos rope`).
    paths: the flag may name several paths; the field holds the first.
    bare: the choice that the flag means without a value.
    A field of type tuple[...] is a list flag, which takes commas or spaces.
    """
    metadata = {
        "help": help,
        "least": least,
        "most": most,
        "above": above,
        "below": below,
        "choices": choices,
        "shorthand": shorthand or {},
        "paths": paths,
        "bare": bare,
    }
    return dataclasses.field(default=default, metadata=metadata)


@functools.lru_cache(maxsize=256)
def field_types(config_class) -> dict[str, type]:
    """{field: its type}. UserError for a type that a flag cannot have, and for one that cannot be read."""
    return {f.name: _field_type(config_class, f) for f in dataclasses.fields(config_class)}


def _field_type(config_class, field: dataclasses.Field):
    name = f"field '{field.name}' of {config_class.__qualname__}"
    kind = field.type
    if isinstance(kind, str):
        try:
            kind = eval(kind, _names_for(config_class, field.name))
        except Exception as error:
            raise UserError(
                f"{name}: its type '{kind}' cannot be read ({type(error).__name__}: {error}), allowed: "
                f"{kinds.ALLOWED}; import the type where the program sees it, not under TYPE_CHECKING"
            ) from None
    if typing.get_origin(kind) is typing.Annotated:
        kind = typing.get_args(kind)[0]
    if not kinds.is_supported(kind):
        shown = kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)
        raise UserError(f"{name}: got the type {shown.removeprefix('typing.')}, allowed: {kinds.ALLOWED}")
    return kind


def _names_for(config_class, field: str) -> dict:
    """The names that a type may use: those of the module that wrote the field, and those of `typing`."""
    owner = next((c for c in config_class.__mro__ if field in vars(c).get("__annotations__", {})), config_class)
    module = sys.modules.get(owner.__module__)
    return {**vars(typing), **vars(enum), **(vars(module) if module else {})}


def default_of(field: dataclasses.Field):
    """The default of a flag; dataclasses.MISSING where it has none."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def copy_of(field: dataclasses.Field) -> dataclasses.Field:
    """The same field for another dataclass."""
    return dataclasses.field(
        **{
            name: getattr(field, name)
            for name in ("default", "default_factory")
            if getattr(field, name) is not dataclasses.MISSING
        },
        metadata=field.metadata,
        kw_only=True,
    )


def parse_value(field: dataclasses.Field, kind, text):
    """The value of a flag's text (or list of texts). UserError for a wrong type, or a value that is out of bounds."""
    value = kinds.convert("--" + field.name, kind, text)
    check_value(field, value)
    return value


def check_value(field: dataclasses.Field, value, name: str = "") -> None:
    """Raise UserError when `value` is outside the bounds or the choices of its field. Lists and None have none.

    No number may be infinite or NaN, also in a list.

    name: what the message calls the value; the field's flag if it is empty.
    """
    rules, flag = field.metadata, name or "--" + field.name
    if isinstance(value, (list, tuple)):
        for item in value:
            _check_finite(flag, item)
    if value is None or isinstance(value, (list, tuple)):
        return
    _check_finite(flag, value)
    if rules.get("choices") and value not in rules["choices"]:
        raise UserError(
            f"{flag}: got '{value}', allowed: {', '.join(rules['choices'])}{suggest(str(value), rules['choices'])}"
        )
    for name, broken, sign in (
        ("least", lambda b: value < b, ">="),
        ("above", lambda b: value <= b, ">"),
        ("most", lambda b: value > b, "<="),
        ("below", lambda b: value >= b, "<"),
    ):
        bound = rules.get(name)
        if bound is not None and broken(bound):
            raise UserError(f"{flag}: got {value}, allowed: {sign} {bound}")


def _check_finite(flag: str, value) -> None:
    """UserError for an infinite number, for NaN, and for a whole number that torch has no type for."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{flag}: got {value}, allowed: a finite number")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise UserError(f"{flag}: got a whole number of {len(str(abs(value)))} digits, allowed: below 2^63")


def own_config(cls):
    """The `Config` dataclass of a task or model class, or None. UserError for a `Config` with fields that is none."""
    config = getattr(cls, "Config", None)
    if isinstance(config, type) and not dataclasses.is_dataclass(config) and vars(config).get("__annotations__"):
        raise UserError(f"{config.__qualname__}: is not a dataclass, so it has no flags; put @dataclass above it")
    return config if isinstance(config, type) and dataclasses.is_dataclass(config) else None
