"""The score as a function of something known about the example: distance, depth, length and every other slice."""

from __future__ import annotations

import itertools
import math
import re

from src.figures.style import (
    COUNT_SIZE,
    DIGIT_INCHES,
    explain_intervals,
    finish,
    human,
    look_of,
    metric_words,
    named_floors,
    new_figure,
    reference_lines,
    styled,
)
from src.stats.intervals import wilson

SHARES_OF_A_SLICE = ("token_acc", "exact_match")


def figure_distance_curve(distance2acc, *, title: str = "", floor=None, ceiling: float = 1.0):
    """Accuracy against distance; returns a Figure.

    distance2acc: {distance: accuracy}, a slice as in metrics.json, or a list of slices, one panel each.  floor: a number or {name: number}.
    Raises ValueError for an empty mapping, a distance that is no number, or an accuracy outside 0..1.
    """
    parts = distance2acc if isinstance(distance2acc, (list, tuple)) else [distance2acc]
    panels = [[("", p if isinstance(p, dict) and "bins" in p else _slice_of_mapping(p))] for p in parts]
    return figure_slices(panels, title, named_floors(floor), ceiling)


def figure_slice(part: dict, *, title: str = "", floor=None, ceiling: float = 1.0):
    """One slice of a result (src/storage/schema.py, SLICE); returns a Figure. The same as `figure_distance_curve` of one slice."""
    return figure_slices([[("", part)]], title, named_floors(floor), ceiling)


def slice_groups(results: list[dict | None]) -> dict[str, list[list[dict]]]:
    """File stem -> panels -> one slice a result, for the slices that all results have with at least one bin in each.

    A slice of a single bin says nothing that the score does not, as by length where every test example has the same; one of gaps says which gap it is.
    """
    if not results or any(r is None for r in results):
        return {}
    shared = [
        name
        for name in results[0]["slices"]
        if all(_alike(results[0]["slices"][name], r["slices"].get(name)) for r in results)
    ]
    shared = [
        name
        for name in shared
        if results[0]["slices"][name]["of"] == "gap" or any(len(r["slices"][name]["bins"]) > 1 for r in results)
    ]
    groups: dict[str, list[list[dict]]] = {}
    for name in shared:
        stem = "distance_curve" if name in ("gap", "gap_linear") else _stem(name, groups)
        groups.setdefault(stem, []).append([r["slices"][name] for r in results])
    return groups


def _alike(a: dict, b: dict | None) -> bool:
    return (
        b is not None
        and bool(a["bins"])
        and bool(b["bins"])
        and all(a[key] == b[key] for key in ("scale", "metric", "level"))
    )


def _stem(name: str, taken) -> str:
    """A file name of a slice's name that no other figure has."""
    stem = re.sub(r"[^\w.-]+", "_", name).strip("._") or "slice"
    reserved = {"loss", "ppl", "distance_curve", "length_curve", *taken}
    return next(
        s
        for s in itertools.chain([stem, f"slice_{stem}"], (f"slice_{stem}_{i}" for i in itertools.count(2)))
        if s not in reserved
    )


def _slice_of_mapping(mapping) -> dict:
    if not isinstance(mapping, dict) or not mapping:
        raise ValueError(
            f"distance2acc: got {mapping!r:.60}, allowed: {{distance: accuracy}} with at least one entry, or a slice of a result"
        )
    try:
        pairs = sorted((float(distance), *_value_and_count(value)) for distance, value in mapping.items())
    except (TypeError, ValueError):
        raise ValueError(
            f"distance2acc: got {mapping!r:.60}, allowed: numbers as distances and as accuracies"
        ) from None
    for distance, value, _ in pairs:
        if not (math.isfinite(distance) and 0 <= value <= 1):
            raise ValueError(
                f"distance2acc: got accuracy {value:g} at distance {distance:g}, allowed: 0 .. 1 at a finite distance"
            )
    bins = [
        {"lo": d, "hi": d, "value": v, "count": n, "ci": None if n is None else list(wilson(v * n, n))}
        for d, v, n in pairs
    ]
    return {
        "of": "gap",
        "label": "distance (characters)",
        "level": "char",
        "metric": "accuracy",
        "scale": "linear",
        "bins": bins,
    }


def _value_and_count(value) -> tuple[float, int | None]:
    """An accuracy, alone or with its count as `hit_rate_by_gap` gives it."""
    if isinstance(value, tuple):
        accuracy, count = value
        return float(accuracy), int(count)
    return float(value), None


