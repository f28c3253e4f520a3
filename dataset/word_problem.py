"""The word problem of a finite group: after each character, which element is the product so far?

    '021' -> ((0, '0'), (1, '2'), (2, '4'))
    '3512' -> ((0, '3'), (1, '2'), (2, '4'), (3, '5'))
    --group z6   '5523' -> ((0, '5'), (1, '4'), (2, '0'), (3, '3'))
    --group s3 --generators swaps   '125' -> ((0, '1'), (1, '3'), (2, '2'))

Why: exact state tracking, in steps of difficulty. z2 is parity. z3 and z6 need complex or many-valued state. s3 is the
smallest group that does not commute. a5 and s5 are not solvable, so their word problem is complete for NC1 (Barrington
1989). Neither Transformers nor linear recurrences with a diagonal transition, at a fixed depth, are believed to solve
that at every length.

Groups (`--group`): z2 (2 elements), z2xz2 (4), z3, z6, s3 (6), a5 (60), s5 (120). In z* the number is the value, and in
    z2xz2 its two bits. Permutations are numbered in the lexicographic order of their one-line form (s3: 0 = 012, 1 =
    021, 2 = 102, 3 = 120, 4 = 201, 5 = 210; a5: only the even ones). A word is read from left to right, so in a product
    of permutations the left one acts first.
Alphabet: one character per element, the identity first: 0-9, a-z, A-Z and the letters of Latin-1.
Length: the elements. Each is uniform over the group. With `--generators swaps` (s3, s5) it is uniform over the
    transpositions, without the identity.
Labels: at every element, the product of the prefix that ends there. Never written.
Scored: the labels. Primary: token_acc.
Training: lengths are uniform in 1..`--max_len`, and --eval_lengths 4x,16x tests far beyond. There are few short words,
    so training repeats them, and only longer lengths have enough for a test set.
Chance: uniform (1/6 at the defaults: 1 / size of the group) and unigram. With swaps every second product is odd, so
    unigram is about twice uniform. Scaled accuracy is 0 at the higher of the two.

First used by: Merrill, Petty & Sabharwal, "The Illusion of State in State-Space Models", 2024, arXiv:2404.08819, with
    z60, a4 x z5 and a5. Grazzi et al., "Unlocking State-Tracking in Linear RNNs Through Negative Eigenvalues", 2024,
    arXiv:2411.12537, use s5, and s5 from swaps. Also Liu et al., "Transformers Learn Shortcuts to Automata", 2023,
    arXiv:2210.10749. The modular counters are close to the Cycle Navigation of Deletang et al. 2023, arXiv:2207.02098
    (z5, steps of -1, 0, 1). Here the task is causal: a label at every element. Theirs is read once, after the whole
    word.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from dataset.entry import loaders_of
from dataset.strings import label_rows, row_strings
from dataset.task import Example, Labels, LengthConfig, Slice, Task, option
from src.flags.fields import UserError
from src.flags.run_flags import RunFlags

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
    small: ClassVar[dict] = {"max_steps": 2000, "stop_at": 0.99}
    slices = (
        Slice("length", "length of the word (elements)"),
        Slice("position", "place of the label (number)", level="char"),
    )

    def __init__(self, args: RunFlags):
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
    def alphabet(self) -> str:
        return ELEMENTS[: len(self.group.table)]

    def examples(self, rng: np.random.Generator, n: int, length: int) -> list[Example]:
        word = self.letters[rng.integers(0, len(self.letters), (n, length))]
        products, product = np.empty((n, length), dtype=np.uint8), np.zeros(n, dtype=np.uint8)
        for place in range(length):
            product = self.group.table[product, word[:, place]]
            products[:, place] = product
        labels = label_rows(products, np.arange(length), self.alphabet)
        return [Example(prompt, labels=row) for prompt, row in zip(row_strings(POINTS[word]), labels, strict=True)]

    def n_keys(self) -> int | None:
        total = len(self.letters) ** self.lengths[1]
        return total if total <= 2**24 else None

    def solve(self, prompt: str) -> Labels:
        products = itertools.accumulate(
            (ELEMENTS.index(c) for c in prompt), lambda a, b: int(self.group.table[a, b]), initial=0
        )
        return tuple((i, ELEMENTS[product]) for i, product in enumerate(itertools.islice(products, 1, None)))

    def max_chars(self, length: int) -> int:
        return length


@dataclass(frozen=True)
class Group:
    """A finite group. Element 0 is the identity.

    table: (n, n) uint8, table[a, b] is the product a b.
    swaps: the transpositions. Empty if the group does not contain all of them.
    """

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
    """Multiplication table of the permutations of 0 .. degree - 1, and the numbers of the transpositions.

    Permutations are numbered in lexicographic order. The left factor acts first.
    """
    elements = [p for p in itertools.permutations(range(degree)) if not even_only or _inversions(p) % 2 == 0]
    number = {p: i for i, p in enumerate(elements)}
    table = np.array([[number[tuple(second[i] for i in first)] for second in elements] for first in elements])
    swaps = tuple(i for i, p in enumerate(elements) if sum(at != to for at, to in enumerate(p)) == 2)
    return table, swaps


def _inversions(permutation: tuple[int, ...]) -> int:
    return sum(a > b for a, b in itertools.combinations(permutation, 2))


build_loaders = loaders_of(WordProblem)
