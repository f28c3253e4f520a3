"""The four panels of `speed`, one file each. A panel says what is measured, where and how, and which rows it gives.

A point is one x (a length, a position, a size) with its batch. src/measure/speed/run.py calls the methods of `Panel`.

The fixed overhead of a cost is that of the same call on one sequence of OVERHEAD_TOKENS tokens. It is measured first,
and its rows have the metrics `floor_ms`, `floor_bytes` and `floor_prefill_ms`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

OVERHEAD_TOKENS = 8


@dataclass(frozen=True)
class Point:
    """x: on the panel's axis.  batch: sequences.  length: tokens per sequence.  is_overhead: measures the overhead."""

    x: int
    batch: int
    length: int
    is_overhead: bool = False


class Panel:
    """One panel.

    name: as in --panel and in the rows.  x_name: the axis.
    metrics: the rows of a complete cell.  overhead_metrics: those at the point that measures the overhead.
    peak: "package.module:function" that measures memory from a spec; "" if no memory is measured.
    """

    name = ""
    x_name = "length"
    metrics: tuple[str, ...] = ()
    overhead_metrics: tuple[str, ...] = ()
    peak = ""

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self.clock = clock

    def points(self, config) -> list[Point]:
        """The points in the order in which they are measured, the overhead first."""
        raise NotImplementedError

    def refuse(self, subject, point: Point) -> str:
        """Why this cell is not tried, in words; empty if it is."""
        return ""

    def wants_child(self, subject, point: Point) -> bool:
        """Whether memory is measured for this cell, before it is timed."""
        return bool(self.peak)

    def action(self, subject, point: Point, device) -> Callable[[], object] | None:
        """What is timed, built and ready; None if only memory is measured.

        If it has an attribute `facts`, a dict, `fields` gets that together with what `peak` returned.
        """
        return None

    def fields(self, subject, point: Point, sample, memory: dict) -> list[dict]:
        """The fields of the rows of a cell: metric, value, unit and what else differs between them.

        sample: of the timing, None if nothing is timed.  memory: what `peak` returned, and the action's facts.
        """
        raise NotImplementedError
