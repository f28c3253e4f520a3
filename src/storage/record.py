"""The folder of a measuring command: each row is on disk at once, and the same command continues where it stopped.

    record = Record.open_for("speed", out_dir, settings, overwrite)   # new, or an old one with the same settings
    with record.lock():
        record.begin(settings, env)             # config.json and env.json, before any work; reads an old record's rows
        record.add(make_row(...))               # one flushed line of results.jsonl
        record.finish(history)                  # results.csv and history.json, which marks the command as finished

Settings are everything that decides what is measured. Other settings for the same folder are a UserError. As in a run
directory (src/storage/rundir.py), files appear whole or not at all. A kill can leave an incomplete last line in
results.jsonl; it is removed. Nothing here imports torch.
"""

from __future__ import annotations

import json

from src.flags.fields import UserError
from src.storage.files import append_whole, open_sealed, read_json, seal, write_atomic, write_json
from src.storage.rows import check_row, to_csv, to_jsonl
from src.storage.rundir import RunDir

FILES = ("results.jsonl", "results.csv", "history.json")
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

    def begin(self, settings: dict, env: dict, keep=lambda rows: rows) -> None:
        """Write config.json and env.json of a new record. For an old one, read the rows and remove what a kill left.

        keep: old rows -> rows to keep. If one measurement is several rows, a kill may have left only some of them.
        """
        self.clean()
        if self.exists:
            self.rows = keep(self.read_rows())
            write_atomic(self.results, to_jsonl(self.rows))  # without an incomplete last line
        else:
            for name in FILES:
                (self.path / name).unlink(missing_ok=True)
            write_json(self.config, seal({"schema": 1, "kind": self.kind, "settings": settings}))
        if not self.env.exists():
            write_json(self.env, env)

    def add(self, *rows: dict) -> None:
        """Append rows to results.jsonl at once, flushed to the operating system; a full disk leaves whole lines."""
        with open(self.results, "ab", buffering=0) as file:
            append_whole(file, to_jsonl(rows))
        self.rows += rows

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
        """The whole rows of results.jsonl, none without the file; UserError with the line number for a damaged one."""
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
                    f"'{self.results}' line {n} is damaged, allowed: a row of src/storage/rows.py; "
                    "restore the file, or start again with --overwrite"
                ) from None
            rows.append(row)
        return rows

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
