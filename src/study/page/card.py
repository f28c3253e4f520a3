"""card.json of a folder of `card`: what a layer scores in each row, beside the published layers.

    cards = cards_of(document)       # one per layer; document: the content of the file

The runs themselves are in the same folder, which is one of `compare`.
"""

from __future__ import annotations

from dataclasses import dataclass

from src.study.page import values as v

NAME = "card.json"
LONGEST_SENTENCE = 600
MOST_LAYERS, MOST_ROWS = 100, 100


@dataclass(frozen=True)
class Ranked:
    """A published layer in a row. value, low, high: its scaled score, or the difference to it."""

    layer: str
    value: float
    low: float | None
    high: float | None
    word: str = ""


@dataclass(frozen=True)
class CardRow:
    """A row of a card. values: the scaled score of each seed.  best, worst: places among `of`.  rank: these in words.

    against: this layer's score minus each published one's, with the verdict.  published: their scores.
    """

    name: str
    says: str
    is_control: bool
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    value: float
    low: float | None
    high: float | None
    best: int
    worst: int
    of: int
    rank: str
    nearest: str
    sentence: str
    against: tuple[Ranked, ...]
    published: tuple[Ranked, ...]


@dataclass(frozen=True)
class Absent:
    """What a card lacks: a row of this layer, or a published layer in a row, and why."""

    what: str
    why: str


@dataclass(frozen=True)
class Card:
    """The card of one layer. published: those it is compared with.  outside: records that are stale or missing."""

    model: str
    suite: str
    parameters: int | None
    published: tuple[str, ...]
    sentence: str
    rows: tuple[CardRow, ...]
    holes: tuple[Absent, ...]
    outside: tuple[Absent, ...]


def cards_of(document: dict) -> list[Card]:
    """The cards of a file."""
    published = {
        v.text(row, "row"): tuple(_ranked(layer) for layer in v.records(row, "layers")[:MOST_LAYERS])
        for row in v.records(document, "field")
    }
    outside = _outside(document)
    missing = tuple(Absent(v.text(row, "row"), v.text(row, "why")) for row in v.records(document, "missing"))
    return [
        Card(
            model=v.text(card, "model"),
            suite=v.text(document, "suite"),
            parameters=v.count(document, "parameters"),
            published=v.texts(card, "published")[:MOST_LAYERS],
            sentence=v.text(card, "sentence", LONGEST_SENTENCE),
            rows=tuple(_row(row, published, v.texts(card, "published")) for row in v.records(card, "rows")[:MOST_ROWS]),
            holes=(*(Absent(v.text(h, "row"), v.text(h, "why")) for h in v.records(card, "holes")), *missing),
            outside=outside,
        )
        for card in v.records(document, "cards")
    ]


def _outside(document: dict) -> tuple[Absent, ...]:
    """One entry per published layer and reason: 'gru on recall and copy', 'stale: the data of the row changed'."""
    found: dict[tuple[str, str], list[str]] = {}
    for hole in v.records(document, "holes"):
        why = f"{v.text(hole, 'word')}: {v.text(hole, 'why')}"
        found.setdefault((v.text(hole, "layer"), why), []).append(v.text(hole, "row"))
    rows = len(v.items(document, "rows"))
    return tuple(
        Absent(f"{layer} on {'all rows' if len(names) == rows else ', '.join(names)}", why)
        for (layer, why), names in found.items()
    )


def _row(row: dict, published: dict[str, tuple[Ranked, ...]], among: tuple[str, ...]) -> CardRow:
    """A row among these published layers."""
    name = v.text(row, "row")
    numbers = [v.finite(value) for value in v.items(row, "values")]
    return CardRow(
        name=name,
        says=v.text(row, "says"),
        is_control=v.flag(row, "control"),
        seeds=tuple(seed for item in v.items(row, "seeds") if (seed := v.count({"": item}, "")) is not None),
        values=tuple(value for value in numbers if value is not None),
        value=v.number(row, "value") or 0.0,
        low=v.number(row, "low"),
        high=v.number(row, "high"),
        **{place: v.count(row, place) or 0 for place in ("best", "worst", "of")},
        rank=v.text(row, "rank"),
        nearest=v.text(row, "nearest"),
        sentence=v.text(row, "sentence", LONGEST_SENTENCE),
        against=tuple(_ranked(layer) for layer in v.records(row, "against")[:MOST_LAYERS]),
        published=tuple(layer for layer in published.get(name, ()) if layer.layer in among),
    )


def _ranked(layer: dict) -> Ranked:
    ends = v.number(layer, "low"), v.number(layer, "high")
    return Ranked(v.text(layer, "layer"), v.number(layer, "value") or 0.0, *ends, v.text(layer, "word"))
