"""From folders of `compare` to the tables of baselines: ROOT/ROW/LAYER, one finished comparison in each.

    made = Remade(suite, "runs/core", records)       # records: the folder with the tables
    made.is_finished(row, "gru")                     # as the suite would run it today, and with the code of today
    tables, lines = made.collect(["gru"])            # lines: what is not finished, or not of this suite
    paths, lines = store(suite, records, tables)     # lines: which rows of earlier tables were dropped

The probe of a table is made now, by the code that runs this. So the runs must be those of this code, or of a code that
computes the same: one whose table has a probe that passes today.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

from src.flags.fields import UserError
from src.setup.plan import Setup
from src.study.card.baselines import Found, Table, open_folder, path_of, read_table, write_table
from src.study.card.runs import without_text
from src.study.card.scores import DATA_DIGITS
from src.study.card.suite import Row, Suite, file_name
from src.study.card.validity import (
    VALID,
    Status,
    check_code,
    check_row,
    data_of,
    expected_setup,
    flag_names,
    flags_digest,
    probe_of,
    recorded_setup,
    same_probe,
)
from src.study.comparison.digest import code_digest


class Remade:
    """The runs of published layers below a folder.

    records: the folder with their tables.  seeds: how many fresh seeds are wanted; 0 = as many as the suite says.
    rows: those whose text is there.  missing: one line per other row.  data: {row: its RowData}.
    """

    def __init__(self, suite: Suite, root: Path, records: Path, seeds: int = 0):
        self.suite, self.root, self.records = suite, Path(root), Path(records)
        self.seeds = range(suite.seeds[0], suite.seeds[0] + (seeds or len(suite.seeds)))
        absent = {row.name: without_text(suite, row) for row in suite.rows}
        self.missing = [f"{name}: {why}" for name, why in absent.items() if why]
        self.rows = [row for row in suite.rows if not absent[row.name]]
        self.data = {row.name: data_of(suite, row) for row in self.rows}
        self._codes: dict[str, Status] = {}

    def folder(self, row: Row, label: str) -> Path:
        """Where the runs of one row and one layer are."""
        return self.root / row.name / file_name(label)

    def is_finished(self, row: Row, label: str) -> bool:
        """Whether the runs of a row and a layer are finished, and those of the suite as it is today."""
        try:
            self.open(row, label)
        except UserError:
            return False
        return True

    def open(self, row: Row, label: str) -> Found:
        """The runs of a row and a layer. UserError where there are none, or those of another suite or another code."""
        folder = self.folder(row, label)
        if not (folder / "config.json").is_file():
            raise UserError("not begun")
        found, wanted = open_folder(folder, row, label), expected_setup(self.suite, row, label)
        for problem in (
            _other_flags(wanted, recorded_setup(found)),
            self._other_seeds(row, found),
            _other_rates(self.suite, found),
            self._other_code(label, wanted, found),
        ):
            if problem:
                raise UserError(problem)
        return found

    def _other_seeds(self, row: Row, found: Found) -> str:
        runs = {run["seed"]: run for run in found.runs}
        lacking = [str(seed) for seed in self.seeds if seed not in runs]
        if lacking:
            return f"made without seed {', '.join(lacking)}"
        same = runs[self.seeds[0]]["data_digest"] == self.data[row.name].examples[:DATA_DIGITS]
        return "" if same else "made with other data"

    def _other_code(self, label: str, wanted: Setup, found: Found) -> str:
        """What is wrong with the code of the runs. A record with a passing probe shows that it computes the same."""
        if found.codes == {code_digest(wanted)}:
            return ""
        if label not in self._codes:
            self._codes[label] = self._recorded_code(label)
        known = self._codes[label]
        return "" if known.word == VALID else f"made with other code, which may compute something else ({known.why})"

    def _recorded_code(self, label: str) -> Status:
        before, why = _earlier(self.suite, self.records, label)
        return check_code(self.suite, before) if before else Status("", why or "the layer has no record")

    def collect(self, labels: Iterable[str]) -> tuple[list[Table], list[str]]:
        """The tables of the layers that have a finished row, and one line per row and layer that is left out."""
        tables, lines = [], list(self.missing)
        for label in labels:
            found = {}
            for row in self.rows:
                try:
                    found[row.name] = self.open(row, label)
                except UserError as error:
                    lines.append(f"{row.name}, {label}: {error}")
            try:
                tables += [_table(self.suite, label, found, self.data)] if found else []
            except UserError as error:
                lines.append(f"{label}: {error}")
        return tables, lines


def _other_flags(wanted: Setup, made: Setup) -> str:
    values = [
        f"--{name} {getattr(made.args, name, 'absent')} (the suite: {getattr(wanted.args, name)})"
        for name in flag_names(wanted)
        if getattr(wanted.args, name) != getattr(made.args, name, None)
    ]
    return f"made with other flags: {', '.join(values)}" if values else ""


def _other_rates(suite: Suite, found: Found) -> str:
    """What differs in how the learning rate was chosen. With --lr_extend there may be more rates than in the suite."""
    tried, wanted = set(found.facts["tried"]), set(suite.rates)
    if tried and found.tuning_seed != suite.tuning_seed:
        return f"learning rates were chosen on seed {found.tuning_seed}, the suite has {suite.tuning_seed}"
    chosen = {found.facts["lr"], *(run["lr"] for run in found.runs)}
    usual = wanted if len(wanted) > 1 else set()  # a single rate is not tried before
    is_usual = tried == usual or bool(suite.lr_extend and usual and tried > usual)
    if not (is_usual and chosen <= (tried or wanted)):
        return f"learning rates {sorted(tried or chosen)} were tried, the suite has {sorted(wanted)}"
    return ""


def _table(suite: Suite, label: str, found: Mapping[str, Found], data: Mapping) -> Table:
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
    runs = tuple(run for one in found.values() for run in one.runs)
    return Table(label, suite.name, suite.protocol_digest(), probe_of(suite, label), names, rows, runs)


# Into the files


def store(suite: Suite, folder: Path, tables: Iterable[Table]) -> tuple[list[Path], list[str]]:
    """Write the tables. Rows of an earlier file that are not among the new ones stay where the code computes the same.

    Returns the files, and one line per earlier row that is dropped.
    """
    paths, lines = [], []
    for table in tables:
        before, why = _earlier(suite, folder, table.label)
        whole, dropped = merged(suite, before, table)
        lines += [*([f"{table.label}: the earlier record is replaced: {why}"] if why else []), *dropped]
        paths.append(write_table(folder, whole))
    return paths, lines


def _earlier(suite: Suite, folder: Path, label: str) -> tuple[Table | None, str]:
    """(the table that a layer has, why it cannot be read). An edited or foreign file is what a new one is made for."""
    path = path_of(folder, label)
    try:
        return (read_table(path, label, suite) if path.is_file() else None), ""
    except UserError as error:
        return None, str(error)


def merged(suite: Suite, old: Table | None, new: Table) -> tuple[Table, list[str]]:
    """The new table with the rows of the old one that it lacks, and one line per row of the old one that is dropped.

    Each row keeps its own origin. The probe is then the old one, so that small differences do not add up.
    """
    kept, lines = {}, []
    for name in old.rows if old else ():
        if name not in new.rows:
            row, why = _carried_over(suite, old, new, name)
            kept |= {} if why else {name: row}
            lines += [f"{name}, {new.label}: dropped from the record: {why}"] if why else []
    if not kept:
        return new, lines
    order = [row.name for row in suite.rows]
    facts = {**kept, **new.rows}
    runs = [run for run in old.runs if run["row"] in kept] + list(new.runs)
    rows = {name: facts[name] for name in order if name in facts}
    ordered = sorted(runs, key=lambda run: (order.index(run["row"]), run["seed"]))
    return dataclasses.replace(new, probe=old.probe, rows=rows, runs=tuple(ordered)), lines


def _carried_over(suite: Suite, old: Table, new: Table, name: str) -> tuple[dict, str]:
    """(a row of an old table as one of the new table, why it cannot be one)."""
    stored, row = old.rows[name], next((row for row in suite.rows if row.name == name), None)
    if row is None:
        return {}, "the suite has no such row"
    if old.protocol != new.protocol:
        return {}, "its learning rates were chosen by another protocol"
    if not same_probe(old.probe, new.probe):
        return {}, "the code changed"
    if old.names == new.names:
        return stored, ""
    # The digest covers other flags than before. That of today may take its place where the record passes today.
    status = check_row(suite, old, row, stored["data"])
    if status.word != VALID:
        return {}, status.why
    return {**stored, "flags": flags_digest(expected_setup(suite, row, new.label), new.names)}, ""
