"""Shared fixtures: two threads at most, small sizes, and runs in temporary folders."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("MPLBACKEND", "Agg")
# Before torch is loaded: threads that spin while they wait make small steps tens of times slower on a busy machine.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests run on all cores already, one process per core

# A shell starts what runs in its background with Ctrl-C ignored, and some tests send themselves these signals.
for name, handler in (("SIGINT", signal.default_int_handler), ("SIGTERM", signal.SIG_DFL), ("SIGHUP", signal.SIG_DFL)):
    number = getattr(signal, name, None)
    if number is not None and signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

# The sizes of a run that takes a quarter of a second. A later value of a flag counts, so tests add their own after
# these. Two validations are enough: one at every step, with its checkpoints, takes a third of such a run.
TINY = (
    "--context_len 24 --d_model 16 --n_layer 1 --n_head 2 --max_steps 12 --eval_every 6 --batch_chars 512 "
    "--val_size 20 --test_size 30 --warmup_steps 2 --threads 1 --precision fp32 --quiet"
).split()
TINY_NEEDLE = ["--task", "needle", "--model", "transformer", *TINY]


def bench(*arguments, cwd=None, env=None, timeout=240, **kwargs):
    """Run `benchmark.py` in a process of its own; returns it with returncode, stdout and stderr."""
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmark.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd or ROOT,
        env={**os.environ, **(env or {})},
        timeout=timeout,
        **kwargs,
    )


@pytest.fixture(scope="session", autouse=True)
def state_folder(tmp_path_factory):
    """The folder with what the bench remembers for its user; the tests leave that of the person who runs them alone."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("state")
        patch.setenv("XDG_STATE_HOME", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def idle_machine(monkeypatch):
    """No test depends on what else runs: a busy machine makes a run say so."""
    monkeypatch.setattr("src.utils.load.LOADAVG", ROOT / "no such file")
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0), raising=False)


@pytest.fixture(autouse=True)
def own_arithmetic():
    """A run in this process sets subnormal numbers to zero in its thread; the next test begins without that."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture
def main(capsys, monkeypatch, tmp_path):
    """Call `benchmark.main` in this process, inside a temporary folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    import benchmark

    def call(*arguments):
        capsys.readouterr()  # what a fixture printed while it was made is not part of the answer
        code = benchmark.main(list(map(str, arguments)))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
