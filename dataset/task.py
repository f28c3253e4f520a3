"""The task contract: `Example`, `Task`, splits that share no key, and seeds that any process derives alike.

A task writes one method, `example(rng, length)`; everything else has a default. Its file defines the task class, the `Config`
dataclass of its own flags, and the line `build_loaders = loaders_of(MyTask)`. No torch here: data is NumPy and strings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from dataset.seeds import stream
from src.flags.fields import UserError, option


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
    kind = "answer"  # answer | labels | language: what metrics.json calls it
    reads_text = False  # True for a task on real text (LanguageTask), whose sizes count windows
    small: ClassVar[
        dict
    ] = {}  # this task's layer over src.flags.fields.SMALL: a default run that learns in minutes on two cores
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
            raise UserError(
                f"--min_len: got {lengths[0]}, allowed: 1 .. the longest length {lengths[1]} (--max_len, else --context_len)"
            )

    @property
    def lengths(self) -> tuple[int, int] | None:
        """(shortest, longest) training length in the task's own unit; None where a task has no length."""
        if not hasattr(self.args, "max_len"):
            return None
        return self.args.min_len, self.args.max_len or self.args.context_len

    @property
    def labelled(self) -> bool:
        """Whether labels are predicted at positions of the prompt, and nothing is written after it."""
        return self.kind == "labels"

    @property
    def writes_answer(self) -> bool:
        """Whether an answer is written after the prompt, ended by <eos>."""
        return self.kind == "answer"

    def longest_length(self) -> int | None:
        """What multiples of --eval_lengths refer to: the longest training length; None where a task has no length."""
        return None if self.lengths is None else self.lengths[1]

    def shortest_length(self) -> int | None:
        """The shortest length at which the model is trained; None where a task has no length."""
        if self.lengths is None:
            return None
        return self.lengths[1] if self.args.train_lengths == "fixed" else self.lengths[0]

    def scored_characters(self, example: Example) -> list[str]:
        """What is scored of an example, one entry per character; "" is the <eos> after an answer."""
        return [c for _, c in example.labels] if self.labelled else [*example.answer, ""]

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

    def chance(self, train: list[Example], test: list[Example]) -> dict[str, float]:
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

    def table_tokens(self) -> int:
        """Rows of a learned position table: the longest sequence, and what decoding may write beyond the gold answer."""
        return self.max_tokens() + DECODE_SLACK

    @property
    def alphabet(self) -> str:
        """All characters that prompts, answers and labels are made of. The default scans a thousand examples."""
        lengths = self.lengths or (None, None)
        rng = stream(self, "sample", 0)
        drawn = [e for length in lengths for e in self.examples(rng, 500, length)]
        return "".join(
            sorted({c for e in drawn for c in e.prompt + e.answer + "".join(ch for _, ch in e.labels or ())})
        )

    def identity(self) -> dict:
        """The settings that the data depends on, and nothing else: they seed its streams."""
        own = {k: getattr(self.args, k) for k in (getattr(self.Config, "__dataclass_fields__", None) or ())}
        return {"task": type(self).__name__, "context_len": self.args.context_len, **own}


DECODE_SLACK = 8  # characters past the gold answer that greedy decoding may write before it is stopped
