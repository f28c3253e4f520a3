"""Metrics of a model's predictions: known formulas, and the table of scored characters that evaluation fills.

    total, count = cross_entropy(logits, targets)      # sums and counts, so that uneven batches are exact
    bpc(total / count)                                 # bits per character
    bits_per_byte(total / count, count, n_bytes)       # the same for characters and for subword tokens

`teacher_forced` (src/utils/evaluation.py) gives a `Scored`: one entry per scored character.
A loss is in nats per scored character. A reported loss has no label smoothing.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from dataset.common import IGNORE


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> tuple[float, int]:
    """(sum of nats, number of characters) of logits (N, C) and targets (N,). Targets of -100 are ignored."""
    keep = targets != IGNORE
    return float(F.cross_entropy(logits[keep].float(), targets[keep], reduction="sum")), int(keep.sum())


def bpc(loss: float) -> float:
    """Bits per character of a loss in nats."""
    return loss / math.log(2)


def bits_per_byte(loss: float, n_scored: int, n_bytes: int) -> float:
    """Bits per byte of UTF-8 of a text. Unlike a loss, it does not depend on what the text was cut into.

    loss: mean nats over n_scored characters or tokens, which stand for n_bytes bytes.
    """
    return loss * n_scored / (n_bytes * math.log(2))


def perplexity(loss: float) -> float:
    """exp(loss), or infinity where that overflows."""
    return math.exp(loss) if loss < 700 else math.inf


def exact_match(correct, rows) -> tuple[int, int]:
    """(number of examples with every scored character right, number of examples).

    correct: (N,) bool, one entry per scored character.  rows: (N,), the example of each character.
    """
    by_row = rows_all_correct(np.asarray(correct), np.asarray(rows))
    return int(sum(by_row.values())), len(by_row)


def hit_rate_by_gap(hits: Iterable, gaps: Iterable) -> dict[int, tuple[float, int]]:
    """{gap in characters: (hit rate, count)}, in increasing order."""
    return _mean_by(hits, gaps)


def max_depth_acc(correct: Iterable, depths: Iterable) -> dict[int, tuple[float, int]]:
    """{deepest nesting of the prompt: (accuracy, count)}, in increasing order."""
    return _mean_by(correct, depths)


def rows_all_correct(correct: np.ndarray, rows: np.ndarray) -> dict[int, bool]:
    """{example: whether all its scored characters are right}. Arguments as for `exact_match`."""
    names, inverse = np.unique(rows, return_inverse=True)
    wrong = np.bincount(inverse, weights=~correct.astype(bool), minlength=len(names))
    return {int(name): bool(n == 0) for name, n in zip(names, wrong, strict=True)}


def finite(value: float) -> float | None:
    """The value, or None (null in JSON) where it is infinite or NaN."""
    return value if math.isfinite(value) else None


class Losses:
    """What the scores of one pass have in common: a mean `loss` in nats per scored character."""

    loss: float

    def losses(self) -> dict[str, float | None]:
        """The mean loss as metrics.json stores it: in nats, in bits, and as perplexity."""
        value = self.loss
        return {"loss": value, "bpc": bpc(value), "ppl": finite(perplexity(value))}


@dataclass
class Scored(Losses):
    """The scored characters of one evaluation pass, in the order of the dataset. All arrays are (N,).

    row: the example.  nll: nats.  correct: whether the prediction is right.  gap: characters between the evidence and
    the prediction, -1 where there is none.  column: the position in the sequence.
    """

    row: np.ndarray
    nll: np.ndarray
    correct: np.ndarray
    gap: np.ndarray
    column: np.ndarray

    @classmethod
    def join(cls, parts: list[Scored]) -> Scored:
        """Join the parts of one pass. The order of the result does not depend on the batches."""
        columns = {name: np.concatenate([getattr(p, name) for p in parts]) for name in cls.__dataclass_fields__}
        order = np.lexsort((columns["column"], columns["row"]))
        return cls(**{name: values[order] for name, values in columns.items()})

    @property
    def ordinal(self) -> np.ndarray:
        """The number of each character within its example, from 0."""
        _, first, inverse = np.unique(self.row, return_index=True, return_inverse=True)
        return np.arange(len(self.row)) - first[inverse]

    @property
    def loss(self) -> float:
        """Mean nats per scored character."""
        return float(self.nll.sum() / len(self.nll))

    @property
    def count(self) -> int:
        """How many characters are scored."""
        return len(self.row)

    @property
    def accuracy(self) -> float:
        """The share of scored characters that are predicted right."""
        return float(self.correct.mean())


def _mean_by(values: Iterable, groups: Iterable) -> dict[int, tuple[float, int]]:
    found = defaultdict(list)
    for value, group in zip(values, groups, strict=True):
        found[int(group)].append(float(value))
    return {group: (sum(v) / len(v), len(v)) for group, v in sorted(found.items())}
