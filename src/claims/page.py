"""docs/findings.md, made from the evidence on record: a table of verdicts, and a section per claim.

    text = page(table)          # [(claim, evidence or None, verdict), ...]

All numbers of the page follow from the evidence, but for those of the section on the needle, which a test compares with
its record.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from src.claims.contract import NOT_RUN, Claim, Evidence, Scores
from src.claims.figures import FRONTIER, points_of
from src.claims.judge import Verdict
from src.claims.known import OLDER
from src.claims.order import compared

WIDTH = 120
Entry = tuple[Claim, Evidence | None, Verdict]
HEAD = """# Findings: what papers claim, derived again at small scale

Each claim is a published finding with a rule that decides about it here, at a size that two CPU cores train in minutes.
One command runs it again. This page is written by `python -m src.claims.publish` from `runs/records/claims`, from the
baselines of the card, and from an older record. A claim without runs says `not run`.

## The verdicts
"""
READING = """## How to read them

- **Reproduced**: every part of the rule holds, and the corrected p is at most .05. **Contradicted**: a part is shown to
  be wrong, also where the effect is shown to be smaller than the rule asks for. This is decided by the interval, which
  is not corrected; p asks whether there is a difference at all. **Undecided**: neither.
- **Effect**: of the first part of the rule, with its 95 % interval over seeds. Scores are shares, losses are nats, and
  costs are ratios or exponents. Above 0 the effect goes in the stated direction.
- **p**: of the exact test that exchanges the labels of runs. Where a part names several layers on one side, their runs
  are one group, and in their means each layer must be ahead of each layer of the other side. Holm's method corrects p
  over all claims of the table that have one.
- **Within N steps** is part of every result. It does not say what a layer can never learn.
- **Runs older than the rule**: these runs were on record before the rule was written, so nothing was predicted. All
  others came after it, but for two: the task and the layers of `s3_state` were changed to those of the card, which runs
  of attention on it preceded, and `cost_exponents` was measured again (below). After the runs, rules became stricter in
  one point: each layer of a side must be ahead of each of the other, which changed no verdict.
- Learning rates are chosen on a seed of their own, on val. All fresh seeds are in the tables.
- The two A/A controls compare a layer with itself. The method should show no difference there.
- `python benchmark.py claims ID` runs a claim, `claims --quick` runs all of them with one seed and half the steps. The
  quick mode says at most what the runs point to.
"""
NEEDLE = """## The needle with mamba

```bash
python benchmark.py --task needle --model mamba
```

A value of four characters is hidden in up to 64 characters of noise. `mamba` (74,432 parameters) reads it back whole in
all 2,000 test cases for seeds 1337, 1338, 1339 and 1341, and in 1,999 for seed 1340. A run ends when it has solved the
task (`--stop_at`), after 375 to 750 steps and 23 to 52 s. For seed 1337: 450 steps, 1,794,159 characters, hit rate
1.0000 [0.998, 1.000], loss 0.009980 nats, 25 s of training, 28 s in all, on one thread. Record:
`runs/records/main/results.csv`.

![Hit rate against the distance to the needle](../runs/records/main/figures/distance_curve.png)

## Where the rest is

