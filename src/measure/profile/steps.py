"""What a training step spends its time on: torch's profiler on real steps, by operator, by length, and over time.

    job = Job(session, model_class, machine)
    drawn = draw(job, lengths)                                      # the batches of each length
    measure(job, drawn, steps, limits, record, progress)            # rows into a Record, and files beside them

Data, model, optimiser, precision and the step itself are those of `train` (src.setup.plan, src.utils.training). A step
is measured in three ways:

- operators: `steps` steps, recorded with as little overhead as the profiler allows, for the table. The rest of a step
  is "outside operators": Python and torch's dispatch on a CPU, waiting on a GPU.
- detail: DETAIL_STEPS steps with stacks, shapes and allocations, for trace.json, stacks.txt, TensorBoard and the memory
  timeline. Recording makes the times in these files longer.
- lengths: the step without any profiler. All lengths are timed alternately (src.measure.timing). One more step per
  length is recorded for its allocations.

Batches are drawn before the steps that use them, and drawing has a row of its own. The caller runs the accuracy gate
(src/measure/gate.py) before any of this.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile, schedule, tensorboard_trace_handler
from torch.utils.data import DataLoader

from dataset.common import ExampleDataset, WindowDataset, collate_fn, collate_windows
from dataset.seeds import stream
from dataset.splits import draw_train
from dataset.task import DECODE_SLACK, Task
from dataset.windows import windows_random
from src.flags.fields import UserError
from src.flags.run_flags import RunArgs
from src.measure import timing
from src.measure.profile import trace as reading
from src.models.backbone import build
from src.stats import medians
from src.storage.randomness import seed_all
from src.storage.rows import make_row, timed
from src.storage.rundir import read_json, write_atomic, write_json
from src.utils import memory
from src.utils.session import Session
from src.utils.training import compile_model, make_optimizer, make_scaler, make_scheduler, total_steps, train_step

WARMUP_STEPS = 2
DETAIL_STEPS = 2
FILES = ("trace.json", "stacks.txt", "memory.json")
BATCHES = 4  # different batches per length, used one after the other


@dataclass
class Job:
    """A training run with its data.  machine: the fields of every row.  clock: for the timing of the lengths."""

    session: Session
    model_class: type
    machine: dict = field(default_factory=dict)
    clock: Callable[[], float] = time.perf_counter

    @property
    def args(self) -> RunArgs:
        return self.session.args

    @property
    def task(self) -> Task:
        return self.session.task

    @property
    def device(self) -> torch.device:
        return self.session.device

    @property
    def train_loader(self) -> DataLoader:
        return self.session.loaders["train"]

    def row(self, **fields) -> dict:
        clock = timing.clock_note(self.device.type)
        return make_row(
            "profile", **{"task": self.args.task, "model": self.args.model, "clock": clock, **self.machine, **fields}
        )


class Training:
    """A fresh model with its optimiser, and the batches that its steps use one after the other."""

    def __init__(self, job: Job, batches, max_tokens: int):
        args, device = job.args, job.device
        seed_all(args.seed)
        self.model = build(job.model_class, len(job.session.tokenizer), args, max_tokens).to(device).train()
        if args.compile:
            compile_model(self.model)
        self.optimizer = make_optimizer(self.model, args, device)
        self.scheduler = make_scheduler(self.optimizer, args, total_steps(args, job.train_loader))
        self.scaler = make_scaler(args, device)
        self.args, self.device, self.batches, self.done = args, device, batches, 0

    def step(self) -> None:
        """One optimiser step on the next batch. Raises Diverged."""
        batch = self.batches[self.done % len(self.batches)]
        self.done += 1
        train_step(self.model, batch, self.optimizer, self.scheduler, self.scaler, self.device, self.args)


def parameters(model) -> int:
    return sum(p.numel() for p in model.parameters())


def measure(job: Job, drawn, steps: int, limits, record, progress) -> None:
    """Add to `record` everything that is not in it yet.

    drawn: {length: what `batches_at` returns}, or a text that says why there are no lengths.
    steps: number of steps recorded for the table.
    progress(words): called before each piece of work, at most `steps_of(drawn)` times.
    Raises Diverged and KeyboardInterrupt; the rows measured before it are in the record.
    """
    have = {(row["panel"], row["x"]) for row in record.rows}
    if not have:
        for name in FILES:  # left by a profile whose config.json is gone
            (record.path / name).unlink(missing_ok=True)
    if ("data", None) not in have:
        progress("operators")
        _operators(job, steps, record)
    if ("memory timeline", None) not in have:
        progress("trace and stacks")
        _detail(job, record)
    if isinstance(drawn, str):
        if ("length", None) not in have:
            record.add(job.row(panel="length", metric="step_ms", status="unsupported", x_name="length", note=drawn))
        return
    _lengths(
        job,
        {length: made for length, made in drawn.items() if ("length", length) not in have},
        limits,
        record,
        progress,
    )


def steps_of(drawn) -> int:
    return 2 + (0 if isinstance(drawn, str) else 1 + len(drawn))


def own_functions() -> list[str]:
    """Names of the autograd functions that this project and a user's file define; torch's own are left out."""
    found, waiting = [], [torch.autograd.Function]
    while waiting:
        for cls in waiting.pop().__subclasses__():
            waiting.append(cls)
            if cls.__module__.split(".")[0] == "src" or cls.__module__.startswith("user_"):
                found.append(cls.__name__)
    return found


# The recorded steps


def _operators(job: Job, steps: int, record) -> None:
    """Rows of the panels operators, groups and data, in ms per step."""
    seconds, batches = [], []
    waiting = endless(job.train_loader)
    for _ in range(WARMUP_STEPS + steps):
        began = time.perf_counter()
        batches.append(next(waiting))
        seconds.append(time.perf_counter() - began)
    training = Training(job, batches, job.task.table_tokens())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        record_steps(training.step, steps, job.device, lambda profiler: profiler.export_chrome_trace(str(path)))
        trace = json.loads(path.read_bytes())
    tokens = round(np.mean([b.x.numel() for b in batches]))
    common = {"parameters": parameters(training.model), "n": steps, "warmups": WARMUP_STEPS, "tokens": tokens}
    table = reading.operators(trace, reading.own_names(own_functions()))  # known once the model has run
    kind = "kernels on the device" if job.device.type == "cuda" else "self time on the CPU"
    rows = [
        job.row(
            panel="operators",
            op=entry["name"],
            form=entry["group"],
            metric="self_ms",
            **spread(entry["ms"]),
            **common,
            note=f"{entry['calls']:g} calls per step; {entry['group']}; {kind}",
        )
        for entry in table
    ]
    for group, values in reading.by_group(table).items():
        rows.append(job.row(panel="groups", form=group, metric="self_ms", **spread(values), **common))
    windows = [(end - start) / 1e3 for start, end in reading.step_windows(trace)]
    slower = "recorded by the profiler, so slower than without it"
    rows.append(job.row(panel="groups", form="whole step", metric="step_ms", **spread(windows), **common, note=slower))
    drawing = spread([1e3 * s for s in seconds[WARMUP_STEPS:]])
    before = "drawing a batch, which comes before the step"
    rows.append(job.row(panel="data", metric="batch_ms", **drawing, **common, note=before))
    record.add(*rows)


def endless(loader):
    """The batches of one epoch after the other, without end."""
    while True:
        yield from loader


def spread(values) -> dict:
    """The fields of a row from repeats in milliseconds."""
    low, high, _ = medians.median_interval(values)
    q1, median, q3 = (medians.quantile(values, share) for share in (0.25, 0.5, 0.75))
    return {"value": median, "unit": "ms", "q1": q1, "q3": q3, "low": low, "high": high, "values": list(values)}


def record_steps(step, steps: int, device, ready, **options) -> None:
    """Run WARMUP_STEPS steps, then `steps` under torch's profiler.

    ready(profiler): called once, when the trace is complete.
    """
    sync = timing.sync_for(device)
    for _ in range(WARMUP_STEPS - 1):
        step()
    sync()
    plan = schedule(wait=0, warmup=1, active=steps, repeat=1)
    with (
        without_kinetos_lines(),
        profile(activities=activities(device), schedule=plan, on_trace_ready=ready, **options) as profiler,
    ):
        for _ in range(1 + steps):
            step()
            sync()
            profiler.step()


@contextlib.contextmanager
def without_kinetos_lines(unwanted: bytes = b"USDT:"):
    """Hold back what is written to file descriptor 2; at the end write it without the lines that begin with `unwanted`.

    libkineto writes such lines from C++ at every log level when a recording starts or stops. They would break the
    progress bar.
    """
    try:
        stderr = os.dup(2)
    except OSError:  # it is closed, so nothing is shown
        yield
        return
    with tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            with os.fdopen(2, "wb", closefd=False) as out:
                out.writelines(line for line in held if not line.startswith(unwanted))


def activities(device) -> list:
    return [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])


def _detail(job: Job, record) -> None:
    """trace.json, stacks.txt, the TensorBoard file, and the memory timeline."""
    batches = list(itertools.islice(endless(job.train_loader), WARMUP_STEPS + DETAIL_STEPS))
    training = Training(job, batches, job.task.table_tokens())
    folder = record.path / "tensorboard"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.pt.trace.json"):  # of a run that was interrupted here
        old.unlink()
    write_trace = tensorboard_trace_handler(str(folder), worker_name="profile")
    record_steps(
        training.step, DETAIL_STEPS, job.device, write_trace, record_shapes=True, profile_memory=True, with_stack=True
    )
    (written,) = folder.glob("*.pt.trace.json")
    shutil.copyfile(written, record.path / "trace.json")
    trace = json.loads(written.read_bytes())
    write_atomic(record.path / "stacks.txt", ("\n".join(reading.folded_stacks(trace)) + "\n").encode("utf-8"))
    points = reading.thinned(reading.allocations(trace, job.device.type))
    write_json(record.path / "memory.json", {"steps": DETAIL_STEPS, "unit": ["ms", "bytes"], "points": points})
    record.add(
        job.row(
            panel="memory timeline",
            metric="peak_bytes",
            value=max((held for _, held in points), default=0),
            unit="bytes",
            n=DETAIL_STEPS,
            parameters=parameters(training.model),
            note=memory_note(job.device),
        )
    )


def memory_note(device) -> str:
    seen = (
        "torch's CUDA allocator"
        if device.type == "cuda"
        else "torch's CPU allocator (arrays of NumPy and numba are not seen)"
    )
    return f"above parameters and optimiser state, as the profiler sees {seen}"


# Lengths


def default_lengths(task) -> list[int] | str:
    """The longest training length, and powers of two from a quarter to eight times of it; or why the task has none."""
    longest = task.longest_length()
    if longest is None:
        return f"{type(task).__name__} has no length"
    shortest = 16 if task.reads_text else max(1, task.lengths[0])
    least, most = max(shortest, longest // 4), 8 * longest
    powers = [1 << k for k in range(31) if least <= 1 << k <= most]
    return sorted({*powers, longest})


def draw(job: Job, given) -> dict | str:
    """{length: (batches, max_tokens)} of the given lengths, else of the task's own; or why the task has none.

    Raises UserError for a length that the task cannot draw.
    """
    lengths = default_lengths(job.task)
    if job.task.reads_text:
        lengths = [length for length in lengths if length < len(job.train_loader.dataset.ids)]
    if isinstance(lengths, str):
        if given:
            raise UserError(f"--lengths: got {','.join(map(str, given))}, but {lengths}; leave it out")
        return lengths
    for length in given:
        if length < 1:
            raise UserError(f"--lengths: got {length}, allowed: whole numbers >= 1")
    return {length: batches_at(job, length) for length in sorted(set(given or lengths))}


def batches_at(job: Job, length: int) -> tuple[list, int]:
    """(BATCHES training batches of one length, with as many rows as in `train`; tokens of the longest sequence)."""
    task, args = job.task, job.args
    if task.reads_text:
        return _windows(job, length), length
    tokens = task.max_tokens(length)
    rows = max(1, args.batch_chars // tokens) if args.batch_chars else args.batch_size
    batches = []
    for i in range(BATCHES):
        examples = draw_train(task, rows, length, stream(task, f"profile batch {i} of length {length}", args.seed))
        data = ExampleDataset(examples, [length] * rows, task, job.session.tokenizer, args.loss_on)
        batches.append(collate_fn((data, np.arange(rows))))
    return batches, tokens + DECODE_SLACK


def _windows(job: Job, length: int) -> list:
    ids = job.train_loader.dataset.ids
    if length >= len(ids):
        raise UserError(f"--lengths: got {length}, allowed: less than the training text's {len(ids):,} characters")
    rows = max(1, job.args.batch_chars // length) if job.args.batch_chars else job.args.batch_size
    rng = np.random.default_rng((job.args.seed, length))
    batches = []
    for _ in range(BATCHES):
        data = WindowDataset(ids, windows_random(ids, rows, length, rng))
        batches.append(collate_windows((data, np.arange(rows))))
    return batches


def _lengths(job: Job, drawn: dict, limits, record, progress) -> None:
    """Rows of all lengths. They are timed alternately, so that a change of the machine's speed affects all of them.

    Every length has its own model and optimiser. Activations are alive only during a call.
    """
    trainings, cells = {}, {}
    for length, (batches, max_tokens) in drawn.items():
        try:
            trainings[length] = Training(job, batches, max_tokens)
        except Exception as error:
            _lost(job, length, batches, error, record)
            continue
        cells[length] = timing.Cell(trainings[length].step, limits, timing.sync_for(job.device), clock=job.clock)
    if cells:
        progress(f"lengths {', '.join(format(length, ',') for length in cells)}")
    for length, outcome in timing.interleave(cells):
        training = trainings.pop(length)
        try:
            if isinstance(outcome, Exception):
                raise outcome
            _length_rows(job, length, training, outcome, peak_bytes(training.step, job.device), record)
        except Exception as error:
            _lost(job, length, training.batches, error, record)
        progress(f"length {length:,} is done")


def _length_rows(job: Job, length: int, training: Training, sample, peak: int, record) -> None:
    """Time per step and per token, and the peak of the allocations."""
    common = {**_place(length, training.batches), "parameters": parameters(training.model)}
    record.add(
        job.row(**common, metric="step_ms", **timed(sample)),
        job.row(**common, metric="token_us", **timed(sample, "us", lambda s: 1e6 * s / common["tokens"])),
        job.row(**common, metric="peak_bytes", value=peak, unit="bytes", n=1, note=memory_note(job.device)),
    )


def _lost(job: Job, length: int, batches, error: Exception, record) -> None:
    """A row for a length that does not fit into memory; any other error is raised again."""
    if not memory.is_out_of_memory(error):
        raise error
    record.add(
        job.row(
            **_place(length, batches), metric="step_ms", status="out of memory", note=f"out of memory at {length:,}"
        )
    )


def _place(length: int, batches) -> dict:
    """The fields of a length's rows that do not depend on the outcome."""
    return {
        "panel": "length",
        "x_name": "length",
        "x": length,
        "batch": len(batches[0]),
        "tokens": round(np.mean([b.x.numel() for b in batches])),
    }


def peak_bytes(step, device) -> int:
    """The most bytes held during one step above those before it, from the allocations that the profiler records."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        with without_kinetos_lines(), profile(activities=activities(device), profile_memory=True) as profiler:
            step()
            timing.sync_for(device)()
        profiler.export_chrome_trace(str(path))
        points = reading.allocations(json.loads(path.read_bytes()), device.type)
    return max((held for _, held in points), default=0)


def memory_of(folder) -> dict | None:
    """The memory timeline that `measure` wrote: {"steps", "unit", "points"}; None if it did not yet."""
    path = Path(folder) / "memory.json"
    return read_json(path) if path.is_file() else None
