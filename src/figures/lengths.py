"""The score against the length at which it is tested."""

from __future__ import annotations

from src.figures.axes import explain_intervals, named_floors, plain_log_ticks, reference_lines
from src.figures.points import draw_points
from src.figures.style import finish, look_of, new_figure, styled
from src.storage.metric_names import metric_name, unit_of
from src.storage.notes import listed

MOST_TICKS = 10


def figure_length_curve(
    curve: list[dict],
    *,
    title: str = "",
    label: str = "exact_match",
    floor=None,
    ceiling: float = 1.0,
    unit: str = "length (in the task's own unit)",
    with_loss: bool = False,
    per: str = "character",
):
    """The primary metric against length; returns a Figure. Training lengths are shaded.

    Lengths without a score are named above the axes.

    curve: `length_curve` of metrics.json.  label: the metric's name.  floor: chance, a number or {name: number}.
    unit: the label of the length axis.  with_loss: with the loss in a panel on the left, as for language.
    per: what the loss is per, character or token.
    Raises ValueError for an empty curve.
    """
    return figure_lengths([("", curve)], title, label, named_floors(floor), ceiling, unit, with_loss, per)


@styled
def figure_lengths(
    curves, title: str, metric: str, floors: dict, ceiling: float, unit: str, with_loss: bool, per: str = "character"
):
    """The same for several runs. curves: (run label, length_curve) pairs; a single run has an empty label."""
    if not any(curve for _, curve in curves):
        raise ValueError("length_curve: got no lengths, allowed: at least one")
    figure, axes = new_figure(2 if with_loss else 1, share_y=False)
    if with_loss:
        losses = [
            (name, [{**row, "value": row["loss"], "ci": row.get("loss_ci")} for row in curve]) for name, curve in curves
        ]
        _draw_panel(axes[0], losses, "loss", unit, per)
        axes[0].margins(y=0.15)
    axes[-1].set_ylim(0, 1)
    _draw_panel(axes[-1], curves, metric, unit, per)
    reference_lines(axes[-1], floors, ceiling)
    return finish(figure, title)


def length_words(metrics: dict, result: dict) -> str:
    """The label of the length axis: for language the context, else what the slice by length says."""
    if metrics["kind"] == "language":
        return f"context length ({unit_of(metrics)}s in a window)"
    return result["slices"].get("length", {}).get("label", "length (in the task's own unit)")


def _draw_panel(ax, curves, metric: str, unit: str, per: str) -> None:
    rows = [row for _, curve in curves for row in curve]
    lengths = sorted({row["length"] for row in rows})
    spread = lengths[-1] / max(1, lengths[0])
    if spread >= 4:
        ax.set_xscale("log", base=2)
        ax.set_xlim(max(1, lengths[0]) / spread**0.08, lengths[-1] * spread**0.05)
    else:
        room = lengths[-1] - lengths[0] or 1
        ax.set_xlim(lengths[0] - 0.08 * room, lengths[-1] + 0.05 * room)
    for i, (name, curve) in enumerate(curves):
        _draw_lengths(ax, curve, i, name or metric_name(metric, per), alone=len(curves) == 1)
    if len(curves) > 1:
        explain_intervals(ax, rows)
    _shade_training(ax, rows)
    _label_lengths(ax, lengths, is_log=spread >= 4)
    ax.set_xlabel(unit)
    ax.set_ylabel(metric_name(metric, per))


def _label_lengths(ax, lengths: list[int], is_log: bool) -> None:
    """The measured lengths are the ticks, if there are neither too few nor too many."""
    from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

    if is_log and len(lengths) < 3:
        plain_log_ticks(ax.xaxis)
        return
    if len(lengths) <= MOST_TICKS or is_log:
        ax.set_xticks(lengths[:: -(-len(lengths) // MOST_TICKS)])
        ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _draw_lengths(ax, curve, i: int, label: str, alone: bool) -> None:
    look = look_of(i)
    known = [row for row in curve if row["value"] is not None]
    if known:
        draw_points(ax, [row["length"] for row in known], known, look, label, joined=True, alone=alone)
    missing = [row["length"] for row in curve if row["value"] is None]
    if missing:  # in words above the axes: a mark inside them would be read as a score
        words = ("" if alone else f"{label}: ") + f"no score at {listed(missing)}"
        height = 1.02 + 0.06 * i  # each run has its own line
        ax.text(1, height, words, ha="right", color=look[0], fontsize="small", transform=ax.transAxes)


def _shade_training(ax, rows) -> None:
    inside = [row["length"] for row in rows if row["in_distribution"]]
    if not inside:
        return
    least, most = min(inside), max(inside)
    if not any(row["length"] < least for row in rows):
        ax.axvspan(ax.get_xlim()[0], most, color="0.93", zorder=0, label=f"training lengths (up to {most:,})")
    elif least < most:
        label = f"training lengths ({least:,} to {most:,} tested here)"
        ax.axvspan(least, most, color="0.93", zorder=0, label=label)
    else:  # shorter lengths were tested but not trained
        ax.axvline(most, color="0.8", linewidth=5, zorder=0, label=f"training length ({most:,})")
