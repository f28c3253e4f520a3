"""The bins of a slice on an axis: where they are, how they are labelled, and how many items each one has."""

from __future__ import annotations

import itertools
import math

from src.figures.style import human

COUNT_SIZE = 9  # points
DIGIT_INCHES = 0.08  # width of a digit of that size
LEAST_INCHES = 0.17  # between two bins, for a count on each
MOST_TICKS = 12


def centre(b: dict, scale: str) -> float:
    """Where a bin's point is drawn."""
    left, right = _edges(b, scale)
    return (left + right) / 2


def label_bins(ax, scale: str, names: list[str] | None, bins: list[dict]) -> None:
    """Limits and tick labels of the axis: names, powers of two, or numbers."""
    if names is not None:
        _label_names(ax, names)
        return
    ends = [e for b in bins for e in _edges(b, scale)]
    room = 0.02 * (max(ends) - min(ends)) or 0.5
    ax.set_xlim(min(ends) - room, max(ends) + room)
    if scale == "log2":
        exponents = range(math.floor(min(ends)), math.ceil(max(ends)) + 1)
        zero = min((_edges(b, scale)[0] for b in bins if b["lo"] == 0), default=None)
        shown = list(exponents)[:: -(-len(exponents) // MOST_TICKS)]
        ax.set_xticks(shown, ["0" if e == zero else f"{2.0**e:g}" if e < 17 else f"2^{e}" for e in shown])
    elif all(float(e).is_integer() for e in ends):
        from matplotlib.ticker import MaxNLocator

        ax.xaxis.set_major_locator(MaxNLocator(MOST_TICKS, integer=True, min_n_ticks=1))


def write_counts(figure, ax, parts: list[dict], names: list[str] | None, unit: str) -> None:
    """Write the count of each bin above the axis, if all runs have the same counts.

    unit: what a bin of level "char" counts, character or token.
    Counts are upright if they would touch. If there are too many, only their range is written.
    """
    counts = [[b["count"] for b in part["bins"]] for part in parts]
    if counts[0][0] is None or any(c != counts[0] for c in counts):
        return
    bins, scale = parts[0]["bins"], parts[0]["scale"]
    xs = [names.index(b["name"]) for b in bins] if names else [centre(b, scale) for b in bins]
    left, right = ax.get_xlim()
    inches = (figure.get_figwidth() / len(figure.axes) - 0.8) / (right - left)
    nearest = min((b - a for a, b in itertools.pairwise(sorted(xs))), default=right - left) * inches
    unit = "examples" if parts[0]["level"] == "example" else f"{unit}s"
    texts = [f"{c:,}" if c < 10_000 else human(c).replace(" ", "") for c in counts[0]]
    look = {"fontsize": COUNT_SIZE, "color": "0.35", "va": "bottom", "clip_on": False}
    look["transform"] = ax.get_xaxis_transform()
    if nearest < LEAST_INCHES:
        low, high = min(counts[0]), max(counts[0])
        spread = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        ax.text(right, 1.03, f"{spread} {unit} per bin", ha="right", **look)
        return
    upright = nearest < DIGIT_INCHES * (max(map(len, texts)) + 1)
    for x, text in zip(xs, texts, strict=True):
        ax.text(x, 1.03, text, ha="center", rotation=90 if upright else 0, **look)
    ax.set_xlabel(f"{ax.get_xlabel()}\n(above: {unit} in each bin)")


def _edges(b: dict, scale: str) -> tuple[float, float]:
    """The bin's ends on the axis: their log2 for log2 bins, where the bin of 0 has a width of 1."""
    if scale != "log2":
        return b["lo"], b["hi"]
    right = math.log2(b["hi"]) if b["hi"] > 0 else 0.0
    return (math.log2(b["lo"]) if b["lo"] > 0 else right - 1), right


def _label_names(ax, names: list[str]) -> None:
    ax.set_xlim(-0.6, len(names) - 0.4)
    slanted = sum(map(len, names)) > 50
    shown = [n if n.isprintable() and n.strip() else repr(n) for n in names]
    look = {"rotation": 35, "ha": "right"} if slanted else {"rotation": 0, "ha": "center"}
    ax.set_xticks(range(len(names)), shown, rotation_mode="anchor", **look)
    ax.grid(False, axis="x")
