"""A logarithmic axis has at least three labelled ticks, whatever its range.

python -m pytest tests/figures/test_axes.py
"""

import itertools

import pytest

from src.claims.frontier import FAMILIES
from src.figures import axes, curves, kernels, lengths, speed
from src.figures.style import _legend_columns
from src.measure.speed.panels.memory import Memory
from src.storage.rows import make_row

RATIOS = (1.1, 1.2, 1.5, 1.9, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 9.9, 10.0, 11.0, 30.0, 99.0, 101.0, 900.0, 999.0, 1e3, 1e4)
RATIOS += (1e5, 1e6, 1e12)
STARTS = (1.0, 1.3, 2.1, 4.9, 5.0, 7.7, 9.99, 0.00031, 0.5, 64.0, 12_345.0)


def labels(axis) -> list[str]:
    """The labels of the ticks that are on the axis."""
    low, high = sorted(axis.get_view_interval())
    shown = [t for t in axis.get_major_ticks() if low * (1 - 1e-9) <= t.get_loc() <= high * (1 + 1e-9)]
    return [text for t in shown if (text := t.label1.get_text())]


def draw(figure):
    figure.draw_without_rendering()
    return figure


@pytest.mark.parametrize(("ratio", "start"), list(itertools.product(RATIOS, STARTS)))
def test_log_ticks_are_three_or_more_round_numbers(ratio, start):
    ticks = axes.log_ticks(start, start * ratio)
    assert 3 <= len(ticks) <= 10
    assert ticks == sorted(set(ticks))
    assert start <= ticks[0]
    assert ticks[-1] <= start * ratio
    assert all(len(f"{t:.15g}".replace(".", "").strip("0")) <= 12 for t in ticks)


@pytest.mark.parametrize("ratio", RATIOS[:-1])
@pytest.mark.parametrize("start", [0.7, 24.0])
def test_a_logarithmic_axis_shows_at_least_three_labels(ratio, start):
    from matplotlib.figure import Figure

    figure = Figure()
    ax = figure.subplots()
    ax.set_yscale("log")
    ax.set_ylim(start, start * ratio)
    axes.plain_log_ticks(ax.yaxis)
    draw(figure)
    found = labels(ax.yaxis)
    assert len(found) >= 3
    assert len(found) == len(set(found))


def test_matplotlibs_own_ticks_would_not_pass():
    """The defect that this file keeps out: an axis from 18 to 52 had two labels, 20 and 50."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    ax = (figure := Figure()).subplots()
    ax.set_yscale("log")
    ax.set_ylim(18, 52)
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_minor_formatter(NullFormatter())
    draw(figure)
    assert len(labels(ax.yaxis)) < 3


def measured(panel: str, metric: str, unit: str, xs, value, **more) -> list[dict]:
    about = {"batch": 1, "tokens": 64, "device": "cpu", "threads": 1, "precision": "fp32", "x_name": "length"}
    return [
        make_row("speed", panel=panel, model="gru", metric=metric, value=value(x), unit=unit, x=x, **{**about, **more})
        for x in xs
    ]


@pytest.mark.parametrize("xs", [(512,), (512, 1024), (512, 1024, 2048), tuple(range(100, 1300, 100))])
@pytest.mark.parametrize("growth", [0.0, 0.05, 1.0, 2.0])
def test_every_axis_of_the_memory_panel_has_three_labels(xs, growth):
    """It could end with one label where the memory hardly grows."""
    rows = [
        row
        for metric in ("kept_bytes", "peak_bytes")
        for row in measured("memory", metric, "bytes", xs, lambda x: 3.1e7 * x**growth)
    ]
    figure = draw(speed.figure_panel({"rows": rows, "models": ["gru"], "fits": []}, "memory", Memory.look))
    for ax in figure.axes:
        assert len(labels(ax.xaxis)) >= 3
        assert len(labels(ax.yaxis)) >= 3


@pytest.mark.parametrize("xs", [(64,), (64, 128), (64, 128, 256)])
def test_every_axis_of_a_profile_has_three_labels(xs):
    rows = measured("length", "step_ms", "ms", xs, lambda x: 3.3 + x / 1000, q1=3.2, q3=3.5)
    (ax,) = draw(kernels.figure_by_length(rows, "step_ms", "t")).axes
    assert len(labels(ax.xaxis)) >= 3
    assert len(labels(ax.yaxis)) >= 3


def test_two_lengths_far_apart_have_three_labels():
    row = {"in_distribution": True, "count": 9, "ci": [0.4, 0.6], "value": 0.5, "undefined": None}
    (ax,) = draw(lengths.figure_length_curve([{"length": n, **row} for n in (64, 256)])).axes
    assert ax.get_xscale() == "log"
    assert len(labels(ax.xaxis)) >= 3


def test_a_perplexity_over_more_than_a_decade_has_three_labels():
    (ax,) = draw(curves.figure_ppl({"train": [[1, 3.4], [2, 1.0]], "val": []})).axes
    assert ax.get_yscale() == "log"
    assert len(labels(ax.yaxis)) >= 3


def test_columns_of_a_legend_are_those_that_matplotlib_fills():
    """matplotlib puts one more into the first columns: five columns of six labels have 2, 1, 1, 1 and 1."""
    labels = list(FAMILIES)
    assert _legend_columns(labels, 7.2) == 3
    assert _legend_columns(labels, 14.0) == 6
    assert _legend_columns(labels, 2.0) == 1
