"""Figures of a run, and of several runs laid over each other: PNG files from the numbers of `metrics.json`, without torch.

    draw_all(metrics, "runs/x/figures")                         # loss, ppl, distance_curve, length_curve and every other slice
    overlay([("gru", a), ("lstm", b)], "figures")               # the same, one line a run; runs must share the task
    plot_distance_curve({8: 1.0, 64: 0.8, 512: 0.31}, "curve.png", floor=0.03)

Each `plot_x` writes what the `figure_x` beside it draws; a `figure_x` returns the matplotlib Figure, for notebooks and tests. Shaded bands (bars for
categories) are 95 % intervals, the small numbers over an axis count the examples or characters of a bin, dashed lines are floors.
matplotlib is imported inside the functions, and only its Figure: no window system, backend or style file of the user's plays a part, and the same
numbers give the same bytes. Colours: Okabe & Ito, "Color universal design", 2008; each line has a marker and a dash of its own as well.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import math
import os
import re
import textwrap
import warnings
from pathlib import Path

from src.config import UserError
from src.utils.rundir import write_atomic
from src.utils.stats import wilson

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
MARKERS = "osD^vPX*"
DASHES = ("-", "--", "-.", (0, (1, 1)), (0, (6, 1.5, 1, 1.5, 1, 1.5)))
STYLE = {
    "figure.dpi": 150, "savefig.dpi": 150, "font.family": "DejaVu Sans", "font.size": 10, "axes.labelsize": 10, "xtick.labelsize": 9, "ytick.labelsize": 9,
    "legend.fontsize": 9, "figure.titlesize": 11, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "0.9",
    "axes.axisbelow": True, "legend.frameon": False, "lines.linewidth": 1.6, "lines.markersize": 5, "text.parse_math": False, "axes.unicode_minus": False,
}
# What matplotlib would write of itself and of the time into a file of each kind.
ANONYMOUS = {"png": {"Software": None}, "pdf": {"Creator": None, "Producer": None, "CreationDate": None}}
COUNT_SIZE = 9  # points; a digit of it is about 0.08 inches wide
DIGIT_INCHES = 0.08
WORDS = {"token_acc": "character accuracy", "exact_match": "exact match", "loss": "loss (nats per character)", "heldout_loss": "loss (nats per character)"}
NOT_CAUSAL = "NOT CAUSAL, sees the future (--allow_noncausal)"
SHARES_OF_A_SLICE = ("token_acc", "exact_match")


# What the owner's documents name ---------------------------------------------------------------------------------------------------------


def plot_loss(history, out_path, **options) -> Path:
    """Write the loss figure: see `figure_loss`. Returns the path."""
    return _save(figure_loss(history, **options), out_path)


def plot_ppl(history, out_path, **options) -> Path:
    """Write the perplexity figure: see `figure_ppl`. Returns the path."""
    return _save(figure_ppl(history, **options), out_path)


def plot_distance_curve(distance2acc, out_path, **options) -> Path:
    """Write accuracy against distance: see `figure_distance_curve`. Returns the path."""
    return _save(figure_distance_curve(distance2acc, **options), out_path)


def draw_all(metrics: dict, figures_dir) -> list[Path]:
    """Write every figure that `metrics` (one run's metrics.json) has numbers for; returns the paths.

    loss, ppl; distance_curve from the slices gap and gap_linear; one file a further slice; length_curve where it has more than one length.
    Slices are those of the test set, by the best weights (the last ones where there are no best). Raises ValueError for a dict that is not metrics.
    """
    _require_metrics(metrics)
    folder = make_folder(figures_dir)
    title = run_title(metrics)
    paths = [plot_loss(metrics, folder / "loss.png", title=title), plot_ppl(metrics, folder / "ppl.png", title=title)]
    result, which = _shown_result(metrics)
    title += f"\n{which}" if which else ""
    for stem, parts in _slice_groups([result]).items():
        panels = [[("", part[0])] for part in parts]
        paths.append(_save(_figure_slices(panels, title, floors_of(metrics, parts[0][0]["level"]), _ceiling_of(metrics, parts[0][0])), folder / f"{stem}.png"))
    if len(metrics["length_curve"]) > 1:
        figure = figure_length_curve(metrics["length_curve"], title=title, label=metrics["primary"], floor=floors_of(metrics, "example"),
                                     ceiling=metrics["ceiling"], unit=_length_words(metrics, result), with_loss=metrics["kind"] == "language")
        paths.append(_save(figure, folder / "length_curve.png"))
    return paths


def overlay(runs, figures_dir) -> list[Path]:
    """Write the figures that several runs share, one line a run; returns the paths.

    runs: (label, metrics) pairs. val loss and perplexity of all; distance_curve, length_curve and each slice of the runs that have a result.
    Raises UserError for no runs, for runs of different tasks and, for a language task, of different text.
    """
    runs = _named_apart(runs)
    _require_comparable(runs)
    folder = make_folder(figures_dir)
    title = overlay_title(runs)
    paths = [_save(_figure_curves([(n, _history(m, kind)) for n, m in runs], kind, title), folder / f"{kind}.png") for kind in ("loss", "ppl")]
    shown = [(name, m, _shown_result(m)[0]) for name, m in runs]
    shown = [(name, m, result) for name, m, result in shown if result]
    if not shown:
        return paths
    missing = [name for name, m in runs if name not in [n for n, _, _ in shown]]
    title += f"\nno result: {', '.join(missing)}" if missing else ""
    for stem, parts in _slice_groups([result for _, _, result in shown]).items():
        panels = [list(zip([name for name, _, _ in shown], part, strict=True)) for part in parts]
        level = parts[0][0]["level"]
        floors = _highest_of_all([floors_of(m, level) for _, m, _ in shown])
        paths.append(_save(_figure_slices(panels, title, floors, max(_ceiling_of(m, parts[0][0]) for _, m, _ in shown)), folder / f"{stem}.png"))
    if all(len(m["length_curve"]) > 1 for _, m, _ in shown):
        floors = _highest_of_all([floors_of(m, "example") for _, m, _ in shown])
        first, ceiling = shown[0][1], max(m["ceiling"] for _, m, _ in shown)
        figure = _figure_lengths([(name, m["length_curve"]) for name, m, _ in shown], title, first["primary"], floors, ceiling,
                                 _length_words(first, shown[0][2]), with_loss=first["kind"] == "language")
        paths.append(_save(figure, folder / "length_curve.png"))
    return paths


# Figures of one run ----------------------------------------------------------------------------------------------------------------------


def figure_loss(history, *, title: str = "", floor=None):
    """Training and validation loss against the step, best step marked; returns a Figure.

    history: {"train": [[step, loss]], "val": [[step, loss]], "best_step": int or None}, losses in nats per scored character, or a metrics dict.
    floor: a number or {name: number}, drawn dashed. A diverged run's figure says at which step. Raises ValueError for another form of history.
    """
    return _figure_curves([("", _history(history, "loss"))], "loss", title, _floors(floor))


def figure_ppl(history, *, title: str = "", floor=None):
    """Perplexity per scored character against the step; a plain history holds losses, as for `figure_loss`. Logarithmic above one decade."""
    return _figure_curves([("", _history(history, "ppl"))], "ppl", title, _floors(floor))


def figure_distance_curve(distance2acc, *, title: str = "", floor=None, ceiling: float = 1.0):
    """Accuracy against distance; returns a Figure.

    distance2acc: {distance: accuracy}, a slice as in metrics.json, or a list of slices, one panel each.  floor: a number or {name: number}.
    Raises ValueError for an empty mapping, a distance that is no number, or an accuracy outside 0..1.
    """
    parts = distance2acc if isinstance(distance2acc, (list, tuple)) else [distance2acc]
    panels = [[("", p if isinstance(p, dict) and "bins" in p else _slice_of_mapping(p))] for p in parts]
    return _figure_slices(panels, title, _floors(floor), ceiling)


def figure_slice(part: dict, *, title: str = "", floor=None, ceiling: float = 1.0):
    """One slice of a result (src/utils/schema.py, SLICE); returns a Figure. The same as `figure_distance_curve` of one slice."""
    return _figure_slices([[("", part)]], title, _floors(floor), ceiling)


def figure_length_curve(curve: list[dict], *, title: str = "", label: str = "exact_match", floor=None, ceiling: float = 1.0,
                        unit: str = "length (in the task's own unit)", with_loss: bool = False):
    """The primary metric against length, the training lengths shaded, undefined lengths marked by a cross; returns a Figure.

    curve: `length_curve` of metrics.json.  label: the metric's name.  unit: the label of the length axis.  with_loss: the loss in a panel before it,
    as for language. Raises ValueError for an empty curve.
    """
    return _figure_lengths([("", curve)], title, label, _floors(floor), ceiling, unit, with_loss)


def run_title(metrics: dict) -> str:
    """'needle · gru · 84.6 k parameters (79.2 k without embeddings)', a hybrid with its layers, and a layer that sees the future called so."""
    total, embedding = metrics["parameters"]["total"], metrics["parameters"]["embedding"]
    layers = _args(metrics).get("layers")
    model = f"{metrics['model']} ({', '.join(layers)})" if layers else metrics["model"]
    title = f"{metrics['task']} · {model} · {human(total)} parameters ({human(total - embedding)} without embeddings)"
    return f"{title}\n{NOT_CAUSAL}" if sees_the_future(metrics) else title


def sees_the_future(metrics: dict) -> bool:
    """Whether the run trained a layer that the causality check had caught, under --allow_noncausal."""
    return bool(_args(metrics).get("allow_noncausal"))


def _args(metrics: dict) -> dict:
    return metrics.get("args") or {}


def overlay_title(runs) -> str:
    """'needle · 3 runs', and what they differ in is left to the legend; those that see the future are named."""
    title = f"{runs[0][1]['task']} · {len(runs)} run{'s' if len(runs) > 1 else ''}"
    cheats = [name for name, metrics in runs if sees_the_future(metrics)]
    return f"{title}\n{NOT_CAUSAL}: {', '.join(cheats)}" if cheats else title


def human(number: int) -> str:
    """Three significant digits: 950, 84.6 k, 1.25 M."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size * 0.9995:
            scaled = number / size
            return f"{scaled:.{max(0, 2 - int(math.log10(scaled * 1.0005)))}f}{unit}"
    return str(number)


def floors_of(metrics: dict, level: str) -> dict[str, float]:
    """The floors that belong to a slice's level: those of the primary metric for examples, of characters' accuracy for characters."""
    found = {name: values.get("slice_acc", values["token_acc"]) if level == "char" else values["primary"] for name, values in metrics["floors"].items()}
    return {name: value for name, value in found.items() if value is not None}


# Loss and perplexity ---------------------------------------------------------------------------------------------------------------------


def styled(draw):
    """Run `draw` under matplotlib's defaults and STYLE, whatever the user's matplotlibrc says."""

    @functools.wraps(draw)
    def wrapped(*args, **kwargs):
        with _style():
            return draw(*args, **kwargs)

    return wrapped


@contextlib.contextmanager
def _style():
    backend = os.environ.pop("MPLBACKEND", None)  # matplotlib refuses to be imported where it names no backend of this installation
    try:
        from matplotlib import style
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    with style.context(["default", STYLE]):
        yield


def _history(history, kind: str) -> dict:
    """{"train", "val": finite (step, value) points, "best_step", "diverged_at"} of a plain history or of metrics, as loss or as perplexity."""
    if not isinstance(history, dict) or not ({"loss_curve", "train", "val"} & set(history)):
        raise ValueError(f"history: got {history!r:.60}, allowed: a dict with 'train' and 'val', lists of [step, loss], or the metrics of a run")
    if "loss_curve" in history:
        curves = history["ppl_curve" if kind == "ppl" else "loss_curve"]
    else:
        curves = {part: history.get(part) or [] for part in ("train", "val")}
        if kind == "ppl":
            curves = {part: [[s, math.exp(min(v, 700.0))] for s, v in points if v is not None] for part, points in curves.items()}
    points = {part: [(s, v) for s, v in curves[part] if v is not None and math.isfinite(v)] for part in ("train", "val")}
    return {**points, "best_step": history.get("best_step"), "diverged_at": history.get("diverged_at")}


@styled
def _figure_curves(histories, kind: str, title: str, floors: dict | None = None):
    figure, (ax,) = new_figure(1)
    values = []
    for i, (name, history) in enumerate(histories):
        values += [v for part in ("train", "val") for _, v in history[part]]
        _draw_history(ax, history, name, i, alone=len(histories) == 1)
        if history["diverged_at"] is not None:
            ax.axvline(history["diverged_at"], color=COLOURS[1] if len(histories) == 1 else COLOURS[i % len(COLOURS)], linestyle=(0, (1, 2)), linewidth=1.6,
                       label="diverged: the loss is no finite number" if len(histories) == 1 else f"{name}: diverged here")
            title += f"\ndiverged at step {history['diverged_at']}" if len(histories) == 1 else ""
    _reference_lines(ax, floors or {}, 1.0)
    _scale_values(ax, values + list((floors or {}).values()), log_allowed=kind == "ppl")
    if not values:
        ax.text(0.5, 0.5, "no finite value was logged", transform=ax.transAxes, ha="center", va="center", color="0.35")
        ax.set_yticks([])
    ax.set_xlabel("optimiser step")
    which = "" if len(histories) == 1 else "validation "
    ax.set_ylabel(f"{which}loss (nats per scored character)" if kind == "loss" else f"{which}perplexity (per scored character)")
    _whole_steps(ax)
    return finish(figure, title)


def _draw_history(ax, history: dict, name: str, i: int, alone: bool) -> None:
    colour, dash, marker = look_of(i)
    if alone and history["train"]:
        ax.plot(*zip(*history["train"], strict=True), color=COLOURS[6], linewidth=1.1, marker="." if len(history["train"]) < 3 else None, label="training")
    if history["val"]:
        label = "validation" if alone else name
        ax.plot(*zip(*history["val"], strict=True), color=colour, linestyle=dash, marker=marker, markersize=4, label=label)
    best = dict(history["val"]).get(history["best_step"])
    if best is not None:
        ax.plot([history["best_step"]], [best], marker="*", markersize=14 if alone else 11, color=colour, markeredgecolor="black", linestyle="none", zorder=5,
                label=f"best: step {history['best_step']}, {best:.4g}" if alone else None)


def _scale_values(ax, values: list[float], log_allowed: bool) -> None:
    if not values:
        return
    least, most = min(values), max(values)
    if log_allowed and least > 0 and most > 10 * least:
        ax.set_yscale("log")
        plain_log_ticks(ax.yaxis, decades=math.log10(most / least))
    elif least < most and 0 <= least < 0.5 * most:
        ax.set_ylim(bottom=0)


def plain_log_ticks(axis, decades: float) -> None:
    """Plain numbers on a logarithmic axis: at 1, 2 and 5 of each power of ten, from 3 decades on at 1 alone."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 3 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.15g}" if v < 1e7 else f"{v:.0e}"))
    axis.set_minor_formatter(NullFormatter())


def _whole_steps(ax) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    low, high = ax.get_xlim()
    if high - low < 5:
        ax.set_xlim(max(0, math.floor(low) - 1), math.ceil(high) + 1)
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))


# Slices ----------------------------------------------------------------------------------------------------------------------------------


def _slice_groups(results: list[dict | None]) -> dict[str, list[list[dict]]]:
    """File stem -> panels -> one slice a result, for the slices that all results have with at least one bin in each.

    A slice of a single bin says nothing that the score does not, as by length where every test example has the same; one of gaps says which gap it is.
    """
    if not results or any(r is None for r in results):
        return {}
    shared = [name for name in results[0]["slices"] if all(_alike(results[0]["slices"][name], r["slices"].get(name)) for r in results)]
    shared = [name for name in shared if results[0]["slices"][name]["of"] == "gap" or any(len(r["slices"][name]["bins"]) > 1 for r in results)]
    groups: dict[str, list[list[dict]]] = {}
    for name in shared:
        stem = "distance_curve" if name in ("gap", "gap_linear") else _stem(name, groups)
        groups.setdefault(stem, []).append([r["slices"][name] for r in results])
    return groups


def _alike(a: dict, b: dict | None) -> bool:
    return b is not None and bool(a["bins"]) and bool(b["bins"]) and all(a[key] == b[key] for key in ("scale", "metric", "level"))


def _stem(name: str, taken) -> str:
    """A file name of a slice's name that no other figure has."""
    stem = re.sub(r"[^\w.-]+", "_", name).strip("._") or "slice"
    reserved = {"loss", "ppl", "distance_curve", "length_curve", *taken}
    return next(s for s in itertools.chain([stem, f"slice_{stem}"], (f"slice_{stem}_{i}" for i in itertools.count(2))) if s not in reserved)


def _slice_of_mapping(mapping) -> dict:
    if not isinstance(mapping, dict) or not mapping:
        raise ValueError(f"distance2acc: got {mapping!r:.60}, allowed: {{distance: accuracy}} with at least one entry, or a slice of a result")
    try:
        pairs = sorted((float(distance), *_value_and_count(value)) for distance, value in mapping.items())
    except (TypeError, ValueError):
        raise ValueError(f"distance2acc: got {mapping!r:.60}, allowed: numbers as distances and as accuracies") from None
    for distance, value, _ in pairs:
        if not (math.isfinite(distance) and 0 <= value <= 1):
            raise ValueError(f"distance2acc: got accuracy {value:g} at distance {distance:g}, allowed: 0 .. 1 at a finite distance")
    bins = [{"lo": d, "hi": d, "value": v, "count": n, "ci": None if n is None else list(wilson(v * n, n))} for d, v, n in pairs]
    return {"of": "gap", "label": "distance (characters)", "level": "char", "metric": "accuracy", "scale": "linear", "bins": bins}


def _value_and_count(value) -> tuple[float, int | None]:
    """An accuracy, alone or with its count as `hit_rate_by_gap` gives it."""
    if isinstance(value, tuple):
        accuracy, count = value
        return float(accuracy), int(count)
    return float(value), None


@styled
def _figure_slices(panels, title: str, floors: dict, ceiling: float):
    """panels: lists of (run label, slice); every slice of a panel has the same axes. One run has an empty label."""
    for panel in panels:
        for _, part in panel:
            if not part["bins"]:
                raise ValueError(f"slice of '{part['of']}': got no bins, allowed: at least one")
    figure, axes = new_figure(len(panels))
    for ax, panel in zip(axes, panels, strict=True):
        _draw_slice_panel(figure, ax, panel, floors, ceiling)
    for ax in axes[1:]:
        ax.set_ylabel("")
    return finish(figure, title)


def _draw_slice_panel(figure, ax, panel, floors: dict, ceiling: float) -> None:
    first = panel[0][1]
    names = sorted({b["name"] for _, part in panel for b in part["bins"]}) if first["scale"] == "category" else None
    for i, (name, part) in enumerate(panel):
        xs = [names.index(b["name"]) + _dodge(i, len(panel)) for b in part["bins"]] if names else [_centre(b, first["scale"]) for b in part["bins"]]
        _draw_points(ax, xs, part["bins"], look_of(i), name or metric_words(part["metric"]), joined=names is None, alone=len(panel) == 1)
    if len(panel) > 1:
        _explain_intervals(ax, [b for _, part in panel for b in part["bins"]], as_bars=names is not None)
    ax.set_xlabel(first["label"])
    ax.set_ylabel(metric_words(first["metric"]))
    is_loss = first["metric"] not in SHARES_OF_A_SLICE and any(not 0 <= b["value"] <= 1 for _, part in panel for b in part["bins"])
    if is_loss or "loss" in first["metric"]:
        ax.margins(y=0.15)
    else:
        ax.set_ylim(0, 1)
        _reference_lines(ax, floors, ceiling)
    _label_bins(ax, first["scale"], names, [b for _, part in panel for b in part["bins"]])
    _write_counts(figure, ax, panel, names)


def _draw_points(ax, xs, bins, look, label: str, joined: bool, alone: bool) -> None:
    """A line with a shaded interval for numbers, points with bars for categories."""
    colour, dash, marker = look
    values = [b["value"] for b in bins]
    style = {"color": colour, "marker": marker if len(bins) <= 40 else None, "label": label, "clip_on": False, "zorder": 4}
    if not joined:
        ax.plot(xs, values, linestyle="none", markersize=7, **style)
        _draw_bars(ax, [(x, *b["ci"]) for x, b in zip(xs, bins, strict=True) if b["ci"]], colour, alone)
        return
    ax.plot(xs, values, linestyle=dash, **style)
    ends = [(x, *b["ci"]) for x, b in zip(xs, bins, strict=True) if b["ci"]]
    if len(ends) == 1:
        _draw_bars(ax, ends, colour, alone)
    elif ends:
        ax.fill_between(*zip(*ends, strict=True), color=colour, alpha=0.2 if alone else 0.12, linewidth=0, label="95 % interval" if alone else None)


def _draw_bars(ax, ends, colour: str, alone: bool) -> None:
    for i, (x, low, high) in enumerate(ends):
        ax.plot([x, x], [low, high], color=colour, linewidth=1.8, marker="_", markersize=8, clip_on=False, zorder=3,
                label="95 % interval" if alone and i == 0 else None)


def _explain_intervals(ax, rows, as_bars: bool = False) -> None:
    """One legend entry for the bands or bars of all runs."""
    if as_bars and any(row["ci"] for row in rows):
        ax.plot([], [], color="0.5", linewidth=1.8, label="95 % intervals")
    elif any(row["ci"] for row in rows):
        ax.fill_between([], [], color="0.8", linewidth=0, label="95 % intervals")


def metric_words(metric: str) -> str:
    """How an axis names a metric."""
    return WORDS.get(metric, metric.replace("_", " "))


def _dodge(i: int, n: int) -> float:
    """Where run i of n stands beside a category's tick, so that bars do not hide each other."""
    return 0.0 if n == 1 else (i / (n - 1) - 0.5) * min(0.6, 0.12 * n)


def _edges(b: dict, scale: str) -> tuple[float, float]:
    """The bin's ends on the axis: log2 of them for log2 bins, where the bin of 0 is one unit wide."""
    if scale != "log2":
        return b["lo"], b["hi"]
    right = math.log2(b["hi"]) if b["hi"] > 0 else 0.0
    return (math.log2(b["lo"]) if b["lo"] > 0 else right - 1), right


def _centre(b: dict, scale: str) -> float:
    left, right = _edges(b, scale)
    return (left + right) / 2


def _label_bins(ax, scale: str, names, bins) -> None:
    if names is not None:
        ax.set_xlim(-0.6, len(names) - 0.4)
        slanted = sum(map(len, names)) > 50
        shown = [n if n.isprintable() and n.strip() else repr(n) for n in names]
        ax.set_xticks(range(len(names)), shown, rotation=35 if slanted else 0, ha="right" if slanted else "center", rotation_mode="anchor")
        ax.grid(False, axis="x")
        return
    ends = [e for b in bins for e in _edges(b, scale)]
    room = 0.02 * (max(ends) - min(ends)) or 0.5
    ax.set_xlim(min(ends) - room, max(ends) + room)
    if scale == "log2":
        exponents = range(math.floor(min(ends)), math.ceil(max(ends)) + 1)
        zero = min((_edges(b, scale)[0] for b in bins if b["lo"] == 0), default=None)
        every = -(-len(exponents) // 12)
        ax.set_xticks(list(exponents)[::every], ["0" if e == zero else f"{2.0**e:g}" if e < 17 else f"2^{e}" for e in exponents][::every])
    elif all(float(e).is_integer() for e in ends):
        from matplotlib.ticker import MaxNLocator

        ax.xaxis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1))


