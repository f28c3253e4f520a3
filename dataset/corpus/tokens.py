"""A text as tokens, made once and kept in the cache folder.

    stored = tokenised(spool, cuts, whole_documents=False, recipe=Recipe("bpe 4096", make))
    stored.tokenizer, stored.ids("val")[3:7]

The tokenizer may be learned from the training split, and only from it. Every split is encoded by itself, so no token
reaches across a cut. Where a document ends, `<eos>` follows.

The cache: `tokens-<key>.ids` holds the ids of train, val and test one after the other, and with whole documents also
where each of them ends. `tokens-<key>.json` says what is in it, with its size and SHA-256, and holds the tokenizer. It
is written last. A file that does not agree with it is made again. The key is a digest of the text, of its documents, of
the cuts, and of how the tokenizer is made. One process at a time makes the files of a key. The ids are read on demand
(`StoredIds`), so memory does not grow with the text.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dataset.bpe import BATCH, pieces
from dataset.corpus.cache import alone, cache_folder, write_cache
from dataset.corpus.documents import END, Piece, Spool
from dataset.corpus.stored_text import BLOCK, StoredIds, unnamed_file
from dataset.splits import SPLITS
from dataset.tokenizer import Tokenizer
from dataset.vocabulary import tokenizer_of
from src.flags.fields import UserError

FORMAT = 1  # of the cached files: those of another one are made again


@dataclass(frozen=True)
class Recipe:
    """How a tokenizer is made.  name: tells two recipes apart.  make: from the training split in pieces."""

    name: str
    make: Callable[[Iterable[Piece]], Tokenizer]


@dataclass(frozen=True)
class StoredTokens:
    """The ids of a text.

    ends: where train, val and test end, in tokens of the whole text.
    documents: (number of documents + 1,) where each document of the whole text begins, and where the last one ends.
        None where the text is not kept by documents.
    """

    tokenizer: Tokenizer
    file: BinaryIO
    dtype: np.dtype
    ends: tuple[int, ...]
    documents: np.ndarray | None

    def ids(self, split: str) -> StoredIds:
        """The ids of "train", "val", "test" or "heldout", which is val and test."""
        return StoredIds(self.file, *self.span(split), self.dtype)

    def span(self, split: str) -> tuple[int, int]:
        """(start, end) of a split in the whole text, in tokens."""
        train, val, test = self.ends
        return {"train": (0, train), "val": (train, val), "test": (val, test), "heldout": (train, test)}[split]

    def rows(self, split: str, most: int) -> tuple[np.ndarray, int]:
        """((n, 2) what each document of a split reads, how many are cut to `most` tokens). Documents without a token
        are left out.

        A row reads a document, and its last prediction is `<eos>`. Positions are those within the split.
        """
        start, end = self.span(split)
        first, last = np.searchsorted(self.documents, [start, end])
        edges = self.documents[first : last + 1] - start
        begins, ends = edges[:-1], edges[1:] - 1  # the last token of a document is <eos>, which is only predicted
        kept = ends > begins
        begins, ends = begins[kept], ends[kept]
        cut = np.minimum(ends, begins + most)
        return np.stack([begins, cut], axis=1), int((cut < ends).sum())


def tokenised(
    spool: Spool, cuts: Iterable[int], whole_documents: bool, recipe: Recipe, given: Tokenizer | None = None
) -> StoredTokens:
    """The ids of a text, from the cache or made now.

    cuts: where train and val end, in characters of `lines`.
    whole_documents: a document belongs to one split as a whole, and `rows` is wanted.
    given: the tokenizer of an existing run, in place of the one that `recipe` makes.
    """
    cuts = [int(cut) for cut in cuts]

    def key_of(name: str) -> str:
        facts = (FORMAT, spool.digest, cuts, whole_documents, name)
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    if given is not None:
        found = _open(key_of(recipe.name))  # most often the run itself made these
        if found is not None and found.tokenizer.payload() == given.payload():
            return found
        recipe = recipe_of(given)
    key = key_of(recipe.name)
    with alone(_name(key)):
        found = _open(key)
        if found is not None:
            return found
        tokenizer = recipe.make(piece for split, piece in spool.split(cuts, whole_documents) if split == 0)
        return _make(spool.split(cuts, whole_documents), tokenizer, whole_documents, key)


def recipe_of(tokenizer: Tokenizer) -> Recipe:
    """The recipe of a tokenizer that exists already."""
    digest = hashlib.sha256(json.dumps(tokenizer.payload()).encode()).hexdigest()
    return Recipe(f"stored {digest}", lambda _: tokenizer)


def _name(key: str) -> str:
    return f"tokens-{key[:32]}"


def _make(
    pieces_of_splits: Iterable[tuple[int, Piece]], tokenizer: Tokenizer, whole_documents: bool, key: str
) -> StoredTokens:
    """Encode all splits into the cached file, or into an unnamed one where the cache folder cannot be written."""
    dtype = np.dtype(np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32)
    try:
        handle, temporary = tempfile.mkstemp(dir=cache_folder(), prefix=_name(key) + ".")
        file = os.fdopen(handle, "w+b")
    except OSError:
        temporary, file = None, unnamed_file()
    try:
        ends, documents = _write(pieces_of_splits, tokenizer, file, dtype)
        if whole_documents:
            file.write(documents.tobytes())
        file.flush()
        if temporary is not None:
            file.close()
            n = len(documents) if whole_documents else 0
            about = {"key": key, "vocab": tokenizer.payload(), "ends": ends, "documents": n, "dtype": dtype.name}
            file = _keep(Path(temporary), about)
    except BaseException:
        file.close()
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise
    return StoredTokens(tokenizer, file, dtype, tuple(ends), documents if whole_documents else None)


def _write(
    pieces_of_splits: Iterable[tuple[int, Piece]], tokenizer: Tokenizer, file: BinaryIO, dtype: np.dtype
) -> tuple[list[int], np.ndarray]:
    """Write the ids of all splits. Returns where each split ends, and where each document begins, in tokens."""
    ends, at, parts = [0] * len(SPLITS), 0, []
    for split, ids in _encoded(pieces_of_splits, tokenizer):
        file.write(ids.astype(dtype).tobytes())
        parts.append(np.flatnonzero(ids == tokenizer.eos) + at + 1)
        at += len(ids)
        ends[split:] = [at] * (len(SPLITS) - split)
    return ends, np.concatenate([[0], *parts]).astype(np.int64)


def _encoded(pieces_of_splits: Iterable[tuple[int, Piece]], tokenizer: Tokenizer) -> Iterator[tuple[int, np.ndarray]]:
    """(split, ids) of about BATCH characters at once, `<eos>` after each document."""
    batch, size, now = [], 0, 0
    for split, piece in _cut_small(pieces_of_splits):
        if batch and (split != now or size >= BATCH):
            yield now, _ids_of(batch, tokenizer)
            batch, size = [], 0
        now = split
        batch.append(piece)
        size += 1 if piece is END else len(piece)
    if batch:
        yield now, _ids_of(batch, tokenizer)


def _cut_small(pieces_of_splits: Iterable[tuple[int, Piece]]) -> Iterator[tuple[int, Piece]]:
    """The same text in pieces that can be encoded one by one (dataset/bpe.py). END stays END."""
    for split, group in itertools.groupby(pieces_of_splits, key=lambda item: item[0]):
        for piece in pieces(piece for _, piece in group):
            yield split, piece


def _ids_of(batch: list[Piece], tokenizer: Tokenizer) -> np.ndarray:
    texts = [piece for piece in batch if piece is not END]
    found, end = iter(tokenizer.encode_all(texts)), np.array([tokenizer.eos], dtype=np.int32)
    return np.concatenate([end if piece is END else next(found) for piece in batch])


def _keep(temporary: Path, about: dict) -> BinaryIO:
    """Give the file of ids its name, and describe it. A cache that cannot be written is no error. Returns the file."""
    name = _name(about["key"])
    with temporary.open("rb") as file:
        size, digest = _size_and_digest(file)
    path = cache_folder() / f"{name}.ids"
    try:
        os.replace(temporary, path)
    except OSError:
        file = temporary.open("rb")
        with contextlib.suppress(OSError):  # Windows keeps the names of open files
            temporary.unlink()
        return file
    write_cache(f"{name}.json", json.dumps({**about, "bytes": size, "sha256": digest}).encode())
    return path.open("rb")


def _open(key: str) -> StoredTokens | None:
    """The cached ids of a key. None where there are none, or where they are not what was written."""
    name = _name(key)
    try:
        about = json.loads((cache_folder() / f"{name}.json").read_text(encoding="utf-8"))
        file = (cache_folder() / f"{name}.ids").open("rb")
    except (OSError, ValueError):
        return None
    try:
        if about["key"] != key or _size_and_digest(file) != (about["bytes"], about["sha256"]):
            file.close()
            return None
        dtype = np.dtype(about["dtype"])
        file.seek(about["ends"][-1] * dtype.itemsize)
        documents = np.frombuffer(file.read(), dtype=np.int64) if about["documents"] else None
        return StoredTokens(tokenizer_of(about["vocab"]), file, dtype, tuple(about["ends"]), documents)
    except (KeyError, TypeError, ValueError, UserError):  # not written by us
        file.close()
        return None


def _size_and_digest(file: BinaryIO) -> tuple[int, str]:
    """Bytes and SHA-256 of a file."""
    sha, size = hashlib.sha256(), 0
    file.seek(0)
    while block := file.read(BLOCK):
        sha.update(block)
        size += len(block)
    return size, sha.hexdigest()
