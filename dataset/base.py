"""The task contract: `Example`, `Task`, splits that share no key, and seeds that any process derives alike.

A task writes one method, `example(rng, length)`; everything else has a default. Its file defines the task class, the `Config`
dataclass of its own flags, and the line `build_loaders = MyTask.build_loaders`. No torch here: data is NumPy and strings.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from src.config import UserError, option

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Example:
    """One instance: a prompt and either the answer written after it, or labels predicted at positions of it.

    labels: (position in the prompt, character) pairs, predicted *at* that position and not written into the sequence.
    gaps: for each answer character (its <eos> apart) or label, the distance in characters from the evidence to where it must be
    produced, -1 where there is none.
    meta: values that slices refer to: one per example, or a sequence with one entry per answer character or label.
    """

    prompt: str
    answer: str = ""
    labels: tuple[tuple[int, str], ...] | None = None
    gaps: tuple[int, ...] | None = None
    meta: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Slice:
    """A curve of evaluation: the score as a function of something known about the example or character.

    of: a key of `Example.meta`, or "gap" (per character, from `Example.gaps`), "position" (index of the answer character or
    label), "length" (the task length the example was drawn with).
    level: "example" (counts examples, value = the primary metric) or "char" (counts characters, value = their accuracy).
    bins: "each" distinct value, "linear" (ten equal bins), "log2", or "auto" (each up to 24 distinct values, else linear).
    label: the axis label, with its unit.
    metric: "" for the score, "loss" for nats a character (level "char" only).
    """

    of: str
    label: str
    level: str = "example"
    bins: str = "auto"
    metric: str = ""


@dataclass(frozen=True)
class LengthConfig:
    """Own flags of a text-like task; a task's Config inherits it."""

    min_len: int = option(1, "shortest training length, in characters", least=1)
    max_len: int = option(0, "longest training length, and the test length; 0 = context_len", least=0)


class Task:
    """A task. Subclass it, write `example`, and override what differs; `self.args` holds the flags.

    Raises UserError from __init__ for flags that do not fit together.
    """

    Config: ClassVar[type | None] = None
    kind = "answer"  # answer | labels | language
    small: ClassVar[dict] = {}  # this task's layer over src.config.SMALL: a default run that learns in minutes on two cores
    base: ClassVar[dict] = {}  # its layer under --preset base, where the shared sizes do not fit it
    primary = "exact_match"  # the headline metric: 0..1, higher is better
    aliases: ClassVar[dict] = {}  # a task's own name for a metric that evaluation gives: {"hit_rate": "exact_match"}
    score_metrics: ClassVar[dict] = {}  # what `score` returns: name -> "higher" (then in 0..1) or "lower" is better
    slices: ClassVar[tuple] = ()
    score_among: str = ""  # where not empty, predictions are the argmax among these characters (dyck --mode lm)
    train_all = False  # every written character is trained, whatever --loss_on says (dyck --mode lm, language)
    pool_lengths = True  # training examples that fill no batch of their own length may share one with other lengths

    def __init__(self, args):
        self.args = args
        lengths = self.lengths
        if lengths is not None and not 1 <= lengths[0] <= lengths[1]:
            raise UserError(f"--min_len: got {lengths[0]}, allowed: 1 .. the longest length {lengths[1]} (--max_len, else --context_len)")

    @property
    def lengths(self) -> tuple[int, int] | None:
        """(shortest, longest) training length in the task's own unit; None where a task has no length."""
        if not hasattr(self.args, "max_len"):
            return None
        return self.args.min_len, self.args.max_len or self.args.context_len

    def train_length(self, rng: np.random.Generator) -> int | None:
        """The length of one training batch under `--train_lengths uniform`; None where the task has no length."""
        return None if self.lengths is None else int(rng.integers(self.lengths[0], self.lengths[1] + 1))

    def example(self, rng: np.random.Generator, length: int | None) -> Example:
        raise NotImplementedError(f"{type(self).__name__} must define example(self, rng, length)")

    def examples(self, rng: np.random.Generator, n: int, length: int | None) -> list[Example]:
        """n examples of one length; override it where drawing them together is faster."""
        return [self.example(rng, length) for _ in range(n)]

    def key(self, example: Example) -> str:
        """What splits must not share."""
        return example.prompt

    def n_keys(self) -> int | None:
        """Number of distinct keys at the longest length, where it is known and small enough to matter."""
        return None

    def stratum(self, example: Example):
        """The group whose distinct keys may be too few for a test set (small operands, say)."""
        return None

    def solve(self, prompt: str):
        """The oracle: the answer, or the labels as (position, character) pairs."""
        raise NotImplementedError(f"{type(self).__name__} has no oracle")

    def score(self, prompt: str, answer: str, gold: str, meta: dict) -> dict[str, float]:
        """Metrics of one greedily decoded answer, which may be wrong in any way; keys are `score_metrics`."""
        return {}

    def floors(self, train: list[Example], test: list[Example]) -> dict[str, float]:
        """Floors beyond `uniform` and `unigram`: name -> value of the primary metric."""
        return {}

    def baselines(self, train: list[Example], test: list[Example]) -> dict[str, float]:
        """What simple methods reach on the primary metric; reported beside the score, no threshold."""
        return {}

    def ceiling(self, test: list[Example]) -> float:
        return 1.0

    def max_chars(self, length: int | None) -> int:
        """The most characters of prompt and answer at this length. The default looks at a sample and leaves half as much again."""
        sample = self.examples(stream(self, "sample", 0), 64, length)
        return math.ceil(1.5 * max(len(e.prompt) + len(e.answer) for e in sample))

    def max_tokens(self, length: int | None = None) -> int:
        """Longest sequence in tokens, <bos> and <eos> included: what tables and caches are sized by."""
        return self.max_chars(length or (self.lengths or (None, None))[1]) + 2

    @property
    def alphabet(self) -> str:
        """All characters that prompts, answers and labels are made of. The default scans a thousand examples."""
        lengths = self.lengths or (None, None)
        rng = stream(self, "sample", 0)
        drawn = [e for length in lengths for e in self.examples(rng, 500, length)]
        return "".join(sorted({c for e in drawn for c in e.prompt + e.answer + "".join(ch for _, ch in e.labels or ())}))

    def identity(self) -> dict:
        """The settings that the data depends on, and nothing else: they seed its streams."""
        own = {k: getattr(self.args, k) for k in (getattr(self.Config, "__dataclass_fields__", None) or ())}
        return {"task": type(self).__name__, "context_len": self.args.context_len, **own}

    @classmethod
    def build_loaders(cls, args):
        """(tokenizer, {"train", "val", "test"} loaders, task_meta) for a run configuration."""
        from dataset.common import build_loaders  # torch stays out of `list` and `--help`

        return build_loaders(cls(args), args)


