"""The score as a function of something known about the example: distance, depth, length and every other slice."""

from __future__ import annotations

import itertools
import math
import re

from src.figures.axes import explain_intervals, named_floors, reference_lines
from src.figures.bins import centre, label_bins, write_counts
from src.figures.points import draw_points
from src.figures.style import finish, look_of, new_figure, styled
from src.stats.intervals import wilson
from src.storage.metric_names import metric_name

SHARES_OF_A_SLICE = ("token_acc", "exact_match")


def figure_distance_curve(distance2acc, *, title: str = "", floor=None, ceiling: float = 1.0):
    """Accuracy against distance; returns a Figure.

    distance2acc: {distance: accuracy}, or {distance: (accuracy, count)} for an interval over `count` independent items,
        such as whole answers (`hit_rate_by_gap`); a slice as in metrics.json, or a list of slices, one panel each.
    floor: chance, a number or {name: number}.
    Raises ValueError for an empty mapping, a distance that is not a number, or an accuracy outside 0..1.
    """
    parts = distance2acc if isinstance(distance2acc, (list, tuple)) else [distance2acc]
    panels = [[("", p if isinstance(p, dict) and "bins" in p else _slice_of_mapping(p))] for p in parts]
    return figure_slices(panels, title, named_floors(floor), ceiling)


def figure_slice(part: dict, *, title: str = "", floor=None, ceiling: float = 1.0):
    """One slice of a result (src/storage/schema.py, SLICE); returns a Figure."""
    return figure_slices([[("", part)]], title, named_floors(floor), ceiling)


@styled
def figure_slices(panels, title: str, floors: dict, ceiling: float, unit: str = "character"):
    """panels: lists of (run label, slice). All slices of a panel have the same axes. A single run has no label.

    unit: what a slice of level "char" counts, character or token.
    """
    for panel in panels:
        for _, part in panel:
            if not part["bins"]:
                raise ValueError(f"slice of '{part['of']}': got no bins, allowed: at least one")
    figure, axes = new_figure(len(panels))
    for ax, panel in zip(axes, panels, strict=True):
        _draw_panel(figure, ax, panel, floors, ceiling, unit)
    for ax in axes[1:]:
        ax.set_ylabel("")
    return finish(figure, title)


def slice_groups(results: list[dict | None]) -> dict[str, list[list[dict]]]:
    """File stem -> panels -> one slice per result, for the slices that all results have with at least one bin.

    A slice with a single bin shows no more than the score, such as length if every test example has the same. It is
    left out, unless it is of gaps, where it says which gap that is.
    """
    if not results or any(r is None for r in results):
        return {}
    shared = [
        name
        for name, part in results[0]["slices"].items()
        if all(_alike(part, r["slices"].get(name)) for r in results)
        and (part["of"] == "gap" or any(len(r["slices"][name]["bins"]) > 1 for r in results))
    ]
    groups: dict[str, list[list[dict]]] = {}
    for name in shared:
        stem = "distance_curve" if name in ("gap", "gap_linear") else _stem(name, groups)
        groups.setdefault(stem, []).append([r["slices"][name] for r in results])
    return groups


def _alike(a: dict, b: dict | None) -> bool:
    if b is None or not a["bins"] or not b["bins"]:
        return False
    return all(a[key] == b[key] for key in ("scale", "metric", "level", "label"))


def _stem(name: str, taken) -> str:
    """A file name made of a slice's name, which no other figure has."""
    stem = re.sub(r"[^\w.-]+", "_", name).strip("._") or "slice"
    reserved = {"loss", "ppl", "distance_curve", "length_curve", *taken}
    numbered = (f"slice_{stem}_{i}" for i in itertools.count(2))
    return next(s for s in itertools.chain([stem, f"slice_{stem}"], numbered) if s not in reserved)


def _slice_of_mapping(mapping) -> dict:
    if not isinstance(mapping, dict) or not mapping:
        raise ValueError(
            f"distance2acc: got {mapping!r:.60}, allowed: {{distance: accuracy}} with at least one entry, "
            "or a slice of a result"
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
    about = {"of": "gap", "label": "distance (characters)", "level": "char", "metric": "accuracy", "scale": "linear"}
    return {**about, "bins": bins}


def _value_and_count(value) -> tuple[float, int | None]:
    """An accuracy, alone or with its count as `hit_rate_by_gap` returns it."""
    if isinstance(value, tuple):
        accuracy, count = value
        return float(accuracy), int(count)
    return float(value), None


def _draw_panel(figure, ax, panel, floors: dict, ceiling: float, unit: str) -> None:
    first, bins = panel[0][1], [b for _, part in panel for b in part["bins"]]
    names = sorted({b["name"] for b in bins}) if first["scale"] == "category" else None
    for i, (name, part) in enumerate(panel):
        if names:
            xs = [names.index(b["name"]) + _dodge(i, len(panel)) for b in part["bins"]]
        else:
            xs = [centre(b, first["scale"]) for b in part["bins"]]
        label = name or metric_name(part["metric"], unit)
        draw_points(ax, xs, part["bins"], look_of(i), label, joined=names is None, alone=len(panel) == 1)
    if len(panel) > 1:
        explain_intervals(ax, bins, as_bars=names is not None)
    ax.set_xlabel(first["label"])
    ax.set_ylabel(metric_name(first["metric"], unit))
    is_share = first["metric"] in SHARES_OF_A_SLICE or all(0 <= b["value"] <= 1 for b in bins)
    if is_share and "loss" not in first["metric"]:
        ax.set_ylim(0, 1)
        reference_lines(ax, floors, ceiling)
    else:
        ax.margins(y=0.15)
    label_bins(ax, first["scale"], names, bins)
    write_counts(figure, ax, [part for _, part in panel], names, unit)


def _dodge(i: int, n: int) -> float:
    """How far run i of n is beside a category's tick, so that bars do not hide each other."""
    return 0.0 if n == 1 else (i / (n - 1) - 0.5) * min(0.6, 0.12 * n)
