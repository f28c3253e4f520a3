"""The four panels of `speed`, a file each. A panel says what is measured, at which points, how, and which rows come of it; src/measure/speed/run.py runs them.

A point is one x (a length, a position, a size) with its batch; at each point the models are timed in turn. `Panel` is what speed.py asks for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

FLOOR_TOKENS = 8  # the floor of a cost is that of the same call on one sequence of so many tokens


@dataclass(frozen=True)
class Point:
    """x on the panel's axis, sequences side by side, tokens a sequence, and whether this point measures the floor."""

    x: int
    batch: int
    length: int
    is_floor: bool = False


class Panel:
    """name: as in --panel and the rows.  metrics: what a cell that went well has a row of; floor_metrics: at the floor's point.

    x_name: the axis.  peak: "package.module:function" that measures memory from a spec, "" where there is none to measure.
    """

    name = ""
    x_name = "length"
    metrics: tuple[str, ...] = ()
    floor_metrics: tuple[str, ...] = ()
    peak = ""

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self.clock = clock

    def points(self, config) -> list[Point]:
        """The points in the order in which they are measured; the floor's first."""
        raise NotImplementedError

    def refuse(self, subject, point: Point) -> str:
        """Why this cell is not tried, in words; empty where it is."""
        return ""

    def wants_child(self, subject, point: Point) -> bool:
        """Whether memory is measured for this cell, before it is timed."""
        return bool(self.peak)

    def action(self, subject, point: Point, device) -> Callable[[], object] | None:
        """What is timed, built and ready; None where only memory is measured. Its attribute `facts`, where it has one, joins what memory gave."""
        return None

    def fields(self, subject, point: Point, sample, memory: dict) -> list[dict]:
        """The fields of the rows of a cell: metric, value, unit and what else differs between them.

        sample: of the timing, None where nothing is timed.  memory: what `peak` returned, and the action's facts.
        """
        raise NotImplementedError
