"""The card of a layer: a row per capability, with its score, its rank among the published layers, and a sentence."""

from __future__ import annotations

from src.study.page import numbers as n
from src.study.page.blocks import BAD, GOOD, WARN, Column, Entry, Figure, Gallery, Notes, Section, Table, named
from src.study.page.card import Absent, Card, CardRow, Ranked
from src.study.page.chart import Dots, Point, Row, draw_dots
from src.study.page.evidence import Document

TONES = {"ahead": GOOD, "behind": BAD}
SAME = "no difference shown"
OURS, THEIRS = 0, 4  # the looks of the layer and of the published ones


def build(document: Document) -> list:
    return [block for i, card in enumerate(document.cards) for block in _card(card, i)]


def _card(card: Card, place: int) -> list:
    key = f"card-{place}"
    blocks = [Notes(card.model, (f"{named(card.model)} {card.sentence}.",))]
    blocks += [_rows(card, key), _gallery(card, key)] if card.rows else []
    blocks += [_verdicts(card, key)] if card.rows and card.published else []
    blocks += _absent("Rows without a score", card.holes) + _absent(
        "Published layers that are not ranked", card.outside
    )
    return blocks


def _rows(card: Card, key: str) -> Table:
    names = ("score", "95 % interval", "rank")
    columns = (Column("row"), *(Column(name, "number") for name in names), Column("nearest"), Column("in words"))
    note = (
        "Score: 0 is chance, 1 the best possible; where lengths beyond training "
        "are tested, half of it is the score there. Interval: Student's over seeds and the sampling of the test "
        f"set. Rank: the places that the verdicts leave open among {n.counted(len(card.published), 'published layer')} "
        "and this one. "
    )
    note += f"All have {n.whole(card.parameters)} parameters outside embeddings and head." if card.parameters else ""
    return Table(
        key, f"Capabilities of {card.model} (suite {card.suite})", columns, tuple(map(_cells, card.rows)), note
    )


def _cells(row: CardRow) -> tuple:
    places = n.decimals(row.low, row.high)
    return (
        f"{row.name} (control)" if row.is_control else row.name,
        Entry(n.share(row.value, places), row.value),
        Entry(n.interval(row.low, row.high), row.low),
        Entry(row.rank or n.MISSING, row.best, _tone(row)),
        row.nearest or n.MISSING,
        row.sentence,
    )


def _tone(row: CardRow) -> str:
    """Green above half of the places for certain, red below half for certain."""
    middle = (row.of + 1) / 2
    return GOOD if row.worst < middle else BAD if row.best > middle else ""


# Drawings


def _gallery(card: Card, key: str) -> Gallery:
    figures = tuple(_dots(card, row, f"{key}-dots-{i}") for i, row in enumerate(card.rows))
    note = "Small dots: one seed each. Large marker and bar: the mean and its 95 % interval. Sorted by the mean."
    return Gallery("Beside the published layers", figures, ((OURS, card.model), (THEIRS, "published")), note)


def _dots(card: Card, row: CardRow, key: str) -> Figure:
    layers = [(-layer.value, 1, _published(layer)) for layer in row.published]
    ordered = [found for *_, found in sorted([(-row.value, 0, _own(card.model, row)), *layers], key=lambda x: x[:2])]
    described = "; ".join(f"{found.name}: {found.text}" for found in ordered)
    dots = Dots(
        key,
        f"{row.name}: scaled score",
        f"Scaled scores of {row.says}, from chance (0) to the best possible (1). {described}.",
        tuple(ordered),
        "chance",
        "best possible",
    )
    return Figure(key, f"{row.name}: {row.says}", draw_dots(dots), _numbers(card, row, key))


def _own(model: str, row: CardRow) -> Row:
    told = n.score(row.value, row.low, row.high)
    seeds = zip(row.values, row.seeds, strict=False)
    dots = tuple(Point(_inside(value), 0.0, f"{model}, seed {seed}: {n.share(value)}") for value, seed in seeds)
    mean = Point(_inside(row.value), 0.0, f"{model}: {told}", _inside(row.low), _inside(row.high))
    return Row(OURS, model, told, dots, mean)


def _published(layer: Ranked) -> Row:
    told = n.score(layer.value, layer.low, layer.high)
    mean = Point(_inside(layer.value), 0.0, f"{layer.layer}: {told}", _inside(layer.low), _inside(layer.high))
    return Row(THEIRS, layer.layer, told, (), mean)


def _inside(value: float | None) -> float | None:
    """A place on the axis from 0 to 1; an interval may reach beyond it."""
    return None if value is None else min(1.0, max(0.0, value))


def _numbers(card: Card, row: CardRow, key: str) -> Table:
    """The numbers behind a drawing: each published layer with its score, the difference and the verdict."""
    scores = {layer.layer: layer.value for layer in row.published}
    columns = (Column("layer"), *(Column(name, "number") for name in ("its score", "difference")), Column("verdict"))
    rows = tuple(
        (
            layer.layer,
            Entry(n.share(scores.get(layer.layer)), scores.get(layer.layer)),
            Entry(n.difference(layer.value, layer.low, layer.high), layer.value),
            Entry(layer.word, None, TONES.get(layer.word, "")),
        )
        for layer in row.against
    )
    caption = f"{row.name}: {card.model} minus each published layer"
    return Table(f"{key}-data", caption, columns, rows, folded=True, is_result=False)


def _verdicts(card: Card, key: str) -> Table:
    """A row per published layer, a column per row of the suite."""
    columns = (Column("layer"), *(Column(row.name) for row in card.rows))
    words = {(row.name, layer.layer): layer.word for row in card.rows for layer in row.against}
    rows = tuple(
        (label, *(_verdict(words.get((row.name, label), "")) for row in card.rows)) for label in card.published
    )
    note = f"{card.model} is ahead of, or behind, the layer of the line; =: no difference is shown. –: not ranked."
    return Table(f"{key}-verdicts", f"{card.model} against each published layer", columns, rows, note, folded=True)


def _verdict(word: str) -> Entry:
    shown = "=" if word == SAME else word or n.MISSING
    return Entry(shown, None, TONES.get(word, "" if word else WARN))


def _absent(heading: str, entries: tuple[Absent, ...]) -> list:
    if not entries:
        return []
    return [Notes(heading, tuple(f"{named(entry.what)}: {entry.why}" for entry in entries))]


CARD = Section("card", "The card", build, "no folder of `card` was given")
