"""The forms of one op side by side: first correct, then milliseconds, GB/s and GFLOP/s.

    bench(plan, record, progress)          # rows of kind "kernel": one per metric, form, pass and length

Each form is compared with the op's definition (its float64 reference) at a small size, outputs and gradients. At every
length that is timed it is also compared with the plain form, because a kernel may take another path at another length.
A form that fails gets no time. Then all forms of a length are timed alternately (src/measure/timing.py). Operations and
bytes are counted in src/measure/kernels/subjects.py; the limits of the machine are in src/measure/kernels/ceilings.py.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from src.measure import timing
from src.measure.gate import DTYPES, Verdict, compare, forward_and_backward, in_float64, leaves, tolerance
from src.measure.kernels import ceilings
from src.measure.kernels.contract import PASSES, Cost, Implementation, Shape, Subject
from src.storage.rows import make_row, timed
from src.utils import memory

GATE_SIZE = {"B": 2, "T": 67}  # 67 is no multiple of a chunk
PASS_WORDS = {"forward": "forward", "both": "forward+backward"}
PLAIN_SLACK = 2  # two forms are compared, and both of them round


@dataclass(frozen=True)
class Plan:
    """What to measure.

    shapes: one per length.  forms: names in the order of the table; an unknown one becomes a row that says so.
    machine: fields of every row.
    """

    subject: Subject
    shapes: tuple[Shape, ...]
    forms: tuple[str, ...]
    device: torch.device
    precision: str
    seed: int
    limits: timing.Limits
    machine: dict
    clock: Callable[[], float] = time.perf_counter

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.precision]


@dataclass(frozen=True)
class Admitted:
    """A form that may be timed: what to call, and the verdict of its gates."""

    run: Callable
    verdict: Verdict


class Refused(Exception):
    """A form that is not timed. status: of its row; the message is the note."""

    def __init__(self, status: str, note: str):
        super().__init__(note)
        self.status = status


def bench(plan: Plan, record, progress) -> None:
    """Add to `record` (src.storage.record.Record) the rows that it does not have yet.

    progress(words): called before each piece of work, at most `steps_of(plan)` times.
    KeyboardInterrupt is raised; what was measured before it is in the record.
    """
    if ceilings.ceilings_of(record.rows) is None:
        progress("ceilings")
        samples = ceilings.measure_ceilings(plan.device, plan.dtype, plan.limits, clock=plan.clock)
        record.add(*_ceiling_rows(plan, samples))
    have = {
        (row["backend"], row["form"], row["x"])
        for row in record.rows
        if row["op"] == plan.subject.name and row["metric"] == "ms"
    }
    for shape in plan.shapes:
        admitted = _admit_all(plan, shape, record, have, progress)
        for which in PASSES:
            progress(f"T {shape.T:,} {PASS_WORDS[which]}")
            left = {name: a for name, a in admitted.items() if (name, PASS_WORDS[which], shape.T) not in have}
            _time(plan, shape, which, left, record)


def steps_of(plan: Plan) -> int:
    """How often `bench` calls `progress` at most."""
    return 1 + len(plan.shapes) * (len(plan.forms) + len(PASSES))


# Running a form


def callable_of(form: Implementation) -> Callable:
    """The function that computes a form.

    A compiled one is a new function each time, because torch.compile gives up on a function after a few shapes.
    """
    if not form.compiled:
        return form.run
    torch._dynamo.reset()

    def fresh(**inputs):
        return form.run(**inputs)

    return torch.compile(fresh, fullgraph=True, dynamic=False)


def inputs_of(subject: Subject, shape: Shape, device, precision: str, seed: int) -> dict:
    """Random inputs on the device in the dtype that is measured; the subject's float32_inputs stay float32."""
    return leaves(subject.inputs(shape, seed), device, DTYPES[precision], subject.float32_inputs)


