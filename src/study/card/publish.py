"""From the records of the suite `core` to docs/field.md: what each published layer scores, without a training.

    python -m src.study.card.publish          # writes the page, and prints its path
    text = page(suite, read_tables(suite.folder, suite))

Scores, verdicts and sentences are those of a card (src/study/card/cards.py), with each layer among the others.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import textwrap
from collections.abc import Mapping, Sequence

from src.flags.fields import UserError
from src.flags.parser import Parser, report_error
from src.storage.files import write_atomic
from src.study.card.baselines import Table, read_tables
from src.study.card.cards import Field, make
from src.study.card.ranking import AHEAD, BEHIND
from src.study.card.scores import in_words
from src.study.card.suite import Suite, read_suite
from src.study.page.numbers import listed
from src.study.records import PROJECT

PAGE = PROJECT / "docs" / "field.md"
WIDTH = 120
COLUMNS = 4  # rows of the suite per table, so that its lines fit
LEADS = "*"

HEAD = """# The field: what published layers score on the suite `{suite}`

{layers} layers with about {parameters:,} parameters each, outside embeddings and head, on {rows} rows. This page is
written by `python -m src.study.card.publish` from `runs/records/{suite}`. How the rows were chosen and the runs were
made is in [card.md](card.md). `python benchmark.py card --model my_layer.py` puts your own layer among them.

## How to read it

- **Score**: 0 is chance, 1 is the best possible. It is the mean over at least {seeds} fresh seeds, with its 95 %
  interval. Where lengths beyond training are tested, half of the score is theirs.
- **`{leads}`**: no other layer is ahead of this one, and it is ahead of some. A layer is ahead if the 95 % interval of
  the difference, taken seed by seed, is above 0 and the difference is at least 0.01.
- **Learning rates** are chosen on val from {rates}, on a seed of their own.
- **Steps** are few: at most {steps}, fewer where a layer solves the row before. A low score says that a layer does not
  learn the row within them, and not that it cannot.
- **Solves** a row: every seed reaches 0.95 of the metric. Controls and the text row are not counted.
- **Seconds**: of one training on one thread, the median over all rows. Many runs shared the machine with others, so
  differences of a third say nothing. `speed` compares layers.
"""


def page(suite: Suite, tables: Mapping[str, Table]) -> str:
    """The page, in Markdown. Every recorded row of the suite is taken as valid; a card checks that."""
    runs = {
        label: {row.name: table.scores(row) for row in suite.rows if row.name in table.rows}
        for label, table in tables.items()
    }
    field = Field({(label, name): scores for label, found in runs.items() for name, scores in found.items()}, {})
    cards = {card["model"]: card for card in make(suite, runs, field, {})["cards"]}
    blocks = [_head(suite, tables), "## Each layer in one sentence\n", _sentences(cards, tables), "## The scores\n"]
    count = -(-len(suite.rows) // COLUMNS)  # of tables, which are about equally wide
    ends = [i * len(suite.rows) // count for i in range(count + 1)]
    blocks += [_scores(suite.rows[start:end], cards) for start, end in itertools.pairwise(ends)]
    return "\n".join(blocks)


def _head(suite: Suite, tables: Mapping[str, Table]) -> str:
    steps = [run["steps"] for table in tables.values() for run in table.runs if run["steps"] is not None]
    return HEAD.format(
        suite=suite.name,
        layers=len(tables),
        parameters=suite.parameters,
        rows=len(suite.rows),
        seeds=len(suite.seeds),
        rates=listed([f"{rate:g}" for rate in suite.rates], most=len(suite.rates)),
        steps=f"{max(steps):,}",
        leads=LEADS,
    )


def _sentences(cards: Mapping[str, Mapping], tables: Mapping[str, Table]) -> str:
    lines = []
    for label, card in cards.items():
        seconds = statistics.median(run["train_s"] for run in tables[label].runs if run["train_s"] is not None)
        parameters = statistics.median(run["layer_parameters"] for run in tables[label].runs)
        text = f"**`{label}`** {card['sentence']}. Parameters: {parameters:,.0f}. Seconds: {seconds:.0f}."
        lines += textwrap.wrap(text, WIDTH, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join([*lines, ""])


def _scores(rows: Sequence, cards: Mapping[str, Mapping]) -> str:
    """A table with a line per layer and a column per row of the suite."""
    lines = [f"| layer | {' | '.join(row.name for row in rows)} |", f"|---|{'---|' * len(rows)}"]
    for label, card in cards.items():
        entries = {entry["row"]: entry for entry in card["rows"]}
        lines.append(f"| `{label}` | {' | '.join(_cell(entries.get(row.name)) for row in rows)} |")
    says = "; ".join(f"`{row.name}`: {row.says}{' (a control)' if row.is_control else ''}" for row in rows)
    return "\n".join([*lines, "", *textwrap.wrap(f"{says}.", WIDTH, break_on_hyphens=False), ""])


def _cell(entry: Mapping | None) -> str:
    """'0.98 [0.96, 1.00] *'."""
    if entry is None:
        return "-"
    words = {against["word"] for against in entry["against"]}
    leads = f" {LEADS}" if BEHIND not in words and AHEAD in words else ""
    return f"{in_words(entry['value'], entry['low'], entry['high'])}{leads}"


def main(argv: list[str]) -> int:
    """Write the page; print its path."""
    parser = Parser(prog="python -m src.study.card.publish", description=__doc__)
    try:
        parser.parse_strict(argv)
        suite = read_suite("core")
        write_atomic(PAGE, page(suite, read_tables(suite.folder, suite)).encode("utf-8"))
    except UserError as error:
        report_error(error)
        return 2
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
