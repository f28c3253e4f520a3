"""Batches: sentence pairs of different lengths become rectangles of ids, with masks that say what is real.

pairs    ([7, 4, 2], [9, 5])              source ids, and target ids, without <bos> and <eos>
X_ids    [[7, 4, 2, <eos>]]               M_src  [[1, 1, 1, 1]]
Y_in     [[<bos>, 9, 5]]                  what the decoder reads
Y_out    [[9, 5, <eos>]]                  what it should say at each place      M_tgt  [[1, 1, 1]]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from src.numpy_transformer.tokenization import BOS, EOS, PAD

Pair = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Batch:
    """X_ids (B, S) int32, M_src (B, S) bool; Y_in, Y_out (B, T) int32, M_tgt (B, T) bool. Padding is on the right."""

    X_ids: np.ndarray
    M_src: np.ndarray
    Y_in: np.ndarray
    Y_out: np.ndarray
    M_tgt: np.ndarray


def make_batch(pairs: Sequence[Pair]) -> Batch:
    """The batch of B pairs of ids: (B, S) and (B, T), where S and T are those of the longest, with its <eos>."""
    X_ids, M_src = pad_right([[*source, EOS] for source, _ in pairs])
    Y_out, M_tgt = pad_right([[*target, EOS] for _, target in pairs])
    Y_in, _ = pad_right([[BOS, *target] for _, target in pairs])
    return Batch(X_ids, M_src, Y_in, Y_out, M_tgt)


def pad_right(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """B rows of different lengths -> (ids (B, longest) int32 with <pad> on the right, real (B, longest) bool)."""
    lengths = np.array([len(row) for row in rows])
    real = np.arange(lengths.max())[None, :] < lengths[:, None]
    ids = np.full(real.shape, PAD, dtype=np.int32)
    ids[real] = np.concatenate([np.asarray(row, dtype=np.int32) for row in rows])
    return ids, real


def epoch_batches(pairs: Sequence[Pair], batch_size: int, seed: int, epoch: int) -> Iterator[Batch]:
    """The batches of one epoch: every pair once, in an order that depends on seed and epoch alone.

    The last batch may be smaller than batch_size. Shapes of a batch: see `make_batch`.
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(pairs))
    for start in range(0, len(pairs), batch_size):
        yield make_batch([pairs[i] for i in order[start : start + batch_size]])
