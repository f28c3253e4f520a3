"""The one training loop: AMP, gradient accumulation, data parallelism, clipping, validation, checkpoints.

    for each batch: loss = sum of nats / scored characters, over all micro-batches and ranks -> clip -> AdamW -> cosine

The pieces that the owner's scripts use are public and stand alone: `train_one_epoch`, `evaluate`, `make_optimizer`,
`make_scheduler`. `fit` strings them together with everything a run directory needs, and can continue from any checkpoint.
"""

from __future__ import annotations

import itertools
import math
import signal
import time
from dataclasses import dataclass, field

import torch

from dataset.plans import FreshBatches, set_epoch
from src.flags.fields import UserError, to_dict
from src.storage import checkpoint
from src.storage.rundir import RunDir
from src.utils.distributed import World
from src.utils.evaluation import evaluate, teacher_forced
from src.utils.metrics import bpc, finite, perplexity
from src.utils.precision import autocast
from src.utils.reporter import Reporter
from src.utils.session import Session

__all__ = [
    "Diverged",
    "Fit",
    "Interrupted",
    "Progress",
    "evaluate",
    "fit",
    "make_optimizer",
    "make_scaler",
    "make_scheduler",
    "total_steps",
    "train_one_epoch",
    "train_step",
]

CHECKPOINT_SECONDS = 30.0


class Diverged(Exception):
    """The loss of a step was not finite: a result, not a crash."""


class Interrupted(Exception):
    """The user asked to stop; the state after the last finished step is saved."""


def make_optimizer(model, args, device):
    """AdamW (fused where torch has it). Norms, biases and parameters marked `_no_weight_decay` get no decay."""
    decay, plain = [], []
    for p in model.parameters():
        if p.requires_grad:
            (plain if p.ndim < 2 or getattr(p, "_no_weight_decay", False) else decay).append(p)
    groups = [{"params": decay, "weight_decay": args.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=args.lr, fused=torch.device(device).type in ("cpu", "cuda")
    )


def make_scheduler(optimizer, args, steps: int):
    """Linear warm-up over warmup_steps, then a cosine from lr that arrives at min_lr when `steps` steps are done."""

    def factor(step: int) -> float:
        if step < args.warmup_steps:
            return (step + 1) / args.warmup_steps
        share = min(1.0, (step - args.warmup_steps) / max(1, steps - args.warmup_steps))
        low = args.min_lr / args.lr
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * share))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def make_scaler(args, device):
    # fp16 only: bf16 has float32's range and needs no scaling of the loss.
    return torch.amp.GradScaler(torch.device(device).type, enabled=args.precision == "fp16")


def total_steps(args, loader) -> int:
    """Optimiser steps of a run. UserError where fresh data has no end and none was given."""
    if args.max_steps:
        return args.max_steps
    if isinstance(loader.dataset, FreshBatches):
        raise UserError(
            "--max_steps: got 0, but fresh data (--train_size 0) has no epochs; give --max_steps, or a --train_size"
        )
    return args.epochs * len(loader)


def train_step(model, batch, optimizer, scheduler, scaler, device, args, world: World | None = None) -> dict:
    """One optimiser step on one batch. Returns loss (nats per trained character, never smoothed), grad_norm, clipped, lr.

    The summed loss is divided by the trained characters of the whole batch, so micro-batches and ranks of unequal size
    weigh by what they hold. Raises Diverged before anything is updated.
    """
    world = world or World()
    device = torch.device(device)
    optimizer.zero_grad(set_to_none=True)
    total = batch.n_trained
    loss_sum = torch.zeros((), device=device)
    for part in _micro_batches(batch, world, args.micro_batch_size):
        count = part.n_trained
        with autocast(device, args.precision):
            loss, aux = model.loss_fn(part.to(device), label_smoothing=args.label_smoothing)
        share = loss if count == total else loss * (count / total)
        scaler.scale(share).backward()
        loss_sum += _unsmoothed(aux) * (count / total) if args.label_smoothing else share.detach()
    world.sum_gradients(model.parameters())
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), args.grad_clip or math.inf)
    loss_value, norm_value = torch.stack([loss_sum, norm.to(loss_sum.dtype)]).tolist()  # one transfer
    loss_value = world.sum([loss_value], device)[0]
    if not math.isfinite(loss_value):
        raise Diverged(f"the loss is {loss_value}")
    if (
        not math.isfinite(norm_value) and not scaler.is_enabled()
    ):  # an overflow in fp16 is the scaler's business: it skips the step
        raise Diverged(f"the norm of the gradient is {norm_value}")
    lr = optimizer.param_groups[0]["lr"]
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()
    return {
        "loss": loss_value,
        "grad_norm": finite(norm_value),
        "clipped": bool(args.grad_clip and norm_value > args.grad_clip),
        "lr": lr,
    }


