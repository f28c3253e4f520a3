"""Dyck: close the open brackets in the right order.

    '[]{[([](=' -> '))]}'
    '([[[][(=' -> ')]]])'
    --noise_prob 0.3   '[][.(.([].{=' -> '}))]'
    --mode lm          '{[{}]}[]' -> ((2, '}'), (3, ']'), (4, '}'), (6, ']'))
    --mode lm          '()(({}))' -> ((0, ')'), (4, '}'), (5, ')'), (6, ')'))

Alphabet: the brackets of the first `--n_types` kinds of `()[]{}<>`, `=` (complete only), and the filler `.` where
    `--noise_prob` > 0.
Length: the brackets of the prompt, without fillers and `=`.

`--mode complete` (default): the prompt is a prefix of a balanced string, and the answer is the closers that balance it.
It is drawn in three steps:
    1. the final depth, which is the length of the answer: uniform in 1..`--max_depth` (or 1..length if that is less);
    2. the walk from depth 0 to the final depth that never exceeds `--max_depth`: all such walks are equally likely. It
       has `length` brackets, or one less if the parity of the depth requires it;
    3. the kind of each opener: uniform.
Scored: the closers and their <eos>. Metrics: exact_match (also as a curve over the deepest nesting of the prompt) and
`closer_acc`, the share of correct closers in the decoded answer.

`--mode lm`: a model of balanced strings (an odd length is rounded down). All positions are trained. Scored are those
whose next character is a closer, by the argmax among closers, because the earlier text determines the closer. The
instances of this mode above show the labels: (position, character that comes next).

`--noise_prob`: after each bracket, with this probability, a filler that changes nothing. Splits never share a string of
brackets, whatever its fillers.

Gap: from an opener to its closer.
Chance: uniform (1/8 per character at the defaults: the alphabet and <eos>; lm: 1/n_types) and unigram (about 1/n_types
    per closer).
First used by: Suzgun et al., "Memory-Augmented Recurrent Neural Networks Can Learn Generalized Dyck Languages", 2019,
    arXiv:1911.03329. Closers scored among closers: Hewitt et al., "RNNs can generate bounded hierarchical languages
    with optimal memory", 2020, arXiv:2010.07515.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from dataset.entry import loaders_of
from dataset.task import Example, Labels, LengthConfig, MetaValue, Slice, Task, option
from src.flags.fields import UserError
from src.flags.run_flags import RunFlags

KINDS = ("()", "[]", "{}", "<>")
FILLER = "."


class Dyck(Task):
    """`([]{(=` is followed by `)})`."""

    @dataclass(frozen=True)
    class Config(LengthConfig):
        """dyck"""

        n_types: int = option(3, "kinds of brackets, of ()[]{}<>", least=1, most=len(KINDS))
        max_depth: int = option(8, "deepest nesting", least=1, most=64)
        noise_prob: float = option(0.0, "probability of a filler after each bracket", least=0.0, most=1.0)
        mode: str = option(
            "complete",
            "complete: write the missing closers; lm: model balanced strings, closers scored",
            choices=("complete", "lm"),
        )

    small: ClassVar[dict] = {"context_len": 32, "max_steps": 1000, "stop_at": 0.99}
    score_metrics: ClassVar[dict[str, str]] = {"closer_acc": "higher"}
    slices = (
        Slice("final_depth", "brackets to close"),
        Slice("max_depth", "deepest nesting"),
        Slice("length", "brackets in the prompt"),
        Slice("gap", "distance to the opener (characters)", level="char"),
    )

    def __init__(self, args: RunFlags):
        super().__init__(args)
        if args.mode != "lm":
            return
        if self.lengths[1] < 2:
            raise UserError(
                f"--max_len: got {self.lengths[1]}, allowed: >= 2 with --mode lm, "
                "the length of the shortest balanced string"
            )
        self.kind, self.primary, self.train_all = "labels", "token_acc", True
        self.score_among = "".join(sorted(kind[1] for kind in KINDS[: args.n_types]))
        self.score_metrics, self.aliases = {}, {"closer_acc": "token_acc"}
        self.slices = tuple(part for part in Dyck.slices if part.of != "final_depth")

    @property
    def lengths(self) -> tuple[int, int]:
        shortest, longest = super().lengths
        if self.args.mode == "lm" and shortest <= longest:
            shortest = min(max(2, shortest), longest)  # no balanced string has one bracket
        return shortest, longest

    @property
    def alphabet(self) -> str:
        brackets = "".join(KINDS[: self.args.n_types])
        return brackets + "=" * (self.args.mode == "complete") + FILLER * (self.args.noise_prob > 0)

    def examples(self, rng: np.random.Generator, n: int, length: int) -> list[Example]:
        if self.args.mode == "lm":
            length -= length % 2
            walks = self._walks(rng, np.zeros(n, dtype=np.int64), length)
            return self._label_examples(walks, self._fillers(rng, walks))
        depths = rng.integers(1, self._deepest(length) + 1, n)
        walks = self._walks(rng, depths, length)
        return self._answer_examples(walks, self._fillers(rng, walks))

    def _deepest(self, length):
        return min(self.args.max_depth, length)

    def _fillers(self, rng, walks):
        """Whether a filler follows each bracket (n, length)."""
        if self.args.noise_prob == 0:
            return np.zeros(walks.points.shape, dtype=bool)
        return (rng.random(walks.points.shape) < self.args.noise_prob) & (walks.points > 0)

    def _walks(self, rng, depths, length):
        """Bracket strings that end at the given depths (n,).

        A string of `length` brackets cannot end at a depth of another parity. Its first place then stays empty.
        """
        n = len(depths)
        up_share = up_shares(
            max(length, self.lengths[1]), self._deepest(length)
        )  # a long table serves short lengths too
        sizes = length - (length - depths) % 2
        coins, kinds = rng.random((length, n)), rng.integers(0, self.args.n_types, (length, n))
        characters = np.frombuffer("".join(KINDS).encode(), dtype=np.uint8)
        points, openers = np.zeros((length, n), dtype=np.uint8), np.full((length, n), -1, dtype=np.int32)
        stack, opened = np.zeros((2, self._deepest(length), n), dtype=np.int64)  # kind and place of the open brackets
        height, deepest, rows = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64), np.arange(n)
        for place in range(length):
            used = length - place <= sizes
            up = coins[place] < up_share[length - place, height, depths]
            slot = np.where(up, height, height - 1)
            kind = np.where(up, kinds[place], stack[slot, rows])
            opener = np.where(up, place, opened[slot, rows])
            stack[slot, rows], opened[slot, rows] = np.where(used, kind, 0), opener
            points[place] = np.where(used, characters[2 * kind + ~up], 0)
            openers[place] = np.where(up, -1, opener)
            height = height + used * np.where(up, 1, -1)
            deepest = np.maximum(deepest, height)
        return Walks(points.T.copy(), openers.T.copy(), depths, deepest, stack, opened)

    def _answer_examples(self, walks, fillers):
        prompts, places = written(walks.points, fillers)
        n, rows = len(prompts), np.arange(len(prompts))[:, None]
        slots = walks.depths[:, None] - 1 - np.arange(len(walks.stack))  # (n, answer), the innermost bracket first
        closers = np.frombuffer("".join(kind[1] for kind in KINDS).encode(), dtype=np.uint8)[walks.stack[slots, rows]]
        answers, width = closers.tobytes().decode(), closers.shape[1]
        sizes = np.array([len(prompt) for prompt in prompts])[:, None] + 1
        gaps = (sizes + np.arange(width) - places[rows, walks.opened[slots, rows]]).tolist()
        meta = zip(walks.depths.tolist(), walks.deepest.tolist(), strict=True)
        return [
            Example(
                prompts[i] + "=",
                answers[i * width : i * width + depth],
                gaps=tuple(gaps[i][:depth]),
                meta={"final_depth": depth, "max_depth": deepest},
            )
            for i, (depth, deepest) in zip(range(n), meta, strict=True)
        ]

    def _label_examples(self, walks, fillers):
        prompts, places = written(walks.points, fillers)
        n, half = len(prompts), walks.points.shape[1] // 2
        closing = walks.openers >= 0  # `half` brackets in every row
        at = places[closing]
        opened = np.take_along_axis(places, np.maximum(walks.openers, 0), axis=1)[closing]
        distances = (at - opened).reshape(n, half)
        kinds = np.searchsorted(np.frombuffer(self.score_among.encode(), dtype=np.uint8), walks.points[closing])
        # Pairs and numbers are made once and shared. Millions of new objects would take most of the time.
        pairs, numbers = np.empty(at.max() * self.args.n_types, dtype=object), np.arange(at.max() + 1, dtype=object)
        pairs[:] = [(place, closer) for place in range(at.max()) for closer in self.score_among]
        labels = pairs[((at - 1) * self.args.n_types + kinds).reshape(n, half)].tolist()
        gaps = numbers[distances].tolist()
        return [
            Example(prompts[i], labels=tuple(labels[i]), gaps=tuple(gaps[i]), meta={"max_depth": deepest})
            for i, deepest in enumerate(walks.deepest.tolist())
        ]

    def key(self, example: Example) -> str:
        return example.prompt.replace(FILLER, "")

    def n_keys(self) -> int | None:
        length = self.lengths[1]
        if length > 24:
            return None
        depths = [0] if self.args.mode == "lm" else range(1, self._deepest(length) + 1)
        return sum(self._n_strings(length - (length - depth) % 2, depth) for depth in depths)

    def _n_strings(self, length, depth):
        """The number of bracket strings of this length that end at this depth."""
        ways = [1] + [0] * self.args.max_depth
        for _ in range(length):
            ways = [
                (ways[h - 1] if h else 0) + (ways[h + 1] if h < self.args.max_depth else 0) for h in range(len(ways))
            ]
        return ways[depth] * self.args.n_types ** ((length + depth) // 2)

    def solve(self, prompt: str) -> str | Labels:
        closer_of, stack, labels = dict(KINDS), [], []
        for i, character in enumerate(prompt):
            if character in closer_of:
                stack.append(closer_of[character])
            elif character not in (FILLER, "="):
                labels.append((i - 1, stack.pop()))
        return tuple(labels) if self.args.mode == "lm" else "".join(reversed(stack))

    def score(self, prompt: str, answer: str, gold: str, meta: dict[str, MetaValue]) -> dict[str, float]:
        return {"closer_acc": sum(a == g for a, g in zip(answer, gold, strict=False)) / len(gold)}

    def max_chars(self, length: int) -> int:
        each = 2 if self.args.noise_prob > 0 else 1
        if self.args.mode == "lm":
            return each * (length - length % 2)
        return max(each * (length - (length - depth) % 2) + 1 + depth for depth in range(1, self._deepest(length) + 1))


@dataclass(frozen=True)
class Walks:
    """n bracket strings.

    points: (n, length) code points, 0 where there is none.
    openers: (n, length) the column of a closer's opener, -1 elsewhere.
    depths, deepest: (n,) the final depth and the deepest nesting.
    stack, opened: (max_depth, n) kind and column of the brackets that are open at the end, the outermost first.
    """

    points: np.ndarray
    openers: np.ndarray
    depths: np.ndarray
    deepest: np.ndarray
    stack: np.ndarray
    opened: np.ndarray


@lru_cache(maxsize=16)
def up_shares(length: int, deepest: int) -> np.ndarray:
    """(steps left, height, final depth) -> probability that the next step of a walk goes up.

    All walks within 0..deepest are equally likely. They are counted in logarithms, from the last step backwards, so
    that no length overflows.
    """
    heights = deepest + 1
    log_ways = np.full((heights, heights), -np.inf)
    np.fill_diagonal(log_ways, 0.0)
    nowhere = np.full((1, heights), -np.inf)
    shares = np.zeros((length + 1, heights, heights), dtype=np.float32)
    for steps in range(1, length + 1):
        after_up, after_down = np.concatenate([log_ways[1:], nowhere]), np.concatenate([nowhere, log_ways[:-1]])
        log_ways = np.logaddexp(after_up, after_down)
        possible = np.isfinite(log_ways)
        shares[steps][possible] = np.exp(after_up[possible] - log_ways[possible])
    shares.flags.writeable = False  # it is shared
    return shares


def written(points: np.ndarray, fillers: np.ndarray) -> tuple[list[str], np.ndarray]:
    """n strings of brackets with their fillers, and the position of each bracket in its string (n, length)."""
    sizes = (points > 0).astype(np.int32) + fillers
    places = np.cumsum(sizes, axis=1, dtype=np.int32) - sizes
    if fillers.any():
        points = np.stack([points, fillers * np.uint8(ord(FILLER))], axis=2).reshape(len(points), -1)
    text, width = points.tobytes(), points.shape[1]
    strings = [text[i * width : (i + 1) * width].translate(None, b"\0").decode() for i in range(len(points))]
    return strings, places


build_loaders = loaders_of(Dyck)
