"""Figures of `speed`, from its rows and findings, without torch: PNG and PDF, the same bytes for the same numbers.

    draw_all(history, "runs/x/figures", looks)                  # one per panel that has rows, or one per batch
    figure = figure_panel(history, "train", looks["train"])     # a matplotlib Figure, for notebooks and tests

history: {"rows": rows of src/storage/rows.py, "models": [...], "fits": [...]}, as history.json holds them.
looks: {panel: PanelLook}, as src/measure/speed/panels has them. A new panel changes nothing here.
Each line is one model's medians, with its quartiles as a band. Both axes are logarithmic, so a slope is an exponent.
The legend has the exponents with their 95 % intervals. A cross at the top marks where a model ran out of memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from src.figures.axes import plain_log_ticks
from src.figures.style import finish, human, look_of, make_folder, save_both, styled
from src.storage.rows import WRONG_DECODING

PANEL_INCHES, HEIGHT = 4.4, 4.4
MOST_TICKS = 8


@dataclass(frozen=True)
class Axis:
    """The vertical axis of one metric. unit: values are divided by it."""

    metric: str
    label: str
    unit: int = 1


@dataclass(frozen=True)
class PanelLook:
    """What the figure of a panel shows.

    title: may hold {tokens}, {batches} and {batch}: those of the rows.
    legend: the metric whose exponents the legend has, and its words.  letter: of the quantity on the x axis.
    batches_apart: there is a figure per batch.
    """

    axes: tuple[Axis, ...]
    x_label: str
    title: str
    legend: tuple[str, str]
    letter: str = "T"
    batches_apart: bool = False


def draw_all(history: dict, figures_dir, looks: dict[str, PanelLook]) -> list[Path]:
    """Write the figure of every panel that has numbers, as PNG and PDF; return the paths. looks: {panel: its look}."""
    folder = make_folder(figures_dir)
    paths = []
    for panel, look in looks.items():
        rows = [r for r in history["rows"] if r["panel"] == panel]
        for batch in sorted({r["batch"] for r in rows}) if look.batches_apart else [None]:
            if has_numbers(rows, panel, look, batch):
                stem = panel if batch is None else f"{panel}_batch_{batch}"
                paths += save_both(figure_panel(history, panel, look, batch), folder / stem)
    return paths


def has_numbers(rows, panel: str, look: PanelLook, batch=None) -> bool:
    """Whether any of the metrics that the figure shows was measured."""
    metrics = [axis.metric for axis in look.axes]
    return any(
        r["panel"] == panel and r["metric"] in metrics and r["value"] is not None and batch in (None, r["batch"])
        for r in rows
    )


@styled
def figure_panel(history: dict, panel: str, look: PanelLook, batch=None):
    """One panel, with axes per metric; returns a Figure. Raises ValueError for a panel without numbers."""
    if not has_numbers(history["rows"], panel, look, batch):
        raise ValueError(f"panel: got {panel!r}, allowed: a panel that has numbers")
    from matplotlib.figure import Figure

    rows = [r for r in history["rows"] if r["panel"] == panel and batch in (None, r["batch"])]
    models = history["models"]
    n = len(look.axes)
    figure = Figure(figsize=(PANEL_INCHES * n, HEIGHT), layout="constrained")
    figure.get_layout_engine().set(wspace=0.06)  # between a label and the axes on its left
    for ax, axis in zip(figure.subplots(1, n, squeeze=False)[0], look.axes, strict=True):
        for i, model in enumerate(models):
            _draw_model(ax, rows, axis, model, i, legend_of(history, panel, look, model, batch))
        has_lines = bool(ax.lines)
        _mark_failures(ax, rows, models)
        if has_lines:
            _logarithmic(ax)
        else:
            ax.text(0.5, 0.5, "nothing above 0 was measured", ha="center", transform=ax.transAxes)
        ax.set_xlabel(look.x_label)
        ax.set_ylabel(axis.label)
    return finish(figure, title_of(rows, look, batch))


def legend_of(history: dict, panel: str, look: PanelLook, model: str, batch=None) -> str:
    """'gla: time per sequence ~ T^1.02 [0.98, 1.05]'; the name alone if there is no exponent."""
    metric, words = look.legend
    notes = (r["note"] or "" for r in history["rows"] if (r["panel"], r["model"]) == (panel, model))
    wrong = " (WRONG, see the notes)" if any(WRONG_DECODING in note for note in notes) else ""
    for f in history["fits"]:
        is_its = (f["panel"], f["metric"], f["model"], f["batch"]) == (panel, metric, model, batch)
        if is_its and f["exponent"] is not None:
            return f"{model}{wrong}: {words} ~ {look.letter}^{f['exponent']:.2f} [{f['low']:.2f}, {f['high']:.2f}]"
    return f"{model}{wrong}"


def title_of(rows, look: PanelLook, batch=None) -> str:
    """What was measured, and where: the panel, the tokens or sequences, the device, threads and precision."""
    ok = [r for r in rows if r["value"] is not None and not r["metric"].startswith("floor")]
    first, tokens, batches = ok[0], sorted({r["tokens"] for r in ok}), sorted({r["batch"] for r in ok})
    what = look.title.format(tokens=_range(tokens), batches=_range(batches), batch=batch)
    threads = f", {first['threads']} thread{'s' if first['threads'] != 1 else ''}"
    device = first["device"] if str(first["device"]).startswith("cuda") else f"{first['device']}{threads}"
    return f"{what} · {device} · {first['precision']}"


def _draw_model(ax, rows, axis: Axis, model: str, i: int, label: str) -> None:
    """The line of one model; nothing if it has no positive value. Zero has no place on a logarithmic axis."""
    mine = [r for r in rows if r["model"] == model and r["metric"] == axis.metric]
    found = sorted((r for r in mine if r["value"] is not None and r["value"] > 0), key=lambda r: r["x"])
    if not found:
        return
    colour, dash, marker = look_of(i)
    xs = [r["x"] for r in found]
    ax.plot(xs, [r["value"] / axis.unit for r in found], color=colour, marker=marker, linestyle=dash, label=label)
    if all(r["q1"] is not None for r in found):
        low, high = ([r[quartile] / axis.unit for r in found] for quartile in ("q1", "q3"))
        ax.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)


def _mark_failures(ax, rows, models) -> None:
    """A cross at the top, at every x where a model ran out of memory."""
    for i, model in enumerate(models):
        xs = sorted({r["x"] for r in rows if r["model"] == model and r["status"] == "out of memory"})
        if xs:
            look = {"color": look_of(i)[0], "marker": "x", "markersize": 8, "linestyle": "none"}
            at_the_top = {"transform": ax.get_xaxis_transform(), "label": f"{model}: out of memory"}
            ax.plot(xs, [0.97] * len(xs), **look, **at_the_top)


def _logarithmic(ax) -> None:
    """Logarithmic axes with plain numbers; the x that were measured are the ticks, if there are at least three."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    xs = sorted({float(x) for line in ax.lines for x in line.get_xdata()})
    ax.set_xscale("log")
    ax.set_yscale("log")
    if len(xs) < 3:
        plain_log_ticks(ax.xaxis)
    else:
        ax.xaxis.set_major_locator(FixedLocator(xs if len(xs) <= MOST_TICKS else xs[::2]))
        ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: human(round(x)) if x >= 100_000 else f"{x:,.10g}"))
    ax.tick_params(axis="x", labelrotation=45 if len(xs) > 5 else 0)
    plain_log_ticks(ax.yaxis)


def _range(values: list[int]) -> str:
    return f"{values[0]:,}" if values[0] == values[-1] else f"{values[0]:,} to {values[-1]:,}"
