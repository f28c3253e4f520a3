"""The runs of layers that are not published ones, stored like the records of the published layers.

    PYTHONPATH=. python tests/card_records.py runs/sanity tests/study/sanity    # from a folder of `card`

So tests can make a card from runs that took an hour.
"""

import sys
from pathlib import Path

from src.storage.files import open_sealed
from src.study.card import baselines, cards
from src.study.card.baselines import Table, read_table
from src.study.card.suite import Suite, read_suite
from src.study.card.validity import VALID, Status
from src.study.comparison.stored import read_rows


def tables_of(folder: Path, suite: Suite) -> list[Table]:
    """The runs on fresh seeds in a finished folder of `card`. Nothing says whether they are valid: tests do not rank by
    them."""
    found: dict[str, dict[str, list]] = {}
    for row in read_rows(folder / "results.jsonl"):
        if row["role"] == "report" and row["status"] in ("done", "diverged"):
            found.setdefault(row["model"], {}).setdefault(row["task"], []).append(row)
    return [_table(suite, label, rows) for label, rows in found.items()]


def _table(suite: Suite, label: str, rows: dict[str, list]) -> Table:
    facts = {
        name: {"row": name, "task": "", "metric": runs[0]["metric"], "lr": runs[0]["lr"], "tried": {}}
        | {"data": "", "flags": "", **baselines.origin_of(runs)}
        for name, runs in rows.items()
    }
    runs = tuple(baselines._run(suite.row(name), run) for name, found in rows.items() for run in found)
    return Table(label, suite.name, suite.protocol_digest(), (), (), facts, runs)


def card_of(suite: Suite, path: Path, label: str, published: dict[str, Table]) -> dict:
    """The card of a stored layer, with every record of a published layer counted as valid."""
    table = read_table(path, label, suite)
    mine = {row.name: table.scores(row) for row in suite.rows if row.name in table.rows}
    statuses = {
        (name, row.name): Status(VALID if row.name in found.rows else "missing", "no recorded runs")
        for name, found in published.items()
        for row in suite.rows
    }
    document = cards.make(suite, {label: mine}, cards.field_of(suite, published, statuses), {}, {label})
    return document["cards"][0]


if __name__ == "__main__":
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    core = read_suite(open_sealed(source / "card.json")["suite"])
    for made in tables_of(source, core):
        print(baselines.write_table(target, made))
