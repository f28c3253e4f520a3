"""Parity: is the number of ones among the bits so far odd?

    '0110' -> ((0, '0'), (1, '1'), (2, '0'), (3, '0'))
    '1' -> ((0, '1'),)
    --labels final   '01101' -> ((4, '1'),)

Why: one bit of state that every character may flip. To follow it, a layer must multiply by -1 or count. Most linear
recurrences have no negative eigenvalue, and a Transformer of fixed depth has no solution that holds at every length.

Alphabet: 0 and 1, independent and equally likely.
Length: the bits.
Labels: the parity so far, predicted at each bit (`--labels dense`) or only at the last one (`final`). Never written.
Scored: the labels. Primary: token_acc.
Training: lengths are uniform in 1..`--max_len`, and --eval_lengths 4x,16x tests far beyond. There are few short
    strings, so training repeats them. A test set of 2,000 distinct strings needs about 16 bits. A shorter
    --eval_lengths is refused, and the error names the number of strings that exist.
Chance: uniform (1/2) and unigram (about 1/2). Scaled accuracy is 0 there.

First used by: Minsky & Papert, Perceptrons, 1969. It is one of the regular tasks of Deletang et al., "Neural Networks
    and the Chomsky Hierarchy", 2023, arXiv:2207.02098. Their figures do not compare directly with ours. Here the task
    is causal: the label is at a bit and depends on nothing after it. Theirs is read after the whole string, in the
    Transformer's case by a bidirectional encoder. Grazzi et al., "Unlocking State-Tracking in Linear RNNs Through
    Negative Eigenvalues", 2024, arXiv:2411.12537, train on lengths 3-40 and report scaled accuracy on 40-256.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dataset.entry import loaders_of
from dataset.strings import label_rows, row_strings
from dataset.task import Example, Labels, LengthConfig, Slice, Task, option

BITS = "01"


class Parity(Task):
    """`0110` has the labels `0100` at its bits."""

    @dataclass(frozen=True)
    class Config(LengthConfig):
        """parity"""

        max_len: int = option(40, "longest training length, and the test length, in bits; 0 = context_len", least=0)
        labels: str = option(
            "dense", "dense: the parity so far at every bit; final: at the last bit only", choices=("dense", "final")
        )

    kind = "labels"
    primary = "token_acc"
    small: ClassVar[dict] = {"max_steps": 1500, "stop_at": 0.99}
    slices = (
        Slice("length", "length of the string (bits)"),
        Slice("position", "place of the label (number)", level="char"),
    )
    alphabet = BITS

    def examples(self, rng: np.random.Generator, n: int, length: int) -> list[Example]:
        bits = rng.integers(0, 2, (n, length), dtype=np.uint8)
        prompts = row_strings(bits + np.uint8(ord("0")))
        at = np.arange(length) if self.args.labels == "dense" else np.array([length - 1])
        labels = label_rows(np.bitwise_xor.accumulate(bits, axis=1)[:, at], at, BITS)
        return [Example(prompt, labels=row) for prompt, row in zip(prompts, labels, strict=True)]

    def n_keys(self) -> int | None:
        return 2 ** self.lengths[1] if self.lengths[1] <= 24 else None

    def solve(self, prompt: str) -> Labels:
        labels, odd = [], False
        for i, bit in enumerate(prompt):
            odd ^= bit == "1"
            labels.append((i, BITS[odd]))
        return tuple(labels) if self.args.labels == "dense" else (labels[-1],)

    def max_chars(self, length: int) -> int:
        return length


build_loaders = loaders_of(Parity)
