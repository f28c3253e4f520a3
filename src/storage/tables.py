"""Tables as CSV: written with one header, read with every row checked. Nothing here imports torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

from src.flags.fields import UserError


def csv_bytes(columns: Sequence[str], rows: Iterable[Mapping], cell: Callable[[object], str]) -> bytes:
    """A table with these columns. cell: value -> text; a value that a row lacks is None."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([cell(row.get(column)) for column in columns] for row in rows)
    return text.getvalue().encode("utf-8")


def read_csv(
    path: Path, columns: Iterable[str], way_out: str, unreadable: str = "", most: int | None = None
) -> list[tuple[int, dict]]:
    """(line number, row) of a table that has at least these columns.

    way_out: the end of a message, such as "restore it".  unreadable: its end where the file cannot be read, by default
    way_out.  most: rows that are read.
    Raises UserError for a file that is missing or damaged, a missing column, and a row without one cell per column.
    """
    try:
        reader = csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8")), strict=True)
        rows = [(reader.line_num, row) for row in islice(reader, most)]
    except OSError as error:
        end = unreadable or f"; {way_out}"
        raise UserError(f"'{path}': cannot be read ({error.strerror}){end}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"'{path}' is damaged ({error}); {way_out}") from error
    missing = [column for column in columns if column not in (reader.fieldnames or ())]
    if missing:
        raise UserError(f"'{path}' has no column '{missing[0]}'; {way_out}")
    broken = next((n for n, row in rows if None in row or None in row.values()), None)
    if broken is not None:
        raise UserError(f"'{path}' line {broken} is damaged: not one cell per column; {way_out}")
    return rows
