"""The look of all figures: colours, markers, titles and legends; and files with the same bytes for the same numbers.

    @styled
    def figure_x(rows):
        figure, (ax,) = new_figure(1)
        ...
        return finish(figure, "title")

    save(figure_x(rows), "x.png")

Only matplotlib's Figure is used. No window system, backend or style file of the user has an effect.
Colours: Okabe & Ito, "Color universal design", 2008.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import math
import os
import textwrap
import warnings
from pathlib import Path

from src.flags.fields import UserError
from src.storage.files import write_atomic

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
# Set to None what matplotlib would write about itself and the time into a file of each kind.
ANONYMOUS = {"png": {"Software": None}, "pdf": {"Creator": None, "Producer": None, "CreationDate": None}}
CHARACTER_INCHES = 0.092  # width of a character of a title or an axis label
LONGEST_LABEL = 72  # characters


def styled(draw):
    """A decorator: `draw` runs under matplotlib's defaults and STYLE, whatever the user's matplotlibrc says."""

    @functools.wraps(draw)
    def wrapped(*args, **kwargs):
        with _style():
            return draw(*args, **kwargs)

    return wrapped


def look_of(i: int) -> tuple:
    """Colour, dash and marker of line i. The three together repeat only after 280 lines."""
    return COLOURS[i % 7], DASHES[i % 5], MARKERS[i % 8]


def new_figure(n_panels: int, share_y: bool = True):
    """(figure, its axes side by side). All panels have one y axis unless they show different quantities."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2 if n_panels == 1 else 5.2 * n_panels, 4.4), layout="constrained")
    return figure, figure.subplots(1, n_panels, squeeze=False, sharey=share_y and n_panels > 1)[0]


def finish(figure, title: str):
    """Add the title, and below the axes one legend for all panels; return the figure."""
    inches = figure.get_figwidth()
    if title:
        title = _wrap(title, int(inches / CHARACTER_INCHES))
        figure.suptitle(title)
        figure.set_figheight(figure.get_figheight() + 0.18 * title.count("\n"))
    for ax in figure.axes:
        ax.set_xlabel(_wrap(ax.get_xlabel(), int(inches / len(figure.axes) / CHARACTER_INCHES)))
    entries = {}
    for ax in figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if entries:
        labels = [label if len(label) <= LONGEST_LABEL else f"{label[:40]} … {label[-29:]}" for label in entries]
        columns = _legend_columns(labels, inches)
        rows = -(-len(labels) // columns)
        figure.set_figheight(figure.get_figheight() + 0.19 * (rows - 1))  # so a long legend does not shrink the axes
        figure.legend(list(entries.values()), labels, loc="outside lower center", ncols=columns)
    return figure


@styled
def save(figure, out_path, kind: str = "png") -> Path:
    """Write a figure, whole or not at all; its bytes contain no date and no version. Returns the path."""
    path = Path(out_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a rare character in a name becomes a box
        engine = figure.get_layout_engine()
        if engine is not None:  # here and not in savefig, which draws the whole figure once more for it
            engine.execute(figure)
            figure.set_layout_engine("none")
        figure.savefig(buffer, format=kind, metadata=ANONYMOUS[kind])
    write_atomic(path, buffer.getvalue())
    return path


def save_both(figure, stem) -> list[Path]:
    """Write `stem`.png and `stem`.pdf as `save` does; return the paths."""
    stem = Path(stem)
    return [save(figure, stem.with_name(f"{stem.name}.{kind}"), kind) for kind in ANONYMOUS]


def make_folder(figures_dir) -> Path:
    """The folder, made if it is not there; UserError if it is a file."""
    folder = Path(figures_dir)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"figures: '{folder}' is a file, allowed: a folder, which is made if it is not there")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def human(number: int) -> str:
    """A count with three significant digits: 950, 84.6 k, 1.25 M."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size * 0.9995:
            scaled = number / size
            return f"{scaled:.{max(0, 2 - int(math.log10(scaled * 1.0005)))}f}{unit}"
    return str(number)


@contextlib.contextmanager
def _style():
    # The import of matplotlib fails if MPLBACKEND names a backend that is not installed.
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        from matplotlib import style
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    with style.context(["default", STYLE]):
        yield


def _legend_columns(labels: list[str], inches: float) -> int:
    """The most columns that fit side by side; matplotlib fills one after the other, the first ones with one more."""
    for columns in range(len(labels), 1, -1):
        rows, longer = divmod(len(labels), columns)
        starts = [i * rows + min(i, longer) for i in range(columns + 1)]
        widest = [max(map(len, labels[a:b])) for a, b in itertools.pairwise(starts)]
        if sum(0.72 + 0.076 * w for w in widest) <= inches - 0.2:
            return columns
    return 1


def _wrap(text: str, width: int) -> str:
    """Lines of at most `width` characters; existing line breaks are kept."""
    return "\n".join(textwrap.fill(line, max(20, width)) for line in text.split("\n"))
