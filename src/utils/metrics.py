"""Metrics: sums and counts to the last line, so that uneven batches are exact.

`Scored` holds what one teacher-forced pass found at every scored character; the functions below it turn that into numbers.
Losses are nats per scored character and never smoothed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F


def cross_entropy(logits, targets) -> tuple[float, int]:
    """(sum of nats, number of characters) of logits (N, C) against targets (N,); -100 counts for nothing."""
    keep = targets != -100
    return float(F.cross_entropy(logits[keep].float(), targets[keep], reduction="sum")), int(keep.sum())


def bpc(loss: float) -> float:
    """Bits per character of a loss in nats."""
    return loss / math.log(2)


def perplexity(loss: float) -> float:
    """exp(loss); infinite where that overflows."""
    return math.exp(loss) if loss < 700 else math.inf


def exact_match(correct, rows) -> tuple[int, int]:
    """(examples with every scored character right, examples). correct (N,) bool; rows (N,) the example of each character."""
    by_row = rows_all_correct(np.asarray(correct), np.asarray(rows))
    return int(sum(by_row.values())), len(by_row)


def rows_all_correct(correct: np.ndarray, rows: np.ndarray) -> dict[int, bool]:
    names, inverse = np.unique(rows, return_inverse=True)
    wrong = np.bincount(inverse, weights=~correct.astype(bool), minlength=len(names))
    return {int(name): bool(n == 0) for name, n in zip(names, wrong, strict=True)}


def hit_rate_by_gap(hits, gaps) -> dict[int, tuple[float, int]]:
    """{gap: (hit rate, count)}, gaps in characters, in increasing order."""
    return _mean_by(hits, gaps)


def max_depth_acc(correct, depths) -> dict[int, tuple[float, int]]:
    """{deepest nesting of the prompt: (accuracy, count)}, in increasing order."""
    return _mean_by(correct, depths)


def _mean_by(values, groups) -> dict[int, tuple[float, int]]:
    found = defaultdict(list)
    for value, group in zip(values, groups, strict=True):
        found[int(group)].append(float(value))
    return {group: (sum(v) / len(v), len(v)) for group, v in sorted(found.items())}


@dataclass
class Scored:
    """One entry a scored character, in dataset order: example `row`, `nll` in nats, `correct`, `gap` (-1: none), `ordinal` (its
    number within the example), `column` (its place in the sequence)."""

    row: np.ndarray
    nll: np.ndarray
    correct: np.ndarray
    gap: np.ndarray
    column: np.ndarray

    @classmethod
    def join(cls, parts: list[Scored]) -> Scored:
        """Parts of one pass, put in the dataset's order whatever the batches were."""
        columns = {name: np.concatenate([getattr(p, name) for p in parts]) for name in cls.__dataclass_fields__}
        order = np.lexsort((columns["column"], columns["row"]))
        return cls(**{name: values[order] for name, values in columns.items()})

    @property
    def ordinal(self) -> np.ndarray:
        _, first, inverse = np.unique(self.row, return_index=True, return_inverse=True)
        return np.arange(len(self.row)) - first[inverse]

    @property
    def loss(self) -> float:
        return float(self.nll.sum() / len(self.nll))

    def losses(self) -> dict[str, float | None]:
        value = self.loss
        return {"loss": value, "bpc": bpc(value), "ppl": finite(perplexity(value))}


def finite(value: float) -> float | None:
    """The value, or None (JSON null) where it is no finite number."""
    return value if math.isfinite(value) else None