def forward(run, inputs: dict):
    """The output alone; nothing is recorded for a backward pass."""
    with torch.no_grad():
        return run(**inputs)


# Gates


def against_reference(subject: Subject, run, shape: Shape, device, precision: str, seed: int) -> Verdict:
    """Output and gradients of `run` against the definition in float64, at `gate_shape(shape)`.

    Raises whatever `run` raises.
    """
    inputs = inputs_of(subject, gate_shape(shape), device, precision, seed)
    found = compare(run, subject.reference, inputs, in_float64(inputs), DTYPES[precision], seed + 1)
    return _verdict("its definition", found, tolerance(device.type, precision))


def against_plain(subject: Subject, run, plain, shape: Shape, device, precision: str, seed: int) -> Verdict:
    """Output and gradients of `run` against the plain form, at the measured shape."""
    inputs = inputs_of(subject, shape, device, precision, seed)
    found = compare(run, plain, inputs, inputs, DTYPES[precision], seed + 1)
    return _verdict("the plain form at this length", found, PLAIN_SLACK * tolerance(device.type, precision))


def gate_shape(shape: Shape) -> Shape:
    """A small shape with the head size and state size that are measured, because kernels are specialised by them."""
    return dataclasses.replace(shape, **GATE_SIZE, width=min(shape.width, 64), heads=min(shape.heads, 2))


def _verdict(reference: str, found, allowed: float) -> Verdict:
    passed = found.difference <= allowed
    words = "agrees with" if passed else "differs from"
    size = f"{found.where} off by {found.difference:.1e} of its largest value, allowed {allowed:.0e}"
    return Verdict(passed, found.difference, f"{words} {reference}: {size}", found.seconds)


def _admit_all(plan: Plan, shape: Shape, record, have, progress) -> dict[str, Admitted]:
    """The forms that may be timed at this shape; every other one gets a row per pass."""
    admitted = {}
    for name in plan.forms:
        progress(f"T {shape.T:,} gate of {name}")
        todo = [which for which in PASSES if (name, PASS_WORDS[which], shape.T) not in have]
        if not todo:
            continue
        try:
            admitted[name] = _admit(plan, shape, name)
        except Refused as refused:
            for which in todo:
                record.add(_row(plan, shape, which, name, metric="ms", status=refused.status, note=str(refused)))
    return admitted


def _admit(plan: Plan, shape: Shape, name: str) -> Admitted:
    """A form that agrees with the definition and, at this shape, with the plain form. Raises Refused."""
    subject = plan.subject
    if name not in subject.forms:
        raise Refused("unsupported", f"{subject.name} has no form '{name}'; it has {', '.join(subject.forms)}")
    form = subject.forms[name]
    obstacle = form.obstacle(plan.device.type, plan.precision)
    if obstacle:
        raise Refused("unsupported", obstacle)
    where = (plan.device, plan.precision, plan.seed)
    try:
        run = callable_of(form)
        small = against_reference(subject, run, shape, *where)
        if not small.passed:
            raise Refused("gate failed", small.note)
        whole = against_plain(subject, run, subject.forms[subject.plain].run, shape, *where)
    except Refused:
        raise
    except Exception as error:
        if memory.is_out_of_memory(error):
            raise Refused("out of memory", f"out of memory at {shape.T:,}") from None
        doing = "compiling or running" if form.compiled else "running"
        raise Refused("failed", f"{doing} it failed: {first_line(error)}") from None
    if not whole.passed:
        raise Refused("gate failed", whole.note)
    first_seconds = max(small.first_seconds, whole.first_seconds)
    return Admitted(run, Verdict(True, whole.worst, f"{small.note}; {whole.note}", first_seconds))


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of its message."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}"[:200]


# Timing


