"""One op, form against form: correct first, then milliseconds, GB/s, GFLOP/s and the roof over them.

    ceilings = measure_ceilings(device, "fp32", limits)                    bytes/s of a copy, operations/s of a matrix product
    rows = bench(plan, record, progress)                                   rows of kind "kernel", one a metric, form, pass and length

Each form is held to the op's definition (its float64 reference) at a small size, outputs and gradients, and at every length that is timed to the
plain form, so that a kernel which takes another path at another length is caught as well. A form that fails gets no time. Then all forms of a length
are timed in turn (src.measure.timing.interleave).

The roofline (Williams, Waterman & Patterson 2009, CACM 52(4)): with I operations a byte, a machine that moves W bytes/s and computes P operations/s
reaches at most min(P, I W). Both ceilings are medians measured here, in the same dtype, by the same threads: a copy between two buffers larger
than the caches (its bytes are those read and those written), and a square matrix product. What fits a cache can exceed the first; what is no
matrix product cannot reach the second. Operations and bytes are counted in src/measure/kernels/subjects.py.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

import torch

from src.measure import timing
from src.measure.kernels.contract import PASSES, Cost, Implementation, Shape, Subject
from src.measure.kernels.subjects import SUBJECTS
from src.storage.rows import make_row, timed
from src.utils import memory

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Largest difference from the definition (of the same rounded inputs), over the largest value: rounding of sums, and in half precision of outputs.
# On CUDA third-party kernels multiply float32 in TF32, whose mantissa has 10 bits.
TOLERANCE = {("cpu", "fp32"): 1e-4, ("cuda", "fp32"): 5e-3, "bf16": 3e-2, "fp16": 4e-3}
GATE_SIZE = {"B": 2, "T": 67}  # no multiple of a chunk
PASS_WORDS = {"forward": "forward", "both": "forward+backward"}


@dataclass(frozen=True)
class Plan:
    """What to measure. shapes: one a length.  forms: names, in the order to show; unknown ones are rows too.  machine: fields of every row."""

    subject: Subject
    shapes: tuple[Shape, ...]
    forms: tuple[str, ...]
    device: torch.device
    precision: str
    seed: int
    limits: timing.Limits
    machine: dict

    @property
    def element_bytes(self) -> int:
        return DTYPES[self.precision].itemsize


@dataclass(frozen=True)
class Verdict:
    """Of a gate.  error: the largest relative difference, None where nothing could be compared.  note: in words.  first_seconds: of the first call."""

    passed: bool
    error: float | None
    note: str
    first_seconds: float = 0.0


@dataclass(frozen=True)
class Ceilings:
    """What the machine can: bytes a second of a copy, operations a second of a matrix product."""

    bytes_per_s: float
    operations_per_s: float

    def roof(self, intensity: float) -> float:
        """The most operations a second at so many operations a byte."""
        return min(self.operations_per_s, intensity * self.bytes_per_s)


# Running a form ----------------------------------------------------------------------------------------------------------------------------


def callable_of(form: Implementation):
    """What computes a form: its function, or that compiled anew (a fresh function, because torch.compile gives up after a few shapes of one)."""
    if not form.compiled:
        return form.run
    torch._dynamo.reset()

    def fresh(**inputs):
        return form.run(**inputs)

    return torch.compile(fresh, fullgraph=True, dynamic=False)


def on_device(subject: Subject, inputs: dict, device, precision: str) -> dict:
    """Leaves that take part in gradients, in the dtype that is measured; the subject's float32_inputs stay float32."""
    kinds = {name: torch.float32 if name in subject.float32_inputs else DTYPES[precision] for name in inputs}
    return {name: t.detach().to(device, kinds[name]).clone().requires_grad_() for name, t in inputs.items()}


def forward(run, leaves: dict):
    """The output alone, nothing recorded for a backward pass."""
    with torch.no_grad():
        return run(**leaves)


