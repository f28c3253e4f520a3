"""The local engine without its processes, for tests of the commands that use it: faster, and patches reach the runs.

    monkeypatch.setattr(parts, "one_by_one", in_process(runner))

runner(words, quiet) runs a command line and returns its exit code; below 0 it says which signal killed the run.
"""

import time

from src.study.engines.local import Attempt, LocalEngine


class InProcess(LocalEngine):
    """Hands the words of each job to `runner`, one after the other."""

    def __init__(self, home, quiet, runner):
        super().__init__(home, workers=1, threads=0, quiet=quiet, logs=False)
        self.runner = runner

    def outcomes(self):
        while self._queue:
            job, number = self._queue.popleft()
            attempt = Attempt(job, number, process=None, control=None, began=time.monotonic())
            outcome = self._conclude(attempt, self.runner(self.command(job), self.quiet))
            if outcome is not None:
                self._folders.discard(job.folder)
                yield outcome


def in_process(runner):
    """What makes such an engine, as `Parts` calls it."""
    return lambda home, quiet: InProcess(home, quiet, runner)
