"""What a claim is made of: its statement and source, what is run, the rule that decides, and the evidence for it.

    CLAIM = Claim(key="parity_delta", statement="...", source="...", published="...", trainings=(Trainings(...),),
                  rule=(Ahead(...), Reaches(...)), predicted=REPRODUCED, minutes=4)

A claim is one file in this folder, and a line in src/claims/table.py. Its rule is written before its runs, and is not
changed after them. A rule has parts (src/claims/rules.py). The claim is reproduced if all parts hold, contradicted if
one is shown to be wrong, and undecided otherwise. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

REPRODUCED, CONTRADICTED, UNDECIDED, NOT_RUN = "reproduced", "contradicted", "undecided", "not run"
HOLDS, FAILS, OPEN = "holds", "fails", "open"
FULL, QUICK = "full", "quick"
# The same for all small trainings: sizes, precision and test set. A claim adds its task, models and steps.
SMALL = tuple("--preset small --precision fp32 --threads 1 --val_size 300 --test_size 500".split())
RATES = (1e-3, 3e-3, 1e-2)


@dataclass(frozen=True)
class Trainings:
    """One `compare` command.

    name: of its folder, unique within the claim.  words: its command line without steps, seeds and learning rates.
    steps: of each run; the quick mode has half of them.  seeds: fresh ones, from 11 on; the quick mode has one.
    rates: learning rates to choose from, none for those of the preset.  extend: how often that grid may grow at an
    edge.
    """

    name: str
    words: tuple[str, ...]
    steps: int
    seeds: int = 6
    rates: tuple[float, ...] = RATES
    extend: int = 0

    def argv(self, mode: str) -> list[str]:
        """The words of `compare` in a mode."""
        quick = mode == QUICK
        rates = ["--lr", ",".join(f"{rate:g}" for rate in self.rates)] if self.rates else []
        return [
            *self.words,
            *("--max_steps", str(max(1, self.steps // 2) if quick else self.steps)),
            *("--seeds", str(1 if quick else self.seeds)),
            *rates,
            *("--lr_extend", str(0 if quick else self.extend)),
        ]


@dataclass(frozen=True)
class Scores:
    """What one model gave on one task, in one setting: one value per seed in each measure, None where there is none.

    measures: {"value": (...), "at_48": (...), "test_loss": (...)}.  facts: steps, parameters, state_bytes, chance,
    metric, lr, lr_tried, lr_val, good_decades, at_edge.
    """

    task: str
    model: str
    setting: str
    seeds: tuple[int, ...]
    measures: Mapping[str, tuple[float | None, ...]]
    facts: Mapping = field(default_factory=dict)

    @property
    def label(self) -> str:
        """'deltanet --neg_eigen', 'gla d_model=16'."""
        return " ".join(filter(None, (self.model, self.setting)))


@dataclass(frozen=True)
class Evidence:
    """All that a verdict rests on.

    mode: full or quick.  origin: where it comes from, in words.  cells: of trainings.  items: intervals of a difference
    over test sequences, as {"task", "setting", "a", "b", "measure", "low", "high"}, second minus first.
    numbers: what was measured without training.  machine: commit, versions and processor.
    """

    mode: str
    origin: str
    cells: tuple[Scores, ...] = ()
    items: tuple[Mapping, ...] = ()
    numbers: Mapping = field(default_factory=dict)
    machine: Mapping = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """The longest training; 0 where nothing was trained."""
        return max((int(cell.facts.get("steps") or 0) for cell in self.cells), default=0)

    @property
    def seeds(self) -> int:
        """The fewest seeds of a cell; 0 where nothing was trained."""
        return min((len(cell.seeds) for cell in self.cells), default=0)


@dataclass(frozen=True)
class Found:
    """What one part of a rule found.

    state: holds, fails or open.  words: one clause.  value, low, high: the effect and its 95 % interval.
    p: of the exact test; None for a part without a test.  same: the test asks for a difference that is not expected,
    so that a small p speaks against the claim.
    """

    state: str
    words: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    same: bool = False


class Part(Protocol):
    """One condition of a rule."""

    @property
    def words(self) -> str:
        """The condition, as a clause."""

    def judge(self, evidence: Evidence) -> Found:
        """What the evidence says. ValueError where the evidence lacks what the part needs."""


@dataclass(frozen=True)
class Custom:
    """A condition of one claim alone. function(evidence) -> Found."""

    words: str
    function: Callable[[Evidence], Found]

    def judge(self, evidence: Evidence) -> Found:
        """What the function says."""
        return self.function(evidence)


@dataclass(frozen=True)
class Claim:
    """One published finding.

    statement: one sentence.  source, published: where it was said, and its numbers.  rule: its parts, the headline
    effect first.  predicted: the verdict that was expected when the rule was written.
    minutes: of the full mode on two cores.  trainings: what is trained.
    measure(folder, mode): what is measured without training, into `folder`; JSON-able.
    measured(mode): what `measure` measures, JSON-able; earlier evidence of something else is not taken.
    stored: a record that holds earlier runs, "findings/recall".  rows, models: the row of the card's suite for each
    task, and the layers, where the claim needs no other runs.  note: what limits the verdict.  figure: a file below
    runs/records, with its caption.
    """

    key: str
    statement: str
    source: str
    published: str
    rule: Sequence[Part]
    predicted: str
    minutes: float
    trainings: tuple[Trainings, ...] = ()
    measure: Callable[[Path, str], Mapping] | None = None
    measured: Callable[[str], Sequence] | None = None
    stored: str = ""
    rows: tuple[tuple[str, str], ...] = ()
    models: tuple[str, ...] = ()
    note: str = ""
    figure: tuple[str, str] = ("", "")

    @property
    def command(self) -> str:
        """What runs it."""
        return f"python benchmark.py claims {self.key}"
