"""Batch plans: which rows make up each batch of an epoch.

A plan is a pure function of (seed, epoch), and a batch of fresh data is one of (seed, batch number). So a run continues
at any batch without going through the earlier ones.
"""

from __future__ import annotations

import itertools

import numpy as np
from torch.utils.data import DataLoader, IterableDataset, Sampler

from dataset.blocks import Blocks
from dataset.common import Batch, ExampleDataset, WindowDataset, collate_fn
from dataset.drawn import shared_store
from dataset.seeds import stream
from dataset.splits import draw_train
from dataset.task import Task
from dataset.tokenizer import Tokenizer
from dataset.windows import BLOCK, Listed, windows_random
from src.flags.run_flags import RunFlags


class LengthBatches(Sampler):
    """Batches of row numbers. A batch has one length, as long as there are enough rows of that length.

    pool=True: the rows that fill no batch of their own length share batches, nearest lengths together.
    pool=False: they make a smaller batch of their own length.
    `set_epoch(epoch, start)` chooses the epoch and skips its first batches. Iterating again without it continues with
    the next epoch.
    """

    def __init__(self, dataset: ExampleDataset, batch_size: int, batch_chars: int, seed: int, pool: bool = True):
        # Longest first: a pooled batch gets the size that suits its longest rows, so padding never exceeds batch_chars.
        self.groups = [np.flatnonzero(dataset.task_lengths == n) for n in np.unique(dataset.task_lengths)[::-1]]
        tokens = dataset.tokens
        self.sizes = [max(1, batch_chars // int(tokens[g].max())) if batch_chars else batch_size for g in self.groups]
        self.seed, self.pool = seed, pool
        self.set_epoch(0)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        self.epoch, self.start = epoch, start

    def _plan(self) -> list[np.ndarray]:
        rng = np.random.default_rng([self.seed, self.epoch, 1])
        batches, rest = [], []
        for group, size in zip(self.groups, self.sizes, strict=True):
            order = rng.permutation(group)
            cut = len(order) // size * size
            batches += np.split(order[:cut], cut // size) if cut else []
            rest.append(order[cut:])
        rest = np.concatenate(rest)
        batches += [rest[a:b] for a, b in self._pooled()]
        return [batches[i] for i in rng.permutation(len(batches))]

    def _pooled(self) -> list[tuple[int, int]]:
        """(start, end) of each batch among the rows that fill no batch of their own length."""
        left_over = [len(group) % size for group, size in zip(self.groups, self.sizes, strict=True)]
        if not self.pool:
            ends = np.cumsum([0, *left_over]).tolist()
            return [(start, end) for start, end in itertools.pairwise(ends) if end > start]
        sizes = [size for size, rows in zip(self.sizes, left_over, strict=True) for _ in range(rows)]
        cuts = [0]
        while cuts[-1] < len(sizes):
            cuts.append(min(cuts[-1] + sizes[cuts[-1]], len(sizes)))
        return list(itertools.pairwise(cuts))

    def __iter__(self):
        yield from self._plan()[self.start :]
        self.set_epoch(self.epoch + 1)

    def __len__(self) -> int:
        return sum(len(g) // s for g, s in zip(self.groups, self.sizes, strict=True)) + len(self._pooled())


class FreshBatches(IterableDataset):
    """Endless training batches that never repeat: batch i is a pure function of (task, seed, i).

    Iterating again without `set_epoch` continues after the last batch.
    """

    def __init__(self, task: Task, tokenizer: Tokenizer, args: RunFlags):
        self.task, self.tokenizer, self.args = task, tokenizer, args
        self._tokens: dict[int | None, int] = {}
        self.set_epoch(0)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """All fresh data is one epoch; `start` is the first batch."""
        self.start = start

    def batch(self, i: int) -> Batch:
        rng = stream(self.task, f"train batch {i}", self.args.seed)
        length = draw_length(self.task, self.args.train_lengths, rng)
        examples = draw_train(self.task, self._size(length), length, rng)
        data = ExampleDataset(examples, [length] * len(examples), self.task, self.tokenizer, self.args.loss_on)
        return collate_fn((data, np.arange(len(examples))))

    def _size(self, length: int | None) -> int:
        if not self.args.batch_chars:
            return self.args.batch_size
        if length not in self._tokens:
            self._tokens[length] = self.task.max_tokens(length)
        return max(1, self.args.batch_chars // self._tokens[length])

    def __iter__(self):
        batch, store = self.batch, shared_store(self.task)
        if store:
            of = {"seed": self.args.seed, "sizes": [self.args.batch_size, self.args.batch_chars]}
            batch = Blocks(store, {**of, "lengths": self.args.train_lengths}, self.batch).batch
        while True:
            self.start += 1
            yield batch(self.start - 1)


def draw_length(task: Task, train_lengths: str, rng: np.random.Generator) -> int | None:
    """A training length: the longest under `fixed`, else drawn by the task. None for a task without a length."""
    return task.longest_length() if train_lengths == "fixed" else task.train_length(rng)


class OrderedBatches(Sampler):
    """Batches of all rows of a dataset in their order, `size` rows per batch."""

    def __init__(self, n_rows: int, size: int):
        self.n_rows, self.size = n_rows, size

    def __iter__(self):
        for at in range(0, self.n_rows, self.size):
            yield np.arange(at, min(at + self.size, self.n_rows))

    def __len__(self) -> int:
        return -(-self.n_rows // self.size)


class WindowBatches(Sampler):
    """Batches of windows at random offsets. An epoch has `n_windows` of them, drawn from (seed, epoch).

    The windows are drawn in blocks of about BLOCK, and rows number those of one block: the windows of a whole epoch
    would need more memory for a longer text. Iterating again without `set_epoch` continues with the next epoch.
    """

    def __init__(self, dataset: WindowDataset, n_windows: int, context_len: int, batch_size: int, seed: int):
        self.dataset, self.seed = dataset, seed
        self.n_windows, self.context_len, self.batch_size = n_windows, context_len, batch_size
        self.set_epoch(0)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        self.epoch, self.start = epoch, start

    def __iter__(self):
        rng = np.random.default_rng([self.seed, self.epoch, 2])
        size, begin = self.batch_size, self.start * self.batch_size
        block = max(1, BLOCK // size) * size
        for first in range(0, self.n_windows, block):
            rows = min(block, self.n_windows - first)
            # A generator draws the same numbers in blocks as at once. Blocks before `begin` are drawn and not used.
            self.dataset.spans = Listed(windows_random(self.dataset.ids, rows, self.context_len, rng))
            for at in range(max(0, begin - first), rows, size):
                yield np.arange(at, min(at + size, rows))
        self.set_epoch(self.epoch + 1)

    def __len__(self) -> int:
        return -(-self.n_windows // self.batch_size)


class DocumentBatches(Sampler):
    """Batches of documents in an order drawn from (seed, epoch). An epoch has `n_windows` of them.

    More of them than there are documents means that all come once before one comes again.
    Iterating again without `set_epoch` continues with the next epoch.
    """

    def __init__(self, dataset: WindowDataset, n_windows: int, batch_size: int, seed: int):
        self.dataset, self.n_windows, self.batch_size, self.seed = dataset, n_windows, batch_size, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        self.epoch, self.start = epoch, start

    def __iter__(self):
        rng, n = np.random.default_rng([self.seed, self.epoch, 2]), len(self.dataset)
        rows = np.concatenate([rng.permutation(n) for _ in range(-(-self.n_windows // n))])[: self.n_windows]
        for at in range(self.start * self.batch_size, self.n_windows, self.batch_size):
            yield rows[at : at + self.batch_size]
        self.set_epoch(self.epoch + 1)

    def __len__(self) -> int:
        return -(-self.n_windows // self.batch_size)


def set_epoch(loader: DataLoader, epoch: int, start: int = 0) -> None:
    """Choose a loader's epoch and skip its first `start` batches."""
    plan = loader.dataset if isinstance(loader.dataset, FreshBatches) else loader.batch_sampler
    plan.set_epoch(epoch, start)
