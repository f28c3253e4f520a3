"""Points with their 95 % intervals: a line with a band for numbers, points with bars for categories."""

from __future__ import annotations

from src.figures.axes import INTERVAL

MOST_MARKED = 40  # points of a line with markers


def draw_points(ax, xs, bins, look, label: str, joined: bool, alone: bool) -> None:
    """Draw bins ({"value", "ci"}) at xs.

    look: of `look_of`.  joined: as a line with a band, else as points with bars.
    alone: the only run of the figure, so its interval has a legend entry of its own.
    """
    colour, dash, marker = look
    values = [b["value"] for b in bins]
    marker = marker if len(bins) <= MOST_MARKED else None
    style = {"color": colour, "marker": marker, "label": label, "clip_on": False, "zorder": 4}
    ends = [(x, *b["ci"]) for x, b in zip(xs, bins, strict=True) if b["ci"]]
    if not joined:
        ax.plot(xs, values, linestyle="none", markersize=7, **style)
        _draw_bars(ax, ends, colour, alone)
        return
    ax.plot(xs, values, linestyle=dash, **style)
    if len(ends) == 1:
        _draw_bars(ax, ends, colour, alone)
    elif ends:
        band = {"color": colour, "alpha": 0.2 if alone else 0.12, "linewidth": 0}
        ax.fill_between(*zip(*ends, strict=True), label=INTERVAL if alone else None, **band)


def _draw_bars(ax, ends, colour: str, alone: bool) -> None:
    look = {"color": colour, "linewidth": 1.8, "marker": "_", "markersize": 8, "clip_on": False, "zorder": 3}
    for i, (x, low, high) in enumerate(ends):
        ax.plot([x, x], [low, high], label=INTERVAL if alone and i == 0 else None, **look)
