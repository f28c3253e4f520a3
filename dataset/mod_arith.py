"""Modular arithmetic: the value of an expression of single digits, modulo a small number.

    '3+4*2-1=' -> '0'
    '2*3*4-4=' -> '0'
    '1-4=' -> '2'
    --brackets   '(3-4)*(1+(2-4))=' -> '1'
    --modulus 7   '6*6+3=' -> '4'
    --running   '3+4-1+0' -> ((0, '3'), (2, '2'), (4, '1'), (6, '1'))

Why: state tracking in which the operation depends on what is read. With brackets it also needs a stack.

Alphabet: the digits below `--modulus`, `+`, `-`, `*`, the brackets under `--brackets`, and `=`.
Length: the characters of the expression, without `=`. Expressions have an odd number of characters, so an even length
    is rounded down.
Expressions: products come before sums and differences, which go from left to right. There is no sign before a number.
    Digits and operators are uniform.
`--brackets`: an operand is a bracket with probability 1/4, if one still fits. A bracket holds at least one operation.
    It closes after each operation with probability 1/2, or when the end requires it. The deepest nesting grows slowly
    with the length: about 2 at 40 characters, 9 at 640.
`--running` (only `+` and `-`, no brackets, no `=`): labels instead of an answer. The label at every digit is the value
    so far. It is never written. Primary: token_acc.
Scored: the value, 0..modulus-1, and its <eos>. Primary: exact_match.
Training: lengths are uniform in 1..`--max_len`, and --eval_lengths 4x,16x tests far beyond. There are few short
    expressions, so training repeats them, and only longer lengths have enough for a test set.
Chance: uniform (1/10 at the defaults: the alphabet and <eos>), unigram (the most common value) and `residue`
    (1/modulus). Scaled accuracy is 0 at the highest of them.

First used by: Deletang et al., "Neural Networks and the Chomsky Hierarchy", 2023, arXiv:2207.02098, as Modular
    Arithmetic, simple (regular) and with brackets (deterministic context-free). Their figures do not compare directly
    with ours. Here the task is causal: the value is written after the expression, and nothing is read from the right.
    Their Transformer is a bidirectional encoder, and their brackets come from another grammar, which has signs.
    Grazzi et al., "Unlocking State-Tracking in Linear RNNs Through Negative Eigenvalues", 2024, arXiv:2411.12537, train
    on lengths 3-40 and report scaled accuracy on 40-256.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from dataset.entry import loaders_of
from dataset.strings import label_rows, row_strings
from dataset.task import Example, Labels, LengthConfig, Slice, Task, option
from src.flags.fields import UserError
from src.flags.run_flags import RunFlags

DIGITS = "0123456789"
OPERATORS = "+-*"
# Probabilities that a bracket opens and closes. A bracket holds 3 operands on average, so less than one bracket of its
# own, and the nesting ends by itself.
OPENS, CLOSES = 0.25, 0.5


class ModArith(Task):
    """`3+4*2-1=` is followed by `0`."""

    @dataclass(frozen=True)
    class Config(LengthConfig):
        """mod_arith"""

        max_len: int = option(
            40,
            "longest training length, and the test length, in characters of the expression; 0 = context_len",
            least=0,
        )
        modulus: int = option(5, "values are taken modulo this number", least=2, most=10)
        brackets: bool = option(False, "expressions with brackets")
        running: bool = option(False, "labels with the value so far at every digit, only + and -")

    small: ClassVar[dict] = {"max_len": 9, "max_steps": 2000, "stop_at": 0.99}
    slices = (
        Slice("length", "length of the expression (characters)"),
        Slice("position", "place in the answer (characters)", level="char"),
    )

    def __init__(self, args: RunFlags):
        super().__init__(args)
        if args.running and args.brackets:
            raise UserError("--running and --brackets contradict each other: a running value needs no stack; give one")
        if args.running:
            self.kind, self.primary = "labels", "token_acc"
            self.slices = (ModArith.slices[0], Slice("position", "place of the label (number)", level="char"))
        if args.brackets:
            self.slices = (*ModArith.slices, Slice("depth", "deepest nesting of brackets"))

    @property
    def alphabet(self) -> str:
        return DIGITS[: self.args.modulus] + ("+-" if self.args.running else "+-*=") + "()" * self.args.brackets

    def examples(self, rng: np.random.Generator, n: int, length: int) -> list[Example]:
        width = odd(length)
        text = self._expressions(rng, n, width)
        if self.args.running:
            at = np.arange(0, width, 2)
            labels = label_rows(running_values(text, self.args.modulus), at, DIGITS)
            return [Example(prompt, labels=row) for prompt, row in zip(row_strings(text), labels, strict=True)]
        values, deepest = evaluate(text, self.args.modulus)
        rows = zip(row_strings(text), values.tolist(), deepest.tolist(), strict=True)
        return [
            Example(f"{expression}=", DIGITS[value], meta={"depth": depth} if self.args.brackets else {})
            for expression, value, depth in rows
        ]

    def _expressions(self, rng, n, width):
        """Code points (n, width) uint8."""
        digits = np.frombuffer(DIGITS.encode(), dtype=np.uint8)[rng.integers(0, self.args.modulus, (n, width))]
        allowed = 2 if self.args.running else 3
        operators = np.frombuffer(OPERATORS.encode(), dtype=np.uint8)[rng.integers(0, allowed, (n, width))]
        if not self.args.brackets:
            return np.where(np.arange(width) % 2 == 0, digits, operators)
        return bracketed(digits, operators, rng.random((width, n)))

    def n_keys(self) -> int | None:
        width = odd(self.lengths[1])
        if width > 15:
            return None
        return n_expressions(width, self.args.modulus, 2 if self.args.running else 3, self.args.brackets)

    def solve(self, prompt: str) -> str | Labels:
        modulus = self.args.modulus
        if self.args.running:
            return tuple((i, DIGITS[parsed(prompt[: i + 1], modulus)]) for i in range(0, len(prompt), 2))
        return DIGITS[parsed(prompt[:-1], modulus)]

    def chance(self, train: list[Example], test: list[Example]) -> dict[str, float]:
        return {"residue": 1 / self.args.modulus}

    def max_chars(self, length: int) -> int:
        return odd(length) + (0 if self.args.running else 2)


def odd(length: int) -> int:
    """The number of characters of an expression: the length, or one less so that it is odd."""
    return length - (length % 2 == 0)


def bracketed(digits: np.ndarray, operators: np.ndarray, coins: np.ndarray) -> np.ndarray:
    """Expressions (n, width) of code points.

    digits, operators: (n, width), what to write.  coins: (width, n) uniform in 0..1, which place the brackets.
    `bare` counts the open brackets that have no operation yet. Each of them needs two more characters and its closing
    bracket, and these must still fit.
    """
    n, width = digits.shape
    text, rows = np.empty((n, width), dtype=np.uint8), np.arange(n)
    operand, depth, bare = np.ones(n, dtype=bool), np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    has_operation = np.ones((width // 4 + 2, n), dtype=bool)  # of the open bracket at each depth
    for place in range(width):
        spare = width - place - (depth + 2 * bare)  # characters that the open brackets do not need
        opens = operand & (coins[place] < OPENS) & (spare >= 5)
        done = has_operation[depth, rows]
        closes = ~operand & done & (depth > 0) & ((coins[place] < CLOSES) | (spare == 0))
        operation = ~(operand | closes)
        character = np.where(operand, digits[:, place], operators[:, place])
        text[:, place] = np.where(opens, ord("("), np.where(closes, ord(")"), character))
        bare += opens.astype(np.int64) - (operation & ~done)
        has_operation[depth, rows] = done | operation
        depth = depth + opens - closes
        has_operation[depth[opens], rows[opens]] = False
        operand = opens | operation
    return text


def evaluate(text: np.ndarray, modulus: int) -> tuple[np.ndarray, np.ndarray]:
    """Values (n,) of expressions (n, width) of code points, modulo a number, and their deepest nesting (n,).

    `total`, `factor` and `term` have one row per depth of nesting: the sum of the finished terms, what the next operand
    is multiplied by (a sign, or the product so far), and the current term.
    """
    n, levels = len(text), 1 + int((text == ord("(")).sum(axis=1).max())
    rows, depth, deepest = np.arange(n), np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    total, term = np.zeros((2, levels, n), dtype=np.int64)
    factor = np.ones((levels, n), dtype=np.int64)
    for c in text.T:
        opens, closes, minus = c == ord("("), c == ord(")"), c == ord("-")
        digit, ends = c >= ord("0"), minus | (c == ord("+"))
        value = np.where(closes, total[depth, rows] + term[depth, rows], c.astype(np.int64) - ord("0"))
        depth = depth + opens - closes
        deepest = np.maximum(deepest, depth)
        here_total, here_factor, here_term = total[depth, rows], factor[depth, rows], term[depth, rows]
        total[depth, rows] = np.where(opens, 0, here_total + ends * here_term)
        factor[depth, rows] = np.where(
            opens, 1, np.where(ends, np.where(minus, -1, 1), np.where(c == ord("*"), here_term, here_factor))
        )
        term[depth, rows] = np.where(digit | closes, here_factor * value % modulus, here_term)
    return (total[0] + term[0]) % modulus, deepest


def running_values(text: np.ndarray, modulus: int) -> np.ndarray:
    """Values (n, digits) so far, at every digit of sums and differences (n, width) of code points."""
    digits = text[:, ::2].astype(np.int64) - ord("0")
    digits[:, 1:] *= np.where(text[:, 1::2] == ord("-"), -1, 1)
    return np.cumsum(digits, axis=1) % modulus


def parsed(expression: str, modulus: int) -> int:
    """The value of an expression, by recursive descent. This is the definition, and `evaluate` must agree with it."""

    def operand(at):
        if expression[at] != "(":
            return int(expression[at]), at + 1
        value, at = added(at + 1)
        return value, at + 1

    def multiplied(at):
        value, at = operand(at)
        while expression[at : at + 1] == "*":
            factor, at = operand(at + 1)
            value = value * factor % modulus
        return value, at

    def added(at):
        value, at = multiplied(at)
        while expression[at : at + 1] in ("+", "-"):
            sign = 1 if expression[at] == "+" else -1
            term, at = multiplied(at + 1)
            value = (value + sign * term) % modulus
        return value, at

    return added(0)[0] % modulus


@lru_cache(maxsize=64)
def n_operands(width: int, digits: int, operators: int) -> int:
    """How many operands have this width: a digit, or brackets around an expression that is not itself an operand."""
    if width <= 3:
        return digits * (width == 1)
    return n_expressions(width - 2, digits, operators, True) - n_operands(width - 2, digits, operators)


@lru_cache(maxsize=64)
def n_expressions(width: int, digits: int, operators: int, brackets: bool) -> int:
    """How many expressions have this width: an operand, or an operand, an operator and an expression."""
    if not brackets:
        return digits ** (width // 2 + 1) * operators ** (width // 2)
    longer = (
        n_operands(first, digits, operators) * operators * n_expressions(width - 1 - first, digits, operators, True)
        for first in range(1, width - 1, 2)
    )
    return n_operands(width, digits, operators) + sum(longer)


build_loaders = loaders_of(ModArith)
