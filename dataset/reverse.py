"""Reverse: write a word backwards.

    'zxdmy>' -> 'ymdxz'
    'wrrv>' -> 'vrrw'
    'z>' -> 'z'

Alphabet: a-z and `>`. `length` counts the letters of the word, which are uniform. Scored: the reversed word and its <eos>.
Gap: from a letter of the prompt to its copy, 2 for the first character of the answer, 2 * length for the last.
Floors: uniform (1/27 a character) and unigram (about 1/26, as every letter is equally likely at every place).
First used by Deletang et al., "Neural Networks and the Chomsky Hierarchy", 2023, arXiv:2207.02098 (Reverse String), over two symbols there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dataset.entry import loaders_of
from dataset.task import Example, LengthConfig, Slice, Task

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Reverse(Task):
    """`hello>` is followed by `olleh`."""

    @dataclass(frozen=True)
    class Config(LengthConfig):
        """reverse"""

    small: ClassVar[dict] = {"context_len": 16, "max_steps": 1500}
    slices = (
        Slice("length", "length of the word (characters)"),
        Slice("position", "place in the answer (characters)", level="char"),
        Slice("gap", "distance to the letter (characters)", level="char"),
    )
    alphabet = LETTERS + ">"

    def example(self, rng, length):
        return self.examples(rng, 1, length)[0]

    def examples(self, rng, n, length):
        text = rng.integers(97, 123, (n, length), dtype=np.uint8).tobytes().decode()
        gaps = tuple(range(2, 2 * length + 1, 2))
        words = [text[i : i + length] for i in range(0, n * length, length)]
        return [Example(word + ">", word[::-1], gaps=gaps) for word in words]

    def n_keys(self):
        return 26 ** self.lengths[1] if self.lengths[1] <= 8 else None

    def solve(self, prompt):
        return prompt[-2::-1]

    def max_chars(self, length):
        return 2 * length + 1


build_loaders = loaders_of(Reverse)
