"""The run directory: files that appear whole or not at all, JSON that notices an edit, one process at a time.

    run = RunDir.create(args_out_dir, overwrite=False)     # or RunDir.open(...) for an existing run
    with run.lock():                                       # before config.json is written
        run.clean()
        write_json(run.config, seal({"args": ..., "machine": ...}))
        run.append({"step": 1, "loss": 3.2})

A file is written beside its place and then renamed, so a killed process leaves the old content or the new. The lock is the
operating system's and dies with its process; the file `.lock` itself stays, because removing it could give two holders.
`config.json` and `metrics.json` carry their own SHA-256 (`seal`); the part under "machine" has one of its own, so the first one
is equal wherever the result is. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import secrets
import time
import weakref
from pathlib import Path

from src.flags.fields import UserError, suggest

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

TEMP_PREFIX = ".tmp-"
# What `--overwrite` may remove, of a training run and of the commands that measure; config.json first: a kill in between then leaves a directory
# that counts as new.
RUN_FILES = (
    "config.json",
    "env.json",
    "metrics.jsonl",
    "metrics.json",
    "ckpt.pt",
    "best.pt",
    "samples.txt",
    "vocab.json",
    "eval-[0-9]*.json",
    "results.jsonl",
    "results.csv",
    "history.json",
    "trace.json",
    "stacks.txt",
    "memory.json",
    "tables.md",
    ".tmp-*",
)
RUN_FOLDERS = {
    "figures": ("*.png", "*.svg", "*.pdf", ".tmp-*"),
    "tensorboard": ("events.out.tfevents.*", "*.pt.trace.json"),
}
RESULT_FILES = (
    "metrics.jsonl",
    "metrics.json",
    "results.jsonl",
    "ckpt.pt",
    "best.pt",
)  # would pass for this run's when left by another
LOCKED_BYTE = 1 << 30  # Windows locks bytes against reading too; this one is far behind the pid


def write_atomic(path, data: bytes) -> None:
    """Replace `path` by `data` whole or not at all; on any error the old file is as it was and the temporary one is gone."""
    path = Path(path)
    temp = path.with_name(f"{TEMP_PREFIX}{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with open(temp, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temp, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temp.unlink()
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename outlive a power cut, on systems where a folder can be opened."""
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def write_json(path, obj) -> None:
    """Write `obj` as JSON, keys in their order, ASCII; ValueError for NaN and infinities, which JSON does not have."""
    write_atomic(path, (json.dumps(obj, indent=1, allow_nan=False) + "\n").encode("ascii"))


def read_json(path):
    """The content of a JSON file; UserError of one line when it is missing, unreadable or not JSON."""
    path = Path(path)
    try:
        return json.loads(path.read_bytes().decode("utf-8"), parse_constant=_no_constant)
    except OSError as error:
        what = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise UserError(f"'{path}': {what}, allowed: the {path.name} of a run; check --out_dir") from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"'{path}' is truncated or not JSON ({_first_line(error)}); restore it, or start the run again with --overwrite"
        ) from error


def _no_constant(name):
    raise ValueError(f"{name} is not JSON")


