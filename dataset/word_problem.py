"""The word problem of a finite group: after each character, which element is the product so far?

    '021' -> ((0, '0'), (1, '2'), (2, '4'))
    '3512' -> ((0, '3'), (1, '2'), (2, '4'), (3, '5'))
    --group z6   '5523' -> ((0, '5'), (1, '4'), (2, '0'), (3, '3'))
    --group s3 --generators swaps   '125' -> ((0, '1'), (1, '3'), (2, '2'))

Why: exact state tracking, and a ladder of it. z2 is parity; z3 and z6 need complex or many-valued state; s3 is the smallest group that does not
commute; a5 and s5 are not solvable, which makes their word problem complete for NC1 (Barrington 1989): neither Transformers nor linear recurrences
with a diagonal transition of fixed depth are believed to solve it at every length.

Groups (`--group`): z2 (2 elements), z2xz2 (4), z3, z6, s3 (6), a5 (60), s5 (120). Each element is one character of 0-9, a-z, A-Z and the letters of
Latin-1, the identity first: `0`. In z* the number is the value; in z2xz2 its two bits; permutations are numbered in lexicographic order of their
one-line form (s3: 0 = 012, 1 = 021, 2 = 102, 3 = 120, 4 = 201, 5 = 210; a5: the even ones). A word is read from left to right, so in a product of
permutations the left one acts first. `length` counts elements; each is uniform over the group, or with `--generators swaps` (s3, s5) over its
transpositions, the identity not among them.
Labels: at every element the product of the prefix that ends there, never written. Scored: the labels; primary token_acc.
Training lengths are uniform in 1..`--max_len`; --eval_lengths 4x,16x tests far beyond. Short words are few: training repeats them, and a test set
begins where the space is large enough for it.
Floors: uniform (1 / size of the group) and unigram; with swaps every second product is odd, so that unigram is about twice uniform, and scaled accuracy is 0
at the higher of the two.

Prior use: Merrill, Petty & Sabharwal, "The Illusion of State in State-Space Models", 2024, arXiv:2404.08819 (z60, a4 x z5, a5 there); Grazzi et al.,
"Unlocking State-Tracking in Linear RNNs Through Negative Eigenvalues", 2024, arXiv:2411.12537 (s5, and s5 from swaps); Liu et al., "Transformers Learn
Shortcuts to Automata", 2023, arXiv:2210.10749. The modular counters are close to the Cycle Navigation of Deletang et al. 2023, arXiv:2207.02098 (z5, steps of
-1, 0, 1), in causal form: a label at every element, where theirs is read once, after the whole word.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from dataset.entry import loaders_of
from dataset.strings import label_rows, row_strings
from dataset.task import Example, LengthConfig, Slice, Task, option
from src.flags.fields import UserError

ELEMENTS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" + "".join(
    c for c in map(chr, range(0xC0, 0x100)) if c.isalpha()
)
POINTS = np.frombuffer(ELEMENTS.encode("latin-1"), dtype=np.uint8)


class WordProblem(Task):
    """`021` in s3 has the labels `024`."""

    @dataclass(frozen=True)
    class Config(LengthConfig):
        """word_problem"""

        max_len: int = option(40, "longest training length, and the test length, in elements; 0 = context_len", least=0)
        group: str = option("s3", "the group", choices=("z2", "z2xz2", "z3", "z6", "s3", "a5", "s5"))
        generators: str = option(
            "all", "elements that words are made of; swaps: transpositions only (s3, s5)", choices=("all", "swaps")
        )

    kind = "labels"
    primary = "token_acc"
    small: ClassVar[dict] = {"max_steps": 2000}
    slices = (
        Slice("length", "length of the word (elements)"),
        Slice("position", "place of the label (number)", level="char"),
    )

    def __init__(self, args):
        super().__init__(args)
        self.group = group(args.group)
        if args.generators == "swaps" and not self.group.swaps:
            raise UserError(
                f"--generators: got 'swaps' with --group {args.group}, allowed: all; transpositions exist in s3 and s5"
            )
        self.letters = np.array(
            self.group.swaps if args.generators == "swaps" else range(len(self.group.table)), dtype=np.uint8
        )

    @property
    def alphabet(self):
        return ELEMENTS[: len(self.group.table)]

    def example(self, rng, length):
        return self.examples(rng, 1, length)[0]

    def examples(self, rng, n, length):
        word = self.letters[rng.integers(0, len(self.letters), (n, length))]
        products, product = np.empty((n, length), dtype=np.uint8), np.zeros(n, dtype=np.uint8)
        for place in range(length):
            product = self.group.table[product, word[:, place]]
            products[:, place] = product
        labels = label_rows(products, np.arange(length), self.alphabet)
        return [Example(prompt, labels=row) for prompt, row in zip(row_strings(POINTS[word]), labels, strict=True)]

    def n_keys(self):
        total = len(self.letters) ** self.lengths[1]
        return total if total <= 2**24 else None

    def solve(self, prompt):
        products = itertools.accumulate(
            (ELEMENTS.index(c) for c in prompt), lambda a, b: int(self.group.table[a, b]), initial=0
        )
        return tuple((i, ELEMENTS[product]) for i, product in enumerate(itertools.islice(products, 1, None)))

    def max_chars(self, length):
        return length


@dataclass(frozen=True)
class Group:
    """table (n, n) uint8: table[a, b] is the product a b, element 0 the identity.  swaps: its transpositions, none where it has not all of them."""

    table: np.ndarray
    swaps: tuple[int, ...] = ()


@lru_cache
def group(name: str) -> Group:
    """The group of that name: zN, z2xz2, sN or aN."""
    if name == "z2xz2":
        table = np.bitwise_xor.outer(np.arange(4), np.arange(4))
        swaps = ()
    elif name[0] == "z":
        order = int(name[1:])
        table = np.add.outer(np.arange(order), np.arange(order)) % order
        swaps = ()
    else:
        table, swaps = _permutations(int(name[1:]), even_only=name[0] == "a")
    table = table.astype(np.uint8)
    table.flags.writeable = False  # it is shared
    return Group(table, swaps)


def _permutations(degree: int, even_only: bool) -> tuple[np.ndarray, tuple[int, ...]]:
    """Multiplication table of the permutations of 0 .. degree - 1 in lexicographic order, the left factor acting first, and the transpositions."""
    elements = [p for p in itertools.permutations(range(degree)) if not even_only or _inversions(p) % 2 == 0]
    number = {p: i for i, p in enumerate(elements)}
    table = np.array([[number[tuple(second[i] for i in first)] for second in elements] for first in elements])
    swaps = tuple(i for i, p in enumerate(elements) if sum(at != to for at, to in enumerate(p)) == 2)
    return table, swaps


def _inversions(permutation: tuple[int, ...]) -> int:
    return sum(a > b for a, b in itertools.combinations(permutation, 2))


build_loaders = loaders_of(WordProblem)
