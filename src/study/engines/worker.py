"""One process of the local engine: it runs one command and ends with the exit code of that command.

    process = context.Process(target=work, args=(Errand("benchmark:main", words, cwd, environ, log, quiet), control))

The parent speaks to it through `control`, one end of a pipe:
- STOP: the command is interrupted once, as by Ctrl-C, so that it saves its state
- END, or no parent any more: the same, and after ORPHAN_SECONDS the process ends, whatever it does

A pipe closes with its process on every system, however that process ends. So no worker outlives a parent that was
killed. The worker has a session of its own. A terminal's Ctrl-C therefore reaches the parent alone, and the command is
not interrupted a second time, which would keep it from saving. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

from src.measure.child import resolve
from src.utils.lifetime import LOST

STOP, END = b"stop", b"end"
ORPHAN_SECONDS = 1.5
INTERRUPTED = 130  # exit code


@dataclass(frozen=True)
class Errand:
    """What a worker does.

    target: "package.module:function", which takes the words and returns an exit code.  cwd, environ: those of the
    parent.  log: a file to whose end all output goes; "" shows it on stderr.
    quiet: without a log, show stderr alone.
    """

    target: str
    words: tuple[str, ...]
    cwd: str
    environ: dict[str, str]
    log: str = ""
    quiet: bool = False


def work(errand: Errand, control: Connection) -> None:
    """Run the errand. It ends the process."""
    try:
        _take_signals()
        threading.Thread(target=_listen, args=(control,), daemon=True).start()
        _direct(errand)
        os.environ.clear()
        os.environ.update(errand.environ)
        os.chdir(errand.cwd)
        sys.exit(resolve(errand.target)(list(errand.words)))
    except KeyboardInterrupt:  # before the command can take it: there is nothing to say
        sys.exit(INTERRUPTED)


def _take_signals() -> None:
    """A session of its own, and the handlers that a command expects. The server that forked this process had none."""
    if hasattr(os, "setsid"):
        with contextlib.suppress(PermissionError):  # it leads a session already
            os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})


def _listen(control: Connection) -> None:
    """Wait for the parent's word, or for its end."""
    try:
        word = control.recv_bytes()
        _interrupt()
        if word == STOP:
            control.recv_bytes()
    except (EOFError, OSError):
        _interrupt()
    time.sleep(ORPHAN_SECONDS)
    os._exit(LOST)


_interrupted = threading.Event()


def _interrupt() -> None:
    """Interrupt the main thread once, also where it waits for the system."""
    if _interrupted.is_set():
        return
    _interrupted.set()
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    else:
        import _thread

        _thread.interrupt_main()


def _direct(errand: Errand) -> None:
    """Send stdout and stderr to the log, or stdout to where stderr goes."""
    sys.stdout.flush()
    sys.stderr.flush()
    if errand.log:
        target = os.open(errand.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(target, 2)
        os.close(target)
    if errand.quiet and not errand.log:
        target = os.open(os.devnull, os.O_WRONLY)
        os.dup2(target, 1)
        os.close(target)
    else:
        os.dup2(2, 1)
    # The old objects think that they write to the kind of file that the server was started with.
    sys.stdout, sys.stderr = (
        open(number, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False) for number in (1, 2)
    )
