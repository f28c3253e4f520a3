"""A recurrent layer's decoding state has the same bytes at every length; attention's cache grows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from src.claims.contract import FAILS, HOLDS, REPRODUCED, Claim, Custom, Evidence, Found

RECURRENT = (*("linear_attention", "retnet", "gla", "deltanet", "gated_deltanet", "mamba", "mamba2", "lstm", "gru"),)
ATTENTION = ("transformer", "llama")
NEAR, FAR = 64, 1024  # tokens


def measure(folder: Path, mode: str) -> Mapping:
    """{layer: {tokens: bytes of the live state of one sequence}}, of layers of width 64."""
    from src.models.match import decode_state
    from src.setup.plan import plan

    found = {}
    for model in (*RECURRENT, *ATTENTION):
        words = ["--task", "copy", "--model", model, "--preset", "small", "--precision", "fp32", "--pos", "none"]
        words = words[:-2] if model in ("llama", "retnet") else words  # they have positions of their own
        setup, _ = plan(words)
        found[model] = {
            str(tokens): decode_state(setup.model_class, setup.args, 32, FAR, tokens) for tokens in (NEAR, FAR)
        }
    return found


def constant(evidence: Evidence) -> Found:
    """Whether the bytes of every recurrent layer are equal at both lengths."""
    grown = [m for m in RECURRENT if evidence.numbers[m][str(NEAR)] != evidence.numbers[m][str(FAR)]]
    if grown:
        return Found(FAILS, f"the state grows in {', '.join(grown)}")
    least, most = (pick(evidence.numbers[m][str(FAR)] for m in RECURRENT) for pick in (min, max))
    return Found(
        HOLDS, f"{len(RECURRENT)} layers have equal bytes at {NEAR} and {FAR:,} tokens ({least:,} to {most:,})"
    )


def grows(evidence: Evidence) -> Found:
    """Whether the cache of attention grows in proportion."""
    ratios = {m: evidence.numbers[m][str(FAR)] / evidence.numbers[m][str(NEAR)] for m in ATTENTION}
    said = "; ".join(f"{m} x {ratio:.1f}" for m, ratio in ratios.items())
    state = HOLDS if min(ratios.values()) >= FAR / NEAR / 2 else FAILS
    return Found(state, f"attention's cache from {NEAR} to {FAR:,} tokens: {said}", min(ratios.values()))


CLAIM = Claim(
    key="constant_state",
    statement="The decoding state of a recurrent layer is constant; the cache of attention grows in proportion to T.",
    source="Katharopoulos et al. 2020, arXiv:2006.16236, section 3.4; Gu & Dao 2023, arXiv:2312.00752, section 1",
    published="constant against O(T)",
    rule=(
        Custom(f"bytes of every recurrent layer are equal at {NEAR} and {FAR:,} tokens", constant),
        Custom(f"bytes of attention grow at least {FAR // NEAR // 2}-fold between them", grows),
    ),
    predicted=REPRODUCED,
    minutes=1,
    measure=measure,
    measured=lambda mode: [RECURRENT, ATTENTION, NEAR, FAR],
)
