"""The tables of docs/findings.md, made from the record of its comparisons. So the page says what the record says.

    python -m src.study.findings                    # rewrites the marked blocks of docs/findings.md
    python -m src.study.findings RECORD PAGE        # of another record and another page

A block stands between the lines `<!-- record: NAME -->` and `<!-- end -->`. NAME is a comparison of the record. Its
block has one row per layer, the verdicts, and the command. The block `protocol` says how each comparison of the page
was made. All other text is written by hand and stays.

The scores are those of results.csv, one per seed, in the order of the seeds. Wrong input is one line on stderr and exit
code 2. Nothing here imports torch.
"""

from __future__ import annotations

import re
import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.flags.fields import UserError
from src.flags.parser import Parser, report_error
from src.storage.files import read_json, write_atomic
from src.study import records

RECORD = records.PROJECT / "runs" / "records" / "findings"
PAGE = records.PROJECT / "docs" / "findings.md"
PROTOCOL = "protocol"
BLOCK = re.compile(r"^<!-- record: (\S+) -->\n(.*?)^<!-- end -->$", flags=re.S | re.M)
AT_LENGTH = re.compile(r"at_(\d+)")
WORDS = UNDEFINED, DIVERGED, NO_SCORE = "undefined", "diverged", "-"
WIDTH = 120
RATES = {"yes": ", at the edge", "no": "", "one rate": ", not chosen"}


@dataclass(frozen=True)
class Evidence:
    """A record of comparisons.

    comparisons: {name: its part of comparisons.json}.  rows: {run: its row of results.csv}.
    """

    comparisons: dict[str, dict]
    rows: dict[str, dict]

    def runs(self, summary: Mapping) -> list[dict]:
        """The rows of one cell, by seed."""
        return [self.rows[name] for name in summary["runs"].split()]


def read_evidence(folder) -> Evidence:
    """The evidence in a record's folder. UserError for a record without comparisons, and for a damaged one."""
    folder = Path(folder)
    if not (folder / records.COMPARISONS).is_file():
        raise UserError(
            f"'{folder}': has no {records.COMPARISONS}, allowed: a record that was collected of comparisons"
        )
    comparisons = read_json(folder / records.COMPARISONS)
    found = Evidence(comparisons, {row["run"]: row for _, row, _ in records.read_runs(folder)})
    try:
        missing = [
            n for c in comparisons.values() for s in c["summary"] for n in s["runs"].split() if n not in found.rows
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"'{folder / records.COMPARISONS}' is damaged ({error!r}); restore it, or collect the record again"
        ) from error
    if missing:
        raise UserError(f"'{folder / 'results.csv'}': run '{missing[0]}' is missing; collect the record again")
    return found


def rewritten(text: str, evidence: Evidence) -> str:
    """The text of a page, with each marked block made anew. UserError for a block that the record knows nothing of."""
    if text.count("<!-- record: ") != len(BLOCK.findall(text)):
        raise UserError("a block has no end, allowed: <!-- record: NAME --> and <!-- end -->, each on its own line")
    shown = [name for name, _ in BLOCK.findall(text) if name != PROTOCOL]
    unknown = [name for name in shown if name not in evidence.comparisons]
    if not shown:
        raise UserError("the page has no block, allowed: <!-- record: NAME --> and <!-- end -->, each on its own line")
    if unknown:
        raise UserError(f"block '{unknown[0]}': got no such comparison, allowed: {', '.join(evidence.comparisons)}")

    def block(match: re.Match) -> str:
        name = match[1]
        lines = protocol(evidence, shown) if name == PROTOCOL else finding(evidence, name)
        return "\n".join([f"<!-- record: {name} -->", *lines, "<!-- end -->"])

    return BLOCK.sub(block, text)


def protocol(evidence: Evidence, names: Sequence[str]) -> list[str]:
    """The block that says how each comparison was made."""
    table = [("comparison", "steps", "learning rates tried", "tuning seed", "seeds of the table")]
    for name in names:
        found = evidence.comparisons[name]
        steps = dict.fromkeys(f"{row['steps']:,}" for row in found["summary"])
        rates = dict.fromkeys(row["lr_tried"].replace(" ", ", ") for row in found["summary"])
        table.append((f"`{name}`", "; ".join(steps), "; ".join(rates), str(found["tuning_seed"]), _seeds(found)))
    return _table(table)


