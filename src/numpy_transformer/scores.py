"""What share of translations is right: whole sentences, and word by word. And what memory alone would reach.

- whole: the share of sentences whose words are all right, with its 95 % interval.
- words: the share of places with the right word, over the longer of both sentences at each pair.
- nearest: both for the translation of the training sentence that has the most words in common with the source. It needs
  no model, so it is the chance level of somebody who knows the training pairs by heart and understands nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from src.numpy_transformer.datasets import Pair
from src.numpy_transformer.tokenization import EOS
from src.stats.intervals import wilson


def score(found: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]]) -> dict:
    """{"count", "right", "whole", "interval", "words"} of as many translations as there are references.

    Both are lists of ids; an <eos> at the end counts for nothing.
    """
    pairs = [(list(f[: f.index(EOS)]) if EOS in f else list(f), list(w)) for f, w in zip(found, wanted, strict=True)]
    right = sum(f == w for f, w in pairs)
    hits = sum(sum(a == b for a, b in zip(f, w, strict=False)) for f, w in pairs)
    places = sum(max(len(f), len(w)) for f, w in pairs)
    return {
        "count": len(pairs),
        "right": right,
        "whole": right / len(pairs),
        "interval": list(wilson(right, len(pairs))),
        "words": hits / places,
    }


def nearest(train: Sequence[Pair], sources: Sequence[Sequence[int]]) -> list[list[int]]:
    """For each source, the target of the training pair whose source shares the most words with it; the first of equals.

    Shared words are counted with repeats, as a share of the longer sentence.
    """
    known = [(Counter(source), len(source), target) for source, target in train]
    found = []
    for source in sources:
        words = Counter(source)
        best = max(known, key=lambda k: sum((words & k[0]).values()) / max(len(source), k[1]))
        found.append(best[2])
    return found
