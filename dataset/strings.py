"""What several tasks draw from: symbols, random words, and rows of labels.

Each function makes n rows at once with NumPy, because fresh training data must not slow the training loop down.
"""

from __future__ import annotations

import numpy as np

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPACE = ord(" ")
SHORTEST_WORD, LONGEST_WORD = 2, 8

# Where the symbols of recall and induction go on after the letters. These are CJK ideographs: printable, one code
# point each, not combining, and changed by no Unicode normalisation.
FIRST_KEY, FIRST_VALUE = 0x4E00, 0x6E00


# Symbols.


def symbols(letters: str, first: int, count: int) -> str:
    """`count` symbols: the letters, then the code points from `first` on."""
    return letters[:count] + "".join(map(chr, range(first, first + count - len(letters))))


def distinct(rng: np.random.Generator, n: int, count: int, pool: int) -> np.ndarray:
    """(n, count) integers in 0..pool-1, distinct within a row. Every ordered choice is equally likely.

    count must not exceed pool. Repeats are drawn again until none is left. That treats all integers alike, so no choice
    is favoured, and it needs memory only for what is chosen. Where more than half the pool is chosen, sorting random
    keys is faster.
    """
    if 2 * count > pool:
        return np.argsort(rng.random((n, pool)), axis=1)[:, :count]
    chosen, rows = rng.integers(0, pool, (n, count)), np.arange(n)
    while len(rows):
        part = chosen[rows]
        order = np.argsort(part, axis=1, kind="stable")
        ordered = np.take_along_axis(part, order, axis=1)
        repeats = ordered[:, 1:] == ordered[:, :-1]
        row, place = np.nonzero(repeats)
        chosen[rows[row], order[row, place + 1]] = rng.integers(0, pool, len(row))
        rows = rows[repeats.any(axis=1)]
    return chosen


# Words.


def random_words(rng: np.random.Generator, n: int, length: int) -> np.ndarray:
    """n texts of exactly `length` characters as code points (n, length) uint8: random words with single spaces between.

    Word lengths are uniform in 2..8, among those after which the rest of the text can still be filled with words. A
    text of one character is one letter. That is the only case of a shorter word.
    """
    text = rng.integers(97, 123, (n, length), dtype=np.uint8)
    left = np.full(n, length + 1)  # a word takes its letters and the space after it; the last space is not written
    rows = np.arange(n)
    options, counts = _word_sizes()
    while length > 1 and len(rows):
        near = np.minimum(left, len(counts) - 1)
        chosen = options[near, (rng.random(len(near)) * counts[near]).astype(np.int64)]
        left = left - chosen
        rows, left = rows[left > 0], left[left > 0]
        text[rows, length - left] = SPACE
    return text


def _word_sizes() -> tuple[np.ndarray, np.ndarray]:
    """(options, counts): options[r, :counts[r]] are the word sizes (space included) possible with r characters left.

    After such a word, nothing is left or another word fits. From the last row on, every size is possible.
    """
    sizes = range(SHORTEST_WORD + 1, LONGEST_WORD + 2)
    rows = [[s for s in sizes if s == left or s <= left - sizes[0]] for left in range(sizes[-1] + sizes[0] + 1)]
    options = np.zeros((len(rows), len(sizes)), dtype=np.int64)
    for left, fits in enumerate(rows):
        options[left, : len(fits)] = fits
    return options, np.array([len(fits) for fits in rows])


def count_texts(length: int) -> int:
    """How many different texts `random_words` can make at this length."""
    if length < 2:
        return 26**length
    sizes = range(SHORTEST_WORD + 1, LONGEST_WORD + 2)
    ways = [1]
    for left in range(1, length + 2):
        ways.append(sum(26 ** (size - 1) * ways[left - size] for size in sizes if size <= left))
    return ways[-1]


# Rows of strings and labels.


def row_strings(points: np.ndarray) -> list[str]:
    """Rows of Latin-1 code points (n, width) uint8 as n strings."""
    text, width = points.tobytes().decode("latin-1"), points.shape[1]
    return [text[i : i + width] for i in range(0, len(text), width)]


def label_rows(values: np.ndarray, at: np.ndarray, characters: str) -> list[tuple[tuple[int, str], ...]]:
    """Labels of n examples that have their labels at the same positions.

    values: (n, k) indices into `characters`.  at: (k,) positions in the prompt.
    The (position, character) pairs are made once and shared. Millions of new pairs would take most of the time.
    """
    pairs = np.empty((len(at), len(characters)), dtype=object)
    for row, position in zip(pairs, at.tolist(), strict=True):
        row[:] = [(position, character) for character in characters]
    return list(map(tuple, pairs[np.arange(len(at)), values].tolist()))
