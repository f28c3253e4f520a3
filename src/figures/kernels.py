"""Figures of `profile` and `kernels`, each as .png and .pdf, from the rows of their history.json; without torch.

    draw_profile(history, "runs/x/figures")      # time_by_group, time_by_length, memory_by_length, memory_timeline
    draw_kernels(history, "runs/x/figures")      # roofline, time_by_length

Whiskers and bands are quartiles of the repeats. The same rows give the same bytes.
"""

from __future__ import annotations

from pathlib import Path

from src.figures import style
from src.figures.axes import plain_log_ticks

PASSES = ("forward", "forward+backward")
MOST_TICKS = 10


def draw_profile(history: dict, figures_dir) -> list[Path]:
    """Write the figures that a profile's history has rows for; return the paths."""
    folder, rows, title = style.make_folder(figures_dir), history["rows"], history["title"]
    found = {
        "time_by_group": figure_groups(rows, title),
        "time_by_length": figure_by_length(rows, "step_ms", title),
        "memory_by_length": figure_by_length(rows, "peak_bytes", title),
        "memory_timeline": figure_timeline(history.get("memory"), title),
    }
    return [
        path for stem, figure in found.items() if figure is not None for path in style.save_both(figure, folder / stem)
    ]


def draw_kernels(history: dict, figures_dir) -> list[Path]:
    """Write the figures that the history of `kernels` has rows for; return the paths."""
    folder, rows, title = style.make_folder(figures_dir), history["rows"], history["title"]
    found = {"roofline": figure_roofline(rows, title), "time_by_length": figure_kernel_times(rows, title)}
    return [
        path for stem, figure in found.items() if figure is not None for path in style.save_both(figure, folder / stem)
    ]


@style.styled
def figure_groups(rows, title: str):
    """Milliseconds per step of each operator group, as bars; None without rows."""
    found = [r for r in rows if r["panel"] == "groups" and r["metric"] == "self_ms" and r["value"] is not None]
    if not found:
        return None
    figure, (ax,) = style.new_figure(1)
    total = sum(r["value"] for r in found) or 1.0
    found = found[::-1]  # the first group on top
    places = range(len(found))
    ax.barh(places, [r["value"] for r in found], color=style.COLOURS[0], height=0.65)
    for y, r in zip(places, found, strict=True):
        ax.plot([r["q1"], r["q3"]], [y, y], color="black", linewidth=1.4, marker="|", markersize=6)
        ax.text(
            max(r["value"], r["q3"]),
            y,
            f"  {r['value']:.3g} ms, {r['value'] / total:.0%}",
            va="center",
            fontsize=9,
            color="0.2",
        )
    ax.set_yticks(list(places), [r["form"] for r in found])
    ax.set_xlim(0, 1.3 * max(r["q3"] for r in found) or 1.0)
    ax.grid(False, axis="y")
    ax.set_xlabel(f"self time, ms per step (median of {found[0]['n']} recorded steps, whiskers: quartiles)")
    return style.finish(figure, title)


@style.styled
def figure_by_length(rows, metric: str, title: str):
    """step_ms, or peak_bytes in MiB, against the length on log-log axes; None without rows."""
    found = sorted(
        (r for r in rows if r["panel"] == "length" and r["metric"] == metric and r["status"] == "ok"),
        key=lambda r: r["x"],
    )
    if not found:
        return None
    scale = 2**20 if metric == "peak_bytes" else 1
    figure, (ax,) = style.new_figure(1)
    xs, values = [r["x"] for r in found], [r["value"] / scale for r in found]
    label = "peak of the allocations" if metric == "peak_bytes" else "median of a step"
    _line(ax, 0, label, xs, values, [(r["q1"], r["q3"]) for r in found] if found[0]["q1"] is not None else None)
    _log_axes(ax, xs, values)
    ax.set_xlabel(f"length (in the task's own unit), {tokens_words(found)}")
    ax.set_ylabel("MiB above parameters and optimiser state" if metric == "peak_bytes" else "ms per step")
    if metric == "step_ms":
        _mark_lost(ax, rows)
    return style.finish(figure, title)


def tokens_words(rows, of: str = "step") -> str:
    """'1,024 tokens per step', or the range if it varies."""
    least, most = min(r["tokens"] for r in rows), max(r["tokens"] for r in rows)
    return f"{least:,} tokens per {of}" if least == most else f"{least:,} to {most:,} tokens per {of}"


def _mark_lost(ax, rows) -> None:
    """A cross at each length that ran out of memory."""
    lost = [r["x"] for r in rows if r["panel"] == "length" and r["status"] == "out of memory"]
    if lost:
        ax.plot(
            lost,
            [0.04] * len(lost),
            transform=ax.get_xaxis_transform(),
            linestyle="none",
            marker="x",
            markersize=9,
            markeredgewidth=2,
            color=style.COLOURS[1],
            label="out of memory",
        )