Scores of many tasks with the transformer: [tasks.md](tasks.md#scores-of-the-default-runs). Speed of six layers:
[measuring.md](measuring.md#six-layers-on-two-cpu-threads). What was tried and did not work:
[runs/LOG.md](../runs/LOG.md). How to add a claim: [extending.md](extending.md#a-claim).
"""
EFFECTS = "![Effects of the claims, with their intervals](../runs/records/claims/figures/effects.png)"


def page(table: Sequence[Entry]) -> str:
    """The whole page."""
    parts = [HEAD, "\n".join(_rows(table)), "", EFFECTS, "", READING]
    for number, entry in enumerate(table, 1):
        parts += ["\n".join(section(number, *entry)), ""]
    return "\n".join([*parts, NEEDLE])


def _rows(table: Sequence[Entry]) -> list[str]:
    """The headline table: one row per claim."""
    rows = [("claim", "verdict", "effect [95 %]", "p, corrected", "seeds", "within steps", "command")]
    for number, (claim, _, verdict) in enumerate(table, 1):
        p = "" if verdict.p_adjusted is None else f"{verdict.p_adjusted:.2g}"
        rows.append(
            (
                f"{number}. {claim.statement}",
                f"**{verdict.word}**" if verdict.word != NOT_RUN else verdict.word,
                _effect(verdict),
                p,
                str(verdict.seeds or ""),
                f"{verdict.steps:,}" if verdict.steps else "",
                f"`claims {claim.key}`",
            )
        )
    return _table(rows)


def _effect(verdict: Verdict) -> str:
    if verdict.effect is None:
        return ""
    ends = "" if verdict.low is None else f" [{verdict.low:.3g}, {verdict.high:.3g}]"
    return f"{verdict.effect:.3g}{ends}"


def section(number: int, claim: Claim, evidence: Evidence | None, verdict: Verdict) -> list[str]:
    """The section of one claim."""
    lines = [f"## {number}. {claim.key}", ""]
    for text in (
        f"**Claim.** {claim.statement} Source: {claim.source}. Published: {claim.published}.",
        f"**Rule.** {_sentence('; '.join(part.words for part in claim.rule))}{_predicted(claim, evidence)}",
        f"**Verdict.** {_sentence(verdict.words)}{_origin(evidence)}{f' {claim.note}' if claim.note else ''}",
    ):
        lines += [*_wrapped(text), ""]
    if evidence is not None and evidence.cells:
        lines += [*_table(_cells(claim, evidence)), ""]
    if evidence is not None and claim.key == FRONTIER:
        lines += [*_wrapped(compared(points_of(evidence))), ""]
    if claim.figure[0] and (evidence is not None or not claim.figure[0].startswith("claims/")):
        lines += [f"![{claim.figure[1]}](../runs/records/{claim.figure[0]})", ""]
    return [*lines, "```bash", claim.command, "```"]


def _predicted(claim: Claim, evidence: Evidence | None) -> str:
    """Nothing for runs that were there before the rule."""
    return "" if evidence is not None and evidence.origin == OLDER else f" Predicted: {claim.predicted}."


def _origin(evidence: Evidence | None) -> str:
    if evidence is None:
        return ""
    commits = ", ".join(f"`{c[:8]}`" for c in evidence.machine.get("commits", ()) if c)
    return f" {_sentence(evidence.origin)}{f' Code: {commits}.' if commits else ''}"


def _cells(claim: Claim, evidence: Evidence) -> list[tuple[str, ...]]:
    """Header and rows of the scores: one row per cell, one score per seed."""
    several = len({c.task for c in evidence.cells}) > 1
    names = _shown(claim, evidence.cells)
    rows = [(*(["task"] if several else []), "layer", "parameters", *names, "learning rate", "good rates (decades)")]
    for cell in evidence.cells:
        edge = ", at the edge" if cell.facts.get("at_edge") == "yes" else ""
        rate = f"{cell.facts['lr']:g}{edge}" if cell.facts.get("lr") else "-"
        decades = cell.facts.get("good_decades")
        rows.append(
            (
                *([_task(cell.task)] if several else []),
                f"`{cell.label}`",
                f"{cell.facts.get('parameters', 0):,}",
                *(_scores(cell, name) for name in names),
                rate,
                "-" if decades is None else f"{decades:.2g}",
            )
        )
    return rows


def _shown(claim: Claim, cells: Sequence[Scores]) -> list[str]:
    """The measures of the table: the score, those of the rule, the longest length, and losses of a text."""
    found = dict.fromkeys(name for cell in cells for name in cell.measures)
    lengths = [n for n in found if n.startswith("at_") and n[3:].isdigit()]
    ruled = {getattr(part, "measure", "value") for part in claim.rule}
    far = [n for n in lengths if n in ruled or n == max(lengths, key=lambda n: int(n[3:]))]
    means = [n for n in found if n == "at_mean"]
    texts = [n for n in found if n in ("test_heldout_loss",) or (n == "test_loss" and "test_heldout_loss" in found)]
    return ["value", *means, *far, *texts]


def _scores(cell: Scores, name: str) -> str:
    values = cell.measures.get(name)
    return "-" if values is None else " ".join("undefined" if v is None else f"{v:.3f}" for v in values)


def _task(task: str) -> str:
    return f"`{task}`"


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_on_hyphens=False, break_long_words=False)
