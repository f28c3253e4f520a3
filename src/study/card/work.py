"""The work of `card`: check the records, prepare every run, show the plan, run it, and write card.json and the page.

    code = run(argv, suite, models, config, control)

Nothing is written before the suite, the records, the gate and every cell are known to be right.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from src.flags.fields import UserError
from src.storage.files import seal, write_json
from src.study.card import cards
from src.study.card.baselines import Table, read_tables, records_of
from src.study.card.runs import Prepared, check_layers, prepare
from src.study.card.scores import in_words
from src.study.card.suite import Suite
from src.study.card.validity import MISSING, STALE, VALID, Status, check_baselines
from src.study.comparison import cost, folder, gate, planned
from src.study.comparison.campaign import Campaign
from src.study.engines.local import usable_cores
from src.study.page.card import NAME

COMMAND = "card"


def run(argv: list[str], suite: Suite, models: Sequence[str], config, control) -> int:
    """Make the cards of these layers; returns the exit code. config, control: of src/commands/card.py."""
    place = folder.Folder(control.out_dir)
    place.check(control.reuse)
    check_layers(suite)
    tables = _tables(suite, config.baselines)
    say = planned.sayer(control.quiet)
    prepared = prepare(suite, models, config.seeds, _words(config, control), say=say)
    asked, cells = prepared.asked, prepared.cells
    say("checking the layers of your own")
    checks = gate.checks_of(cells, gate.known_checks(place.path) if control.out_dir else {})
    _refuse_failed(checks)
    say("checking the records of the published layers")
    rows = [row for row in suite.rows if row.name not in prepared.missing]
    statuses = check_baselines(suite, tables, rows)
    say("")
    workers = control.workers or max(1, usable_cores() // asked.control.threads)
    notes = notes_of(suite, prepared, statuses)
    if config.plan or not control.quiet:
        lines = planned.lines(asked.comparison, cells, notes, workers)
        print("\n".join(lines), file=sys.stdout if config.plan else sys.stderr)
    if config.plan:
        return 0

    def finish(campaign: Campaign) -> list[str]:
        field = cards.field_of(suite, tables, statuses)
        files = {side.label for side in asked.comparison.models if side.is_file}
        document = cards.make(suite, cards.runs_of(campaign, suite), field, prepared.missing, files)
        write_json(place.path / NAME, seal(document))
        return lines_of(document)

    return folder.carry_out(place, argv, asked, cells, notes, workers, COMMAND, finish, checks)


def _tables(suite: Suite, given: str) -> dict[str, Table]:
    """The records. UserError where --baselines names no folder; that of a suite need not be there yet."""
    records = records_of(suite, given)
    if given and not records.is_dir():
        raise UserError(f"--baselines: got '{given}', allowed: a folder with records; --remake makes one")
    return read_tables(records, suite)


def _words(config, control) -> list[str]:
    """The words of `compare` for where it runs."""
    words = ["--workers", str(control.workers), "--timeout", f"{control.timeout:g}"]
    words += ["--out_dir", control.out_dir] if control.out_dir else []
    words += ["--reuse", *control.reuse] if control.reuse else []
    words += ["--cost"] if config.cost else []
    return [*words, *(["--quiet"] if control.quiet else [])]


def _refuse_failed(checks: Mapping[str, dict]) -> None:
    """UserError of one line for the first layer that fails `check`."""
    for label, found in checks.items():
        if found["verdict"] == "error":
            raise UserError(f"--model: '{label}' cannot be checked: {found['error']}")
        if found["verdict"] != "pass":
            failed = [result["name"] for result in found["results"] if result["status"] == "fail"]
            raise UserError(
                f"--model: '{label}' fails the gate ({', '.join(failed[:4])}), allowed: a layer that passes; see "
                f"`{' '.join(['benchmark.py', *found['asked']['words'][:-1]])}`"
            )


def notes_of(suite: Suite, prepared: Prepared, statuses: Mapping[tuple[str, str], Status]) -> list[str]:
    """What the plan says beside the runs: rows that are left out, and the state of the records."""
    notes = [f"row {name} is left out: {why}" for name, why in prepared.missing.items()]
    count = {word: sum(status.word == word for status in statuses.values()) for word in (VALID, STALE, MISSING)}
    rows, layers = len(suite.rows) - len(prepared.missing), len(suite.layers)
    notes.append(
        f"records of {layers} published layers on {rows} rows: {count[VALID]} valid, {count[STALE]} stale, "
        f"{count[MISSING]} missing"
    )
    for word in (STALE, MISSING):
        notes += _holes(suite, statuses, word, rows)
    return notes + (cost.notes(prepared.cells) if prepared.asked.comparison.config.cost else [])


def _holes(suite: Suite, statuses: Mapping[tuple[str, str], Status], word: str, rows: int) -> list[str]:
    """One line per layer and reason: 'stale: gru on recall, copy (the data of the row changed)'."""
    found: dict[tuple[str, str], list[str]] = {}
    for (label, row), status in statuses.items():
        if status.word == word:
            found.setdefault((label, status.why), []).append(row)
    return [
        f"{word}: {label} on {'all rows' if len(names) == rows else ', '.join(names)} ({why}), not ranked"
        for (label, why), names in found.items()
    ]


def lines_of(document: Mapping) -> list[str]:
    """What is printed at the end: per layer one line over all rows, then one line per row."""
    lines = []
    for card in document["cards"]:
        lines.append(f"{card['model']}: {card['sentence']}")
        width = max((len(row["row"]) for row in card["rows"]), default=0)
        lines += [f"  {row_words(row, width)}" for row in card["rows"]]
        lines += [f"  {hole['row'].ljust(width)}  no score: {hole['why']}" for hole in card["holes"]]
    return lines + [f"row {row['row']} is left out: {row['why']}" for row in document["missing"]]


def row_words(row: Mapping, width: int = 0) -> str:
    """'recall  0.98 [0.95, 1.00]  rank 1-3 of 14  solves recall of 16 pairs; ...'."""
    score = in_words(row["value"], row["low"], row["high"])
    rank = f"rank {row['rank']}" if row["rank"] else "not ranked"
    return f"{row['row'].ljust(width)}  {score}  {rank}  {row['sentence']}"
