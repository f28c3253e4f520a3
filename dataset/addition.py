"""Addition: the sum of two numbers, digit by digit.

    '558+743=' -> '1301'
    '3+15=' -> '18'
    --reverse_answer   '582+864=' -> '6441'
    --zero_pad         '088+033=' -> '0121'
    --base 16          '7d4+ca6=' -> '147a'

Alphabet: the digits of the base (0-9a-f), `+` and `=`.
Length: the largest number of digits of an operand. The digit count of each operand is uniform in 1..length. Its digits
    are uniform, without a leading zero.
Flags: `--zero_pad` fills operands up to `length` digits, and the sum up to length + 1. `--reverse_answer` writes the
    sum from the units upwards.
Scored: the sum and its <eos>.
Splits: the key is the unordered pair of operands, however it is written. Digit counts with too few pairs for a test set
    (1+1 and 1+2 at the defaults) are left out of it and named in the results.
Chance: uniform (1/13 per character, <eos> included) and unigram. Without --reverse_answer the leading digit is far from
    uniform, so unigram is the higher one.
First used by: Nogueira et al., "Investigating the Limitations of Transformers with Simple Arithmetic Tasks", 2021,
    arXiv:2102.13019. Reversed answers: Lee et al., "Teaching Arithmetic to Small Transformers", 2023, arXiv:2307.03381.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dataset.entry import loaders_of
from dataset.task import Example, Slice, Task, option

DIGITS = "0123456789abcdef"


class Addition(Task):
    """`123+45=` is followed by `168`."""

    @dataclass(frozen=True)
    class Config:
        """addition"""

        n_digits: int = option(
            5, "most digits of an operand; each operand's digit count is uniform from 1", least=1, most=1000
        )
        reverse_answer: bool = option(False, "write the sum from the units upwards")
        zero_pad: bool = option(False, "fill operands and sum with leading zeros to equal widths")
        base: int = option(10, "number base", least=2, most=16)

    small: ClassVar[dict] = {"n_digits": 3, "max_steps": 2500, "stop_at": 0.99}
    slices = (
        Slice("digits", "digits of the longer operand"),
        Slice("carry_chain", "longest chain of carries (digits)"),
        Slice("position", "place in the answer (characters)", level="char"),
    )

    @property
    def lengths(self) -> tuple[int, int]:
        return 1, self.args.n_digits

    @property
    def alphabet(self) -> str:
        return DIGITS[: self.args.base] + "+="

    def examples(self, rng: np.random.Generator, n: int, length: int) -> list[Example]:
        counts, digits = self._operands(rng, n, length)
        total, carries = self._add(digits)
        prompts = np.concatenate(
            [
                self._written(digits[:, 0], counts[:, 0]),
                np.full((n, 1), ord("+"), dtype=np.uint8),
                self._written(digits[:, 1], counts[:, 1]),
                np.full((n, 1), ord("="), dtype=np.uint8),
            ],
            axis=1,
        )
        sizes = np.maximum(1, length + 1 - np.argmax(total[:, ::-1] > 0, axis=1))  # significant digits
        sizes[~total.any(axis=1)] = 1
        answers = self._written(total, sizes)
        if self.args.reverse_answer:
            answers = np.ascontiguousarray(answers[:, ::-1])
        meta = zip(counts.max(axis=1).tolist(), _longest_run(carries).tolist(), strict=True)
        return [
            Example(prompt, answer, meta={"digits": d, "carry_chain": c})
            for prompt, answer, (d, c) in zip(_rows(prompts), _rows(answers), meta, strict=True)
        ]

    def _operands(self, rng, n, length):
        """Digit counts (n, 2), and digits (n, 2, length) from the units upwards, 0 above the count."""
        counts = rng.integers(1, length + 1, (n, 2))
        digits = rng.integers(0, self.args.base, (n, 2, length))
        leading = rng.integers(1, self.args.base, (n, 2))
        place = np.arange(length)
        digits[(place == counts[..., None] - 1) & (counts[..., None] > 1)] = leading[counts > 1]
        digits[place >= counts[..., None]] = 0
        return counts, digits

    def _add(self, digits):
        """Digits of the sum (n, length + 1) from the units upwards, and which places carry (n, length)."""
        n, _, length = digits.shape
        total, carries = np.zeros((n, length + 1), dtype=np.int64), np.zeros((n, length), dtype=bool)
        carry = np.zeros(n, dtype=np.int64)
        for place in range(length):
            carry, total[:, place] = np.divmod(digits[:, 0, place] + digits[:, 1, place] + carry, self.args.base)
            carries[:, place] = carry
        total[:, length] = carry
        return total, carries

    def _written(self, digits, counts):
        """Code points (n, places), the highest place first. Leading places that are not written are 0 bytes."""
        points = np.frombuffer(DIGITS.encode(), dtype=np.uint8)[digits]
        if not self.args.zero_pad:
            points[np.arange(digits.shape[1]) >= counts[:, None]] = 0
        return points[:, ::-1]

    def _pair(self, example):
        """The operands without leading zeros, the smaller one first."""
        operands = [text.lstrip("0") or "0" for text in example.prompt[:-1].split("+")]
        return sorted(operands, key=lambda text: (len(text), text))

    def key(self, example: Example) -> str:
        return "+".join(self._pair(example))

    def stratum(self, example: Example) -> str:
        return "+".join(str(len(text)) for text in self._pair(example)) + " digits"

    def n_keys(self) -> int | None:
        numbers = self.args.base**self.args.n_digits
        return numbers * (numbers + 1) // 2 if numbers <= 10**6 else None

    def solve(self, prompt: str) -> str:
        one, two = prompt[:-1].split("+")
        total = _in_base(int(one, self.args.base) + int(two, self.args.base), self.args.base)
        if self.args.zero_pad:
            total = total.rjust(len(one) + 1, "0")
        return total[::-1] if self.args.reverse_answer else total

    def max_chars(self, length: int) -> int:
        return 3 * length + 3


def _rows(points: np.ndarray) -> list[str]:
    """Rows of code points (n, width) as strings, without the 0 bytes."""
    text, width = points.tobytes(), points.shape[1]
    return [text[i : i + width].translate(None, b"\0").decode() for i in range(0, len(text), width)]


def _longest_run(flags: np.ndarray) -> np.ndarray:
    """The longest run of True in each row of (n, width)."""
    longest, run = np.zeros(len(flags), dtype=np.int64), np.zeros(len(flags), dtype=np.int64)
    for column in flags.T:
        run = (run + 1) * column
        longest = np.maximum(longest, run)
    return longest


def _in_base(number: int, base: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, base)
        digits = DIGITS[digit] + digits
    return digits or "0"


build_loaders = loaders_of(Addition)
