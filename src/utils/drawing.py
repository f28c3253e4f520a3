"""The training batches of a run without an end, drawn here or in a process of their own.

    for epoch, batch in drawn(loader, epoch=0, start=0, apart=True): ...

Drawing a batch of a synthetic task takes a CPU 1 or 2 ms. A GPU that trains eight seeds at once would wait for eight of
them in every step. A process per seed draws ahead, in the same order: a batch depends on its number alone. Batches come
several at a time and as plain arrays, because handing over tensors takes a file descriptor each.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, IterableDataset

from dataset.common import Batch
from dataset.plans import set_epoch
from src.utils.interrupts import SIGNALS

AT_A_TIME = 4  # batches of a message
AHEAD = 2  # messages that wait
TENSORS = ("x", "y", "score", "lengths", "gaps")


def drawn(loader: DataLoader, epoch: int, start: int, apart: bool = False) -> Iterator[tuple[int, Batch]]:
    """(epoch, batch) from batch `start` of an epoch on, one epoch after the other.

    apart: draw in a process of its own, where the system can fork one. Closing the iterator ends it.
    """
    if not (apart and "fork" in multiprocessing.get_all_start_methods()):
        yield from _in_order(loader, epoch, start)
        return
    ahead = DataLoader(
        _Messages(loader, epoch, start),
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=1,
        prefetch_factor=AHEAD,
        multiprocessing_context="fork",
        worker_init_fn=_begin,
        generator=torch.Generator(),
    )
    for message in ahead:
        for epoch_of_batch, arrays, meta in message:
            yield epoch_of_batch, Batch(*map(torch.from_numpy, arrays), meta)


def _in_order(loader: DataLoader, epoch: int, start: int) -> Iterator[tuple[int, Batch]]:
    while True:
        set_epoch(loader, epoch, start)
        for batch in loader:
            yield epoch, batch
        epoch, start = epoch + 1, 0


class _Messages(IterableDataset):
    """What the process sends: lists of (epoch, arrays, meta)."""

    def __init__(self, loader: DataLoader, epoch: int, start: int):
        self.loader, self.epoch, self.start = loader, epoch, start

    def __iter__(self):
        message = []
        for epoch, batch in _in_order(self.loader, self.epoch, self.start):
            message.append((epoch, [getattr(batch, name).numpy() for name in TENSORS], batch.meta))
            if len(message) == AT_A_TIME:
                yield message
                message = []


def _as_it_is(message: list) -> list:
    return message


def _begin(worker: int) -> None:
    """A Ctrl-C is for the run, which then closes this process; torch ends it by SIGTERM."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
