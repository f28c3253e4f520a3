"""The local engine: how jobs end, what is tried again, how it stops, and that nothing is left of it.

python -m pytest tests/study/test_local_engine.py
python -m pytest tests/study/test_local_engine.py -m slow        # a killed parent, a time limit, 1,000 jobs

The jobs are functions of tests/engine_jobs.py, so no worker loads torch. Trainings: test_local_trainings.py.
"""

import gc
import importlib.util
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from conftest import ROOT
from engine_parent import parent, until

from src.flags.fields import UserError
from src.storage.files import seal, write_json
from src.study import engines
from src.study.engines import DIVERGED, DONE, FAILED, TIMEOUT, Job
from src.study.engines import local as local_engine
from src.study.engines.local import LocalEngine, how_to_go_on, last_words, what_a_training_needs
from src.utils.interrupts import Interrupts

LIGHT = ("pytest", "src.study.engines.worker")  # a server that starts at once


def light(home, **more) -> LocalEngine:
    """An engine whose jobs are actions of tests/engine_jobs.py."""
    return LocalEngine(home, **{"workers": 2, "target": "engine_jobs:act", "preload": LIGHT, **more})


def jobs(*actions) -> list[Job]:
    """A job per action, each in a folder of its own; a word after the action is an argument of it."""
    return [Job(action, f"runs/{n}-{action.split()[0]}", tuple(action.split())) for n, action in enumerate(actions)]


def run(engine, *actions) -> dict[str, engines.Outcome]:
    """{action: its outcome}."""
    with engine:
        engine.submit(jobs(*actions))
        return {outcome.job.name: outcome for outcome in engine.outcomes()}


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """The outcomes of one job of each kind, on one engine."""
    home = tmp_path_factory.mktemp("ended")
    actions = ("end 0", "end 3", "end 7", "say", "break_down", "kill_itself", "kill_itself_once", "lack_memory_once")
    return home, run(light(home), *actions)


@pytest.mark.parametrize(
    ("action", "status", "why", "attempts"),
    [
        ("end 0", DONE, "", 1),
        ("end 3", DIVERGED, "", 1),
        ("end 7", FAILED, "ended with exit code 7", 1),
        ("say", FAILED, "--lr: got 7, allowed: less", 1),
        ("break_down", FAILED, "in two lines", 1),
        ("kill_itself", FAILED, "was killed by SIGKILL", 2),
        ("kill_itself_once", DONE, "", 2),
        ("lack_memory_once", DONE, "", 2),
    ],
)
def test_a_job_ends_as_its_command_did(action, status, why, attempts, ended):
    outcome = ended[1][action]
    assert (outcome.status, outcome.why, outcome.attempts) == (status, why, attempts)


def test_what_a_job_prints_is_in_its_log_and_nothing_is_in_its_folder(ended):
    home, _ = ended
    assert (home / "logs/runs/3-say.txt").read_text().splitlines() == [
        "said",
        "error: --lr: got 7, allowed: less",
        "a last line",
    ]
    assert "RuntimeError: broken" in (home / "logs/runs/4-break_down.txt").read_text()
    assert not (home / "runs/3-say").exists()


