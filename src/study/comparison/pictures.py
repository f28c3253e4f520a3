"""figures/ of a comparison: for each task and setting what its models share, one line per model.

    figures/TASK/loss.png, distance_curve.png, length_curve.png, ...

The lines are of the first fresh seed. The report shows all seeds.
"""

from __future__ import annotations

import re
from pathlib import Path

from src.figures import runs as run_figures
from src.storage.finished import finished_metrics
from src.storage.rundir import RunDir
from src.study.comparison.campaign import REPORT, Campaign


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


def slug(text: str) -> str:
    """A label as the name of a folder: 'word_problem --group S3' -> 'word_problem-group-S3'."""
    return re.sub(r"[^\w.=]+", "-", text).strip("-") or "all"
