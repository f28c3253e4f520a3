"""Cost: time, memory and decoding by length, from which length on a model is faster, and quality against both."""

from __future__ import annotations

import statistics
from collections import defaultdict

from src.measure.speed.panels import looks
from src.study.page import numbers as n
from src.study.page.blocks import Column, Entry, Figure, Gallery, Section, Table
from src.study.page.chart import Axis, Chart, Line, Point, draw
from src.study.page.evidence import Cell, Cost, Document, label

BYTES = 2**10  # one KiB


def build(document: Document) -> list:
    blocks = []
    for i, cost in enumerate(document.costs):
        blocks += _of_record(document, f"cost-{i}", cost)
    return [*blocks, *_frontier(document)]


# Records of `speed`


def _of_record(document: Document, key: str, cost: Cost) -> list:
    """Galleries of the panels of a record, and its crossover lengths."""
    places = document.labels()
    legend = tuple((places.index(model), model) for model in cost.models)
    blocks: list = []
    for panel, look in looks().items():
        rows = [r for r in cost.rows if r["panel"] == panel and r["value"] is not None and r["x"] is not None]
        for batch in sorted({r["batch"] or 0 for r in rows}) if look.batches_apart else [None]:
            mine = rows if batch is None else [r for r in rows if (r["batch"] or 0) == batch]
            figures = tuple(
                figure
                for axis in look.axes
                if (figure := _panel(f"{key}-{panel}-{batch or 0}-{axis.metric}", mine, axis, look.x_label, places))
            )
            where = f"{panel}, batch {batch}" if batch is not None else panel
            if figures:
                blocks.append(Gallery(f"{where.capitalize()} ({_machine(mine)})", figures, legend))
    if cost.crossovers:
        blocks.append(_crossovers(f"{key}-crossover", cost))
    missing = _not_measured(f"{key}-missing", cost)
    return [*blocks, missing] if missing else blocks


def _machine(rows: list[dict]) -> str:
    first = rows[0]
    threads = "" if first["threads"] is None else f", {n.counted(first['threads'], 'thread')}"
    return f"{first['device']}{threads}, {first['precision']}"


def _panel(key: str, rows: list[dict], axis, x_label: str, places: list[str]) -> Figure | None:
    """One metric against length: the median of each model, with its quartiles."""
    lines, table = [], defaultdict(dict)
    for model in dict.fromkeys(r["model"] for r in rows):
        mine = sorted((r for r in rows if r["model"] == model and r["metric"] == axis.metric), key=lambda r: r["x"])
        points = []
        for r in mine:
            value, low, high = (None if r[k] is None else r[k] / axis.unit for k in ("value", "q1", "q3"))
            said = f"{n.plain(value)}" + ("" if low is None or high is None else f" [{n.plain(low)}, {n.plain(high)}]")
            points.append(Point(r["x"], value, f"{model}, {n.plain(r['x'])}: {said} {axis.label}", low, high))
            table[model][r["x"]] = (value, said + ("" if r["n"] is None else f", n={r['n']}"))
        if points:
            lines.append(Line(places.index(model), tuple(points)))
    if not any(p.y > 0 for line in lines for p in line.points):
        return None
    ends = "; ".join(f"{m}: {n.plain(rows[max(rows)][0])} at {n.plain(max(rows))}" for m, rows in table.items())
    title = f"{axis.label} by {x_label}"
    chart = Chart(key, title, f"{ends}.", Axis(x_label, is_log=True), Axis(axis.label, is_log=True), tuple(lines))
    xs = sorted({x for rows in table.values() for x in rows})
    body = tuple(
        (
            Entry(n.whole(int(x)), x),
            *(Entry(rows[x][1], rows[x][0]) if x in rows else n.MISSING for rows in table.values()),
        )
        for x in xs
    )
    columns = (Column(x_label, "number"), *(Column(model, "number") for model in table))
    note = "Median of the repeats [quartiles], n: repeats."
    return Figure(key, axis.label, draw(chart), Table(f"{key}-data", title, columns, body, note, True, True))


