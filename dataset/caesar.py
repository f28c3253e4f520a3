"""Caesar: shift every letter of a text by a given number of places in the alphabet.

    '12:zxdmyta kit piyu>' -> 'ljpykfm wuf bukg'
    '20:cxay xdvlrvr wyr>' -> 'wrus rxpflpl qsl'

Alphabet: a-z, space, the digits of the shifts, `:` and `>`.
Length: the characters of the text, its spaces included. The text is random words of 2-8 uniform letters with single
    spaces. The shift is uniform in 1..`--max_shift`. Letters move cyclically, and spaces stay.
Scored: the shifted text and its <eos>.
Chance: uniform (1/40 per character, <eos> included) and unigram (mostly the space, which no shift moves).
First used by: this project, as far as we know. The cipher is Caesar's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dataset.entry import loaders_of
from dataset.strings import LETTERS, SPACE, count_texts, random_words
from dataset.task import Example, LengthConfig, Slice, Task, option


class Caesar(Task):
    """`7:attack at dawn>` is followed by `haahjr ha khdu`."""

    @dataclass(frozen=True)
    class Config(LengthConfig):
        """caesar"""

        min_len: int = option(2, "shortest training length, in characters; a word has at least 2", least=2)
        max_shift: int = option(25, "largest shift; each of 1..max_shift is equally likely", least=1, most=25)

    small: ClassVar[dict] = {"context_len": 16, "max_shift": 5, "max_steps": 4500, "stop_at": 0.99}
    slices = (
        Slice("shift", "shift (letters)", bins="each"),
        Slice("length", "length of the text (characters)"),
    )

    @property
    def alphabet(self) -> str:
        digits = {digit for shift in range(1, self.args.max_shift + 1) for digit in str(shift)}
        return LETTERS + " :>" + "".join(sorted(digits))

    def examples(self, rng: np.random.Generator, n: int, length: int) -> list[Example]:
        plain = random_words(rng, n, length)
        shifts = rng.integers(1, self.args.max_shift + 1, n)
        letters = (plain - 97 + shifts[:, None].astype(np.uint8)) % 26 + 97
        moved = np.where(plain == SPACE, SPACE, letters).astype(np.uint8)
        before, after = plain.tobytes().decode(), moved.tobytes().decode()
        return [
            Example(
                f"{shift}:{before[i * length : (i + 1) * length]}>",
                after[i * length : (i + 1) * length],
                meta={"shift": shift},
            )
            for i, shift in enumerate(shifts.tolist())
        ]

    def n_keys(self) -> int | None:
        length = self.lengths[1]
        return self.args.max_shift * count_texts(length) if length <= 8 else None

    def solve(self, prompt: str) -> str:
        shift, text = prompt[:-1].split(":")
        return "".join(c if c == " " else chr((ord(c) - 97 + int(shift)) % 26 + 97) for c in text)

    def max_chars(self, length: int) -> int:
        return len(str(self.args.max_shift)) + 2 + 2 * length


build_loaders = loaders_of(Caesar)