def _write_counts(figure, ax, panel, names) -> None:
    """The count of each bin over the axis; upright where they would touch, and only their range where there are too many."""
    counts = [[b["count"] for b in part["bins"]] for _, part in panel]
    if counts[0][0] is None or any(c != counts[0] for c in counts):
        return
    bins, scale = panel[0][1]["bins"], panel[0][1]["scale"]
    xs = [names.index(b["name"]) for b in bins] if names else [_centre(b, scale) for b in bins]
    left, right = ax.get_xlim()
    inches = (figure.get_figwidth() / len(figure.axes) - 0.8) / (right - left)
    nearest = min((b - a for a, b in itertools.pairwise(sorted(xs))), default=right - left) * inches
    unit = "examples" if panel[0][1]["level"] == "example" else "characters"
    texts = [f"{c:,}" if c < 10_000 else human(c).replace(" ", "") for c in counts[0]]
    place = {"transform": ax.get_xaxis_transform(), "fontsize": COUNT_SIZE, "color": "0.35", "va": "bottom", "clip_on": False}
    if nearest < 0.17:
        low, high = min(counts[0]), max(counts[0])
        spread = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        ax.text(right, 1.03, f"{spread} {unit} a bin", **{**place, "ha": "right"})
        return
    upright = nearest < DIGIT_INCHES * (max(map(len, texts)) + 1)
    for x, text in zip(xs, texts, strict=True):
        ax.text(x, 1.03, text, ha="center", rotation=90 if upright else 0, **place)
    ax.set_xlabel(f"{ax.get_xlabel()}\n(above: {unit} in each bin)")


