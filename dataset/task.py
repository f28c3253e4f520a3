"""The contract between a task and the bench: `Example`, `Slice` and `Task`.

A task writes one method, `examples(rng, n, length)`, which makes n examples of one length. A beginner may write
`example(rng, length)` instead, which makes one. Everything else has a default:

    class Copy(Task):
        Config = LengthConfig

        def examples(self, rng, n, length):
            words = ["".join(rng.choice(list("abc"), length)) for _ in range(n)]
            return [Example(word + ">", word) for word in words]

    build_loaders = loaders_of(Copy)

No torch here: data is NumPy and strings.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from dataset.seeds import stream
from dataset.tokenizer import Tokenizer
from src.flags.fields import UserError, option
from src.flags.run_flags import RunFlags

DECODE_SLACK = 8  # characters past the correct answer that greedy decoding may write before it is stopped

Labels = tuple[tuple[int, str], ...]  # (position in the prompt, character) pairs
MetaValue = str | int | float | bool | tuple[int | float | bool, ...]


@dataclass(frozen=True)
class Example:
    """One instance: a prompt and either the answer written after it, or labels predicted at positions of the prompt.

    labels: (position in the prompt, character) pairs. A label is predicted *at* that position and is not written into
        the sequence.
    gaps: one distance in characters per answer character (<eos> not included) or per label, from the evidence to the
        place where the character is produced. -1 where there is no evidence.
    meta: the values that slices refer to: one per example, or a sequence with one entry per answer character or label.
    """

    prompt: str
    answer: str = ""
    labels: Labels | None = None
    gaps: tuple[int, ...] | None = None
    meta: dict[str, MetaValue] = field(default_factory=dict)


@dataclass(frozen=True)
class Slice:
    """A curve of evaluation: the score as a function of something known about the example or the character.

    of: a key of `Example.meta`, or one of these: "gap" (per character, from `Example.gaps`), "position" (index of the
        answer character or label), "length" (the task length with which the example was drawn).
    label: the axis label, with its unit.
    level: "example" counts examples, and the value is the primary metric. "char" counts characters, and the value is
        their accuracy.
    bins: "each" distinct value, "linear" (ten equal bins), "log2", or "auto" ("each" up to 24 distinct values, else
        "linear").
    metric: "" for the score, "loss" for nats per character (level "char" only).
    """

    of: str
    label: str
    level: str = "example"
    bins: str = "auto"
    metric: str = ""


@dataclass(frozen=True)
class LengthConfig:
    """The flags of a task whose examples have a length in characters. Such a task's Config inherits it."""

    min_len: int = option(1, "shortest training length, in characters", least=1)
    max_len: int = option(0, "longest training length, and the test length; 0 = context_len", least=0)


