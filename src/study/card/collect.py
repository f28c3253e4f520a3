"""From folders of `compare` to the tables of baselines: ROOT/ROW/LAYER, one finished comparison in each.

    tables, lines = collect(suite, "runs/core")        # lines: what is not finished, or not of this suite

The probe of a table is made now, by the code that runs this. So runs are collected with the code that made them, or
with one whose mathematics is the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from src.flags.fields import UserError
from src.study.card.baselines import Found, Table, open_folder, path_of, read_table, write_table
from src.study.card.baselines import merged as merged_with
from src.study.card.runs import without_text
from src.study.card.scores import DATA_DIGITS
from src.study.card.suite import Row, Suite, file_name
from src.study.card.validity import (
    RowData,
    data_of,
    expected_setup,
    flag_names,
    flags_digest,
    probe_of,
    recorded_setup,
)


def folder_of(root: Path, row: str, label: str) -> Path:
    """Where the runs of one row and one layer are."""
    return Path(root) / row / file_name(label)


def collect(suite: Suite, root: Path, labels: Iterable[str] = ()) -> tuple[list[Table], list[str]]:
    """The tables of the layers that have a finished row, and one line per row and layer that is left out."""
    root, tables, lines = Path(root), [], []
    present = []
    for row in suite.rows:
        why = without_text(suite, row)
        lines += [f"{row.name}: {why}"] if why else []
        present += [] if why else [row]
    data = {row.name: data_of(suite, row) for row in present}
    for label in labels or suite.layers:
        found = {}
        for row in present:
            try:
                found[row.name] = _checked(suite, root, row, label, data[row.name])
            except UserError as error:
                lines.append(f"{row.name}, {label}: {error}")
        if found:
            tables.append(_table(suite, label, found, data))
    return tables, lines


def is_finished(suite: Suite, root: Path, row: Row, label: str, data: RowData) -> bool:
    """Whether the runs of a row and a layer are finished, and those of the suite as it is today."""
    try:
        _checked(suite, root, row, label, data)
    except UserError:
        return False
    return True


def _checked(suite: Suite, root: Path, row: Row, label: str, data: RowData) -> Found:
    """The runs in the folder of a row and a layer. UserError where there are none, or these of another suite."""
    folder = folder_of(root, row.name, label)
    if not (folder / "config.json").is_file():
        raise UserError("not begun")
    found = open_folder(folder, row, label)
    wanted, made = expected_setup(suite, row, label), recorded_setup(found)
    differing = [name for name in flag_names(wanted) if getattr(wanted.args, name) != getattr(made.args, name, None)]
    if differing:
        values = ", ".join(
            f"--{name} {getattr(made.args, name, 'absent')} (the suite: {getattr(wanted.args, name)})"
            for name in differing
        )
        raise UserError(f"made with other flags: {values}")
    first = next((run for run in found.runs if run["seed"] == suite.seeds[0]), None)
    if first is None or first["data_digest"] != data.examples[:DATA_DIGITS]:
        raise UserError("made with other data, or without the first seed of the suite")
    rates = sorted(found.facts["tried"])
    if not set(suite.rates) <= set(rates) and len(suite.rates) > 1:
        raise UserError(f"learning rates {rates} were tried, the suite has {sorted(suite.rates)}")
    return found


def _table(suite: Suite, label: str, found: dict[str, Found], data: dict[str, RowData]) -> Table:
    """The table of one layer from its finished rows. Its flags are those of all rows, so that rows may be added."""
    setups = {name: expected_setup(suite, suite.row(name), label) for name in data}
    names = tuple(sorted({name for setup in setups.values() for name in flag_names(setup)}))
    rows = {
        name: {
            **one.facts,
            "task": " ".join([suite.row(name).task.name, *suite.row(name).task.flags]),
            "data": data[name].digest,
            "flags": flags_digest(setups[name], names),
        }
        for name, one in found.items()
    }
    origin = next(iter(found.values())).origin
    runs = tuple(run for one in found.values() for run in one.runs)
    return Table(label, suite.name, suite.protocol_digest(), probe_of(suite, label), names, rows, runs, origin)


def store(suite: Suite, folder: Path, tables: Iterable[Table]) -> list[Path]:
    """Write the tables. Rows of an earlier file that are not among the new ones stay where the code is the same."""
    paths = []
    for table in tables:
        old = path_of(folder, table.label)
        try:
            before = read_table(old, table.label, suite) if old.is_file() else None
        except UserError:  # an edited or foreign file is what a new one is made for
            before = None
        paths.append(write_table(folder, merged_with(before, table, suite.rows)))
    return paths