def _unsmoothed(aux) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(aux["logits"].detach().float(), aux["target"])


def _micro_batches(batch, world: World, size: int):
    """This rank's share of a batch, in pieces of at most `size` rows."""
    if world.size > 1:
        batch = batch.take(world.rows())
    if not size or size >= len(batch):
        if len(batch) and batch.n_trained:
            yield batch
        return
    for at in range(0, len(batch), size):
        part = batch.take(slice(at, at + size))
        if part.n_trained:
            yield part


def train_one_epoch(model, loader, opt, sched, scaler, device, args, world: World | None = None, on_step=None) -> dict:
    """Train on every batch of a loader. Returns logs: loss (mean nats per trained character), ppl, bpc, steps, chars.

    Fresh data (--train_size 0) has no end: there an epoch is args.max_steps batches.  The next call goes on with the loader's next
    epoch.  on_step(row, batch) is called after each step and may raise to stop.  Raises Diverged for a loss that is not finite.
    """
    model.train()
    loss_sum = count = steps = chars = 0
    endless = isinstance(getattr(loader, "dataset", None), FreshBatches)
    for batch in itertools.islice(loader, total_steps(args, loader) if endless else None):
        row = train_step(model, batch, opt, sched, scaler, device, args, world)
        loss_sum, count = loss_sum + row["loss"] * batch.n_trained, count + batch.n_trained
        steps, chars = steps + 1, chars + batch.n_chars
        if on_step is not None:
            on_step(row, batch)
    loss = loss_sum / count if count else math.nan
    return {"loss": loss, "ppl": finite(perplexity(loss)), "bpc": bpc(loss), "steps": steps, "chars": chars}


@dataclass
class Progress:
    """Where a run stands: all of it is in every checkpoint."""

    step: int = 0
    epoch: int = 0
    batch: int = 0  # batches of this epoch already used
    best_val: float | None = None
    best_step: int | None = None
    chars_seen: int = 0
    examples_seen: int = 0
    seconds: float = 0.0  # training time, earlier processes' included; the machine's, so no result depends on it
    diverged_at: int | None = None


@dataclass
class Stopper:
    """Turns the first SIGINT or SIGTERM into a flag that the loop reads after a finished step; a second SIGINT stops at once."""

    asked: bool = False
    _old: dict = field(default_factory=dict)

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._old[number] = signal.signal(number, self._ask)
            except ValueError:  # not the main thread: the caller's handlers stay
                break
        return self

    def __exit__(self, *_):
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _ask(self, number, frame):
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


