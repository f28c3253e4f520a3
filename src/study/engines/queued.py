"""What all engines share: jobs that wait, attempts that run, and the outcomes of both, until there is neither."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path

from src.study.engines import Job, Outcome


class Queued:
    """An engine fills in `_fill`, `_conclusions` and `stop`.

    _queue: what waits.  _running: attempts that run, by what they are waited for.  _folders: those of all its jobs.
    """

    def __init__(self, home):
        self.home = Path(home)
        self._queue: deque = deque()
        self._running: dict = {}
        self._folders: set[str] = set()

    def outcomes(self) -> Iterator[Outcome]:
        """The outcomes, each as soon as it is known. KeyboardInterrupt passes through after all attempts have ended."""
        try:
            while self._queue or self._running:
                self._fill()
                for outcome in self._conclusions():
                    if outcome is not None:
                        self._folders.discard(outcome.job.folder)
                        yield outcome
        except KeyboardInterrupt:
            self.stop()
            raise

    def log(self, job: Job) -> Path:
        """The file with what a job printed."""
        return self.home / "logs" / f"{job.folder}.txt"

    def _fill(self) -> None:
        """Start what waits, as far as there is room."""
        raise NotImplementedError

    def _conclusions(self) -> Iterator[Outcome | None]:
        """Wait for attempts that end, and yield what became of each; None where its job is tried once more."""
        raise NotImplementedError

    def stop(self) -> None:
        """End what runs, with its state saved."""
        raise NotImplementedError