# Lengths ---------------------------------------------------------------------------------------------------------------------------------


@styled
def _figure_lengths(curves, title: str, metric: str, floors: dict, ceiling: float, unit: str, with_loss: bool):
    if not any(curve for _, curve in curves):
        raise ValueError("length_curve: got no lengths, allowed: at least one")
    figure, axes = new_figure(2 if with_loss else 1, share_y=False)
    if with_loss:
        as_loss = [(name, [{**row, "value": row["loss"], "ci": row.get("loss_ci")} for row in curve]) for name, curve in curves]
        _draw_length_panel(axes[0], as_loss, "loss", unit)
        axes[0].margins(y=0.15)
    axes[-1].set_ylim(0, 1)
    _draw_length_panel(axes[-1], curves, metric, unit)
    _reference_lines(axes[-1], floors, ceiling)
    return finish(figure, title)


def _draw_length_panel(ax, curves, metric: str, unit: str) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

    rows = [row for _, curve in curves for row in curve]
    lengths = sorted({row["length"] for row in rows})
    spread = lengths[-1] / max(1, lengths[0])
    if spread >= 4:
        ax.set_xscale("log", base=2)
        ax.set_xlim(max(1, lengths[0]) / spread**0.08, lengths[-1] * spread**0.05)
    else:
        ax.set_xlim(lengths[0] - 0.08 * (lengths[-1] - lengths[0] or 1), lengths[-1] + 0.05 * (lengths[-1] - lengths[0] or 1))
    for i, (name, curve) in enumerate(curves):
        _draw_lengths(ax, curve, i, name or metric_words(metric), alone=len(curves) == 1)
    if len(curves) > 1:
        _explain_intervals(ax, rows)
    _shade_training(ax, rows)
    if len(lengths) <= 10:
        ax.set_xticks(lengths)
        ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel(unit)
    ax.set_ylabel(metric_words(metric))


