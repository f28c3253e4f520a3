"""Data parallel training under `torchrun`: who I am, and the few exchanges the loop needs.

Gradients are summed over ranks by hand, in one flat buffer, because the loss is divided by the scored characters of the whole
batch (not averaged over ranks), and because a user's layer may leave a parameter without a gradient.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class World:
    """This process among `size`; rank 0 alone writes files and prints."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def rows(self) -> slice:
        """This rank's rows of a batch."""
        return slice(self.rank, None, self.size)

    def sum_gradients(self, parameters) -> None:
        """Replace every gradient by its sum over ranks (missing ones count as zero)."""
        if self.size == 1:
            return
        parameters = list(parameters)
        flat = torch.cat(
            [(p.grad if p.grad is not None else torch.zeros_like(p)).flatten().float() for p in parameters]
        )
        dist.all_reduce(flat)
        at = 0
        for p in parameters:
            p.grad = flat[at : at + p.numel()].view_as(p).to(p.dtype)
            at += p.numel()

    def sum(self, values: list[float], device) -> list[float]:
        """Sums of a few numbers over ranks."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=device if device.type == "cuda" else "cpu")
        dist.all_reduce(tensor)
        return tensor.tolist()

    def share(self, value):
        """Rank 0's value, on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value) -> list:
        """Every rank's value, in rank order, on every rank."""
        if self.size == 1:
            return [value]
        box = [None] * self.size
        dist.all_gather_object(box, value)
        return box


@contextlib.contextmanager
def joined():
    """The world that torchrun started this process in (gloo on a CPU, nccl on CUDA), or a world of one; left again at the end."""
    world = _join()
    try:
        yield world
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()


def _join() -> World:
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)  # nccl works on the current device
    if not dist.is_initialized():
        # Gloo beside nccl: objects and --device cpu travel over the CPU. Rank 0 writes figures alone, and on a slow machine the others
        # wait for it longer than the default half hour.
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=datetime.timedelta(hours=4)
        )
    return World(dist.get_rank(), size, local_rank)
