"""The scoreboard: each model's score on each task with every seed, on which terms, and which differences are shown."""

from __future__ import annotations

from src.study.page import numbers as n
from src.study.page.blocks import BAD, GOOD, WARN, Column, Entry, Figure, Gallery, Section, Table
from src.study.page.chart import Dots, Point, Row, draw_dots
from src.study.page.evidence import Cell, Difference, Document, label

TONES = {"better": GOOD, "worse": BAD, "equivalent": GOOD, "no verdict": WARN}
MOST_MODELS = 24  # rows of dots in one drawing
WORST = -0.5  # scaled scores below are drawn at this place


def build(document: Document) -> list:
    if not document.cells:
        return []
    blocks = [_gallery(document), scores(document), terms(document)]
    blocks += [differences(document)] if document.differences else []
    return [*blocks, suite(document)] if document.suite else blocks


# Drawings


def _gallery(document: Document) -> Gallery:
    """A drawing of dots per task."""
    figures = []
    for i, task in enumerate(document.tasks()):
        cells = [cell for cell in document.cells if cell.task == task]
        for start in range(0, len(cells), MOST_MODELS):
            figures.append(_dots(document, f"dots-{i}-{start}", task, cells[start : start + MOST_MODELS]))
    note = (
        "Small dots: one seed each. Large marker and bar: the mean and its 95 % interval. 0 is chance, 1 the best "
        "possible score."
    )
    return Gallery("Scaled score on each task", tuple(figures), note=note)


def _dots(document: Document, key: str, task: str, cells: list[Cell]) -> Figure:
    looks = document.labels()
    rows = tuple(_row(cell, looks.index(label(cell.key))) for cell in cells)
    places = [dot.x for row in rows for dot in row.dots]
    described = "; ".join(f"{row.name}: {row.text}" for row in rows)
    metric = n.listed(dict.fromkeys(cell.metric for cell in cells))
    zero, one = _ends(cells)
    dots = Dots(
        key,
        f"{task}: scaled {metric}",
        f"Scaled scores from chance (0) to the ceiling (1). {described}.",
        rows,
        zero,
        one,
        low=max(WORST, min(places, default=0.0)),
        high=min(1.5, max(places, default=1.0)),
    )
    return Figure(key, f"{task} ({metric})", draw_dots(dots), _seeds(key, task, cells))


def _ends(cells: list[Cell]) -> tuple[str, str]:
    """What 0 and 1 stand for, as scores where they are the same for all."""
    chances = {n.share(cell.chance) for cell in cells}
    ceilings = {n.share(cell.ceiling) for cell in cells}
    zero = f"chance {next(iter(chances))}" if len(chances) == 1 else "chance"
    return zero, f"ceiling {next(iter(ceilings))}" if len(ceilings) == 1 else "ceiling"


def _row(cell: Cell, look: int) -> Row:
    name, scaled = label(cell.key), [cell.scale(value) for value in cell.values]
    seeds = [f"seed {seed}" for seed in cell.seeds] if len(cell.seeds) == len(cell.values) else []
    seeds += ["a seed"] * (len(scaled) - len(seeds))
    dots = tuple(
        Point(place, 0.0, f"{name}, {seed}: {n.share(value)} (scaled {n.share(place)})")
        for place, value, seed in zip(scaled, cell.values, seeds, strict=True)
        if place is not None
    )
    place, told = cell.scale(cell.mean), n.score(cell.mean, cell.low, cell.high)
    mean = None
    if place is not None:
        low, high = cell.scale(cell.low), cell.scale(cell.high)
        mean = Point(place, 0.0, f"{name}, mean of {n.counted(len(dots), 'seed')}: {told}", low, high)
    return Row(look, name, f"{told}, n={len(cell.values)}", dots, mean)


def _seeds(key: str, task: str, cells: list[Cell]) -> Table:
    """The numbers behind the dots."""
    rows = []
    for cell in cells:
        values = " ".join(n.share(value) for value in cell.values) or n.MISSING
        rows.append((label(cell.key), values, *_scores(cell)))
    columns = (Column("model"), Column("score of each seed", "number"), *SCORES)
    return Table(f"{key}-data", f"{task}: every seed", columns, tuple(rows), folded=True, is_result=False)


