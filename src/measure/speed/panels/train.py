"""`--panel train`: real optimiser steps on random tokens, by length, with a constant number of tokens per step.

`--train_batch` fixes the number of sequences in place of the tokens. Where a layer needs many sequences to use the
machine, as a recurrence does, time per sequence at a constant number of tokens also measures how the batch shrinks.

    step_ms        forward, backward, clipping and AdamW of the whole backbone (train_step of src/utils/training.py)
    tokens_per_s   tokens of that step over its time
    peak_bytes     the most memory during the step: weights_bytes, activations and scratch
    weights_bytes  parameters, gradients and optimiser state, counted from the tensors

A length that does not divide --batch_tokens has a few tokens fewer. A length above it has a single sequence. The rows
say how many tokens there were.
"""

from __future__ import annotations

from src.figures.speed import Axis, PanelLook
from src.measure.speed.panels import OVERHEAD_TOKENS, Panel, Point, Quantity, Table
from src.measure.speed.panels.memory_of import device_type_of, includes, nbytes, peak_above
from src.measure.speed.subjects import VOCABULARY, Subject
from src.setup.plan import set_threads
from src.storage.rows import timed

BATCHES = 4  # different batches, used one after the other
ENDLESS = 1_000_000  # steps of the learning rate's schedule, which so stays in its first part


class Trainer:
    """A model with its optimiser; `step()` takes the next of a few fixed batches of random tokens."""

    def __init__(self, subject: Subject, device):
        from src.utils.training import compile_model, make_optimizer, make_scaler, make_scheduler

        self.args, self.device = subject.args, device
        self.model = subject.build(device).train()
        self.optimizer = make_optimizer(self.model, self.args, device)
        self.scheduler = make_scheduler(self.optimizer, self.args, ENDLESS)
        self.scaler = make_scaler(self.args, device)
        if self.args.compile:
            compile_model(self.model)

    def use(self, rows: int, length: int) -> Trainer:
        """Draw the batches (rows, length)."""
        import torch

        rng = torch.Generator().manual_seed(self.args.seed)
        self.batches = [random_batch(rows, length, rng) for _ in range(BATCHES)]
        self.at = 0
        return self

    def step(self) -> None:
        from src.utils.training import train_step

        batch = self.batches[self.at % BATCHES]
        self.at += 1
        train_step(self.model, batch, self.optimizer, self.scheduler, self.scaler, self.device, self.args)

    def weights_bytes(self) -> int:
        """Parameters, gradients and optimiser state: what remains between two steps."""
        import torch

        state = [t for values in self.optimizer.state.values() for t in values.values() if isinstance(t, torch.Tensor)]
        own = list(self.model.parameters())
        return nbytes([*own, *(p.grad for p in own if p.grad is not None), *state])


def random_batch(rows: int, length: int, rng):
    """A dataset.common.Batch of uniform tokens, each position trained on the next one. rng: a torch.Generator."""
    import torch

    from dataset.common import Batch

    ids = torch.randint(0, VOCABULARY, (rows, length + 1), generator=rng)
    x, y = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    whole = torch.ones_like(x, dtype=torch.bool)
    return Batch(x, y, whole, torch.full((rows,), length), torch.full_like(x, -1))


def measure_peak(spec: dict) -> dict:
    """{"peak_bytes", "weights_bytes"} of one step.

    A step on a few tokens runs before it, which loads the code and makes the optimiser's state.
    """
    import torch

    subject, device = Subject.from_spec(spec["subject"]), torch.device(spec["device"])
    set_threads(spec["threads"])
    trainer = Trainer(subject, device).use(1, OVERHEAD_TOKENS)
    trainer.step()
    weights = trainer.weights_bytes()
    trainer.use(spec["batch"], spec["length"])
    return {"weights_bytes": weights, "peak_bytes": weights + peak_above(trainer.step, device)}


def training_fields(point: Point, sample, memory: dict, device_type: str) -> list[dict]:
    """The fields of the rows of a training cell, or of its overhead."""
    tokens = point.batch * point.length
    if point.is_overhead:
        return [
            {"metric": "floor_ms", **timed(sample), "note": f"the same step on {tokens} tokens"},
            {
                "metric": "floor_bytes",
                "value": memory["peak_bytes"] - memory["weights_bytes"],
                "unit": "bytes",
                "note": includes(device_type),
            },
        ]
    return [
        {"metric": "step_ms", **timed(sample)},
        {"metric": "tokens_per_s", **timed(sample, "tokens/s", lambda seconds: tokens / seconds)},
        {
            "metric": "peak_bytes",
            "value": memory["peak_bytes"],
            "unit": "bytes",
            "note": f"weights_bytes and {includes(device_type)}",
        },
        {
            "metric": "weights_bytes",
            "value": memory["weights_bytes"],
            "unit": "bytes",
            "note": "parameters, gradients, optimiser state",
        },
    ]


class Train(Panel):
    name = "train"
    metrics = ("step_ms", "tokens_per_s", "peak_bytes", "weights_bytes")
    overhead_metrics = ("floor_ms", "floor_bytes")
    peak = "src.measure.speed.panels.train:measure_peak"
    quantities = (
        Quantity("step_ms", "time per sequence", "floor_ms", a_sequence=True),
        Quantity("peak_bytes", "memory per sequence, without weights", "floor_bytes", "weights_bytes", a_sequence=True),
    )
    tables = (
        Table("step_ms", "step, ms", "{:,.1f}"),
        Table("tokens_per_s", "tokens per second", "{:,.0f}", lower_is_better=False),
        Table("peak_bytes", "peak memory, MiB", "{:,.1f}", 2**20),
    )
    look = PanelLook(
        axes=(
            Axis("step_ms", "ms per step"),
            Axis("tokens_per_s", "tokens per second"),
            Axis("peak_bytes", "peak memory (MiB)", 2**20),
        ),
        x_label="length (tokens)",
        title="training, {tokens} tokens per step",
        legend=("step_ms", "time per sequence"),
    )

    def points(self, config) -> list[Point]:
        return [
            Point(OVERHEAD_TOKENS, 1, OVERHEAD_TOKENS, True),
            *(Point(n, config.train_batch or max(1, config.batch_tokens // n), n) for n in config.lengths),
        ]

    def action(self, subject, point, device):
        return Trainer(subject, device).use(point.batch, point.length).step

    def fields(self, subject, point, sample, memory):
        return training_fields(point, sample, memory, device_type_of(subject))
