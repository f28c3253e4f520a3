"""From examples to batches: datasets and their `collate_fn`.

    sequence   <bos> p1 .. pP a1 .. aA <eos>          x = all but the last token, y = all but the first
    answer     y is trained and scored where it is an answer character or its <eos>
    labels     y at a labelled character is its label, which is not written into the sequence
    language   windows of a text, c0 .. cT without <bos>. All of y is trained and scored

Which rows make a batch is decided in dataset/plans.py.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch.utils.data import Dataset

from dataset.corpus.stored_text import BLOCK, StoredIds
from dataset.task import Example, Task
from dataset.tokenizer import BOS, EOS, PAD, Tokenizer
from dataset.windows import Consecutive, Listed

IGNORE = -100  # the value of y where nothing is trained


@dataclass
class Batch:
    """One batch of sequences, padded on the right.

    x, y: (B, T) int64, input and target.  score: (B, T) bool, what evaluation counts.  lengths: (B,) tokens.
    gaps: (B, T) characters, -1 where there is none.
    meta: per example "row" (its number in the dataset) and "length" (the task length).
    index: flat positions in (B * T) where y is trained. None if that is everywhere.
    """

    x: torch.Tensor
    y: torch.Tensor
    score: torch.Tensor
    lengths: torch.Tensor
    gaps: torch.Tensor
    meta: dict[str, np.ndarray] = field(default_factory=dict)
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
        """Some of the rows, for micro-batches and for the ranks of a parallel run. The batch must be on the CPU."""
        meta = {k: v[rows] for k, v in self.meta.items()}
        return Batch(self.x[rows], self.y[rows], self.score[rows], self.lengths[rows], self.gaps[rows], meta)

    def to(self, device: str | torch.device) -> Batch:
        """The batch on a device. It is returned as it is for the CPU."""
        if torch.device(device).type == "cpu":
            return self
        moved = replace(self)
        for name in ("x", "y", "score", "lengths", "gaps", "index"):
            value = getattr(self, name)
            setattr(moved, name, None if value is None else value.to(device, non_blocking=True))
        return moved


class ExampleDataset(Dataset):
    """Examples of one or several lengths, encoded once into flat arrays.

    `dataset[i]` is {"ids" (T + 1,), "length", "meta"}. `__getitems__` hands row numbers to `collate_fn`, which cuts a
    whole batch out of the flat arrays, without a Python loop per token.
    """

    def __init__(
        self, examples: list[Example], lengths: list[int | None], task: Task, tokenizer: Tokenizer, loss_on: str
    ):
        self.examples = examples
        self.task_lengths = np.asarray([0 if n is None else n for n in lengths], dtype=np.int64)
        self.labelled = task.labelled
        self.write_all = task.train_all or loss_on == "all"
        self.prompt_chars = np.fromiter((len(e.prompt) for e in examples), dtype=np.int64, count=len(examples))
        self.answer_chars = np.fromiter((len(e.answer) for e in examples), dtype=np.int64, count=len(examples))
        self.ids = tokenizer.encode("".join([e.prompt + e.answer for e in examples]))
        self.starts = np.concatenate([[0], np.cumsum(self.prompt_chars + self.answer_chars)])
        if self.labelled:
            self._encode_labels(tokenizer)
        self._encode_gaps()

    def _encode_labels(self, tokenizer: Tokenizer) -> None:
        labels = [e.labels or () for e in self.examples]
        self.label_starts = np.concatenate([[0], np.cumsum([len(part) for part in labels])])
        self.label_at = np.fromiter(
            (p for part in labels for p, _ in part), dtype=np.int64, count=self.label_starts[-1]
        )
        self.label_ids = tokenizer.encode("".join(c for part in labels for _, c in part))

    def _encode_gaps(self) -> None:
        """Flat gaps, one per answer character or label. None if the task does not give them."""
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

    @property
    def longest(self) -> int:
        """Tokens of the longest example."""
        return int(self.tokens.max())

    def __getitem__(self, i: int) -> dict:
        ids = self.ids[self.starts[i] : self.starts[i + 1]]
        return {
            "ids": np.concatenate([[BOS], ids, [EOS]]),
            "length": int(self.tokens[i]),
            "meta": self.examples[i].meta,
        }

    def __getitems__(self, rows: list[int]) -> tuple[ExampleDataset, np.ndarray]:
        return self, np.asarray(rows)


def collate_fn(picked: tuple[ExampleDataset, np.ndarray]) -> Batch:
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
    return Batch(
        torch.from_numpy(x),
        torch.from_numpy(y),
        torch.from_numpy(score),
        torch.from_numpy(tokens),
        torch.from_numpy(gaps),
        meta,
    )


def _place_labels(data: ExampleDataset, rows: np.ndarray, y: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """Write the labels into y and their gaps into gaps, in place. Returns the score mask."""
    counts = np.diff(data.label_starts)[rows]
    row = np.repeat(np.arange(len(rows)), counts)
    offsets = data.label_starts[rows] - np.concatenate([[0], np.cumsum(counts)[:-1]])
    flat = np.repeat(offsets, counts) + np.arange(counts.sum())
    at = data.label_at[flat] + 1  # + 1 for <bos>
    if not data.write_all:
        y[:] = IGNORE
    y[row, at] = data.label_ids[flat]
    score = np.zeros(y.shape, dtype=bool)
    score[row, at] = True
    if data.gaps is not None:
        gaps[row, at] = data.gaps[flat]
    return score


class WindowDataset(Dataset):
    """Windows of a text. spans: (start, end) of the characters that each of them reads (dataset/windows.py).

    x is those characters, and y is x moved by one character: y[i] is the character after x[i].
    ids: an array, or `StoredIds` of a text that is kept in a file.
    tokenizer: that of the ids. None where nobody asks for bits per byte.
    """

    def __init__(
        self,
        ids: np.ndarray | StoredIds,
        spans: Consecutive | Listed | np.ndarray | list[tuple[int, int]],
        tokenizer: Tokenizer | None = None,
    ):
        self.ids, self.tokenizer = ids, tokenizer
        is_ready = isinstance(spans, (Consecutive, Listed))
        self.spans = spans if is_ready else Listed(np.asarray(spans, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.spans)

    @property
    def longest(self) -> int:
        """Tokens of the longest window."""
        return self.spans.longest

    @functools.cached_property
    def scored_bytes(self) -> int:
        """Bytes of UTF-8 of all that the windows predict. The tokenizer must be known."""
        total, bytes_of = 0, self.tokenizer.bytes_of
        for spans in self.spans.blocks():
            for start, end in _joined(spans + 1):
                for at in range(start, end, BLOCK):
                    total += int(bytes_of[self.ids[at : min(at + BLOCK, end)]].sum())
        return total

    def __getitem__(self, i: int) -> dict:
        start, end = self.spans[i]
        return {"ids": self.ids[start : end + 1].astype(np.int64), "length": int(end - start), "meta": {}}

    def __getitems__(self, rows: list[int]) -> tuple[WindowDataset, np.ndarray]:
        return self, np.asarray(rows)


def _joined(spans: np.ndarray) -> list[tuple[int, int]]:
    """The same stretches with neighbours made one, so that a text is read in few pieces.  spans: (n, 2), in order."""
    gaps = np.flatnonzero(spans[1:, 0] != spans[:-1, 1]) + 1
    starts, ends = spans[np.r_[0, gaps], 0], spans[np.r_[gaps - 1, len(spans) - 1], 1]
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def collate_windows(picked: tuple[WindowDataset, np.ndarray]) -> Batch:
    """(dataset, rows) -> Batch. Shorter windows are padded on the right."""
    data, rows = picked
    start, end = data.spans[rows].T
    lengths = end - start
    column = np.arange(lengths.max() + 1)[None]
    read = torch.from_numpy(data.ids[np.minimum(start[:, None] + column, len(data.ids) - 1)].astype(np.int64))
    x, y = read[:, :-1].contiguous(), read[:, 1:].contiguous()  # (B, T)
    inside = torch.from_numpy(column[:, :-1] < lengths[:, None])
    if not bool(inside.all()):
        y = torch.where(inside, y, IGNORE)
        x = torch.where(inside, x, PAD)
    return Batch(x, y, inside, torch.from_numpy(lengths), torch.full_like(x, -1), {"row": rows, "length": lengths})