def _length_words(metrics: dict, result: dict) -> str:
    """The label of the length axis: of a language task its context, else what the slice by length says."""
    if metrics["kind"] == "language":
        return "context length (characters in a window)"
    return result["slices"].get("length", {}).get("label", "length (in the task's own unit)")


def _draw_lengths(ax, curve, i: int, label: str, alone: bool) -> None:
    look = look_of(i)
    known = [row for row in curve if row["value"] is not None]
    if known:
        _draw_points(ax, [row["length"] for row in known], known, look, label, joined=True, alone=alone)
    undefined = [row for row in curve if row["value"] is None]
    if undefined:
        # a row of crosses a run, just over the axis, so that runs do not hide each other
        ax.plot([row["length"] for row in undefined], [0.03 + 0.035 * i] * len(undefined), linestyle="none", marker="x", markersize=8, markeredgewidth=2,
                color=look[0], label="undefined (position table too short)", clip_on=False, zorder=4, transform=ax.get_xaxis_transform())


def _shade_training(ax, rows) -> None:
    inside = [row["length"] for row in rows if row["in_distribution"]]
    if not inside:
        return
    least, most = min(inside), max(inside)
    if not any(row["length"] < least for row in rows):
        ax.axvspan(ax.get_xlim()[0], most, color="0.93", zorder=0, label=f"lengths of training (up to {most:,})")
    elif least < most:
        ax.axvspan(least, most, color="0.93", zorder=0, label=f"lengths of training ({least:,} to {most:,} tested here)")
    else:  # shorter ones were not trained
        ax.axvline(most, color="0.8", linewidth=5, zorder=0, label=f"length of training ({most:,})")


