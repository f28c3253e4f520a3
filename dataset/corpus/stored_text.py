"""A text of any size, kept with two bytes per character in a file, so that memory does not grow with the text.

The file has no name and ends with the process. The text comes once, in blocks of characters, and the vocabulary is
known only at its end. So the text is stored twice in the same place, first as numbers and then as ids:

    file = unnamed_file()
    numbered = number_characters([["to be", " or not"]], file)      # numbers, in the order in which characters appear
    characters = most_common(numbered.points, count_numbers(file, 0, 12), 5000)
    replace_numbers(file, 12, ids_of(numbered.points, tokenizer))   # the tokenizer's ids, `<unk>` for unknown
    characters StoredIds(file, 0, 12)[3:7]                                     # read on demand

`dataset.corpus.language.StreamedTask` is made of these. No torch here.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from dataset.corpus.cache import cache_folder
from dataset.tokenizer import CharTokenizer

BLOCK = 1 << 20  # characters processed at once
NUMBERS = 1 << 16  # that two bytes can hold
UNKNOWN = "\N{REPLACEMENT CHARACTER}"  # written for <unk> where ids become text


class StoredIds:
    """Ids in a file, read on demand: `len`, slices, and arrays of indices whose rows are windows.

    A memory map would do the same, but every page that was ever read would count as memory of this process.
    """

    def __init__(self, file: BinaryIO, start: int, end: int, dtype: type = np.uint16):
        self.file, self.start, self.end, self.dtype = file, start, end, np.dtype(dtype)

    def __len__(self) -> int:
        return self.end - self.start

    def part(self, start: int, end: int) -> StoredIds:
        """A part of these ids, by (start, end) within them."""
        return StoredIds(self.file, self.start + start, self.start + end, self.dtype)

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        """Ids at a slice, or at indices (..., T). A row of indices is read from its lowest to its highest."""
        if not isinstance(index, slice):
            rows = index.reshape(-1, index.shape[-1])
            lows, ends = rows.min(axis=1), rows.max(axis=1) + 1
            windows = [self[low:end][row - low] for row, low, end in zip(rows, lows, ends, strict=True)]
            return np.stack(windows).reshape(index.shape)
        start, end, _ = index.indices(len(self))
        size = self.dtype.itemsize
        self.file.seek(size * (self.start + int(start)))
        return np.frombuffer(self.file.read(size * max(0, int(end) - int(start))), dtype=self.dtype)


@dataclass(frozen=True)
class Numbered:
    """What `number_characters` found.

    points: the code point of each number, 0 for number 0.
    ends: where each segment ends, in characters.
    digest: SHA-256 of the text in UTF-8, a NUL between its segments.
    """

    points: np.ndarray
    ends: list[int]
    digest: str


def number_characters(segments: Iterable[Iterable[str]], file: BinaryIO) -> Numbered:
    """Write a text with two bytes per character.

    Characters are numbered from 1 in the order in which they appear. 0 is for those after the 65,535th kind.
    """
    kinds, ends, sha, at = np.zeros(1, dtype=np.uint32), [], hashlib.sha256(), 0
    number_of = np.zeros(0x110000, dtype=np.uint16)
    for i, segment in enumerate(segments):
        sha.update(b"\0" * (i > 0))
        for block in segment:
            sha.update(block.encode())
            points = np.frombuffer(block.encode("utf-32-le"), dtype=np.uint32)
            new = np.unique(points[number_of[points] == 0])[: NUMBERS - len(kinds)]
            number_of[new] = np.arange(len(kinds), len(kinds) + len(new))
            kinds = np.concatenate([kinds, new])
            file.write(number_of[points].tobytes())
            at += len(points)
        ends.append(at)
    return Numbered(kinds, ends, sha.hexdigest())


def unnamed_file() -> BinaryIO:
    """A file for one process, in the cache folder. If that cannot be written, in the system's temporary folder."""
    try:  # the cache folder is on a disk, while a temporary folder may be in memory
        cache_folder().mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=cache_folder())
    except OSError:
        return tempfile.TemporaryFile()


def blocks(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, np.ndarray]]:
    """(position, numbers) of a part of the file, BLOCK numbers at once."""
    stored = StoredIds(file, 0, end)
    for at in range(start, end, BLOCK):
        yield at, stored[at : at + BLOCK]


def count_numbers(file: BinaryIO, start: int, end: int) -> np.ndarray:
    """How often each number occurs in a part of the file."""
    total = np.zeros(NUMBERS, dtype=np.int64)
    for _, numbers in blocks(file, start, end):
        total += np.bincount(numbers, minlength=NUMBERS)
    return total


def most_common(points: np.ndarray, counts: np.ndarray, most: int) -> str:
    """The most common characters, at most `most` of them, in the order of their code points. counts: by number."""
    known = np.flatnonzero((counts[: len(points)] > 0) & (points != 0) & (points != ord(UNKNOWN)))
    order = known[np.lexsort((points[known], -counts[known]))][:most]
    return "".join(map(chr, sorted(points[order].tolist())))


def ids_of(points: np.ndarray, tokenizer: CharTokenizer) -> np.ndarray:
    """The id that each number becomes: (65,536,) uint16."""
    ids = np.full(NUMBERS, tokenizer.unknown, dtype=np.uint16)
    ids[1 : len(points)] = tokenizer.encode(points[1:].tobytes().decode("utf-32-le"))
    return ids


def replace_numbers(file: BinaryIO, n: int, ids: np.ndarray) -> None:
    """Replace the first n numbers of the file by their ids, in place."""
    for at, numbers in blocks(file, 0, n):
        file.seek(2 * at)
        file.write(ids[numbers].tobytes())
    file.flush()
