"""Recall: multi-query associative recall (MQAR). Pairs of key and value, then each key again: what was its value?

    position   0  1  2  3  4  5  6  7  8  9 10 11 12 13 14 15
    input      d  X  a  Q  .  .  .  .  a  .  .  .  d  .  .  .
    label                              Q           X

The keys are d and a, with the values X and Q. At the second `a` the model must predict `Q`, at the second `d` it must
predict `X`. A label is not written into the sequence. The same as (position, label) pairs, and with other flags:

    --n_pairs 2 --vocab 52                      'dXaQ....a...d...' -> ((8, 'Q'), (12, 'X'))
    --n_pairs 2 --vocab 52 --rebind 1           'dXaQaB..d.....a.' -> ((8, 'X'), (14, 'B'))
    --n_pairs 2 --vocab 52 --filler random      'dXaQaMxCdqRtTxcF' -> ((4, 'Q'), (8, 'X'))
    --n_pairs 2 --vocab 8192                    '一渁a滀a.一...' -> ((4, '滀'), (6, '渁'))

Alphabet: `--vocab` symbols of one character each. Half of them are keys (a-z, then the ideographs from U+4E00 on), and
    half are values (A-Z, then the ideographs from U+6E00 on). The filler `.` of `--filler zero` is not among them.
Length: the whole prompt. A prompt has three parts, in this order:

    n pairs   keys distinct, values distinct, every choice equally likely
    R pairs   (`--rebind R`) R different keys again, in random order, with new values, which hold from then on
    slots     of two characters. The queried key is the first character of a slot. The rest is filler, and so is the
              last character of an odd length

    The slots of the n keys are drawn without replacement, with p(j) ~ j^(a-1) for j = 1, 2, ... (`--power_a`: at 0.01
    most queries come soon, at 1 slots are uniform).
Pairs: n is `--n_pairs`. Under `--mix_pairs` n is uniform in 1..n_pairs.
Filler: `--filler random` draws symbols that are uniform but never a key of this example. If no query follows the pairs
    at once, the character right after them is a value, so that a prompt shows where its pairs end.
Mixture: `--mixture LENGTH:PAIRS[:SHARE],...` trains on several settings, as in `64:4:5,128:8:1,256:16:1`. Each batch
    has one length, drawn by share. Val and test use the longest length. At a length that no setting has, the number of
    pairs is that of the longest setting, scaled in proportion to the length.
Scored: the labels (token_acc).
Gap: from the (latest) value of a key to the place after the query, as if the label were written there. At least 2.
Chance: uniform (1/8193 at the defaults: the alphabet), unigram, `random_value` (one of the values of this prompt, 1/(n
    + R)) and `last_value` (the value that was written last, 1/n).
First used by: Arora et al., "Zoology", 2023, arXiv:2312.04927 (Figure 2: vocabulary 8192 and zero filler, (length,
    pairs) of (64, 4), (128, 8), (256, 16), (512, 64)). The mixture: Arora et al., "Based", 2024, arXiv:2402.18668. Two
    differences: their filler 0 takes the place of one key, and their random filler may be any symbol, even a key of the
    example. Here the filler cannot be taken for a query.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from dataset.entry import loaders_of
from dataset.strings import FIRST_KEY, FIRST_VALUE, LETTERS, distinct, symbols
from dataset.task import Example, Labels, LengthConfig, Slice, Task, option
from src.flags.fields import UserError
from src.flags.run_flags import RunFlags

FILLER = "."
BLOCK = 1 << 22  # characters drawn at once, to limit the memory of temporary arrays


class Setting(NamedTuple):
    """One setting of `--mixture`."""

    length: int
    pairs: int
    share: float


class Recall(Task):
    """`dXaQ....a...d...`: at the second `a` the label `Q`, at the second `d` the label `X`."""

    @dataclass(frozen=True)
    class Config(LengthConfig):
        """recall"""

        min_len: int = option(
            0, "shortest training length, in characters; 0 = what the pairs and their queries take", least=0
        )
        n_pairs: int = option(16, "key-value pairs", least=1)
        mix_pairs: bool = option(False, "draw the number of pairs uniformly from 1..n_pairs")
        vocab: int = option(8192, "symbols, half of them keys and half of them values", least=2, most=16384)
        power_a: float = option(
            0.01, "queries are at slot j with a probability proportional to j^(a-1); 1 = uniform", above=0.0, most=10.0
        )
        filler: str = option(
            "zero",
            "characters between queries: zero, a `.`; random, symbols that are not keys here",
            choices=("zero", "random"),
        )
        rebind: int = option(0, "pairs that are written again with a new value", least=0)
        mixture: tuple[str, ...] = option(
            (),
            "train on settings LENGTH:PAIRS[:SHARE],... such as 64:4:5,128:8:1 (instead of --n_pairs and the lengths)",
        )

    kind = "labels"
    primary = "token_acc"
    small: ClassVar[dict] = {"context_len": 64, "n_pairs": 4, "vocab": 52, "max_steps": 1000, "stop_at": 0.99}
    slices = (
        Slice("gap", "distance to the value (characters)", level="char"),
        Slice("pairs", "key-value pairs"),
        Slice("length", "length of the prompt (characters)"),
    )

    def __init__(self, args: RunFlags):
        self.mixture = [_setting(word) for word in args.mixture]
        check_symbols(args, [s.pairs for s in self.mixture] or [args.n_pairs])
        if self.mixture:
            check_mixture(args, self.mixture)
        else:
            check_room(args)
        super().__init__(args)
        if args.rebind:
            self.slices = (*Recall.slices, Slice("rebound", "whether the key got a new value", level="char"))
        half = args.vocab // 2
        keys, values = symbols(LETTERS, FIRST_KEY, half), symbols(LETTERS.upper(), FIRST_VALUE, half)
        self._keys, self._values = frozenset(keys), frozenset(values)
        self._symbols = keys + values
        self._points = np.frombuffer((self._symbols + FILLER).encode("utf-32-le"), dtype=np.uint32)
        # Labels share these strings. New ones would take most of their memory.
        self._characters = np.array(list(self._symbols), dtype=object)

    @property
    def lengths(self) -> tuple[int, int]:
        if self.mixture:
            return min(s.length for s in self.mixture), max(s.length for s in self.mixture)
        shortest = self.args.min_len or room(self.args.n_pairs, self.args.rebind)
        return shortest, self.args.max_len or self.args.context_len

    @property
    def pool_lengths(self) -> bool:
        """False for a mixture: its batches never mix lengths."""
        return not self.mixture

    def train_length(self, rng: np.random.Generator) -> int:
        if not self.mixture:
            return super().train_length(rng)
        shares = np.array([s.share for s in self.mixture])
        return self.mixture[rng.choice(len(shares), p=shares / shares.sum())].length

    @property
    def alphabet(self) -> str:
        return self._symbols + FILLER * (self.args.filler == "zero")

    def examples(self, rng: np.random.Generator, n: int, length: int) -> list[Example]:
        made = np.empty(n, dtype=object)
        counts = self._pair_counts(rng, n, length)
        block = max(1, BLOCK // length)
        for pairs in np.unique(counts).tolist():
            rows = np.flatnonzero(counts == pairs)
            for start in range(0, len(rows), block):
                part = rows[start : start + block]
                made[part] = self._same_pairs(rng, len(part), length, pairs)
        return made.tolist()

    def _pair_counts(self, rng, n, length):
        """Pairs of each of n examples. UserError if they do not fit into the length, or need a larger vocabulary."""
        again = self.args.rebind
        here = [s for s in self.mixture if s.length == length] or [Setting(length, self._pairs_at(length), 1.0)]
        most = max(s.pairs for s in here)
        if length < room(most, again):
            raise UserError(
                f"length {length}: too short, allowed: >= {room(most, again)}, what {most} pairs and their queries take"
            )
        if most + again > self.args.vocab // 2:
            raise UserError(
                f"length {length}: its {most} pairs need --vocab {2 * (most + again)} or more, got {self.args.vocab}"
            )
        if self.args.mix_pairs:
            return rng.integers(max(1, again), most + 1, n)
        shares = np.array([s.share for s in here])
        return np.array([s.pairs for s in here])[rng.choice(len(here), n, p=shares / shares.sum())]

    def _pairs_at(self, length):
        """Pairs at a length that no setting of a mixture names: --n_pairs, or as dense as in the longest setting."""
        if not self.mixture:
            return self.args.n_pairs
        longest, again = max(self.mixture), self.args.rebind
        return max(1, again, min(longest.pairs * length // longest.length, (length - 2 * again) // 4))

    def _same_pairs(self, rng, n, length, pairs):
        """n examples with one number of pairs, as an object array."""
        again, half, row = self.args.rebind, self.args.vocab // 2, np.arange(n)[:, None]
        context = 2 * (pairs + again)
        keys, values = distinct(rng, n, pairs, half), half + distinct(rng, n, pairs + again, half)
        latest = np.repeat(np.arange(pairs)[None], n, axis=0)  # the pair that holds for each key, in order of writing
        written = self._filler(rng, n, length, keys, context)
        written[:, 0 : 2 * pairs : 2], written[:, 1:context:2] = keys, values
        if again:
            chosen = distinct(rng, n, again, pairs)
            written[:, 2 * pairs : context : 2] = keys[row, chosen]
            latest[row, chosen] = pairs + np.arange(again)
        places = context + 2 * self._slots(rng, n, (length - context) // 2, pairs)
        written[row, places] = keys
        order = np.argsort(places, axis=1)
        places, latest = places[row, order], latest[row, order]
        return self._made(written, places, values[row, latest], places - 2 * latest, latest >= pairs)

    def _filler(self, rng, n, length, keys, context):
        """Numbers of symbols (n, length), all of them filler. Pairs and queries are written over it."""
        count = self.args.vocab
        if self.args.filler == "zero":
            return np.full((n, length), count, dtype=np.uint16)
        drawn = rng.integers(0, count - keys.shape[1], (n, length), dtype=np.uint16)
        for key in np.sort(keys, axis=1).T:  # skip each key: move the numbers from it on up by one
            drawn += drawn >= key[:, None]
        if context < length:
            drawn[:, context] = rng.integers(count // 2, count, n)
        return drawn

    def _slots(self, rng, n, slots, pairs):
        """Slots (n, pairs), counted from 0, of the keys in their order.

        They are drawn one after another with p(j) ~ j^(a-1) from those that are left. For that, each slot j gets an
        exponential time of rate p(j). The smallest time belongs to slot j with probability p(j). The same holds for
        the next smallest time among the slots that are left.
        """
        times = rng.standard_exponential((n, slots)) * np.arange(1.0, slots + 1) ** (1 - self.args.power_a)
        if 4 * pairs < slots:
            first = np.argpartition(times, pairs, axis=1)[:, :pairs]
            return np.take_along_axis(first, np.argsort(np.take_along_axis(times, first, axis=1), axis=1), axis=1)
        return np.argsort(times, axis=1)[:, :pairs]

    def _made(self, written, places, values, gaps, rebound):
        """An object array of examples from arrays (n, length) and, for the labels, (n, pairs)."""
        n, length = written.shape
        text = self._points[written].tobytes().decode("utf-32-le")
        shared = {"pairs": places.shape[1]}
        metas = [shared] * n
        if self.args.rebind:
            metas = [{**shared, "rebound": tuple(each)} for each in rebound.tolist()]
        columns = zip(
            range(0, n * length, length),
            places.tolist(),
            self._characters[values].tolist(),
            gaps.tolist(),
            metas,
            strict=True,
        )
        made = np.empty(n, dtype=object)
        made[:] = [
            Example(text[i : i + length], labels=tuple(zip(at, gold, strict=True)), gaps=tuple(gap), meta=meta)
            for i, at, gold, gap, meta in columns
        ]
        return made

    def n_keys(self) -> int | None:
        if self.args.filler == "random":
            return None
        length, again, half = self.lengths[1], self.args.rebind, self.args.vocab // 2
        counts = {s.pairs for s in self.mixture if s.length == length} or {self.args.n_pairs}
        if self.args.mix_pairs:
            counts = set(range(max(1, again), self.args.n_pairs + 1))

        def prompts(n):
            """Prompts with n pairs: choices of keys, values, rebound keys and slots."""
            slots = (length - 2 * (n + again)) // 2
            return math.perm(half, n) * math.perm(half, n + again) * math.perm(n, again) * math.perm(slots, n)

        total = sum(map(prompts, counts))
        return total if total < 10**9 else None

    def solve(self, prompt: str) -> Labels:
        value_of, at = {}, 0
        while prompt[at] in self._keys - value_of.keys() and prompt[at + 1] in self._values:
            value_of[prompt[at]], at = prompt[at + 1], at + 2
        for _ in range(self.args.rebind):
            value_of[prompt[at]], at = prompt[at + 1], at + 2
        return tuple((i, value_of[prompt[i]]) for i in range(at, len(prompt)) if prompt[i] in value_of)

    def chance(self, train: list[Example], test: list[Example]) -> dict[str, float]:
        again, labels = self.args.rebind, sum(len(e.labels) for e in test)
        last = [e.prompt[2 * (e.meta["pairs"] + again) - 1] for e in test]
        random_hits = sum(e.meta["pairs"] / (e.meta["pairs"] + again) for e in test)
        last_hits = sum(gold == value for e, value in zip(test, last, strict=True) for _, gold in e.labels)
        return {"random_value": random_hits / labels, "last_value": last_hits / labels}

    def max_chars(self, length: int) -> int:
        return length


def room(pairs: int, rebind: int) -> int:
    """Characters that pairs, rebound pairs and the slots of all queries take."""
    return 4 * pairs + 2 * rebind


def check_symbols(args, pairs: list[int]) -> None:
    """UserError if the vocabulary has too few symbols, or more pairs are rebound than there are."""
    if args.vocab % 2:
        raise UserError(
            f"--vocab: got {args.vocab}, allowed: an even number, half keys and half values; "
            f"use --vocab {args.vocab + 1}"
        )
    if args.rebind > min(pairs):
        raise UserError(f"--rebind: got {args.rebind}, allowed: at most {min(pairs)}, the number of pairs")
    values = max(pairs) + args.rebind
    if values > args.vocab // 2:
        raise UserError(
            f"--vocab: got {args.vocab}, allowed: >= {2 * values}, twice the {values} different values of a prompt"
        )


def check_room(args) -> None:
    """UserError if the pairs and their queries do not fit into a length (without a mixture)."""
    need = room(args.n_pairs, args.rebind)
    longest = ("--max_len", args.max_len) if args.max_len else ("--context_len", args.context_len)
    for flag, got in (longest, ("--min_len", args.min_len or need)):
        if got < need:
            raise UserError(
                f"{flag}: got {got}, allowed: >= {need}, what {args.n_pairs} pairs, {args.rebind} rebound and the "
                f"queries take; use {flag} {need} or fewer --n_pairs"
            )


def check_mixture(args, mixture: list[Setting]) -> None:
    """UserError if the pairs of a setting do not fit into its length, or another flag names lengths or pairs too."""
    fixed = args.train_lengths == "fixed"
    for flag, given in (
        ("min_len", args.min_len),
        ("max_len", args.max_len),
        ("mix_pairs", args.mix_pairs),
        ("train_lengths fixed", fixed),
    ):
        if given:
            raise UserError(
                f"--{flag}: does not go with --mixture, which names the lengths and pairs itself; leave one of them out"
            )
    for s in mixture:
        need = room(s.pairs, args.rebind)
        if s.length < need:
            raise UserError(
                f"--mixture: got a length of {s.length} for {s.pairs} pairs, allowed: >= {need}, "
                "what they and their queries take"
            )


def _setting(word: str) -> Setting:
    try:
        length, pairs, share = [*word.split(":"), "1"][:3] if word.count(":") < 3 else []
        setting = Setting(int(length), int(pairs), float(share))
    except ValueError:
        raise UserError(
            f"--mixture: got '{word}', allowed: LENGTH:PAIRS or LENGTH:PAIRS:SHARE, such as 64:4:5"
        ) from None
    if setting.length < 1 or setting.pairs < 1 or not 0 < setting.share < math.inf:
        raise UserError(f"--mixture: got '{word}', allowed: a length, pairs and share above 0")
    return setting


build_loaders = loaders_of(Recall)