def both(run, leaves: dict, gradient):
    """Output and gradients of all inputs, for this gradient of the output."""
    out = run(**leaves)
    return out, torch.autograd.grad(out, list(leaves.values()), gradient)


def difference(got, wanted) -> float:
    """The largest |got - wanted| over the largest |wanted|, in float64; inf where a number is not finite or the shapes differ."""
    got, wanted = got.detach().double().cpu(), wanted.detach().double().cpu()
    if got.shape != wanted.shape or not bool(torch.isfinite(got).all()):
        return float("inf")
    return float((got - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30))


# Gates -------------------------------------------------------------------------------------------------------------------------------------


def gate_shape(shape: Shape) -> Shape:
    """Small, with the head size and state size that are measured: kernels are specialised by them."""
    return dataclasses.replace(shape, **GATE_SIZE, width=min(shape.width, 64), heads=min(shape.heads, 2))


def against_reference(subject: Subject, run, shape: Shape, device, precision: str, seed: int) -> Verdict:
    """Output and gradients of `run` against the definition in float64, at `gate_shape(shape)`. What `run` raises comes through."""
    inputs = subject.inputs(gate_shape(shape), seed)
    leaves = on_device(subject, inputs, device, precision)
    exact = {name: t.detach().cpu().double().requires_grad_() for name, t in leaves.items()}
    wanted = subject.reference(**exact)
    gradient = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(seed + 1)).to(DTYPES[precision])
    wanted_gradients = torch.autograd.grad(wanted, list(exact.values()), gradient.double())
    seconds, out, gradients = _first_call(run, leaves, gradient.to(device))
    return _verdict(
        "its definition", {"output": (out, wanted)} | _pairs(leaves, gradients, wanted_gradients), precision, seconds
    )


def against_plain(subject: Subject, run, plain, shape: Shape, device, precision: str, seed: int) -> Verdict:
    """The same against the plain form at the measured shape."""
    leaves = on_device(subject, subject.inputs(shape, seed), device, precision)
    wanted = forward(plain, leaves)
    gradient = output_gradient(wanted, seed)
    _, wanted_gradients = both(plain, leaves, gradient)
    seconds, out, gradients = _first_call(run, leaves, gradient)
    return _verdict(
        "the plain form at this length",
        {"output": (out, wanted)} | _pairs(leaves, gradients, wanted_gradients),
        precision,
        seconds,
        slack=2,
    )


def _first_call(run, leaves: dict, gradient):
    """(seconds, output, gradients) of one forward and backward pass, which compiles what has to be compiled."""
    sync = timing.sync_for(gradient.device)
    sync()
    began = time.perf_counter()
    out, gradients = both(run, leaves, gradient)
    sync()
    return time.perf_counter() - began, out, gradients


def output_gradient(like, seed: int):
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed + 1)).to(like)


def _pairs(leaves: dict, gradients, wanted) -> dict:
    return {f"gradient of {name}": pair for name, *pair in zip(leaves, gradients, wanted, strict=True)}


def _verdict(what: str, pairs: dict, precision: str, seconds: float, slack: float = 1) -> Verdict:
    """slack: both sides are rounded where the other one is no definition."""
    errors = {name: difference(*pair) for name, pair in pairs.items()}
    worst = max(errors, key=lambda name: errors[name])
    out = pairs["output"][0]
    allowed = slack * TOLERANCE.get((out.device.type, precision), TOLERANCE.get(precision, 0.0))
    passed = errors[worst] <= allowed
    words = "agrees with" if passed else "differs from"
    return Verdict(
        passed,
        errors[worst],
        f"{words} {what}: {worst} off by {errors[worst]:.1e} of its largest value, allowed {allowed:.0e}",
        seconds,
    )


# Ceilings ----------------------------------------------------------------------------------------------------------------------------------


