"""A busy machine is named once, and an idle one never."""

import os

import pytest

from src.utils.load import busy_line


@pytest.mark.parametrize(
    ("threads", "load", "own", "said"),
    [
        (1, 0.0, 0.0, False),
        (2, 0.3, 0.0, False),  # small jobs of the system
        (1, 1.0, 0.0, False),  # another program has a processor of its own
        (2, 1.0, 0.0, True),
        (1, 2.0, 0.0, True),
        (2, 1.0, 0.9, False),  # the load is that of this process
    ],
)
def test_a_machine_is_busy_where_other_programs_leave_too_few_processors(threads, load, own, said):
    line = busy_line(threads, lambda: load, cores=2, own=own)
    assert bool(line) is said
    if said:
        assert line == (
            f"notice: other programs use this machine ({load - own:.1f} of 2 processors); the run takes longer, its "
            "results stay the same"
        )


def test_a_system_without_a_load_average_says_nothing(monkeypatch):
    monkeypatch.delattr(os, "getloadavg", raising=False)
    assert busy_line(1000) == ""


def test_the_load_of_the_system_is_asked_for(monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (1000.0, 0.0, 0.0), raising=False)
    assert busy_line(1).startswith("notice: other programs use this machine (")