def test_a_job_sees_the_folder_and_the_environment_of_its_parent(tmp_path, monkeypatch):
    """Also what the parent changed after the server was started."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEEN", "yes")
    run(light("home", threads=3), "tell")
    seen = Path("home/runs/0-tell/seen").read_text().splitlines()
    assert seen == [str(tmp_path), "3", "yes"]
    assert Path("home/runs/0-tell/words").read_text() == "tell --out_dir home/runs/0-tell --quiet"


@pytest.mark.slow
def test_a_job_that_takes_too_long_is_interrupted_and_one_that_goes_on_is_killed(tmp_path, monkeypatch):
    """Long enough for the job to begin; it is not tried again."""
    monkeypatch.setattr(local_engine, "GRACE_SECONDS", 4)
    found = run(light(tmp_path, timeout=5), "wait", "refuse_to_stop")
    assert {(o.status, o.why, o.attempts) for o in found.values()} == {(TIMEOUT, "took longer than 5 s", 1)}
    assert (tmp_path / "runs/0-wait/saved").exists()
    assert (tmp_path / "runs/stubborn").exists()


def test_more_jobs_may_be_submitted_in_between(tmp_path):
    seen = []
    with light(tmp_path) as engine:
        engine.submit([Job("a", "a", ("end", "0"))])
        for outcome in engine.outcomes():
            seen.append(outcome.job.name)
            if outcome.job.name == "a":
                engine.submit([Job("b", "b", ("end", "0"))])
    assert seen == ["a", "b"]


def test_an_exception_of_the_caller_stops_the_workers(tmp_path):

    def fail() -> None:
        with light(tmp_path) as engine:
            engine.submit(jobs("wait", "end 0"))
            next(engine.outcomes())
            until((tmp_path / "runs/0-wait/begun").exists)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (tmp_path / "runs/0-wait/saved").exists()


@pytest.mark.parametrize("folder", ["", "/x/y", "../x", "a/../../x"])
def test_a_folder_outside_of_home_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="allowed: a path below"):
        light(tmp_path).submit([Job("a", folder, ())])


def test_two_jobs_never_write_to_one_folder(tmp_path):
    with light(tmp_path) as engine:
        engine.submit([Job("a", "runs/a", ("end", "0"))])
        with pytest.raises(ValueError, match="for two jobs"):
            engine.submit([Job("b", "runs/a", ("end", "0"))])
        assert [o.status for o in engine.outcomes()] == [DONE]
        engine.submit([Job("a", "runs/a", ("end", "3"))])  # the first one has ended
        assert [o.status for o in engine.outcomes()] == [DIVERGED]


@pytest.mark.parametrize(
    ("files", "flags"),
    [
        ((), []),
        (("log",), []),  # no config.json: it counts as new
        (("config",), ["--resume"]),
        (("config", "ckpt.pt"), ["--resume"]),
        (("damaged",), ["--overwrite"]),
        (("damaged", "ckpt.pt"), ["--resume"]),  # which says what is wrong; a checkpoint is never thrown away
    ],
)
def test_a_run_goes_on_from_what_is_in_its_folder(files, flags, tmp_path):
    for name in files:
        if name == "config":
            write_json(tmp_path / "config.json", seal({"args": {}}))
        else:
            (tmp_path / ("config.json" if name == "damaged" else name)).write_text('{"args"')
    assert how_to_go_on(Job("a", "a", ()), tmp_path) == flags
    assert how_to_go_on(Job("a", "a", (), resumes=False), tmp_path) == []


def test_the_last_error_of_a_log_is_the_reason(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"x" * 100_000 + b"\nerror: one\nerror: two\nTraceback\n  File\nValueError: no\n\n")
    assert last_words(log) == "two"
    log.write_bytes(b"Traceback\n  File\nValueError: \xff no\n\n")
    assert last_words(log) == "ValueError: \ufffd no"
    assert last_words(tmp_path / "missing") == ""


def test_without_a_server_each_run_starts_an_interpreter(tmp_path, monkeypatch):
    monkeypatch.setattr(local_engine.multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    assert run(light(tmp_path), "kill_itself_once")["kill_itself_once"].status == DONE


def test_a_server_that_ends_is_replaced_and_named(tmp_path, monkeypatch, capsys):
    class Broken:
        class Process:
            def __init__(self, **arguments):
                pass

            def start(self):
                raise EOFError

        def get_start_method(self):
            return "forkserver"

    monkeypatch.setattr(local_engine, "_forking", lambda *arguments: Broken())
    assert run(light(tmp_path), "end 3")["end 3"].status == DIVERGED
    assert "notice: runs start slower" in capsys.readouterr().err


def test_a_worker_that_lost_its_server_is_gone_before_it_is_tried_again(tmp_path, monkeypatch):
    """Else the new attempt would find the folder locked by the old one."""
    seen = []
    with light(tmp_path, workers=1) as engine:
        engine.submit(jobs("wait"))
        outcomes = engine.outcomes()
        threading.Thread(target=lambda: seen.append(next(outcomes))).start()
        until((tmp_path / "runs/0-wait/begun").exists)
        first = int((tmp_path / "runs/0-wait/begun").read_text())
        server = int(Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(server, signal.SIGKILL)
        until(lambda: (tmp_path / "runs/0-wait/begun").read_text() not in ("", str(first)))
        assert not is_alive(first)
        os.kill(int((tmp_path / "runs/0-wait/begun").read_text()), signal.SIGKILL)
        until(lambda: seen)
    assert (seen[0].status, seen[0].attempts) == (FAILED, 2)


def test_a_request_to_stop_waits_for_the_end_of_a_held_block():
    done = []

    def work() -> None:
        with Interrupts() as interrupts:
            with interrupts.held():
                os.kill(os.getpid(), signal.SIGTERM)
                done.append("held")
            done.append("never")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["held"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_signal_that_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_unknown_engine_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"--engine: got 'locl', allowed: .*did you mean 'local'"):
        engines.make("locl", tmp_path)
    assert isinstance(engines.make("local", tmp_path, workers=3), LocalEngine)


def test_there_are_as_many_workers_as_the_cores_allow(tmp_path, monkeypatch):
    monkeypatch.setattr(local_engine, "usable_cores", lambda: 6)
    assert [LocalEngine(tmp_path, threads=n).workers for n in (0, 1, 2, 4, 7)] == [6, 6, 3, 1, 1]


def test_every_module_that_the_server_imports_exists():
    """The server passes over a name that it cannot import."""

    def exists(name: str) -> bool:
        top, path = name.partition(".")[0], ROOT / name.replace(".", "/")
        ours = top in ("src", "dataset", "benchmark")
        return (
            (path.with_suffix(".py").exists() or path.is_dir()) if ours else importlib.util.find_spec(top) is not None
        )

    assert [name for name in what_a_training_needs() if not exists(name)] == []


def left_of(engine) -> tuple:
    """(open files, threads, child processes) of this process."""
    gc.collect()
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    found = children.read_text().split() if children.exists() else []
    return len(os.listdir("/proc/self/fd")), threading.active_count(), len(found)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize("n", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_jobs_leave_no_file_thread_or_process(n, tmp_path):
    import resource

    with light(tmp_path) as engine:
        for round_number, count in enumerate((4, n)):
            engine.submit([Job(f"{round_number}-{i}", f"{round_number}/{i}", ("end", "0")) for i in range(count)])
            assert {o.status for o in engine.outcomes()} == {DONE}
            if not round_number:  # the server is running now
                before = left_of(engine), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        after = left_of(engine), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after[0] == before[0]
    assert after[1] - before[1] < 8 * 1024  # KiB


def of_session(process) -> list[str]:
    """The processes in the session of `process`: its server is, its workers are not."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,sid,args"], capture_output=True, text=True, timeout=20).stdout
    return [line for line in listed.splitlines() if line.split()[2] == str(process.pid)]


