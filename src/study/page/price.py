"""The price of a model, in a sentence: time of a step and state from records of `speed`, else parameters and state."""

from __future__ import annotations

from src.study.page import numbers as n
from src.study.page.blocks import Sentence, named
from src.study.page.evidence import Cost, Document

EQUAL = 1.05  # parameters that differ by at most this factor are called equal


def terms(document: Document) -> Sentence | None:
    """Parameters and state of the models, where no times were measured."""
    cells = document.cells
    sizes = sorted({cell.layers or cell.parameters for cell in cells} - {None})
    states = sorted({cell.state_bytes for cell in cells} - {None})
    if not sizes:
        return None
    what = "parameters outside embeddings and head" if all(cell.layers is not None for cell in cells) else "parameters"
    if len(cells) == 1:
        state = f", and {n.bytes_of(states[0])} of state while it writes one sequence" if states else ""
        return Sentence(f"It has {n.whole(sizes[0])} {what}{state}.", "terms", "terms")
    if sizes[-1] <= EQUAL * sizes[0]:
        text = f"The models have {_range(sizes, n.whole)} {what}, equal within {100 * (EQUAL - 1):.0f} %"
    else:
        text = (
            f"The models differ in size: {_range(sizes, n.whole)} {what}, a factor of {n.plain(sizes[-1] / sizes[0])}"
        )
    state = f"; their state takes {_range(states, n.bytes_of)}" if states else ""
    return Sentence(f"{text}{state}.", "terms", "terms")


def _range(values: list, form) -> str:
    ends = list(dict.fromkeys((form(values[0]), form(values[-1]))))
    return " to ".join(ends)


def cost_of(document: Document) -> Sentence | None:
    """The time of a training step beside scores."""
    found = [sentence for cost in document.costs if (sentence := time_of(cost)) is not None]
    return found[0] if found else None


def time_of(cost: Cost) -> Sentence | None:
    """The fastest and the slowest training step at the longest length that all models have."""
    found = _at_longest(cost, "train", "step_ms") or _at_longest(cost, "decode", "token_ms")
    if found is None:
        return None
    x, rows = found
    what = "a training step" if rows[0]["metric"] == "step_ms" else "decoding one token"
    if len(rows) == 1:
        one = rows[0]
        return Sentence(
            f"At {n.whole(int(x))} tokens {what} of {named(one['model'])} takes {n.quantity(one['value'], 'ms')}.",
            "cost",
            "cost",
        )
    fast, slow = rows[0], rows[-1]
    if _overlap(fast, slow):
        said = f"all {len(rows)} models take the same time within their intervals, {n.quantity(fast['value'], 'ms')}"
        return Sentence(f"At {n.whole(int(x))} tokens, for {what}, {said}.", "cost", "cost")
    ratio = f", {n.plain(slow['value'] / fast['value'])} times as long" if fast["value"] > 0 else ""
    quick, long = (f"{named(row['model'])} ({n.quantity(row['value'], 'ms')}" for row in (fast, slow))
    text = f"At {n.whole(int(x))} tokens {what} is fastest with {quick}) and slowest with {long}{ratio})."
    return Sentence(text, "cost", "cost")


def room_of(cost: Cost) -> Sentence | None:
    """State or memory at the longest common length."""
    found = _at_longest(cost, "decode", "state_bytes")
    what = "the state of decoding takes"
    if found is None:
        found, what = _at_longest(cost, "memory", "peak_bytes"), "one layer needs a peak of"
    if found is None:
        return None
    x, rows = found
    ends = [rows[0], rows[-1]] if len(rows) > 1 else rows
    told = " and ".join(f"{n.bytes_of(row['value'])} with {named(row['model'])}" for row in ends)
    return Sentence(f"At {n.whole(int(x))} tokens {what} {told}.", "cost", "cost")


def _at_longest(cost: Cost, panel: str, metric: str) -> tuple[float, list[dict]] | None:
    """(x, rows by value) at the largest x that every model with this metric has, at the smallest batch."""
    rows = [r for r in cost.rows if r["panel"] == panel and r["metric"] == metric and r["value"] is not None]
    rows = [r for r in rows if r["x"] is not None and r["status"] == "ok"]
    if panel == "decode" and rows:
        least = min(r["batch"] or 0 for r in rows)
        rows = [r for r in rows if (r["batch"] or 0) == least]
    models = {r["model"] for r in rows}
    xs = [x for x in {r["x"] for r in rows} if {r["model"] for r in rows if r["x"] == x} == models]
    if not xs:
        return None
    return max(xs), sorted((r for r in rows if r["x"] == max(xs)), key=lambda r: r["value"])


def _overlap(a: dict, b: dict) -> bool:
    ends = (a["low"], a["high"], b["low"], b["high"])
    return None not in ends and a["low"] <= b["high"] and b["low"] <= a["high"]
