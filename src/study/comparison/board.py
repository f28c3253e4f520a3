"""What a comparison shows while it runs: one bar over all runs with the time left, and one line per finished run.

Under --quiet nothing is shown. Without a terminal there is no bar, and each line carries the time left.
"""

from __future__ import annotations

import sys
import time

from src.measure.progress import words as time_words


class Board:
    """seconds_of: {run's label: the seconds that it is expected to take}.  workers: runs at the same time."""

    def __init__(self, quiet: bool, workers: int, clock=time.monotonic):
        self.quiet, self.workers, self.clock = quiet, workers, clock
        self.expected = self.taken = 0.0  # of the runs that ended in this process
        self.bar, self.total, self.finished, self.before = None, 0, 0, 0

    def begin(self, total: int, seconds_left: float) -> None:
        """total: the runs that are needed at least; `update` may raise it.  seconds_left: of one worker."""
        self.total = total
        if not self.quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(
                total=total,
                unit="run",
                dynamic_ncols=True,
                leave=False,
                bar_format="{percentage:3.0f}%|{bar}| {n}/{total} runs [{elapsed}{postfix}]",
            )
            self.update(total, seconds_left)

    def update(self, total: int, seconds_left: float) -> None:
        """The runs that the plan has by now, and the seconds of one worker that the remaining ones may take."""
        left = self.left(seconds_left)
        self.total = total
        if self.bar is not None:
            self.bar.total = total
            self.bar.set_postfix_str(f"about {time_words(left)} left")

    def left(self, seconds_left: float) -> float:
        """Seconds until the end: the guess, corrected by what the finished runs took, over all workers."""
        ratio = self.taken / self.expected if self.expected else 1.0
        return seconds_left * ratio / max(1, self.workers)

    def found(self) -> None:
        """A run that was finished before is verified. How many there are is one line, before the next finished run."""
        self.finished, self.before = self.finished + 1, self.before + 1
        if self.bar is not None:
            self.bar.update(1)

    def say_found(self) -> None:
        """The line about runs that were finished before, if there are any that it has not named yet."""
        if self.before:
            count, self.before = self.before, 0
            self.say(f"{count} run{'' if count == 1 else 's'} finished before, verified and kept")

    def done(self, text: str, expected: float, taken: float, seconds_left: float) -> None:
        """A run has ended. taken: its seconds."""
        self.say_found()
        self.finished += 1
        self.expected, self.taken = self.expected + expected, self.taken + taken
        if self.bar is not None:
            self.bar.update(1)
            self.bar.write(text, file=sys.stderr)
        elif not self.quiet:
            left = f"  about {time_words(self.left(seconds_left))} left" if seconds_left else ""
            self._print(f"[{self.finished}/{max(self.total, self.finished)}] {text}{left}")

    def say(self, text: str) -> None:
        """One line that belongs to no run."""
        if self.bar is not None:
            self.bar.write(text, file=sys.stderr)
        elif not self.quiet:
            self._print(text)

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    @staticmethod
    def _print(text: str) -> None:
        print(text, file=sys.stderr, flush=True)
