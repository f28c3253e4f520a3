"""The study behind `speed`: it runs its panels point by point and writes each row as soon as it is known.

    study = Study(config, subjects, sized, device, record, machine)
    study.run(progress)             # raises KeyboardInterrupt; what was measured is on disk
    findings = analyse(record.rows)

A cell is one model at one point. It is handled in this order:

1. Is it tried at all? Decoding by replay stops early. A length above one that ran out of memory is not tried.
2. Do the model's ops agree with their references (src/measure/gate.py)?
3. How much memory does it need? On a CPU a child process measures it, so that running out of memory ends the child
   only.
4. Its time. All models of a point are timed alternately.

Whatever goes wrong becomes a row that says so. A cell whose rows are in the record already is skipped.
"""

from __future__ import annotations

import contextlib
import gc
import time
from dataclasses import dataclass

import torch

from src.measure import child
from src.measure.gate import Gate
from src.measure.speed.panels import Panel, Point, load
from src.measure.speed.subjects import Subject
from src.measure.timing import Cell, Limits, clock_note, interleave, sync_for
from src.storage.record import Record
from src.storage.rows import make_row
from src.utils.memory import is_out_of_memory


@dataclass(frozen=True)
class Planned:
    """One cell: a panel's point and a subject, or the reason why there is no subject."""

    panel: Panel
    point: Point
    name: str
    subject: Subject | None
    why_not: str = ""

    @property
    def where(self) -> str:
        """The point in words."""
        return f"{self.panel.name} {self.panel.x_name} {self.point.x:,}" + (
            f" batch {self.point.batch}" if self.panel.batches_apart else ""
        )

    @property
    def key(self) -> tuple:
        return self.panel.name, self.name, self.point.x, self.point.batch, self.point.batch * self.point.length


def key_of(row: dict) -> tuple:
    """The key of the cell that a row belongs to."""
    return row["panel"], row["model"], row["x"], row["batch"], row["tokens"]


