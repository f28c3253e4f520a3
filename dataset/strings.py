"""Words, symbols and rows of labels that several tasks draw from."""

from __future__ import annotations

import numpy as np


def distinct(rng: np.random.Generator, n: int, count: int, pool: int) -> np.ndarray:
    """(n, count) integers in 0..pool-1, distinct within a row; every ordered choice is equally likely.  count must not exceed pool.

    Repeats are drawn again until none is left. That treats all integers alike, so no choice is favoured, and takes memory for what is
    chosen only; where more than half the pool is chosen, sorting random keys is quicker.
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


LETTERS = "abcdefghijklmnopqrstuvwxyz"


SPACE = ord(" ")


SHORTEST_WORD, LONGEST_WORD = 2, 8


def random_words(rng: np.random.Generator, n: int, length: int) -> np.ndarray:
    """n texts of exactly `length` characters as code points (n, length) uint8: random words with single spaces between.

    Word lengths are uniform in 2..8 among those after which the rest of the text can still be filled with words; a text of
    one character is one letter, the only case of a shorter word.
    """
    text = rng.integers(97, 123, (n, length), dtype=np.uint8)
    left = np.full(n, length + 1)  # a word takes its letters and the space behind it; the last space falls off the end
    rows = np.arange(n)
    options, counts = _word_choices()
    while length > 1 and len(rows):
        near = np.minimum(left, len(counts) - 1)
        chosen = options[near, (rng.random(len(near)) * counts[near]).astype(np.int64)]
        left = left - chosen
        rows, left = rows[left > 0], left[left > 0]
        text[rows, length - left] = SPACE
    return text


def _word_choices():
    """(options, counts): options[r, :counts[r]] are the word sizes (space included) possible with r characters left.

    What remains is nothing or room for another word; from the last row on every size fits.
    """
    sizes = range(SHORTEST_WORD + 1, LONGEST_WORD + 2)
    rows = [[s for s in sizes if s == left or s <= left - sizes[0]] for left in range(sizes[-1] + sizes[0] + 1)]
    options = np.zeros((len(rows), len(sizes)), dtype=np.int64)
    for left, fits in enumerate(rows):
        options[left, : len(fits)] = fits
    return options, np.array([len(fits) for fits in rows])


def count_texts(length: int) -> int:
    """How many texts `random_words` can give at this length."""
    if length < 2:
        return 26**length
    ways = [1]
    for left in range(1, length + 2):
        ways.append(
            sum(
                26 ** (size - 1) * ways[left - size]
                for size in range(SHORTEST_WORD + 1, LONGEST_WORD + 2)
                if size <= left
            )
        )
    return ways[-1]


def label_rows(values: np.ndarray, at: np.ndarray, characters: str) -> list[tuple]:
    """Labels of n examples that stand at the same positions: values (n, k) number the characters, at (k,) are positions of the prompt.

    The (position, character) pairs are made once and shared, since millions of new ones would take most of the time.
    """
    pairs = np.empty((len(at), len(characters)), dtype=object)
    for row, position in zip(pairs, at.tolist(), strict=True):
        row[:] = [(position, character) for character in characters]
    return list(map(tuple, pairs[np.arange(len(at)), values].tolist()))


def row_strings(points: np.ndarray) -> list[str]:
    """Rows of Latin-1 code points (n, width) uint8 as n strings."""
    text, width = points.tobytes().decode("latin-1"), points.shape[1]
    return [text[i : i + width] for i in range(0, len(text), width)]


FIRST_KEY, FIRST_VALUE = (
    0x4E00,
    0x6E00,
)  # unified ideographs: printable, one code point wide, changed by no normalisation, none combining


def symbols(letters: str, first: int, count: int) -> str:
    """`count` symbols: the letters, then the code points from `first` on."""
    return letters[:count] + "".join(map(chr, range(first, first + count - len(letters))))
