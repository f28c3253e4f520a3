"""From a model to a translation: greedy decoding for many sentences, and beam search for one.

texts = [decode(ids, target_vocab) for ids in translate(model, sources, max_T=12, beam=4)]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from src.numpy_transformer.datasets import pad_right
from src.numpy_transformer.tokenization import BOS, EOS
from src.numpy_transformer.transformer import Seq2Seq

ROWS = 128  # sentences that are decoded together


def translate(model: Seq2Seq, sources: Sequence[Sequence[int]], max_T: int, beam: int = 1) -> list[list[int]]:
    """Target ids of each source, up to and with <eos>, at most max_T. sources: ids without <eos>.

    beam: 1 is greedy decoding, more is `beam_search`.
    """
    found = []
    if beam > 1:
        for source in sources:
            found.append(beam_search(model, *pad_right([[*source, EOS]]), max_T, beam)[0])
        return found
    for start in range(0, len(sources), ROWS):
        X_ids, M_src = pad_right([[*source, EOS] for source in sources[start : start + ROWS]])
        found += [cut(row.tolist()) for row in model.greedy_decode(X_ids, M_src, max_T)]
    return found


def cut(ids: list[int]) -> list[int]:
    """The ids up to and with the first <eos>."""
    return ids[: ids.index(EOS) + 1] if EOS in ids else ids


def beam_search(model: Seq2Seq, X_ids: np.ndarray, M_src: np.ndarray, max_T: int, beam: int) -> tuple[list[int], float]:
    """The best translation found of one sentence, and its score. X_ids (1, S) int, M_src (1, S) bool.

    Each step keeps the likeliest continuations of all beginnings together: as many as `beam`, less one for each
    translation that has ended with <eos>. Length: a translation is scored by the mean log probability of its tokens,
    <eos> among them, so that a long one is not worse for having more factors below 1. Without the mean, beams prefer
    short translations. The search ends when `beam` translations have ended, or after max_T tokens. A translation
    without <eos> is taken only if none has ended. Beam 1 is greedy decoding.

    Sutskever et al. 2014, arXiv:1409.3215, section 3.2. The mean is alpha = 1 of Wu et al. 2016, arXiv:1609.08144,
    equation 14, without its constant.
    """
    caches = model.start(X_ids, M_src, max_T)
    alive, totals = [[]], np.zeros(1)
    ended: list[tuple[float, list[int]]] = []
    for t in range(max_T):
        last = np.array([ids[-1] if ids else BOS for ids in alive], dtype=np.int32)
        logits = model.next_logits(last, caches, t, np.repeat(M_src, len(alive), axis=0))
        scores = totals[:, None] + log_softmax(logits.astype(np.float64))  # (beginnings, V)
        order = np.argsort(-scores, axis=None, kind="stable")[: beam - len(ended)]
        rows, words = np.unravel_index(order, scores.shape)
        possible = np.isfinite(scores[rows, words])
        rows, words = rows[possible], words[possible]
        totals = scores[rows, words]
        longer = [[*alive[r], int(w)] for r, w in zip(rows, words, strict=True)]
        ended += [(total / (t + 1), ids) for total, ids in zip(totals, longer, strict=True) if ids[-1] == EOS]
        goes_on = words != EOS
        if len(ended) >= beam or not goes_on.any():
            break
        alive, totals = [ids for ids in longer if ids[-1] != EOS], totals[goes_on]
        caches = [cache.pick(rows[goes_on]) for cache in caches]
    found = ended or [(total / len(ids), ids) for total, ids in zip(totals, alive, strict=True)]
    score, ids = max(found, key=lambda pair: pair[0])
    return ids, float(score)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log probabilities over the last axis: (..., V) -> (..., V). -inf stays -inf."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
