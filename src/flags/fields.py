"""A flag is a dataclass field: one definition gives the parser, `--help`, the checks and the JSON of a run.

    lr: float = option(3e-4, "peak learning rate", above=0.0, most=100.0)

groups.py has the shared flags, run_flags.py makes the flags of a run from them, parser.py reads a command line.
Nothing here imports torch, so that `--help` and `list` answer at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import typing


class UserError(ValueError):
    """The user's input is wrong (exit code 2). The message is one line: what, what was got, what is allowed."""


def option(default, help, *, least=None, most=None, above=None, below=None, choices=None, shorthand=None, paths=False):
    """A dataclass field that is a flag.

    least, above, most, below: bounds (>=, >, <=, <) of a number.  choices: the allowed strings.
    shorthand: {flag: value}, further flags that set this one (`--rope` for `--pos rope`).
    paths: the flag may name several paths; the field holds the first.
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
    }
    return dataclasses.field(default=default, metadata=metadata)


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
        ("below", lambda b: value >= b, "<"),
    ):
        bound = rules.get(name)
        if bound is not None and broken(bound):
            raise UserError(f"{flag}: got {value}, allowed: {sign} {bound}")


def own_config(cls):
    """The `Config` dataclass of a task or model class, or None."""
    config = getattr(cls, "Config", None)
    return config if config is not None and dataclasses.is_dataclass(config) else None
