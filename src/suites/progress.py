"""The progress of a suite: one bar over all its cells with the time left, on a terminal; a line a point elsewhere; nothing under --quiet."""

from __future__ import annotations

import sys
import time


class Progress:
    """guess: seconds of a cell of a panel of which none is measured yet; the others go by the mean of their last RECENT cells."""

    RECENT = 8

    def __init__(self, quiet: bool, guess: float, clock=time.perf_counter):
        self.quiet, self.guess, self.clock = quiet, guess, clock
        self.on_terminal = sys.stderr.isatty()
        self.bar, self.seconds, self.waiting, self.point = None, {}, {}, None

    def begin(self, panels: list[str], done: list[str]) -> None:
        """panels: the panel of every cell; done: of those that are measured already."""
        self.waiting = {panel: panels.count(panel) - done.count(panel) for panel in panels}
        self.started = self.last = self.clock()
        if self.on_terminal and not self.quiet:
            from tqdm import tqdm

            self.bar = tqdm(total=len(panels), initial=len(done), unit="cell", dynamic_ncols=True, leave=False,
                            bar_format="{desc} {percentage:3.0f}%|{bar}| {n}/{total} [{elapsed}, {postfix} left]")
            self.bar.set_postfix_str(words(self.left()))

    def now(self, cell) -> None:
        """A cell is about to be measured. cell: has panel.name, name and point.x."""
        where = f"{cell.panel.name} {cell.panel.x_name} {cell.point.x:,}" + (f" batch {cell.point.batch}" if cell.panel.name == "decode" else "")
        if self.bar is not None:
            self.bar.set_description_str(f"{where} {cell.name}")
        elif not self.quiet and where != self.point:
            print(f"{where}: about {words(self.left())} left", file=sys.stderr, flush=True)
        self.point = where

    def done(self, cell) -> None:
        """A cell is measured, or has a row that says why not."""
        now = self.clock()
        self.seconds.setdefault(cell.panel.name, []).append(now - self.last)
        self.last = now
        self.waiting[cell.panel.name] -= 1
        if self.bar is not None:
            self.bar.set_postfix_str(words(self.left()), refresh=False)
            self.bar.update(1)

    def left(self) -> float:
        """Seconds that the remaining cells may take."""
        total = 0.0
        for panel, n in self.waiting.items():
            recent = self.seconds.get(panel, [])[-self.RECENT:]
            total += n * (sum(recent) / len(recent) if recent else self.guess)
        return total

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