def digest(*parts) -> int:
    """A 64-bit digest of printable values: the same in every process and on every machine (unlike hash())."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big")


def stream(task: Task, name, seed: int) -> np.random.Generator:
    """The generator of one named random stream of a task's data."""
    return np.random.default_rng([digest(sorted(task.identity().items()), name), seed])


def split_of(key: str) -> str:
    """The split a key belongs to, by its digest: 80 / 10 / 10."""
    part = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "big") % 10
    return "train" if part < 8 else "val" if part == 8 else "test"


def draw_train(task: Task, n: int, length: int | None, rng: np.random.Generator) -> list[Example]:
    """n training examples of one length; keys may repeat. UserError when no key of this length belongs to train."""
    kept: list[Example] = []
    barren = 0
    while len(kept) < n:
        drawn = task.examples(rng, max(4, math.ceil((n - len(kept)) * 1.35)), length)
        fresh = [e for e in drawn if split_of(task.key(e)) == "train"]
        barren = 0 if fresh else barren + len(drawn)
        if barren > 2_000:
            raise UserError(f"length {length}: no training example in {barren} draws, because every key there belongs to val or test; raise --min_len")
        kept += fresh
    return kept[:n]


def draw_heldout(task: Task, split: str, n: int, length: int | None, rng: np.random.Generator) -> tuple[list[Example], list[str]]:
    """n examples of one held-out split with distinct keys, and the names of the strata left out of it.

    A stratum in which more draws repeat a key than find a new one is too small: a test of it would hardly grow, and the train
    set has seen nearly all its neighbours. It is left out and named. UserError when the rest cannot give n.
    """
    kept: dict[str, tuple[object, Example]] = {}
    repeats: Counter = Counter()
    found: Counter = Counter()
    small: set = set()
    barren = 0
    while len(kept) < n:
        before = len(kept)
        for e in task.examples(rng, max(64, min(4_096, 8 * (n - len(kept)))), length):
            key = task.key(e)
            if split_of(key) != split:
                continue
            stratum = task.stratum(e)
            if stratum in small:
                continue
            if key in kept:
                repeats[stratum] += 1
            else:
                found[stratum] += 1
                kept[key] = (stratum, e)
            if stratum is not None and repeats[stratum] > max(20, found[stratum]):
                small.add(stratum)
                kept = {k: v for k, v in kept.items() if v[0] != stratum}
            if len(kept) == n:
                break
        barren = barren + 1 if len(kept) <= before else 0
        if barren >= 30:
            raise UserError(f"--{split}_size: got {n}, allowed: at most {len(kept)}, the distinct {split} examples that exist at these settings"
                            + (f" (length {length})" if length else "") + f"; use --{split}_size {len(kept)}")
    return [e for _, e in kept.values()], sorted(map(str, small))


def check_train_size(task: Task, n: int) -> None:
    """UserError when more training examples are asked for than distinct training keys exist, where that is known."""
    total = task.n_keys()
    if total is not None and n > total * 0.8:
        raise UserError(f"--train_size: got {n}, allowed: at most about {int(total * 0.8)}, 80 % of the {total} distinct keys of this task at these settings; "
                        "use fewer, or 0 for fresh examples that may repeat")
