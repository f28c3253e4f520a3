"""Sort: write digits in ascending order.

    '5391>' -> '1359'
    '80280>' -> '00288'
    '7>' -> '7'

Alphabet: 0-9 and `>`. `length` counts the digits, which are uniform and may repeat. Scored: the sorted digits and their <eos>.
Splits share no multiset of digits: the key is the sorted answer, so that no test asks for an order of digits that training has shown in
another arrangement. Floors: uniform (1/11 a character) and unigram, the digit most common at each place of the sorted answers, which
grows with the length because the sorted digits of a long string hardly vary. No gap: every digit of the prompt bears on every place.
After Bucket Sort of Deletang et al., "Neural Networks and the Chomsky Hierarchy", 2023, arXiv:2207.02098, over five symbols there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dataset.entry import loaders_of
from dataset.task import Example, LengthConfig, Slice, Task

DIGITS = "0123456789"


class Sort(Task):
    """`5391>` is followed by `1359`."""

    @dataclass(frozen=True)
    class Config(LengthConfig):
        """sort"""

    small: ClassVar[dict] = {"context_len": 16, "max_steps": 1500}
    slices = (Slice("length", "digits to sort"),)
    alphabet = DIGITS + ">"

    def example(self, rng, length):
        return self.examples(rng, 1, length)[0]

    def examples(self, rng, n, length):
        digits = rng.integers(48, 58, (n, length), dtype=np.uint8)
        text, ordered = digits.tobytes().decode(), np.sort(digits, axis=1).tobytes().decode()
        return [Example(text[i : i + length] + ">", ordered[i : i + length]) for i in range(0, n * length, length)]

    def key(self, example):
        return example.answer

    def n_keys(self):
        return math.comb(self.lengths[1] + 9, 9)

    def solve(self, prompt):
        return "".join(sorted(prompt[:-1]))

    def max_chars(self, length):
        return 2 * length + 1


build_loaders = loaders_of(Sort)
