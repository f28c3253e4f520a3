"""Fibonacci: continue the sequence in which every term is the sum of the two before it.

    '85,63:' -> '148,211,359,570,929'
    '30,4:' -> '34,38,72,110,182'
    '7,1:' -> '8,9,17,26,43'

Why: a chain of additions on numbers that the model wrote itself, so that one mistake spoils the rest.

Alphabet: digits, `,` and `:`. The two start values are uniform in 0..`--max_start`, independently.
Length: the terms of the answer. The prompt does not contain it, so all training examples have `--n_terms` terms.
Scored: `term_acc` (primary) and `exact_match`. `term_acc` is the share of the expected terms that are exactly right at
    their place between the commas.
Splits: the key is the root of the sequence: its first two terms after it is continued to the left for as long as no
    term is negative. `5,8:` and `3,5:` have the root 1,0. So no two neighbouring terms of a test sequence stand in a
    training sequence. With m = `--max_start` there are m (m + 1) / 2 + 1 roots, 4,951 for 99. About a tenth of them is
    in each held-out split, and asking for more is an error that names the number.
Chance: uniform (1/13 per character, <eos> included), unigram, and `constant`: the most common training term at each
    place.
First used by: this project, as far as we know.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dataset.entry import loaders_of
from dataset.task import Example, MetaValue, Slice, Task, option


@dataclass(frozen=True)
class FibonacciConfig:
    """fibonacci"""

    n_terms: int = option(5, "terms to write", least=1, most=1_000)
    max_start: int = option(99, "largest start value", least=0, most=10**9)


class Fibonacci(Task):
    """`3,5:` -> `8,13,21,34,55`.

    meta: one entry per answer character. term: counted from 1, and a comma belongs to the term that it ends.
    digits: the number of digits of that term.
    """

    Config = FibonacciConfig
    primary = "term_acc"
    score_metrics: ClassVar[dict[str, str]] = {"term_acc": "higher"}
    slices = (Slice("term", "index of the term", level="char"), Slice("digits", "digits of the term", level="char"))
    alphabet = "".join(sorted("0123456789,:"))
    # 487 keys belong to val and 496 to test at the default --max_start, so these sizes are found at every seed.
    small: ClassVar[dict] = {"d_model": 128, "max_steps": 1500, "val_size": 400, "test_size": 400}
    base: ClassVar[dict] = {"train_size": 0, "max_steps": 3125, "val_size": 400, "test_size": 400}

    @property
    def lengths(self) -> tuple[int, int]:
        return self.args.n_terms, self.args.n_terms

    def examples(self, rng: np.random.Generator, n: int, length: int | None) -> list[Example]:
        starts = rng.integers(0, self.args.max_start + 1, size=(n, 2)).tolist()
        return [self._instance(a, b, length or self.args.n_terms) for a, b in starts]

    @staticmethod
    def _instance(a: int, b: int, n_terms: int) -> Example:
        terms = [str(term) for term in sequence(a, b, n_terms)]
        widths = [len(term) + 1 for term in terms]
        widths[-1] -= 1  # no comma after the last
        index = tuple(i for i, width in enumerate(widths, 1) for _ in range(width))
        digits = tuple(len(term) for term, width in zip(terms, widths, strict=True) for _ in range(width))
        return Example(f"{a},{b}:", ",".join(terms), meta={"term": index, "digits": digits})

    def solve(self, prompt: str) -> str:
        a, b = map(int, prompt[:-1].split(","))
        return ",".join(map(str, sequence(a, b, self.args.n_terms)))

    def key(self, example: Example) -> str:
        return "{},{}".format(*root(*map(int, example.prompt[:-1].split(","))))

    def n_keys(self) -> int:
        most = self.args.max_start
        return most * (most + 1) // 2 + 1  # every pair a > b >= 0 is a root, and 0,0 is one

    def max_chars(self, length: int | None = None) -> int:
        largest = self._instance(self.args.max_start, self.args.max_start, length or self.args.n_terms)
        return len(largest.prompt) + len(largest.answer)

    def constants(self, train: list[Example]) -> list[str]:
        """The most common training term at each place; of equally common ones the smallest."""
        places = zip(*(map(int, e.answer.split(",")) for e in train), strict=True)
        counts = map(Counter, places)
        return [",".join(str(min(count, key=lambda term: (-count[term], term))) for count in counts)]

    def score(self, prompt: str, answer: str, gold: str, meta: dict[str, MetaValue]) -> dict[str, float]:
        expected, got = gold.split(","), answer.split(",")
        return {"term_acc": sum(a == b for a, b in zip(expected, got, strict=False)) / len(expected)}


def sequence(a: int, b: int, n_terms: int) -> list[int]:
    """The n_terms terms that follow a, b."""
    terms = []
    for _ in range(n_terms):
        a, b = b, a + b
        terms.append(b)
    return terms


def root(a: int, b: int) -> tuple[int, int]:
    """The first two terms of the sequence that a, b >= 0 belong to, continued to the left while no term is negative.

    All windows of one sequence have the same root. The first term is larger than the second, unless all terms are 0.
    """
    while 0 < a <= b:
        a, b = b - a, a
    return (b, 0) if a == 0 else (a, b)


build_loaders = loaders_of(Fibonacci)
