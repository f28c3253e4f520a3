"""Induction: which symbol followed the trigger when it occurred before?

    --vocab 4                         'bda*cabbd*' -> ((9, 'c'),)
    --vocab 4                         '*add*' -> ((4, 'a'),)
    --mode repeat --max_period 4      'gdagdagda' -> ((2, 'g'), (3, 'd'), (4, 'a'), (5, 'g'), (6, 'd'), (7, 'a'))
    --mode repeat --max_period 4      'hchch' -> ((1, 'h'), (2, 'c'), (3, 'h'))

A label is predicted at a character of the prompt. It is shown above as (position, symbol).

Alphabet: `--vocab` symbols (a-z, then the ideographs from U+4E00 on), all uniform. In the first mode also the trigger
    `*`.
Length: the whole prompt.

`--mode trigger` (default): the trigger occurs once among the symbols, at a uniform place, and again as the last
character. The label is at the last character. It is the symbol that followed the first trigger.
Gap: from that symbol to the end of the prompt, uniform in 2..length-1.

`--mode repeat`: a random string, repeated up to the length. Its period is uniform in `--min_period`..`--max_period`. It
is the smallest period in that range that fits the prompt, and it is not shown. Every character after the first period
is scored. It is predicted at the character before it. Gap: the period. If both bounds are equal, looking back by a
fixed distance solves the task without any matching. A period with too few strings for a test set is left out of it.

Scored: the labels (token_acc).
Chance: uniform (1/17 at the defaults: the alphabet), unigram, and in the first mode `random_symbol` (1/vocab: the
    trigger is never an answer).
Ceiling of `repeat`: the score of a reader who takes the smallest period that fits the text so far. That is the best
    guess, because shorter strings are likelier. It is below 1, because a string may begin again by chance.
First used by: Gu and Dao, "Mamba", 2023, arXiv:2312.00752 (section 4.1.2, Table 11: 16 symbols, training length 256).
    `repeat`: Olsson et al., "In-context Learning and Induction Heads", 2022, arXiv:2209.11895, at a single period.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dataset.entry import loaders_of
from dataset.strings import FIRST_KEY, LETTERS, symbols
from dataset.task import Example, Labels, LengthConfig, Slice, Task, option
from src.flags.fields import UserError
from src.flags.run_flags import RunFlags

TRIGGER = "*"


class Induction(Task):
    """`bda*cabbd*`: at the end, the label `c`."""

    @dataclass(frozen=True)
    class Config(LengthConfig):
        """induction"""

        min_len: int = option(0, "shortest training length, in characters; 0 = 3 (repeat: max_period + 1)", least=0)
        vocab: int = option(16, "symbols, the trigger apart", least=2, most=8192)
        mode: str = option(
            "trigger",
            "trigger: the symbol after a marked place; repeat: continue a random string that repeats",
            choices=("trigger", "repeat"),
        )
        min_period: int = option(2, "shortest period of --mode repeat, in characters", least=1)
        max_period: int = option(16, "longest period of --mode repeat, in characters", least=1)

    kind = "labels"
    primary = "token_acc"
    small: ClassVar[dict] = {"context_len": 32, "max_steps": 1500, "stop_at": 0.99}
    slices = (
        Slice("length", "length of the prompt (characters)"),
        Slice("gap", "distance to the symbol (characters)", level="char"),
    )

    def __init__(self, args: RunFlags):
        self.repeats = args.mode == "repeat"
        if self.repeats and args.min_period > args.max_period:
            raise UserError(f"--min_period: got {args.min_period}, allowed: 1 .. {args.max_period} (--max_period)")
        self.shortest = args.max_period + 1 if self.repeats else 3
        why = "one more than --max_period" if self.repeats else "two triggers and a symbol"
        for flag, got in (
            ("--max_len" if args.max_len else "--context_len", args.max_len or args.context_len),
            ("--min_len", args.min_len or self.shortest),
        ):
            if got < self.shortest:
                raise UserError(f"{flag}: got {got}, allowed: >= {self.shortest}, {why}; use {flag} {self.shortest}")
        super().__init__(args)
        self._symbols = symbols(LETTERS, FIRST_KEY, args.vocab)
        self._points = np.frombuffer((self._symbols + TRIGGER).encode("utf-32-le"), dtype=np.uint32)
        if self.repeats:
            self.slices = (*Induction.slices, Slice("position", "scored characters before this one", level="char"))

    @property
    def lengths(self) -> tuple[int, int]:
        return self.args.min_len or self.shortest, self.args.max_len or self.args.context_len

    @property
    def alphabet(self) -> str:
        return self._symbols + TRIGGER * (not self.repeats)

    def examples(self, rng: np.random.Generator, n: int, length: int) -> list[Example]:
        if length < self.shortest:
            raise UserError(f"length {length}: too short, allowed: >= {self.shortest}")
        return self._repeating(rng, n, length) if self.repeats else self._triggered(rng, n, length)

    def _triggered(self, rng, n, length):
        text = rng.integers(0, self.args.vocab, (n, length), dtype=np.uint16)
        at = rng.integers(0, length - 2, n)
        text[np.arange(n), at] = text[:, -1] = self.args.vocab
        prompts = self._strings(text)
        return [
            Example(p, labels=((length - 1, p[i + 1]),), gaps=(length - 1 - i,))
            for p, i in zip(prompts, at.tolist(), strict=True)
        ]

    def _repeating(self, rng, n, length):
        periods = rng.integers(self.args.min_period, self.args.max_period + 1, n)
        text, rows = np.empty((n, length), dtype=np.uint16), np.arange(n)
        while len(rows):  # a string that has a smaller period is drawn again
            drawn = rng.integers(0, self.args.vocab, (len(rows), self.args.max_period), dtype=np.uint16)
            text[rows] = np.take_along_axis(drawn, np.arange(length) % periods[rows, None], axis=1)
            rows = rows[self._smaller_period(text[rows], periods[rows])]
        prompts = zip(self._strings(text), periods.tolist(), strict=True)
        return [
            Example(prompt, labels=labels_of(prompt, period), gaps=(period,) * (length - period))
            for prompt, period in prompts
        ]

    def _smaller_period(self, text, periods):
        """Whether a row also fits a smaller period of the range: (n,) bool."""
        found = np.zeros(len(text), dtype=bool)
        for period in range(self.args.min_period, self.args.max_period):
            found |= (period < periods) & (text[:, period:] == text[:, :-period]).all(axis=1)
        return found

    def _strings(self, text):
        whole, length = self._points[text].tobytes().decode("utf-32-le"), text.shape[1]
        return [whole[i : i + length] for i in range(0, len(whole), length)]

    def stratum(self, example: Example) -> str | None:
        return f"period {example.gaps[0]}" if self.repeats else None

    def n_keys(self) -> int | None:
        spaces = self.lengths[1] - 2
        if self.repeats or self.args.vocab**spaces > 10**9:
            return None
        return spaces * self.args.vocab**spaces

    def solve(self, prompt: str) -> Labels:
        if self.repeats:
            return labels_of(prompt, self._period(prompt))
        return ((len(prompt) - 1, prompt[prompt.index(TRIGGER) + 1]),)

    def _period(self, text):
        """The smallest period in the range, up to the length of the text, that fits the text. None if none fits."""
        periods = range(self.args.min_period, min(self.args.max_period, len(text)) + 1)
        return next((p for p in periods if text[p:] == text[:-p]), None)

    def ceiling(self, test: list[Example]) -> float:
        """1, or for `repeat` the score of the smallest period that fits the text before each scored character."""
        if not self.repeats:
            return 1.0
        hits = [e.prompt[at + 1 - self._period(e.prompt[: at + 1])] == gold for e in test for at, gold in e.labels]
        return sum(hits) / len(hits)

    def chance(self, train: list[Example], test: list[Example]) -> dict[str, float]:
        return {} if self.repeats else {"random_symbol": 1 / self.args.vocab}

    def max_chars(self, length: int) -> int:
        return length


def labels_of(text: str, period: int) -> tuple[tuple[int, str], ...]:
    """Labels of all characters after the first period, at the character before each."""
    return tuple(enumerate(text[period:], start=period - 1))


build_loaders = loaders_of(Induction)
