"""Data parallel training under `torchrun`: the rank of this process, and the few exchanges that the loop needs.

    with joined() as world:
        world.sum_gradients(model.parameters())

Gradients are summed over ranks in one flat buffer, not by DistributedDataParallel, for two reasons. The loss is divided
by the trained characters of the whole batch, so gradients must be summed and not averaged. And a user's layer may leave
a parameter without a gradient.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

from src.flags.fields import UserError
from src.ops.precision import accumulation_dtype, as_real
from src.utils.launch import ADDRESS, HOW, ProcessLost, check_address, launched

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The rank of this process among `size` processes. Only rank 0 writes files and prints."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def rows(self) -> slice:
        """The rows of a batch that this rank computes."""
        return slice(self.rank, None, self.size)

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace each gradient by its sum over ranks. A missing gradient counts as zero.

        A parameter that has no gradient on any rank keeps none, as in one process. Sums are taken in float32, or in
        float64 where a parameter is that.
        """
        if self.size == 1:
            return
        trained = [p for p in parameters if p.requires_grad]  # an integer parameter cannot have a gradient
        if not trained:
            return
        dtype = accumulation_dtype(*(as_real(p.detach()) for p in trained))
        parts = [as_real(torch.zeros_like(p) if p.grad is None else p.grad).detach().flatten() for p in trained]
        counts = torch.tensor([p.grad is not None for p in trained], device=parts[0].device)
        flat = torch.cat([part.to(dtype) for part in (*parts, counts)])
        with _exchange():
            dist.all_reduce(flat)
        *sums, counts = flat.split([*map(len, parts), len(counts)])
        for p, total, count in zip(trained, sums, counts.tolist(), strict=True):
            p.grad = None
            if count:
                p.grad = torch.empty_like(p)
                view = as_real(p.grad)
                view.copy_(total.view(view.shape))

    def sum(self, values: list[float], device: torch.device) -> list[float]:
        """The sums of a few numbers over ranks."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=device if device.type == "cuda" else "cpu")
        with _exchange():
            dist.all_reduce(tensor)
        return tensor.tolist()

    def share(self, value: T) -> T:
        """Give every rank the value of rank 0."""
        if self.size == 1:
            return value
        box = [value]
        with _exchange():
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """Give every rank the values of all ranks, in the order of the ranks."""
        if self.size == 1:
            return [value]
        box = [None] * self.size
        with _exchange():
            dist.all_gather_object(box, value)
        return box


@contextlib.contextmanager
def _exchange() -> Iterator[None]:
    """An exchange between the processes. Where another one has ended, the long error of gloo becomes a ProcessLost."""
    try:
        yield
    except RuntimeError as error:
        text = (str(error).splitlines() or [""])[0]
        if not isinstance(error, dist.DistError) and "gloo" not in text:
            raise
        reason = re.sub(r"^\[[^]]*] *", "", text).partition(". ")[0]
        raise ProcessLost(f"another process of this run has ended ({reason})", _notices_first()) from error


def _notices_first() -> bool:
    """Whether no other process has asked this before. Where they cannot be counted any more, each is the first."""
    key = f"lost-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"  # the store outlives a restart
    try:
        return dist.distributed_c10d._get_default_store().add(key, 1) == 1
    except RuntimeError:
        return True


@contextlib.contextmanager
def joined() -> Iterator[World]:
    """Join the processes that torchrun started, with gloo on a CPU and nccl on CUDA, and leave them at the end.

    Without torchrun this is a world of one process.
    """
    world = _join()
    try:
        yield world
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()


def _join() -> World:
    place = launched()
    if place.size == 1:
        return World()
    if torch.cuda.is_available():
        if place.local_rank >= torch.cuda.device_count():
            raise UserError(
                f"LOCAL_RANK: got {place.local_rank}, allowed: 0 to {torch.cuda.device_count() - 1}, one process per "
                "GPU of this machine; lower --nproc_per_node, or hide the GPUs with CUDA_VISIBLE_DEVICES="
            )
        torch.cuda.set_device(place.local_rank)  # nccl uses the current device
    if not dist.is_initialized():
        check_address()
        # Objects, and tensors under --device cpu, need gloo beside nccl. The other ranks wait while rank 0 draws the
        # figures. On a slow machine that can take longer than the default timeout of half an hour.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        try:
            dist.init_process_group(backend, timeout=datetime.timedelta(hours=4))
        except (RuntimeError, ValueError) as error:  # a taken port, a host that is not there
            where = ":".join(os.environ[name] for name in ADDRESS)
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"the {place.size} processes cannot meet at {where} ({reason}); {HOW}") from error
    return World(dist.get_rank(), place.size, place.local_rank)
