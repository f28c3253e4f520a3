"""The conditions that rules are made of: ahead, reaches, stays below, grows with size, no difference.

    Ahead(("gru",), ("transformer",), least=0.1)            # by at least .1, on average over seeds
    Reaches(("gru",), least=0.95)                           # every seed of each layer
    Below(("transformer",), most=0.7)                       # no seed of any layer

Each names layers by their labels, and may name a task and a measure. A difference holds if its mean is at least
`least`, its 95 % interval excludes 0, and other test sequences would not reverse it. (Their interval is on record for
`value` alone. For other measures this condition is left out.) It fails if the whole interval is below `least`, so an
effect that is shown to be small fails too. Its p is that of the exact test that exchanges the labels of runs, in the
stated direction; src/claims/judge.py corrects it over the table. With one seed there is neither interval nor p. The
difference then holds at `least`, fails at 0 or below, and is open between them. After the half of the steps that the
quick mode takes, a run that does not reach a score yet leaves `Reaches` open.

Where a side has several layers, interval and p are those of the two groups. The difference then also needs each layer
of one side to be ahead of each layer of the other by `least` in its mean.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from src.claims.contract import FAILS, HOLDS, OPEN, QUICK, Evidence, Found, Scores
from src.stats.pairs import over_tasks
from src.stats.permutation import exchange_groups
from src.stats.seeds import mean_over_seeds

RANGE = (-1.0, 1.0)  # of the difference of two shares
LOSSES = ("loss",)  # measures whose name ends so are better when lower, and have no range


def is_loss(measure: str) -> bool:
    """Whether lower values of a measure are better."""
    return measure.endswith(LOSSES)


def chosen(evidence: Evidence, models: Sequence[str], task: str = "") -> list[Scores]:
    """The cells of these labels, on one task where it is named. ValueError for a label without a cell."""
    found = []
    for model in models:
        cells = [c for c in evidence.cells if c.label == model and task in ("", c.task)]
        if not cells:
            raise ValueError(f"no runs of {model}{f' on {task}' if task else ''}")
        found += cells
    return found


def values_of(cell: Scores, measure: str) -> tuple[float, ...]:
    """The values of all seeds. ValueError where one is missing."""
    values = cell.measures.get(measure, ())
    if not values or None in values:
        raise ValueError(f"{cell.label} on {cell.task} has no {measure} for some seed")
    return tuple(values)


@dataclass(frozen=True)
class Ahead:
    """The layers of `better` are ahead of those of `worse`, by at least `least` of the measure.

    task: of both; other_task: of `worse`, where one layer is compared on two tasks.
    """

    better: tuple[str, ...]
    worse: tuple[str, ...]
    least: float = 0.0
    measure: str = "value"
    task: str = ""
    other_task: str = ""

    @property
    def words(self) -> str:
        """'gru is ahead of transformer by at least 0.1 (at_160)'."""
        on = f" on {self.task}" if self.task else ""
        other = f" on {self.other_task}" if self.other_task else ""
        verb = "is" if len(self.better) == 1 else "are"
        least = f" by at least {self.least:g}" if self.least else ""
        return f"{_listed(self.better)}{on} {verb} ahead of {_listed(self.worse)}{other}{least} ({self.measure})"

    def judge(self, evidence: Evidence) -> Found:
        a = chosen(evidence, self.worse, self.other_task or self.task)
        b = chosen(evidence, self.better, self.task)
        sign = -1.0 if is_loss(self.measure) else 1.0
        worse, better = _by_seed(a, self.measure), _by_seed(b, self.measure)
        seeds = sorted(worse.keys() & better.keys())
        if not seeds:
            raise ValueError("the two sides share no seed")
        differences = [sign * (statistics.fmean(better[seed]) - statistics.fmean(worse[seed])) for seed in seeds]
        found = mean_over_seeds(differences, limits=None if is_loss(self.measure) else RANGE)
        p = None
        if len(seeds) > 1:
            runs = [[sign * v for seed in seeds for v in side[seed]] for side in (worse, better)]
            p = exchange_groups(*runs)[1]
        low, high = found["low"], found["high"]
        state = _state(found["mean"], low, high, self.least)
        sides = f"{_listed(self.better)} against {_listed(self.worse)}"
        if self.other_task:
            sides = f"{_listed(self.better)} on {self.task} against {self.other_task}"
        said = f"{sides}: {found['mean']:+.3f}{_ends(low, high)}"
        if state == HOLDS and self._is_reversible(evidence, a, b):
            state, said = OPEN, f"{said}; other test sequences could reverse it"
        if state == HOLDS and (weak := self._weak_pair(a, b, sign)):
            state, said = OPEN, f"{said}; {weak}"
        return Found(state, said, found["mean"], low, high, p)

    def _weak_pair(self, worse: Sequence[Scores], better: Sequence[Scores], sign: float) -> str:
        """Two layers whose means are not apart by `least`; "" where all are."""

        def mean(cell: Scores) -> float:
            return sign * statistics.fmean(values_of(cell, self.measure))

        a, b = max(worse, key=mean), min(better, key=mean)
        difference = mean(b) - mean(a)
        is_apart = difference >= self.least and difference > 0
        return "" if is_apart else f"{b.label} against {a.label} alone: {difference:+.3f}"

    def _is_reversible(self, evidence: Evidence, a: Sequence[Scores], b: Sequence[Scores]) -> bool:
        """Whether the interval over test sequences of some pair includes 0."""
        pairs = {(x.task, frozenset((x.model, y.model))) for x in a for y in b if x.task == y.task}
        return any(
            item["low"] <= 0 <= item["high"]
            for item in evidence.items
            if item["measure"] == self.measure and (item["task"], frozenset((item["a"], item["b"]))) in pairs
        )


@dataclass(frozen=True)
class Reaches:
    """Every run of these layers scores at least `least`."""

    models: tuple[str, ...]
    least: float
    measure: str = "value"
    task: str = ""

    @property
    def words(self) -> str:
        on = f" on {self.task}" if self.task else ""
        return f"every run of {_listed(self.models)}{on} scores at least {self.least:g} ({self.measure})"

    def judge(self, evidence: Evidence) -> Found:
        found = _threshold(evidence, self, lambda value: value >= self.least, f"reach {self.least:g}")
        if evidence.mode == QUICK and found.state == FAILS:
            return replace(found, state=OPEN, words=f"{found.words} after half the steps")
        return found


@dataclass(frozen=True)
class Below:
    """No run of these layers scores above `most`."""

    models: tuple[str, ...]
    most: float
    measure: str = "value"
    task: str = ""

    @property
    def words(self) -> str:
        on = f" on {self.task}" if self.task else ""
        return f"no run of {_listed(self.models)}{on} scores above {self.most:g} ({self.measure})"

    def judge(self, evidence: Evidence) -> Found:
        return _threshold(evidence, self, lambda value: value <= self.most, f"stay at or below {self.most:g}")


@dataclass(frozen=True)
class Grows:
    """In each family the mean of the last cell is above that of the first, and on average by at least `least`.

    Interval and p are those of the average over families.
    families: {name: labels from the smallest to the largest}.
    """

    families: tuple[tuple[str, tuple[str, ...]], ...]
    least: float
    measure: str = "value"

    @property
    def words(self) -> str:
        return (
            "in each family the mean of the largest size is above that of the smallest, on average over families by at "
            f"least {self.least:g} ({self.measure})"
        )

    def judge(self, evidence: Evidence) -> Found:
        pairs, steps = {}, []
        for name, labels in self.families:
            small, large = (values_of(chosen(evidence, (label,))[0], self.measure) for label in (labels[0], labels[-1]))
            pairs[name] = (small, large)
            steps.append(statistics.fmean(large) - statistics.fmean(small))
        behind = [name for (name, _), step in zip(self.families, steps, strict=True) if step <= 0]
        n = min(len(small) for small, _ in pairs.values())
        by_seed = [statistics.fmean(large[i] - small[i] for small, large in pairs.values()) for i in range(n)]
        found = mean_over_seeds(by_seed, limits=RANGE)
        p = over_tasks(pairs)["p_better"] if n > 1 else None
        state = _state(found["mean"], found["low"], found["high"], self.least)
        said = f"largest against smallest size: {found['mean']:+.3f}{_ends(found['low'], found['high'])}"
        if behind:
            state, said = (OPEN if state == HOLDS else state), f"{said}; not in {_listed(behind)}"
        return Found(state, said, found["mean"], found["low"], found["high"], p)


@dataclass(frozen=True)
class Same:
    """Two halves of the runs of one layer show no difference. first: how the seeds are divided, by index."""

    model: str
    first: tuple[int, ...]
    measure: str = "value"

    @property
    def words(self) -> str:
        return f"two halves of the seeds of {self.model} show no difference ({self.measure})"

    def judge(self, evidence: Evidence) -> Found:
        values = values_of(chosen(evidence, (self.model,))[0], self.measure)
        if len(values) < 2:
            return Found(OPEN, f"{self.model}: one seed has no halves", same=True)
        a = [v for i, v in enumerate(values) if i in self.first]
        b = [v for i, v in enumerate(values) if i not in self.first]
        if not a or not b:
            raise ValueError(f"{self.model} has {len(values)} seeds, too few for two halves")
        n = min(len(a), len(b))
        found = mean_over_seeds([y - x for x, y in zip(a[:n], b[:n], strict=True)], limits=RANGE)
        p = exchange_groups(a, b)[0]
        is_apart = found["low"] is not None and not found["low"] <= 0 <= found["high"]
        state = FAILS if is_apart and p <= 0.05 else HOLDS
        said = f"{self.model}, half against half: {found['mean']:+.3f}{_ends(found['low'], found['high'])}"
        return Found(state, said, found["mean"], found["low"], found["high"], p, same=True)


def _threshold(evidence: Evidence, part, is_met, verb: str) -> Found:
    """How many runs meet a threshold: it holds if all do, and fails if none of some layer does."""
    cells = chosen(evidence, part.models, part.task)
    met = {cell.label: [is_met(v) for v in values_of(cell, part.measure)] for cell in cells}
    runs = [ok for flags in met.values() for ok in flags]
    said = f"{sum(runs)} of {len(runs)} runs of {_listed(part.models)} {verb} ({part.measure})"
    means = [statistics.fmean(values_of(cell, part.measure)) for cell in cells]
    if all(runs):
        state = HOLDS
    else:
        state = FAILS if any(not any(flags) for flags in met.values()) else OPEN
    return Found(state, said, statistics.fmean(means))


def _by_seed(cells: Sequence[Scores], measure: str) -> dict[int, list[float]]:
    """{seed: the values of all these cells}, of the seeds that each of them has."""
    by_cell = [dict(zip(cell.seeds, values_of(cell, measure), strict=True)) for cell in cells]
    common = set.intersection(*(set(values) for values in by_cell))
    return {seed: [values[seed] for values in by_cell] for seed in sorted(common)}


def _state(mean: float, low: float | None, high: float | None, least: float) -> str:
    if low is None or high is None:
        return HOLDS if mean >= least and mean > 0 else FAILS if mean <= 0 else OPEN
    if mean >= least and low > 0:
        return HOLDS
    return FAILS if high < least or high < 0 else OPEN


def _ends(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{low:+.3f}, {high:+.3f}]"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
