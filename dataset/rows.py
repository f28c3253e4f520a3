"""Rows of ids of which only some are trained and scored, such as the answers in conversations.

    data = RowDataset([(ids, scored), ...], write_all=False)
    batch = collate_rows((data, rows))           # a `Batch` of dataset/common.py

A row of n ids reads all but the last and predicts all but the first.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch.utils.data import Dataset

from dataset.common import IGNORE, Batch
from dataset.tokenizer import PAD, Tokenizer


class RowDataset(Dataset):
    """Rows of ids in flat arrays.

    rows: (ids (n,), scored (n,) bool) pairs.  write_all: train all ids, not only those that are scored.
    tokenizer: that of the ids. None where nobody asks for bits per byte.
    """

    def __init__(
        self,
        rows: list[tuple[np.ndarray, np.ndarray]],
        write_all: bool = False,
        tokenizer: Tokenizer | None = None,
    ):
        self.ids = np.concatenate([ids for ids, _ in rows])
        self.scored = np.concatenate([scored for _, scored in rows])
        self.starts = np.concatenate([[0], np.cumsum([len(ids) for ids, _ in rows])])
        self.write_all, self.tokenizer = write_all, tokenizer
        self.task_lengths = np.zeros(len(rows), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def tokens(self) -> np.ndarray:
        """Tokens of x, per row."""
        return np.diff(self.starts) - 1

    @property
    def longest(self) -> int:
        """Tokens of the longest x."""
        return int(self.tokens.max())

    @functools.cached_property
    def scored_bytes(self) -> int:
        """Bytes of UTF-8 of all that is scored. The tokenizer must be known."""
        predicted = self.scored.copy()
        predicted[self.starts[:-1]] = False  # the first id of a row is only read
        return int(self.tokenizer.bytes_of[self.ids[predicted]].sum())

    def __getitem__(self, i: int) -> dict:
        ids = self.ids[self.starts[i] : self.starts[i + 1]].astype(np.int64)
        return {"ids": ids, "length": len(ids) - 1, "meta": {}}

    def __getitems__(self, rows: list[int]) -> tuple[RowDataset, np.ndarray]:
        return self, np.asarray(rows)


def collate_rows(picked: tuple[RowDataset, np.ndarray]) -> Batch:
    """(dataset, rows) -> Batch. Shorter rows are padded on the right."""
    data, rows = picked
    lengths = data.tokens[rows]
    column = np.arange(lengths.max() + 1)[None]
    at = np.minimum(data.starts[rows][:, None] + column, len(data.ids) - 1)
    inside = column[:, :-1] < lengths[:, None]
    x, y = data.ids[at[:, :-1]].astype(np.int64), data.ids[at[:, 1:]].astype(np.int64)
    score = inside & data.scored[at[:, 1:]]
    x = np.where(inside, x, PAD)
    y = np.where(inside if data.write_all else score, y, IGNORE)
    arrays = (x, y, score, lengths, np.full_like(x, -1))
    return Batch(*map(torch.from_numpy, arrays), {"row": rows, "length": data.task_lengths[rows]})
