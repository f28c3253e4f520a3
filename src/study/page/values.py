"""Values from files that somebody else may have written: each is read by its type, and what does not fit is absent.

    text(doc, "task")            -> "parity"       cut, and without characters that cannot be shown
    number(doc, "value")         -> 0.98 or None   finite, small enough for a float
    records(doc, "pairs")        -> [{...}, ...]   the objects of a list

A page must be valid whatever a folder holds. So nothing from a file reaches a section of the page except through these
functions and `cells` for tables.
"""

from __future__ import annotations

import math
import sys

LONGEST = 200  # characters of a name or a message
LONGEST_SAMPLE = 400
LONGEST_COMMAND = 2_000
LARGEST_COUNT = 2**63 - 1
MOST_ITEMS = 100_000  # of one list


def shown(value: str, most: int = LONGEST) -> str:
    """The text, cut to `most` characters (the end says so), with � for what has no glyph, except line breaks."""
    head = "".join(c if c == "\n" or c.isprintable() else "�" for c in value[:most])
    return head if len(value) <= most else f"{head}… (cut: {len(value):,} characters)"


def text(doc, key: str, most: int = LONGEST) -> str:
    """The text under a key on one line; "" where there is none. A number is its text."""
    value = doc.get(key) if isinstance(doc, dict) else None
    if isinstance(value, bool) or value is None:
        return ""
    if isinstance(value, (int, float)):
        found = finite(value)
        return "" if found is None else f"{found:g}"
    return shown(value, most).replace("\n", " ") if isinstance(value, str) else ""


def finite(value) -> float | None:
    """The number as a float; None for anything else, for NaN and infinity, and for what is too large."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) <= sys.float_info.max else None


def number(doc, key: str) -> float | None:
    """The number under a key, as `finite` reads it."""
    return finite(doc.get(key)) if isinstance(doc, dict) else None


def count(doc, key: str) -> int | None:
    """The whole number >= 0 under a key; None for anything else and for more than LARGEST_COUNT."""
    value = number(doc, key)
    return None if value is None or not (0 <= value <= LARGEST_COUNT and value == int(value)) else int(value)


def flag(doc, key: str) -> bool:
    """Whether the value under a key is true."""
    return isinstance(doc, dict) and doc.get(key) is True


def part(doc, key: str) -> dict:
    """The object under a key; {} where there is none."""
    value = doc.get(key) if isinstance(doc, dict) else None
    return value if isinstance(value, dict) else {}


def items(doc, key: str) -> list:
    """The list under a key; [] where there is none."""
    value = doc.get(key) if isinstance(doc, dict) else None
    return value[:MOST_ITEMS] if isinstance(value, list) else []


def records(doc, key: str) -> list[dict]:
    """The objects in the list under a key."""
    return [item for item in items(doc, key) if isinstance(item, dict)]


def texts(doc, key: str) -> tuple[str, ...]:
    """The texts in the list under a key, each on one line."""
    return tuple(shown(item).replace("\n", " ") for item in items(doc, key) if isinstance(item, str))


def pair(doc, key: str) -> tuple[float | None, float | None]:
    """Two numbers under a key; (None, None) unless both are there."""
    ends = [finite(v) for v in items(doc, key)]
    return (ends[0], ends[1]) if len(ends) == 2 and None not in ends else (None, None)


def points(doc, key: str) -> tuple[tuple[float, float], ...]:
    """The (x, y) pairs of numbers in the list under a key."""
    found = []
    for item in items(doc, key):
        ends = [finite(v) for v in item] if isinstance(item, list) else []
        if len(ends) == 2 and None not in ends:
            found.append((ends[0], ends[1]))
    return tuple(found)


def cell_number(row: dict, column: str) -> float | None:
    """The number in a cell of a table; None for an empty cell and for what is no finite number."""
    return as_number(row.get(column) or "")


def as_number(word: str) -> float | None:
    """The finite number that a word stands for, else None."""
    try:
        value = float(word)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def cell_count(row: dict, column: str) -> int | None:
    """The whole number >= 0 in a cell of a table, as `count` reads it."""
    return count({"": cell_number(row, column)}, "")


def cell_numbers(row: dict, column: str) -> tuple[float, ...]:
    """The numbers in a cell that holds several, with spaces between them; what is no number is left out."""
    words = (row.get(column) or "").split()[:MOST_ITEMS]
    return tuple(value for value in map(as_number, words) if value is not None)
