"""metrics.jsonl, the log of a training: one flushed line per step and per validation, checked before it is believed.

    log = RunLog(path)
    log.append({"step": 1, "loss": 3.2, ...})
    log.sync()                                  # on the disk, before a checkpoint that counts on it
    copy = log.copy()                           # Copy(rows, sha256, order, groups), goes into the checkpoint
    lines = lines_of(copy)                      # the same lines, byte for byte

A checkpoint holds a copy of the log up to its step, as columns of numbers: 57 bytes per step. So a log that was lost or
changed is noticed, and can be written again. Nothing here imports torch.
"""

from __future__ import annotations

import array
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from src.flags.fields import UserError
from src.storage.files import append_whole, write_atomic

INT, FLOAT, BOOL = "q", "d", "b"  # the type codes of a column; NaN in FLOAT is null in the log
WHOLE, YES_NO, NUMBER, NUMBER_OR_NULL = "a whole number >= 0", "true or false", "a finite number", "a number or null"
KINDS = {  # of the values in a row; a name that is not here has NUMBER_OR_NULL, or YES_NO
    **dict.fromkeys(("step", "trained", "chars"), WHOLE),
    **dict.fromkeys(("loss", "lr", "seconds", "val_loss", "val_token_acc"), NUMBER),
    "clipped": YES_NO,
}
NEEDED = {"loss": ("grad_norm", "clipped", "lr", "trained"), "val_loss": ("val_token_acc",)}


@dataclass(frozen=True)
class Copy:
    """The rows of a log as columns.

    rows: how many.  sha256: of their lines.  order: per row, which group it is of.
    groups: rows with the same names, as {name: its values in the order of the rows}. null is NaN.
    """

    rows: int
    sha256: str
    order: Sequence[int]
    groups: Sequence[Mapping[str, Sequence]]


@dataclass
class Columns:
    """Rows that are taken apart into columns as they come."""

    order: array.array = field(default_factory=lambda: array.array("B"))
    groups: list[dict[str, array.array]] = field(default_factory=list)
    _known: dict[tuple, int] = field(default_factory=dict)

    def add(self, row: Mapping) -> None:
        """Keep a row. ValueError for a value that is no number, and for more than 255 kinds of rows."""
        kinds = {name: _type_code(name, value) for name, value in row.items()}
        # null has the type of the numbers of its column, so the rows with it are of the same group
        group = self._known.setdefault(tuple(kinds.items()), len(self.groups))
        if group == len(self.groups):
            self.groups.append({name: array.array(code) for name, code in kinds.items()})
        self.order.append(group)
        for name, value in row.items():
            self.groups[group][name].append(math.nan if value is None else value)


def _type_code(name: str, value) -> str:
    if isinstance(value, bool):
        return BOOL
    if isinstance(value, int):
        return INT
    if value is None or isinstance(value, float):
        return FLOAT
    raise ValueError(f"row: got {name}={value!r:.40}, allowed: numbers, true, false and null")


