"""The one training loop: mixed precision, gradient accumulation, data parallelism, clipping, validation, checkpoints.

    each batch: loss = (sum of nats) / (trained characters of the whole batch)  ->  clip  ->  AdamW  ->  next rate

Scripts may use `train_one_epoch`, `evaluate`, `make_optimizer`, `make_scheduler` and `make_scaler` alone:

    optimizer = make_optimizer(model, args, device)
    scheduler, scaler = make_scheduler(optimizer, args, steps), make_scaler(args, device)
    logs = train_one_epoch(model, loaders["train"], optimizer, scheduler, scaler, device, args)

A run uses `fit`, which also writes the run directory and can continue from any checkpoint.
"""

from __future__ import annotations

import functools
import itertools
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch.utils.data import DataLoader

from dataset.common import Batch
from dataset.plans import FreshBatches, set_epoch
from src.flags.fields import UserError
from src.flags.run_flags import RunFlags, to_dict
from src.models.contract import ARModel
from src.ops import ran
from src.storage import checkpoint
from src.storage.log_copy import packed
from src.storage.randomness import kept_random_state, seed_rank
from src.storage.rundir import RunDir
from src.utils.adamw import AdamW, clip_gradients
from src.utils.attempt import attempt
from src.utils.distributed import World
from src.utils.evaluation import allowed_ids, evaluate, pass_over, validation_score
from src.utils.interrupts import SIGNALS
from src.utils.metrics import bpc, finite, perplexity
from src.utils.precision import autocast
from src.utils.reporter import Reporter
from src.utils.restoring import state_problem
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
RATIO_TOKENS = 512  # enough for two digits, and some milliseconds


class Diverged(Exception):
    """The loss or the gradient of a step was not finite. This is a result of the run, not a crash."""


class Interrupted(Exception):
    """The user asked to stop. The state after the last finished step is saved."""


def make_optimizer(model: torch.nn.Module, args: RunFlags, device: torch.device | str) -> torch.optim.AdamW:
    """AdamW, fused where torch has it. Norms, biases and parameters marked `_no_weight_decay` get no weight decay.

    The fused form takes real floating-point parameters only. A complex parameter counts as two real ones.
    Raises UserError for complex parameters under fp16, whose scaled gradients torch cannot check.
    """
    groups = weight_decay_groups(model, args)
    real = all(p.is_floating_point() for group in groups for p in group["params"])
    if args.precision == "fp16" and not real:
        raise UserError("--precision: got fp16, but the model has complex parameters, allowed: bf16 or fp32")
    return adamw(groups, args, device)


