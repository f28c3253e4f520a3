"""The runs of a comparison: which are needed, in which order, and what is known of each.

    campaign = Campaign(comparison, cells, home, reuse)
    for outcome in campaign.run(engine): ...          # one step per finished run; KeyboardInterrupt passes through
    campaign.runs()                                   # every run of the plan, with its row or the reason of its hole

Each (task, setting) is a group of cells that shares a grid of learning rates. Its stages follow each other: the first
grid, up to --lr_extend growths of it, then the fresh seeds at each model's chosen rate. Groups do not wait for one
another. Within a stage the runs that take longest begin first. What is finished in the folder, or in one that --reuse
names, is verified by its seals and not run again.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from src.flags.fields import UserError
from src.setup.stored import verify_files
from src.storage.env import open_env
from src.storage.rundir import RunDir, open_sealed
from src.study.comparison.budget import run_seconds
from src.study.comparison.cells import Cell, rates_of
from src.study.comparison.digest import run_name
from src.study.comparison.rates import Trial, choose, edges, grown
from src.study.comparison.request import Comparison
from src.study.comparison.tables import result_of
from src.study.engines import DIVERGED, DONE, FAILED, Engine, Job, Outcome

TUNING, REPORT = "tuning", "report"
PLANNED = "planned"


@dataclass(frozen=True)
class Run:
    """One run of the plan. name: of its folder below runs/."""

    cell: Cell
    role: str
    lr: float
    seed: int
    name: str

    @property
    def folder(self) -> str:
        """Below the comparison's folder."""
        return f"runs/{self.name}"

    @property
    def label(self) -> str:
        """'recall, mamba: lr 0.003, seed 11'."""
        where = ", ".join(filter(None, self.cell.key))
        return f"{where}: lr {self.lr:g}, seed {self.seed}{' (tuning)' if self.role == TUNING else ''}"

    def job(self) -> Job:
        """What an engine carries out."""
        low = ("--min_lr", f"{self.lr!r}") if self.lr < self.cell.terms["min_lr"] else ()
        words = (*self.cell.words, "--lr", f"{self.lr!r}", *low, "--seed", str(self.seed))
        return Job(self.label, self.folder, words)


@dataclass(frozen=True)
class Known:
    """What is known of a run: the columns of its result, or why it has none.

    status: done, diverged, failed, timeout or planned.  row: of src/study/comparison/tables.py, empty without a result.
    """

    status: str
    why: str = ""
    row: dict = field(default_factory=dict)


@dataclass
class Group:
    """The cells of one task and setting, and how far they are.

    grid: the rates tried so far.  chosen: {label of a model: its rate, None where every trial failed}, once tuned.
    waiting: names of runs that are queued or running.
    """

    cells: Sequence[Cell]
    grid: list[float]
    growths: int = 0
    chosen: dict[str, float | None] | None = None
    waiting: set[str] = field(default_factory=set)

    @property
    def key(self) -> tuple[str, str]:
        """(task, setting)."""
        return self.cells[0].group


