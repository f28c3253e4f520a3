"""Per task: how the models learn, how far they reach, and what they write. All models of a task share a drawing.

A curve is the mean over seeds. Thin lines, or bars, show the single seeds.
"""

from __future__ import annotations

import statistics
from collections import defaultdict

from src.storage.metric_names import metric_name
from src.study.page import numbers as n
from src.study.page.blocks import BAD, GOOD, Column, Entry, Figure, Gallery, Heading, Section, Table
from src.study.page.chart import Axis, Chart, Level, Line, Point, draw
from src.study.page.evidence import REPORT, Bin, Document, Key, Run, label

MOST_ROWS = 16  # of the table behind a curve
MOST_OF_A_KIND = 2  # samples of a model that are right, and that are wrong
MOST_OPEN = 6  # examples that are shown without being asked for
MOST_SEEDS = 10  # thin lines of one model


def build(document: Document) -> list:
    blocks = []
    for i, task in enumerate(document.tasks()):
        groups = _groups(document, task)
        parts = _parts(document, f"task-{i}", task, groups) if groups else []
        blocks += [Heading(task), *parts] if parts else []
    return blocks


def _groups(document: Document, task: str) -> dict[Key, list[Run]]:
    """The runs of each model of a task, without those of the tuning seed."""
    found: dict[Key, list[Run]] = defaultdict(list)
    for run in document.runs:
        if run.task == task and run.role == REPORT:
            found[run.key].append(run)
    return dict(found)


def _parts(document: Document, key: str, task: str, groups: dict[Key, list[Run]]) -> list:
    looks = document.labels()
    placed = {looks.index(label(k)): runs for k, runs in groups.items()}
    figures = [_learning(key, task, placed), _distance(key, task, placed), _length(key, task, placed)]
    figures = [figure for figure in figures if figure is not None]
    legend = tuple((look, looks[look]) for look in placed)
    samples = _samples(key, task, groups)
    blocks = [Gallery("", tuple(figures), legend)] if figures else []
    return [*blocks, samples] if samples else blocks


# Learning curves


def _learning(key: str, task: str, placed: dict[int, list[Run]]) -> Figure | None:
    """Validation loss against the step."""
    lines, table, first = [], {}, None
    for look, runs in placed.items():
        curves = [run.losses for run in runs if run.losses]
        if not curves:
            continue
        name, first = label(runs[0].key), first or runs[0]
        means = mean_curve(curves)
        table[name] = dict(means)
        points = tuple(Point(x, y, f"{name}, step {n.plain(x)}: loss {n.plain(y)}") for x, y in means)
        lines.append(Line(look, points, tuple(curves[:MOST_SEEDS]) if len(curves) > 1 else ()))
    if not lines:
        return None
    ends = "; ".join(f"{name} ends at {n.plain(list(v.values())[-1])}" for name, v in table.items())
    chart = Chart(
        f"{key}-loss",
        f"{task}: validation loss while it learns",
        f"Loss against the training step. {ends}.",
        Axis("training step"),
        Axis(metric_name("loss", first.loss_unit), low=0.0),
        tuple(lines),
    )
    return Figure(chart.key, "Learning: validation loss", draw(chart), _table_of(chart.key, "step", "loss", table))


def mean_curve(curves) -> list[tuple[float, float]]:
    """The mean of several curves at each x that more than half of them have."""
    values: dict[float, list[float]] = defaultdict(list)
    for curve in curves:
        for x, y in curve:
            values[x].append(y)
    return [(x, _mean(ys)) for x, ys in sorted(values.items()) if 2 * len(ys) > len(curves)]


# Accuracy against distance and length


def _distance(key: str, task: str, placed: dict[int, list[Run]]) -> Figure | None:
    found = {look: [run for run in runs if run.gaps] for look, runs in placed.items()}
    first = next((run for runs in found.values() for run in runs), None)
    if first is None:
        return None
    curves = {look: pooled([run.gaps for run in runs]) for look, runs in found.items() if runs}
    axis = Axis(first.gap_label or "distance (characters)", is_log=True)
    title = f"{task}: {first.gap_metric} against distance"
    return _reach(f"{key}-gap", "Reach: score against distance", title, axis, first.gap_metric, curves, placed, ())


def _length(key: str, task: str, placed: dict[int, list[Run]]) -> Figure | None:
    found = {look: [run for run in runs if len(run.lengths) > 1] for look, runs in placed.items()}
    first = next((run for runs in found.values() for run in runs), None)
    if first is None:
        return None
    curves = {look: pooled([run.lengths for run in runs]) for look, runs in found.items() if runs}
    levels = [] if first.trained_to is None else [Level(first.trained_to, "trained up to here", is_vertical=True)]
    levels += [] if first.chance is None else [Level(first.chance, f"chance {n.share(first.chance)}")]
    title = f"{task}: {first.metric} against length"
    axis = Axis("length (characters)", is_log=True)
    caption = "Generalisation: score against length"
    return _reach(f"{key}-length", caption, title, axis, first.metric, curves, placed, tuple(levels))


