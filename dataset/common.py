"""From examples to batches: datasets, `collate_fn`, batch plans and loaders.

    sequence   <bos> p1 .. pP a1 .. aA <eos>          x = all but the last token, y = all but the first
    answers    trained and scored where y is an answer character or its <eos>
    labels     y at the labelled character is its label; nothing is written (labels), everything is (language)

Every order is a pure function of (seed, epoch), and fresh data of (seed, batch number), so a run continues anywhere without replay.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from dataset.base import Example, Task, check_train_size, draw_heldout, draw_train, stream
from dataset.language import epoch_windows, windows_consecutive, windows_random
from src.config import UserError
from src.utils.tokenizer import BOS, EOS, PAD, CharTokenizer

IGNORE = -100  # y where nothing is trained
DECODE_SLACK = 8  # characters past the gold answer that greedy decoding may write before it is stopped
EVAL_FACTOR = 4  # evaluation keeps no activations, so its batches hold this many times the rows of a training batch


@dataclass
class Batch:
    """x, y (B, T) int64; score (B, T) bool; lengths (B,) tokens; gaps (B, T) characters, -1 where there is none.

    index: flat positions of (B * T) where y is trained, None where it is everywhere.  rows: the examples' numbers in the dataset.
    """

    x: torch.Tensor
    y: torch.Tensor
    score: torch.Tensor
    lengths: torch.Tensor
    gaps: torch.Tensor
    meta: dict = field(default_factory=dict)
    index: torch.Tensor | None = None

    def __post_init__(self):
        trained = self.y.flatten() != IGNORE
        self.index = None if bool(trained.all()) else trained.nonzero()[:, 0]

    def __len__(self) -> int:
        return len(self.x)

    @property
    def n_trained(self) -> int:
        return self.y.numel() if self.index is None else len(self.index)

    @property
    def n_chars(self) -> int:
        return int(self.lengths.sum())

    def take(self, rows: slice) -> Batch:
        """Some of the rows, still on the CPU (for micro-batches and for the ranks of a parallel run)."""
        meta = {k: v[rows] for k, v in self.meta.items()}
        return Batch(self.x[rows], self.y[rows], self.score[rows], self.lengths[rows], self.gaps[rows], meta)

    def to(self, device) -> Batch:
        if torch.device(device).type == "cpu":
            return self
        moved = replace(self)
        for name in ("x", "y", "score", "lengths", "gaps", "index"):
            value = getattr(self, name)
            setattr(moved, name, None if value is None else value.to(device, non_blocking=True))
        return moved


class ExampleDataset(Dataset):
    """Examples of one or several lengths, encoded once into flat arrays.

    `dataset[i]` is {"ids" (T + 1,), "length", "meta"}; `__getitems__` hands row numbers to `collate_fn`, which cuts a whole
    batch out of the flat arrays without a Python loop per token.
    """

    def __init__(self, examples: list[Example], lengths, task: Task, tokenizer: CharTokenizer, loss_on: str):
        self.examples = examples
        self.task_lengths = np.asarray([0 if n is None else n for n in lengths], dtype=np.int64)
        self.labelled = task.kind == "labels"
        self.write_all = task.train_all or loss_on == "all"
        self.prompt_chars = np.fromiter((len(e.prompt) for e in examples), dtype=np.int64, count=len(examples))
        self.answer_chars = np.fromiter((len(e.answer) for e in examples), dtype=np.int64, count=len(examples))
        self.ids = tokenizer.encode("".join([e.prompt + e.answer for e in examples]))
        self.starts = np.concatenate([[0], np.cumsum(self.prompt_chars + self.answer_chars)])
        if self.labelled:
            self._encode_labels(tokenizer)
        self._encode_gaps()

    def _encode_labels(self, tokenizer):
        labels = [e.labels or () for e in self.examples]
        self.label_starts = np.concatenate([[0], np.cumsum([len(part) for part in labels])])
        self.label_at = np.fromiter((p for part in labels for p, _ in part), dtype=np.int64, count=self.label_starts[-1])
        self.label_ids = tokenizer.encode("".join(c for part in labels for _, c in part))

    def _encode_gaps(self):
        """Flat gaps, one an answer character or label; None where no example knows them."""
        if not self.examples or self.examples[0].gaps is None:
            self.gaps = None
            return
        self.gaps = np.concatenate([np.asarray(e.gaps, dtype=np.int64) for e in self.examples])
        self.gap_starts = self.label_starts if self.labelled else np.concatenate([[0], np.cumsum(self.answer_chars)])

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def tokens(self) -> np.ndarray:
        """Tokens of x, per example."""
        return self.prompt_chars + self.answer_chars + 1

    def __getitem__(self, i: int) -> dict:
        ids = self.ids[self.starts[i]:self.starts[i + 1]]
        return {"ids": np.concatenate([[BOS], ids, [EOS]]), "length": int(self.tokens[i]), "meta": self.examples[i].meta}

    def __getitems__(self, rows: list[int]) -> tuple[ExampleDataset, np.ndarray]:
        return self, np.asarray(rows)


def collate_fn(picked) -> Batch:
    """Pad and mask: (dataset, rows) -> Batch.  The longest row sets T."""
    data, rows = picked
    tokens = data.tokens[rows]
    column = np.arange(tokens.max())[None]  # (1, T)
    inside = column < tokens[:, None]
    written = np.zeros((len(rows), len(column[0]) + 1), dtype=np.int64)  # (B, T + 1): <bos>, characters, <eos>
    written[:, 0] = BOS
    at = np.minimum(data.starts[rows][:, None] + column, max(len(data.ids) - 1, 0))
    written[:, 1:][inside] = (data.ids[at] if len(data.ids) else at)[inside]
    written[np.arange(len(rows)), tokens] = EOS
    x = np.where(inside, written[:, :-1], PAD)
    y = np.where(inside, written[:, 1:], IGNORE)
    gaps = np.full_like(x, -1)
    if data.labelled:
        score = _place_labels(data, rows, y, gaps)
    else:
        answer = column - data.prompt_chars[rows][:, None]  # index of the answer character that y holds
        score = inside & (answer >= 0)
        if not data.write_all:
            y = np.where(score, y, IGNORE)
        if data.gaps is not None:
            known = (answer >= 0) & (answer < data.answer_chars[rows][:, None])
            gaps[known] = data.gaps[(data.gap_starts[rows][:, None] + answer)[known]]
    meta = {"row": rows, "length": data.task_lengths[rows]}
    return Batch(torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(score), torch.from_numpy(tokens), torch.from_numpy(gaps), meta)


def _place_labels(data: ExampleDataset, rows, y, gaps):
    """Write labels (and their gaps) into y in place; returns the score mask."""
    counts = np.diff(data.label_starts)[rows]
    row = np.repeat(np.arange(len(rows)), counts)
    flat = np.repeat(data.label_starts[rows] - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts) + np.arange(counts.sum())
    at = data.label_at[flat] + 1  # <bos> stands before the prompt
    if not data.write_all:
        y[:] = IGNORE
    y[row, at] = data.label_ids[flat]
    score = np.zeros(y.shape, dtype=bool)
    score[row, at] = True
    if data.gaps is not None:
        gaps[row, at] = data.gaps[flat]
    return score


class LengthBatches(Sampler):
    """Batches of row numbers, each of one length where there are enough; what is left over is pooled, nearest lengths together.

    pool=False: what is left over of a length makes a smaller batch of its own.
    The order is a pure function of (seed, epoch). `set_epoch(epoch, start)` chooses the epoch and skips its first batches; iterating
    again without it goes on with the next epoch.
    """

    def __init__(self, dataset: ExampleDataset, batch_size: int, batch_chars: int, seed: int, pool: bool = True):
        # Longest first: a pooled batch takes the size of its longest rows, so that padding never carries it over batch_chars.
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
        if not self.pool:
            ends = np.cumsum([0, *(len(group) % size for group, size in zip(self.groups, self.sizes, strict=True))]).tolist()
            return [(start, end) for start, end in itertools.pairwise(ends) if end > start]
        sizes = [size for group, size in zip(self.groups, self.sizes, strict=True) for _ in range(len(group) % size)]
        cuts = [0]
        while cuts[-1] < len(sizes):
            cuts.append(min(cuts[-1] + sizes[cuts[-1]], len(sizes)))
        return list(itertools.pairwise(cuts))

    def __iter__(self):
        yield from self._plan()[self.start:]
        self.set_epoch(self.epoch + 1)

    def __len__(self) -> int:
        return sum(len(g) // s for g, s in zip(self.groups, self.sizes, strict=True)) + len(self._pooled())


class FreshBatches(IterableDataset):
    """Endless training batches that never repeat: batch i is a pure function of (task, seed, i).

    Iterating again without `set_epoch` goes on behind the last batch.
    """

    def __init__(self, task: Task, tokenizer: CharTokenizer, args):
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

    def _size(self, length) -> int:
        if not self.args.batch_chars:
            return self.args.batch_size
        if length not in self._tokens:
            self._tokens[length] = self.task.max_tokens(length)
        return max(1, self.args.batch_chars // self._tokens[length])

    def __iter__(self):
        while True:
            self.start += 1  # iterating again goes on behind the last batch
            yield self.batch(self.start - 1)


def draw_length(task: Task, train_lengths: str, rng) -> int | None:
    """A training length: the task's choice (uniform over its range), its maximum under `fixed`, None where the task has no length."""
    return task.lengths[1] if task.lengths is not None and train_lengths == "fixed" else task.train_length(rng)


