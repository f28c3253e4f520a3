"""Engines: where the runs of a comparison are carried out. All of them take the same jobs and leave the same files.

    with make("local", home, workers=2, timeout=0) as engine:
        engine.submit(jobs)
        for outcome in engine.outcomes():      # as they end; more jobs may be submitted in between
            ...

A job is one training run: a command line of `train` and a folder below `home`. An engine continues a run that was begun
there. It tries a run that was killed, or that ran out of memory, once more. What a run cannot do a second time either
is an outcome too, never an exception. KeyboardInterrupt (Ctrl-C, SIGTERM, SIGHUP) passes through `outcomes`, after all
workers have saved their state and ended. Nothing here imports torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from src.flags.kinds import UserError, suggest

DONE, DIVERGED, FAILED, TIMEOUT = "done", "diverged", "failed", "timeout"
ATTEMPTS = 2


@dataclass(frozen=True)
class Job:
    """One training run.

    name: what is printed about it.  folder: below the engine's home.  words: the command line of `train`, without
    --out_dir, --resume and --quiet.  resumes: False for another command, which continues without a flag.
    """

    name: str
    folder: str
    words: tuple[str, ...]
    resumes: bool = True


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    status: DONE, DIVERGED, FAILED or TIMEOUT.  why: the last line that a failed run printed, or how it was killed.
    seconds: from its start to its end, of the last attempt.  attempts: 1 or 2.
    lost: it was killed or ran out of memory, so another attempt may succeed.
    """

    job: Job
    status: str
    why: str = ""
    seconds: float = 0.0
    attempts: int = 1
    lost: bool = False


def check_folder(job: Job, taken: Collection[str]) -> None:
    """ValueError for a folder that is not below the engine's home, or that another job is writing to (`taken`)."""
    folder = Path(job.folder)
    if folder.is_absolute() or ".." in folder.parts or not folder.parts:
        raise ValueError(f"folder: got '{job.folder}', allowed: a path below the engine's home")
    if job.folder in taken:
        raise ValueError(f"folder: got '{job.folder}' for two jobs, allowed: a folder for each job")


class Engine(Protocol):
    """A place that carries out jobs. It is a context manager, whose end stops what still runs."""

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs. They run in this order, as soon as a worker is free."""

    def outcomes(self) -> Iterator[Outcome]:
        """The outcomes of all jobs, each as soon as it is known, until none is queued or running."""

    def __enter__(self) -> Engine: ...

    def __exit__(self, *error) -> None: ...


ENGINES = {"local": "src.study.engines.local:LocalEngine", "ray": "src.study.engines.ray:RayEngine"}


def make(name: str, home, **settings) -> Engine:
    """The engine of this name, imported when it is used. settings: of its class. UserError for another name."""
    if name not in ENGINES:
        raise UserError(f"--engine: got '{name}', allowed: {', '.join(ENGINES)}{suggest(name, ENGINES)}")
    module, _, engine = ENGINES[name].partition(":")
    return getattr(importlib.import_module(module), engine)(home, **settings)
