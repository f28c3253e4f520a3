"""How long something takes: warm-up, then repeats until the median is known to 5 % or the cell's time is spent.

    cells = {"gru": Cell(step_of_gru, limits, sync), "lstm": Cell(step_of_lstm, limits, sync)}
    for name, outcome in interleave(cells):      # round-robin, so that a machine's drift falls on all alike; each as soon as it is done
        outcome.median, outcome.quartiles        # a Sample, or the Exception that ended this cell

`measure(action)` is the same for a single action. The first call is timed apart (`first`): it compiles, fills caches and allocates. Further
warm-up calls follow while they are cheap. A cell is settled when it has `enough` repeats and the interval of its median reaches at most `target`
of the median to either side on average; it ends without that when `seconds` are spent (but never below `least` repeats) or after `most`
repeats. The interval is that of order statistics (David & Nagaraja, "Order Statistics", 3rd ed., section 7.1): it assumes no distribution.

Nothing here imports torch: `sync` is whatever waits for the device (`sync_for`), `clock` any function that gives seconds.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from src.stats.medians import LEVEL, median_interval, quantile

WARMUPS = 2  # calls after the first, while they take at most WARMUP_SHARE of the budget


WARMUP_SHARE = 0.1


CPUINFO = Path("/proc/cpuinfo")


GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


@dataclass(frozen=True)
class Limits:
    """seconds: budget of a cell, warm-up calls (but the first) and repeats together.  least, enough, most: repeats.  target: a share of the median."""

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

    values: seconds a repeat, in order; or of each part where the action reports several.  first: seconds of the first call, which is in no
    median.  warmups: further calls thrown away.  stopped: why it ended: settled, budget or most.
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

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def median(self) -> float:
        return quantile(self.values, 0.5)

    @property
    def quartiles(self) -> tuple[float, float]:
        return quantile(self.values, 0.25), quantile(self.values, 0.75)

    @property
    def interval(self) -> tuple[float, float]:
        return median_interval(self.values)[:2]


def is_settled(values, limits: Limits) -> bool:
    """Whether the median of these repeats is known well enough."""
    if len(values) < limits.enough:
        return False
    low, high, coverage = median_interval(values)
    return coverage >= LEVEL and (high - low) / 2 <= limits.target * quantile(values, 0.5)


@dataclass
class Cell:
    """One thing to time.

    action(): runs it once. Its result is thrown away, unless it is a dict {part: seconds}: then it has timed itself (with `clock`, after `sync`).
    before(): untimed, ahead of each call, such as making fresh inputs; it counts against the budget.
    """

    action: Callable[[], object]
    limits: Limits = field(default_factory=Limits)
    sync: Callable[[], object] = lambda: None
    before: Callable[[], object] | None = None
    clock: Callable[[], float] = time.perf_counter

    def __post_init__(self):
        self._first: dict[str, float] | None = None
        self._parts: dict[str, list[float]] = {}
        self._spent = self._first_whole = 0.0
        self._warmups = 0

    def advance(self) -> Sample | None:
        """One more call; the sample when the cell is done. What the action raises comes through."""
        began = self.clock()
        seconds = self._call()
        whole = self.clock() - began
        if self._first is None:
            self._first, self._first_whole = seconds, whole
            self._warming = whole <= self.limits.seconds  # a call that exceeds the budget has warmed up enough
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
        if self.before is not None:
            self.before()
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
    """Run cells in turn, one call each a round, and yield (name, outcome) as soon as one is done.

    An Exception of a cell's action ends that cell alone and is its outcome; KeyboardInterrupt ends all.
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


def measure(action, limits: Limits | None = None, sync=lambda: None, before=None, clock=time.perf_counter) -> Sample:
    """The sample of a single action; what it raises comes through."""
    cell = Cell(action, limits or Limits(), sync, before, clock)
    while (sample := cell.advance()) is None:
        pass
    return sample


def sync_for(device) -> Callable[[], object]:
    """What waits until a torch device has done all it was given: torch.cuda.synchronize on CUDA, nothing on a CPU."""
    if getattr(device, "type", str(device).split(":")[0]) != "cuda":
        return lambda: None
    import torch

    return lambda: torch.cuda.synchronize(device)


def clock_note(device_type: str) -> str:
    """What a row says about the clock: which one, what it waited for, and how fast and how busy the machine was just now."""
    parts = ["perf_counter" + (" after torch.cuda.synchronize" if device_type == "cuda" else "")]
    frequency = _first_match(CPUINFO, "cpu MHz")
    parts.append(f"CPU at {float(frequency):,.0f} MHz" if frequency else "CPU frequency not known")
    with contextlib.suppress(OSError):
        parts.append(f"governor {GOVERNOR.read_text().strip()}")
    with contextlib.suppress(OSError, AttributeError):  # neither on every system
        parts.append(f"load {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores")
    return "; ".join(parts)


def _first_match(path: Path, key: str) -> str:
    """The first value of a key in a file of `key : value` lines; empty where there is none."""
    with contextlib.suppress(OSError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            name, colon, value = line.partition(":")
            if colon and name.strip() == key:
                return value.strip()
    return ""
