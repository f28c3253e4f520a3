"""Fibonacci: continue the sequence in which every term is the sum of the two before it.

    '85,63:' -> '148,211,359,570,929'
    '30,4:' -> '34,38,72,110,182'
    '7,1:' -> '8,9,17,26,43'

Why: a chain of additions on numbers that the model wrote itself, so that one mistake spoils the rest.

Alphabet: digits, `,` and `:`. The two start values are uniform in 0..`--max_start`, independently.
Length: the terms of the answer. The prompt does not contain it, so all training examples have `--n_terms` terms.
Scored: `term_acc` (primary) and `exact_match`. `term_acc` is the share of the expected terms that are exactly right at
    their place between the commas.
Splits: the key is the prompt. There are (max_start + 1)^2 keys, about a tenth of them in each held-out split.
Chance: uniform and unigram.
First used by: this project, as far as we know.
"""

from __future__ import annotations

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
    # About 1,000 keys belong to each held-out split at the default --max_start.
    small: ClassVar[dict] = {"d_model": 128, "max_steps": 1500, "val_size": 400, "test_size": 800}
    base: ClassVar[dict] = {"train_size": 0, "max_steps": 3125, "val_size": 400, "test_size": 800}

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

    def n_keys(self) -> int:
        return (self.args.max_start + 1) ** 2

    def max_chars(self, length: int | None = None) -> int:
        largest = self._instance(self.args.max_start, self.args.max_start, length or self.args.n_terms)
        return len(largest.prompt) + len(largest.answer)

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


build_loaders = loaders_of(Fibonacci)
