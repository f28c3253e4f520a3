"""The process that measures memory, and its child: both end with the command, however that ends.

python -m pytest tests/measure/test_child.py
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from src.measure import child

COMMAND = """
from src.measure import child
with child.Children() as children:
    children.call("test_child:stay", {{"folder": {folder!r}}})
"""
HERE = os.pathsep.join((str(Path(__file__).parent), str(ROOT / "tests")))
needs_proc = pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are found in /proc")


def stay(spec: dict) -> dict:
    """What the child does: it says which processes there are, and works until it is stopped."""
    ids = f"{os.getppid()} {os.getpid()}"
    Path(spec["folder"], "ids").write_text(ids)
    while True:
        time.sleep(0.05)


def double(spec: dict) -> dict:
    return {"twice": 2 * spec["n"]}


def running(folder):
    """A command whose child works: (process, [process id of the server, of its child]).

    A sitecustomize.py in the folder is carried out by all three.
    """
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), HERE))}
    code, ids = COMMAND.format(folder=str(folder)), folder / "ids"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environ)
    until(lambda: ids.exists() and len(ids.read_text().split()) == 2)
    return process, list(map(int, ids.read_text().split()))


def until(condition, seconds: float = 30.0) -> float:
    """Wait until a condition holds; the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.01)
    return time.monotonic() - began


def is_alive(pid: int) -> bool:
    """Whether a process exists and has not ended; one that nobody has waited for has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_child_answers_and_the_server_ends_with_its_block(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", HERE)
    with child.Children() as children:
        assert children.call("test_child:double", {"n": 4}) == {"twice": 8}
        assert children.call("test_child:double", {"n": 5}) == {"twice": 10}
        server = children._server.pid
    assert not is_alive(server)


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_server_and_child_end_at_once_when_the_command_is_killed(tmp_path, number):
    process, ids = running(tmp_path)
    process.send_signal(number)
    process.wait()
    assert until(lambda: not any(map(is_alive, ids)), seconds=10) < 2


@pytest.mark.slow
@needs_proc
def test_the_child_ends_when_its_server_is_killed(tmp_path):
    process, (server, worker) = running(tmp_path)
    os.kill(server, signal.SIGKILL)
    assert until(lambda: not is_alive(worker), seconds=10) < 2
    assert process.wait(timeout=10) == 1, "the command is told that its server has ended"


@pytest.mark.slow
@needs_proc
def test_without_a_signal_of_the_system_a_pipe_and_a_watch_end_both(tmp_path):
    """As on macOS: the server sees the end of its stdin, and the child that its parent has changed."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.platform = 'darwin'\n")
    process, ids = running(tmp_path)
    process.kill()
    process.wait()
    assert until(lambda: not any(map(is_alive, ids)), seconds=10) < 3