class WindowDataset(Dataset):
    """Windows of a text: (start, end) spans; x is <bos> and all but the last character, y all characters."""

    def __init__(self, ids: np.ndarray, spans):
        self.ids = ids  # as they come: they may be two bytes a character in a file
        self.spans = np.asarray(spans, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.spans)

    @property
    def tokens(self) -> np.ndarray:
        """Tokens of x, per window."""
        return self.spans[:, 1] - self.spans[:, 0]

    def __getitem__(self, i: int) -> dict:
        start, end = self.spans[i]
        return {"ids": np.concatenate([[BOS], self.ids[start:end]]), "length": int(end - start), "meta": {}}

    def __getitems__(self, rows) -> tuple[WindowDataset, np.ndarray]:
        return self, np.asarray(rows)


def collate_windows(picked) -> Batch:
    """(dataset, rows) -> Batch; windows of unequal length are padded on the right."""
    data, rows = picked
    start, end = data.spans[rows].T
    lengths = end - start
    column = np.arange(lengths.max())[None]
    inside = torch.from_numpy(column < lengths[:, None])
    y = torch.from_numpy(data.ids[np.minimum(start[:, None] + column, len(data.ids) - 1)].astype(np.int64))
    x = torch.cat([torch.full((len(rows), 1), BOS), y[:, :-1]], dim=1)
    if not bool(inside.all()):
        y = torch.where(inside, y, IGNORE)
        x = torch.where(inside, x, PAD)
    return Batch(x, y, inside, torch.from_numpy(lengths), torch.full_like(x, -1), {"row": rows, "length": lengths})