SCORES = tuple(Column(name, "number") for name in ("mean", "95 % interval", "scaled"))


def _scores(cell: Cell) -> tuple[Entry, Entry, Entry]:
    places = n.decimals(cell.low, cell.high)
    return (
        Entry(n.share(cell.mean, places), cell.mean),
        Entry(n.interval(cell.low, cell.high), cell.low),
        Entry(n.share(cell.scale(cell.mean), places), cell.scale(cell.mean)),
    )


# Tables


def scores(document: Document) -> Table:
    """A row per task, model and setting. Metric and ceiling have columns where they are not the same for all."""
    cells = document.cells
    metrics, ceilings = {cell.metric for cell in cells}, {cell.ceiling for cell in cells}
    extra = [("metric", "text", lambda c: c.metric)] * (len(metrics) > 1)
    extra += [("ceiling", "number", lambda c: Entry(n.share(c.ceiling), c.ceiling))] * (ceilings != {1.0})
    names = ("seeds", "median", "mean", "95 % interval", "scaled", "solved", "steps to solve", "chance")
    columns = (Column("model"), Column("task"), *(Column(name, "number") for name in names))
    columns += tuple(Column(name, kind) for name, kind, _ in extra)
    rows = tuple((*_score_row(cell), *(of(cell) for _, _, of in extra)) for cell in cells)
    metric = f": {next(iter(metrics))}" if len(metrics) == 1 else ""
    return Table("scores", f"Scores over seeds, on the test set{metric}", columns, rows, _score_note(cells), group=1)


def _score_note(cells: list[Cell]) -> str:
    methods = n.listed(dict.fromkeys(cell.interval for cell in cells if cell.interval))
    note = f"Intervals: {methods}. " if methods else ""
    return note + (
        "Scaled: 0 is chance, 1 the ceiling. Solved: seeds whose score reaches the threshold, with its 95 % interval "
        "(Clopper-Pearson). Steps to solve: median over seeds until validation reached it. A diverged run counts at "
        "chance."
    )


def _score_row(cell: Cell) -> tuple:
    seeds = f"{len(cell.values)}" + (f" ({n.counted(cell.holes, 'hole')})" if cell.holes else "")
    seeds += f", {cell.diverged} diverged" if cell.diverged else ""
    return (
        label(cell.key),
        cell.task,
        Entry(seeds, len(cell.values), WARN if cell.holes or cell.diverged else ""),
        Entry(n.share(cell.median, n.decimals(cell.low, cell.high)), cell.median),
        *_scores(cell),
        _success(cell),
        _steps(cell),
        Entry(n.share(cell.chance), cell.chance),
    )


def _success(cell: Cell) -> Entry:
    s = cell.success
    if s is None:
        return Entry(n.MISSING)
    tone = GOOD if cell.is_solved else ""
    ends = "" if s.low is None or s.high is None else f" [{s.low:.2f}, {s.high:.2f}]"
    return Entry(f"{s.k}/{s.n}{ends}", s.k / s.n if s.n else None, tone)


def _steps(cell: Cell) -> Entry:
    if cell.median_steps is not None:
        return Entry(n.whole(round(cell.median_steps)), cell.median_steps)
    if cell.success is None or cell.steps is None or 2 * cell.success.k >= cell.success.n:
        return Entry(n.MISSING)  # half of the seeds solve it, and when they first did is not known
    return Entry(f"> {n.whole(cell.steps)}", float(cell.steps) + 0.5)


def terms(document: Document) -> Table:
    """On which terms the models were compared."""
    sized = ("parameters", "outside embeddings and head", "decoding state", "characters seen", "steps", "learning rate")
    columns = (
        Column("model"),
        Column("task"),
        *(Column(name, "number") for name in sized),
        Column("block"),
        Column("initialisation"),
        Column("positions"),
    )
    groups: dict[tuple, list[str]] = {}
    for cell in document.cells:
        groups.setdefault((label(cell.key), *_term_entries(cell)), []).append(cell.task)
    tasks = document.tasks()
    rows = tuple((name, _tasks(found, tasks), *entries) for (name, *entries), found in groups.items())
    note = (
        "Decoding state: bytes that the model keeps while it writes one sequence, measured at the longest of the task."
    )
    return Table("terms", "Equal terms?", columns, rows, note)


