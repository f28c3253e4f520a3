"""The look of all figures: colours, markers, titles, legends, reference lines, and files that are the same bytes for the same numbers."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import os
import textwrap
import warnings
from pathlib import Path

from src.flags.fields import UserError
from src.storage.rundir import write_atomic

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")


MARKERS = "osD^vPX*"


DASHES = ("-", "--", "-.", (0, (1, 1)), (0, (6, 1.5, 1, 1.5, 1, 1.5)))


STYLE = {
    "figure.dpi": 150,
    "savefig.dpi": 150,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "figure.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "text.parse_math": False,
    "axes.unicode_minus": False,
}


# What matplotlib would write of itself and of the time into a file of each kind.
ANONYMOUS = {"png": {"Software": None}, "pdf": {"Creator": None, "Producer": None, "CreationDate": None}}


COUNT_SIZE = 9  # points; a digit of it is about 0.08 inches wide


DIGIT_INCHES = 0.08


WORDS = {
    "token_acc": "character accuracy",
    "exact_match": "exact match",
    "loss": "loss (nats per character)",
    "heldout_loss": "loss (nats per character)",
}


def human(number: int) -> str:
    """Three significant digits: 950, 84.6 k, 1.25 M."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size * 0.9995:
            scaled = number / size
            return f"{scaled:.{max(0, 2 - int(math.log10(scaled * 1.0005)))}f}{unit}"
    return str(number)


def styled(draw):
    """Run `draw` under matplotlib's defaults and STYLE, whatever the user's matplotlibrc says."""

    @functools.wraps(draw)
    def wrapped(*args, **kwargs):
        with _style():
            return draw(*args, **kwargs)

    return wrapped


@contextlib.contextmanager
def _style():
    backend = os.environ.pop(
        "MPLBACKEND", None
    )  # matplotlib refuses to be imported where it names no backend of this installation
    try:
        from matplotlib import style
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    with style.context(["default", STYLE]):
        yield


def plain_log_ticks(axis, decades: float) -> None:
    """Plain numbers on a logarithmic axis: at 1, 2 and 5 of each power of ten, from 3 decades on at 1 alone."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 3 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.15g}" if v < 1e7 else f"{v:.0e}"))
    axis.set_minor_formatter(NullFormatter())


def explain_intervals(ax, rows, as_bars: bool = False) -> None:
    """One legend entry for the bands or bars of all runs."""
    if as_bars and any(row["ci"] for row in rows):
        ax.plot([], [], color="0.5", linewidth=1.8, label="95 % intervals")
    elif any(row["ci"] for row in rows):
        ax.fill_between([], [], color="0.8", linewidth=0, label="95 % intervals")


def metric_words(metric: str) -> str:
    """How an axis names a metric."""
    return WORDS.get(metric, metric.replace("_", " "))


def look_of(i: int) -> tuple:
    """Colour, dash and marker of line i: together they repeat only after 280 lines."""
    return COLOURS[i % 7], DASHES[i % 5], MARKERS[i % 8]


def new_figure(n_panels: int, share_y: bool = True):
    """(figure, its axes side by side, with one y axis for all unless they measure different things)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2 if n_panels == 1 else 5.2 * n_panels, 4.4), layout="constrained")
    return figure, figure.subplots(1, n_panels, squeeze=False, sharey=share_y and n_panels > 1)[0]


def reference_lines(ax, floors: dict, ceiling: float) -> None:
    """Every floor as a dashed line, the highest one named; the ceiling where it is not 1."""
    highest = max(floors, key=lambda name: floors[name], default=None)
    for name, value in floors.items():
        if name != highest:
            ax.axhline(value, color="0.65", linestyle=(0, (3, 3)), linewidth=0.9, zorder=2)
    if highest is not None:
        word = f"floor: {highest}" if highest else "floor"
        ax.axhline(
            floors[highest],
            color="0.25",
            linestyle=(0, (5, 3)),
            linewidth=1.3,
            zorder=2,
            label=f"{word} {floors[highest]:.3g}",
        )
    if ceiling != 1.0:
        ax.axhline(
            ceiling, color="0.25", linestyle=(0, (8, 2, 1, 2)), linewidth=1.3, zorder=2, label=f"ceiling {ceiling:.3g}"
        )


def named_floors(floor) -> dict[str, float]:
    """The `floor` option as {name: value}; ValueError unless it is a finite number, a dict of them, or None."""
    floors = {} if floor is None else dict(floor) if isinstance(floor, dict) else {"": floor}
    for name, value in floors.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(
                f"floor{f' {name}' if name else ''}: got {value!r}, allowed: a finite number, or {{name: number}}"
            )
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
        figure.set_figheight(
            figure.get_figheight() + 0.19 * (-(-len(labels) // columns) - 1)
        )  # rows of the legend take nothing from the axes
        figure.legend(list(entries.values()), labels, loc="outside lower center", ncols=columns)
    return figure


def _legend_columns(labels: list[str], inches: float) -> int:
    """The most columns that fit side by side; matplotlib fills one after the other."""
    for columns in range(len(labels), 1, -1):
        rows = -(-len(labels) // columns)
        widest = [max(map(len, labels[i : i + rows])) for i in range(0, len(labels), rows)]
        if sum(0.72 + 0.076 * w for w in widest) <= inches - 0.2:
            return columns
    return 1


def _wrap(text: str, width: int) -> str:
    """Lines of at most `width` characters, old line breaks kept."""
    return "\n".join(textwrap.fill(line, max(20, width)) for line in text.split("\n"))


def save_both(figure, stem) -> list[Path]:
    """Write `stem`.png and `stem`.pdf, each as `_save` does; returns the paths."""
    stem = Path(stem)
    return [save(figure, stem.with_name(f"{stem.name}.{kind}"), kind) for kind in ANONYMOUS]


@styled
def save(figure, out_path, kind: str = "png") -> Path:
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
