"""Reverse: write a word backwards.

    'zxdmy>' -> 'ymdxz'
    'wrrv>' -> 'vrrw'
    'z>' -> 'z'

Alphabet: a-z and `>`.
Length: the letters of the word. Letters are uniform.
Scored: the reversed word and its <eos>.
Gap: from a letter of the prompt to its copy. It is 2 for the first character of the answer and 2 * length for the last.
Chance: uniform (1/28 per character: 26 letters, `>` and <eos>) and unigram (about 1/26 per letter, because every letter
    is equally likely at every place).
First used by: Deletang et al., "Neural Networks and the Chomsky Hierarchy", 2023, arXiv:2207.02098 (Reverse String,
    over two symbols).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dataset.entry import loaders_of
from dataset.strings import LETTERS
from dataset.task import Example, LengthConfig, Slice, Task


class Reverse(Task):
    """`hello>` is followed by `olleh`."""

    @dataclass(frozen=True)
    class Config(LengthConfig):
        """reverse"""

    small: ClassVar[dict] = {"context_len": 16, "max_steps": 1500, "stop_at": 0.99}
    slices = (
        Slice("length", "length of the word (characters)"),
        Slice("position", "place in the answer (characters)", level="char"),
        Slice("gap", "distance to the letter (characters)", level="char"),
    )
    alphabet = LETTERS + ">"

    def examples(self, rng: np.random.Generator, n: int, length: int) -> list[Example]:
        text = rng.integers(97, 123, (n, length), dtype=np.uint8).tobytes().decode()
        gaps = tuple(range(2, 2 * length + 1, 2))
        words = [text[i : i + length] for i in range(0, n * length, length)]
        return [Example(word + ">", word[::-1], gaps=gaps) for word in words]

    def n_keys(self) -> int | None:
        return 26 ** self.lengths[1] if self.lengths[1] <= 8 else None

    def solve(self, prompt: str) -> str:
        return prompt[-2::-1]

    def max_chars(self, length: int) -> int:
        return 2 * length + 1


build_loaders = loaders_of(Reverse)