def measure_ceilings(device, precision: str, limits, copy_mib: int = 0, size: int = 0) -> dict:
    """{"copy": (Sample, bytes), "matrix product": (Sample, operations)} of one call each. copy_mib: of one buffer.  size: of the square matrices."""
    is_cuda = device.type == "cuda"
    numbers = (copy_mib or (1024 if is_cuda else 128)) * 2**20 // DTYPES[precision].itemsize
    size = size or (8192 if is_cuda else 1536)
    source, target = (
        torch.ones(numbers, dtype=DTYPES[precision], device=device),
        torch.empty(numbers, dtype=DTYPES[precision], device=device),
    )
    a, b = (
        torch.randn(size, size, generator=torch.Generator().manual_seed(i)).to(device, DTYPES[precision])
        for i in (0, 1)
    )
    out = torch.empty_like(a)
    sync = timing.sync_for(device)
    cells = {
        "copy": timing.Cell(lambda: target.copy_(source), limits, sync),
        "matrix product": timing.Cell(lambda: torch.mm(a, b, out=out), limits, sync),
    }
    work = {"copy": 2 * source.nbytes, "matrix product": 2 * size**3}
    found = {}
    for name, outcome in timing.interleave(cells):
        if isinstance(outcome, Exception):
            raise outcome
        found[name] = (outcome, work[name])
    return found


def ceilings_of(rows) -> Ceilings | None:
    """The ceilings among rows of a record; None where they were not measured."""
    values = {row["metric"]: row["value"] for row in rows if row["panel"] == "roofline" and row["status"] == "ok"}
    if not {"copy_gb_per_s", "matmul_gflop_per_s"} <= values.keys():
        return None
    return Ceilings(1e9 * values["copy_gb_per_s"], 1e9 * values["matmul_gflop_per_s"])


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


# The bench ---------------------------------------------------------------------------------------------------------------------------------


def bench(plan: Plan, record, progress) -> None:
    """Add to `record` (src.storage.record.Record) the rows that it does not have yet. progress(words): called before each piece of work.

    KeyboardInterrupt comes through, with what was measured in the record.
    """
    if ceilings_of(record.rows) is None:
        progress("ceilings")
        for row in _ceiling_rows(plan, measure_ceilings(plan.device, plan.precision, plan.limits)):
            record.add(row)
    have = {
        (row["backend"], row["form"], row["x"])
        for row in record.rows
        if row["op"] == plan.subject.name and row["metric"] == "ms"
    }
    for shape in plan.shapes:
        runnable = _admit(plan, shape, record, have, progress)
        for which in PASSES:
            progress(f"T {shape.T:,} {PASS_WORDS[which]}")
            left = {name: v for name, v in runnable.items() if (name, PASS_WORDS[which], shape.T) not in have}
            _time(plan, shape, which, left, record)


def steps_of(plan: Plan) -> int:
    """How often `bench` calls `progress` at most."""
    return 1 + len(plan.shapes) * (len(plan.forms) + len(PASSES))


def _admit(plan: Plan, shape: Shape, record, have, progress) -> dict:
    """{form: (run, verdict)} of those that may be timed at this shape; a row for every other one."""
    subject, admitted = plan.subject, {}
    plain = subject.forms[subject.plain].run
    for name in plan.forms:
        progress(f"T {shape.T:,} gate of {name}")
        todo = [which for which in PASSES if (name, PASS_WORDS[which], shape.T) not in have]
        if not todo:
            continue
        status, run, verdict = _gate(plan, shape, name, plain)
        if status == "ok":
            admitted[name] = (run, verdict)
        else:
            for which in todo:
                record.add(_row(plan, shape, which, name, metric="ms", status=status, note=verdict.note))
    return admitted