@style.styled
def figure_timeline(memory: dict | None, title: str):
    """MiB allocated over the recorded steps; None without points."""
    if not memory or not memory["points"]:
        return None
    figure, (ax,) = style.new_figure(1)
    times, held = zip(*memory["points"], strict=True)
    ax.step(times, [b / 2**20 for b in held], where="post", color=style.COLOURS[0], linewidth=1.1, label="allocated")
    ax.fill_between(times, [b / 2**20 for b in held], step="post", color=style.COLOURS[0], alpha=0.2, linewidth=0)
    ax.set_ylim(bottom=0)
    ax.set_xlabel(f"ms since the first allocation, {memory['steps']} steps, slowed by the recording")
    ax.set_ylabel("MiB allocated since the recording began")
    return style.finish(figure, title)


@style.styled
def figure_roofline(rows, title: str):
    """GFLOP/s against operations per byte under the measured roof, one panel per pass; None without enough rows."""
    ceilings = {r["metric"]: r["value"] for r in rows if r["panel"] == "roofline" and r["status"] == "ok"}
    points = [r for r in rows if r["metric"] == "gflop_per_s" and r["status"] == "ok"]
    if len(ceilings) < 2 or not points:
        return None
    bandwidth, peak = ceilings["copy_gb_per_s"], ceilings["matmul_gflop_per_s"]
    figure, axes = style.new_figure(len(PASSES))
    names = sorted({r["backend"] for r in points})  # the order of the rows is random
    intensities = [intensity(r) for r in points]
    low, high = min([*intensities, peak / bandwidth]) / 4, max([*intensities, peak / bandwidth]) * 4
    for ax, which in zip(axes, PASSES, strict=True):
        ax.plot(
            [low, peak / bandwidth, high],
            [low * bandwidth, peak, peak],
            color="0.25",
            linewidth=1.6,
            label=f"roof: copy {bandwidth:.3g} GB/s, matrix product {peak:.4g} GFLOP/s",
        )
        for name in names:
            found = [r for r in points if r["backend"] == name and r["form"] == which]
            colour, _, marker = style.look_of(names.index(name))
            if found:
                ax.plot(
                    [intensity(r) for r in found],
                    [r["value"] for r in found],
                    linestyle="none",
                    marker=marker,
                    markersize=6,
                    color=colour,
                    label=name,
                )
        _log_axes(ax, [low, high], [r["value"] for r in points] + [peak, low * bandwidth])
        ax.set_xlabel("operations per byte, by formula")
        ax.set_title(which, fontsize=10)
    axes[0].set_ylabel("GFLOP/s, of the op's own operations")
    return style.finish(figure, f"{title}\none point per length; a point above the slope: its data stayed in caches")


def intensity(row: dict) -> float:
    """Operations per byte of a kernel's row."""
    return row["settings"]["operations"] / row["settings"]["bytes"]


@style.styled
def figure_kernel_times(rows, title: str):
    """Milliseconds against the length, one line per backend and one panel per pass; None without timings."""
    points = [r for r in rows if r["metric"] == "ms" and r["status"] == "ok" and r["op"]]
    if not points:
        return None
    figure, axes = style.new_figure(len(PASSES))
    names = sorted({r["backend"] for r in points})  # the order of the rows is random
    for ax, which in zip(axes, PASSES, strict=True):
        for i, name in enumerate(names):
            found = sorted((r for r in points if r["backend"] == name and r["form"] == which), key=lambda r: r["x"])
            if found:
                _line(
                    ax,
                    i,
                    name,
                    [r["x"] for r in found],
                    [r["value"] for r in found],
                    [(r["q1"], r["q3"]) for r in found],
                )
        _log_axes(ax, [r["x"] for r in points], [r["value"] for r in points])
        ax.set_xlabel(f"length, {tokens_words(points, 'call')}")
        ax.set_title(which, fontsize=10)
    axes[0].set_ylabel("ms (median, band: quartiles)")
    return style.finish(figure, title)


def _line(ax, i: int, label: str, xs, values, bands) -> None:
    colour, dash, marker = style.look_of(i)
    ax.plot(xs, values, color=colour, linestyle=dash, marker=marker, label=label)
    if bands and len(xs) > 1:
        ax.fill_between(
            xs, [low for low, _ in bands], [high for _, high in bands], color=colour, alpha=0.15, linewidth=0
        )


def _log_axes(ax, xs, values) -> None:
    """Logarithmic axes with plain numbers, wide enough for one point. A few measured x are ticks themselves."""
    from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    positive = [v for v in values if v > 0]
    if positive:
        room = max(1.5, (max(positive) / min(positive)) ** 0.08)
        ax.set_ylim(min(positive) / room, max(positive) * room)
        plain_log_ticks(ax.yaxis)
    ax.set_xlim(min(xs) / 1.3, max(xs) * 1.3)
    distinct = sorted(set(xs))
    if 2 < len(distinct) <= MOST_TICKS and all(float(x).is_integer() for x in distinct):
        ax.set_xticks(distinct)
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.15g}" if v >= 1 else f"{v:.3g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
    else:
        plain_log_ticks(ax.xaxis)