def _term_entries(cell: Cell) -> tuple:
    return (
        Entry(n.whole(cell.parameters), cell.parameters),
        Entry(n.whole(cell.layers), cell.layers),
        Entry(n.bytes_of(cell.state_bytes), cell.state_bytes),
        Entry(n.whole(cell.chars), cell.chars),
        Entry(_training(cell), cell.steps),
        Entry(n.MISSING if cell.lr is None else f"{cell.lr:g}", cell.lr),
        *(text or n.MISSING for text in (cell.block, cell.init, cell.pos)),
    )


def _training(cell: Cell) -> str:
    """'500', or '500; stopped at step 240, 260 and 250, solved'."""
    planned = n.whole(cell.steps)
    return f"{planned}; stopped at step {n.listed(map(n.whole, cell.stopped), 10)}, solved" if cell.stopped else planned


def _tasks(found: list[str], tasks: list[str]) -> str:
    """The tasks that have the same terms."""
    return f"all {len(tasks)} tasks" if len(found) == len(tasks) > 1 else n.listed(found, 10)


def differences(document: Document) -> Table:
    """Every pair of models that was judged."""
    numeric = ("difference [95 %]", "p (corrected)", "seeds", "over seeds and sequences")
    columns = (
        *(Column(name) for name in ("model", "against", "task", "verdict")),
        *(Column(name, "number") for name in numeric),
        Column("pair"),
    )
    note = "Difference: the score of the model minus that of the other, mean over seeds, with its 95 % interval."
    if document.alpha is not None:
        note += f" A difference is shown where the corrected p is at most {document.alpha:g}."
    smallest = [d.smallest_p for d in document.differences if d.smallest_p is not None]
    if smallest and document.alpha is not None and max(smallest) > document.alpha:
        note += f" An exact test over so few seeds cannot get below p = {n.probability(max(smallest))}."
    rows = tuple(_difference_row(d, document) for d in document.differences)
    return Table("pairs", "Differences between models", columns, rows, note, group=2)


def _difference_row(d: Difference, document: Document) -> tuple:
    value = Entry(n.difference(d.value, d.low, d.high), d.value)
    if d.improvement is not None:
        value = Entry(f"ahead with probability {d.improvement:.2f}", d.improvement - 0.5)
    return (
        label(("", d.b, d.setting)),
        d.a,
        f"{d.task}, length {d.length}" if d.length else d.task,
        Entry(_verdict(d, document) or n.MISSING, None, TONES.get(d.verdict, "")),
        value,
        Entry(n.probability(d.p), d.p),
        Entry(str(len(d.seeds)) if d.seeds else n.MISSING, len(d.seeds)),
        Entry(n.interval(d.items_low, d.items_high), d.items_low),
        "planned" if d.is_headline else "exploratory",
    )


def _verdict(d: Difference, document: Document) -> str:
    """The word of the verdict, with the budget of a negative one."""
    if d.verdict == "equivalent" and document.margin is not None:
        return f"equivalent within {document.margin:g}"
    if d.verdict == "no verdict" and d.needed is not None:
        return f"no verdict: takes {n.counted(d.needed, 'seed')}"
    steps = d.steps or max((c.steps for c in document.cells if c.task == d.task and c.steps is not None), default=None)
    within = f" within {n.whole(steps)} steps" if steps and d.verdict in ("no difference shown", "worse") else ""
    return f"{d.verdict}{within}{', every seed apart' if d.is_separated else ''}"


def suite(document: Document) -> Table:
    """The aggregate over all tasks."""
    columns = (Column("model"), Column("IQM of scaled scores", "number"), Column("tasks", "number"))
    rows = tuple(
        (
            label(("", s.model, s.setting)),
            Entry(n.score(s.value, s.low, s.high), s.value),
            Entry(n.whole(s.tasks), s.tasks),
        )
        for s in document.suite
    )
    note = (
        "Interquartile mean over all seeds and tasks, with a 95 % interval of a bootstrap that keeps the tasks "
        "(Agarwal et al. 2021)."
    )
    return Table("suite", "All tasks together", columns, rows, note)


SCOREBOARD = Section("scoreboard", "Scoreboard", build, "no run has a score")
