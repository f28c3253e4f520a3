"""What the page is made of: runs, cells of the scoreboard, differences between models, costs, and what is missing.

A reader (src/study/page/reading.py) makes one `Document` from the folders. A section reads nothing but the document.
Every text in it can be shown, every number is finite. Scores are shares of 1. A *cell* is a task, a model and a
setting: the runs that differ by their seed alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from src.study.page.card import Card

REPORT, TUNING = "report", "tuning"  # roles of a run
SOLVED_AT = 0.95  # a task counts as solved from this score on, where the folder does not say otherwise

Key = tuple[str, str, str]  # task, model, setting


@dataclass(frozen=True)
class Source:
    """A folder that was given. kind: `compare`, `study`, `speed` or `train`.  settings: of a comparison, else empty."""

    kind: str
    folder: str
    command: str = ""
    origin: Origin | None = None
    settings: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Origin:
    """Where numbers come from. dirty: whether the working tree had changes; None: unknown."""

    commit: str = ""
    dirty: bool | None = None
    device: str = ""
    platform: str = ""
    cores: int | None = None
    threads: int | None = None
    versions: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Bin:
    """A point of a curve of scores. low, high: its 95 % interval of test sampling.  count: items in it."""

    x: float
    value: float
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True)
class Sample:
    """A test example. is_right: None where a continuation of a text is neither right nor wrong."""

    prompt: str
    expected: str
    got: str
    is_right: bool | None


@dataclass(frozen=True)
class Run:
    """One training run. value: its score on test, chance if it diverged.  low, high: 95 % interval of test sampling."""

    key: Key
    folder: str
    name: str
    role: str = REPORT
    status: str = "done"
    why: str = ""
    seed: int | None = None
    lr: float | None = None
    metric: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    unit: str = ""
    scaled: float | None = None
    chance: float | None = None
    ceiling: float | None = None
    val_value: float | None = None
    steps: int | None = None
    diverged_at: int | None = None
    solved_at: int | None = None
    stopped_at: int | None = None
    chars: int | None = None
    parameters: int | None = None
    layers: int | None = None
    state_bytes: int | None = None
    cache: str = ""
    train_s: float | None = None
    step_ms: float | None = None
    peak_mib: float | None = None
    init: str = ""
    pos: str = ""
    block: str = ""
    precision: str = ""
    threads: int | None = None
    is_language: bool = False
    loss_unit: str = "character"  # what a loss is per: character or token
    sees_the_future: bool = False
    source: str = ""
    data_digest: str = ""
    code_digest: str = ""
    result_digest: str = ""
    command: str = ""
    notes: tuple[str, ...] = ()
    losses: tuple[tuple[float, float], ...] = ()
    gaps: tuple[Bin, ...] = ()
    gap_label: str = ""
    gap_metric: str = ""
    lengths: tuple[Bin, ...] = ()
    trained_to: float | None = None
    samples: tuple[Sample, ...] = ()
    origin: Origin = Origin()

    @property
    def task(self) -> str:
        return self.key[0]


@dataclass(frozen=True)
class Share:
    """k of n with its 95 % interval."""

    k: int
    n: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Cell:
    """The result of a task, a model and a setting over all its seeds.

    values: the score of each seed, a diverged one at chance.  low, high: 95 % interval of the mean, or for one seed of
    test sampling; `interval` names its method.  success: the seeds that reached `threshold`.  median_steps: to reach
    it in validation; None where less than half of the seeds did.  rates: (learning rate, best val score) of the tuning.
    stopped: the step of each seed whose training ended because it had solved the task.
    """

    key: Key
    metric: str = ""
    seeds: tuple[int, ...] = ()
    values: tuple[float, ...] = ()
    holes: int = 0
    median: float | None = None
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    interval: str = ""
    scaled: float | None = None
    chance: float | None = None
    ceiling: float | None = None
    success: Share | None = None
    threshold: float | None = None
    median_steps: float | None = None
    lr: float | None = None
    rates: tuple[tuple[float, float], ...] = ()
    good_decades: float | None = None
    at_edge: str = ""
    diverged: int = 0
    parameters: int | None = None
    layers: int | None = None
    state_bytes: int | None = None
    chars: int | None = None
    steps: int | None = None
    stopped: tuple[int, ...] = ()
    init: str = ""
    pos: str = ""
    block: str = ""
    source: str = ""

    task = property(lambda self: self.key[0])
    model = property(lambda self: self.key[1])
    setting = property(lambda self: self.key[2])

    @property
    def is_solved(self) -> bool:
        """Whether every planned seed reached the threshold."""
        return self.success is not None and self.success.k == self.success.n > 0 and not self.holes

    def scale(self, value: float | None) -> float | None:
        """The share of the way from chance to the ceiling."""
        if value is None or self.chance is None or self.ceiling is None or self.ceiling <= self.chance:
            return None
        return (value - self.chance) / (self.ceiling - self.chance)


@dataclass(frozen=True)
class Difference:
    """A pair of models on a task, or over all tasks. value: mean over seeds of the score of b minus that of a.

    p: after correction for its family.  is_headline: it belongs to the comparisons that were planned.  length: of the
    inputs, where it is not that of the task.  improvement: over all tasks, the probability that a run of b is ahead.
    steps: of the longest training.  needed: the seeds that a verdict takes, where there are too few.
    """

    task: str
    setting: str
    metric: str
    a: str
    b: str
    seeds: tuple[int, ...] = ()
    value: float | None = None
    low: float | None = None
    high: float | None = None
    method: str = ""
    p: float | None = None
    smallest_p: float | None = None
    is_separated: bool = False
    items_low: float | None = None
    items_high: float | None = None
    verdict: str = ""
    is_headline: bool = False
    length: str = ""
    improvement: float | None = None
    steps: int | None = None
    needed: int | None = None


@dataclass(frozen=True)
class Hole:
    """A planned run without a usable result."""

    key: Key
    seed: int | None
    role: str
    why: str
    lr: float | None = None


@dataclass(frozen=True)
class Suite:
    """The interquartile mean of the scaled scores of a model over all tasks and seeds."""

    model: str
    setting: str
    value: float
    low: float | None
    high: float | None
    tasks: int | None


@dataclass(frozen=True)
class Check:
    """A row of `check` that did not pass."""

    name: str
    status: str
    measured: str
    allowed: str
    note: str


@dataclass(frozen=True)
class Gate:
    """What `check` says about a layer of the user's own. counts: {status: rows}.  rows: those that are no pass."""

    model: str
    verdict: str
    counts: tuple[tuple[str, int], ...]
    rows: tuple[Check, ...]
    flags: str = ""


