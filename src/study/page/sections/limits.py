"""What the page does not show: what is missing, what may come out otherwise, and what makes a comparison unequal."""

from __future__ import annotations

import itertools
from collections import defaultdict

from src.study.page import numbers as n
from src.study.page.blocks import Column, Entry, Notes, Section, Table, named
from src.study.page.evidence import Document, Run, label

FEW_SEEDS = 5
MOST_NOTES = 12  # sentences of runs that are listed
UNEQUAL = 1.05  # parameters outside embeddings that differ by more than this factor


def build(document: Document) -> list:
    kinds = (
        ("Missing", missing(document)),
        ("May change with more work", budget(document)),
        ("Unequal terms", terms(document)),
        ("What the intervals cover", intervals(document)),
        ("Notes of the runs", notes(document)),
    )
    blocks: list = [Notes(heading, tuple(found)) for heading, found in kinds if found]
    return [*blocks, _holes(document)] if document.holes else blocks


def name_of(key) -> str:
    """The label of a cell as a name in a sentence."""
    return named(label(key))


def missing(document: Document) -> list[str]:
    found = []
    if document.holes:
        of = f" of {document.planned:,}" if document.planned else ""
        verb = "has" if len(document.holes) == 1 else "have"
        found.append(f"{len(document.holes)}{of} planned runs {verb} no usable result; the table below names each.")
    diverged = sum(cell.diverged for cell in document.cells)
    if diverged:
        verb = "run" if diverged == 1 else "runs"
        found.append(f"{diverged} {verb} diverged. A diverged run counts with the chance level, so it lowers the mean.")
    return found


def budget(document: Document) -> list[str]:
    """Edges of the learning rates, and tasks that are unsolved within the steps that were given."""
    found = []
    at_edge = [f"{name_of(c.key)} on {named(c.task)}" for c in document.cells if c.at_edge == "yes"]
    if at_edge:
        found.append(
            f"The best learning rate is at the edge of those tried: {n.listed(at_edge, 6)}. Another may be better."
        )
    single = [f"{name_of(c.key)} on {named(c.task)}" for c in document.cells if c.at_edge == "one rate"]
    if single:
        found.append(f"One learning rate only, not tuned: {n.listed(single, 6)}.")
    for task in document.tasks():
        unsolved = [c for c in document.cells if c.task == task and c.success is not None and not c.is_solved]
        steps = max((c.steps for c in unsolved if c.steps is not None), default=None)
        if unsolved:
            within = f"within {steps:,} steps" if steps else "within the steps that were given"
            names = n.listed((name_of(c.key) for c in unsolved), 5)
            found.append(f"{named(task)} is not solved {within} by {names}. More steps, data or width may solve it.")
    return found


def terms(document: Document) -> list[str]:
    found = []
    for task in document.tasks():
        cells = [cell for cell in document.cells if cell.task == task]
        sizes = sorted({cell.layers or cell.parameters for cell in cells} - {None})
        if len(sizes) > 1 and sizes[-1] > UNEQUAL * sizes[0]:
            ratio = n.plain(sizes[-1] / sizes[0])
            found.append(f"{named(task)}: the largest model has {ratio} times the parameters of the smallest.")
        for what, values in (("positions", {c.pos for c in cells}), ("initialisation", {c.init for c in cells})):
            if len(values - {""}) > 1:
                found.append(f"{named(task)}: the models differ in {what} ({n.listed(sorted(values - {''}))}).")
    found += _data(document) + _machines(document)
    cheats = dict.fromkeys(name_of(run.key) for run in document.runs if run.sees_the_future)
    if cheats:
        found.append(f"NOT CAUSAL, or not judged: {n.listed(cheats)}. A layer that sees the answer has no score.")
    replayed = dict.fromkeys(name_of(run.key) for run in document.runs if run.cache == "replay")
    if replayed:
        found.append(
            f"Decoding by replay: {n.listed(replayed)}. The state is the whole prefix, and each token is slower."
        )
    found += [f"The gate warned of {named(model)}: {words}" for model, words in dict.fromkeys(document.warnings)]
    return found


