"""Figures of the claims: recall against the bytes of the state, and the effect of each claim with its interval.

save(frontier(points, ...), "frontier.png")  points: {family: [(bytes, score, low, high), ...]}
save(effects(rows), "effects.png")           rows: [(label, effect, low, high, verdict), ...]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from src.figures.axes import plain_log_ticks, reference_lines
from src.figures.style import finish, look_of, new_figure, styled

TONES = {"reproduced": "#009E73", "contradicted": "#D55E00"}
OTHER_TONE = "0.5"


@styled
def frontier(points: Mapping[str, Sequence[tuple]], metric: str, steps: int, chance: float):
    """Score against bytes of the decoding state, one line per family, with intervals over seeds."""
    figure, (ax,) = new_figure(1)
    for i, (name, line) in enumerate(points.items()):
        colour, dash, marker = look_of(i)
        ax.plot([p[0] for p in line], [p[1] for p in line], color=colour, linestyle=dash, marker=marker, label=name)
        for x, _, low, high in line:
            if low is not None:
                ax.plot([x, x], [low, high], color=colour, linewidth=1.0, alpha=0.5)
    reference_lines(ax, {"": chance}, 1.0)
    ax.set_xscale("log")
    plain_log_ticks(ax.xaxis)
    ax.set_ylim(-0.02, 1.02)
    ax.set_xlabel("decoding state of one sequence (bytes)")
    ax.set_ylabel(metric)
    return finish(figure, f"recall against the bytes of the state, after {steps:,} steps (95 % intervals over seeds)")


@styled
def effects(rows: Sequence[tuple]):
    """The effect of each claim on a share, with its interval."""
    figure, (ax,) = new_figure(1)
    for y, (_, value, low, high, verdict) in enumerate(reversed(rows)):
        colour = TONES.get(verdict, OTHER_TONE)
        if low is not None:
            ax.plot([low, high], [y, y], color=colour)
        ax.plot([value], [y], marker="o", color=colour, linestyle="none")
    ax.axvline(0.0, color="0.6", linewidth=0.8)
    ax.set_yticks(range(len(rows)), [row[0] for row in reversed(rows)])
    ax.set_xlabel("effect in the stated direction (share of the score)")
    return finish(figure, "effects of the claims, with 95 % intervals (green: reproduced, red: contradicted)")
