"""A busy machine is named once, and an idle one never."""

import os

import pytest
from conftest import TINY_NEEDLE

from src.setup import run
from src.utils import load
from src.utils.load import busy_line, others_now


@pytest.fixture
def runnable(monkeypatch, tmp_path):
    """Call it with how many threads of all programs run now; the last minute was busy in any case."""
    file = tmp_path / "loadavg"
    monkeypatch.setattr(load, "LOADAVG", file)
    monkeypatch.setattr(load, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(os, "getloadavg", lambda: (1000.0, 0.0, 0.0), raising=False)
    return lambda n: file.write_text(f"1000.00 2.66 2.55 {n}/99 2911\n")


@pytest.mark.parametrize(
    ("threads", "running", "processes", "said"),
    [
        (1, 1, 1, False),  # this process itself
        (2, 1, 1, False),
        (1, 2, 1, False),  # another program has a processor of its own
        (2, 2, 1, True),
        (1, 3, 1, True),
        (2, 2, 2, False),  # the other process is one of this run
        (1, 0, 1, False),  # this process was waiting when the system counted
    ],
)
def test_a_machine_is_busy_where_other_programs_leave_too_few_processors(threads, running, processes, said, runnable):
    """It keeps out: a user's own last run, which is over but in the mean of a minute, called another program."""
    runnable(running)
    line = busy_line(threads, processes, cores=2)
    assert bool(line) is said
    if said:
        assert line == (
            f"notice: other programs use this machine ({running - processes:.1f} of 2 processors); the run takes "
            "longer, its results stay the same"
        )


def test_what_runs_is_counted_several_times(runnable, monkeypatch):
    runnable(1)
    left = iter(range(1, load.SAMPLES))
    monkeypatch.setattr(load.time, "sleep", lambda seconds: runnable(1 + next(left, 0) % 2))
    assert others_now() == 0.5


@pytest.mark.parametrize("text", [None, "", "0.1 0.2 0.3", "0.1 0.2 0.3 many 7"])
def test_a_system_that_does_not_tell_what_runs_now_is_asked_for_the_last_minute(text, runnable):
    if text is not None:
        load.LOADAVG.write_text(text)
    assert others_now() is None
    assert busy_line(1, cores=2).startswith("notice: other programs used this machine in the last minute (")
    assert busy_line(1, cores=2).endswith("; the run takes longer if they go on, its results stay the same")


def test_a_system_without_either_number_says_nothing(monkeypatch):
    monkeypatch.delattr(os, "getloadavg", raising=False)
    assert busy_line(1, cores=2) == ""


@pytest.mark.parametrize("flags", [(), ("--seeds_at_once", "2")])
def test_a_run_says_once_that_the_machine_is_busy(flags, runnable, main, monkeypatch):
    """It keeps out: several seeds at once without the notice that one has."""
    runnable(1000)
    monkeypatch.setattr(run.training, "fit", interrupted)
    monkeypatch.setattr(run, "train_together", interrupted)
    words = [word for word in TINY_NEEDLE if word != "--quiet"]
    code, _, err = main(*words, *flags, "--out_dir", "R")
    assert code == 130, err
    assert [line for line in err.splitlines() if "notice: other programs" in line] == [busy_line(1)]


def interrupted(*given):
    raise KeyboardInterrupt
