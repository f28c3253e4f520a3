"""Memory on a CPU, measured in a separate process: a clean server forks one child per measurement.

    with Children() as children:
        result = children.call("src.measure.speed.panels.memory:measure_peak", spec)    # a dict; or OutOfMemory, Failed

A fork takes milliseconds where a new interpreter takes seconds. But the fork of a process that has already worked
inherits its freed memory, and memory that a child reuses is not seen. So the server is started once, imports what it
needs and computes nothing. This also keeps out OpenMP's threads, which do not survive a fork. Each child starts from
there. The C library is told to return every block of MMAP_BYTES or more to the system when it is freed
(MALLOC_MMAP_THRESHOLD_, glibc), so that resident memory follows memory in use.

`peak_of(action)` runs in a child. It returns the largest resident set (VmHWM, reset before) minus the resident set
before. It counts every byte of a page that was touched, by torch, by a compiled kernel's scratch or by Python. It does
not count memory that was there before, nor memory that was reserved and never written. Memory comes in pages, so
differences below about 256 KiB mean nothing. Systems without /proc use the largest resident set of the process so far
(ru_maxrss) in place of VmHWM. A child that the system kills because memory ran out is a result (`OutOfMemory`). It does
not harm this process. Server and children end at once if this process is killed, because their memory and their time
would disturb what is measured next (src/utils/lifetime.py).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from src.utils.lifetime import LOST, end_with

PROJECT = Path(__file__).resolve().parents[2]
MMAP_BYTES = 64 * 1024
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
INCLUDES = "largest resident set of a process of its own during the call, above that before it"


class Failed(Exception):
    """The child raised something, or crashed."""


class OutOfMemory(Failed):
    """The child ran out of memory, or the system killed it, which is what Linux does when memory runs out."""


def supported() -> bool:
    """Whether this system can fork."""
    return hasattr(os, "fork")


class Children:
    """The server, started at the first call. Use it as a context, so that it ends with the command."""

    def __init__(self):
        self._server: subprocess.Popen | None = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def call(self, target: str, spec: dict, imports: Iterable[str] = ()) -> dict:
        """The dict that target ("package.module:function") returns for `spec` (JSON-able) in a child.

        imports: modules that the server loads once, so that no child has to; loading them must compute nothing.
        Raises OutOfMemory or Failed, with the child's error in one line.
        """
        server = self._started()
        server.stdin.write(
            (json.dumps({"target": target, "spec": spec, "imports": list(imports)}) + "\n").encode("ascii")
        )
        server.stdin.flush()
        line = server.stdout.readline()
        if not line:
            self.close()
            raise Failed("the process that measures memory ended unexpectedly")
        answer = json.loads(line)
        if "signal" in answer:
            name = signal.Signals(answer["signal"]).name
            raise (OutOfMemory if name == "SIGKILL" else Failed)(
                f"the process that measures memory was ended by {name}"
            )
        if "error" in answer:
            raise (OutOfMemory if answer["memory"] else Failed)(answer["error"])
        return answer["result"]

    def _started(self) -> subprocess.Popen:
        if self._server is None:
            path = os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
            env = {
                **os.environ,
                "PYTHONPATH": path,
                "MALLOC_MMAP_THRESHOLD_": str(MMAP_BYTES),
                "MALLOC_TRIM_THRESHOLD_": str(MMAP_BYTES),
            }
            # In its own session, so that Ctrl-C reaches this process only; `close` then ends the group.
            self._server = subprocess.Popen(
                [sys.executable, "-m", "src.measure.child", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=env,
                start_new_session=True,
            )
        return self._server

    def close(self) -> None:
        """End the server and whatever child it has."""
        server, self._server = self._server, None
        if server is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        server.stdin.close()
        server.stdout.close()


def peak_of(action) -> tuple[int, object]:
    """(bytes, result): how far the resident set rose while `action()` ran, and what that returned."""
    before = _resident()
    _reset_peak()
    result = action()
    return max(0, _peak() - before), result


def _resident() -> int:
    return _status("VmRSS") if STATUS.exists() else _largest()


def _peak() -> int:
    return _status("VmHWM") if STATUS.exists() else _largest()


def _reset_peak() -> None:
    with contextlib.suppress(
        OSError
    ):  # not every kernel has it; then the peak so far counts, which is low in a new child
        CLEAR.write_text("5")


def _status(key: str) -> int:
    for line in STATUS.read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{STATUS} has no {key}")


def _largest() -> int:
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024  # bytes there, KiB elsewhere


def serve(parent: int) -> None:
    """Answer requests, one per line of stdin, until it ends. parent: the process id of the one that asks."""
    end_with(parent, watch=False)
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a user's layer prints is not an answer
    for line in sys.stdin:
        request = json.loads(line)
        try:
            function = resolve(request["target"])
            for name in request["imports"]:
                importlib.import_module(name)
        except Exception as error:
            answers.write(_line(_error(error)))
            continue
        answers.write(_line(_fork(function, request["spec"])))


def resolve(target: str):
    """The function behind "package.module:function"."""
    module, name = target.split(":")
    return getattr(importlib.import_module(module), name)


def _fork(function, spec: dict) -> dict:
    """Run function(spec) in a child; {"result"}, {"error", "memory"} or {"signal"}."""
    reading, writing = os.pipe()
    server, pid = os.getpid(), os.fork()
    if pid == 0:
        os.close(reading)
        end_with(server)
        _work(function, spec, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        _end_without_parent(pipe, pid)
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return {"signal": os.WTERMSIG(status)}
    return (
        json.loads(text)
        if text
        else {"error": f"the child ended with exit code {os.WEXITSTATUS(status)}", "memory": False}
    )


def _end_without_parent(pipe, child: int) -> None:
    """Wait until the child answers or ends. If stdin ends before, nobody waits for the answer: end both.

    No request comes while one is worked on, so stdin can be read here only if it has ended.
    """
    ready, _, _ = select.select([pipe, 0], [], [])
    if pipe not in ready:
        os.kill(child, signal.SIGKILL)
        os._exit(LOST)


def _work(function, spec: dict, writing: int) -> None:
    """What the child does. It ends the process, so it never returns into the server's loop."""
    code = 1
    try:
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(
                "1000"
            )  # if memory runs out, the system ends this process first
        try:
            answer = {"result": function(spec)}
        except Exception as error:
            answer = _error(error)
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(_line(answer))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _error(error: Exception) -> dict:
    from src.utils.memory import is_out_of_memory

    text = (str(error).splitlines() or [""])[0]
    return {"error": f"{type(error).__name__}: {text}", "memory": is_out_of_memory(error)}


def _line(answer: dict) -> bytes:
    return (json.dumps(answer) + "\n").encode("ascii")


if __name__ == "__main__":
    serve(int(sys.argv[1]))
