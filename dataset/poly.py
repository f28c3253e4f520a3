"""Poly: evaluate a polynomial with small integer coefficients at a small integer.

    '-6x^2+x-5,x=-4=' -> '-105'
    'x^2-x+9,x=4=' -> '21'
    '-5x,x=9=' -> '-45'

Why: products, powers, signs and a sum in one expression, in the notation that a person would use.

Alphabet: digits, `x`, `+`, `-`, `,`, `=`, and `^` from degree 2 on.
Length: none. The degree is uniform in 1..`--degree`. Coefficients and x are uniform in -9..9, and the leading
    coefficient is not 0. A term with coefficient 0 is left out, and a coefficient 1 is not written.
Scored: `exact_match` (primary), `mae` and `sign_acc` (negative, zero and positive are three signs). An answer that is
    not a whole number has no sign, and its error is the size of the expected value (1 if that is 0).
Splits: the key is the prompt.
Chance: uniform (1/17 per character, <eos> included) and unigram.
First used by: this project, as far as we know.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dataset.entry import loaders_of
from dataset.task import Example, MetaValue, Slice, Task, option

LARGEST = 9  # of coefficients and of x, in absolute value
TERM = re.compile(r"([+-]?)([0-9]?)(x?)(?:\^([0-9]))?")
INTEGER = re.compile(r"-?[0-9]{1,40}")


@dataclass(frozen=True)
class PolyConfig:
    """poly"""

    degree: int = option(2, "highest degree", least=1, most=9)


class Poly(Task):
    """`3x^2-4x+7,x=-5=` -> `102`. meta: degree, digits of the answer (without its sign)."""

    Config = PolyConfig
    score_metrics: ClassVar[dict[str, str]] = {"mae": "lower", "sign_acc": "higher"}
    slices = (Slice("degree", "degree"), Slice("digits", "digits of the answer"))
    small: ClassVar[dict] = {"d_model": 128, "max_steps": 1500, "val_size": 500, "test_size": 1000, "stop_at": 0.99}

    @property
    def alphabet(self) -> str:
        return "".join(sorted("0123456789x+-,=" + "^" * (self.args.degree > 1)))

    def examples(self, rng: np.random.Generator, n: int, length: int | None = None) -> list[Example]:
        degree = rng.integers(1, self.args.degree + 1, size=n)
        coefficients = rng.integers(-LARGEST, LARGEST + 1, size=(n, self.args.degree + 1))
        coefficients[np.arange(n), degree] = rng.integers(1, LARGEST + 1, size=n) * rng.choice([-1, 1], size=n)
        coefficients[np.arange(self.args.degree + 1) > degree[:, None]] = 0
        x = rng.integers(-LARGEST, LARGEST + 1, size=n)
        return [
            self._instance(c[: d + 1], at)
            for c, d, at in zip(coefficients.tolist(), degree.tolist(), x.tolist(), strict=True)
        ]

    @staticmethod
    def _instance(coefficients: list[int], x: int) -> Example:
        answer = str(evaluate(coefficients, x))
        return Example(
            f"{write(coefficients)},x={x}=",
            answer,
            meta={"degree": len(coefficients) - 1, "digits": len(answer.removeprefix("-"))},
        )

    def solve(self, prompt: str) -> str:
        expression, x, _ = prompt.split("=")
        return str(evaluate(read(expression.removesuffix(",x")), int(x)))

    def n_keys(self) -> int:
        n = 2 * LARGEST + 1
        return sum((n - 1) * n**d * n for d in range(1, self.args.degree + 1))

    def max_chars(self, length: int | None = None) -> int:
        d = self.args.degree
        widest = f"{write([LARGEST] * d + [-LARGEST])},x={-LARGEST}="
        largest = evaluate([LARGEST] * (d + 1), LARGEST)
        # Where prompt and answer are longest, an even degree can give a negative answer. An odd degree cannot.
        return len(widest) + len(str(largest)) + (d % 2 == 0)

    def score(self, prompt: str, answer: str, gold: str, meta: dict[str, MetaValue]) -> dict[str, float]:
        expected = int(gold)
        if not INTEGER.fullmatch(answer):
            return {"mae": float(max(abs(expected), 1)), "sign_acc": 0.0}
        got = int(answer)
        return {"mae": float(abs(got - expected)), "sign_acc": float(sign(got) == sign(expected))}


def evaluate(coefficients: list[int], x: int) -> int:
    """The sum of coefficients[i] x^i."""
    return sum(c * x**i for i, c in enumerate(coefficients))


def write(coefficients: list[int]) -> str:
    """Coefficients, constant first -> `3x^2-4x+7`, highest power first."""
    text = "".join(_term(c, i) for i, c in reversed(list(enumerate(coefficients))) if c)
    return text.removeprefix("+")


def _term(c: int, power: int) -> str:
    size = "" if abs(c) == 1 and power else str(abs(c))
    return ("-" if c < 0 else "+") + size + ("" if power == 0 else "x" if power == 1 else f"x^{power}")


def read(expression: str) -> list[int]:
    """`3x^2-4x+7` -> [7, -4, 3]: coefficients, constant first."""
    found = {}
    for text in re.findall(r"[+-]?[^+-]+", expression):
        minus, size, x, power = TERM.fullmatch(text).groups()
        found[int(power or 1) if x else 0] = int(size or 1) * (-1 if minus == "-" else 1)
    return [found.get(i, 0) for i in range(max(found) + 1)]


def sign(value: int) -> int:
    """-1, 0 or 1."""
    """-1, 0 or 1."""
    return (value > 0) - (value < 0)


build_loaders = loaders_of(Poly)
