"""Axes: plain numbers on logarithmic scales, chance levels and ceilings as lines, and the words for intervals."""

from __future__ import annotations

import math

from src.stats.intervals import INTERVAL_OF

LEAST_TICKS = 3  # labelled ones, on a logarithmic axis
MOST_POWERS = 9
INTERVALS = f"95 % intervals, {INTERVAL_OF}"  # of several runs
INTERVAL = f"95 % interval, {INTERVAL_OF}"


def plain_log_ticks(axis) -> None:
    """Label a logarithmic axis with plain numbers, at least three of them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    class PlainLocator(LogLocator):
        def tick_values(self, vmin, vmax):
            low, high = sorted((vmin, vmax))
            return log_ticks(low, high) if low > 0 else super().tick_values(vmin, vmax)

    axis.set_major_locator(PlainLocator())
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.15g}" if v < 1e7 else f"{v:.0e}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def log_ticks(low: float, high: float) -> list[float]:
    """At least three round numbers from `low` to `high`, both positive.

    From three decades on, powers of ten. Below, 1, 2 and 5 times powers of ten. If fewer than three of them are in the
    range, multiples of the largest round step that gives three.
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    if high >= 1000 * low:
        ticks = [t for t in (float(f"1e{p}") for p in powers) if low <= t <= high]
        return ticks[:: -(-len(ticks) // MOST_POWERS)]
    ticks = [t for t in (float(f"{digit}e{p}") for p in powers for digit in (1, 2, 5)) if low <= t <= high]
    return ticks if len(ticks) >= LEAST_TICKS else _even_ticks(low, high)


def _even_ticks(low: float, high: float) -> list[float]:
    """Multiples of the largest of the steps 5, 2 and 1 times a power of ten that has three in the range."""
    if not low < high:
        return [low]
    power = math.ceil(math.log10(high - low))
    while True:
        for digit in (5, 2, 1):
            step = float(f"{digit}e{power}")
            first, last = math.ceil(low / step), math.floor(high / step)
            if last - first + 1 >= LEAST_TICKS:
                return [round(n * step, max(0, -power)) for n in range(first, last + 1)]
        power -= 1


def explain_intervals(ax, rows, as_bars: bool = False) -> None:
    """Add one legend entry for the bands (or bars) of all runs."""
    if as_bars and any(row["ci"] for row in rows):
        ax.plot([], [], color="0.5", linewidth=1.8, label=INTERVALS)
    elif any(row["ci"] for row in rows):
        ax.fill_between([], [], color="0.8", linewidth=0, label=INTERVALS)


def reference_lines(ax, floors: dict[str, float], ceiling: float) -> None:
    """Draw every chance level as a dashed line and name the highest one; draw the ceiling if it is not 1."""
    highest = max(floors, key=lambda name: floors[name], default=None)
    for name, value in floors.items():
        if name != highest:
            ax.axhline(value, color="0.65", linestyle=(0, (3, 3)), linewidth=0.9, zorder=2)
    if highest is not None:
        label = f"chance: {highest} {_level(floors[highest])}" if highest else f"chance {_level(floors[highest])}"
        look = {"color": "0.25", "linestyle": (0, (5, 3)), "linewidth": 1.3, "zorder": 2}
        ax.axhline(floors[highest], label=label, **look)
    if ceiling != 1.0:
        look = {"color": "0.25", "linestyle": (0, (8, 2, 1, 2)), "linewidth": 1.3, "zorder": 2}
        ax.axhline(ceiling, label=f"ceiling {ceiling:.3g}", **look)


def named_floors(floor) -> dict[str, float]:
    """The `floor` option as {name: value}; ValueError unless it is a finite number, a dict of them, or None."""
    floors = {} if floor is None else dict(floor) if isinstance(floor, dict) else {"": floor}
    for name, value in floors.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(
                f"floor{f' {name}' if name else ''}: got {value!r}, allowed: a finite number, or {{name: number}}"
            )
    return floors


def _level(value: float) -> str:
    """A chance level for a legend: three digits, and no tiny numbers such as 6.88e-10."""
    return "< 0.001" if 0 < value < 0.001 else f"{value:.3g}"
