"""The types that a flag may have: from text to a value, from a value to JSON, and back.

    int, float, bool, str      Literal["relu", "gelu"]      an Enum      X | None      list[X]      tuple[X, ...]

A value of an Enum is typed by its own text if that is a string, and by its name otherwise. `none` stands for None.
Nothing here imports torch.
"""

from __future__ import annotations

import difflib
import enum
import numbers
import types
import typing

SCALARS = (int, float, bool, str)
METAVARS = {int: "N", float: "X"}
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
ALLOWED = (
    "int, float, bool, str, Literal[...], an Enum, list[...] or tuple[...] of these, and `| None` with any of them"
)


class UserError(ValueError):
    """The user's input is wrong (exit code 2). The message is one line: what, what was got, what is allowed."""


def suggest(name: str, allowed: typing.Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest allowed name; an empty string where none is near."""
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def without_none(kind):
    """(the type without None, whether None is allowed)."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        others = [k for k in typing.get_args(kind) if k is not type(None)]
        if len(others) == 1 and len(others) < len(typing.get_args(kind)):
            return others[0], True
    return kind, False


def is_list(kind) -> bool:
    """Whether a flag of this type takes several words."""
    return typing.get_origin(without_none(kind)[0]) in (list, tuple)


def items_of(kind) -> tuple:
    """The types of the items of a list or tuple; one type where the length is free."""
    return tuple(k for k in typing.get_args(kind) if k is not ...)


def is_fixed(kind) -> bool:
    """Whether the type says how many items there are: tuple[int, int]."""
    return typing.get_origin(kind) is tuple and ... not in typing.get_args(kind)


def is_supported(kind) -> bool:
    """Whether a flag may have this type."""
    kind, _ = without_none(kind)
    if typing.get_origin(kind) in (list, tuple):
        return bool(items_of(kind)) and all(_is_single(k) for k in items_of(kind))
    return _is_single(kind)


def _is_single(kind) -> bool:
    if typing.get_origin(kind) is typing.Literal:
        return all(v is None or isinstance(v, SCALARS) for v in typing.get_args(kind))
    return kind in SCALARS or (isinstance(kind, type) and issubclass(kind, enum.Enum))


def words_of(kind) -> dict[str, typing.Any]:
    """{word: value} of a Literal or an Enum; empty for other types."""
    kind, _ = without_none(kind)
    if typing.get_origin(kind) is typing.Literal:
        return {as_text(v): v for v in typing.get_args(kind)}
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return {as_text(v): v for v in kind}
    return {}


def metavar(kind) -> str:
    """What stands for the value in --help."""
    kind, optional = without_none(kind)
    if is_list(kind):
        return metavar(items_of(kind)[0]) if words_of(items_of(kind)[0]) else "TEXT"
    words = [*words_of(kind), *(["none"] if optional else [])]
    return "{" + ",".join(words) + "}" if words_of(kind) else METAVARS.get(kind, "TEXT")


def convert(flag: str, kind, text):
    """The value of a flag's text, or of a list of texts. UserError where it is not of the type.

    A tuple or a list takes commas or spaces between its items.
    """
    kind, optional = without_none(kind)
    if optional and (text if isinstance(text, str) else ",".join(text)).lower() == "none":
        return None
    origin = typing.get_origin(kind)
    if origin in (list, tuple):
        words = [
            part for word in ([text] if isinstance(text, str) else text) for part in word.replace(",", " ").split()
        ]
        items = items_of(kind)
        if is_fixed(kind) and len(words) != len(items):
            raise UserError(f"{flag}: got {len(words)} values, allowed: {len(items)}")
        items = items if is_fixed(kind) else items * len(words)
        return origin(_convert_one(flag, item, word) for item, word in zip(items, words, strict=True))
    return _convert_one(flag, kind, text, optional)


def _convert_one(flag: str, kind, text, optional: bool = False):
    words = words_of(kind)
    or_none = ", or none" if optional else ""
    if words:
        found = {**words, **{w.lower(): v for w, v in words.items() if not isinstance(v, str)}}
        if text in found:
            return found[text]
        raise UserError(f"{flag}: got '{text}', allowed: {', '.join(words)}{or_none}{suggest(str(text), words)}")
    if kind is bool:
        switch = {"true": True, "1": True, "false": False, "0": False}
        if str(text).lower() not in switch:
            raise UserError(f"{flag}: got '{text}', allowed: true or false{or_none}")
        return switch[str(text).lower()]
    if kind not in (int, float):
        return str(text)
    try:
        return kind(text)
    except ValueError:
        raise UserError(f"{flag}: got '{text}', allowed: {WORDS[kind]}{or_none}") from None


def from_json(flag: str, kind, value):
    """The value of a flag as its type has it, from what JSON, a preset or a script gives.

    UserError for a value of another type: a configuration may have been edited by hand.
    """
    kind, _ = without_none(kind)
    if value is None:
        return None
    origin = typing.get_origin(kind)
    if origin in (list, tuple):
        if not isinstance(value, (list, tuple)) or (is_fixed(kind) and len(value) != len(items_of(kind))):
            raise _wrong_type(flag, value, f"a list of {len(items_of(kind))}" if is_fixed(kind) else "a list")
        items = items_of(kind) if is_fixed(kind) else items_of(kind) * len(value)
        return origin(from_json(flag, item, v) for item, v in zip(items, value, strict=True))
    if words := words_of(kind):
        return value if value in words.values() else _convert_one(flag, kind, value)
    if kind is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:  # a whole number of hundreds of digits
            raise _wrong_type(flag, value, "a finite number") from None
    fits = {int: numbers.Integral, bool: (bool,), str: (str,), float: ()}[kind]
    if not isinstance(value, fits) or (kind is int and isinstance(value, bool)):
        raise _wrong_type(flag, value, WORDS[kind])
    return value


def _wrong_type(flag: str, value, allowed: str) -> UserError:
    return UserError(f"{flag}: got {value!r:.60}, allowed: {allowed}")


def to_json(value):
    """A flag's value as JSON holds it: an Enum is its word, a tuple a list."""
    if isinstance(value, enum.Enum):
        return as_text(value)
    return [to_json(v) for v in value] if isinstance(value, (list, tuple)) else value


def as_text(value) -> str:
    """A flag's value as it is typed."""
    if isinstance(value, enum.Enum):
        return value.value if isinstance(value.value, str) else value.name
    if isinstance(value, (list, tuple)):
        return ",".join(map(as_text, value))
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
