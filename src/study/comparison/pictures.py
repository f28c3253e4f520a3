"""figures/ of a comparison: for each task and setting what its models share, one line per model.

    figures/TASK/loss.png, distance_curve.png, length_curve.png, ...

The lines are of the first fresh seed. The report shows all seeds.
"""

from __future__ import annotations

from pathlib import Path

from src.figures import runs as run_figures
from src.storage.finished import finished_metrics
from src.storage.rundir import RunDir
from src.study.comparison.campaign import REPORT, Campaign
from src.study.comparison.stored import slug


def draw(home: Path, campaign: Campaign) -> list[Path]:
    """Draw the figures of all finished runs of the first seed; return their paths."""
    paths, first = [], campaign.comparison.seeds[0]
    for group in campaign.groups:
        runs = [
            (run.cell.model, finished_metrics(RunDir(home / run.folder)))
            for run, known in campaign.runs()
            if run.role == REPORT and known.row and run.cell.group == group.key and run.seed == first
        ]
        if runs:
            paths += run_figures.overlay(runs, home / "figures" / slug(" ".join(group.key)))
    return paths
