"""In bf16, decoding step by step gives what the parallel pass gives in float32, within a stated margin."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from src.claims.contract import FAILS, HOLDS, REPRODUCED, Claim, Custom, Evidence, Found

MODELS = (
    *("transformer", "llama", "mamba", "mamba2", "linear_attention", "retnet", "gla"),
    *("deltanet", "gated_deltanet", "lstm", "gru"),
)
MARGIN = 0.05  # root mean square difference, in standard deviations of the logits
CHECKS = ("bf16_forward", "bf16_decoding")


def measure(folder: Path, mode: str) -> Mapping:
    """{layer: {check: drift}} of the checks of the admission gate."""
    from src import checks
    from src.checks import numerics
    from src.checks.base import Subject
    from src.flags.run_flags import resolve
    from src.models.backbone import resolve_auto
    from src.setup.classes import find_model

    small = {"d_model": 64, "n_layer": 2, "n_head": 4, "dropout": 0.0, "precision": "fp32", "device": "cpu"}
    found: dict[str, dict] = {}
    for model in MODELS:
        model_class = find_model(model, ())
        subject = Subject(model_class, resolve_auto(model_class, resolve(NoTask, model_class, model=model, **small)))
        with checks.exact_float32():
            results = [r for c in CHECKS for r in checks.run_check(getattr(numerics, c), subject, "numerics")]
        found[model] = {check: _number(result) for check, result in zip(CHECKS, results, strict=True)}
    return found


class NoTask:
    """A task without flags, because the checks need no task."""

    Config = None


def _number(result) -> float | str:
    if not isinstance(result.value, (int, float)):
        return f"{result.status}: {result.note}"
    return float(result.value) if math.isfinite(result.value) else "not finite"


def drift(check: str, noun: str) -> Custom:
    """The part that says that the drift of every layer is within the margin."""

    def judge(evidence: Evidence) -> Found:
        found = {m: evidence.numbers[m][check] for m in MODELS}
        broken = [f"{m} ({v})" for m, v in found.items() if isinstance(v, str)]
        if broken:
            return Found(FAILS, f"{noun}: {', '.join(broken)}")
        worst = max(found, key=found.__getitem__)
        state = HOLDS if found[worst] <= MARGIN else FAILS
        return Found(
            state, f"{noun}: the largest drift of {len(found)} layers is {found[worst]:.4f} ({worst})", found[worst]
        )

    return Custom(f"the drift of {noun} is at most {MARGIN:g} for every layer", judge)


CLAIM = Claim(
    key="bf16_steps",
    statement="In bf16, prefill and single steps give the logits of the parallel pass in float32, within 5 %.",
    source="equality of the two forms: Katharopoulos et al. 2020, arXiv:2006.16236; Yang et al. 2024, arXiv:2406.06484",
    published="the forms are equal in exact arithmetic; no margin is published for bf16",
    rule=(drift("bf16_decoding", "decoding in bf16"), drift("bf16_forward", "the parallel pass in bf16")),
    predicted=REPRODUCED,
    minutes=1,
    measure=measure,
    measured=lambda mode: [MODELS, CHECKS],
)
