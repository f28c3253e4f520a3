"""The table of `bench`, and the record that the README shows. No torch.

write_record(rows, RECORD, PAGE)     # runs/records/benchmarks/results.jsonl, and the table in the README
lines = table(read_record())
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from src.flags.hints import PROGRAM
from src.flags.kinds import UserError
from src.measure.bench.items import COLUMNS, METRICS
from src.measure.bench.verdict import key_of, machine_of
from src.storage.files import probe_for, write_atomic
from src.storage.rows import check_row, to_jsonl

RECORD = PROGRAM.parent / "runs/records/benchmarks/results.jsonl"
PAGE = PROGRAM.parent / "README.md"
BEGIN, END = "<!-- bench -->", "<!-- end -->"
NOTHING = "No record yet: `python benchmark.py bench --update` makes one."
IN_PAGE = ("main_job_s", "recipe_s", "recipe_step_ms", "decode_256_per_s", "many_gain")


def read_record(path: Path = RECORD) -> list[dict]:
    """The rows of the record, none where there is none. UserError for a file that is damaged.

    Figures that are not measured any more are left out.
    """
    if not path.is_file():
        return []
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]
        for row in rows:
            check_row(row)
            machine_of(row)  # what other code reads
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"--record: '{path}' is no record of `bench` ({error}); measure one with --update") from None
    return [row for row in rows if row["status"] != "ok" or row["metric"] in METRICS]


def write_record(rows: Sequence[Mapping], path: Path, page: Path) -> None:
    """Make these rows the record, and put their table into the page."""
    text = with_table(page.read_text(encoding="utf-8"), rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, to_jsonl(rows))
    write_atomic(page, text.encode())


def check_page(path: Path, page: Path) -> None:
    """UserError where `write_record` would fail, without writing anything. For use before long work."""
    try:
        for file in (path, page):
            probe_for(file.parent)
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"--update: '{file}' cannot be written ({error.strerror}); leave out --update") from error
    with_table(text, [])


def with_table(text: str, rows: Sequence[Mapping]) -> str:
    """The text of a page whose part between the markers is the table of these rows. UserError without markers."""
    before, begin, rest = text.partition(BEGIN + "\n")
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"README.md: no line '{BEGIN}' with a later '{END}'; put them where the table belongs")
    return before + begin + "\n".join(page_lines(rows)) + "\n" + end + after


def page_lines(rows: Sequence[Mapping]) -> list[str]:
    """What the page shows of a record: its machine, and the metrics of IN_PAGE."""
    found = [row for row in rows if row["status"] == "ok"]
    if not found:
        return [NOTHING]
    return table([row for row in found if row["metric"] in IN_PAGE], f"on {machine_of(found[0])}")


def table(rows: Sequence[Mapping], title: str = "what") -> list[str]:
    """A line per metric, in the order of METRICS, and a column per kind of machine."""
    known = {key_of(row): row for row in rows}
    lines = [f"| {title} | here | as a laptop |", "|---|---|---|"]
    for metric, about in METRICS.items():
        cells = [_cell(known.get((metric, column))) for column in COLUMNS]
        if any(cells):
            lines.append(f"| {about.words} | {' | '.join(cell or '-' for cell in cells)} |")
    return lines


def _cell(row: Mapping | None) -> str:
    """'25.9 ms [25.1, 26.4]', a status, or nothing."""
    if row is None:
        return ""
    if row["status"] != "ok":
        return row["status"]
    interval = f" [{_number(row['low'])}, {_number(row['high'])}]" if row["n"] > 1 else ""
    return f"{_number(row['value'])} {row['unit']}{interval}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
