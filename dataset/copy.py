"""Copy: write a word again.

    'qzdmy>' -> 'qzdmy'
    'wrrv>' -> 'wrrv'
    'z>' -> 'z'

Alphabet: a-z and `>`.
Length: the letters of the word. Letters are uniform.
Scored: the copy and its <eos>.
Gap: from a letter of the prompt to its copy. It is length + 1 for every character of an answer.
Chance: uniform (1/28 per character: 26 letters, `>` and <eos>) and unigram (about 1/26 per letter, because every letter
    is equally likely at every place).
First used by: Jelassi et al., "Repeat After Me: Transformers are Better than State Space Models at Copying", 2024,
    arXiv:2402.01032.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dataset.entry import loaders_of
from dataset.strings import LETTERS
from dataset.task import Example, LengthConfig, Slice, Task


class Copy(Task):
    """`hello>` is followed by `hello`."""

    @dataclass(frozen=True)
    class Config(LengthConfig):
        """copy"""

    small: ClassVar[dict] = {"context_len": 16, "max_steps": 1500, "stop_at": 0.99}
    slices = (
        Slice("length", "length of the word (characters)"),
        Slice("position", "place in the answer (characters)", level="char"),
        Slice("gap", "distance to the letter (characters)", level="char"),
    )
    alphabet = LETTERS + ">"

    def examples(self, rng: np.random.Generator, n: int, length: int) -> list[Example]:
        text = rng.integers(97, 123, (n, length), dtype=np.uint8).tobytes().decode()
        gaps = (length + 1,) * length
        words = [text[i : i + length] for i in range(0, n * length, length)]
        return [Example(word + ">", word, gaps=gaps) for word in words]

    def n_keys(self) -> int | None:
        return 26 ** self.lengths[1] if self.lengths[1] <= 8 else None

    def solve(self, prompt: str) -> str:
        return prompt[:-1]

    def max_chars(self, length: int) -> int:
        return 2 * length + 1


build_loaders = loaders_of(Copy)
