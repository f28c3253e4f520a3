"""How training time and memory grow with the length T: linearly for recurrent layers, faster for attention."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from src.claims.contract import FAILS, HOLDS, OPEN, REPRODUCED, Claim, Custom, Evidence, Found
from src.claims.panels import ATTENTION, BATCH, LINEAR, panel_rows, words_of

LINEAR_MOST = 1.15  # an exponent up to this counts as linear
FASTER = 1.3  # attention: the slope at the longest lengths, where its quadratic part begins to show
TIME = ("train", "step_ms")


def measure(folder: Path, mode: str) -> Mapping:
    """{layer: {metric: exponent with its interval; of the time also the slope at the end}}."""
    from src.measure.speed.analysis import analyse
    from src.study.claims.memory import linear_memory

    rows = panel_rows(folder.parent, mode)
    found: dict[str, dict] = {model: {} for model in (ATTENTION, *LINEAR)}
    for fit in analyse(rows)["fits"]:
        if (fit["panel"], fit["metric"]) == TIME and fit["exponent"] is not None:
            kept = {key: fit[key] for key in ("exponent", "low", "high", "tail")}
            found[fit["model"]]["step_ms"] = {**kept, "longest": fit["used"][-1]}
    for model, metrics in found.items():  # its interval says how far the points are from a line
        for one in linear_memory(rows, model)["figures"]:
            metrics["peak_bytes"] = {"exponent": one["value"], "low": one["low"], "high": one["high"]}
    return found


def linear_layers(metric: str, noun: str):
    """The part that says that the exponent of every recurrent layer is at most linear."""

    def judge(evidence: Evidence) -> Found:
        fits = {m: evidence.numbers.get(m, {}).get(metric) for m in LINEAR}
        missing = [m for m, f in fits.items() if f is None]
        if missing:
            return Found(OPEN, f"{noun}: no exponent of {', '.join(missing)}")
        steepest = max(fits, key=lambda m: fits[m]["exponent"])
        fit = fits[steepest]
        said = f"{noun}: steepest is {steepest}, T^{fit['exponent']:.2f} [{fit['low']:.2f}, {fit['high']:.2f}]"
        state = HOLDS if all(f["high"] <= LINEAR_MOST for f in fits.values()) else OPEN
        state = FAILS if any(f["low"] > LINEAR_MOST for f in fits.values()) else state
        return Found(state, said, fit["exponent"], fit["low"], fit["high"])

    return Custom(f"{noun} of every recurrent layer grows no faster than T^{LINEAR_MOST:g}", judge)


def steep_attention(evidence: Evidence) -> Found:
    """The slope of attention's time over the three longest lengths."""
    fit = evidence.numbers.get(ATTENTION, {}).get("step_ms")
    if fit is None:
        return Found(OPEN, f"time: no exponent of {ATTENTION}")
    state = HOLDS if fit["tail"] >= FASTER else FAILS
    return Found(state, f"time of {ATTENTION} at the longest lengths, up to {fit['longest']:,.0f}: T^{fit['tail']:.2f}")


CLAIM = Claim(
    key="cost_exponents",
    statement="Training time and memory grow linearly with T for recurrent layers, and time faster for attention.",
    source="Katharopoulos et al. 2020, arXiv:2006.16236; Gu & Dao 2023, arXiv:2312.00752",
    published="O(N) against O(N^2) in time and memory; memory of attention is linear too since FlashAttention",
    rule=(
        linear_layers("step_ms", "training time"),
        linear_layers("peak_bytes", "memory"),
        Custom(f"time of attention grows at least as T^{FASTER:g} over the three longest lengths", steep_attention),
    ),
    predicted=REPRODUCED,
    note=(
        f"Each step has {BATCH} sequences at every length, and memory is that of one layer. At first a step had 4,096 "
        "tokens, so the batch shrank as the length grew. A GRU, which handles all sequences of a batch at once, then "
        "seemed to need T^1.71, and the verdict was contradicted. The rule is the same."
    ),
    minutes=4,
    measure=measure,
    measured=words_of,
)
