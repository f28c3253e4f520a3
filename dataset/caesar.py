"""Caesar: shift every letter of a text by a given number of places in the alphabet.

    '12:zxdmyta kit piyu>' -> 'ljpykfm wuf bukg'
    '20:cxay xdvlrvr wyr>' -> 'wrus rxpflpl qsl'

Alphabet: a-z, space, the digits of the shifts, `:` and `>`. `length` counts the characters of the text, its spaces included.
The text is random words of 2-8 uniform letters with single spaces; the shift is uniform in 1..`--max_shift`. Letters move
cyclically and spaces stay. Scored: the shifted text and its <eos>.
Floors: uniform and unigram (mostly the space, which no shift moves).
First used by this project, as far as we know; the cipher is Caesar's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dataset.base import Example, LengthConfig, Slice, Task, option

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPACE = ord(" ")
SHORTEST_WORD, LONGEST_WORD = 2, 8


class Caesar(Task):
    """`7:attack at dawn>` is followed by `haahjr ha khdu`."""

    @dataclass(frozen=True)
    class Config(LengthConfig):
        """caesar"""

        min_len: int = option(2, "shortest training length, in characters; a word has at least 2", least=2)
        max_shift: int = option(25, "largest shift; each of 1..max_shift is equally likely", least=1, most=25)

    small: ClassVar[dict] = {"context_len": 16, "max_shift": 5, "max_steps": 4500}
    slices = (
        Slice("shift", "shift (letters)", bins="each"),
        Slice("length", "length of the text (characters)"),
    )

    @property
    def alphabet(self):
        digits = {digit for shift in range(1, self.args.max_shift + 1) for digit in str(shift)}
        return LETTERS + " :>" + "".join(sorted(digits))

    def example(self, rng, length):
        return self.examples(rng, 1, length)[0]

    def examples(self, rng, n, length):
        plain = random_words(rng, n, length)
        shifts = rng.integers(1, self.args.max_shift + 1, n)
        moved = np.where(plain == SPACE, SPACE, (plain - 97 + shifts[:, None].astype(np.uint8)) % 26 + 97).astype(np.uint8)
        before, after = plain.tobytes().decode(), moved.tobytes().decode()
        return [Example(f"{shift}:{before[i * length:(i + 1) * length]}>", after[i * length:(i + 1) * length], meta={"shift": shift})
                for i, shift in enumerate(shifts.tolist())]

    def n_keys(self):
        length = self.lengths[1]
        return self.args.max_shift * count_texts(length) if length <= 8 else None

    def solve(self, prompt):
        shift, text = prompt[:-1].split(":")
        return "".join(c if c == " " else chr((ord(c) - 97 + int(shift)) % 26 + 97) for c in text)

    def max_chars(self, length):
        return len(str(self.args.max_shift)) + 2 + 2 * length


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
        options[left, :len(fits)] = fits
    return options, np.array([len(fits) for fits in rows])


def count_texts(length: int) -> int:
    """How many texts `random_words` can give at this length."""
    if length < 2:
        return 26**length
    ways = [1]
    for left in range(1, length + 2):
        ways.append(sum(26 ** (size - 1) * ways[left - size] for size in range(SHORTEST_WORD + 1, LONGEST_WORD + 2) if size <= left))
    return ways[-1]


build_loaders = Caesar.build_loaders