class Fit:
    """A training run over a run directory. `run()` trains from wherever `progress` stands to the last step."""

    def __init__(self, model, session: Session, run_dir: RunDir, reporter: Reporter):
        self.model, self.session, self.run_dir, self.reporter = model, session, run_dir, reporter
        self.loaders, self.args, self.device, self.world = session.loaders, session.args, session.device, session.world
        args, loaders, device = self.args, self.loaders, self.device
        self.steps = total_steps(args, loaders["train"])
        self.eval_every = args.eval_every or max(1, self.steps // 10)
        self.optimizer = make_optimizer(model, args, device)
        self.scheduler = make_scheduler(self.optimizer, args, self.steps)
        self.scaler = make_scaler(args, device)
        self.progress = Progress()
        self.vocab = session.tokenizer.tokens

    def payload(self) -> dict:
        """What a checkpoint holds: keys model, args, vocab, and all state that continuing needs."""
        return {
            "model": self.model.state_dict(),
            "args": to_dict(self.args),
            "vocab": self.vocab,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.progress.step,
            "progress": dict(vars(self.progress)),
            "random": checkpoint.random_state(),
        }

    def restore(self, payload: dict) -> None:
        self.model.load_state_dict(payload["model"])
        self.optimizer.load_state_dict(payload["optimizer"])
        self.scheduler.load_state_dict(payload["scheduler"])
        self.scaler.load_state_dict(payload["scaler"])
        self.progress = Progress(**payload["progress"])
        checkpoint.set_random_state(payload["random"])

    def save(self) -> None:
        if self.world.is_main:
            checkpoint.save(self.run_dir.ckpt, self.payload())
        self._saved_at = time.perf_counter()

    def run(self) -> None:
        """Train to the end. Raises Interrupted after saving when asked to stop; a divergence ends in `progress.diverged_at`."""
        self._saved_at = self._clock = time.perf_counter()
        self.model.train()
        with Stopper() as self.stopper:
            try:
                while self.progress.step < self.steps and self.progress.diverged_at is None:
                    self._epoch()
            except Diverged:
                self.progress.diverged_at = self.progress.step + 1
                self.save()

    def _epoch(self) -> None:
        set_epoch(self.loaders["train"], self.progress.epoch, self.progress.batch)
        for batch in self.loaders["train"]:
            row = train_step(
                self.model, batch, self.optimizer, self.scheduler, self.scaler, self.device, self.args, self.world
            )
            self._after_step(row, batch)
            if self.progress.step == self.steps:
                return
        self.progress.epoch, self.progress.batch = self.progress.epoch + 1, 0

    def _after_step(self, row: dict, batch) -> None:
        p, now = self.progress, time.perf_counter()
        seconds, self._clock = now - self._clock, now
        p.step, p.batch, p.seconds = p.step + 1, p.batch + 1, p.seconds + seconds
        p.chars_seen, p.examples_seen = p.chars_seen + batch.n_chars, p.examples_seen + len(batch)
        row = {"step": p.step, **row, "trained": batch.n_trained, "chars": batch.n_chars, "seconds": seconds}
        if self.world.is_main:
            self.run_dir.append(row)
        self.reporter.step(row, self.steps)
        if p.step % self.eval_every == 0 or p.step == self.steps:
            self._validate()
            self.save()
        elif now - self._saved_at > CHECKPOINT_SECONDS:
            self.save()
        if self.world.sum([float(self.stopper.asked)], self.device)[0]:
            if self.progress.step < self.steps:
                self.save()
            raise Interrupted
        self._clock = time.perf_counter()  # validation and saving are not training time

    def _validate(self) -> None:
        scored = teacher_forced(self.model, self.loaders["val"], self.device, self.args, world=self.world)
        loss, p = scored.loss, self.progress
        if not math.isfinite(loss):
            raise Diverged("the validation loss is not finite")
        row = {"step": p.step, "val_loss": loss, "val_token_acc": float(scored.correct.mean())}
        better = p.best_val is None or loss < p.best_val
        if better:
            p.best_val, p.best_step = loss, p.step
        if self.world.is_main:
            self.run_dir.append(row)
            if better:  # before ckpt.pt: a kill in between leaves a best.pt that the continued run writes again, alike
                checkpoint.save(
                    self.run_dir.best,
                    {"model": self.model.state_dict(), "args": to_dict(self.args), "vocab": self.vocab, "step": p.step},
                )
        self.reporter.validation(row, self.steps, better)


def fit(model, session: Session, run_dir: RunDir, reporter: Reporter, resume_from: dict | None = None) -> Fit:
    """Train a model into a run directory, from the start or from a checkpoint's payload; returns the finished Fit."""
    job = Fit(model, session, run_dir, reporter)
    if resume_from is not None:
        job.restore(resume_from)
    if session.args.compile:
        compile_model(model)
    job.run()
    return job


def compile_model(model) -> None:
    """torch.compile the pass that training and evaluation share, in place; parameters and checkpoints keep their names."""
    name = "hidden" if hasattr(model, "hidden") else "forward"
    setattr(model, name, torch.compile(getattr(model, name)))