class Task:
    """A task. Subclass it, write `examples`, and override what differs. `self.args` holds the flags.

    Raises UserError from __init__ for flags that contradict each other.
    """

    Config: ClassVar[type | None] = None
    kind = "answer"  # answer, labels or language: the name in metrics.json. Other code asks the methods below instead
    reads_text = False  # True for a task on real text (LanguageTask), whose sizes count windows
    talks = False  # True for conversations (dataset/chat.py), which `generate --chat` continues
    protocol = ""  # of a task on real text: which tokens evaluation scores, in words
    # Values instead of those of src.flags.run_flags.SMALL, so that a default run learns in minutes on two cores. A task
    # that can be solved says "stop_at", so that such a run ends when it is.
    small: ClassVar[dict] = {}
    base: ClassVar[dict] = {}  # the same for --preset base, where the shared sizes do not fit the task
    primary = "exact_match"  # the headline metric: 0..1, higher is better
    aliases: ClassVar[dict[str, str]] = {}  # a task's own name for a metric of evaluation: {"hit_rate": "exact_match"}
    score_metrics: ClassVar[
        dict[str, str]
    ] = {}  # what `score` returns: name -> "higher" (then 0..1) or "lower" is better
    slices: ClassVar[tuple[Slice, ...]] = ()
    score_among: str = ""  # if not empty, a prediction is the argmax among these characters (dyck --mode lm)
    train_all = False  # train every written character, whatever --loss_on says (dyck --mode lm, language tasks)
    takes_tokenizer = False  # True where --tokenizer, --vocab_size, --text_key and --pack mean something
    given_tokenizer: Tokenizer | None = None  # that of a run that is continued, or of --init_from: no new one is made
    pool_lengths = True  # a batch may mix lengths if its examples do not fill a batch of one length

    @classmethod
    def opened(cls, args: RunFlags, tokenizer: Tokenizer | None = None) -> Task:
        """The task of a run.  tokenizer: that of the run that goes on, or of the run that this one begins with."""
        task = cls.__new__(cls)
        task.given_tokenizer = tokenizer
        task.__init__(args)
        return task

    def __init__(self, args: RunFlags):
        self.args = args
        lengths = self.lengths
        if lengths is not None and not 1 <= lengths[0] <= lengths[1]:
            raise UserError(
                f"--min_len: got {lengths[0]}, allowed: 1 .. the longest length {lengths[1]} "
                "(--max_len, else --context_len)"
            )

    @classmethod
    def without_data(cls, args: RunFlags) -> Task:
        """The task for prompts alone. A task on real text does not read it."""
        return cls(args)

    # What a task writes: one of these two.

    def examples(self, rng: np.random.Generator, n: int, length: int | None) -> list[Example]:
        """n examples of one length. The one method that a task must write."""
        if type(self).example is Task.example:
            raise NotImplementedError(
                f"{type(self).__name__} must define examples(self, rng, n, length), or example(self, rng, length)"
            )
        return [self.example(rng, length) for _ in range(n)]

    def example(self, rng: np.random.Generator, length: int | None) -> Example:
        """One example: simpler to write than `examples`, and slower."""
        if type(self).examples is Task.examples:
            raise NotImplementedError(
                f"{type(self).__name__} must define examples(self, rng, n, length), or example(self, rng, length)"
            )
        return self.examples(rng, 1, length)[0]

    # What a task may override: the data.

    @property
    def lengths(self) -> tuple[int, int] | None:
        """(shortest, longest) training length in the task's own unit. None for a task without a length."""
        if not hasattr(self.args, "max_len"):
            return None
        return self.args.min_len, self.args.max_len or self.args.context_len

    @property
    def alphabet(self) -> str:
        """All characters of prompts, answers and labels. The default scans a thousand examples."""
        lengths = self.lengths or (None, None)
        rng = stream(self, "sample", 0)
        drawn = [e for length in lengths for e in self.examples(rng, 500, length)]
        return "".join(
            sorted({c for e in drawn for c in e.prompt + e.answer + "".join(ch for _, ch in e.labels or ())})
        )

    def max_chars(self, length: int | None) -> int:
        """The most characters of prompt and answer at this length. The default is 1.5 times the longest of a sample."""
        sample = self.examples(stream(self, "sample", 0), 64, length)
        return math.ceil(1.5 * max(len(e.prompt) + len(e.answer) for e in sample))

    def key(self, example: Example) -> str:
        """The part of an example that two splits must not share."""
        return example.prompt

    def n_keys(self) -> int | None:
        """Number of distinct keys at the longest length. None where it is unknown, or too large to matter."""
        return None

    def stratum(self, example: Example) -> str | None:
        """The group of an example, for groups that may have too few distinct keys for a test set (small operands)."""
        return None

    def train_length(self, rng: np.random.Generator) -> int | None:
        """The length of one training batch under `--train_lengths uniform`. None for a task without a length."""
        return None if self.lengths is None else int(rng.integers(self.lengths[0], self.lengths[1] + 1))

    # What a task may override: the score.

    def solve(self, prompt: str) -> str | Labels:
        """The oracle: the correct answer, or the correct labels."""
        raise NotImplementedError(f"{type(self).__name__} has no oracle")

    def score(self, prompt: str, answer: str, gold: str, meta: dict[str, MetaValue]) -> dict[str, float]:
        """Metrics of one greedily decoded answer, which may be any text. The keys are those of `score_metrics`."""
        return {}

    def chance(self, train: list[Example], test: list[Example]) -> dict[str, float]:
        """Chance levels besides `uniform` and `unigram`: name -> value of the primary metric."""
        return {}

    def constants(self, train: list[Example]) -> list[str]:
        """Answers that may be the best constant one, for a task whose primary metric is one of `score`.

        Chance tries them on training examples. The default is the 16 most common training answers. A task whose metric
        says which answer is best returns that one alone.
        """
        return [answer for answer, _ in Counter(e.answer for e in train).most_common(16)]

    def baselines(self, train: list[Example], test: list[Example]) -> dict[str, float]:
        """What simple methods reach on the primary metric. Reported next to the score, without a threshold."""
        return {}

    def ceiling(self, test: list[Example]) -> float:
        """The best value of the primary metric that is possible on this test set."""
        return 1.0

    # What other code asks a task.

    @property
    def labelled(self) -> bool:
        """Whether labels are predicted at positions of the prompt, and nothing is written after it."""
        return self.kind == "labels"

    @property
    def writes_answer(self) -> bool:
        """Whether an answer is written after the prompt, ended by <eos>."""
        return self.kind == "answer"

    def longest_length(self) -> int | None:
        """The longest training length, of which --eval_lengths takes multiples. None for a task without a length."""
        return None if self.lengths is None else self.lengths[1]

    def shortest_length(self) -> int | None:
        """The shortest length at which the model is trained. None for a task without a length."""
        if self.lengths is None:
            return None
        return self.lengths[1] if self.args.train_lengths == "fixed" else self.lengths[0]

    def scored_characters(self, example: Example) -> list[str]:
        """What is scored of an example, one entry per character. "" is the <eos> after an answer."""
        return [c for _, c in example.labels] if self.labelled else [*example.answer, ""]

    def max_tokens(self, length: int | None = None) -> int:
        """Tokens of the longest sequence that a model reads or writes. It sets the size of tables and caches."""
        return self.max_chars(length or self.longest_length()) + 2

    def prompt_ids(self, prompt: str, tokenizer: Tokenizer) -> np.ndarray:
        """The ids that a model continues after a prompt: (1, T) int64, T >= 1."""
        return tokenizer.encode_prompt(prompt)

    def table_tokens(self) -> int:
        """Rows of a learned position table: the longest sequence, and what decoding may write past the answer."""
        return self.max_tokens() + DECODE_SLACK

    def identity(self) -> dict[str, str | int | float | bool | tuple]:
        """The settings that the data depends on, and no others. They seed its random streams."""
        own = {k: getattr(self.args, k) for k in (getattr(self.Config, "__dataclass_fields__", None) or ())}
        return {"task": type(self).__name__, "context_len": self.args.context_len, **own}