def _first_line(error) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def digest(doc) -> str:
    """SHA-256, in hex, of JSON content: order of keys, spaces and line breaks do not matter."""
    return hashlib.sha256(
        json.dumps(doc, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")
    ).hexdigest()


def seal(doc: dict, machine_key: str = "machine") -> dict:
    """A copy of `doc` as JSON holds it (tuples become lists, keys strings), with its digests.

    "sha256" covers everything but itself and `machine_key`; where `machine_key` is a dict, it gets a "sha256" over the rest of it.
    """
    doc = json.loads(json.dumps(doc, allow_nan=False))
    doc.pop("sha256", None)
    if isinstance(doc.get(machine_key), dict):
        machine = _without(doc[machine_key], "sha256")
        doc[machine_key] = {**machine, "sha256": digest(machine)}
    return {**doc, "sha256": digest(_without(doc, machine_key))}


def open_sealed(path, machine_key: str = "machine") -> dict:
    """The content of a file written as `write_json(path, seal(doc))`; UserError when it is missing, truncated or was edited."""
    doc = read_json(path)
    if not isinstance(doc, dict) or not isinstance(doc.get("sha256"), str):
        raise UserError(
            f"'{path}' has no sha256 of its content, so it was not written by this program, or was edited; restore it, or use --overwrite"
        )
    parts = {"": (_without(doc, "sha256", machine_key), doc["sha256"])}
    if machine_key in doc:
        machine = doc[machine_key]
        parts[f" under '{machine_key}'"] = (
            (_without(machine, "sha256"), machine.get("sha256")) if isinstance(machine, dict) else (machine, None)
        )
    for where, (content, expected) in parts.items():
        if digest(content) != expected:
            raise UserError(
                f"'{path}' was edited or damaged{where}: its content does not match its sha256; restore it, or start again with --overwrite"
            )
    return doc


def _without(doc: dict, *keys) -> dict:
    return {k: v for k, v in doc.items() if k not in keys}


class RunDir:
    """One run's directory. Make it with `create` or `open`; the constructor only names a path and touches nothing."""

    def __init__(self, path):
        self.path = Path(path)
        self._is_new = False
        self._lock_fd: int | None = None
        self._log = None

    config = property(lambda self: self.path / "config.json")
    env = property(lambda self: self.path / "env.json")
    metrics = property(lambda self: self.path / "metrics.json")
    log = property(lambda self: self.path / "metrics.jsonl")
    ckpt = property(lambda self: self.path / "ckpt.pt")
    best = property(lambda self: self.path / "best.pt")
    results = property(lambda self: self.path / "results.jsonl")
    samples = property(lambda self: self.path / "samples.txt")
    vocab = property(lambda self: self.path / "vocab.json")
    figures = property(lambda self: self.path / "figures")

    @property
    def exists(self) -> bool:
        """Whether a run was begun here: config.json is there."""
        return os.path.lexists(self.config)

    @property
    def finished(self) -> bool:
        """Whether the run here came to its end (diverged included): metrics.json is there."""
        return os.path.isfile(self.metrics)

    @classmethod
    def create(cls, out_dir="", root="runs", overwrite: bool = False) -> RunDir:
        """The directory of a new run: `out_dir`, or without one `root`/YYYYMMDD-HHMMSS (-2, -3, ... when taken), made if need be.

        A directory without config.json counts as new; one with it is a UserError that names --resume and --overwrite.
        `overwrite` removes the files that a run writes and nothing else. UserError, and nothing written, when `out_dir` is a file,
        cannot be written, or another process is using it. Take `lock()` next, before config.json is written.
        """
        if not out_dir:
            return cls._create_dated(Path(root))
        run = cls(out_dir)
        run._refuse(overwrite)
        _make_writable(run.path)
        if run.exists:
            with run.lock():
                run._remove_run_files()
        run._is_new = True
        return run

    @classmethod
    def check(cls, out_dir="", overwrite: bool = False, root="runs") -> None:
        """Raise UserError where `create` would, as far as that shows without making a folder: for use before long work.

        Whether another process is using the directory shows in `create` and `acquire` only.
        """
        run = cls(out_dir or root)
        if out_dir:
            run._refuse(overwrite)
        try:
            _probe(next(p for p in (run.path, *run.path.parents) if os.path.lexists(p)))
        except OSError as error:
            raise _unwritable(run.path, error) from error

    def _refuse(self, overwrite: bool) -> None:
        """UserError when this cannot be a new run's directory by what is there now."""
        if os.path.lexists(self.path) and not os.path.isdir(self.path):
            raise UserError(
                f"--out_dir: got '{self.path}', which is not a folder, allowed: a folder that is new or can be written; choose another"
            )
        if self.exists:
            self._refuse_foreign()
            if not overwrite:
                raise self._taken()

    @classmethod
    def _create_dated(cls, root: Path) -> RunDir:
        _make_writable(root)
        name = time.strftime("%Y%m%d-%H%M%S")
        n = 1
        while True:
            run = cls(root / (name if n == 1 else f"{name}-{n}"))
            try:
                run.path.mkdir()  # the one step that only one of several processes can win
            except FileExistsError:
                n += 1
                continue
            run._is_new = True
            return run

    @classmethod
    def open(cls, out_dir, root="runs") -> RunDir:
        """An existing run: the path, or a bare name R for `root`/R where R itself does not exist.

        UserError with the nearest run where there is none, and with the command where the folder is one of measurements (see `stored_kind`).
        """
        if not out_dir:
            raise UserError(
                f"--out_dir: got nothing, allowed: the directory of an existing run{_nearest(Path(root), '')}"
            )
        path = Path(out_dir)
        if path.name == str(out_dir) and not os.path.lexists(path) and os.path.isdir(Path(root) / path):
            path = Path(root) / path
        run = cls(path)
        if not run.exists:
            what = (
                "a folder without config.json"
                if os.path.isdir(path)
                else "not a folder"
                if os.path.lexists(path)
                else "no such folder"
            )
            raise UserError(
                f"--out_dir: got '{out_dir}' ({what}), allowed: the directory of an existing run{_nearest(Path(root), path)}"
            )
        run._refuse_kind()
        return run

    def stored_kind(self) -> str:
        """The command whose measurements are here, `speed`, `profile` or `kernels`; empty for a training run, and where config.json tells nothing."""
        try:
            doc = json.loads(self.config.read_bytes())
        except (OSError, ValueError, RecursionError):
            return ""
        return doc["kind"] if isinstance(doc, dict) and "args" not in doc and isinstance(doc.get("kind"), str) else ""

    def _refuse_kind(self) -> None:
        """UserError for a folder of measurements, which has no checkpoint and nothing to resume."""
        if kind := self.stored_kind():
            raise UserError(
                f"--out_dir: '{self.path}' holds results of `{kind}`, allowed: the directory of a training run; continue it with the same "
                f"`{kind}` command, or redraw it with `{kind} --vis_only`"
            )

    def _taken(self) -> UserError:
        if kind := self.stored_kind():
            return UserError(
                f"--out_dir: '{self.path}' holds results of `{kind}`; replace them with --overwrite, or choose another --out_dir"
            )
        state = "a finished run" if self.finished else "an unfinished run"
        return UserError(
            f"--out_dir: '{self.path}' holds {state}; continue it with --resume, replace it with --overwrite, or choose another --out_dir"
        )

    def _refuse_foreign(self) -> None:
        """UserError when config.json is some other program's, which neither --resume nor --overwrite may touch."""
        try:
            doc = json.loads(self.config.read_bytes())
        except (OSError, ValueError, RecursionError):
            return  # damaged: --overwrite is the way out
        if doc and not (isinstance(doc, dict) and "sha256" in doc):
            raise UserError(
                f"--out_dir: '{self.path}' holds a config.json that is not a run's (no sha256 in it); choose another --out_dir"
            )

    def _remove_run_files(self) -> None:
        """Remove what a run writes. `.lock` stays: it is held, and one that vanished could be locked twice."""
        for pattern in RUN_FILES:
            _remove_files(self.path, pattern)
        for name, patterns in RUN_FOLDERS.items():
            folder = self.path / name
            if folder.is_symlink() or not folder.is_dir():
                continue  # a link leads out of the run directory
            for pattern in patterns:
                _remove_files(folder, pattern)
            with contextlib.suppress(OSError):  # not empty: somebody else's files stay
                folder.rmdir()

    def clean(self) -> None:
        """Remove the temporary files that a killed process left. Only while the lock is held: another's may be in use."""
        for folder in (self.path, self.figures):
            _remove_files(folder, TEMP_PREFIX + "*")

    @contextlib.contextmanager
    def lock(self):
        """`with run.lock():`, see `acquire`."""
        self.acquire()
        try:
            yield self
        finally:
            self.release()

    def acquire(self) -> None:
        """Lock the directory for this process, or raise UserError at once when another one (or another RunDir) has it.

        A new run takes it before it writes config.json: a config.json that appeared since `create` is another run's. Results left
        in a new directory (from a run whose config.json was deleted) are removed here, so that they cannot pass for this one's.
        """
        try:
            fd = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(
                f"--out_dir: '{self.path}' cannot be locked ({error.strerror}), allowed: a folder that can be written; choose another"
            ) from error
        try:
            self._take(fd)
        except BaseException:
            os.close(fd)
            raise
        self._lock_fd = fd
        _holders.add(self)
        if self._is_new:
            for name in RESULT_FILES:
                _remove_files(self.path, name)
            self._is_new = False

    def _take(self, fd: int) -> None:
        if not _try_lock(fd, self.path):
            os.lseek(fd, 0, os.SEEK_SET)
            pid = os.read(fd, 20).decode("ascii", "replace").strip()
            who = f"process {pid}" if pid.isdigit() else "another process"
            raise UserError(
                f"--out_dir: '{self.path}' is in use by {who}; wait until it ends or stop it, or choose another --out_dir"
            )
        if self._is_new and self.exists:
            raise self._taken()
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, str(os.getpid()).encode("ascii"))

    def release(self) -> None:
        """Give the lock back; nothing happens when it is not held."""
        self._close_log()
        if self._lock_fd is None:
            return
        fd, self._lock_fd = self._lock_fd, None
        _holders.discard(self)
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)  # no pid of a process that is gone; and two runs of one command leave the same bytes
        if fcntl is None:
            os.lseek(fd, LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)
        os.close(fd)

    def append(self, row: dict) -> None:
        """Add one line to metrics.jsonl at once. row: has an int "step"; a number that is not finite is written as null.

        When the disk is full the line is taken back before OSError is raised.
        """
        if not isinstance(row.get("step"), int):
            raise ValueError(f"row: got step={row.get('step')!r}, allowed: an int, by which --resume cuts the log back")
        line = json.dumps(
            {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}, allow_nan=False
        )
        if self._log is None:
            self._log = open(self.log, "ab", buffering=0)  # stays open: a run logs many lines
        size = os.fstat(self._log.fileno()).st_size
        rest = memoryview((line + "\n").encode("ascii"))
        try:
            while rest:
                rest = rest[self._log.write(rest) :]
        except OSError:
            os.ftruncate(self._log.fileno(), size)
            raise

    def read_log(self) -> list[dict]:
        """The rows of metrics.jsonl; a torn last line is left out, a broken one elsewhere is a UserError that gives its number."""
        return [row for _, row in self._log_lines()]

    def truncate_log(self, step: int) -> None:
        """Keep the rows up to the checkpoint's step, byte for byte; a torn last line goes. Nothing happens without a log."""
        self._close_log()
        if os.path.isfile(self.log):
            write_atomic(self.log, b"".join(line + b"\n" for line, row in self._log_lines() if row["step"] <= step))

    def _log_lines(self) -> list[tuple[bytes, dict]]:
        try:
            lines = self.log.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        lines.pop()  # empty, or what a kill left of a line: each line ends with a line break
        found = []
        for n, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                whole = isinstance(row, dict) and isinstance(row.get("step"), int)
            except (ValueError, RecursionError):
                whole = False
            if whole:
                found.append((line, row))
            elif n < len(lines):
                raise UserError(
                    f"'{self.log}' line {n} is damaged, allowed: a JSON object with a step; restore the file, or start again with --overwrite"
                )
        return found

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None


