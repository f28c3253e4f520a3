"""Copy: write a word again.

    'qzdmy>' -> 'qzdmy'
    'wrrv>' -> 'wrrv'
    'z>' -> 'z'

Alphabet: a-z and `>`. `length` counts the letters of the word, which are uniform. Scored: the copy and its <eos>.
Gap: from a letter of the prompt to its copy, length + 1 for every character of an answer.
Floors: uniform (1/27 a character) and unigram (about 1/26, as every letter is equally likely at every place).
After Jelassi et al., "Repeat After Me: Transformers are Better than State Space Models at Copying", 2024, arXiv:2402.01032.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dataset.entry import loaders_of
from dataset.task import Example, LengthConfig, Slice, Task

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Copy(Task):
    """`hello>` is followed by `hello`."""

    @dataclass(frozen=True)
    class Config(LengthConfig):
        """copy"""

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
        gaps = (length + 1,) * length
        words = [text[i : i + length] for i in range(0, n * length, length)]
        return [Example(word + ">", word, gaps=gaps) for word in words]

    def n_keys(self):
        return 26 ** self.lengths[1] if self.lengths[1] <= 8 else None

    def solve(self, prompt):
        return prompt[:-1]

    def max_chars(self, length):
        return 2 * length + 1


build_loaders = loaders_of(Copy)
