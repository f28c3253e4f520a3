"""The folder in which downloaded texts and n-gram tables are kept."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from platformdirs import user_cache_path

from src.flags.fields import UserError
from src.storage.lock import try_lock

APP = "seq-bench"
WAIT_SECONDS = 0.1  # between two looks at a lock that another process holds


def cache_folder() -> Path:
    """Where the bench keeps what it fetched or computed for this user. The folder may not exist yet.

    $XDG_CACHE_HOME is used on every system, also if it is a relative path. platformdirs would ignore it on Windows, and
    ignores relative paths. Without it: ~/.cache/seq-bench on Linux, and the system's own cache folder elsewhere.
    """
    chosen = os.environ.get("XDG_CACHE_HOME")
    return Path(chosen) / APP if chosen else user_cache_path(APP, appauthor=False)


def write_cache(name: str, data: bytes) -> str | None:
    """Put a file into the cache folder, whole or not at all.

    Returns None, or the reason why it could not be written. That is not an error: the next run computes it again.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=name + ".")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.replace(temporary, folder / name)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        return reason_of(error)
    return None


@contextlib.contextmanager
def alone(name: str) -> Iterator[None]:
    """Let one process at a time make the file `name` of the cache folder. The others wait until it is done.

    Where nothing can be locked, nobody waits. Then two processes make the same file, and it is still whole.
    """
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        fd = os.open(cache_folder() / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        yield
        return
    try:
        with contextlib.suppress(UserError):  # a file system without locks
            while not try_lock(fd, cache_folder()):
                time.sleep(WAIT_SECONDS)
        yield
    finally:
        os.close(fd)  # which ends the lock


def reason_of(error: Exception) -> str:
    """The type and the message of an error, in one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
