"""The run directory: its files, one process at a time, and a log that survives a kill.

    run = RunDir.create(out_dir, overwrite=False)          # or RunDir.open(...) for an existing run
    with run.lock():                                       # before config.json is written
        run.clean()
        write_json(run.config, seal({"args": ..., "machine": ...}))
        run.append({"step": 1, "loss": 3.2})

How files are written and sealed is in src/storage/files.py, the lock in src/storage/lock.py.
Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import json
import os
import time
from pathlib import Path

from src.flags.fields import UserError, suggest
from src.flags.hints import resuming
from src.storage.files import (
    TEMP_PREFIX,
    make_writable,
    open_sealed,
    probe_for,
    read_json,
    remove_files,
    seal,
    unwritable,
    write_atomic,
    write_json,
)
from src.storage.lock import FolderLock
from src.storage.log import RunLog

__all__ = ["RunDir", "existing_runs", "open_sealed", "read_json", "seal", "write_atomic", "write_json"]

# What `--overwrite` may remove, of a training run and of the commands that measure. config.json is the first: after a
# kill in between, the directory counts as new.
RUN_FILES = (
    *("config.json", "env.json", "metrics.jsonl", "metrics.json", "ckpt.pt", "best.pt", "samples.txt", "vocab.json"),
    *("tokenizer.json", "tokenizer_config.json", "init.pt", "chat_template.jinja"),
    *("eval-[0-9]*.json", "results.jsonl", "cells.jsonl", "results.csv", "history.json"),
    *("trace.json", "stacks.txt", "memory.json"),
    *("pairs.npz", "vocab_source.json", "vocab_target.json", "checkpoint.npz"),
    *("test_items.json", "tables.md", "report.html", f"{TEMP_PREFIX}*"),
)
REDRAWN = {"compare": "report"}  # the command that draws again what a command measured, where it is not its own
RUN_FOLDERS = {
    "figures": ("*.png", "*.svg", "*.pdf", f"{TEMP_PREFIX}*"),
    "tensorboard": ("events.out.tfevents.*", "*.pt.trace.json"),
}
# If an earlier run left these, they would look like this run's.
RESULT_FILES = ("metrics.jsonl", "metrics.json", "test_items.json", "results.jsonl", "ckpt.pt", "best.pt", "init.pt")


class RunDir:
    """One run's directory. Make it with `create` or `open`; the constructor only names a path and touches nothing."""

    def __init__(self, path):
        self.path = Path(path)
        self._is_new = False
        self._lock = FolderLock(self.path)
        self.training_log = RunLog(self.log)

    config = property(lambda self: self.path / "config.json")
    env = property(lambda self: self.path / "env.json")
    metrics = property(lambda self: self.path / "metrics.json")
    items = property(lambda self: self.path / "test_items.json")
    log = property(lambda self: self.path / "metrics.jsonl")
    ckpt = property(lambda self: self.path / "ckpt.pt")
    best = property(lambda self: self.path / "best.pt")
    init = property(lambda self: self.path / "init.pt")
    results = property(lambda self: self.path / "results.jsonl")
    samples = property(lambda self: self.path / "samples.txt")
    template = property(lambda self: self.path / "chat_template.jinja")
    vocab = property(lambda self: self.path / "vocab.json")
    figures = property(lambda self: self.path / "figures")
    code = property(lambda self: self.path / "code")

    @property
    def exists(self) -> bool:
        """Whether a run was begun here: config.json is there."""
        return os.path.lexists(self.config)

    @property
    def finished(self) -> bool:
        """Whether the run here has ended, diverged or not: metrics.json is there."""
        return os.path.isfile(self.metrics)

    @property
    def imported(self) -> bool:
        """Whether `import` made the run here. It has weights, and no training that could go on."""
        try:
            return json.loads(self.config.read_bytes())["status"] == "imported"
        except (OSError, ValueError, RecursionError, KeyError, TypeError):
            return False

    @classmethod
    def create(cls, out_dir="", root="runs", overwrite: bool = False) -> RunDir:
        """The directory of a new run, made if it is not there. Take `lock()` next, before config.json is written.

        Without `out_dir` it is `root`/YYYYMMDD-HHMMSS, with -2, -3, ... if that is taken. A directory without
        config.json counts as new. `overwrite` removes the files that a run writes and nothing else.
        Raises UserError, and writes nothing, if `out_dir` is a file or a run, cannot be written, or is in use.
        """
        if not out_dir:
            return cls._create_dated(Path(root))
        run = cls(out_dir)
        run._refuse(overwrite)
        make_writable(run.path)
        if run.exists:
            with run.lock():
                run._remove_run_files()
        run._is_new = True
        return run

    @classmethod
    def check(cls, out_dir="", overwrite: bool = False, root="runs") -> None:
        """Raise UserError if `create` would, without making a folder. For use before long work.

        Only `create` and `acquire` can tell whether another process is using the directory.
        """
        run = cls(out_dir or root)
        if out_dir:
            run._refuse(overwrite)
        try:
            probe_for(run.path)
        except OSError as error:
            raise unwritable(run.path, error) from error

    @classmethod
    def open(cls, out_dir, root="runs") -> RunDir:
        """An existing run: the path, or `root`/R for a bare name R that does not exist itself.

        Raises UserError with the nearest run if there is none, and with the command if the folder holds measurements.
        """
        root = Path(root)
        if not out_dir:
            raise UserError(f"--out_dir: got nothing, allowed: the directory of an existing run{_nearest(root, '')}")
        path = Path(out_dir)
        if path.name == str(out_dir) and not os.path.lexists(path) and os.path.isdir(root / path):
            path = root / path
        run = cls(path)
        if not run.exists:
            what = "not a folder" if os.path.lexists(path) else "no such folder"
            what = "a folder without config.json" if os.path.isdir(path) else what
            raise UserError(
                f"--out_dir: got '{out_dir}' ({what}), allowed: the directory of an existing run{_nearest(root, path)}"
            )
        run._refuse_kind()
        return run

    def stored_kind(self) -> str:
        """The command whose results are here: `speed`, `profile`, `kernels`, `study` or `translate`.

        Empty for a training run, and if config.json does not tell.
        """
        try:
            doc = json.loads(self.config.read_bytes())
        except (OSError, ValueError, RecursionError):
            return ""
        return doc["kind"] if isinstance(doc, dict) and "args" not in doc and isinstance(doc.get("kind"), str) else ""

    def clean(self) -> None:
        """Remove the temporary files of a killed process. Hold the lock: they may be another process's."""
        for folder in (self.path, self.figures):
            remove_files(folder, TEMP_PREFIX + "*")

    @contextlib.contextmanager
    def lock(self):
        """`with run.lock():`, see `acquire`."""
        self.acquire()
        try:
            yield self
        finally:
            self.release()

    def acquire(self) -> None:
        """Lock the directory for this process, or raise UserError at once if another process (or RunDir) has it.

        If config.json appeared since `create`, another process began a run here: UserError. Results in a new directory
        are left from a run whose config.json was deleted. They are removed, so that nobody takes them for this run's.
        """
        self._lock.acquire()
        if self._is_new and self.exists:
            self._lock.release()
            raise self._taken()
        if self._is_new:
            for name in RESULT_FILES:
                remove_files(self.path, name)
            self._remove_code()
            self._is_new = False

    def release(self) -> None:
        """Give the lock back; nothing happens if it is not held."""
        self.training_log.close()
        self._lock.release()

    def append(self, row: dict) -> None:
        """Add one line to metrics.jsonl at once, see `RunLog.append`."""
        self.training_log.append(row)

    def read_log(self) -> list[dict]:
        """The rows of metrics.jsonl. An incomplete last line is left out; a damaged one before it is a UserError."""
        return [row for _, row in self.training_log.rows()]

    @classmethod
    def _create_dated(cls, root: Path) -> RunDir:
        make_writable(root)
        name = time.strftime("%Y%m%d-%H%M%S")
        n = 1
        while True:
            run = cls(root / (name if n == 1 else f"{name}-{n}"))
            try:
                run.path.mkdir()  # only one of several processes can make it
            except FileExistsError:
                n += 1
                continue
            run._is_new = True
            return run

    def _refuse(self, overwrite: bool) -> None:
        """UserError if this cannot be a new run's directory, by what is there now."""
        if os.path.lexists(self.path) and not os.path.isdir(self.path):
            raise UserError(
                f"--out_dir: got '{self.path}', which is not a folder, allowed: a folder that is new or can be "
                "written; choose another"
            )
        if self.exists:
            self._refuse_foreign()
            if not overwrite:
                raise self._taken()

    def _refuse_foreign(self) -> None:
        """UserError if config.json is another program's, which neither --resume nor --overwrite may touch."""
        try:
            doc = json.loads(self.config.read_bytes())
        except (OSError, ValueError, RecursionError):
            return  # damaged: --overwrite replaces it
        if doc and not (isinstance(doc, dict) and "sha256" in doc):
            raise UserError(
                f"--out_dir: '{self.path}' holds a config.json that is not a run's (no sha256 in it); "
                "choose another --out_dir"
            )

    def _refuse_kind(self) -> None:
        """UserError for a folder of measurements, which has no checkpoint and cannot be resumed."""
        if kind := self.stored_kind():
            redraw = f", or redraw it with `{REDRAWN.get(kind, f'{kind} --vis_only')}`" if kind != "translate" else ""
            raise UserError(
                f"--out_dir: '{self.path}' holds results of `{kind}`, allowed: the directory of a training run; "
                f"continue it with the same `{kind}` command{redraw}"
            )

    def _taken(self) -> UserError:
        if kind := self.stored_kind():
            return UserError(
                f"--out_dir: '{self.path}' holds results of `{kind}`; replace them with --overwrite, "
                "or choose another --out_dir"
            )
        if self.imported:
            return UserError(
                f"--out_dir: '{self.path}' holds an imported run; replace it with --overwrite, or choose another"
            )
        state, go_on = ("a finished run", "verify") if self.finished else ("an unfinished run", "continue")
        return UserError(
            f"--out_dir: '{self.path}' holds {state}; {go_on} it with `{resuming(self.path)}`, replace it with "
            "--overwrite, or choose another --out_dir"
        )

    def _remove_run_files(self) -> None:
        """Remove what a run writes. `.lock` stays: it is held."""
        for pattern in RUN_FILES:
            remove_files(self.path, pattern)
        for name, patterns in RUN_FOLDERS.items():
            folder = self.path / name
            if folder.is_symlink() or not folder.is_dir():
                continue  # a link leads out of the run directory
            for pattern in patterns:
                remove_files(folder, pattern)
            with contextlib.suppress(OSError):  # not empty: the user's own files stay
                folder.rmdir()
        self._remove_code()

    def _remove_code(self) -> None:
        """Remove the copies of a user's modules. What Python cannot import is not ours, and stays."""
        for root, _, files in os.walk(self.code, topdown=False):
            if self.code.is_symlink() or any(p.is_symlink() for p in (Path(root), *Path(root).parents[:1])):
                continue
            for name in files:
                if name.endswith((*importlib.machinery.all_suffixes(), ".pyc")) or name.startswith(TEMP_PREFIX):
                    (Path(root) / name).unlink()
            with contextlib.suppress(OSError):
                Path(root).rmdir()


def existing_runs(folder) -> list[Path]:
    """The run directories in a folder (those with config.json), by name: oldest first if the names are dates."""
    try:
        return sorted(p for p in Path(folder).iterdir() if os.path.lexists(p / "config.json"))
    except OSError:
        return []


def _nearest(root: Path, wanted) -> str:
    """The end of a message: the run with the nearest name, else the latest run, else that there is none."""
    runs = list(dict.fromkeys([*existing_runs(root), *(existing_runs(Path(wanted).parent) if wanted else [])]))
    if not runs:
        return f"; there is none in '{root}'"
    by_name = {p.name: p for p in runs}
    near = suggest(Path(wanted).name, by_name) if wanted else ""
    for name, path in by_name.items():
        if near == f"; did you mean '{name}'?":
            return f"; did you mean '{path}'?"
    return f"; the latest is '{runs[-1]}'"
