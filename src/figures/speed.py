"""Figures of `speed`, from its rows and findings, without torch: PNG and PDF, the same bytes for the same numbers.

    draw_all(history, "runs/x/figures")         # train, memory, decode (one per batch), scaling: those that have rows
    figure = figure_panel(history, "train")     # a matplotlib Figure, for notebooks and tests

history: {"rows": rows of src/storage/rows.py, "models": [...], "fits": [...]}, as history.json holds them.
Each line is one model's medians, with its quartiles as a band. Both axes are logarithmic, so a slope is an exponent.
The legend has the exponents with their 95 % intervals. A cross at the top marks where a model ran out of memory.
"""

from __future__ import annotations

from pathlib import Path

from src.figures.axes import plain_log_ticks
from src.figures.style import finish, human, look_of, make_folder, save_both, styled

AXES = {  # panel -> (metric, axis label, divided by)
    "train": (
        ("step_ms", "ms per step", 1),
        ("tokens_per_s", "tokens per second", 1),
        ("peak_bytes", "peak memory (MiB)", 2**20),
    ),
    "memory": (
        ("kept_bytes", "kept for backward (MiB)", 2**20),
        ("peak_bytes", "peak of forward + backward (MiB)", 2**20),
    ),
    "decode": (
        ("prefill_ms", "ms to read the prompt", 1),
        ("token_ms", "ms per token", 1),
        ("state_bytes", "state (KiB)", 2**10),
    ),
    "scaling": (
        ("step_ms", "ms per step", 1),
        ("tokens_per_s", "tokens per second", 1),
        ("peak_bytes", "peak memory (MiB)", 2**20),
    ),
}
IN_LEGEND = {
    "train": ("step_ms", "time per sequence"),
    "memory": ("kept_bytes", "bytes kept"),
    "decode": ("prefill_ms", "prefill"),
    "scaling": ("step_ms", "step"),
}
X_LABELS = {
    "train": "length (tokens)",
    "memory": "length (tokens)",
    "decode": "position (tokens)",
    "scaling": "parameters (target)",
}
LETTER = {"scaling": "P"}
PANEL_INCHES, HEIGHT = 4.4, 4.4
MOST_TICKS = 8


def draw_all(history: dict, figures_dir) -> list[Path]:
    """Write the figure of every panel that has numbers, as PNG and PDF; return the paths."""
    folder = make_folder(figures_dir)
    paths = []
    for panel in AXES:
        batches = sorted({r["batch"] for r in history["rows"] if r["panel"] == panel}) if panel == "decode" else [None]
        for batch in batches:
            if has_numbers(history["rows"], panel, batch):
                stem = panel if batch is None else f"{panel}_batch_{batch}"
                paths += save_both(figure_panel(history, panel, batch), folder / stem)
    return paths


def has_numbers(rows, panel: str, batch=None) -> bool:
    """Whether any of the panel's own metrics was measured."""
    metrics = [metric for metric, _, _ in AXES[panel]]
    return any(
        r["panel"] == panel and r["metric"] in metrics and r["value"] is not None and batch in (None, r["batch"])
        for r in rows
    )


@styled
def figure_panel(history: dict, panel: str, batch=None):
    """One panel, with axes per metric; returns a Figure. batch: of decode. ValueError for a panel without numbers."""
    if panel not in AXES or not has_numbers(history["rows"], panel, batch):
        raise ValueError(f"panel: got {panel!r}, allowed: one of {', '.join(AXES)} that has numbers")
    from matplotlib.figure import Figure

    rows = [r for r in history["rows"] if r["panel"] == panel and batch in (None, r["batch"])]
    models = history["models"]
    n = len(AXES[panel])
    figure = Figure(figsize=(PANEL_INCHES * n, HEIGHT), layout="constrained")
    figure.get_layout_engine().set(wspace=0.06)  # between a label and the axes on its left
    for ax, (metric, label, unit) in zip(figure.subplots(1, n, squeeze=False)[0], AXES[panel], strict=True):
        for i, model in enumerate(models):
            _draw_model(ax, rows, metric, unit, model, i, legend_of(history, panel, model, batch))
        has_lines = bool(ax.lines)
        _mark_failures(ax, rows, models)
        if has_lines:
            _logarithmic(ax)
        else:
            ax.text(0.5, 0.5, "nothing above 0 was measured", ha="center", transform=ax.transAxes)
        ax.set_xlabel(X_LABELS[panel])
        ax.set_ylabel(label)
    return finish(figure, title_of(rows, panel, batch))


def legend_of(history: dict, panel: str, model: str, batch=None) -> str:
    """'gla: time per sequence ~ T^1.02 [0.98, 1.05]'; the name alone if there is no exponent."""
    metric, words = IN_LEGEND[panel]
    for f in history["fits"]:
        is_its = (f["panel"], f["metric"], f["model"], f["batch"]) == (panel, metric, model, batch)
        if is_its and f["exponent"] is not None:
            return f"{model}: {words} ~ {LETTER.get(panel, 'T')}^{f['exponent']:.2f} [{f['low']:.2f}, {f['high']:.2f}]"
    return model


def title_of(rows, panel: str, batch=None) -> str:
    """What was measured, and where: the panel, the tokens or sequences, the device, threads and precision."""
    ok = [r for r in rows if r["value"] is not None and not r["metric"].startswith("floor")]
    first, tokens, batches = ok[0], sorted({r["tokens"] for r in ok}), sorted({r["batch"] for r in ok})
    what = {
        "train": f"training, {_range(tokens)} tokens per step",
        "memory": f"one layer, {_range(batches)} sequences",
        "decode": f"decoding, batch {batch}",
        "scaling": f"training, {_range(tokens)} tokens per step, by size",
    }[panel]
    threads = f", {first['threads']} thread{'s' if first['threads'] != 1 else ''}"
    device = first["device"] if str(first["device"]).startswith("cuda") else f"{first['device']}{threads}"
    return f"{what} · {device} · {first['precision']}"


def _draw_model(ax, rows, metric: str, unit: float, model: str, i: int, label: str) -> None:
    """The line of one model; nothing if it has no positive value. Zero has no place on a logarithmic axis."""
    mine = [r for r in rows if r["model"] == model and r["metric"] == metric]
    found = sorted((r for r in mine if r["value"] is not None and r["value"] > 0), key=lambda r: r["x"])
    if not found:
        return
    colour, dash, marker = look_of(i)
    xs = [r["x"] for r in found]
    ax.plot(xs, [r["value"] / unit for r in found], color=colour, marker=marker, linestyle=dash, label=label)
    if all(r["q1"] is not None for r in found):
        low, high = ([r[quartile] / unit for r in found] for quartile in ("q1", "q3"))
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