def pooled(curves) -> list[Bin]:
    """The mean over seeds of each point, weighted by its items; the bar is the range of the seeds.

    Of a single seed the bar is the interval of test sampling.
    """
    if len(curves) == 1:
        return list(curves[0])
    values: dict[float, list[Bin]] = defaultdict(list)
    for curve in curves:
        for one in curve:
            values[one.x].append(one)
    found = []
    for x, bins in sorted(values.items()):
        total = sum(b.count for b in bins)
        mean = sum(b.value * b.count for b in bins) / total if total else _mean([b.value for b in bins])
        found.append(Bin(x, mean, min(b.value for b in bins), max(b.value for b in bins), total))
    return found


def _reach(key, caption, title, axis, metric, curves: dict[int, list[Bin]], placed, levels) -> Figure:
    lines, table = [], {}
    for look, bins in curves.items():
        name, seeds = label(placed[look][0].key), len(placed[look])
        what = "range of the seeds" if seeds > 1 else "95 %"
        points = tuple(
            Point(
                b.x,
                b.value,
                f"{name}, {n.plain(b.x)}: {n.score(b.value, b.low, b.high)} ({what}, n={n.whole(b.count)})",
                b.low,
                b.high,
            )
            for b in bins
        )
        lines.append(Line(look, points))
        table[name] = {b.x: (b.value, n.score(b.value, b.low, b.high)) for b in bins}
    ends = "; ".join(
        f"{name}: {n.share(rows[min(rows)][0])} to {n.share(rows[max(rows)][0])}"
        for name, rows in table.items()
        if rows
    )
    about = (
        f"From the nearest to the farthest point. {ends}. Bars are ranges of the seeds, or 95 % intervals of one seed."
    )
    chart = Chart(key, title, about, axis, Axis(metric, low=0.0, high=1.0), tuple(lines), levels)
    return Figure(key, caption, draw(chart), _table_of(key, axis.label, metric, table))


def _table_of(key: str, x_name: str, what: str, curves: dict[str, dict]) -> Table:
    """The numbers behind curves: a row per x, a column per model."""
    xs = sorted({x for rows in curves.values() for x in rows})
    if len(xs) > MOST_ROWS:
        xs = [xs[round(i * (len(xs) - 1) / (MOST_ROWS - 1))] for i in range(MOST_ROWS)]
    rows = tuple((Entry(n.plain(x), x), *(_entry(rows.get(x)) for rows in curves.values())) for x in xs)
    columns = (Column(x_name, "number"), *(Column(name, "number") for name in curves))
    return Table(f"{key}-data", f"{what} by {x_name}", columns, rows, folded=True, is_result=False)


def _entry(value) -> Entry:
    if value is None:
        return Entry(n.MISSING)
    return Entry(value[1], value[0]) if isinstance(value, tuple) else Entry(n.plain(value), value)


# Samples


def _samples(key: str, task: str, groups: dict[Key, list[Run]]) -> Table | None:
    """Some examples that each model gets right, and some that it gets wrong, of its first seed."""
    rows = []
    for group_key, runs in groups.items():
        run = next((run for run in runs if run.samples), None)
        if run is None:
            continue
        for is_right in (True, False, None):
            some = [s for s in run.samples if s.is_right is is_right][:MOST_OF_A_KIND]
            rows += [(label(group_key), _mark(is_right), s.prompt, s.expected, s.got) for s in some]
    if not rows:
        return None
    columns = (
        Column("model"),
        Column("answer"),
        *(Column(name, "code") for name in ("prompt", "expected", "got")),
    )
    note = f"At most {MOST_OF_A_KIND} examples of each kind, of the first seed."
    caption = f"{task}: what the models write ({n.counted(len(rows), 'example')})"
    folded = len(rows) > MOST_OPEN
    return Table(f"{key}-samples", caption, columns, tuple(rows), note, folded, is_result=False)


def _mark(is_right: bool | None) -> Entry:
    if is_right is None:
        return Entry("continuation")
    return Entry("✓ right", 1.0, GOOD) if is_right else Entry("✗ wrong", 0.0, BAD)


def _mean(values) -> float:
    """The mean of finite numbers; of such that their sum is too large, their median."""
    try:
        return statistics.fmean(values)
    except OverflowError:
        return statistics.median(values)


TASKS = Section("tasks", "Task by task", build, "no run directory with curves was given")
