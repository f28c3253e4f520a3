"""Selective copy: write the symbols that are scattered among blanks, in order.

    --n_data 4       '..c.....kf.......a..>' -> 'ckfa'
    --n_data 4       'bb..n..............b>' -> 'bbnb'
    --n_data 2       '.........g........d.>' -> 'gd'

Alphabet: the first `--n_symbols` letters of a-z, the blank `.` and `>`.
Length: the haystack, that is symbols and blanks, without `>`. The `--n_data` symbols are at distinct places. Every
    choice of places is equally likely, and each symbol is uniform.
Scored: the symbols and their <eos>.
Gap: from a symbol to the place where it is written. It differs from example to example, so no fixed delay solves the
    task.
Chance: uniform (1/17 per character at the defaults: the alphabet and <eos>) and unigram (about 1/n_symbols per symbol).
First used by: Gu and Dao, "Mamba", 2023, arXiv:2312.00752 (section 4.1.1, Table 1: 4,096 characters, 16 symbols to
    write, 14 different ones and two further tokens).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dataset.entry import loaders_of
from dataset.strings import LETTERS, distinct
from dataset.task import Example, LengthConfig, Slice, Task, option
from src.flags.fields import UserError
from src.flags.run_flags import RunFlags

BLANK = "."


class SelectiveCopy(Task):
    """`.c..a.>` is followed by `ca`."""

    @dataclass(frozen=True)
    class Config(LengthConfig):
        """selective_copy"""

        min_len: int = option(0, "shortest training haystack, in characters; 0 = n_data", least=0)
        n_data: int = option(16, "symbols in a haystack", least=1)
        n_symbols: int = option(14, "different symbols, of a-z", least=1, most=26)

    small: ClassVar[dict] = {"context_len": 32, "n_data": 8, "max_steps": 1500, "stop_at": 0.99}
    slices = (
        Slice("length", "length of the haystack (characters)"),
        Slice("position", "place in the answer (characters)", level="char"),
        Slice("gap", "distance to the symbol (characters)", level="char"),
    )

    def __init__(self, args: RunFlags):
        shortest, longest = self._range(args)
        if min(shortest, longest) < args.n_data:
            flag, value = ("--max_len", longest) if longest < args.n_data else ("--min_len", shortest)
            raise UserError(
                f"{flag}: got {value}, allowed: >= {args.n_data}, the symbols of --n_data; "
                f"use {flag} {args.n_data} or a smaller --n_data"
            )
        super().__init__(args)

    @staticmethod
    def _range(args):
        return args.min_len or args.n_data, args.max_len or args.context_len

    @property
    def lengths(self) -> tuple[int, int]:
        return self._range(self.args)

    @property
    def alphabet(self) -> str:
        return LETTERS[: self.args.n_symbols] + BLANK + ">"

    def examples(self, rng: np.random.Generator, n: int, length: int) -> list[Example]:
        count = self.args.n_data
        if length < count:
            raise UserError(f"length {length}: too short, allowed: >= {count}, the symbols of --n_data")
        places = np.sort(distinct(rng, n, count, length), axis=1)
        symbols = rng.integers(97, 97 + self.args.n_symbols, (n, count), dtype=np.uint8)
        hay = np.full((n, length + 1), ord(BLANK), dtype=np.uint8)
        hay[np.arange(n)[:, None], places] = symbols
        hay[:, -1] = ord(">")
        prompts, answers = hay.tobytes().decode(), symbols.tobytes().decode()
        gaps = (length + 1 + np.arange(count) - places).tolist()
        return [
            Example(
                prompts[i * (length + 1) : (i + 1) * (length + 1)],
                answers[i * count : (i + 1) * count],
                gaps=tuple(gaps[i]),
            )
            for i in range(n)
        ]

    def n_keys(self) -> int | None:
        total = math.comb(self.lengths[1], self.args.n_data) * self.args.n_symbols**self.args.n_data
        return total if total < 10**9 else None

    def solve(self, prompt: str) -> str:
        return prompt[:-1].replace(BLANK, "")

    def max_chars(self, length: int) -> int:
        return length + 1 + self.args.n_data


build_loaders = loaders_of(SelectiveCopy)