class Campaign:
    """comparison: what is compared.  cells: of `prepare_cells`.  home: the comparison's folder.  reuse: other ones."""

    def __init__(self, comparison: Comparison, cells: Sequence[Cell], home, reuse: Sequence[str] = ()):
        self.comparison, self.cells, self.home = comparison, cells, Path(home)
        self.sources = [Path(folder) / "runs" for folder in reuse]
        self.known: dict[str, Known] = {}
        self._made: dict[tuple, Run] = {}  # a name takes a millisecond
        keys = list(dict.fromkeys(cell.group for cell in cells))
        self.groups = [self._group([cell for cell in cells if cell.group == key]) for key in keys]

    def _group(self, cells: Sequence[Cell]) -> Group:
        group = Group(cells, rates_of(cells, self.comparison.config.lr))
        if len(group.grid) == 1:
            group.chosen = dict.fromkeys((cell.model for cell in cells), group.grid[0])
        return group

    # What the plan consists of

    def run_of(self, cell: Cell, role: str, lr: float) -> list[Run]:
        """The runs of a cell at one rate: one on the tuning seed, or one per fresh seed."""
        seeds = (self.comparison.config.tuning_seed,) if role == TUNING else self.comparison.seeds
        return [self._run(cell, role, lr, seed) for seed in seeds]

    def _run(self, cell: Cell, role: str, lr: float, seed: int) -> Run:
        key = (cell, role, lr, seed)
        if key not in self._made:
            self._made[key] = Run(cell, role, lr, seed, run_name(cell, lr, seed))
        return self._made[key]

    def tuning(self, group: Group) -> list[Run]:
        """The runs that choose the rates of a group, none where there is one rate."""
        rates = sorted(group.grid) if len(group.grid) > 1 else []
        return [run for cell in group.cells for rate in rates for run in self.run_of(cell, TUNING, rate)]

    def report(self, group: Group) -> list[Run]:
        """The runs on fresh seeds, of the models whose rate is chosen."""
        chosen = group.chosen or {}
        return [
            run
            for cell in group.cells
            if chosen.get(cell.model) is not None
            for run in self.run_of(cell, REPORT, chosen[cell.model])
        ]

    def runs(self) -> list[tuple[Run, Known]]:
        """Every run of the plan as far as it is decided, in the order of the tables."""
        found = [run for group in self.groups for run in (*self.tuning(group), *self.report(group))]
        return [(run, self.known.get(run.name, Known(PLANNED))) for run in found]

    def total(self) -> int:
        """How many runs the plan has, as far as it is known: those of the fresh seeds count before a rate is chosen."""
        fresh = len(self.comparison.seeds)
        return sum(
            len(self.tuning(g)) + (len(g.cells) * fresh if g.chosen is None else len(self.report(g)))
            for g in self.groups
        )

    def seconds_left(self, seconds_of: Callable[[Cell], float]) -> float:
        """The seconds of one worker that the missing runs may take."""
        missing = [run.cell for run, known in self.runs() if known.status == PLANNED]
        fresh = [c for g in self.groups if g.chosen is None for c in g.cells for _ in self.comparison.seeds]
        return sum(map(seconds_of, (*missing, *fresh)))

    def trials(self, group: Group, model: str) -> dict[float, Trial]:
        """{rate: what it gave on val} of one model."""
        found = {}
        for run in self.tuning(group):
            if run.cell.model == model and run.name in self.known:
                found[run.lr] = trial_of(self.known[run.name])
        return found

    def at_edge(self, group: Group, model: str) -> str:
        """'no', 'yes', or 'one rate'."""
        if len(group.grid) == 1:
            return "one rate"
        chosen = (group.chosen or {}).get(model)
        return "yes" if edges(group.grid, [chosen]) else "no"

    # Carrying out

    def run(self, engine: Engine) -> Iterator[tuple[Run, Known, Outcome | None]]:
        """Carry out what is missing. Yields each run as soon as it is known; None where it was finished before."""
        owners: dict[str, list[tuple[Group, Run]]] = {}
        for group in self.groups:
            yield from self._submit(group, engine, owners)
        for outcome in engine.outcomes():
            name = Path(outcome.job.folder).name
            self.known[name] = self._known_after(outcome)
            for group, run in owners.pop(name):
                yield run, self.known[name], outcome
                group.waiting.discard(name)
                if not group.waiting:
                    yield from self._submit(group, engine, owners)

    def _submit(self, group: Group, engine: Engine, owners) -> Iterator[tuple[Run, Known, Outcome | None]]:
        """Queue the next stage of a group that is not finished. Stages that are finished already are passed."""
        while True:
            stage = self.tuning(group) if group.chosen is None else self.report(group)
            jobs = []
            for run in dict.fromkeys(stage):
                if run.name not in self.known and self._is_finished(run):
                    yield run, self.known[run.name], None
                if run.name not in self.known and run.name not in group.waiting:
                    group.waiting.add(run.name)
                    if run.name not in owners:
                        jobs.append(run)
                    owners.setdefault(run.name, []).append((group, run))
            # Longest first: a long run that begins last would leave the other workers without work.
            engine.submit([run.job() for run in sorted(jobs, key=lambda run: -run_seconds(run.cell))])
            if group.waiting or group.chosen is not None:
                return
            self._decide(group)

    def _decide(self, group: Group) -> None:
        """After the trials of a grid: grow it, or choose."""
        chosen = {cell.model: choose(self.trials(group, cell.model)) for cell in group.cells}
        ends = edges(group.grid, list(chosen.values()))
        if ends and group.growths < self.comparison.config.lr_extend:
            group.grid += grown(group.grid, ends)
            group.growths += 1
        else:
            group.chosen = chosen

    def _known_after(self, outcome: Outcome) -> Known:
        if outcome.status not in (DONE, DIVERGED):
            return Known(outcome.status, outcome.why)
        try:
            return verified(self.home / outcome.job.folder)
        except UserError as error:
            return Known(FAILED, str(error))

    def _is_finished(self, run: Run) -> bool:
        """Whether a run is finished here, or in a folder of --reuse, from which it is then copied. Fills `known`."""
        here = self.home / run.folder
        if RunDir(here).finished:
            self.known[run.name] = verified(here)
        elif (there := next((s / run.name for s in self.sources if RunDir(s / run.name).finished), None)) is not None:
            self.known[run.name] = verified(there)
            copy_whole(there, here)
        else:
            return False
        return True


def trial_of(known: Known) -> Trial:
    """What a run says about its learning rate, from val alone. A divergence scores chance, with an infinite loss."""
    if not known.row:
        return Trial(0.0, math.inf, failed=True)
    loss = known.row["val_loss"]
    return Trial(known.row["val_value"], math.inf if loss is None else loss, chance=known.row["chance"])


def verified(folder: Path) -> Known:
    """What is known of a finished run whose files and checkpoints are as they were sealed. UserError where one is not.

    No code of the run is executed.
    """
    run_dir = RunDir(folder)
    metrics = verify_files(run_dir, open_sealed(run_dir.config)["args"])
    return Known(metrics["status"], "", result_of(metrics, open_env(run_dir.env)))


def copy_whole(source: Path, target: Path) -> None:
    """Copy a run directory. It appears whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".copy-") as temporary:
        copied = Path(temporary) / target.name
        shutil.copytree(source, copied, ignore=shutil.ignore_patterns(".lock"))
        if target.exists():
            shutil.rmtree(target)
        copied.rename(target)
