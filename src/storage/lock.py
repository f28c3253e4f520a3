"""The lock of a folder: one process at a time, and a second one is told which process holds it.

    lock = FolderLock(folder)
    lock.acquire()          # at once, or UserError
    lock.release()

The lock is the operating system's, on the file `.lock`, and ends with its process. The file stays: if it were removed,
two processes could hold locks on two files of that name. It holds the process id of the holder.

Why not the package filelock: on Windows it locks the first byte of its file, so nobody could read the process id.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from pathlib import Path

from src.flags.fields import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

LOCKED_BYTE = 1 << 30  # on Windows a locked byte cannot be read; this one is far after the process id


class FolderLock:
    """The lock of one folder. Two locks of one folder exclude each other in one process too."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock, or raise UserError at once if another process (or another lock here) has it."""
        try:
            fd = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(
                f"--out_dir: '{self.folder}' cannot be locked ({error.strerror}), allowed: a folder that can be "
                "written; choose another"
            ) from error
        try:
            self._take(fd)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        _held.add(self)

    def release(self) -> None:
        """Give the lock back; nothing happens if it is not held."""
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        _held.discard(self)
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)  # no id of a process that has ended; two runs of one command leave the same bytes
        if fcntl is None:
            os.lseek(fd, LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)
        os.close(fd)

    def forget(self) -> None:
        """Close a forked worker's copy, which would keep the lock of a parent that was killed."""
        os.close(self._fd)
        self._fd = None

    def _take(self, fd: int) -> None:
        if not try_lock(fd, self.folder):
            os.lseek(fd, 0, os.SEEK_SET)
            pid = os.read(fd, 20).decode("ascii", "replace").strip()
            who = f"process {pid}" if pid.isdigit() else "another process"
            raise UserError(
                f"--out_dir: '{self.folder}' is in use by {who}; wait until it ends or stop it, "
                "or choose another --out_dir"
            )
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, str(os.getpid()).encode("ascii"))


def try_lock(fd: int, folder: Path) -> bool:
    """Take the operating system's lock without waiting; False if it is held."""
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
            f"--out_dir: '{folder}' cannot be locked ({error.strerror}), allowed: a file system with locks; "
            "use a folder on a local disk"
        ) from error
    return True


_held: weakref.WeakSet[FolderLock] = weakref.WeakSet()


def _forget_in_child() -> None:
    for lock in list(_held):
        lock.forget()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
