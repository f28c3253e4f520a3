"""From some length on, layers with a linear cost train faster than attention."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from src.claims.contract import FAILS, HOLDS, OPEN, REPRODUCED, Claim, Custom, Evidence, Found
from src.claims.panels import ATTENTION, LINEAR, panel_rows, words_of

STATES = {"yes": HOLDS, "no": FAILS, "undecided": OPEN}


def measure(folder: Path, mode: str) -> Mapping:
    """{layer: verdict and sentence of `study`'s claim that it trains faster, with the ratio at the longest length}."""
    from src.measure.speed.analysis import analyse
    from src.study.claims.speed import faster

    rows = panel_rows(folder.parent, mode)
    findings = analyse(rows)
    found = {}
    for model in LINEAR:
        verdict = faster(rows, findings, model, ATTENTION)
        ratio = {key: verdict["figures"][0][key] for key in ("value", "low", "high", "x")} if verdict["figures"] else {}
        found[model] = {"verdict": verdict["verdict"], "words": verdict["words"], **ratio}
    return found


def any_faster(evidence: Evidence) -> Found:
    """Whether some layer is faster at the longest length."""
    found = {m: evidence.numbers[m] for m in LINEAR if "value" in evidence.numbers.get(m, {})}
    if not found:
        return Found(OPEN, "no layer was timed at two lengths")
    states = {m: STATES[f["verdict"]] for m, f in found.items()}
    state = next(state for state in (HOLDS, OPEN, FAILS) if state in states.values())
    best = max((m for m in found if states[m] == state), key=lambda m: found[m]["value"])
    one = found[best]
    return Found(state, f"{best}: {one['words']}", one["value"], one["low"], one["high"])


CLAIM = Claim(
    key="cost_crossover",
    statement="From some length up to 4,096 on, a layer with linear cost trains faster than attention on a CPU.",
    source="Gu & Dao 2023, arXiv:2312.00752, section 4.5; flash-linear-attention, README",
    published="on a GPU (fla, README): 1.27 against 3.75 ms at 8,192 tokens, but .63 against .16 ms at 1,024",
    rule=(Custom("some recurrent layer is faster at the longest length, its interval above 1", any_faster),),
    predicted=REPRODUCED,
    minutes=4,
    measure=measure,
    measured=words_of,
)