def _time(plan: Plan, shape: Shape, which: str, admitted: dict[str, Admitted], record) -> None:
    """Time all forms of one shape and pass alternately; the rows of a form are added as soon as it is done."""
    if not admitted:
        return
    inputs = inputs_of(plan.subject, shape, plan.device, plan.precision, plan.seed)
    gradient = output_gradient(forward(plan.subject.forms[plan.subject.plain].run, inputs), plan.seed)
    sync = timing.sync_for(plan.device)

    def cell(run) -> timing.Cell:
        def both():
            return forward_and_backward(run, inputs, gradient)

        action = both if which == "both" else lambda: forward(run, inputs)
        return timing.Cell(action, plan.limits, sync, clock=plan.clock)

    for name, outcome in timing.interleave({name: cell(a.run) for name, a in admitted.items()}):
        if isinstance(outcome, Exception):
            lost = memory.is_out_of_memory(outcome)
            note = f"out of memory at {shape.T:,}" if lost else first_line(outcome)
            status = "out of memory" if lost else "failed"
            record.add(_row(plan, shape, which, name, metric="ms", status=status, note=note))
            continue
        record.add(*_timed_rows(plan, shape, which, name, outcome, admitted[name].verdict))


def output_gradient(like, seed: int):
    """A random gradient of an output, of its shape and dtype."""
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed + 1)).to(like)


# Rows


def _ceiling_rows(plan: Plan, samples: dict) -> list[dict]:
    (copy, moved), (product, operations) = samples["copy"], samples["matrix product"]
    common = {**plan.machine, "clock": timing.clock_note(plan.device.type), "panel": "roofline"}
    return [
        make_row(
            "kernel",
            **common,
            metric="copy_gb_per_s",
            **timed(copy, "GB/s", lambda s: moved / s / 1e9),
            note=f"a copy of {moved / 2**21:,.0f} MiB; bytes read and written",
        ),
        make_row(
            "kernel",
            **common,
            metric="matmul_gflop_per_s",
            **timed(product, "GFLOP/s", lambda s: operations / s / 1e9),
            note=f"a square matrix product of {operations:.3g} operations",
        ),
    ]


def _timed_rows(plan: Plan, shape: Shape, which: str, name: str, sample, verdict: Verdict) -> list[dict]:
    cost = plan.subject.cost(shape, plan.dtype.itemsize, which)
    first = sample.first_seconds
    if which == "both":  # the gates have compiled it already, so their first call was the longer one
        first = max(verdict.first_seconds, first)
    metrics = (
        ("gflop_per_s", "GFLOP/s", lambda s: cost.operations / s / 1e9),
        ("gb_per_s", "GB/s", lambda s: cost.bytes / s / 1e9),
        ("ms", "ms", lambda s: 1e3 * s),
    )
    return [
        _row(plan, shape, which, name, metric=metric, note=verdict.note, **_timed(sample, unit, of, first))
        for metric, unit, of in metrics
    ]


def _timed(sample, unit: str, of, first_seconds: float) -> dict:
    return {**timed(sample, unit, of), "first_ms": 1e3 * first_seconds}


def _row(plan: Plan, shape: Shape, which: str, name: str, **fields) -> dict:
    cost = plan.subject.cost(shape, plan.dtype.itemsize, which)
    return make_row(
        "kernel",
        **{
            **plan.machine,
            "clock": timing.clock_note(plan.device.type),
            "panel": plan.subject.name,
            "op": plan.subject.name,
            "form": PASS_WORDS[which],
            "backend": name,
            "x_name": "length",
            "x": shape.T,
            "batch": shape.B,
            "tokens": shape.B * shape.T,
            "settings": settings_of(plan.subject, shape, cost),
            **fields,
        },
    )


def settings_of(subject: Subject, shape: Shape, cost: Cost) -> dict:
    """The parts of the shape that the op depends on, and its cost by the formulas."""
    return {
        "B": shape.B,
        "T": shape.T,
        **{name: getattr(shape, name) for name in subject.dims},
        "operations": cost.operations,
        "bytes": cost.bytes,
    }