def existing_runs(folder) -> list[Path]:
    """The run directories in a folder (those with config.json), by name: oldest first where the names are dates."""
    try:
        return sorted(p for p in Path(folder).iterdir() if os.path.lexists(p / "config.json"))
    except OSError:
        return []


def _nearest(root: Path, wanted) -> str:
    """The end of a message: the run whose name is nearest, else the latest one, else that there is none."""
    runs = list(dict.fromkeys([*existing_runs(root), *(existing_runs(Path(wanted).parent) if wanted else [])]))
    if not runs:
        return f"; there is none in '{root}'"
    by_name = {p.name: p for p in runs}
    near = suggest(Path(wanted).name, by_name) if wanted else ""
    for name, path in by_name.items():
        if near == f"; did you mean '{name}'?":
            return f"; did you mean '{path}'?"
    return f"; the latest is '{runs[-1]}'"


def _make_writable(folder: Path) -> None:
    """Make the folder and its parents, and write one byte in it to be sure; UserError, and no folder left behind, when that fails."""
    made = []
    try:
        for part in (folder, *folder.parents):
            if os.path.isdir(part):
                break
            made.append(part)
        folder.mkdir(parents=True, exist_ok=True)
        _probe(folder)
    except OSError as error:
        for part in made:
            with contextlib.suppress(OSError):
                part.rmdir()
        raise _unwritable(folder, error) from error


