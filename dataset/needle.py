"""Needle in a haystack: read back the value that was hidden under a key somewhere in a long text.

    'zrydwlswssw[k=0VL8]zrvgqewihlmxh?k=' -> '0VL8'
    --haystack words --needle_len 2       'wdjkd fixvufu[i=L8] hhtke vqa oj?i=' -> 'L8'
    --haystack repeat                     'the tide we[y=OXL1]nt out and th?y=' -> 'OXL1'
    --n_distractors 1 --needle_len 2      'fqyrg[m=LH]n[f=M5]xobbwftkxosnih?f=' -> 'M5'

Alphabet: a-z, space, A-Z, 0-9 and `[=]?`. The hay uses only lower-case letters and spaces.
Length: the haystack, its needles included. The query `?k=` is added to it.
Haystack: `--haystack random` is uniform letters and spaces, `words` is random words of 2-8 letters, and `repeat` is one
    sentence again and again.
Needles: the start of the queried needle is uniform over the places that leave room for the `--n_distractors` other
    needles. These then lie anywhere without overlap. Keys differ. Values are uniform in A-Z0-9.
Scored: the value and its <eos>. `hit_rate` is the share of whole values (= exact_match).
Gap: from a character of the value in the needle to the place where it must be written, the same for all of them.
Depth: 0 % is the beginning of the haystack, 100 % its end.
Chance: uniform (1/68 per character: the alphabet and <eos>), unigram (about 1/36 per character of the value), and with
    distractors `any_needle`: the value of any needle, whatever the query, 1 / (1 + n_distractors).
First used by: Kamradt, "Needle In A Haystack", 2023. Several keys: Hsieh et al., "RULER", 2024, arXiv:2404.06654.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dataset.entry import loaders_of
from dataset.strings import LETTERS, random_words
from dataset.task import Example, LengthConfig, Slice, Task, option
from src.flags.fields import UserError
from src.flags.run_flags import RunFlags

VALUES = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
SENTENCE = "the tide went out and the boats lay on the sand until it came back "
FRAME = len("[k=]")


class Needle(Task):
    """A haystack with `[k=7Q2X]` in it and then `?k=` is followed by `7Q2X`."""

    @dataclass(frozen=True)
    class Config(LengthConfig):
        """needle"""

        min_len: int = option(16, "shortest training haystack, in characters, needles included", least=1)
        needle_len: int = option(4, "characters of a value", least=1)
        haystack: str = option("random", "text around the needles", choices=("random", "words", "repeat"))
        n_distractors: int = option(0, "other needles, with other keys", least=0, most=25)

    small: ClassVar[dict] = {"context_len": 64, "max_steps": 1500, "eval_every": 75, "stop_at": 0.99}
    primary = "hit_rate"
    aliases: ClassVar[dict[str, str]] = {"hit_rate": "exact_match"}
    slices = (
        Slice("gap", "distance to the needle (characters)"),
        Slice("depth", "depth of the needle (% of the haystack)", bins="linear"),
        Slice("distractors", "distractors"),
    )
    alphabet = LETTERS + " " + VALUES + "[=]?"

    def __init__(self, args: RunFlags):
        super().__init__(args)
        if self.lengths[0] < self._needles_size:
            raise UserError(
                f"--min_len: got {self.lengths[0]}, allowed: >= {self._needles_size}, the {args.n_distractors + 1} "
                f"needle(s) of {args.needle_len + FRAME} characters; use --min_len {self._needles_size} or shorter or "
                "fewer needles"
            )

    @property
    def _needles_size(self):
        """Characters that the needle and its distractors take."""
        return (self.args.n_distractors + 1) * (self.args.needle_len + FRAME)

    def examples(self, rng: np.random.Generator, n: int, length: int) -> list[Example]:
        if length < self._needles_size:
            raise UserError(f"length {length}: too short, allowed: >= {self._needles_size}, the size of the needle(s)")
        starts = self._starts(rng, n, length)
        keys = self._keys(rng, n)
        values = np.frombuffer(VALUES.encode(), dtype=np.uint8)[
            rng.integers(0, len(VALUES), (*starts.shape, self.args.needle_len), dtype=np.uint8)
        ]
        hay = self._hay(rng, n, length - self._needles_size)
        haystacks = self._hide(hay, starts, keys, values).tobytes().decode()
        answers, width = values[:, 0].tobytes().decode(), self.args.needle_len
        made = []
        for i, (start, key) in enumerate(zip(starts[:, 0].tolist(), keys[:, 0].tobytes().decode(), strict=True)):
            gap = length - start
            meta = {
                "gap": gap,
                "depth": 100 * start / max(1, length - width - FRAME),
                "distractors": self.args.n_distractors,
            }
            made.append(
                Example(
                    f"{haystacks[i * length : (i + 1) * length]}?{key}=",
                    answers[i * width : (i + 1) * width],
                    gaps=(gap,) * width,
                    meta=meta,
                )
            )
        return made

    def _keys(self, rng, n):
        """Distinct key letters (n, needles), the queried one first."""
        if self.args.n_distractors == 0:
            return rng.integers(97, 123, (n, 1), dtype=np.uint8)
        return (np.argsort(rng.random((n, 26)), axis=1)[:, : self.args.n_distractors + 1] + 97).astype(np.uint8)

    def _hay(self, rng, n, size):
        """Hay (n, size) as code points."""
        if self.args.haystack == "words":
            return random_words(rng, n, size)
        if self.args.haystack == "repeat":
            return np.tile(np.resize(np.frombuffer(SENTENCE.encode(), dtype=np.uint8), size), (n, 1))
        return np.frombuffer((LETTERS + " ").encode(), dtype=np.uint8)[rng.integers(0, 27, (n, size), dtype=np.uint8)]

    def _hide(self, hay, starts, keys, values):
        """Haystacks (n, length): needles at `starts` (n, needles), and hay at the other places."""
        n, needles = starts.shape
        needle = np.empty((n, needles, self.args.needle_len + FRAME), dtype=np.uint8)
        needle[..., 0], needle[..., 1], needle[..., 2] = ord("["), keys, ord("=")
        needle[..., 3:-1], needle[..., -1] = values, ord("]")
        full = np.empty((n, hay.shape[1] + needles * needle.shape[2]), dtype=np.uint8)
        is_hay = np.ones(full.shape, dtype=bool)
        at = (np.arange(n)[:, None, None], starts[..., None] + np.arange(needle.shape[2]))
        is_hay[at] = False
        full[at] = needle
        full[is_hay] = hay.ravel()
        return full

    def _starts(self, rng, n, length):
        """Starts (n, needles) of the queried needle and then the distractors.

        The first is uniform over the places that leave room for all distractors. Given it, every way to place the
        distractors is equally likely.
        """
        width, others = self.args.needle_len + FRAME, self.args.n_distractors
        log_ways = _log_ways(length - width, width, others)  # (start, distractors on the left)
        possible = np.flatnonzero(np.isfinite(log_ways).any(axis=1))
        chosen = rng.integers(0, len(possible), n)
        first = possible[chosen]
        if others == 0:
            return first[:, None]
        rows = log_ways[possible]
        weights = np.exp(rows - rows.max(axis=1, keepdims=True))
        share = np.cumsum(weights, axis=1)[chosen]
        left = (share < rng.random((n, 1)) * share[:, -1:]).sum(axis=1)
        before = _lay(rng, left, first, width, others)
        after = _lay(rng, others - left, length - width - first, width, others)
        after[after >= 0] += np.repeat(first + width, others - left)
        both = np.concatenate([before, after], axis=1)
        laid = both[both >= 0].reshape(n, others)
        return np.concatenate([first[:, None], rng.permuted(laid, axis=1)], axis=1)

    def n_keys(self) -> int | None:
        length, width = self.lengths[1], self.args.needle_len + FRAME
        too_many = width > 8 or (length - width > 6 and self.args.haystack == "random")
        if too_many or self.args.n_distractors or self.args.haystack == "words":
            return None
        hay = 1 if self.args.haystack == "repeat" else 27 ** (length - width)
        return 26 * len(VALUES) ** self.args.needle_len * (length - width + 1) * hay

    def solve(self, prompt: str) -> str:
        start = prompt.index(f"[{prompt[-2]}=") + 3
        return prompt[start : prompt.index("]", start)]

    def chance(self, train: list[Example], test: list[Example]) -> dict[str, float]:
        return {"any_needle": 1 / (1 + self.args.n_distractors)} if self.args.n_distractors else {}

    def max_chars(self, length: int) -> int:
        return length + len("?k=") + self.args.needle_len


def _log_ways(room: int, width: int, others: int) -> np.ndarray:
    """Log of the number of ways to place j pieces left of a needle that starts at s, and the other pieces right of it.

    (room + 1, others + 1) for s and j.  width: of a piece.  -inf where there is no way.
    """
    start, left = np.arange(room + 1)[:, None], np.arange(others + 1)[None]
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, room + 2)))])

    def log_choose(space, pieces):
        slots = space - pieces * (width - 1)
        fits = slots >= pieces
        slots = np.where(fits, slots, pieces)
        return np.where(fits, log_factorial[slots] - log_factorial[pieces] - log_factorial[slots - pieces], -np.inf)

    log_factorial = np.concatenate([log_factorial, np.zeros(others)])  # read, but not used, where pieces do not fit
    return log_choose(start, left) + log_choose(room - start, others - left)


def _lay(rng, counts, spaces, width, most):
    """(n, most) increasing starts of counts[i] pieces of `width` characters in spaces[i] places. -1 after the last.

    The pieces do not overlap, and all ways to place them are equally likely. Once each piece is shrunk to one place,
    this means choosing distinct slots. Floyd's algorithm chooses them for all rows at once.
    """
    slots = spaces - counts * (width - 1)
    none = np.iinfo(np.int64).max
    chosen = np.full((len(counts), most), none)
    for i in range(most):
        active = i < counts
        top = np.where(active, slots - counts + i, 0)
        drawn = rng.integers(0, top + 1)
        taken = (chosen[:, :i] == drawn[:, None]).any(axis=1)
        chosen[:, i] = np.where(active, np.where(taken, top, drawn), none)
    chosen.sort(axis=1)
    return np.where(chosen == none, -1, chosen + np.arange(most) * (width - 1) * (chosen != none))


build_loaders = loaders_of(Needle)
