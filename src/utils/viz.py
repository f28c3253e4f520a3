"""Figures by the names that scripts use: `plot_loss`, `plot_ppl`, `plot_distance_curve`. src/figures draws them.

plot_distance_curve({8: 1.0, 64: 0.8, 512: 0.31}, "curve.png", floor=0.03)
"""

from __future__ import annotations

from pathlib import Path

from src.figures.curves import figure_loss, figure_ppl
from src.figures.slices import figure_distance_curve
from src.figures.style import save


def plot_loss(history, out_path, **options) -> Path:
    """Write the loss figure: see `figure_loss`. Returns the path."""
    return save(figure_loss(history, **options), out_path)


def plot_ppl(history, out_path, **options) -> Path:
    """Write the perplexity figure: see `figure_ppl`. Returns the path."""
    return save(figure_ppl(history, **options), out_path)


def plot_distance_curve(distance2acc, out_path, **options) -> Path:
    """Write accuracy against distance: see `figure_distance_curve`. Returns the path."""
    return save(figure_distance_curve(distance2acc, **options), out_path)
