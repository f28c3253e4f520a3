"""Claims that are measured without training: their rules on planted numbers, and the quick ones for real.

python -m pytest tests/claims/test_measured_claims.py
"""

import copy
import math
import types

import pytest

from src.claims import bf16_steps, constant_state, cost_crossover, cost_exponents, frontier, ngram_models
from src.claims.contract import CONTRADICTED, FULL, REPRODUCED, UNDECIDED, Evidence, Scores
from src.claims.figures import draw, points_of
from src.claims.judge import judge


def word(claim, numbers) -> str:
    return judge([(claim, Evidence(FULL, "measured", (), (), numbers))])[0].word


FIT = {"exponent": 1.0, "low": 0.95, "high": 1.05, "tail": 1.02, "longest": 4096.0}
LAYERS = {name: {"step_ms": FIT, "peak_bytes": FIT} for name in (*cost_exponents.LINEAR, cost_exponents.ATTENTION)}
EXPONENTS = copy.deepcopy(LAYERS)
EXPONENTS["transformer"]["step_ms"] = {**FIT, "exponent": 1.4, "tail": 1.7}
STATES = {name: {"64": 100, "1024": 100} for name in constant_state.RECURRENT}
STATES |= {name: {"64": 100, "1024": 1600} for name in constant_state.ATTENTION}
DRIFTS = {name: {"bf16_forward": 0.004, "bf16_decoding": 0.005} for name in bf16_steps.MODELS}
SLOW = {"verdict": "no", "words": "at no length", "value": 0.6, "low": 0.5, "high": 0.7, "x": 4096}
TIMES = dict.fromkeys(cost_crossover.LINEAR, SLOW)
FAST = {"verdict": "yes", "words": "from 2,000 tokens", "value": 1.8, "low": 1.7, "high": 1.9, "x": 4096}


def changed(numbers, layer: str, **values):
    return {**numbers, layer: {**numbers[layer], **values}}


@pytest.mark.parametrize(
    ("claim", "numbers", "expected"),
    [
        (cost_exponents.CLAIM, EXPONENTS, REPRODUCED),
        (cost_exponents.CLAIM, LAYERS, CONTRADICTED),  # attention is linear too
        (cost_exponents.CLAIM, changed(EXPONENTS, "gla", step_ms={**FIT, "low": 1.3, "high": 1.5}), CONTRADICTED),
        (cost_exponents.CLAIM, changed(EXPONENTS, "gla", step_ms={**FIT, "high": 1.5}), UNDECIDED),
        (cost_exponents.CLAIM, {k: v for k, v in EXPONENTS.items() if k != "gru"}, UNDECIDED),
        (constant_state.CLAIM, STATES, REPRODUCED),
        (constant_state.CLAIM, changed(STATES, "gru", **{"1024": 101}), CONTRADICTED),
        (constant_state.CLAIM, changed(STATES, "llama", **{"1024": 100}), CONTRADICTED),
        (bf16_steps.CLAIM, DRIFTS, REPRODUCED),
        (bf16_steps.CLAIM, changed(DRIFTS, "mamba", bf16_decoding=0.2), CONTRADICTED),
        (bf16_steps.CLAIM, changed(DRIFTS, "mamba", bf16_forward="failed: NaN"), CONTRADICTED),
        (cost_crossover.CLAIM, TIMES, CONTRADICTED),
        (cost_crossover.CLAIM, changed(TIMES, "gla", **FAST), REPRODUCED),
        (cost_crossover.CLAIM, changed(TIMES, "gla", verdict="undecided"), UNDECIDED),
        (bf16_steps.CLAIM, changed(DRIFTS, "mamba", bf16_forward="not finite"), CONTRADICTED),
    ],
)
def test_a_measured_claim_follows_its_numbers(claim, numbers, expected):
    assert word(claim, numbers) == expected


def test_the_effect_of_a_crossover_is_that_of_a_layer_that_decides():
    numbers = changed(TIMES, "gla", **FAST)
    numbers = changed(numbers, "gru", verdict="undecided", words="cannot be told apart", value=6.0, low=0.9, high=9.0)
    (verdict,) = judge([(cost_crossover.CLAIM, Evidence(FULL, "measured", (), (), numbers))])
    assert (verdict.word, verdict.effect) == (REPRODUCED, FAST["value"])
    assert verdict.words.startswith("reproduced: gla: ")


def test_a_drift_that_is_not_finite_is_told_in_words():
    assert bf16_steps._number(types.SimpleNamespace(value=math.inf, status="failed", note="")) == "not finite"


@pytest.mark.parametrize(("loss", "expected"), [(1.6, REPRODUCED), (1.9, CONTRADICTED), (1.765, UNDECIDED)])
def test_the_best_order_of_n_grams_is_what_a_model_must_beat(loss, expected):
    measures = {"test_heldout_loss": (loss, loss + 0.02, loss - 0.02)}
    measures |= {f"baseline_ngram_{n}": (value,) * 3 for n, value in ((2, 2.4), (4, 1.77), (5, 1.8))}
    cell = Scores("tiny_shakespeare", "transformer", "", (1, 2, 3), measures, {"steps": 2000})
    (verdict,) = judge([(ngram_models.CLAIM, Evidence(FULL, "runs", (cell,)))])
    assert verdict.word == expected
    assert "order 4 1.770" in verdict.words


@pytest.mark.slow  # it loads every layer
def test_the_decoding_state_is_measured(tmp_path):
    found = constant_state.measure(tmp_path, FULL)
    assert word(constant_state.CLAIM, found) == REPRODUCED
    assert found["gru"]["64"] == 2 * 64 * 4  # two layers of 64 float32


@pytest.mark.slow
def test_the_drift_in_bf16_is_measured(tmp_path):
    assert word(bf16_steps.CLAIM, bf16_steps.measure(tmp_path, FULL)) == REPRODUCED


def test_the_frontier_is_drawn_from_bytes_and_scores(tmp_path):
    cells = [
        Scores(
            "recall", name, f"d_model={d}", (11, 12, 13), {"value": (0.1 * i, 0.1 * i + 0.02, 0.1 * i + 0.01)}, facts
        )
        for name in ("deltanet", "mamba")
        for i, d in enumerate((64, 16, 32), 2)
        for facts in ({"state_bytes": 100 * d, "metric": "token_acc", "steps": 300, "chance": 0.125},)
    ]
    evidence = Evidence(FULL, "runs", tuple(cells))
    assert [point[0] for point in points_of(evidence)["mamba"]] == [1600, 3200, 6400]
    (path,) = draw(frontier.CLAIM, evidence, tmp_path)
    assert path.stat().st_size > 10_000
    assert draw(constant_state.CLAIM, evidence, tmp_path) == []
