"""The folder of a suite of measurements: what was measured is on disk at once, and the same command goes on where it stopped.

    record = Record.open_for("speed", out_dir, settings, overwrite)     # new, or the same settings again: then `record.rows` are those already measured
    with record.lock():
        record.begin(settings, env)                         # config.json and env.json, before any work
        record.add(make_row(...))                           # one flushed line of results.jsonl
        record.finish(history)                              # results.csv and history.json, which marks the suite as finished

Settings are everything that decides what is measured; whoever comes back with others gets a UserError. As for a run directory (src/storage/rundir.py, which
does the locking and the atomic writing), files appear whole or not at all; a line of results.jsonl that a kill tore is cut off.
Nothing here imports torch.
"""

from __future__ import annotations

import json
import os

from src.flags.fields import UserError
from src.storage.rows import check_row, to_csv, to_jsonl
from src.storage.rundir import RunDir, open_sealed, read_json, seal, write_atomic, write_json

FILES = ("results.jsonl", "results.csv", "history.json")
INTERRUPTED, DONE = "interrupted", "done"


class Record(RunDir):
    """A run directory whose content is rows. kind: the suite, "speed", "kernels" or "profile"; stored, so that none continues another's."""

    def __init__(self, path, kind: str = ""):
        super().__init__(path)
        self.kind = kind
        self.rows: list[dict] = []

    table = property(lambda self: self.path / "results.csv")
    history = property(lambda self: self.path / "history.json")

    @property
    def finished(self) -> bool:
        """Whether the suite came to its end: history.json is there and says so."""
        return self.history.is_file() and read_json(self.history).get("status") == DONE

    @classmethod
    def check_dir(cls, kind: str, out_dir: str, settings: dict, overwrite: bool = False) -> None:
        """Raise UserError where `open` would, as far as that shows without writing anything: for use before long work."""
        record = cls(out_dir or "runs", kind)
        if out_dir and record.exists and not overwrite:
            record._refuse_others(settings)
        else:
            RunDir.check(out_dir, overwrite)

    @classmethod
    def open_for(cls, kind: str, out_dir: str, settings: dict, overwrite: bool = False) -> Record:
        """A new record (runs/<timestamp> without an out_dir), or with the same kind and settings the one that is there.

        settings: JSON-able. Raises UserError for a folder that holds something else, other settings (the first that differs is named), or cannot
        be written. `overwrite` starts anew and removes what a suite or a run writes, nothing else. Take `lock()` next, then `begin`.
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
        """An existing record, to look at; UserError where there is none of this kind."""
        record = cls(cls.open(out_dir).path, kind)
        stored = open_sealed(record.config).get("kind")
        if stored != kind:
            raise UserError(f"--out_dir: '{record.path}' holds {_what(stored)}, allowed: a folder of `{kind}`")
        return record

    def begin(self, settings: dict, env: dict, keep=lambda rows: rows) -> None:
        """Write config.json and env.json of a new record; of an old one read the rows, and remove what a killed process left behind.

        keep: old rows -> those to keep, for a suite whose measurements are several rows each, of which a kill may have left some.
        """
        self.clean()
        if self.exists:
            self.rows = keep(self._read_rows())
            write_atomic(self.results, to_jsonl(self.rows))  # without a torn last line
        else:
            for name in FILES:
                (self.path / name).unlink(missing_ok=True)
            write_json(self.config, seal({"schema": 1, "kind": self.kind, "settings": settings}))
        if not self.env.exists():
            write_json(self.env, env)

    def add(self, *rows: dict) -> None:
        """Append rows to results.jsonl at once, flushed to the operating system; a full disk leaves whole lines."""
        data = to_jsonl(rows)
        with open(self.results, "ab", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[file.write(rest) :]
            except OSError:
                os.ftruncate(file.fileno(), size)
                raise
        self.rows += rows

    def finish(self, history: dict, status: str = DONE) -> dict:
        """Write results.csv, then history.json: the rows and whatever else the suite derived from them. Returns the sealed history."""
        write_atomic(self.table, to_csv(self.rows))
        sealed = seal({"schema": 1, "kind": self.kind, "status": status, **history, "rows": self.rows})
        write_json(self.history, sealed)
        return sealed

    def read_history(self) -> dict:
        return open_sealed(self.history)

    def _read_rows(self) -> list[dict]:
        """Whole rows of results.jsonl; UserError with the line's number for one that is damaged."""
        try:
            lines = self.results.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        rows = []
        for n, line in enumerate(lines[:-1], 1):
            try:
                row = json.loads(line)
                check_row(row)
            except (ValueError, RecursionError):
                raise UserError(
                    f"'{self.results}' line {n} is damaged, allowed: a row of src/storage/rows.py; restore the file, or start again with "
                    "--overwrite"
                ) from None
            rows.append(row)
        return rows

    def _refuse_others(self, settings: dict) -> None:
        """UserError unless config.json is of this kind and of these settings."""
        self._refuse_foreign()
        stored = open_sealed(self.config)
        if stored.get("kind") != self.kind:
            raise UserError(
                f"--out_dir: '{self.path}' holds {_what(stored.get('kind'))}; choose another --out_dir, or replace it with --overwrite"
            )
        then, now = stored["settings"], json.loads(json.dumps(settings))
        if (found := _difference(then, now)) is not None:
            name, old, new = found
            raise UserError(
                f"--out_dir: '{self.path}' was begun with {name} {_short(old)}, now {_short(new)}; give the same flags to continue it, "
                "another --out_dir, or --overwrite"
            )

    def _refuse_kind(self) -> None:
        """Nothing: whose results these are is `of`'s own question."""


def _difference(then, now, name: str = "") -> tuple | None:
    """(name, old, new) of the first thing in which two settings differ, inside objects too; None where they are equal."""
    if not (isinstance(then, dict) and isinstance(now, dict)):
        return None if then == now else (name, then, now)
    inside = (
        _difference(then.get(key), now.get(key), f"{name}.{key}" if name else key)
        for key in dict.fromkeys((*now, *then))
    )
    return next((found for found in inside if found is not None), None)


def _what(kind) -> str:
    return f"results of `{kind}`" if kind else "a training run"


def _short(value) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
