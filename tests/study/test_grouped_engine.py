"""Several seeds as one job: every run keeps an outcome of its own, and what was begun goes on alone.

python -m pytest tests/study/test_grouped_engine.py
"""

from pathlib import Path

import pytest

from src.storage.files import seal, write_json
from src.study.engines import DIVERGED, DONE, FAILED, TIMEOUT, Job, Outcome
from src.study.engines.grouped import Grouped, groups


def job(seed, lr="0.1"):
    words = ("--task", "copy", "--lr", lr, "--seed", str(seed))
    return Job(f"copy: lr {lr}, seed {seed}", f"runs/{lr}-{seed}", words)


class Recorded:
    """An engine that ends every job as `ending` says, and keeps what it was given."""

    def __init__(self, home, ending):
        self.home, self.ending, self.given, self.waiting = home, ending, [], []

    def submit(self, jobs):
        self.given += jobs
        self.waiting += jobs

    def outcomes(self):
        while self.waiting:
            one = self.waiting.pop(0)
            yield Outcome(one, *self.ending(one), seconds=6.0)


def folders_of(one: Job, home) -> list[Path]:
    """The folders that a job trains into: those it names, and its own."""
    named = one.words[one.words.index("--out_dir") + 1 :] if "--out_dir" in one.words else ()
    return [*map(Path, named), home / one.folder]


def leave(folder: Path, status: str | None):
    """A run directory that is finished, or only begun (None)."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", seal({"args": {}}))
    if status:
        write_json(folder / "metrics.json", {"status": status})


def test_jobs_with_seeds_in_a_row_are_one_job_with_a_folder_each(tmp_path):
    def train(one):
        for folder, status in zip(folders_of(one, tmp_path), ("done", "diverged", "done"), strict=True):
            leave(folder, status)
        return DIVERGED, ""

    engine = Grouped(Recorded(tmp_path, train), most=8)
    engine.submit([job(11), job(12), job(13)])
    (given,) = engine.engine.given
    assert given.words == (
        *("--task", "copy", "--lr", "0.1", "--seed", "11", "--seeds_at_once", "3"),
        *("--out_dir", str(tmp_path / "runs/0.1-11"), str(tmp_path / "runs/0.1-12")),
    )
    found = [(o.job.name[-2:], o.status, o.seconds) for o in engine.outcomes()]
    assert found == [("11", DONE, 2.0), ("12", DIVERGED, 2.0), ("13", DONE, 2.0)]


def test_other_rates_gaps_between_seeds_and_full_groups_begin_a_new_job(tmp_path):
    jobs = [job(1), job(2), job(4), job(5, "0.3"), *(job(s, "0.3") for s in (6, 7, 8))]
    assert [[j.words[-1] for j in g] for g in groups(jobs, tmp_path, 3)] == [["1", "2"], ["4"], ["5", "6", "7"], ["8"]]


def test_a_run_that_was_begun_goes_on_alone(tmp_path):
    leave(tmp_path / job(12).folder, None)
    assert [len(g) for g in groups([job(11), job(12), job(13), job(14)], tmp_path, 8)] == [1, 1, 2]


def test_after_a_kill_the_runs_that_were_begun_go_on_alone_and_none_is_lost(tmp_path):
    def die(one):
        if "--seeds_at_once" in one.words:
            leave(folders_of(one, tmp_path)[0], "done")
            leave(folders_of(one, tmp_path)[1], None)
            leave(folders_of(one, tmp_path)[2], None)
            return FAILED, "was killed by SIGKILL"
        leave(tmp_path / one.folder, "done")
        return DONE, ""

    engine = Grouped(Recorded(tmp_path, die), most=8)
    engine.submit([job(11), job(12), job(13)])
    assert [(o.job.words[-1], o.status) for o in engine.outcomes()] == [("11", DONE), ("12", DONE), ("13", DONE)]
    assert engine.engine.given[1:] == [job(12), job(13)]


@pytest.mark.parametrize(("status", "why"), [(FAILED, "--seeds_at_once: got 2"), (TIMEOUT, "took longer than 5 s")])
def test_a_group_that_never_began_or_took_too_long_is_a_hole_for_each_of_its_jobs(tmp_path, status, why):
    engine = Grouped(Recorded(tmp_path, lambda one: (status, why)), most=8)
    engine.submit([job(11), job(12)])
    assert [(o.job, o.status, o.why) for o in engine.outcomes()] == [(job(11), status, why), (job(12), status, why)]
