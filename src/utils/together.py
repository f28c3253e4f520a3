"""Several seeds of one run, trained at once as one stack of models (src/utils/stack.py).

    members = [Member(model, session, run_dir, reporter, random) for ...]     # one per seed
    train_together(members)

Each member is a training of its own: it has its data, log, validations, checkpoints and run directory, and is what
`fit` would return for its seed. Only the steps are shared. A member that diverges, or that reaches --stop_at, leaves
the stack with the weights that it has, and the others go on.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

import torch

from dataset.common import Batch
from dataset.plans import set_epoch
from src.flags.fields import UserError
from src.models.contract import ARModel
from src.storage.randomness import kept_random_state
from src.storage.rundir import RunDir
from src.utils.attempt import failure
from src.utils.drawing import drawn
from src.utils.launch import usable_cores
from src.utils.memory import is_out_of_memory
from src.utils.metrics import finite
from src.utils.precision import autocast
from src.utils.reporter import Reporter
from src.utils.session import Session
from src.utils.stack import Stack, problem_of
from src.utils.training import Diverged, Fit, Interrupted, Stopper

# How far the losses of a batch may differ, as a share: a stack sums in another order, and bf16 keeps 8 bits.
TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}


class Member(Fit):
    """The training of one of several seeds. It takes weights and moments out of the stack when it needs them."""

    def __init__(self, model: ARModel, session: Session, run_dir: RunDir, reporter: Reporter, random: dict):
        """random: the state of the random generators when this training begins. Its steps draw no random numbers."""
        super().__init__(model, session, run_dir, reporter)
        self.random = random
        self.stack: Stack | None = None
        self.row = 0  # in the stack
        self._fetched: tuple[int, int] | None = None

    def random_state(self) -> dict:
        return self.random

    def payload(self) -> dict:
        self.fetch()
        return super().payload()

    def fetch(self) -> None:
        """Take over the weights, the moments and the schedule as the stack has them now."""
        if self.stack is None:
            return
        with torch.no_grad():
            own = dict(self.model.named_parameters())
            for name, value in self.stack.weights(self.row).items():
                own[name].copy_(value)
        self.optimizer.load_state_dict(self.stack.optimizer_state(self.row, self.optimizer.state_dict()))
        self.scheduler.load_state_dict(self.stack.scheduler.state_dict())

    def leave(self) -> None:
        """Leave the stack, which may then change without this member."""
        self.fetch()
        self.stack = None

    def batches(self, apart: bool) -> Iterator[Batch]:
        """The batches of this training without an end, from where it is.  apart: drawn by a process of their own."""
        p = self.progress
        for epoch, batch in drawn(self.loaders["train"], p.epoch, p.batch, apart):
            if epoch != p.epoch:
                p.epoch, p.batch = epoch, 0
            yield batch

    def _validate(self) -> None:
        self.fetch()
        super()._validate()


def train_together(members: Sequence[Member]) -> None:
    """Train all members to their ends. Raises Interrupted when the user asked to stop; all are saved before."""
    first = members[0]
    stack = Stack([m.model for m in members], first.args, first.device, first.steps)
    active = list(members)
    _place(active, stack)
    apart = first.device.type == "cuda" and usable_cores() > len(members)
    sources = {id(m): m.batches(apart) for m in members}
    for member in members:
        member.begin()
    with contextlib.ExitStack() as opened, Stopper() as stopper:
        for source in sources.values():
            opened.callback(source.close)
        while active:
            began = time.perf_counter()
            batches = [next(sources[id(m)]) for m in active]
            if active[0].progress.step == 0:
                for member, batch in zip(active, batches, strict=True):
                    member.note_ratios(batch)
            losses, norms = stack.gradients(batches)
            found = list(zip(active, batches, losses, norms, strict=True))
            lost = [m for m, _, loss, norm in found if problem_of(loss, norm)]
            for member in lost:
                member.note_divergence()
            active = _without(lost, active, stack)
            if not active:
                return
            lr = stack.update()
            seconds = (time.perf_counter() - began) / len(active)  # of each: what one more seed costs
            ended = [m for m, batch, loss, norm in found if m not in lost and _note(m, batch, loss, norm, lr, seconds)]
            active = _without(ended, active, stack)
            if stopper.asked and active:
                for member in active:
                    member.save()
                raise Interrupted
        if stopper.asked:
            raise Interrupted


def _note(member: Member, batch: Batch, loss: float, norm: float, lr: float, seconds: float) -> bool:
    """Tell a member of its step. Returns whether its training has ended."""
    clip = member.args.grad_clip
    row = {"loss": loss, "grad_norm": finite(norm), "clipped": bool(clip and norm > clip), "lr": lr}
    try:
        member.note_step(row, batch, seconds)
    except Diverged:
        member.note_divergence()
    return member.finished or member.progress.diverged_at is not None


def _without(leaving: Sequence[Member], active: list[Member], stack: Stack) -> list[Member]:
    """The members that go on. The others leave the stack."""
    if not leaving:
        return active
    for member in leaving:
        member.leave()
    rest = [m for m in active if m not in leaving]
    if rest:
        stack.keep([m.row for m in rest])
    _place(rest, stack)
    return rest


def _place(members: Sequence[Member], stack: Stack) -> None:
    for row, member in enumerate(members):
        member.stack, member.row = stack, row


def try_stack(models: Sequence[ARModel], sessions: Sequence[Session]) -> None:
    """Compute the first batch of each seed, alone and in a stack. UserError where the losses differ, or that fails."""
    args, device, name = sessions[0].args, sessions[0].device, type(models[0]).__name__
    batches = []
    for session in sessions:
        set_epoch(session.loaders["train"], 0)
        batches.append(next(iter(session.loaders["train"])))
    for model in models:
        model.train()
    with kept_random_state():
        alone = [_loss(model, batch, args, device) for model, batch in zip(models, batches, strict=True)]
        try:
            stacked, _ = Stack(models, args, device, steps=1).gradients(batches)
        except UserError:
            raise
        except Exception as error:  # the code of a user's layer may raise anything under vmap
            if is_out_of_memory(error):
                raise
            why = failure(error).removeprefix("failed: ")
            raise UserError(
                f"--seeds_at_once: this model cannot be computed for several seeds at once ({why}); leave the flag out"
            ) from error
    for seed, (one, other) in enumerate(zip(alone, stacked, strict=True), args.seed):
        if not abs(one - other) <= TOLERANCE[args.precision] * max(1.0, abs(one)) and one == one:
            raise UserError(
                f"--seeds_at_once: the first loss of seed {seed} is {other:.6g} among several seeds, and {one:.6g} "
                f"alone, so {name} cannot be one of several; leave the flag out"
            )


@torch.no_grad()
def _loss(model: ARModel, batch: Batch, args, device: torch.device) -> float:
    """The training loss of a batch, without label smoothing."""
    with autocast(device, args.precision):
        return model.loss_fn(batch.to(device))[0].item()
