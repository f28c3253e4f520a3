"""The progress of a measuring command, with the time left: one bar on a terminal, else one line per piece of work.

Under --quiet nothing is shown.

    progress.begin(["train"] * 8 + ["decode"] * 4, done=["train"])      # the kind of each piece of work
    progress.now("train length 512", "gru")
    progress.done("train")

    progress.begin([""] * 12)                                           # pieces of one kind, one after the other
    progress.next("T 512 forward")
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence


class Progress:
    """Estimates the time left from the last RECENT pieces of each kind.

    guess: seconds of a piece whose kind has none done yet, one number or one per kind.
    """

    RECENT = 8

    def __init__(self, quiet: bool, guess: float | Mapping[str, float], clock=time.perf_counter):
        self.quiet, self.guess, self.clock = quiet, guess, clock
        self.on_terminal = sys.stderr.isatty()
        self.bar, self.seconds, self.waiting, self.where = None, {}, {}, None
        self.total = self.finished = 0

    def begin(self, kinds: Sequence[str], done: Sequence[str] = ()) -> None:
        """kinds: one per piece of work, at most.  done: those that an earlier process has done."""
        self.waiting = {kind: kinds.count(kind) - done.count(kind) for kind in kinds}
        self.total, self.finished = len(kinds), len(done)
        self.last = self.clock()
        if self.on_terminal and not self.quiet:
            from tqdm import tqdm

            self.bar = tqdm(
                total=len(kinds),
                initial=len(done),
                unit="cell",
                dynamic_ncols=True,
                leave=False,
                bar_format="{desc} {percentage:3.0f}%|{bar}| {n}/{total} [{elapsed}, {postfix} left]",
            )
            self.bar.set_postfix_str(words(self.left()))

    def now(self, where: str, what: str = "") -> None:
        """A piece of work begins. The bar shows `where` and `what`; without a terminal a new `where` is one line."""
        if self.bar is not None:
            self.bar.set_description_str(f"{where} {what}".rstrip())
        elif not self.quiet and where != self.where:
            print(
                f"[{min(self.finished + 1, self.total)}/{self.total}] {where}: about {words(self.left())} left",
                file=sys.stderr,
                flush=True,
            )
        self.where = where

    def done(self, kind: str = "") -> None:
        """A piece of work is done, or has a row that says why it is not."""
        now = self.clock()
        self.seconds.setdefault(kind, []).append(now - self.last)
        self.last = now
        self.waiting[kind] -= 1
        self.finished += 1
        if self.bar is not None:
            self.bar.set_postfix_str(words(self.left()), refresh=False)
            self.bar.update(1)

    def next(self, where: str) -> None:
        """The previous piece of work is done, and this one begins."""
        if self.where is not None:
            self.done()
        self.now(where)

    def left(self) -> float:
        """Seconds that the remaining pieces may take."""
        total = 0.0
        for kind, n in self.waiting.items():
            recent = self.seconds.get(kind, [])[-self.RECENT :]
            total += max(0, n) * (sum(recent) / len(recent) if recent else self._guess(kind))
        return total

    def _guess(self, kind: str) -> float:
        return self.guess[kind] if isinstance(self.guess, Mapping) else self.guess

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def words(seconds: float) -> str:
    """'45 s', '3:20', '1:02:00'."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