def _data(document: Document) -> list[str]:
    """Runs of one task and seed that read different data, and texts of different sources."""
    found, by_seed, sources = [], defaultdict(set), defaultdict(set)
    for run in document.runs:
        if run.data_digest:
            by_seed[run.task, run.seed].add(run.data_digest)
        if run.source:
            sources[run.task].add(run.source)
    different = list(dict.fromkeys(task for (task, _), digests in by_seed.items() if len(digests) > 1))
    if different:
        found.append(
            f"Runs of the same seed read different data: {n.listed(map(named, different))}. Scores are not paired."
        )
    for task, names in sources.items():
        if len(names) > 1:
            found.append(f"{named(task)}: the text comes from different sources ({n.listed(sorted(names))}).")
    return found


def _machines(document: Document) -> list[str]:
    """Commits, versions, machines and precisions that differ, and working trees with changes."""
    origins = [run.origin for run in document.runs] + [s.origin for s in document.sources if s.origin is not None]
    found = []
    for what, values in (
        ("commits", {o.commit[:12] for o in origins}),
        ("machines", {o.device for o in origins}),
        ("versions of the packages", {", ".join(map(" ".join, o.versions)) for o in origins}),
        ("precisions", {run.precision for run in document.runs}),
        ("numbers of threads", {str(run.threads) for run in document.runs if run.threads}),
    ):
        if len(values - {""}) > 1:
            found.append(f"The numbers come from several {what}: {n.listed(sorted(values - {''}))}.")
    if any(origin.dirty for origin in origins):
        found.append("Some numbers come from a working tree with changes (dirty), which nobody else can check out.")
    return found


def intervals(document: Document) -> list[str]:
    found = []
    single = [c for c in document.cells if len(c.values) == 1]
    few = [c for c in document.cells if 1 < len(c.values) < FEW_SEEDS]
    if single:
        found.append(
            f"{n.counted(len(single), 'score')} of one seed: the interval covers the choice of test sequences alone, "
            "and another seed may differ by more."
        )
    if few:
        sizes = sorted({len(c.values) for c in few})
        found.append(f"{n.listed(map(str, sizes))} seeds per score are few: an interval over them is wide and rough.")
    repeated = [f"{name_of(c.key)} on {named(c.task)}" for c in document.cells if len(set(c.seeds)) < len(c.seeds)]
    if repeated:
        found.append(f"A seed occurs twice in {n.listed(repeated)}: these runs are not independent of each other.")
    exploratory = [d for d in document.differences if not d.is_headline]
    if exploratory and len(exploratory) < len(document.differences):
        found.append(
            f"{n.counted(len(exploratory), 'pair')} of models were not planned as a comparison: they are exploratory."
        )
    if document.cells:
        found.append("Small models on small tasks: nothing here says how a larger model, or another task, comes out.")
    else:
        found.append("Nothing was trained: the page says what the models cost, not what they learn.")
    return found


def notes(document: Document) -> list[str]:
    """What the comparisons and the runs say about themselves, equal sentences once."""
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in document.runs:
        if run.role == "report":
            for note in run.notes:
                groups[note].append(run)
    found = list(dict.fromkeys(document.notes))
    for note, runs in itertools.islice(groups.items(), MOST_NOTES):
        names = dict.fromkeys(f"{name_of(run.key)} on {named(run.task)}" for run in runs)
        found.append(f"{n.listed(names, 3)} ({n.counted(len(runs), 'run')}): {note}.")
    if len(groups) > MOST_NOTES:
        found.append(f"{len(groups) - MOST_NOTES} further notes are in the `notes` of metrics.json of the runs.")
    return found


def _holes(document: Document) -> Table:
    columns = (Column("model"), Column("task"), Column("seed", "number"), Column("role"), Column("rate"), Column("why"))
    rows = tuple(
        (
            label(hole.key),
            hole.key[0],
            Entry(n.MISSING if hole.seed is None else str(hole.seed), hole.seed),
            hole.role,
            n.MISSING if hole.lr is None else f"{hole.lr:g}",
            hole.why,
        )
        for hole in document.holes
    )
    return Table("holes", "Planned runs without a usable result", columns, rows)


LIMITS = Section("limits", "What this does not show", build, "nothing was found")
