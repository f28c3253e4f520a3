"""The figures of claims, from their evidence: the frontier of recall and state, and the effects of all claims.

paths = draw(claim, evidence, folder)        # the frontier; nothing for a claim without a figure of its own
draw_effects(rows_of_verdicts, path)
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from src.claims.contract import Claim, Evidence
from src.claims.judge import Verdict
from src.stats.seeds import mean_over_seeds

FRONTIER = "frontier"


def points_of(evidence: Evidence) -> dict[str, list[tuple]]:
    """{family: [(bytes of state, mean score, low, high), ...]}, by bytes."""
    found: dict[str, list[tuple]] = {}
    for cell in evidence.cells:
        values = [v for v in cell.measures["value"] if v is not None]
        ends = mean_over_seeds(values, limits=(0.0, 1.0))
        point = (cell.facts["state_bytes"], statistics.fmean(values), ends["low"], ends["high"])
        found.setdefault(cell.model, []).append(point)
    return {name: sorted(points, key=lambda p: p[0]) for name, points in found.items()}


def draw(claim: Claim, evidence: Evidence, folder: Path) -> list[Path]:
    """Draw what belongs to one claim into a folder; returns the paths."""
    if claim.key != FRONTIER:
        return []
    from src.figures import claims
    from src.figures.style import save

    facts = evidence.cells[0].facts
    figure = claims.frontier(points_of(evidence), facts["metric"], evidence.steps, facts["chance"])
    return [save(figure, folder / "frontier.png")]


def draw_effects(verdicts: Sequence[Verdict], shares: Sequence[str], path: Path) -> Path:
    """Draw the effects of the claims whose effect is a share of a score. shares: their keys."""
    from src.figures import claims
    from src.figures.style import save

    rows = [(v.claim, v.effect, v.low, v.high, v.word) for v in verdicts if v.claim in shares and v.effect is not None]
    return save(claims.effects(rows), path)
