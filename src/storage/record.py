"""The folder of a measuring command: each cell is on disk at once, and the same command continues where it stopped.

    record = Record.open_for("speed", out_dir, settings, overwrite)   # new, or an old one with the same settings
    with record.lock():
        record.begin(settings, env)             # config.json and env.json, before any work; reads an old record's rows
        record.add(make_row(...), ...)          # all rows of one cell: lines of results.jsonl, and their mark
        record.finish(history)                  # results.csv and history.json, which marks the command as finished

A cell is what is measured at once, such as one form of an op at one length; it can be several rows. cells.jsonl has one
line per cell: the digests of its rows. It is written after the rows. So a cell is whole if its mark is there, and each
row that the mark names. Every other row was cut off by a kill, edited, damaged or doubled. It is dropped when the
command continues, and its cell is measured again.

Settings are everything that decides what is measured. Other settings for the same folder are a UserError. As in a run
directory (src/storage/rundir.py), files appear whole or not at all. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable

from src.flags.fields import UserError
from src.storage.files import append_whole, open_sealed, read_json, seal, write_atomic, write_json
from src.storage.rows import check_row, to_csv, to_jsonl
from src.storage.rundir import RunDir

FILES = ("results.jsonl", "cells.jsonl", "results.csv", "history.json")
DIGEST_DIGITS = 32  # hexadecimal, of the SHA-256 of a line
INTERRUPTED, DONE = "interrupted", "done"


class Record(RunDir):
    """A run directory whose content is rows.

    kind: the command, "speed", "kernels", "profile" or "study". It is stored, so that none continues another's.
    """

    def __init__(self, path, kind: str = ""):
        super().__init__(path)
        self.kind = kind
        self.rows: list[dict] = []

    table = property(lambda self: self.path / "results.csv")
    history = property(lambda self: self.path / "history.json")
    cells = property(lambda self: self.path / "cells.jsonl")

    @property
    def finished(self) -> bool:
        """Whether the command came to its end: history.json is there and says so."""
        return self.history.is_file() and read_json(self.history).get("status") == DONE

    @classmethod
    def check_dir(cls, kind: str, out_dir: str, settings: dict, overwrite: bool = False) -> None:
        """Raise UserError if `open_for` would, without writing anything. For use before long work."""
        record = cls(out_dir or "runs", kind)
        if out_dir and record.exists and not overwrite:
            record._refuse_others(settings)
        else:
            RunDir.check(out_dir, overwrite)

    @classmethod
    def open_for(cls, kind: str, out_dir: str, settings: dict, overwrite: bool = False) -> Record:
        """A new record (runs/<timestamp> without an out_dir), or the existing one of the same kind and settings.

        Take `lock()` next, then `begin`. settings: JSON-able. `overwrite` starts a new record: it removes the files
        that this program writes and nothing else. Raises UserError for a folder that holds something else, was begun
        with other settings (the first difference is named), or cannot be written.
        """
        if out_dir and not overwrite:
            record = cls(out_dir, kind)
            if record.exists:
                record._refuse_others(settings)
                return record
        record = cls.create(out_dir, overwrite=overwrite)
        record.kind = kind
        return record

    @classmethod
    def of(cls, out_dir, kind: str) -> Record:
        """An existing record, for reading; UserError if there is none of this kind."""
        record = cls(cls.open(out_dir).path, kind)
        stored = open_sealed(record.config).get("kind")
        if stored != kind:
            raise UserError(f"--out_dir: '{record.path}' holds {_what(stored)}, allowed: a folder of `{kind}`")
        return record

    def begin(self, settings: dict, env: dict) -> None:
        """Write config.json and env.json of a new record. Of an old one, keep the whole cells and remove the rest.

        What is removed is told on stderr, unless it is the end that a kill cut off.
        """
        self.clean()
        if self.exists:
            self._keep_whole_cells()
        else:
            for name in FILES:
                (self.path / name).unlink(missing_ok=True)
            write_json(self.config, seal({"schema": 1, "kind": self.kind, "settings": settings}))
        if not self.env.exists():
            write_json(self.env, env)

    def add(self, *rows: dict) -> None:
        """Append all rows of one cell at once, then its mark, both flushed to the operating system.

        A full disk leaves whole lines. Rows without their mark do not count.
        """
        lines = to_jsonl(rows)
        for path, data in ((self.results, lines), (self.cells, mark_of(lines.splitlines()))):
            with open(path, "ab", buffering=0) as file:
                append_whole(file, data)
        self.rows += rows

    def clear_rows(self) -> None:
        """Forget all rows, on the disk too."""
        self.rows = []
        write_atomic(self.cells, b"")
        write_atomic(self.results, b"")

    def drop(self, unwanted: Callable[[dict], bool]) -> None:
        """Forget the cells that have an unwanted row, on the disk too. The record is not finished then."""
        cells, _, _ = self._read_cells()
        self._write_cells([cell for cell in cells if not any(map(unwanted, _rows_of([cell])))])

    def finish(self, history: dict, status: str = DONE) -> dict:
        """Write results.csv, then history.json with the rows and what was derived from them. Returns it sealed."""
        write_atomic(self.table, to_csv(self.rows))
        sealed = seal({"schema": 1, "kind": self.kind, "status": status, **history, "rows": self.rows})
        write_json(self.history, sealed)
        return sealed

    def read_history(self) -> dict:
        """The content of history.json; UserError if it was edited."""
        return open_sealed(self.history)

    def read_rows(self) -> list[dict]:
        """The rows of the whole cells, none without the files.

        UserError if the command had ended and its rows are not those that it ended with.
        """
        cells, _, _ = self._read_cells()
        rows = _rows_of(cells)
        if self.finished and rows != self.read_history()["rows"]:
            raise UserError(
                f"'{self.results}' was cut or edited after its command had ended; the command that measured it, with "
                f"--out_dir {self.path}, measures again what is missing"
            )
        return rows

    def _keep_whole_cells(self) -> None:
        """Read the rows of the whole cells, and remove all others from the disk."""
        cells, odd, is_cut = self._read_cells()
        if odd and not is_cut:
            print(
                f"notice: '{self.results}': {odd} row{'s do' if odd > 1 else ' does'} not belong to a whole cell "
                "(cut off, edited or doubled) and will not be used; what is missing is measured again",
                file=sys.stderr,
            )
        self._write_cells(cells)

    def _write_cells(self, cells: list[list[bytes]]) -> None:
        """Make these the cells of the record. It is not finished any more where it had others."""
        self.rows = _rows_of(cells)
        if self.finished and self.rows != self.read_history()["rows"]:
            self.history.unlink()  # first: no file tells of rows that are gone
            self.table.unlink(missing_ok=True)
        write_atomic(self.results, b"".join(line + b"\n" for cell in cells for line in cell))
        write_atomic(self.cells, b"".join(map(mark_of, cells)))

    def _read_cells(self) -> tuple[list[list[bytes]], int, bool]:
        """The lines of each whole cell, how many other lines there are, and whether these are the end of the file."""
        lines = _lines(self.results)
        by_digest, left, cells = {_digest(line): line for line in lines}, Counter(lines), []
        for digests in self._marks():
            needed = Counter(map(by_digest.get, digests))
            if None not in needed and needed <= left:
                left -= needed
                cells.append([by_digest[digest] for digest in digests])
        whole = sum(map(len, cells))
        return cells, len(lines) - whole, [line for cell in cells for line in cell] == lines[:whole]

    def _marks(self) -> list[list[str]]:
        """The digests of the rows of each cell. A damaged mark is left out.

        A finished record of an older version has no marks. Then its history.json, which is sealed, tells its rows.
        """
        if not self.cells.exists() and self.finished:
            return [[_digest(line) for line in to_jsonl(self.read_history()["rows"]).splitlines()]]
        found = []
        for line in _lines(self.cells):
            try:
                digests = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(digests, list) and digests and all(isinstance(digest, str) for digest in digests):
                found.append(digests)
        return found

    def _refuse_others(self, settings: dict) -> None:
        """UserError unless config.json has this kind and these settings."""
        self._refuse_foreign()
        stored = open_sealed(self.config)
        if stored.get("kind") != self.kind:
            raise UserError(
                f"--out_dir: '{self.path}' holds {_what(stored.get('kind'))}; "
                "choose another --out_dir, or replace it with --overwrite"
            )
        then, now = stored["settings"], json.loads(json.dumps(settings))
        if (found := difference(then, now)) is not None:
            name, old, new = found
            raise UserError(
                f"--out_dir: '{self.path}' was begun with {name} {short(old)}, now {short(new)}; "
                "give the same flags to continue it, another --out_dir, or --overwrite"
            )

    def _refuse_kind(self) -> None:
        """Allowed here: `of` compares the kind itself."""


def mark_of(lines: list[bytes]) -> bytes:
    """The line of cells.jsonl for a cell. lines: its rows, as results.jsonl has them, without line breaks."""
    return json.dumps(list(map(_digest, lines))).encode("ascii") + b"\n"


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()[:DIGEST_DIGITS]


def _lines(path) -> list[bytes]:
    """The lines of a file that are not empty; none without the file."""
    try:
        return [line for line in path.read_bytes().split(b"\n") if line]
    except FileNotFoundError:
        return []


def _rows_of(cells: list[list[bytes]]) -> list[dict]:
    rows = [json.loads(line) for cell in cells for line in cell]
    for row in rows:
        check_row(row)
    return rows


def difference(then, now, name: str = "") -> tuple | None:
    """(name, old, new) of the first difference between two settings, inside objects too; None if they are equal."""
    if not (isinstance(then, dict) and isinstance(now, dict)):
        return None if then == now else (name, then, now)
    inside = (
        difference(then.get(key), now.get(key), f"{name}.{key}" if name else key)
        for key in dict.fromkeys((*now, *then))
    )
    return next((found for found in inside if found is not None), None)


def _what(kind) -> str:
    return f"results of `{kind}`" if kind else "a training run"


def short(value) -> str:
    """A value as JSON, in at most 60 characters."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