def weight_decay_groups(model: torch.nn.Module, args: RunFlags) -> list[dict]:
    """The trained parameters with their weight decay: first those that have one. A group without any is left out."""
    decay, plain = [], []
    for p in model.parameters():
        if p.requires_grad:
            (plain if p.ndim < 2 or getattr(p, "_no_weight_decay", False) else decay).append(p)
    groups = [{"params": decay, "weight_decay": args.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def adamw(groups: list[dict], args: RunFlags, device: torch.device | str) -> torch.optim.AdamW:
    """AdamW of groups of parameters, fused where torch has it."""
    real = all(p.is_floating_point() for group in groups for p in group["params"])
    return AdamW(
        groups,
        lr=args.lr,
        betas=(args.beta1, args.beta2),
        fused=real and torch.device(device).type in ("cpu", "cuda"),
    )


def make_scheduler(optimizer: torch.optim.Optimizer, args: RunFlags, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up over warmup_steps, then a cosine from lr to min_lr. It reaches min_lr after `steps` steps.

    Under --cosine epoch the rate stays during each --epochs-th part of the run, and falls at its end. Under --cosine
    off it stays at lr after the warm-up.
    """
    hold = max(1, steps // args.epochs) if args.cosine == "epoch" else 1

    def factor(step: int) -> float:
        if step < args.warmup_steps:
            return (step + 1) / args.warmup_steps
        if args.cosine == "off":
            return 1.0
        done = max(0, step - step % hold - args.warmup_steps)
        share = min(1.0, done / max(1, steps - args.warmup_steps))
        low = args.min_lr / args.lr
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * share))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def make_scaler(args: RunFlags, device: torch.device | str) -> torch.amp.GradScaler:
    """The scaler of the loss. It acts under fp16 only, because bf16 has the range of float32."""
    return torch.amp.GradScaler(torch.device(device).type, enabled=args.precision == "fp16")


def total_steps(args: RunFlags, loader: DataLoader) -> int:
    """Optimiser steps of a run. UserError where fresh data has no end and --max_steps is not given."""
    if args.max_steps:
        return args.max_steps
    if isinstance(loader.dataset, FreshBatches):
        raise UserError(
            "--max_steps: got 0, but fresh data (--train_size 0) has no epochs; give --max_steps, or a --train_size"
        )
    return args.epochs * len(loader)


def validation_interval(args: RunFlags, steps: int) -> int:
    """Steps between validations: --eval_every, a tenth of the run (0), or an --epochs-th part of it (-1)."""
    if args.eval_every > 0:
        return args.eval_every
    return max(1, steps // (10 if args.eval_every == 0 else args.epochs))


def train_step(
    model: ARModel,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    scaler: torch.amp.GradScaler,
    device: torch.device | str,
    args: RunFlags,
    world: World | None = None,
) -> dict:
    """One optimiser step on one batch. Returns loss (nats per trained character), grad_norm, clipped and lr.

    The loss is divided by the trained characters of the whole batch. So each micro-batch and each rank counts by the
    characters that it holds. The returned loss has no label smoothing. Raises Diverged before any weight changes.
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
    norm = clip_gradients([p for p in model.parameters() if p.grad is not None], args.grad_clip or math.inf)
    loss_value, norm_value = torch.stack([loss_sum, norm.to(loss_sum.dtype)]).tolist()  # one transfer
    loss_value = world.sum([loss_value], device)[0]
    if not math.isfinite(loss_value):
        raise Diverged(f"the loss is {loss_value}")
    if not math.isfinite(norm_value) and not scaler.is_enabled():  # fp16 may overflow; the scaler then skips the step
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


def train_one_epoch(
    model: ARModel,
    loader: DataLoader,
    opt: torch.optim.Optimizer,
    sched: torch.optim.lr_scheduler.LRScheduler,
    scaler: torch.amp.GradScaler,
    device: torch.device | str,
    args: RunFlags,
    world: World | None = None,
    on_step: Callable[[dict, Batch], None] | None = None,
) -> dict:
    """Train on every batch of a loader. Returns loss (mean nats per trained character), ppl, bpc, steps and chars.

    Fresh data (--train_size 0) has no end, so there an epoch is args.max_steps batches. The next call uses the next
    epoch of the loader. Raises Diverged for a loss or a gradient that is not finite.
    args: scripts may pass flags that still say `--precision auto` (see src/utils/precision.py).
    on_step(row, batch): called after each step. It may raise an exception to stop.
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
    """How far a run is. Every checkpoint holds all of it."""

    step: int = 0
    epoch: int = 0
    batch: int = 0  # batches of this epoch that are done
    best_val: float | None = None
    best_step: int | None = None
    chars_seen: int = 0
    examples_seen: int = 0
    seconds: float = 0.0  # training time, that of earlier processes included; no result depends on it
    diverged_at: int | None = None
    stopped_at: int | None = None  # the step of the last of --stop_after validations in a row that reached --stop_at
    at_goal: int = 0  # how many validations in a row, up to now, reached --stop_at
    solved_at: int | None = None  # the step of the first validation that reached --solved_at
    output_ratios: dict[str, list] | None = None  # per block, before the first step; None for a whole model
    failed: dict[str, str] = field(default_factory=dict)  # what was measured beside the scores: "failed: reason"


@dataclass
class Stopper:
    """Turns the first SIGINT, SIGTERM or SIGHUP into a flag that the loop reads after each step.

    A second one stops at once. Under `nohup` a SIGHUP stays ignored.
    """

    asked: bool = False
    _old: dict = field(default_factory=dict)

    def __enter__(self):
        for number in SIGNALS:
            if number not in (signal.SIGINT, signal.SIGTERM) and signal.getsignal(number) == signal.SIG_IGN:
                continue
            try:
                self._old[number] = signal.signal(number, self._ask)
            except ValueError:  # only the main thread may set handlers; elsewhere the caller's stay
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
    """A training run in a run directory. `run()` trains from `progress` to the last step."""

    def __init__(self, model: ARModel, session: Session, run_dir: RunDir, reporter: Reporter):
        self.model, self.session, self.run_dir, self.reporter = model, session, run_dir, reporter
        self.loaders, self.args, self.device, self.world = session.loaders, session.args, session.device, session.world
        args, loaders, device = self.args, self.loaders, self.device
        self.steps = total_steps(args, loaders["train"])
        self.eval_every = validation_interval(args, self.steps)
        self.optimizer = make_optimizer(model, args, device)
        self.scheduler = make_scheduler(self.optimizer, args, self.steps)
        self.scaler = make_scaler(args, device)
        self.progress = Progress()
        self.vocab = session.tokenizer.payload()
        if session.tokenizer.unit != "character":
            reporter.unit = f"{session.tokenizer.unit}s"
        if not self.world.is_main:  # after the weights, which are equal: each rank drops out other numbers
            seed_rank(args.seed, self.world.rank)

    def payload(self) -> dict:
        """What a checkpoint holds: the weights, the flags, the vocabulary, and all state that continuing needs.

        Every rank must call it: "random" has the random state of each rank, in the order of the ranks. "ran" is part of
        it, so that a run that is continued records what ran in its earlier processes. "log" is the log so far. Only
        rank 0 has one, and writes the checkpoint.
        """
        return {
            "model": self.model.state_dict(),
            "args": to_dict(self.args),
            "vocab": self.vocab,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.progress.step,
            "progress": dict(vars(self.progress)),
            "random": self.world.gather(self.random_state()),
            "ran": ran.noted(),
            "log": packed(self.run_dir.training_log.copy()),
        }

    def random_state(self) -> dict:
        """The state of the random generators of this rank."""
        return checkpoint.random_state()

    def problem_of(self, payload: dict) -> str:
        """Why this training cannot go on from a checkpoint's payload; empty where it can. Nothing is changed."""
        if payload["vocab"] != self.vocab:
            return "its vocabulary is not that of this data"
        fresh = {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": dict(vars(Progress())),
        }
        if payload["step"] > self.steps:
            return f"it is at step {payload['step']} of {self.steps}"
        return state_problem(payload, fresh, [p for g in self.optimizer.param_groups for p in g["params"]])

    def restore(self, payload: dict) -> None:
        """Continue from a checkpoint's payload."""
        self.model.load_state_dict(payload["model"])
        self.optimizer.load_state_dict(payload["optimizer"])
        self.scheduler.load_state_dict(payload["scheduler"])
        self.scaler.load_state_dict(payload["scaler"])
        self.progress = Progress(**payload["progress"])
        self._restore_random(payload["random"])
        ran.restore(payload.get("ran", {}))  # checkpoints of older versions have none

    def _restore_random(self, saved: list[dict] | dict) -> None:
        """Give this rank its random state. Ranks that the saved run did not have begin a stream of their own."""
        states = [saved] if isinstance(saved, dict) else saved  # older checkpoints have the state of rank 0 alone
        rank, size = self.world.rank, self.world.size
        if rank < len(states):
            checkpoint.set_random_state(states[rank])
        else:
            seed_rank(self.args.seed, rank, self.progress.step)
        if size != len(states):
            self.reporter.say(
                f"notice: the checkpoint is of {_processes(len(states))} and continues in {_processes(size)}; random "
                "numbers, such as those of dropout, are others than in an uninterrupted run"
            )

    def save(self) -> None:
        """Write ckpt.pt. Every rank must call it, and rank 0 writes."""
        payload = self.payload()
        if self.world.is_main:
            self.run_dir.training_log.sync()
            checkpoint.save(self.run_dir.ckpt, payload)
        self._saved_at = time.perf_counter()

    def run(self) -> None:
        """Train to the last step. A divergence ends the run and is noted in `progress.diverged_at`.

        Raises Interrupted when the user asked to stop; the state is saved before.
        """
        self.begin()
        with Stopper() as self.stopper:
            try:
                while not self.finished and self.progress.diverged_at is None:
                    self._epoch()
            except Diverged:
                self.note_divergence()

    def begin(self) -> None:
        """The first step comes next."""
        self._saved_at = self._clock = time.perf_counter()
        self.model.train()

    def note_divergence(self) -> None:
        """The next step has no finite loss or gradient, or the validation after the last one has none."""
        self.progress.diverged_at = self.progress.step + 1
        self.save()

    @property
    def finished(self) -> bool:
        """Whether the last step is done, or the task was solved by the rule of --stop_at."""
        return self.progress.step == self.steps or self.progress.stopped_at is not None

    def _epoch(self) -> None:
        set_epoch(self.loaders["train"], self.progress.epoch, self.progress.batch)
        for batch in self.loaders["train"]:
            if self.progress.step == 0:
                self.note_ratios(batch)
            row = train_step(
                self.model, batch, self.optimizer, self.scheduler, self.scaler, self.device, self.args, self.world
            )
            self._after_step(row, batch)
            if self.finished:
                return
        self.progress.epoch, self.progress.batch = self.progress.epoch + 1, 0

    def note_ratios(self, batch: Batch) -> None:
        """Measure, before the first step, how much each block adds to the residual stream."""
        action = functools.partial(output_ratios, self.model, batch, self.device, self.args)
        self.progress.output_ratios = attempt(self.progress.failed, "output_ratios", action)

    def _after_step(self, row: dict, batch: Batch) -> None:
        now = time.perf_counter()
        seconds, self._clock = now - self._clock, now
        self.note_step(row, batch, seconds)
        if self._any_rank(self.stopper.asked):
            if not self.finished:
                self.save()
            raise Interrupted
        self._clock = time.perf_counter()  # training time does not include validation and saving

    def note_step(self, row: dict, batch: Batch, seconds: float) -> None:
        """A step is done: log it, and validate and save where it is time to.  row: of `train_step`."""
        p = self.progress
        p.step, p.batch, p.seconds = p.step + 1, p.batch + 1, p.seconds + seconds
        p.chars_seen, p.examples_seen = p.chars_seen + batch.n_chars, p.examples_seen + len(batch)
        row = {"step": p.step, **row, "trained": batch.n_trained, "chars": batch.n_chars, "seconds": seconds}
        if self.world.is_main:
            self.run_dir.append(row)
        self.reporter.step(row, self.steps)
        if p.step % self.eval_every == 0 or p.step == self.steps:
            self._validate()
            self.save()
        elif self._any_rank(time.perf_counter() - self._saved_at > CHECKPOINT_SECONDS):  # all ranks save, by one clock
            self.save()

    def _any_rank(self, here: bool) -> bool:
        """Whether something holds on at least one rank. The answer is the same on all."""
        return self.world.sum([float(here)], self.device)[0] > 0

    def _validate(self) -> None:
        among = allowed_ids(self.session.data, self.device)
        scored = pass_over(self.model, self.loaders["val"], self.device, self.args, among, self.world)
        loss, p = scored.loss, self.progress
        if not math.isfinite(loss):
            raise Diverged("the validation loss is not finite")
        row = {"step": p.step, "val_loss": loss, "val_token_acc": scored.accuracy}
        better = p.best_val is None or loss < p.best_val
        if better:
            p.best_val, p.best_step = loss, p.step
        self._note_score(validation_score(self.session.task, scored))
        if self.world.is_main:
            self.run_dir.append(row)
            if better:  # before ckpt.pt: after a kill in between, the continued run writes the same best.pt again
                weights = self.model.state_dict()
                payload = {"model": weights, "args": to_dict(self.args), "vocab": self.vocab, "step": p.step}
                self.run_dir.training_log.sync()
                checkpoint.save(self.run_dir.best, payload)
        self.reporter.validation(row, self.steps, better)

    def _note_score(self, score: float | None) -> None:
        """Note the first validation that reaches --solved_at, and the one that ends the training (--stop_at).

        score: the primary metric, or None where a validation does not have it.
        """
        p, args = self.progress, self.args
        if score is None:
            return
        if args.solved_at and p.solved_at is None and score >= args.solved_at:
            p.solved_at = p.step
        if args.stop_at:
            p.at_goal = p.at_goal + 1 if score >= args.stop_at else 0
            p.stopped_at = p.step if p.at_goal >= args.stop_after else None


def fit(model: ARModel, session: Session, run_dir: RunDir, reporter: Reporter, resume_from: dict | None = None) -> Fit:
    """Train a model in a run directory and return the finished Fit. resume_from: the payload of a checkpoint."""
    job = Fit(model, session, run_dir, reporter)
    if resume_from is not None:
        job.restore(resume_from)
    if session.args.compile:
        compile_model(model)
    job.run()
    return job


def output_ratios(model: ARModel, batch: Batch, device: torch.device, args: RunFlags) -> dict[str, list] | None:
    """How much each block adds to the residual stream, by the first rows of a batch (see `Backbone.output_ratios`).

    The rows have RATIO_TOKENS tokens at most, or there is one row. No random number of the training is drawn.
    """
    part = batch.take(slice(0, max(1, RATIO_TOKENS // batch.x.shape[1]))).to(device)
    real = torch.arange(part.x.shape[1], device=device) < part.lengths[:, None]
    with kept_random_state(), autocast(device, args.precision):
        found = model.output_ratios(part.x, real)
    return found and {name: [None if r is None else finite(r) for r in ratios] for name, ratios in found.items()}


def compile_model(model: ARModel) -> None:
    """Compile the pass that training and evaluation share, in place. So names in checkpoints stay the same."""
    name = "hidden" if hasattr(model, "hidden") else "forward"
    setattr(model, name, torch.compile(getattr(model, name)))


def _processes(n: int) -> str:
    return f"{n} process" + ("es" if n > 1 else "")


def _micro_batches(batch: Batch, world: World, size: int) -> Iterator[Batch]:
    """This rank's rows of a batch, in pieces of at most `size` rows; 0 means all at once."""
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


def _unsmoothed(aux: dict) -> torch.Tensor:
    """The loss of a micro-batch without label smoothing, for the log."""
    return torch.nn.functional.cross_entropy(aux["logits"].detach().float(), aux["target"])
