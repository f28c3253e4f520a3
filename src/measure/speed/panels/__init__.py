"""The panels of `speed`, one file each, and the table of their names.

    for name in PANELS: load(name)      # the class; its file is imported now
    looks()                             # {name: PanelLook}, for src/figures/speed.py

A new panel is a file with a subclass of `Panel`, and a line in PANELS. The class says what is measured, where and how,
which rows it gives, and how tables and figures show them. Each file must be importable without torch, because
`--vis_only` reads its tables and figures from it. So torch is imported inside functions.

A point is one x (a length, a position, a size) with its batch. src/measure/speed/run.py calls the methods of `Panel`.

The fixed overhead of a cost is that of the same call on one sequence of OVERHEAD_TOKENS tokens. It is measured first,
and its rows have the metrics `floor_ms`, `floor_bytes` and `floor_prefill_ms`.
"""

from __future__ import annotations

import dataclasses
import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from src.figures.speed import PanelLook

PANELS = {  # name, as in --panel and in the rows: "package.module:Class", in the order of measuring and of showing
    "train": "src.measure.speed.panels.train:Train",
    "memory": "src.measure.speed.panels.memory:Memory",
    "decode": "src.measure.speed.panels.decode:Decode",
    "scaling": "src.measure.speed.panels.scaling:Scaling",
}
OVERHEAD_TOKENS = 8


@dataclass(frozen=True)
class Point:
    """x: on the panel's axis.  batch: sequences.  length: tokens per sequence.  is_overhead: measures the overhead."""

    x: int
    batch: int
    length: int
    is_overhead: bool = False


@dataclass(frozen=True)
class Quantity:
    """A metric that has an exponent and a crossover.

    words: for tables.  overhead: the metric of its fixed overhead, "" for none.
    less: a metric that is subtracted first (weights).
    a_sequence: the exponent is that of one sequence, although a row is that of a whole batch.
    """

    metric: str
    words: str
    overhead: str = ""
    less: str = ""
    a_sequence: bool = False


@dataclass(frozen=True)
class Table:
    """A metric that has a printed table. form: of one number, after the division by `unit`."""

    metric: str
    heading: str
    form: str
    unit: int = 1
    lower_is_better: bool = True


class Panel:
    """One panel.

    name: its name in PANELS.  x_name: the axis, as in the rows.  x_words: the axis, in tables.
    metrics: the rows of a complete cell.  overhead_metrics: those at the point that measures the overhead.
    peak: "package.module:function" that measures memory from a spec; "" if no memory is measured.
    more_tokens: tokens that a cell feeds beside its length.
    by_size: x is one of --sizes, and each size has models of its own, whose widths are solved.
    batches_apart: an x is measured with several batches, and each batch has tables and figures of its own.
    quantities, tables, look: what is derived from the rows, printed and drawn. They name metrics of the panel.
    """

    name = ""
    x_name = "length"
    x_words = "length (tokens)"
    metrics: tuple[str, ...] = ()
    overhead_metrics: tuple[str, ...] = ()
    peak = ""
    more_tokens = 0
    by_size = False
    batches_apart = False
    quantities: tuple[Quantity, ...] = ()
    tables: tuple[Table, ...] = ()
    look: PanelLook

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


def load(name: str) -> type[Panel]:
    """The class of a panel."""
    module, class_name = PANELS[name].split(":")
    return getattr(importlib.import_module(module), class_name)


def looks() -> dict[str, PanelLook]:
    """What the figures of each panel show, in the order of PANELS."""
    panels = {name: load(name) for name in PANELS}
    return {name: dataclasses.replace(p.look, batches_apart=p.batches_apart) for name, p in panels.items()}