def _probe(folder: Path) -> None:
    """Write one byte into the folder and remove it; OSError when that fails."""
    probe = folder / f"{TEMP_PREFIX}probe-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        probe.write_bytes(b"x")
    except OSError:
        with contextlib.suppress(OSError):
            probe.unlink()
        raise
    probe.unlink()


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"--out_dir: got '{folder}', which cannot be written ({error.strerror}), allowed: a folder that can; choose another"
    )


def _remove_files(folder: Path, pattern: str) -> None:
    for path in folder.glob(pattern):
        if path.is_symlink() or path.is_file():
            path.unlink(missing_ok=True)


def _try_lock(fd: int, path: Path) -> bool:
    """Take the operating system's lock without waiting; False when somebody holds it."""
    try:
        if fcntl is not None:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            os.lseek(fd, LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
            os.lseek(fd, 0, os.SEEK_SET)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        raise UserError(
            f"--out_dir: '{path}' cannot be locked ({error.strerror}), allowed: a file system with locks; use a folder on a local disk"
        ) from error
    return True


_holders: weakref.WeakSet[RunDir] = weakref.WeakSet()


def _drop_locks_in_child() -> None:
    """A forked worker shares its parent's lock and would keep it alive after the parent was killed."""
    for run in list(_holders):
        os.close(run._lock_fd)
        run._lock_fd = None
    _holders.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_locks_in_child)
