"""Drawings as SVG text, made to be read: in light and dark, in print, without colour, and by a screen reader.

    svg = draw(Chart("loss-1", "Validation loss", "Loss falls from ...", Axis("step"), Axis("loss"), lines))
    svg = draw_dots(Dots("scores-1", ...))

Colours are CSS classes (k0, k1, ...), so the page's style decides. A line also has a dash, and its points a marker.
Every point has a <title> with its value. Sizes suit a phone; a wide page shows several drawings beside each other.
matplotlib is not used: its SVG is ten times as large and has fixed colours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

from src.figures.axes import log_ticks

WIDTH, HEIGHT = 380, 256
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 18, 46
LOOKS = 8  # of the style sheet: colours k0 to k7
ROOM = 7  # between the outermost points and the frame
DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 4", "1 2", "6 2 1 2 1 2")
MOST_TICKS = 6
CHARACTER = 6.6  # width of a letter of a tick label
ROW = 40  # height of a row of dots


@dataclass(frozen=True)
class Axis:
    """label: with its unit.  low, high: limits that the axis includes at least."""

    label: str
    is_log: bool = False
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Point:
    """low, high: the ends of a bar through it.  tip: what is said about it when it is pointed at."""

    x: float
    y: float
    tip: str
    low: float | None = None
    high: float | None = None
    is_large: bool = False


@dataclass(frozen=True)
class Line:
    """look: its place among the models.  thin: further lines of the same look, such as those of single seeds."""

    look: int
    points: tuple[Point, ...]
    thin: tuple[tuple[tuple[float, float], ...], ...] = ()
    is_joined: bool = True


@dataclass(frozen=True)
class Level:
    """A straight dashed line with a word beside it: chance, a ceiling, the largest length of training."""

    value: float
    name: str
    is_vertical: bool = False


@dataclass(frozen=True)
class Chart:
    """key: unique in the page.  description: what a reader who does not see it should know."""

    key: str
    title: str
    description: str
    x: Axis
    y: Axis
    lines: tuple[Line, ...]
    levels: tuple[Level, ...] = ()


@dataclass(frozen=True)
class Row:
    """A row of dots: seeds as dots, their mean as a large marker with a bar. text: written at the right end."""

    look: int
    name: str
    text: str
    dots: tuple[Point, ...]
    mean: Point | None


@dataclass(frozen=True)
class Dots:
    """Scaled scores of models below each other; 0 is chance and 1 the ceiling. low, high: limits of the axis."""

    key: str
    title: str
    description: str
    rows: tuple[Row, ...]
    zero: str
    one: str
    low: float = 0.0
    high: float = 1.0


class Scale:
    """From numbers to places on the drawing."""

    def __init__(self, axis: Axis, values, start: float, end: float):
        self.is_log, self.start, self.end = axis.is_log, start, end
        found = [value for value in (*values, axis.low, axis.high) if value is not None]
        found = [value for value in found if value > 0] if axis.is_log else found
        self.low, self.high = (min(found), max(found)) if found else (1.0, 10.0)
        if self.low == self.high:
            self.low, self.high = (self.low / 2, self.low * 2) if axis.is_log else (self.low - 0.5, self.low + 0.5)
        if not math.isfinite(self.high - self.low):
            self.low, self.high = self.low / 4, self.high / 4

    def has(self, value: float) -> bool:
        """Whether the value has a place: zero has none on a logarithmic axis."""
        return value > 0 or not self.is_log

    def at(self, value: float) -> float:
        """The place of a value; values outside are put at the nearest end."""
        value = min(max(value, self.low), self.high)
        low, high = (math.log(self.low), math.log(self.high)) if self.is_log else (self.low, self.high)
        part = ((math.log(value) if self.is_log else value) - low) / (high - low) if high > low else 0.5
        return self.start + part * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round numbers within the range."""
        if self.is_log:
            found = log_ticks(self.low, self.high)
            return found[:: -(-len(found) // MOST_TICKS)] or [self.low, self.high]
        return even_ticks(self.low, self.high)


def even_ticks(low: float, high: float) -> list[float]:
    """At most MOST_TICKS multiples of 1, 2 or 5 times a power of ten."""
    power = math.floor(math.log10(high - low)) - 1
    step = next(
        float(f"{digit}e{power + more}")
        for more in range(4)
        for digit in (1, 2, 5)
        if (high - low) / float(f"{digit}e{power + more}") < MOST_TICKS
    )
    first = math.ceil(low / step - 1e-9)
    return [n * step + 0.0 for n in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_text(value: float) -> str:
    """The number of a tick: round, so without zeros at its end."""
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 10 * size or (abs(value) >= size and sign != "k"):
            return f"{value / size:.4g}{sign}" if abs(value) < 1e13 else f"{value:.0e}"
    return f"{value:,.4g}" if value == 0 or abs(value) >= 1e-4 else f"{value:.0e}"


def draw(chart: Chart) -> str:
    """The drawing of lines or points over two axes. Words beside levels come last, so that no line hides them."""
    thin = [point for line in chart.lines for part in line.thin for point in part]
    points = [point for line in chart.lines for point in line.points]
    xs = [p.x for p in points] + [x for x, _ in thin] + [v.value for v in chart.levels if v.is_vertical]
    ys = [value for p in points for value in (p.y, p.low, p.high)] + [y for _, y in thin]
    ys += [level.value for level in chart.levels if not level.is_vertical]
    x = Scale(chart.x, xs, LEFT + ROOM, WIDTH - RIGHT - ROOM)
    y = Scale(chart.y, ys, HEIGHT - BOTTOM - ROOM, TOP + ROOM)
    body = [*_axes(chart, x, y), *(_level(level, x, y) for level in chart.levels)]
    for line in chart.lines:
        body += _line(line, x, y)
    body += [_level_name(level, x, y) for level in chart.levels]
    return _svg(chart.key, chart.title, chart.description, HEIGHT, body)


def draw_dots(dots: Dots) -> str:
    """The drawing of scores: a row per model, its name above its dots."""
    height = ROW * len(dots.rows) + BOTTOM - 6
    scale = Scale(Axis("", low=min(0.0, dots.low), high=max(1.0, dots.high)), (), 14, WIDTH - 14)
    bottom = height - BOTTOM + 12
    body = []
    for value, name, anchor in ((0.0, dots.zero, "start"), (1.0, dots.one, "end")):
        place = scale.at(value)
        anchor = "middle" if 60 < place < WIDTH - 60 else anchor
        start = {"start": 2, "end": WIDTH - 2, "middle": place}[anchor]
        body.append(_text(start, bottom + 28, name, anchor=anchor))
    for tick in even_ticks(scale.low, scale.high):
        body.append(_text(scale.at(tick), bottom + 14, f"{tick:g}", anchor="middle"))
    for i, row in enumerate(dots.rows):
        body += _row(row, ROW * i, scale)
    return _svg(dots.key, dots.title, dots.description, height, body)


def swatch(look: int) -> str:
    """A short line with its marker, for a legend."""
    line = f'<path class="line k{look % LOOKS}"{_dash(look)} d="M1 8H33"/>'
    marker = f'<path class="pt k{look % LOOKS}" d="{marker_path(look, 17, 8, 4.5)}"/>'
    return f'<svg class="swatch" viewBox="0 0 34 16" width="34" height="16" aria-hidden="true">{line}{marker}</svg>'


def marker_path(look: int, x: float, y: float, r: float) -> str:
    """The outline of a marker around a point."""
    s, b = round(0.85 * r, 1), round(1.15 * r, 1)
    shapes = (
        f"m-{r} 0a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 -{2 * r} 0z",
        f"m-{s} -{s}h{2 * s}v{2 * s}h-{2 * s}z",
        f"m0 -{b}l{b} {b}l-{b} {b}l-{b} -{b}z",
        f"m0 -{b}l{b} {2 * s}h-{2 * b}z",
        f"m0 {b}l{b} -{2 * s}h-{2 * b}z",
        f"m-1.5 -{b}h3v{b - 1.5}h{b - 1.5}v3h-{b - 1.5}v{b - 1.5}h-3v-{b - 1.5}h-{b - 1.5}v-3h{b - 1.5}z",
        f"m-{b} 0l{b} -{s}v{2 * s}z",
        f"m{b} 0l-{b} -{s}v{2 * s}z",
    )
    return f"M{x:.1f} {y:.1f}{shapes[look % len(shapes)]}"


def _svg(key: str, title: str, description: str, height: float, body: list[str]) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-labelledby="{key}-title {key}-desc">'
    head += f'<title id="{key}-title">{escape(title)}</title><desc id="{key}-desc">{escape(description)}</desc>'
    return f"{head}{''.join(body)}</svg>"


def _axes(chart: Chart, x: Scale, y: Scale) -> list[str]:
    """The grid, its numbers and the labels of both axes."""
    body = []
    for tick in y.ticks():
        place = y.at(tick)
        body.append(f'<path class="grid" d="M{LEFT} {place:.1f}H{WIDTH - RIGHT}"/>')
        body.append(_text(LEFT - 6, place + 4, tick_text(tick), anchor="end"))
    end = -1.0
    for tick in x.ticks():
        place, half = x.at(tick), CHARACTER * len(tick_text(tick)) / 2
        body.append(f'<path class="grid" d="M{place:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        if place - half > end:
            body.append(_text(min(place, WIDTH - half), HEIGHT - BOTTOM + 16, tick_text(tick), anchor="middle"))
            end = place + half + 4
    body.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, _short(chart.x.label, WIDTH), "label", "middle"))
    turned = f'transform="translate(12 {(TOP + HEIGHT - BOTTOM) / 2:g}) rotate(-90)"'
    body.append(f'<text class="label" text-anchor="middle" {turned}>{escape(_short(chart.y.label, HEIGHT))}</text>')
    return body


def _level(level: Level, x: Scale, y: Scale) -> str:
    if level.is_vertical:
        return f'<path class="level" d="M{x.at(level.value):.1f} {TOP}V{HEIGHT - BOTTOM}"/>'
    return f'<path class="level" d="M{LEFT} {y.at(level.value):.1f}H{WIDTH - RIGHT}"/>'


def _level_name(level: Level, x: Scale, y: Scale) -> str:
    """The words of a level: of a vertical one above the axes, of a horizontal one at the right end of its line."""
    if level.is_vertical:
        place = x.at(level.value)
        is_right = place > WIDTH / 2
        return _text(place + (3 if is_right else -3), TOP - 6, level.name, "", "end" if is_right else "start")
    place = y.at(level.value)
    return _text(WIDTH - RIGHT - 2, place - 4 if place > TOP + 16 else place + 13, level.name, "halo", "end")


def _line(line: Line, x: Scale, y: Scale) -> list[str]:
    look, body = f"k{line.look % LOOKS}", []
    for thin in line.thin:
        body.append(f'<path class="thin {look}" d="{_route(thin, x, y)}"/>')
    points = [p for p in line.points if x.has(p.x) and y.has(p.y)]
    bars = "".join(
        f"M{x.at(p.x):.1f} {y.at(p.low):.1f}V{y.at(p.high):.1f}"
        for p in points
        if p.low is not None and p.high is not None and y.has(p.low)
    )
    if bars:
        body.append(f'<path class="bar {look}" d="{bars}"/>')
    if line.is_joined and len(points) > 1:
        body.append(f'<path class="line {look}"{_dash(line.look)} d="{_route([(p.x, p.y) for p in points], x, y)}"/>')
    every = max(1, len(points) // 12) if line.thin else 1  # markers tell lines apart; one per point would hide a curve
    for i, p in enumerate(points):
        size = (5 if p.is_large else 3.5) if i % every == 0 or i == len(points) - 1 else 1.2
        body.append(_mark(line.look, x.at(p.x), y.at(p.y), size, p.tip))
    return body


def _row(row: Row, top: float, scale: Scale) -> list[str]:
    """The name and the result on one line, and the dots below."""
    look, middle = f"k{row.look % LOOKS}", top + 27
    room = int((WIDTH - 30 - CHARACTER * len(row.text)) / CHARACTER)
    name = row.name if len(row.name) <= room else f"{row.name[: max(4, room - 1)]}…"
    body = [_text(2, top + 13, name, "name"), _text(WIDTH - 2, top + 13, row.text, "", "end")]
    body.append(f'<path class="grid" d="M14 {middle}H{WIDTH - 14}"/>')
    ends = "".join(f"M{scale.at(value):.1f} {middle - 7}v14" for value in (0.0, 1.0))
    body.append(f'<path class="end" d="{ends}"/>')
    if row.mean is not None and row.mean.low is not None and row.mean.high is not None:
        body.append(
            f'<path class="wide {look}" d="M{scale.at(row.mean.low):.1f} {middle}H{scale.at(row.mean.high):.1f}"/>'
        )
    for dot in row.dots:
        body.append(_mark(row.look, scale.at(dot.x), middle, 3, dot.tip, "seed"))
    if row.mean is not None:
        body.append(_mark(row.look, scale.at(row.mean.x), middle, 5.5, row.mean.tip))
    return body


def _mark(look: int, x: float, y: float, size: float, tip: str, kind: str = "pt") -> str:
    return (
        f'<path class="{kind} k{look % LOOKS}" d="{marker_path(look, x, y, size)}"><title>{escape(tip)}</title></path>'
    )


def _route(points, x: Scale, y: Scale) -> str:
    places = [f"{x.at(a):.1f} {y.at(b):.1f}" for a, b in points if x.has(a) and y.has(b)]
    return "M" + "L".join(places) if places else "M0 0"


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "") -> str:
    look = (f' class="{kind}"' if kind else "") + (f' text-anchor="{anchor}"' if anchor else "")
    return f'<text x="{x:.1f}" y="{y:.1f}"{look}>{escape(words)}</text>'


def _short(words: str, room: float) -> str:
    """The words, cut where they would not fit."""
    most = int(room / CHARACTER)
    return words if len(words) <= most else f"{words[: most - 1]}…"


def _dash(look: int) -> str:
    dash = DASHES[look % len(DASHES)]
    return f' stroke-dasharray="{dash}"' if dash else ""