# Shared parts ----------------------------------------------------------------------------------------------------------------------------


def look_of(i: int) -> tuple:
    """Colour, dash and marker of line i: together they repeat only after 280 lines."""
    return COLOURS[i % 7], DASHES[i % 5], MARKERS[i % 8]


def new_figure(n_panels: int, share_y: bool = True):
    """(figure, its axes side by side, with one y axis for all unless they measure different things)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2 if n_panels == 1 else 5.2 * n_panels, 4.4), layout="constrained")
    return figure, figure.subplots(1, n_panels, squeeze=False, sharey=share_y and n_panels > 1)[0]


def _reference_lines(ax, floors: dict, ceiling: float) -> None:
    """Every floor as a dashed line, the highest one named; the ceiling where it is not 1."""
    highest = max(floors, key=lambda name: floors[name], default=None)
    for name, value in floors.items():
        if name != highest:
            ax.axhline(value, color="0.65", linestyle=(0, (3, 3)), linewidth=0.9, zorder=2)
    if highest is not None:
        word = f"floor: {highest}" if highest else "floor"
        ax.axhline(floors[highest], color="0.25", linestyle=(0, (5, 3)), linewidth=1.3, zorder=2, label=f"{word} {floors[highest]:.3g}")
    if ceiling != 1.0:
        ax.axhline(ceiling, color="0.25", linestyle=(0, (8, 2, 1, 2)), linewidth=1.3, zorder=2, label=f"ceiling {ceiling:.3g}")


def _floors(floor) -> dict[str, float]:
    """The `floor` option as {name: value}; ValueError unless it is a finite number, a dict of them, or None."""
    floors = {} if floor is None else dict(floor) if isinstance(floor, dict) else {"": floor}
    for name, value in floors.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"floor{f' {name}' if name else ''}: got {value!r}, allowed: a finite number, or {{name: number}}")
    return floors


def finish(figure, title: str):
    """Title and one legend for all panels, under the axes, where it can hide nothing."""
    inches = figure.get_figwidth()
    if title:
        title = _wrap(title, int(inches / 0.092))
        figure.suptitle(title)
        figure.set_figheight(figure.get_figheight() + 0.18 * title.count("\n"))
    for ax in figure.axes:
        ax.set_xlabel(_wrap(ax.get_xlabel(), int(inches / len(figure.axes) / 0.092)))
    entries = {}
    for ax in figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if entries:
        labels = [label if len(label) <= 72 else f"{label[:40]} … {label[-29:]}" for label in entries]
        columns = _legend_columns(labels, inches)
        figure.set_figheight(figure.get_figheight() + 0.19 * (-(-len(labels) // columns) - 1))  # rows of the legend take nothing from the axes
        figure.legend(list(entries.values()), labels, loc="outside lower center", ncols=columns)
    return figure


def _legend_columns(labels: list[str], inches: float) -> int:
    """The most columns that fit side by side; matplotlib fills one after the other."""
    for columns in range(len(labels), 1, -1):
        rows = -(-len(labels) // columns)
        widest = [max(map(len, labels[i:i + rows])) for i in range(0, len(labels), rows)]
        if sum(0.72 + 0.076 * w for w in widest) <= inches - 0.2:
            return columns
    return 1


def _wrap(text: str, width: int) -> str:
    """Lines of at most `width` characters, old line breaks kept."""
    return "\n".join(textwrap.fill(line, max(20, width)) for line in text.split("\n"))


def save_both(figure, stem) -> list[Path]:
    """Write `stem`.png and `stem`.pdf, each as `_save` does; returns the paths."""
    stem = Path(stem)
    return [_save(figure, stem.with_name(f"{stem.name}.{kind}"), kind) for kind in ANONYMOUS]


@styled
def _save(figure, out_path, kind: str = "png") -> Path:
    """Write a file of this kind whole or not at all; its bytes hold no date and no version."""
    path = Path(out_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a rare character in a name becomes a box
        figure.savefig(buffer, format=kind, metadata=ANONYMOUS[kind])
    write_atomic(path, buffer.getvalue())
    return path


def make_folder(figures_dir) -> Path:
    """The folder, made where there is none; UserError where a file has its name."""
    folder = Path(figures_dir)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"figures: '{folder}' is a file, allowed: a folder, which is made where there is none")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _require_metrics(metrics) -> None:
    needed = ("task", "model", "kind", "data", "parameters", "loss_curve", "ppl_curve", "test", "floors", "ceiling", "length_curve", "primary")
    missing = [key for key in needed if not isinstance(metrics, dict) or key not in metrics]
    if missing:
        raise ValueError(f"metrics: no {', '.join(missing)} in them, allowed: the content of a run's metrics.json")


def _shown_result(metrics: dict) -> tuple[dict | None, str]:
    """The result whose slices are drawn, and the words for it."""
    if metrics["test"]["best"] is not None:
        return metrics["test"]["best"], "test set, best weights"
    return metrics["test"]["last"], "test set, last weights" if metrics["test"]["last"] is not None else ""


def _ceiling_of(metrics: dict, part: dict) -> float:
    return metrics["ceiling"] if part["metric"] == metrics["primary"] else 1.0


def _highest_of_all(floors: list[dict]) -> dict[str, float]:
    """The highest floor over all runs: what each of them must beat."""
    highest = [max(f.items(), key=lambda item: item[1]) for f in floors if f]
    return dict([max(highest, key=lambda item: item[1])]) if highest else {}


def _named_apart(runs) -> list[tuple[str, dict]]:
    """(label, metrics) with a number behind a label that another run has."""
    named: dict[str, dict] = {}
    for label, metrics in runs:
        _require_metrics(metrics)
        label = f" {label}" if label.startswith("_") else label  # matplotlib keeps such labels out of legends
        name = next(n for n in itertools.chain([label], (f"{label} ({i})" for i in itertools.count(2))) if n not in named)
        named[name] = metrics
    return list(named.items())


def _require_comparable(runs) -> None:
    if not runs:
        raise UserError("overlay: got no runs, allowed: at least one")
    (first, reference), *others = runs
    for name, metrics in others:
        if metrics["task"] != reference["task"]:
            raise UserError(f"overlay: '{first}' is a run of {reference['task']} and '{name}' of {metrics['task']}, allowed: runs of one task; leave one out")
        if metrics["kind"] == "language" and metrics["data"]["digest"] != reference["data"]["digest"]:
            raise UserError(f"overlay: '{first}' and '{name}' read different text (digests {reference['data']['digest']:.12} and "
                            f"{metrics['data']['digest']:.12}), allowed: runs on the same text; give both the same --data_path")
