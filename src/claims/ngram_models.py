"""A table of n-grams is a strong model of a small text: nanoGPT's recipe for a CPU against orders 1 to 6."""

from __future__ import annotations

import statistics

from src.claims.contract import FAILS, HOLDS, OPEN, REPRODUCED, Claim, Custom, Evidence, Found, Trainings
from src.stats.seeds import mean_over_seeds

LOSS, NGRAM = "test_heldout_loss", "baseline_ngram_"
LEAST = 0.01  # nats


def against_best(evidence: Evidence) -> Found:
    """The best order's loss minus the model's, in nats: above 0 the model is better."""
    (cell,) = [c for c in evidence.cells if c.model == "transformer"]
    tables = {int(k.removeprefix(NGRAM)): statistics.fmean(v) for k, v in cell.measures.items() if k.startswith(NGRAM)}
    losses = cell.measures.get(LOSS, ())
    if not tables or not losses or None in losses:
        raise ValueError(f"the runs have no {LOSS} or no n-gram baselines")
    order = min(tables, key=tables.__getitem__)
    found = mean_over_seeds([tables[order] - loss for loss in losses])
    low, high = found["low"], found["high"]
    ends = "" if low is None else f" [{low:+.3f}, {high:+.3f}]"
    ends_of = (found["mean"], found["mean"]) if low is None else (low, high)
    state = HOLDS if ends_of[0] > LEAST else FAILS if ends_of[1] < LEAST else OPEN
    beaten = [n for n, loss in tables.items() if loss > max(losses)]
    said = f"transformer {statistics.fmean(losses):.3f} nats, order {order} {tables[order]:.3f}"
    return Found(
        state,
        f"{said}: {found['mean']:+.3f}{ends}; it beats orders {', '.join(map(str, beaten))}",
        found["mean"],
        low,
        high,
    )


CLAIM = Claim(
    key="ngram_models",
    statement="nanoGPT's CPU recipe, 2,000 steps, beats n-grams of every order up to 6 on Tiny Shakespeare.",
    source="nanoGPT, README (1.88 nats); n-grams: this project, interpolated Witten-Bell",
    published="the recipe's 1.88 nats; no n-gram is given beside it",
    rule=(
        Custom("the transformer's loss is lower than that of the best order from 1 to 6, by 0.01 nats", against_best),
    ),
    predicted=REPRODUCED,
    minutes=4,
    trainings=(
        Trainings(
            "recipe",
            ("--preset", "nanogpt-cpu", "--model", "transformer", "--threads", "1"),
            steps=2000,
            seeds=3,
            rates=(1e-3,),
        ),
    ),
    stored="recipe",
)
