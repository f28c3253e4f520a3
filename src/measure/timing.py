"""How long something takes: warm-up, then repeats until the median is known to 5 % or the cell's time is spent.

    cells = {"gru": Cell(step_of_gru, limits, sync), "lstm": Cell(step_of_lstm, limits, sync)}
    for name, outcome in interleave(cells):      # timed alternately; each comes as soon as it is done
        outcome.values                           # of a Sample; or outcome is the Exception that ended this cell

Timing alternately means that a change of the machine's speed affects all cells alike.

The first call is timed apart (`first`), because it compiles, fills caches and allocates. Further warm-up calls follow
as long as they are short. A cell is settled when it has `enough` repeats and half the width of the interval of its
median is at most `target` of the median. Otherwise it ends when `seconds` are spent, but not below `least` repeats, or
after `most` repeats. The interval is that of order statistics (David & Nagaraja, "Order Statistics", 3rd ed., section
7.1). It assumes no distribution.

Nothing here imports torch: `sync` is whatever waits for the device (`sync_for`), and `clock` is any function that
returns seconds.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from src.stats.medians import LEVEL, median_interval, quantile

WARMUPS = 2  # calls after the first one, as long as they take at most WARMUP_SHARE of the budget
WARMUP_SHARE = 0.1
CPUINFO = Path("/proc/cpuinfo")
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


@dataclass(frozen=True)
class Limits:
    """When a cell ends.

    seconds: budget of repeats and warm-up calls together, without the first call.
    least, enough, most: numbers of repeats.  target: a share of the median.
    """

    seconds: float = 5.0
    least: int = 3
    enough: int = 10
    most: int = 200
    target: float = 0.05

    def __post_init__(self):
        if not (1 <= self.least <= self.enough <= self.most and self.seconds >= 0 and self.target > 0):
            raise ValueError(f"limits: got {self}, allowed: seconds >= 0, 1 <= least <= enough <= most and target > 0")


@dataclass(frozen=True)
class Sample:
    """The repeats of one cell.

    parts: seconds of each repeat, in order; several parts if the action times them itself.
    first: seconds of the first call, which is in no median.  warmups: further calls that are thrown away.
    stopped: why it ended: settled, budget or most.
    """

    parts: dict[str, tuple[float, ...]]
    first: dict[str, float | None]
    warmups: int
    stopped: str

    def of(self, part: str) -> Sample:
        """The sample of one part alone."""
        return Sample({"": self.parts[part]}, {"": self.first.get(part)}, self.warmups, self.stopped)

    @property
    def values(self) -> tuple[float, ...]:
        (values,) = self.parts.values()
        return values

    @property
    def first_seconds(self) -> float | None:
        """None for a part that the first call did not have."""
        (first,) = self.first.values()
        return first


def is_settled(values, limits: Limits) -> bool:
    """Whether the median of these repeats is known well enough."""
    if len(values) < limits.enough:
        return False
    low, high, coverage = median_interval(values)
    return coverage >= LEVEL and (high - low) / 2 <= limits.target * quantile(values, 0.5)


@dataclass
class Cell:
    """One thing to time.

    action(): runs it once. If it returns a dict {part: seconds}, it has timed itself; other results are thrown away.
    """

    action: Callable[[], object]
    limits: Limits = field(default_factory=Limits)
    sync: Callable[[], object] = lambda: None
    clock: Callable[[], float] = time.perf_counter

    def __post_init__(self):
        self._first: dict[str, float] | None = None
        self._parts: dict[str, list[float]] = {}
        self._spent = self._first_whole = 0.0
        self._warmups = 0

    def advance(self) -> Sample | None:
        """One more call; returns the sample when the cell is done. Raises what the action raises."""
        began = self.clock()
        seconds = self._call()
        whole = self.clock() - began
        if self._first is None:
            self._first, self._first_whole = seconds, whole
            self._warming = whole <= self.limits.seconds  # a call that exceeds the budget is warm-up enough
            return None
        self._spent += whole
        if self._warming and self._warmups < WARMUPS:
            self._warmups += 1
            self._warming = self._warmups < WARMUPS and self._spent <= WARMUP_SHARE * self.limits.seconds
            return None
        for part, value in seconds.items():
            self._parts.setdefault(part, []).append(value)
        return self._done()

    def _call(self) -> dict[str, float]:
        self.sync()
        began = self.clock()
        result = self.action()
        if isinstance(result, dict):
            return result
        self.sync()
        return {"": self.clock() - began}

    def _done(self) -> Sample | None:
        limits, n = self.limits, min(map(len, self._parts.values()))
        if all(is_settled(values, limits) for values in self._parts.values()):
            why = "settled"
        elif n >= limits.most:
            why = "most"
        elif self._spent >= limits.seconds and n >= limits.least:
            why = "budget"
        else:
            return None
        return Sample({k: tuple(v) for k, v in self._parts.items()}, self._first, self._warmups, why)


def interleave(cells: Mapping[str, Cell]) -> Iterator[tuple[str, Sample | Exception]]:
    """Run the cells alternately, one call each per round, and yield (name, outcome) as soon as one is done.

    An Exception of a cell's action ends that cell alone and is its outcome. KeyboardInterrupt ends all.
    """
    waiting = dict(cells)
    while waiting:
        for name, cell in list(waiting.items()):
            try:
                outcome: Sample | Exception | None = cell.advance()
            except Exception as error:
                outcome = error.with_traceback(None)  # a traceback would keep the tensors of a failed call alive
            if outcome is not None:
                del waiting[name]
                yield name, outcome


def sync_for(device) -> Callable[[], object]:
    """A function that waits until a torch device has finished: torch.cuda.synchronize on CUDA, nothing on a CPU."""
    if getattr(device, "type", str(device).split(":")[0]) != "cuda":
        return lambda: None
    import torch

    return lambda: torch.cuda.synchronize(device)


def clock_note(device_type: str) -> str:
    """What a row says about the clock: which one, what it waited for, and how fast and how busy the machine was."""
    parts = ["perf_counter" + (" after torch.cuda.synchronize" if device_type == "cuda" else "")]
    frequency = _first_match(CPUINFO, "cpu MHz")
    parts.append(f"CPU at {float(frequency):,.0f} MHz" if frequency else "CPU frequency not known")
    with contextlib.suppress(OSError):
        parts.append(f"governor {GOVERNOR.read_text().strip()}")
    with contextlib.suppress(OSError, AttributeError):  # not every system has them
        parts.append(f"load {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores")
    return "; ".join(parts)


def _first_match(path: Path, key: str) -> str:
    """The first value of a key in a file of `key : value` lines; empty if there is none."""
    with contextlib.suppress(OSError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            name, colon, value = line.partition(":")
            if colon and name.strip() == key:
                return value.strip()
    return ""