class Study:
    """The cells of all panels, measured into a record.

    subjects: {name: Subject}.  sized: {size: {name: Subject, or the reason why there is none}}.
    machine: fields that are the same in every row.  clock: of all timings.
    """

    def __init__(
        self,
        config,
        subjects: dict[str, Subject],
        sized: dict[int, dict],
        device,
        record: Record,
        machine: dict,
        clock=time.perf_counter,
    ):
        self.clock = clock
        self.config, self.subjects, self.sized, self.record, self.machine = config, subjects, sized, record, machine
        self.device = torch.device(device)
        self.limits = Limits(seconds=config.cell_seconds)
        self.gate = Gate(self.device, machine["precision"])

    def plan(self) -> list[list[Planned]]:
        """The cells of each point, in order."""
        points = []
        for name in self.config.panel:
            panel = load(name)(self.clock)
            for point in panel.points(self.config):
                points.append([self._planned(panel, point, model) for model in self.subjects])
        return points

    def _planned(self, panel: Panel, point: Point, name: str) -> Planned:
        subject = self.sized[point.x][name] if panel.by_size else self.subjects[name]
        return (
            Planned(panel, point, name, None, subject)
            if isinstance(subject, str)
            else Planned(panel, point, name, subject)
        )

    def run(self, progress) -> None:
        """Measure every cell that the record does not have yet. progress: a src.measure.progress.Progress."""
        plan = self.plan()
        done = {key_of(row) for row in self.record.rows}
        progress.begin(
            [cell.panel.name for cells in plan for cell in cells],
            [cell.panel.name for cells in plan for cell in cells if cell.key in done],
        )
        with child.Children() as self.children:
            for cells in plan:
                self._point([cell for cell in cells if cell.key not in done], progress)

    def _point(self, cells: list[Planned], progress) -> None:
        """One point: the memory of each model, then the time of all models."""
        ready: dict[str, tuple] = {}
        for cell in cells:
            progress.now(cell.where, cell.name)
            memory = self._memory(cell)
            action = None if memory is None else self._action(cell)
            if memory is None or action is False:
                progress.done(cell.panel.name)
            elif action is None:
                self._add(cell, cell.panel.fields(cell.subject, cell.point, None, memory))
                progress.done(cell.panel.name)
            else:
                ready[cell.name] = cell, memory, action
        sync = sync_for(self.device)
        timed = {name: Cell(action, self.limits, sync, clock=self.clock) for name, (_, _, action) in ready.items()}
        for name, outcome in interleave(timed):
            cell, memory, action = ready.pop(name)
            if isinstance(outcome, Exception):
                self._failure(cell, outcome)
            else:
                self._add(
                    cell,
                    cell.panel.fields(cell.subject, cell.point, outcome, {**memory, **getattr(action, "facts", {})}),
                )
            del action, timed[name]
            progress.done(cell.panel.name)
        self._tidy()

    def _memory(self, cell: Planned) -> dict | None:
        """What the panel's `peak` found, {} if it is not needed; None after a row that says why nothing is timed."""
        if cell.subject is None:
            return self._refuse(cell, "unsupported", cell.why_not)
        shorter = self._out_of_memory_before(cell)
        if shorter is not None:
            return self._refuse(cell, "not tried", f"out of memory at {shorter:,} already")
        why = self._too_long(cell) or cell.panel.refuse(cell.subject, cell.point)
        if why:
            return self._refuse(cell, "unsupported", why)
        verdict = self.gate.check(cell.subject.backends)
        if not verdict.passed:
            return self._refuse(cell, "gate failed", verdict.note)
        if not cell.panel.wants_child(cell.subject, cell.point):
            return {}
        spec = {
            "subject": cell.subject.spec(),
            "device": str(self.device),
            "threads": self.machine["threads"],
            "batch": cell.point.batch,
            "length": cell.point.length,
        }
        try:
            if self.device.type == "cpu" and child.supported():
                return self.children.call(cell.panel.peak, spec, cell.subject.imports())
            if self.device.type == "cpu":
                return self._refuse(
                    cell,
                    "unsupported",
                    "memory on a CPU is measured in a forked process, which this system does not have",
                )
            return child.resolve(cell.panel.peak)(spec)
        except Exception as error:
            return self._failure(cell, error)

    def _too_long(self, cell: Planned) -> str:
        """Why the model cannot take the sequences of this cell; "" where it can."""
        longest, needed = cell.subject.longest, cell.point.length + cell.panel.more_tokens
        if longest is None or needed <= longest:
            return ""
        return f"the model takes {longest:,} tokens at most (max_len), and this needs {needed:,}"

    def _action(self, cell: Planned):
        """What is timed; None if nothing is, False after a row that says why it cannot be built."""
        try:
            return cell.panel.action(cell.subject, cell.point, self.device)
        except Exception as error:
            self._failure(cell, error)
            return False

    def _out_of_memory_before(self, cell: Planned) -> int | None:
        """The smallest x at which this model ran out of memory in this panel; with this batch, if batches are apart."""
        xs = [
            r["x"]
            for r in self.record.rows
            if r["panel"] == cell.panel.name
            and r["model"] == cell.name
            and r["status"] == "out of memory"
            and r["x"] < cell.point.x
            and (r["batch"] == cell.point.batch or not cell.panel.batches_apart)
        ]
        return min(xs, default=None)

    def _failure(self, cell: Planned, error: Exception) -> None:
        """Add the row of a cell that raised."""
        text = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        if is_out_of_memory(error) or isinstance(error, child.OutOfMemory):
            self._tidy()
            return self._refuse(cell, "out of memory", f"out of memory at {cell.point.x:,} ({text:.200})")
        return self._refuse(cell, "failed", f"{text:.300}")

    def _refuse(self, cell: Planned, status: str, note: str) -> None:
        metric = (cell.panel.overhead_metrics if cell.point.is_overhead else cell.panel.metrics)[0]
        self.record.add(self._row(cell, {"metric": metric, "value": None, "status": status, "note": note}))

    def _add(self, cell: Planned, fields: list[dict]) -> None:
        """All rows of a cell at once."""
        self.record.add(*(self._row(cell, one) for one in fields))

    def _row(self, cell: Planned, fields: dict) -> dict:
        subject, point = cell.subject, cell.point
        of_model = (
            {}
            if subject is None
            else {
                "parameters": subject.parameters,
                "settings": subject.settings(),
                "backend": subject.backends,
                "seed": subject.args.seed,
            }
        )
        return make_row(
            "speed",
            **{
                "panel": cell.panel.name,
                "model": cell.name,
                "x_name": cell.panel.x_name,
                "x": point.x,
                "batch": point.batch,
                "tokens": point.batch * point.length,
                **of_model,
                **self.machine,
                "clock": clock_note(self.device.type),
                **fields,
            },
        )

    def _tidy(self) -> None:
        """Release memory before the next point."""
        gc.collect()
        if self.device.type == "cuda":
            with contextlib.suppress(RuntimeError):
                torch.cuda.empty_cache()