class RunLog:
    """The log of one run. It knows the lines that this process wrote, or took over with `restore`."""

    def __init__(self, path):
        self.path = Path(path)
        self._file = None
        self._forget()

    def append(self, row: dict) -> None:
        """Add one line at once; NaN and infinity are written as null.

        If the disk is full, the line is taken back before OSError is raised.
        """
        if not isinstance(row.get("step"), int):
            raise ValueError(f"row: got step={row.get('step')!r}, allowed: an int, by which --resume cuts the log back")
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        for name, value in finite.items():
            _type_code(name, value)  # before anything is written
        if self._file is None:
            self._open()
        line = json.dumps(finite, allow_nan=False).encode("ascii") + b"\n"
        append_whole(self._file, line)
        self._note(line, finite)

    def sync(self) -> None:
        """Put every line on the disk. A checkpoint that is written afterwards never knows more than the log."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def copy(self) -> Copy:
        """The lines so far, for a checkpoint."""
        return Copy(len(self._columns.order), self._digest.hexdigest(), self._columns.order, self._columns.groups)

    def restore(self, lines: Sequence[bytes]) -> None:
        """Make these lines, each with its line break, the log. The file is replaced only where it has others."""
        self.close()
        self._forget()
        content = b"".join(lines)
        if content or self.path.exists():
            if not self.path.is_file() or self.path.read_bytes() != content:
                write_atomic(self.path, content)
        for line in lines:
            self._note(line, json.loads(line))
        self._known = True

    def problem(self) -> str:
        """How the file differs from what this process logged, as the end of a sentence; empty where it does not."""
        if not self._known:
            return ""
        try:
            found = hashlib.sha256(self.path.read_bytes()).hexdigest()
        except FileNotFoundError:
            return "is gone" if self._columns.order else ""
        return "" if found == self._digest.hexdigest() else "was changed by another program while the run went on"

    def rows(self) -> list[tuple[bytes, dict]]:
        """(line without its line break, row) of the file. An incomplete last line is left out.

        UserError for a damaged line before it.
        """
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        lines.pop()  # empty, or a part of a line after a kill: each line ends with a line break
        found = []
        for n, line in enumerate(lines, 1):
            row = _row_of(line)
            if row is not None:
                found.append((line, row))
            elif n < len(lines):
                raise UserError(f"'{self.path}' line {n} is damaged, allowed: a JSON object with a step")
        return found

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> None:
        """Open the file for good: a run logs many lines. What is in it already is taken over."""
        if not self._known and self.path.is_file():
            self.restore([line + b"\n" for line, _ in self.rows()])
        self._file = open(self.path, "ab", buffering=0)
        self._known = True

    def _note(self, line: bytes, row: dict) -> None:
        self._digest.update(line)
        self._columns.add(row)

    def _forget(self) -> None:
        self._digest, self._columns, self._known = hashlib.sha256(), Columns(), False


def lines_of(copy: Copy) -> list[bytes]:
    """The lines of the log that a checkpoint holds a copy of. ValueError where the copy contradicts itself."""
    at = [0] * len(copy.groups)
    lines = []
    for group in copy.order:
        if not 0 <= group < len(at):
            raise ValueError(f"a row of group {group}, of {len(at)} groups")
        columns = copy.groups[group].items()
        values = {name: _value(column, at[group]) for name, column in columns if at[group] < len(column)}
        if len(values) < len(copy.groups[group]) or not values:
            raise ValueError(f"group {group} has fewer rows than the log")
        row = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}
        lines.append(json.dumps(row, allow_nan=False).encode("ascii") + b"\n")
        at[group] += 1
    if copy.rows != len(lines) or hashlib.sha256(b"".join(lines)).hexdigest() != copy.sha256:
        raise ValueError("its lines do not have the SHA-256 that is stored with them")
    return lines


def _value(column: Sequence, at: int):
    """A value of a column; an array has 0 and 1 for false and true."""
    return bool(column[at]) if getattr(column, "typecode", "") == BOOL else column[at]


def difference(path: Path, lines: Sequence[bytes]) -> str:
    """How the beginning of a log differs from these lines, as the end of a sentence; empty where it does not."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return "is gone" if lines else ""
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    wanted = b"".join(lines)
    if content[: len(wanted)] == wanted:
        return ""
    there = content.splitlines(keepends=True)
    n = next((n for n, line in enumerate(lines) if n >= len(there) or there[n] != line), 0)
    return f"has lost its line {n + 1} and what followed" if n >= len(there) else f"line {n + 1} is not what was logged"


def problem_of(rows: Sequence[Mapping], steps: int) -> str:
    """What is wrong with the rows of a run after so many steps, as the end of a sentence; empty where nothing is.

    Every step from 1 on has one row with a loss. A validation comes after the row of its step.
    """
    last = 0
    validated = 0
    for n, row in enumerate(rows, 1):
        kind = next((name for name in NEEDED if name in row), None)
        if kind is None or any(name not in row for name in ("step", *NEEDED[kind])):
            return f"line {n} is neither a step nor a validation"
        for name, value in row.items():
            if not _fits(name, value):
                return f"line {n}: got {name}={json.dumps(value)[:40]}, allowed: {_kind(name, value)}"
        step = row["step"]
        if kind == "loss" and step != last + 1:
            return f"line {n} is of step {step}, but step {last + 1} comes next"
        if kind == "val_loss" and (step != last or step == validated):
            return f"line {n} is a validation of step {step} after step {last}"
        last, validated = (step, validated) if kind == "loss" else (last, step)
    return "" if last == steps else f"ends at step {last} of {steps}"


def _kind(name: str, value) -> str:
    return KINDS.get(name, YES_NO if isinstance(value, bool) else NUMBER_OR_NULL)


def _fits(name: str, value) -> bool:
    kind = _kind(name, value)
    if kind == YES_NO or isinstance(value, bool):
        return kind == YES_NO and isinstance(value, bool)
    if kind == WHOLE:
        return isinstance(value, int) and value >= 0
    if value is None:
        return kind == NUMBER_OR_NULL
    return isinstance(value, (int, float)) and abs(value) < math.inf


def _row_of(line: bytes) -> dict | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
