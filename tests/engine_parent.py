"""A process with a local engine, for tests that send it a signal or kill it; and a wait for what happens elsewhere."""

import subprocess
import sys
import time

from conftest import ROOT

PARENT = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
from src.study.engines import Job
from src.study.engines.local import LocalEngine

if __name__ == "__main__":
    try:
        with LocalEngine({home!r}, workers=2{more}) as engine:
            engine.submit([Job(name, name, {words!r}) for name in ("a", "b")])
            for outcome in engine.outcomes():
                print(outcome)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def parent(home, words, more="") -> subprocess.Popen:
    """A process with an engine that runs two jobs."""
    code = PARENT.format(root=str(ROOT), tests=str(ROOT / "tests"), home=str(home), words=tuple(words), more=more)
    script = home.parent / "parent.py"
    script.write_text(code)
    return subprocess.Popen([sys.executable, str(script)], start_new_session=True, stderr=subprocess.PIPE, text=True)


def until(true, seconds=60.0) -> None:
    """Wait for something, at most `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