def _crossovers(key: str, cost: Cost) -> Table:
    columns = tuple(Column(name) for name in ("faster model", "than", "where", "of", "from length (tokens)"))
    rows = tuple((c.winner, c.loser, c.place, c.what, c.words or n.MISSING) for c in cost.crossovers)
    note = "From which length on the first model is faster; `none` means that it is faster at every length measured."
    return Table(key, "Crossover lengths", columns, rows, note)


def _not_measured(key: str, cost: Cost) -> Table | None:
    """What could not be measured, a row per reason."""
    groups: dict[tuple, list[float]] = defaultdict(list)
    for r in cost.rows:
        if r["status"] != "ok":
            groups[r["model"], r["panel"], r["status"], r["note"]].append(r["x"] or 0.0)
    if not groups:
        return None
    columns = (Column("model"), Column("panel"), Column("what happened"), Column("at"), Column("note"))
    rows = tuple((m, p, s, n.listed(map(n.plain, sorted(set(xs)))), note) for (m, p, s, note), xs in groups.items())
    return Table(key, "Not measured", columns, rows)


# Quality against cost


def _frontier(document: Document) -> list:
    """Scaled score against bytes of state, and against the time of the training."""
    places, figures = document.labels(), []
    times = _times(document)
    for i, task in enumerate(document.tasks()):
        cells = [cell for cell in document.cells if cell.task == task and cell.scale(cell.mean) is not None]
        states = {id(c): c.state_bytes / BYTES for c in cells if c.state_bytes}
        seconds = {id(c): times[c.key] for c in cells if times.get(c.key)}
        for kind, xs, axis in (("state", states, "decoding state (KiB)"), ("time", seconds, "training time (s)")):
            placed = [(c, xs[id(c)]) for c in cells if id(c) in xs]
            if len({x for _, x in placed}) > 1:
                figures.append(_scatter(f"frontier-{i}-{kind}", task, kind, axis, placed, places))
    if not figures:
        return []
    names = dict.fromkeys(label(cell.key) for cell in document.cells)
    note = (
        "Up and to the left is better. Bars: 95 % intervals. The training time is that of the runs themselves, median "
        "over seeds; runs that shared a machine slow each other down."
    )
    return [Gallery("Quality against cost", tuple(figures), tuple((places.index(m), m) for m in names), note)]


def _times(document: Document) -> dict:
    """{key: median seconds of the training} of the runs that were read."""
    found = defaultdict(list)
    for run in document.runs:
        if run.train_s and run.role == "report":
            found[run.key].append(run.train_s)
    return {key: statistics.median(values) for key, values in found.items()}


def _scatter(key: str, task: str, kind: str, axis: str, placed: list[tuple[Cell, float]], places: list[str]) -> Figure:
    lines, rows = [], []
    for cell, x in placed:
        name, y = label(cell.key), cell.scale(cell.mean)
        low, high = cell.scale(cell.low), cell.scale(cell.high)
        said = n.score(y, low, high)
        point = Point(x, y, f"{name}: {said} at {n.plain(x)} {axis}", low, high, True)
        lines.append(Line(places.index(name), (point,), is_joined=False))
        rows.append((name, Entry(n.plain(x), x), Entry(said, y), Entry(str(len(cell.values)), len(cell.values))))
    best = max(rows, key=lambda row: row[2].sort)
    about = (
        f"{n.counted(len(rows), 'model')}. The highest scaled score is {best[2].text}, of {best[0]} at {best[1].text}."
    )
    title = f"{task}: scaled score against {axis}"
    chart = Chart(key, title, about, Axis(axis, is_log=True), Axis("scaled score", low=0.0, high=1.0), tuple(lines))
    columns = (Column("model"), *(Column(c, "number") for c in (axis, "scaled score", "seeds")))
    table = Table(f"{key}-data", title, columns, tuple(rows), folded=True, is_result=False)
    return Figure(key, f"{task}: score against {'state' if kind == 'state' else 'time'}", draw(chart), table)


COST = Section("cost", "Cost", build, "no record of `speed` was given, and no two models differ in state or time")
