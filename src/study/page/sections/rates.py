"""How much the learning rate decides: the validation score of each rate that was tried, and which was chosen."""

from __future__ import annotations

from collections import defaultdict

from src.study.page import numbers as n
from src.study.page.blocks import WARN, Column, Entry, Figure, Gallery, Section, Table
from src.study.page.chart import Axis, Chart, Line, Point, draw
from src.study.page.evidence import Cell, Document, label

LEAST = 2  # rates of a model, for a curve


def build(document: Document) -> list:
    swept = {**_from_cells(document), **_from_runs(document)}
    if not swept:
        return []
    looks, figures = document.labels(), []
    for i, task in enumerate(dict.fromkeys(task for task, _ in swept)):
        mine = {name: rates for (of, name), rates in swept.items() if of == task}
        figures.append(_figure(f"rates-{i}", task, mine, _chosen(document), looks))
    legend = tuple((_look(name, looks), name) for name in dict.fromkeys(name for _, name in swept))
    note = "The large marker is the rate that was chosen. Each point is one run, on the tuning seed where there is one."
    blocks = [Gallery("Validation score against the learning rate", tuple(figures), legend, note)]
    tuned = [cell for cell in document.cells if cell.rates]
    return [*blocks, _table(tuned)] if tuned else blocks


def _from_cells(document: Document) -> dict[tuple[str, str], dict[float, float]]:
    """{(task, model): {rate: best val score}} of the tuning of comparisons."""
    return {(c.task, label(c.key)): dict(c.rates) for c in document.cells if len(c.rates) >= LEAST}


def _from_runs(document: Document) -> dict[tuple[str, str], dict[float, float]]:
    """The same of runs that were given one by one, and differ in their rate."""
    found: dict[tuple[str, str], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    tuned = {(cell.task, cell.model) for cell in document.cells if cell.rates}
    for run in document.runs:
        if run.lr is not None and run.val_value is not None and (run.task, run.key[1]) not in tuned:
            setting = " ".join(w for w in run.key[2].split(" ") if not w.startswith("lr="))
            found[run.task, label((*run.key[:2], setting))][run.lr].append(run.val_value)
    return {
        key: {rate: sum(values) / len(values) for rate, values in rates.items()}
        for key, rates in found.items()
        if len(rates) >= LEAST
    }


def _chosen(document: Document) -> dict[tuple[str, str], float]:
    return {(c.task, label(c.key)): c.lr for c in document.cells if c.lr is not None and c.rates}


def _look(name: str, looks: list[str]) -> int:
    """The place of a model; that of its first setting where the rate was a setting."""
    return next((i for i, other in enumerate(looks) if other == name or other.startswith(f"{name} (lr=")), 0)


def _figure(key: str, task: str, mine: dict[str, dict[float, float]], chosen, looks: list[str]) -> Figure:
    lines = []
    for name, rates in mine.items():
        best = chosen.get((task, name))
        points = tuple(
            Point(rate, value, f"{name}, learning rate {rate:g}: {n.share(value)} on val", is_large=rate == best)
            for rate, value in sorted(rates.items())
        )
        lines.append(Line(_look(name, looks), points))
    said = "; ".join(f"{name}: best at {max(rates, key=rates.get):g}" for name, rates in mine.items())
    chart = Chart(
        key,
        f"{task}: validation score against the learning rate",
        f"{said}.",
        Axis("learning rate", is_log=True),
        Axis("score on val", low=0.0, high=1.0),
        tuple(lines),
    )
    all_rates = sorted({rate for rates in mine.values() for rate in rates})
    rows = tuple(
        (Entry(f"{rate:g}", rate), *(Entry(n.share(rates.get(rate)), rates.get(rate)) for rates in mine.values()))
        for rate in all_rates
    )
    columns = (Column("learning rate", "number"), *(Column(name, "number") for name in mine))
    table = Table(f"{key}-data", f"{task}: score on val by learning rate", columns, rows, folded=True, is_result=False)
    return Figure(key, task, draw(chart), table)


def _table(cells: list[Cell]) -> Table:
    columns = (
        Column("model"),
        Column("task"),
        Column("chosen", "number"),
        Column("tried", "number"),
        Column("good range", "number"),
        Column("at the edge"),
    )
    rows = tuple(
        (
            label(cell.key),
            cell.task,
            Entry(n.MISSING if cell.lr is None else f"{cell.lr:g}", cell.lr),
            " ".join(f"{rate:g}" for rate, _ in cell.rates),
            Entry(n.MISSING if cell.good_decades is None else f"{cell.good_decades:.2f} decades", cell.good_decades),
            Entry(cell.at_edge or n.MISSING, None, WARN if cell.at_edge not in ("", "no") else ""),
        )
        for cell in cells
    )
    note = (
        "Good range: width of the rates whose score is within 5 % of the best. A rate at the edge of those tried may "
        "hide a better one."
    )
    return Table("rates-tried", "Learning rates", columns, rows, note, group=1)


RATES = Section("rates", "Learning rate", build, "no model was trained with more than one learning rate")