def _gate(plan: Plan, shape: Shape, name: str, plain):
    """(status of a row, what to run, verdict) of one form at one shape."""
    subject = plan.subject
    if name not in subject.forms:
        return (
            "unsupported",
            None,
            Verdict(False, None, f"{subject.name} has no form '{name}'; it has {', '.join(subject.forms)}"),
        )
    form = subject.forms[name]
    obstacle = form.obstacle(plan.device.type, plan.precision)
    if obstacle:
        return "unsupported", None, Verdict(False, None, obstacle)
    try:
        run = callable_of(form)
        verdict = against_reference(subject, run, shape, plan.device, plan.precision, plan.seed)
        if verdict.passed:
            first, verdict = verdict, against_plain(subject, run, plain, shape, plan.device, plan.precision, plan.seed)
            notes = f"{first.note}; {verdict.note}" if verdict.passed else verdict.note
            verdict = dataclasses.replace(
                verdict, note=notes, first_seconds=max(first.first_seconds, verdict.first_seconds)
            )
    except Exception as error:
        lost = memory.is_out_of_memory(error)
        words = (
            f"out of memory at {shape.T:,}"
            if lost
            else f"{'compiling or running' if form.compiled else 'running'} it failed: {first_line(error)}"
        )
        return ("out of memory" if lost else "failed"), None, Verdict(False, None, words)
    return ("ok" if verdict.passed else "gate failed"), run, verdict


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of what it says."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}"[:200]


def _time(plan: Plan, shape: Shape, which: str, runnable: dict, record) -> None:
    """Time all forms of one shape and pass in turn, and record each as soon as it is done."""
    if not runnable:
        return
    leaves = on_device(plan.subject, plan.subject.inputs(shape, plan.seed), plan.device, plan.precision)
    gradient = output_gradient(forward(plan.subject.forms[plan.subject.plain].run, leaves), plan.seed)
    sync = timing.sync_for(plan.device)

    def action(run):
        return (lambda: forward(run, leaves)) if which == "forward" else (lambda: both(run, leaves, gradient))

    cells = {name: timing.Cell(action(run), plan.limits, sync) for name, (run, _) in runnable.items()}
    for name, outcome in timing.interleave(cells):
        if isinstance(outcome, Exception):
            lost = memory.is_out_of_memory(outcome)
            note = f"out of memory at {shape.T:,}" if lost else first_line(outcome)
            record.add(
                _row(plan, shape, which, name, metric="ms", status="out of memory" if lost else "failed", note=note)
            )
            continue
        for row in _timed_rows(plan, shape, which, name, outcome, runnable[name][1]):
            record.add(row)


def _timed_rows(plan: Plan, shape: Shape, which: str, name: str, sample, verdict: Verdict) -> list[dict]:
    cost = plan.subject.cost(shape, plan.element_bytes, which)
    # What has to be compiled for forward and backward is compiled in the gates, before the cell's own first call.
    first = {
        "first_ms": 1e3
        * (max(verdict.first_seconds, sample.first_seconds) if which == "both" else sample.first_seconds)
    }
    metrics = (
        ("gflop_per_s", "GFLOP/s", lambda s: cost.operations / s / 1e9),
        ("gb_per_s", "GB/s", lambda s: cost.bytes / s / 1e9),
        ("ms", "ms", lambda s: 1e3 * s),
    )  # ms last: a rerun takes a cell with it for measured
    return [
        _row(plan, shape, which, name, metric=metric, **{**timed(sample, unit, of), **first}, note=verdict.note)
        for metric, unit, of in metrics
    ]


def _row(plan: Plan, shape: Shape, which: str, name: str, **fields) -> dict:
    cost = plan.subject.cost(shape, plan.element_bytes, which)
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
    """The shape as far as the op depends on it, and what it costs by the formulas."""
    return {
        "B": shape.B,
        "T": shape.T,
        **{name: getattr(shape, name) for name in subject.dims},
        "operations": cost.operations,
        "bytes": cost.bytes,
    }


__all__ = [
    "SUBJECTS",
    "Ceilings",
    "Plan",
    "Verdict",
    "against_plain",
    "against_reference",
    "bench",
    "ceilings_of",
    "measure_ceilings",
    "steps_of",
]
