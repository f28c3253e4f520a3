"""Claims about what a layer costs in quality: perplexity, recall and copying against the baseline's."""

from __future__ import annotations

import math

import numpy as np

from src.stats.exponents import LEVEL
from src.stats.intervals import t_quantile
from src.study.claims.contract import NO, UNDECIDED, YES, Claim, Difference, Evidence, Outcome, claim_of, figure, signed

NO_COST = 0.01  # a difference below this, in nats (1 % of perplexity) or as a share of answers, counts as none


RULE_OF_THREE = 3.0  # if n answers all agree, the share that does not is at most 3 / n (95 %)


def cost(claim: str, model: str, baseline: str, mine: Outcome, theirs: Outcome, difference) -> dict:
    """Is the model worse than the baseline after short trainings at equal parameters? No: it is as good, or better."""
    for name, one in ((model, mine), (baseline, theirs)):
        if one.status == "missing":
            return claim_of(claim, model, UNDECIDED, f"{name}: {one.why}", (), baseline, status="unsupported")
    basis = basis_of(claim, mine, theirs)
    if "diverged" in (mine.status, theirs.status):
        return diverged(claim, model, baseline, mine, theirs, basis)
    if not isinstance(difference, Difference):
        why = f"no difference: {difference or 'it was not computed'}; {basis}"
        return claim_of(claim, model, UNDECIDED, why, (), baseline, status="unsupported")
    said, figures = _compared(claim, mine, theirs, difference)
    if claim != "perplexity" and not (learned(mine) or learned(theirs)):
        why = f"{said}: neither is above chance ({mine.floor:.3f}); {basis}"
        return claim_of(claim, model, UNDECIDED, why, figures, baseline)
    verdict = YES if difference.low > 0 else NO if difference.high < NO_COST else UNDECIDED
    if verdict == UNDECIDED:
        said += ", which may be random variation"
    elif verdict == YES and claim != "perplexity" and not learned(mine):
        said += f": {model} is not above chance ({mine.floor:.3f})"
    return claim_of(claim, model, verdict, f"{said}; {basis}", figures, baseline)


def _compared(claim: str, mine: Outcome, theirs: Outcome, difference: Difference) -> tuple[str, list[dict]]:
    """Both scores and their difference in words, and as figures."""
    ends = (difference.value, difference.low, difference.high)
    at = {"x_name": "step", "x": mine.steps, "n": difference.n}
    if claim != "perplexity":
        said = (
            f"{mine.metric} {mine.value:.3f} against {theirs.value:.3f}, "
            f"{signed(-difference.value)} [{signed(-difference.high)}, {signed(-difference.low)}] "
            f"over {difference.n:,} examples"
        )
        return said, [figure(f"{claim}_difference", *ends, "share", **at)]
    ratio = [math.exp(v) for v in ends]
    said = (
        f"{math.exp(mine.value):.2f} against {math.exp(theirs.value):.2f}, "
        f"x {ratio[0]:.3f} [{ratio[1]:.3f}, {ratio[2]:.3f}], {signed(difference.value)} nats "
        f"[{signed(difference.low)}, {signed(difference.high)}] over {difference.n:,} blocks of text"
    )
    return said, [figure("loss_difference", *ends, "nats", **at), figure("perplexity_ratio", *ratio, "ratio", **at)]


def learned(outcome: Outcome) -> bool:
    """Whether the whole interval of the score is above the highest chance level."""
    return outcome.low is None or outcome.floor is None or outcome.low > outcome.floor


def basis_of(claim: str, mine: Outcome, theirs: Outcome) -> str:
    """What a verdict about quality rests on: steps, seed, parameters and, for language, the text."""
    text = f", text: {mine.source}" if claim == "perplexity" else ""
    steps = f"within {mine.steps or mine.diverged_at or 0:,} steps, one seed ({mine.seed})"
    return f"{steps}, {mine.parameters:,} and {theirs.parameters:,} parameters{text}"


def diverged(claim: str, model: str, baseline: str, mine: Outcome, theirs: Outcome, basis: str) -> dict:
    """The verdict if a training diverged. That is a result: it scores at chance level."""
    both = mine.status == theirs.status
    verdict = UNDECIDED if both else YES if mine.status == "diverged" else NO
    said = " and ".join(
        f"{name} diverged at step {one.diverged_at:,}"
        for name, one in ((model, mine), (baseline, theirs))
        if one.status == "diverged"
    )
    words = f"{said}, so it scores at chance level; {basis}"
    return claim_of(claim, model, verdict, words, (), baseline, status="diverged")


def paired(mine, theirs, counts, is_share: bool) -> Difference:
    """The Difference of two models over the items of one test set: blocks of text or examples.

    mine, theirs: (n,) errors per item (nats, or wrong answers).  counts: (n,) how many an item's errors are sums of.
    The interval is Student's for a ratio of sums, over items, because the characters of one item are not independent.
    For a share it is at least as wide as the rule of three. ValueError below two items or if lengths differ.
    """
    mine, theirs, counts = (np.asarray(v, dtype=float) for v in (mine, theirs, counts))
    n = len(counts)
    if n < 2 or mine.shape != counts.shape or theirs.shape != counts.shape:
        raise ValueError(
            f"items: got {mine.shape}, {theirs.shape} and {counts.shape}, allowed: as many of each, at least two"
        )
    difference = mine - theirs
    value = float(difference.sum() / counts.sum())
    residual = difference - value * counts
    half = t_quantile(LEVEL, n - 1) * math.sqrt(n / (n - 1) * float(residual @ residual)) / float(counts.sum())
    if is_share:
        half = max(half, RULE_OF_THREE / n)
    return Difference(value, value - half, value + half, n)


def _quality_claim(key: str, question: str, task: str) -> Claim:
    """A claim that a layer costs something on this task."""

    def judge(evidence: Evidence) -> list[dict]:
        missing = Outcome("missing", why="it was not trained")
        theirs = evidence.trainings.get((task, evidence.baseline), missing)
        return [
            cost(
                key,
                m,
                evidence.baseline,
                evidence.trainings.get((task, m), missing),
                theirs,
                evidence.differences.get((task, m)),
            )
            for m in evidence.others
        ]

    return Claim(key, question, judge, task)


PERPLEXITY = _quality_claim("perplexity", "Perplexity on Tiny Shakespeare is worse than {}'s", "tiny_shakespeare")
RECALL = _quality_claim("recall", "Recall is worse than {}'s", "recall")
COPY = _quality_claim("copy", "Copying is worse than {}'s", "copy")