class WindowBatches(Sampler):
    """Batches of windows at random offsets: an epoch is `n_windows` of them, drawn anew from (seed, epoch).

    Iterating again without `set_epoch` goes on with the next epoch.
    """

    def __init__(self, dataset: WindowDataset, n_windows: int, context_len: int, batch_size: int, seed: int):
        self.dataset, self.n_windows, self.context_len, self.batch_size, self.seed = dataset, n_windows, context_len, batch_size, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        self.epoch, self.start = epoch, start

    def __iter__(self):
        rng = np.random.default_rng([self.seed, self.epoch, 2])
        self.dataset.spans = windows_random(self.dataset.ids, self.n_windows, self.context_len, rng)
        rows = np.arange(self.n_windows)
        for at in range(self.start * self.batch_size, self.n_windows, self.batch_size):
            yield rows[at:at + self.batch_size]
        self.set_epoch(self.epoch + 1)

    def __len__(self) -> int:
        return -(-self.n_windows // self.batch_size)


def set_epoch(loader: DataLoader, epoch: int, start: int = 0) -> None:
    """Choose a loader's epoch and skip its first `start` batches."""
    plan = loader.dataset if isinstance(loader.dataset, FreshBatches) else loader.batch_sampler
    plan.set_epoch(epoch, start)


def _loader(dataset, batches, collate) -> DataLoader:
    # A generator of its own: DataLoader draws a seed whenever it is iterated, and must not take it from torch's global state.
    return DataLoader(dataset, batch_sampler=batches, collate_fn=collate, generator=torch.Generator())


def _heldout_loader(dataset, rows_a_batch: int, order: np.ndarray, collate) -> DataLoader:
    batches = [order[i:i + rows_a_batch].tolist() for i in range(0, len(order), rows_a_batch)]
    return _loader(dataset, batches, collate)


def eval_rows(args, tokens: int) -> int:
    """Rows of an evaluation batch of sequences of this many tokens."""
    rows = args.batch_chars // tokens if args.batch_chars else args.batch_size
    return max(1, EVAL_FACTOR * rows)


def heldout_loader(task: Task, tokenizer, args, examples, length) -> DataLoader:
    """A loader over fixed examples, in order of their token count so that little is padded."""
    data = ExampleDataset(examples, [length] * len(examples), task, tokenizer, args.loss_on)
    order = np.argsort(data.tokens, kind="stable")
    return _heldout_loader(data, eval_rows(args, int(data.tokens.max())), order, collate_fn)


def build_loaders(task: Task, args):
    """(tokenizer, {"train", "val", "test"[, "heldout"]}, task_meta).

    task_meta: "task", "tokenizer", "floor_train" (training examples at the test length, for the floors), "left_out" (strata
    too small for the held-out sets), "data" (counts, source and digest, as metrics.json stores them).
    """
    if task.kind == "language":
        return _language_loaders(task, args)
    tokenizer = CharTokenizer.build(task.alphabet)
    length = None if task.lengths is None else task.lengths[1]
    heldout, left_out = {}, {}
    for split in ("val", "test"):
        size = getattr(args, f"{split}_size")
        if size < 1:
            raise UserError(f"--{split}_size: got {size}, allowed: at least 1 for this task")
        heldout[split], left_out[split] = draw_heldout(task, split, size, length, stream(task, split, args.seed))
    loaders = {split: heldout_loader(task, tokenizer, args, examples, length) for split, examples in heldout.items()}
    loaders["train"] = _train_loader(task, tokenizer, args)
    floor_train = draw_train(task, 2_000, length, stream(task, "floors", args.seed))
    digest = hashlib.sha256("\n".join(e.prompt + "|" + e.answer + repr(e.labels or "") for s in ("val", "test") for e in heldout[s]).encode())
    data = {"digest": digest.hexdigest(), "source": None, "train_examples": args.train_size, "val_examples": len(heldout["val"]),
            "test_examples": len(heldout["test"]), "left_out": left_out, "vocab_size": len(tokenizer), "unknown_rate": None}
    return tokenizer, loaders, {"task": task, "tokenizer": tokenizer, "floor_train": floor_train, "data": data}


def _train_loader(task: Task, tokenizer, args) -> DataLoader:
    if args.train_size == 0:
        return DataLoader(FreshBatches(task, tokenizer, args), batch_size=None, generator=torch.Generator())
    check_train_size(task, args.train_size)
    examples, lengths = draw_train_set(task, args.train_size, args.train_lengths, args.seed)
    data = ExampleDataset(examples, lengths, task, tokenizer, args.loss_on)
    return _loader(data, LengthBatches(data, args.batch_size, args.batch_chars, args.seed, task.pool_lengths), collate_fn)


def draw_train_set(task: Task, n: int, train_lengths: str, seed: int):
    """n training examples and their lengths; lengths are uniform over the task's range, examples of one length drawn together."""
    rng = stream(task, "train", seed)
    drawn = sorted((draw_length(task, train_lengths, rng) for _ in range(n)), key=lambda v: -1 if v is None else v)
    examples: list[Example] = []
    for length, count in Counter(drawn).items():  # in the order of `drawn`
        examples += draw_train(task, count, length, rng)
    return examples, drawn


def _language_loaders(task, args):
    tokenizer = task.tokenizer()
    ids = {split: task.ids(split, tokenizer) for split in ("train", "val", "test", "heldout")}
    n = args.context_len
    train = WindowDataset(ids["train"], [(0, n)])
    rows = max(1, args.batch_chars // n) if args.batch_chars else args.batch_size
    plan = WindowBatches(train, args.train_size or epoch_windows(len(ids["train"]), n), n, rows, args.seed)
    loaders = {"train": _loader(train, plan, collate_windows)}
    for split, size in (("val", args.val_size), ("test", args.test_size), ("heldout", 0)):
        spans = windows_consecutive(len(ids[split]), n)
        data = WindowDataset(ids[split], spans[:size] if size else spans)
        loaders[split] = _heldout_loader(data, eval_rows(args, n), np.arange(len(data)), collate_windows)
    data = {"digest": task.digest, "source": task.source, "train_examples": plan.n_windows, "val_examples": len(loaders["val"].dataset),
            "test_examples": len(loaders["test"].dataset), "left_out": {"val": [], "test": []}, "vocab_size": len(tokenizer), "unknown_rate": task.unknown_rate}
    return tokenizer, loaders, {"task": task, "tokenizer": tokenizer, "floor_train": [], "data": data}


def longest_training_length(task: Task) -> int | None:
    """What multiples of --eval_lengths are of: the training maximum, the context of a language task, None where a task has no length."""
    if task.kind == "language":
        return task.args.context_len
    return None if task.lengths is None else task.lengths[1]


def parse_lengths(task: Task, words: tuple[str, ...]) -> list[int]:
    """`2x`, `4x`, `256` -> lengths other than the training maximum, of which `x` is a multiple. UserError where the task has no length."""
    if not words:
        return []
    longest = longest_training_length(task)
    if longest is None:
        raise UserError(f"--eval_lengths: got {','.join(words)}, but {type(task).__name__} has no length; leave it out")
    lengths = []
    for word in words:
        number = word[:-1] if word.endswith("x") else word
        try:
            value = float(number) * longest if word.endswith("x") else int(number)
        except ValueError:
            raise UserError(f"--eval_lengths: got '{word}', allowed: multiples such as 2x, or whole numbers such as 256") from None
        if not 1 <= value <= 1_000_000:
            raise UserError(f"--eval_lengths: got '{word}', allowed: lengths from 1 to 1,000,000")
        lengths.append(round(value))
    return sorted(set(lengths) - {longest})  # the test set itself has that length


def length_loader(task: Task, tokenizer, args, length: int) -> DataLoader:
    """A test set of its own stream at another length; of a language task the text of its test set, in consecutive windows of that many characters."""
    if task.kind == "language":
        return _windows_of_length(task, tokenizer, args, length)
    examples, _ = draw_heldout(task, "test", args.test_size, length, stream(task, f"eval length {length}", args.seed))
    return heldout_loader(task, tokenizer, args, examples, length)


def _windows_of_length(task, tokenizer, args, length: int) -> DataLoader:
    ids = task.ids("test", tokenizer)
    n_chars = min(len(ids), args.test_size * args.context_len or len(ids))  # as many as the test set has, so that all lengths score the same text
    if length > n_chars:
        more = "give a longer text with --data_path" if n_chars == len(ids) else "raise --test_size"
        raise UserError(f"--eval_lengths: got {length}, allowed: at most {n_chars}, the characters of the test set; {more}")
    data = WindowDataset(ids, windows_consecutive(n_chars, length))
    return _heldout_loader(data, eval_rows(args, length), np.arange(len(data)), collate_windows)
