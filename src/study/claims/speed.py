"""Claim: training is faster than the baseline's."""

from __future__ import annotations

import numpy as np

from src.measure.speed.analysis import CONFIDENT, cells, repeats
from src.stats.exponents import LEVEL, RESAMPLES
from src.study.claims.contract import NO, UNDECIDED, YES, Claim, claim_of, figure, lost


def faster(rows, findings, model: str, baseline: str) -> dict:
    """Is a training step faster than the baseline's, and from which length?

    The figure is the baseline's time divided by the model's, at the longest length that both have.
    """
    mine, theirs = (cells(rows, "train", "step_ms", m) for m in (model, baseline))
    shared = sorted(set(mine) & set(theirs))
    crossing = _crossover(findings, {model, baseline})
    if crossing is None:
        count = f"{len(shared)} length{'' if len(shared) == 1 else 's'}"
        why = f"both were timed at {count}, two are needed{lost(rows, 'train', (model, baseline))}"
        return claim_of("faster", model, UNDECIDED, why, (), baseline, status="unsupported")
    first, last = shared[0], shared[-1]
    ratio = ratio_interval(repeats(theirs[last]), repeats(mine[last]))
    figures = [figure("step_time_ratio", *ratio, x_name="length", x=last)]
    at_end = f"x {ratio[0]:.2f} [{ratio[1]:.2f}, {ratio[2]:.2f}] at {last:,}{lost(rows, 'train', (model, baseline))}"
    if crossing["share"] < CONFIDENT or ratio[1] <= 1.0 <= ratio[2]:
        ahead = f"{crossing['winner']} ahead in {100 * crossing['share']:.0f} % of resamples"
        said = f"at {last:,} the two cannot be told apart: {at_end}, {ahead}"
        return claim_of("faster", model, UNDECIDED, said, figures, baseline)
    if crossing["from"] is not None:
        figures.append(
            figure("step_time_crossover", crossing["from"], crossing["low"], crossing["high"], "tokens", "length", last)
        )
    if crossing["winner"] == baseline:
        where = "at no length" if crossing["from"] is None else f"not beyond {crossing['words']} tokens"
        return claim_of("faster", model, NO, f"{where} up to {last:,}: its speed is {at_end}", figures, baseline)
    where = (
        f"at every length from {first:,} to {last:,}"
        if crossing["from"] is None
        else f"from {crossing['words']} tokens"
    )
    return claim_of("faster", model, YES, f"{where}: its speed is {at_end}", figures, baseline)


def _crossover(findings, pair: set[str]) -> dict | None:
    """The crossover of two models' training steps."""
    return next(
        (
            c
            for c in findings["crossovers"]
            if (c["panel"], c["metric"]) == ("train", "step_ms") and {c["winner"], c["loser"]} == pair
        ),
        None,
    )


def ratio_interval(a, b, seed: int = 0) -> tuple[float, float, float]:
    """Median of a over median of b, with a 95 % percentile interval of a bootstrap over the repeats of both."""
    from scipy.stats import bootstrap

    # SciPy needs two repeats. A single one, twice, has the same resamples.
    a, b = (v if len(v) > 1 else [*v, *v] for v in (a, b))

    def ratio(a, b, axis):
        return np.median(a, axis=axis) / np.median(b, axis=axis)

    options = {"confidence_level": LEVEL, "n_resamples": RESAMPLES, "method": "percentile"}
    low, high = bootstrap((a, b), ratio, **options, rng=np.random.default_rng(seed)).confidence_interval
    return float(ratio(a, b, None)), float(low), float(high)


FASTER = Claim(
    "faster",
    "Training is faster than {}",
    lambda e: [faster(e.rows, e.findings, m, e.baseline) for m in e.others],
)
