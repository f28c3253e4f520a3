"""The Ray engine on a real cluster of this machine: two nodes, a node that is killed, an interrupt, a second attempt.

python -m pytest tests/study/test_ray_engine.py -m slow          # needs requirements-cluster.txt
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import pytest
from conftest import ROOT, TINY
from run_content import content

from src.flags.fields import UserError
from src.storage.env import git_commit
from src.storage.files import read_json
from src.study.engines import DONE, FAILED, TIMEOUT, Job, make

pytest.importorskip("ray", reason="pip install -r requirements-cluster.txt")
pytestmark = pytest.mark.slow

TRAINING = ("--task", "needle", "--model", "gru", *TINY[:-1])
LONG = (*TRAINING, "--max_steps", "1500")
START = """
import sys
sys.path[:0] = [{root!r}]
from src.study.engines import Job, make

if __name__ == "__main__":
    try:
        with make("ray", {home!r}, workers=1) as engine:
            engine.submit([Job("a", {folder!r}, {words!r})])
            for outcome in engine.outcomes():
                print(outcome)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.fixture
def cluster():
    """An empty cluster: its head has no CPU. Tests add nodes."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield made
    made.shutdown()


def until(true, seconds=240.0) -> None:
    """Wait for something, at most `seconds`: a cluster starts slowly on a busy machine."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


def begun(folder) -> bool:
    """Whether a run has made a step, on a node of this machine."""
    return any(Path(tempfile.gettempdir()).glob(f"seq-bench-*/{folder}/metrics.jsonl"))


def test_two_nodes_leave_the_bytes_of_the_local_engine(cluster, tmp_path):
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    jobs = [Job(f"gru {n}", f"runs/{n}", (*TRAINING, "--seed", str(n))) for n in range(3)]
    wrong = Job("wrong", "runs/wrong", (*TRAINING, "--n_head", "3", "--model", "transformer"))
    with make("ray", tmp_path / "ray", address=cluster.address) as engine:
        engine.submit([*jobs, wrong])
        found = {outcome.job.name: outcome for outcome in engine.outcomes()}
        with pytest.raises(UserError, match="needs 1 GPU, but the cluster has 0"):
            engine.submit([Job("b", "b", (*TRAINING, "--device", "cuda"))])
    assert {found[job.name].status for job in jobs} == {DONE}
    assert found["wrong"].status == FAILED
    assert "n_head" in found["wrong"].why
    assert "n_head" in engine.log(wrong).read_text()
    with make("local", tmp_path / "local", workers=1) as engine:
        engine.submit(jobs)
        assert {outcome.status for outcome in engine.outcomes()} == {DONE}
    for job in jobs:
        assert content(tmp_path / "ray" / job.folder) == content(tmp_path / "local" / job.folder)
        assert read_json(tmp_path / "ray" / job.folder / "env.json")["commit"] == (git_commit() or [None])[0]


def test_a_job_whose_node_is_killed_runs_again_on_another(cluster, tmp_path):
    first = cluster.add_node(num_cpus=1)
    with make("ray", tmp_path / "ray", address=cluster.address) as engine:
        folder = f"killed-{os.getpid()}/a"
        engine.submit([Job("a", folder, LONG)])
        outcomes = engine.outcomes()
        engine._start(engine._queue.popleft())
        until(lambda: begun(folder))
        cluster.remove_node(first, allow_graceful=False)
        cluster.add_node(num_cpus=1)
        (outcome,) = outcomes
    assert (outcome.status, outcome.attempts) == (DONE, 2), outcome.why
    with make("local", tmp_path / "local", workers=1) as engine:
        engine.submit([Job("a", "a", LONG)])
        assert [o.status for o in engine.outcomes()] == [DONE]
    assert content(tmp_path / "ray" / folder) == content(tmp_path / "local/a")


def test_a_job_that_takes_too_long_comes_back_with_its_state_and_goes_on(cluster, tmp_path):
    cluster.add_node(num_cpus=1)
    job = Job("a", "a", (*TRAINING, "--max_steps", "200000"))
    steps = []
    for _ in range(2):
        with make("ray", tmp_path, address=cluster.address, timeout=15) as engine:
            engine.submit([job])
            assert [(o.status, o.why) for o in engine.outcomes()] == [(TIMEOUT, "took longer than 15 s")]
        steps.append((tmp_path / "a/metrics.jsonl").read_text().count("\n"))
    assert 0 < steps[0] < steps[1]


def started_with(mark: str) -> list[str]:
    """The processes that have this text in their environment: those that a command started, and what these started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            found += [path.parent.name] if mark.encode() in path.read_bytes() else []
    return found


@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])
def test_nothing_is_left_of_a_command_that_was_stopped(name, tmp_path):
    """After Ctrl-C the state is here, and the same command goes on."""
    home = tmp_path / "home"
    script = tmp_path / "start.py"
    words = (*TRAINING, "--max_steps", "200000")
    folder = f"stopped-{os.getpid()}-{name}/a"
    script.write_text(START.format(root=str(ROOT), home=str(home), folder=folder, words=words))
    mark = str(uuid.uuid4())
    environ = {**os.environ, "MARK_OF_THE_TEST": mark}
    process = subprocess.Popen([sys.executable, str(script)], start_new_session=True, env=environ)
    until(lambda: begun(folder))
    assert len(started_with(mark)) > 3
    os.kill(process.pid, getattr(signal, name))
    assert process.wait(timeout=120) == (130 if name == "SIGINT" else -signal.SIGKILL)
    until(lambda: not started_with(mark))
    assert (home / folder / "ckpt.pt").exists() is (name == "SIGINT")
