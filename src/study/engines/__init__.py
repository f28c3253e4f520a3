"""Engines: where the runs of a comparison are carried out. All of them take the same jobs and leave the same files.

    with make("local", home, workers=2) as engine:
        engine.submit(jobs)
        for outcome in engine.outcomes():      # as they end; more jobs may be submitted in between
            ...

A job is one training run: a command line of `train` and a folder below `home`. An engine continues a run that was begun
there. It tries a run that was killed, or that ran out of memory, once more. What a run cannot do a second time either
is an outcome too, never an exception. KeyboardInterrupt passes through `outcomes`, after all workers have ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

DONE, DIVERGED, FAILED, TIMEOUT = "done", "diverged", "failed", "timeout"


@dataclass(frozen=True)
class Job:
    """One training run.

    name: what is printed about it.  folder: below the engine's home.  words: the command line of `train`, without
    --out_dir, --resume and --quiet.
    """

    name: str
    folder: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    status: DONE, DIVERGED, FAILED or TIMEOUT.  why: the last line that a failed run printed, or how it was killed.
    seconds: from its start to its end, of the last attempt.  attempts: 1 or 2.
    """

    job: Job
    status: str
    why: str = ""
    seconds: float = 0.0
    attempts: int = 1


class Engine(Protocol):
    """A place that carries out jobs. It is a context manager, whose end stops what still runs."""

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs. They run in this order, as soon as a worker is free."""

    def outcomes(self) -> Iterator[Outcome]:
        """The outcomes of all jobs, each as soon as it is known, until none is queued or running."""

    def __enter__(self) -> Engine: ...

    def __exit__(self, *error) -> None: ...
