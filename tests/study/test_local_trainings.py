"""Trainings on the local engine: the bytes of a run alone, also after a kill. What the server imports is harmless.

python -m pytest tests/study/test_local_trainings.py -m slow
"""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT, TINY, bench
from engine_parent import parent, until
from run_content import content

from src.study.engines import DONE, Job
from src.study.engines import local as local_engine
from src.study.engines.local import LocalEngine, what_a_training_needs

pytestmark = pytest.mark.slow

TRAINING = ("--task", "needle", "--model", "gru", *TINY[:-1])  # without --quiet, which the engine adds


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Folders of runs that `python benchmark.py` made alone, by model."""
    home = tmp_path_factory.mktemp("alone")
    for model in ("gru", "deltanet"):
        bench(*TRAINING, "--model", model, "--out_dir", home / model, "--quiet", env={"OMP_NUM_THREADS": "2"})
    return home


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_run_leaves_the_same_bytes_as_alone(method, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(local_engine.multiprocessing, "get_all_start_methods", lambda: [method])
    names = ("gru", "deltanet")
    with LocalEngine(tmp_path, workers=2) as engine:
        engine.submit([Job(name, name, (*TRAINING, "--model", name)) for name in names])
        assert {o.status for o in engine.outcomes()} == {DONE}
    for name in names:
        assert content(tmp_path / name) == content(alone / name)


def test_runs_that_share_what_they_draw_leave_the_same_bytes_as_alone(alone, tmp_path):
    """The third one reads what the others drew."""
    names = ("gru", "deltanet", "again")
    with LocalEngine(tmp_path, workers=1, drawn=tmp_path / "drawn") as engine:
        engine.submit([Job(n, n, (*TRAINING, "--model", n.replace("again", "gru"))) for n in names])
        assert {o.status for o in engine.outcomes()} == {DONE}
        assert list((tmp_path / "drawn").iterdir())
    for name in names:
        assert content(tmp_path / name) == content(alone / name.replace("again", "gru"))


@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])
def test_a_run_whose_parent_was_stopped_goes_on_to_the_same_bytes(name, tmp_path):
    words = (*TRAINING, "--max_steps", "1500")
    home = tmp_path / "home"
    process = parent(home, words)
    logs = [home / n / "metrics.jsonl" for n in "ab"]
    until(lambda: all(log.exists() and log.stat().st_size for log in logs))
    time.sleep(0.5)
    process.send_signal(getattr(signal, name))
    process.wait(timeout=60)
    assert not (home / "a/metrics.json").exists()
    with LocalEngine(home, workers=2) as engine:
        until(lambda: process.poll() is not None)
        time.sleep(3)
        engine.submit([Job(n, n, words) for n in "ab"])
        assert {o.status for o in engine.outcomes()} == {DONE}
    with LocalEngine(tmp_path / "whole", workers=1) as engine:
        engine.submit([Job("a", "a", words)])
        assert {o.status for o in engine.outcomes()} == {DONE}
    wanted = content(tmp_path / "whole/a")
    assert content(home / "a") == wanted
    assert content(home / "b") == wanted


def test_a_killed_worker_goes_on_from_its_checkpoint(tmp_path):
    with LocalEngine(tmp_path, workers=1) as engine:
        engine.submit([Job("a", "a", (*TRAINING, "--max_steps", "1500"))])
        outcomes, seen = engine.outcomes(), []
        thread = threading.Thread(target=lambda: seen.append(next(outcomes)))
        thread.start()
        until((tmp_path / "a/ckpt.pt").exists)
        os.kill(int((tmp_path / "a/.lock").read_text()), signal.SIGKILL)
        thread.join(120)
    assert (seen[0].status, seen[0].attempts) == (DONE, 2)


QUIET_SERVER = """
import importlib, sys, threading, os
sys.path.insert(0, {root!r})
import torch
for module in (torch.cuda, torch.backends.cuda):
    for name in ("is_available", "device_count", "init", "_lazy_init", "is_built"):
        if hasattr(module, name) and name != "is_built":
            def touched(*arguments, name=name, **more):
                raise RuntimeError(f"touched: {{name}}")
            setattr(module, name, touched)
for name in {modules!r}:
    importlib.import_module(name)
print(threading.active_count(), len(os.listdir("/proc/self/task")))
"""


def test_what_the_server_imports_starts_no_thread_and_touches_no_gpu():
    """A fork of a process with threads or with CUDA would hang or fail."""
    code = QUIET_SERVER.format(root=str(ROOT), modules=what_a_training_needs())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", "1"]
