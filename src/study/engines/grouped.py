"""An engine that trains several seeds of one cell at once: jobs that differ in their seed alone become one job.

    with Grouped(engines.make("local", home), most=8) as engine: ...

`train --seeds_at_once` leaves a run directory per seed, so every job still has an outcome of its own. A job that was
begun before goes on alone. So do the jobs of a group that was killed: each continues from its own checkpoint.
Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from src.storage.files import read_json
from src.storage.rundir import RunDir
from src.study.engines import DIVERGED, DONE, FAILED, Engine, Job, Outcome

SEED = "--seed"


class Grouped:
    """engine: what carries the jobs out.  most: seeds of one job."""

    def __init__(self, engine: Engine, most: int):
        self.engine, self.home, self.most = engine, Path(engine.home), most
        self._members: dict[str, Sequence[Job]] = {}  # by the folder of the job that stands for them

    def __enter__(self) -> Grouped:
        self.engine.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self.engine.__exit__(*error)

    def log(self, job: Job) -> Path:
        """The file with what a job printed; that of its group is named after the last job in it."""
        last = next((members[-1] for members in self._members.values() if job in members), job)
        return self.engine.log(last)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs, those that belong together as one."""
        for members in groups(jobs, self.home, self.most):
            if len(members) == 1:
                self.engine.submit(members)
            else:
                self._members[members[-1].folder] = members
                self.engine.submit([at_once(members, self.home)])

    def outcomes(self) -> Iterator[Outcome]:
        """The outcome of each job. The seconds of a group are shared evenly."""
        for outcome in self.engine.outcomes():
            members = self._members.pop(outcome.job.folder, None)
            if members is None:
                yield outcome
                continue
            again = [job for job in members if goes_on(outcome, RunDir(self.home / job.folder))]
            self.engine.submit(again)
            for job in members:
                if job not in again:
                    yield outcome_of(job, outcome, self.home, len(members))


def groups(jobs: Sequence[Job], home: Path, most: int) -> list[list[Job]]:
    """The jobs in their order, as lists of at most `most` that are new and have seeds that follow each other."""
    found: list[list[Job]] = []
    for job in jobs:
        last = found[-1] if found else []
        if last and len(last) < most and _follows(last[-1], job) and _are_new([last[-1], job], home):
            last.append(job)
        else:
            found.append([job])
    return found


def at_once(members: Sequence[Job], home: Path) -> Job:
    """The job that stands for its members. The engine adds the folder of the last one to its words."""
    first, last = members[0], members[-1]
    folders = [str(home / job.folder) for job in members[:-1]]
    words = (*first.words, "--seeds_at_once", str(len(members)), "--out_dir", *folders)
    return Job(f"{first.name}, and {len(members) - 1} more", last.folder, words, resumes=False)


def goes_on(outcome: Outcome, run: RunDir) -> bool:
    """Whether a run of a group that failed was begun and not finished, so that it can continue alone."""
    return outcome.status == FAILED and run.exists and not run.finished


def outcome_of(job: Job, outcome: Outcome, home: Path, members: int) -> Outcome:
    """The outcome of one job of a group. Only the one who finished has a result."""
    run, seconds = RunDir(home / job.folder), outcome.seconds / members
    if run.finished:
        status = DIVERGED if read_json(run.metrics)["status"] == "diverged" else DONE
        return Outcome(job, status, "", seconds, outcome.attempts)
    status = outcome.status if outcome.status not in (DONE, DIVERGED) else FAILED
    return Outcome(job, status, outcome.why, seconds, outcome.attempts, outcome.lost)


def _follows(first: Job, second: Job) -> bool:
    """Whether two jobs are equal but for their seeds, of which the second comes next."""
    one, other = first.words, second.words
    if one[:-2] != other[:-2] or one[-2:-1] != (SEED,) or other[-2:-1] != (SEED,):
        return False
    return int(other[-1]) == int(one[-1]) + 1


def _are_new(jobs: Sequence[Job], home: Path) -> bool:
    return not any(RunDir(home / job.folder).exists for job in jobs)
