"""Sort: write digits in ascending order.

    '5391>' -> '1359'
    '80280>' -> '00288'
    '7>' -> '7'

Alphabet: 0-9 and `>`.
Length: the digits. They are uniform and may repeat.
Scored: the sorted digits and their <eos>.
Splits: the key is the sorted answer, so that splits share no multiset of digits. Otherwise a test could ask for an
    answer that training has shown for another arrangement of the same digits.
Chance: uniform (1/12 per character, <eos> included) and unigram, the most common digit at each place of the sorted
    answers. Unigram grows with the length, because the sorted digits of a long string hardly vary.
Gap: none. Every digit of the prompt matters for every place.
First used by: Deletang et al., "Neural Networks and the Chomsky Hierarchy", 2023, arXiv:2207.02098 (Bucket Sort, over
    five symbols).
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

    small: ClassVar[dict] = {"context_len": 16, "max_steps": 1500, "stop_at": 0.99}
    slices = (Slice("length", "digits to sort"),)
    alphabet = DIGITS + ">"

    def examples(self, rng: np.random.Generator, n: int, length: int) -> list[Example]:
        digits = rng.integers(48, 58, (n, length), dtype=np.uint8)
        text, ordered = digits.tobytes().decode(), np.sort(digits, axis=1).tobytes().decode()
        return [Example(text[i : i + length] + ">", ordered[i : i + length]) for i in range(0, n * length, length)]

    def key(self, example: Example) -> str:
        return example.answer

    def n_keys(self) -> int | None:
        return math.comb(self.lengths[1] + 9, 9)

    def solve(self, prompt: str) -> str:
        return "".join(sorted(prompt[:-1]))

    def max_chars(self, length: int) -> int:
        return 2 * length + 1


build_loaders = loaders_of(Sort)