@styled
def figure_slices(panels, title: str, floors: dict, ceiling: float):
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
        xs = (
            [names.index(b["name"]) + _dodge(i, len(panel)) for b in part["bins"]]
            if names
            else [_centre(b, first["scale"]) for b in part["bins"]]
        )
        draw_points(
            ax,
            xs,
            part["bins"],
            look_of(i),
            name or metric_words(part["metric"]),
            joined=names is None,
            alone=len(panel) == 1,
        )
    if len(panel) > 1:
        explain_intervals(ax, [b for _, part in panel for b in part["bins"]], as_bars=names is not None)
    ax.set_xlabel(first["label"])
    ax.set_ylabel(metric_words(first["metric"]))
    is_loss = first["metric"] not in SHARES_OF_A_SLICE and any(
        not 0 <= b["value"] <= 1 for _, part in panel for b in part["bins"]
    )
    if is_loss or "loss" in first["metric"]:
        ax.margins(y=0.15)
    else:
        ax.set_ylim(0, 1)
        reference_lines(ax, floors, ceiling)
    _label_bins(ax, first["scale"], names, [b for _, part in panel for b in part["bins"]])
    _write_counts(figure, ax, panel, names)


def draw_points(ax, xs, bins, look, label: str, joined: bool, alone: bool) -> None:
    """A line with a shaded interval for numbers, points with bars for categories."""
    colour, dash, marker = look
    values = [b["value"] for b in bins]
    style = {
        "color": colour,
        "marker": marker if len(bins) <= 40 else None,
        "label": label,
        "clip_on": False,
        "zorder": 4,
    }
    if not joined:
        ax.plot(xs, values, linestyle="none", markersize=7, **style)
        _draw_bars(ax, [(x, *b["ci"]) for x, b in zip(xs, bins, strict=True) if b["ci"]], colour, alone)
        return
    ax.plot(xs, values, linestyle=dash, **style)
    ends = [(x, *b["ci"]) for x, b in zip(xs, bins, strict=True) if b["ci"]]
    if len(ends) == 1:
        _draw_bars(ax, ends, colour, alone)
    elif ends:
        ax.fill_between(
            *zip(*ends, strict=True),
            color=colour,
            alpha=0.2 if alone else 0.12,
            linewidth=0,
            label="95 % interval" if alone else None,
        )


def _draw_bars(ax, ends, colour: str, alone: bool) -> None:
    for i, (x, low, high) in enumerate(ends):
        ax.plot(
            [x, x],
            [low, high],
            color=colour,
            linewidth=1.8,
            marker="_",
            markersize=8,
            clip_on=False,
            zorder=3,
            label="95 % interval" if alone and i == 0 else None,
        )


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
        ax.set_xticks(
            range(len(names)),
            shown,
            rotation=35 if slanted else 0,
            ha="right" if slanted else "center",
            rotation_mode="anchor",
        )
        ax.grid(False, axis="x")
        return
    ends = [e for b in bins for e in _edges(b, scale)]
    room = 0.02 * (max(ends) - min(ends)) or 0.5
    ax.set_xlim(min(ends) - room, max(ends) + room)
    if scale == "log2":
        exponents = range(math.floor(min(ends)), math.ceil(max(ends)) + 1)
        zero = min((_edges(b, scale)[0] for b in bins if b["lo"] == 0), default=None)
        every = -(-len(exponents) // 12)
        ax.set_xticks(
            list(exponents)[::every],
            ["0" if e == zero else f"{2.0**e:g}" if e < 17 else f"2^{e}" for e in exponents][::every],
        )
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
    place = {
        "transform": ax.get_xaxis_transform(),
        "fontsize": COUNT_SIZE,
        "color": "0.35",
        "va": "bottom",
        "clip_on": False,
    }
    if nearest < 0.17:
        low, high = min(counts[0]), max(counts[0])
        spread = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        ax.text(right, 1.03, f"{spread} {unit} a bin", **{**place, "ha": "right"})
        return
    upright = nearest < DIGIT_INCHES * (max(map(len, texts)) + 1)
    for x, text in zip(xs, texts, strict=True):
        ax.text(x, 1.03, text, ha="center", rotation=90 if upright else 0, **place)
    ax.set_xlabel(f"{ax.get_xlabel()}\n(above: {unit} in each bin)")