def is_alive(pid: int) -> bool:
    """Whether a process runs. One that has ended may stay listed (Z) until its new parent clears it away."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


SIGNALS = ["SIGTERM", *(pytest.param(name, marks=pytest.mark.slow) for name in ("SIGINT", "SIGHUP"))]


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_to_the_parent_interrupts_the_jobs_and_nothing_is_left(name, tmp_path):
    home = tmp_path / "home"
    process = parent(home, ("wait",), f", target='engine_jobs:act', preload={LIGHT!r}, logs=False, quiet=False")
    until(lambda: all((home / n / "begun").exists() for n in "ab"))
    process.send_signal(getattr(signal, name))
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "waiting\nwaiting\n")
    assert all((home / n / "saved").exists() for n in "ab")
    assert not any(is_alive(int((home / n / "begun").read_text())) for n in "ab")
    until(lambda: not of_session(process))


@pytest.mark.slow
@pytest.mark.parametrize("action", ["wait", "refuse_to_stop"])
def test_no_worker_outlives_a_parent_that_was_killed(action, tmp_path):
    """Both end within about two seconds: the one that saves, and the one that does not stop."""
    home = tmp_path / "home"
    process = parent(home, (action,), f", target='engine_jobs:act', preload={LIGHT!r}")
    marks = [home / n / "begun" for n in "ab"] if action == "wait" else [home / "stubborn"]
    until(lambda: all(mark.exists() for mark in marks))
    time.sleep(1)
    listed = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    workers = [
        int(pid)
        for server in listed
        for pid in subprocess.run(["pgrep", "-P", server], capture_output=True, text=True).stdout.split()
    ]
    assert len(workers) == 2
    process.kill()
    process.wait()
    until(lambda: not any(map(is_alive, workers)), seconds=10)  # the system may be slow to clear away what has ended


@pytest.mark.parametrize("named", [False, True])
def test_jobs_share_a_folder_for_what_they_draw_and_it_is_gone_afterwards(named, tmp_path, monkeypatch):
    """A folder that the environment names comes first, and stays."""
    folder = tmp_path / ("named" if named else "drawn")
    folder.mkdir()
    monkeypatch.delenv("SEQ_BENCH_DRAWN", raising=False)
    if named:
        monkeypatch.setenv("SEQ_BENCH_DRAWN", str(folder))
    with light(tmp_path, drawn=tmp_path / "drawn") as engine:
        assert engine.environment()["SEQ_BENCH_DRAWN"] == str(folder)
    assert folder.exists() == named


def test_jobs_of_an_engine_without_such_a_folder_draw_themselves(tmp_path, monkeypatch):
    monkeypatch.delenv("SEQ_BENCH_DRAWN", raising=False)
    assert "SEQ_BENCH_DRAWN" not in light(tmp_path).environment()