@dataclass(frozen=True)
class Crossover:
    """From which length on one model is faster than another, in words."""

    place: str
    what: str
    winner: str
    loser: str
    words: str


@dataclass(frozen=True)
class Cost:
    """The panels of a record of `speed`. rows: of src/storage/rows.py, checked."""

    name: str
    models: tuple[str, ...]
    rows: tuple[dict, ...]
    fits: tuple[dict, ...]
    crossovers: tuple[Crossover, ...]


@dataclass(frozen=True)
class Claim:
    """A verdict of `study`."""

    question: str
    model: str
    verdict: str
    words: str


@dataclass
class Document:
    """All that the page shows. planned: how many runs the comparisons planned.  notes: sentences of the comparisons."""

    sources: list[Source] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    holes: list[Hole] = field(default_factory=list)
    suite: list[Suite] = field(default_factory=list)
    gates: list[Gate] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    cards: list[Card] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[tuple[str, str]] = field(default_factory=list)  # (model, what the gate of `train` warned of)
    alpha: float | None = None
    margin: float | None = None
    planned: int = 0

    def tasks(self) -> list[str]:
        """The tasks in the order in which they were read."""
        return list(dict.fromkeys([c.task for c in self.cells] + [r.task for r in self.runs]))

    def labels(self) -> list[str]:
        """The label of each model with its setting, once. Its place in this list decides its colour and marker."""
        keys = [c.key for c in self.cells] + [r.key for r in self.runs]
        names = [label(key) for key in keys] + [model for cost in self.costs for model in cost.models]
        return list(dict.fromkeys(names))

    def reported(self, key: Key) -> list[Run]:
        """The runs of a cell that were read, without those of the tuning seed."""
        return [run for run in self.runs if run.key == key and run.role == REPORT]


def label(key: Key) -> str:
    """'gru', or 'gru (n_layer=2)' where there is a setting."""
    return f"{key[1]} ({key[2]})" if key[2] else key[1]
