"""Interpolated Witten-Bell n-gram models of characters: the loss that counting alone reaches on a text.

    P_1(c)   = (count(c) + T / V) / (N + T)
    P_n(c|h) = (count(h c) + T(h) P_{n-1}(c|h')) / (count(h) + T(h))

    h      the context of n - 1 characters
    h'     the same without its oldest character
    T(h)   the number of distinct characters that followed h in the training text
    N, T   characters of the training text, and distinct ones among them
    V      the size of the alphabet of both texts, so that no character has probability 0

A context that was never seen leaves P_{n-1}. After Witten & Bell 1991, interpolated as in Chen & Goodman 1998.

    ngram_nats(train, heldout) -> [3.347, 2.486, ...]      nats per scored character, orders 1 .. 6, one contiguous
    pass

Every character of the heldout text is scored except the first one, which is only context. These are the characters that
a model predicts in consecutive windows.

The result is kept in the user's cache folder under the digest of both texts, with a digest of its own: a file that was
changed or damaged is not read, and is made again. No Python loop runs over characters: a
context of order n + 1 is the (context, character) pair of order n one place earlier, so each order is one sort.
"""

from __future__ import annotations

import hashlib
import json
import math

import numpy as np

from dataset.corpus.cache import cache_folder, write_cache
from src.flags.fields import UserError
from src.storage.files import open_sealed, seal

ORDERS = 6
MOST = 2**31 - 3  # characters; places and contexts are numbered with 32 bits
VERSION = 3  # of the formula: numbers of an older one must not be read from the cache


def ngram_nats(train: str, heldout: str) -> list[float]:
    """Mean loss of the n-gram models of order 1 .. 6, in nats per scored character. Cached by digest of the texts."""
    parts = [hashlib.sha256(text.encode()).digest() for text in (train, heldout)]  # any character may be in a text
    digest = hashlib.sha256(b"".join(parts)).hexdigest()
    name = f"ngram-{digest[:16]}.json"
    known = _read(name, digest)
    if known is None:
        known = fit_and_score(train, heldout)
        # A cache that cannot be written is not an error.
        write_cache(name, json.dumps(seal({"version": VERSION, "digest": digest, "nats": known})).encode())
    return known


def _read(name: str, digest: str) -> list[float] | None:
    """The stored numbers; None where there are none, and where the file is not as it was written."""
    try:
        stored = open_sealed(cache_folder() / name)
    except UserError:
        return None
    nats, right = stored.get("nats"), stored.get("version") == VERSION and stored.get("digest") == digest
    if not right or not isinstance(nats, list) or len(nats) != ORDERS:
        return None
    return nats if all(isinstance(v, float) and math.isfinite(v) for v in nats) else None


def fit_and_score(train: str, heldout: str, orders: int = ORDERS) -> list[float]:
    """Fit on `train`, score all of `heldout` but its first character: mean nats per character, orders 1 .. `orders`.

    Raises ValueError for an empty `train`, for fewer than two characters in `heldout`, or for more than MOST in all.
    """
    if not train or len(heldout) < 2:
        raise ValueError(
            "n-gram models need text to fit and two characters to score, "
            f"got {len(train)} and {len(heldout)} characters"
        )
    if len(train) + len(heldout) > MOST:
        raise ValueError(f"n-gram models count at most {MOST:,} characters, got {len(train) + len(heldout):,}")
    n = len(train)
    symbols = _symbols(train + heldout)
    alphabet = int(symbols.max()) + 1
    context = np.zeros(len(symbols), dtype=np.int32)
    probability = np.full(len(heldout), 1 / alphabet)
    losses = []
    for _ in range(orders):
        size = int(context.max()) + 1
        context_of, pair = _pairs(context, symbols, size, alphabet)
        probability = _refined(context, pair, context_of, size, n, probability)
        losses.append(float(0.0 - np.log(probability[1:]).mean()))  # not -mean: that is -0.0 for a constant text
        context[1:] = pair[:-1]
        context[0] = len(context_of)
        context[n] = len(context_of) + 1  # the heldout text does not continue the training text: a new context
    return losses


def _pairs(context: np.ndarray, symbols: np.ndarray, size: int, alphabet: int) -> tuple[np.ndarray, np.ndarray]:
    """The context of each distinct (context, character), and the number (N,) of the pair at each place.

    The numbers are those of `np.unique`, in a third of its memory.
    """
    kind = np.uint32 if size * alphabet < 2**32 else np.int64
    keys = context.astype(kind) * kind(alphabet) + symbols.astype(kind)
    order = np.argsort(keys).astype(np.int32)
    keys = keys[order]
    is_new = np.concatenate([[True], keys[1:] != keys[:-1]])
    pair = np.empty(len(keys), dtype=np.int32)
    pair[order] = np.cumsum(is_new, dtype=np.int32) - np.int32(1)
    return (keys[is_new] // alphabet).astype(np.int32), pair


def _refined(
    context: np.ndarray, pair: np.ndarray, context_of: np.ndarray, size: int, n: int, probability: np.ndarray
) -> np.ndarray:
    """The probabilities of the heldout text by one order more.  n: where it begins.  size: contexts."""
    pair_count = np.bincount(pair[:n], minlength=len(context_of))
    context_count = np.bincount(context[:n], minlength=size)
    followers = np.bincount(context_of, weights=pair_count > 0, minlength=size)
    seen, kinds = context_count[context[n:]], followers[context[n:]]
    total = seen + kinds
    return np.where(total > 0, (pair_count[pair[n:]] + kinds * probability) / np.maximum(total, 1), probability)


def _symbols(text: str) -> np.ndarray:
    """Characters as 0 .. V - 1."""
    points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    kinds = np.unique(points)
    return np.searchsorted(kinds, points).astype(np.int32)
