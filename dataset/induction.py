"""Induction: what followed the trigger when it was there before?

    --vocab 4                         'bda*cabbd*' -> ((9, 'c'),)
    --vocab 4                         '*add*' -> ((4, 'a'),)
    --mode repeat --max_period 4      'gdagdagda' -> ((2, 'g'), (3, 'd'), (4, 'a'), (5, 'g'), (6, 'd'), (7, 'a'))
    --mode repeat --max_period 4      'hchch' -> ((1, 'h'), (2, 'c'), (3, 'h'))

Alphabet: `--vocab` symbols (a-z, then the ideographs from U+4E00 on), all uniform, and in the first mode the trigger `*`. `length` counts the
whole prompt. A label is predicted at a character of the prompt and stands here as (place, symbol).

`--mode trigger` (default): the trigger stands once among the symbols, at a uniform place, and a second time as the last character, where the label is the
symbol that followed it. Gap: from that symbol to the place behind the prompt, uniform in 2..length-1.
`--mode repeat`: a random string of a period uniform in `--min_period`..`--max_period`, repeated to the length; every character after the first period is
scored, predicted at the character before it. The period is the smallest in that range that the prompt has; it is not shown. Gap: the period. Where both
bounds are equal, looking back by a fixed distance solves it, without any matching. A period with too few strings for a test set is left out of it.

Floors: uniform (1/alphabet), unigram, and without `repeat` random_symbol (1/vocab, the trigger apart). Ceiling of `repeat`: what a reader of the
text before reaches who takes the smallest period that fits so far (the best guess, since shorter strings are likelier); below 1 where a string begins
again by chance.
First mode after Gu and Dao, "Mamba", 2023, arXiv:2312.00752 (section 4.1.2, Table 11; 16 symbols, training length 256), second after Olsson et al., "In-context
Learning and Induction Heads", 2022, arXiv:2209.11895, whose strings repeat at one period.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dataset.entry import loaders_of
from dataset.strings import FIRST_KEY, symbols
from dataset.task import Example, LengthConfig, Slice, Task, option
from src.flags.fields import UserError

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
            "trigger: the symbol after a marked place; repeat: go on with a random string that repeats",
            choices=("trigger", "repeat"),
        )
        min_period: int = option(2, "shortest period of --mode repeat, in characters", least=1)
        max_period: int = option(16, "longest period of --mode repeat, in characters", least=1)

    kind = "labels"
    primary = "token_acc"
    small: ClassVar[dict] = {"context_len": 32, "max_steps": 1500}
    slices = (
        Slice("length", "length of the prompt (characters)"),
        Slice("gap", "distance to the symbol (characters)", level="char"),
    )

    def __init__(self, args):
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
        self._symbols = symbols("abcdefghijklmnopqrstuvwxyz", FIRST_KEY, args.vocab)
        self._points = np.frombuffer((self._symbols + TRIGGER).encode("utf-32-le"), dtype=np.uint32)
        if self.repeats:
            self.slices = (*Induction.slices, Slice("position", "scored characters before this one", level="char"))

    @property
    def lengths(self):
        return self.args.min_len or self.shortest, self.args.max_len or self.args.context_len

    @property
    def alphabet(self):
        return self._symbols + TRIGGER * (not self.repeats)

    def example(self, rng, length):
        return self.examples(rng, 1, length)[0]

    def examples(self, rng, n, length):
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
        """Whether each row has a period in the range that is smaller than its own."""
        found = np.zeros(len(text), dtype=bool)
        for period in range(self.args.min_period, self.args.max_period):
            found |= (period < periods) & (text[:, period:] == text[:, :-period]).all(axis=1)
        return found

    def _strings(self, text):
        whole, length = self._points[text].tobytes().decode("utf-32-le"), text.shape[1]
        return [whole[i : i + length] for i in range(0, len(whole), length)]

    def stratum(self, example):
        return f"period {example.gaps[0]}" if self.repeats else None

    def n_keys(self):
        spaces = self.lengths[1] - 2
        if self.repeats or self.args.vocab**spaces > 10**9:
            return None
        return spaces * self.args.vocab**spaces

    def solve(self, prompt):
        if self.repeats:
            return labels_of(prompt, self._period(prompt))
        return ((len(prompt) - 1, prompt[prompt.index(TRIGGER) + 1]),)

    def _period(self, text):
        """The smallest period in the range that fits a text, None where none of those up to its length does."""
        return next(
            (p for p in range(self.args.min_period, min(self.args.max_period, len(text)) + 1) if text[p:] == text[:-p]),
            None,
        )

    def ceiling(self, test):
        """1, or for `repeat` the score of the smallest period that fits the text before each scored character."""
        if not self.repeats:
            return 1.0
        hits = [e.prompt[at + 1 - self._period(e.prompt[: at + 1])] == gold for e in test for at, gold in e.labels]
        return sum(hits) / len(hits)

    def chance(self, train, test):
        return {} if self.repeats else {"random_symbol": 1 / self.args.vocab}

    def max_chars(self, length):
        return length


def labels_of(text: str, period: int) -> tuple[tuple[int, str], ...]:
    """Labels of all characters after the first period, at the character before each."""
    return tuple(enumerate(text[period:], start=period - 1))


build_loaders = loaders_of(Induction)
