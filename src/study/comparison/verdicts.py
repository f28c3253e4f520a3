"""verdicts.json: what every pair of models shows, per task and over all tasks. The rule is in src/stats/verdicts.py.

    document = judge(campaign)

The headline family compares the first model with each other one. Other pairs are exploratory: they have differences,
intervals and p-values, and no verdict. Differences are second minus first, so that above 0 the second one is better.
Where longer inputs than in training are tested, the score at the longest of them is judged beside the first, in a
family of its own.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.stats.pairs import over_tasks, paired_seeds, tost, two_level_bootstrap
from src.stats.permutation import seeds_needed
from src.stats.seeds import suite_iqm
from src.stats.verdicts import headline, holm, verdict
from src.storage.items import Items, read_items
from src.study.comparison.campaign import Campaign
from src.study.comparison.cells import Cell
from src.study.comparison.request import Comparison
from src.study.engines import DIVERGED

ALPHA, LEVEL = 0.05, 0.95
ALL_TASKS = "all tasks"
VALUE = "value"  # the column of results.csv that is judged first


@dataclass(frozen=True)
class Scores:
    """One cell's scores by seed, None for a hole.

    folders: {seed: the run directory}.  diverged: whether one of the runs did.
    """

    cell: Cell
    values: Sequence[float | None]
    folders: Mapping[int, Path]
    diverged: bool = False


def judge(campaign: Campaign) -> dict:
    """The content of verdicts.json."""
    config, pairs = campaign.comparison.config, []
    read = functools.cache(read_items)  # a run is in a pair with each other model
    for setting in dict.fromkeys(cell.setting for cell in campaign.cells):
        for name in (VALUE, *_lengths(campaign, setting)):
            pairs += _family(campaign, setting, name, read)
    return {
        "schema": 1,
        "alpha": ALPHA,
        "level": LEVEL,
        "claim": config.claim,
        "margin": config.margin or None,
        "first": campaign.comparison.models[0].label,
        "pairs": pairs,
        "suite": _suite(campaign),
        "holes": holes_of(campaign),
        "notes": _notes(campaign),
    }


def seeds_notes(comparison: Comparison) -> list[str]:
    """What this number of seeds cannot show, for the plan; nothing where each task can have a verdict."""
    tasks, others = len(comparison.tasks), len(comparison.models) - 1
    if not others:
        return ["one model has nothing to be compared with, so there will be no verdict"]
    tests = others * (tasks + (tasks > 1))
    needed, seeds = seeds_needed(tests, ALPHA, comparison.config.claim), comparison.config.seeds
    if needed is None or seeds >= needed:
        return []
    table = f"{tests} test{'s' * (tests > 1)} in the table"
    together = "; all tasks together can have one" if tasks > 1 and seeds > 1 else ""
    return [f"{seeds} seeds cannot give a verdict on a single task, {needed} can ({table}){together}"]


def _lengths(campaign: Campaign, setting: str) -> list[str]:
    """The columns of the longest length beyond training that has a score in some run of this setting."""
    found: dict[str, int] = {}
    for run, known in campaign.runs():
        if run.cell.setting == setting and run.role == "report":
            lengths = [c for c, v in known.row.items() if c.startswith("at_") and c[3:].isdigit() and v is not None]
            found |= {c: int(c[3:]) for c in lengths if int(c[3:]) > run.cell.terms["context"]}
    return [max(found, key=found.__getitem__)] if found else []


def _scores(campaign: Campaign, name: str, setting: str) -> list[Scores]:
    """The scores of every cell of a setting that has this column."""
    by_cell: dict[tuple, dict] = {cell.key: {} for cell in campaign.cells if cell.setting == setting}
    diverged = set()
    for run, known in campaign.runs():
        if run.role == "report" and run.cell.setting == setting and isinstance(known.row.get(name), (int, float)):
            by_cell[run.cell.key][run.seed] = (known.row[name], campaign.home / run.folder)
            diverged |= {run.cell.key} if known.status == DIVERGED else set()
    return [
        Scores(
            cell,
            [by_cell[cell.key].get(seed, (None,))[0] for seed in campaign.comparison.seeds],
            {seed: path for seed, (_, path) in by_cell[cell.key].items()},
            cell.key in diverged,
        )
        for cell in campaign.cells
        if cell.setting == setting
    ]


def _family(campaign: Campaign, setting: str, name: str, read: Callable[[Path], Items]) -> list[dict]:
    """All pairs of one setting and one column: the headline family first, then the exploratory pairs."""
    scores = _scores(campaign, name, setting)
    labels = [model.label for model in campaign.comparison.models]
    first = labels[0]
    found = []
    for a, b in itertools.combinations(labels, 2):
        tasks = dict.fromkeys(s.cell.task for s in scores)
        of = {(s.cell.task, s.cell.model): s for s in scores}
        both = {t: (of[t, a], of[t, b]) for t in tasks if (t, a) in of and (t, b) in of}
        both = {t: pair for t, pair in both.items() if _common_seeds(*pair)}
        found += [_Pair(campaign, setting, name, t, *pair) for t, pair in both.items()]
        if len(both) > 1:
            found.append(_Pair(campaign, setting, name, ALL_TASKS, *next(iter(both.values())), both))
    main = [pair for pair in found if pair.a == first]
    family = headline({pair.key: pair.facts for pair in main}, campaign.comparison.config.claim, ALPHA)
    equivalent = _equivalence(main, campaign.comparison.config.margin)
    rows = [pair.judged(family, equivalent.get(pair.key), read) for pair in main]
    return [*rows, *(pair.exploratory(read) for pair in found if pair.a != first)]


def _common_seeds(a: Scores, b: Scores) -> bool:
    return any(x is not None and y is not None for x, y in zip(a.values, b.values, strict=True))


def _equivalence(pairs: Sequence[_Pair], margin: float) -> dict:
    """{pair: the corrected p of equivalence}, of the pairs on one task that have one."""
    if not margin:
        return {}
    found = {p.key: tost(p.facts["differences"], margin)["p"] for p in pairs if p.task != ALL_TASKS}
    found = {key: p for key, p in found.items() if p is not None}
    return dict(zip(found, holm(list(found.values())), strict=True))


class _Pair:
    """Two models on one task, or over all of them.  over: {task: (scores of a, scores of b)} in the second case."""

    def __init__(self, campaign: Campaign, setting, name, task, a: Scores, b: Scores, over=None):
        self.campaign, self.setting, self.name, self.task = campaign, setting, name, task
        self.scores, self.over = (a, b), over
        self.a, self.b = a.cell.model, b.cell.model
        if over is None:
            self.facts = paired_seeds(a.values, b.values, LEVEL)
        else:
            self.facts = over_tasks({t: (x.values, y.values) for t, (x, y) in over.items()})

    @property
    def key(self) -> tuple[str, str, str]:
        """(task, first model, second model)."""
        return self.task, self.a, self.b

    @property
    def seeds(self) -> list[int]:
        """The seeds that both models have, on one task."""
        a, b = self.scores
        return sorted(a.folders.keys() & b.folders.keys()) if self.over is None else []

    @property
    def steps(self) -> int:
        """The longest training of the pair."""
        pairs = self.over.values() if self.over else [self.scores]
        return max(s.cell.terms["steps"] for pair in pairs for s in pair)

    def judged(self, family, equivalent: float | None, read) -> dict:
        """The row of a pair of the headline family."""
        config, adjusted = self.campaign.comparison.config, family.adjusted[self.key]
        items = self._items(read)
        found = verdict(
            self.facts,
            adjusted,
            budget_steps=self.steps,
            claim=config.claim,
            alpha=ALPHA,
            over_sequences=items and items["over_sequences"],
            margin=config.margin or None,
            p_equivalent=equivalent,
            needed=family.needed,
        )
        return {
            **self._row(items),
            "p_adjusted": adjusted,
            "family": family.comparisons,
            "tested": family.tested,
            "needed_seeds": family.needed,
            "equivalent_p": equivalent,
            "verdict": found.word,
            "words": self._sentence(found, adjusted, family.tested),
            "headline": True,
        }

    def exploratory(self, read) -> dict:
        """The row of another pair."""
        empty = dict.fromkeys(("p_adjusted", "family", "tested", "needed_seeds", "equivalent_p"))
        words = f"{self.b} against {self.a} on {self.task}: exploratory, no verdict"
        return {
            **self._row(self._items(read)),
            **empty,
            "verdict": "exploratory",
            "words": words,
            "headline": False,
        }

    def _row(self, items: dict | None) -> dict:
        facts, (a, b) = self.facts, self.scores
        single = self.over is None
        return {
            "task": self.task,
            "setting": self.setting,
            "measure": self.name,
            "metric": a.cell.terms["metric"] if single else "",
            "a": self.a,
            "b": self.b,
            "seeds": self.seeds,
            "n": facts["n"],
            "missing": facts["missing"] if single else None,
            "a_values": list(a.values) if single else None,
            "b_values": list(b.values) if single else None,
            "difference": facts["mean"] if single else None,
            "median_difference": facts["median"] if single else None,
            "low": facts["low"] if single else None,
            "high": facts["high"] if single else None,
            "method": facts["method"] if single else "",
            "improvement": None if single else facts["improvement"],
            "tasks": None if single else facts["tasks"],
            "p": facts["p_better" if self.campaign.comparison.config.claim == "better" else "p"],
            "smallest_p": facts["smallest_p"],
            "separated": facts["separated"] if single else None,
            "items_low": items and items["low"],
            "items_high": items and items["high"],
            "within_steps": self.steps,
        }

    def _items(self, read) -> dict | None:
        """The difference over seeds and test sequences; None where the two models did not see the same sequences."""
        if self.over is not None or self.name != VALUE:
            return None
        a, b = self.scores
        if a.diverged or b.diverged:  # such a run has no items
            return None
        items = []
        for seed in self.seeds:
            pair = read(a.folders[seed]), read(b.folders[seed])
            if pair[0].digest != pair[1].digest:
                return None
            items.append(pair)
        if not items or len({len(x.errors) for x, _ in items}) > 1:
            return None
        errors_a, errors_b = (np.stack([pair[i].errors for pair in items]) for i in (0, 1))
        counts = np.stack([x.counts for x, _ in items])
        return two_level_bootstrap(errors_a, errors_b, counts, LEVEL)

    def _sentence(self, found, adjusted: float | None, tested: int) -> str:
        """'deltanet is better than gru on parity by 0.19 [0.15, 0.23] (p = .012 after correction for 6)'."""
        at = "" if self.name == VALUE else f" at length {self.name[3:]}"
        where = f"over {self.facts['tasks']} tasks" if self.over is not None else f"on {self.task}"
        tests = f"{tested} test{'s' * (tested != 1)}"
        p = "" if adjusted is None else f" (p = {adjusted:.2g} after correction for {tests})"
        if found.word in ("better", "worse"):
            within = found.words.removeprefix(found.word)
            return f"{self.b} is {found.word} than {self.a} {where}{at}{within}{self._amount()}{p}"
        return f"{self.b} against {self.a} {where}{at}: {found.words}{self._amount()}{p}"

    def _amount(self) -> str:
        facts = self.facts
        if self.over is not None:
            share = facts["improvement"]  # None where no task has two seeds
            return "" if share is None else f", a run of it is ahead with probability {share:.2f}"
        ends = "" if facts["low"] is None else f" [{facts['low']:+.3f}, {facts['high']:+.3f}]"
        return f", difference {facts['mean']:+.3f}{ends}"


def _suite(campaign: Campaign) -> list[dict]:
    """Per model and setting: the interquartile mean of the scaled scores over all tasks."""
    found = []
    for setting in dict.fromkeys(cell.setting for cell in campaign.cells):
        for model in campaign.comparison.models:
            scaled: dict[str, list[float]] = {}
            for run, known in campaign.runs():
                if run.role == "report" and (run.cell.model, run.cell.setting) == (model.label, setting) and known.row:
                    scaled.setdefault(run.cell.task, []).append(known.row["scaled"])
            if scaled:
                found.append({"model": model.label, "setting": setting, **suite_iqm(scaled)})
    return found


def holes_of(campaign: Campaign) -> list[dict]:
    """Every run of the plan without a result, and every model for which no learning rate could be chosen."""
    found = [
        {
            **{name: getattr(run.cell, name) for name in ("task", "model", "setting")},
            "role": run.role,
            "lr": run.lr,
            "seed": run.seed,
            "status": known.status,
            "why": known.why,
        }
        for run, known in campaign.runs()
        if not known.row
    ]
    for group in campaign.groups:
        for cell in group.cells:
            if group.chosen is not None and group.chosen.get(cell.model) is None:
                why = "no learning rate could be chosen, because every run on the tuning seed failed"
                empty = {"role": "report", "lr": None, "seed": None, "status": "failed", "why": why}
                found.append({"task": cell.task, "model": cell.model, "setting": cell.setting, **empty})
    return found


def _notes(campaign: Campaign) -> list[str]:
    """What limits the verdicts as a whole."""
    notes = []
    edges = [
        f"{cell.model} on {' '.join(filter(None, group.key))}"
        for group in campaign.groups
        for cell in group.cells
        if group.chosen is not None and campaign.at_edge(group, cell.model) == "yes"
    ]
    if edges:
        notes.append(
            f"the chosen learning rate is at the edge of the rates tried for {_listed(edges)}; another may be better"
        )
    if any(len(group.grid) == 1 for group in campaign.groups):
        notes.append("one learning rate was given for all models, so none of them was tuned")
    if campaign.comparison.steps_share < 1:
        notes.append(f"--budget left {campaign.comparison.steps_share:.0%} of each run's steps")
    return notes


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))