def finding(evidence: Evidence, name: str) -> list[str]:
    """The block of one comparison: a row per layer, a line per verdict, and the command."""
    found = evidence.comparisons[name]
    said = [pair["words"] for pair in found["pairs"] if pair["headline"]] + found["notes"]
    lines = [line for text in said for line in _item(text)]
    return [*_table(_rows(evidence, found)), "", *lines, *([""] if lines else []), "```bash", *_shell(found), "```"]


def _rows(evidence: Evidence, found: Mapping) -> list[tuple[str, ...]]:
    """Header and rows: where there are several, task and setting; layer, size, scores, the longest length, the rate."""
    summary = found["summary"]
    kept = [key for key in ("task", "setting") if len({row[key] for row in summary}) > 1]
    kept += ["metric"] if len({row["metric"] for row in summary}) > 1 else []
    longest = [_longest(row) for row in summary]
    lengths = sorted({n for n in longest if n})
    score = f"{'score' if 'metric' in kept else summary[0]['metric']}, {_seeds(found)}"
    beyond = [f"at length {lengths[0]}" if len(lengths) == 1 else "at the longest length"] if lengths else []
    table = [(*kept, "layer", "parameters", score, *beyond, "learning rate")]
    for row, length in zip(summary, longest, strict=True):
        runs = evidence.runs(row)
        last = f"{length}: " if length and len(lengths) > 1 else ""
        cells = [last + _scores(runs, f"at_{length or lengths[-1]}")] if lengths else []
        rate = f"{row['lr']:g}{RATES[row['at_edge']]}"
        start = (*(str(row[key]) for key in kept), f"`{row['model']}`", f"{row['parameters']:,}")
        table.append((*start, _scores(runs, "value"), *cells, rate))
    return table


def _seeds(found: Mapping) -> str:
    """'seeds 11 to 15'; `compare` takes seeds that follow each other."""
    first, last = found["seeds"][0], found["seeds"][-1]
    return f"seed {first}" if first == last else f"seeds {first} to {last}"


def _longest(summary: Mapping) -> int:
    """The longest length that the cell was tested at; 0 where it has no score by length."""
    return max((int(match[1]) for match in map(AT_LENGTH.fullmatch, summary) if match), default=0)


def _scores(runs: Sequence[Mapping], column: str) -> str:
    """'0.998 diverged 1.000': a score per seed; one word where no seed has a score."""
    words = [DIVERGED if run["status"] == DIVERGED else _score(run.get(column, "")) for run in runs]
    return words[0] if len(set(words)) == 1 and words[0] in WORDS else " ".join(words)


def _score(text: str) -> str:
    return text or NO_SCORE if text in ("", UNDEFINED) else f"{float(text):.3f}"


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def _item(text: str) -> list[str]:
    """A list item, broken into lines."""
    return textwrap.wrap(f"- {text}", WIDTH, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)


def _shell(found: Mapping) -> list[str]:
    """The command, broken into lines before its flags."""
    lines = [""]
    for words in _with_values(shlex.split(found["command"])):
        if len(lines[-1]) + len(words) + len("  \\") > WIDTH:
            lines.append(" ")
        lines[-1] = f"{lines[-1]} {words}" if lines[-1] else words
    return [*(f"{line} \\" for line in lines[:-1]), lines[-1]]


def _with_values(words: Sequence[str]) -> list[str]:
    """The words of a command line, each flag together with its values."""
    groups: list[str] = []
    for word in words:
        if word.startswith("--") or not groups:
            groups.append(word)
        else:
            groups[-1] += f" {shlex.quote(word)}"
    return groups


def main(argv: list[str]) -> int:
    """Rewrite the page; print its path."""
    parser = Parser(prog="python -m src.study.findings", description=__doc__)
    parser.add_argument("record", metavar="RECORD", nargs="?", default=str(RECORD), help="a record of comparisons")
    parser.add_argument("page", metavar="PAGE", nargs="?", default=str(PAGE), help="the page to rewrite")
    try:
        given = parser.parse_strict(argv)
        page = Path(given.page)
        if not page.is_file():
            raise UserError(f"got '{page}', allowed: a page with blocks of a record")
        write_atomic(page, rewritten(page.read_text(encoding="utf-8"), read_evidence(given.record)).encode("utf-8"))
    except UserError as error:
        report_error(error)
        return 2
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
