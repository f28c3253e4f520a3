"""The plan of a study: its parts in order, and the time that they may still take.

    parts = plan({"transformer": "transformer", "gla": "gla"}, lengths, train_steps, cell_seconds, machine_flags)
    time_left = TimeLeft(quiet)

Short trainings on Tiny Shakespeare, recall and copy come first, of all models at equal parameters. Then come the panels
of `speed`, and a profile of each model. Each part is one command of this program with a folder of its own.
Nothing here imports torch.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from src.measure.progress import words as time_words
from src.study.claims import trained_tasks

TRAINING_FLAGS: dict[str, tuple[str, ...]] = {}  # task -> flags besides those of --preset small
PANEL_FLAGS: tuple[str, ...] = ()
PROFILE_FLAGS = ("--steps", "10", "--lengths", "64,128,256,512", "--cell_seconds", "1")
SECONDS = {"tiny_shakespeare": 0.12, "recall": 0.05, "copy": 0.04}  # per step, a guess until one was measured
UNKNOWN_SECONDS = 0.1
OVERHEAD_SECONDS, PROFILE_SECONDS = 15.0, 30.0  # what a part takes besides its steps or points


@dataclass(frozen=True)
class Part:
    """One command of a study.

    kind: training, panels or profile.  folder: its name below the study's folder.
    words: the command line without --out_dir.  seconds: a guess of its duration.
    """

    kind: str
    folder: str
    words: tuple[str, ...]
    seconds: float
    task: str = ""
    model: str = ""

    @property
    def name(self) -> str:
        """'training copy, gru', 'panels', 'profile, gru'."""
        task = f" {self.task}" if self.kind == "training" else ""
        return f"{self.kind}{task}{f', {self.model}' if self.model else ''}"


def ordered(models) -> tuple[str, ...]:
    """The models, with the baseline first: the transformer if it is among them. The baseline sets the parameters."""
    return tuple(sorted(models, key=lambda m: m != "transformer"))


def plan(names: dict[str, str], lengths, train_steps: int, cell_seconds: float, machine: tuple[str, ...]) -> list[Part]:
    """The parts in order.

    names: {value of --model: label}, the baseline first.  machine: flags that every command gets.
    """
    baseline = next(iter(names))
    trainings = [
        _training(task, model, label, baseline, train_steps, machine)
        for task in trained_tasks()
        for model, label in names.items()
    ]
    panels = _panels(names, lengths, cell_seconds, machine, baseline)
    return [*trainings, panels, *(_profile(model, label, baseline, machine) for model, label in names.items())]


def _training(task: str, model: str, label: str, baseline: str, steps: int, machine) -> Part:
    words = (
        *_training_words(task, model, baseline),
        "--max_steps",
        str(steps),
        *machine,
        *TRAINING_FLAGS.get(task, ()),
    )
    return Part(
        "training", f"{task}-{label}", words, OVERHEAD_SECONDS + SECONDS.get(task, UNKNOWN_SECONDS) * steps, task, label
    )


def _panels(names: dict[str, str], lengths, cell_seconds: float, machine, baseline: str) -> Part:
    words = ("speed", "--model", *names, "--lengths", ",".join(map(str, lengths)), "--match_params", baseline)
    words = (*words, "--cell_seconds", f"{cell_seconds:g}", *machine, *PANEL_FLAGS)
    n_cells = len(names) * (4 * len(lengths) + 10)
    return Part("panels", "panels", words, OVERHEAD_SECONDS + n_cells * (1 + cell_seconds))


def _profile(model: str, label: str, baseline: str, machine) -> Part:
    task = "tiny_shakespeare"
    words = (
        "profile",
        *_training_words(task, model, baseline),
        *PROFILE_FLAGS,
        *machine,
        *TRAINING_FLAGS.get(task, ()),
    )
    return Part("profile", f"profile-{label}", words, PROFILE_SECONDS, task, label)


def _training_words(task: str, model: str, baseline: str) -> tuple[str, ...]:
    """The flags that say what is trained: the small preset, with as many parameters as the baseline has."""
    match = ("--match_params", baseline) if model != baseline else ()
    return ("--task", task, "--model", model, "--preset", "small", *match)


class TimeLeft:
    """Prints one line before each part, with the time left. A part is expected to take as long as one like it took."""

    def __init__(self, quiet: bool, clock: Callable[[], float] = time.perf_counter):
        self.quiet, self.clock = quiet, clock
        self.ratios: dict[tuple[str, str], list[float]] = {}  # (kind, task) -> seconds taken / seconds guessed
        self.waiting: list[Part] = []
        self.total, self.started = 0, 0.0

    def begin(self, parts: list[Part], done: list[Part]) -> None:
        """All parts of the study, and those that an earlier command finished."""
        self.total, self.waiting = len(parts), [p for p in parts if p not in done]
        if done:
            self._say(f"{len(done)} of {len(parts)} parts are finished and verified")

    def now(self, part: Part) -> None:
        """A part begins."""
        self.started = self.clock()
        number = self.total - len(self.waiting) + 1
        left = time_words(self.left())
        self._say(f"part {number} of {self.total}, {part.name}: about {left} left over all parts")

    def done(self, part: Part) -> None:
        """The part that began last is over."""
        self.ratios.setdefault((part.kind, part.task), []).append((self.clock() - self.started) / part.seconds)
        self.waiting.remove(part)

    def left(self) -> float:
        """Seconds that the remaining parts may take.

        A guess is corrected by what parts of the same kind and task took; a training else by all trainings.
        """
        trainings = [ratio for (kind, _), ratios in self.ratios.items() if kind == "training" for ratio in ratios]
        total = 0.0
        for part in self.waiting:
            known = self.ratios.get((part.kind, part.task)) or (trainings if part.kind == "training" else [])
            total += part.seconds * (sum(known) / len(known) if known else 1.0)
        return total

    def _say(self, text: str) -> None:
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)
