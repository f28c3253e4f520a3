"""The verdicts of `study`: each claim about linear attention, judged by what was measured, in one sentence.

    claims = judge(rows, findings, trainings, differences, models, baseline)      # a list of dicts, JSON-able
    rows = [row for claim in claims for row in rows_of_claim(claim)]

Katharopoulos et al. 2020, arXiv:2006.16236, claim a cost linear in T and a state of constant size. Arora et al. 2023,
arXiv:2312.04927, report that recall gets worse. A verdict is yes or no only if the whole 95 % interval is on one side.
Otherwise it is undecided, and the sentence gives the reason. Every sentence about quality names its seeds and steps.
Nothing here imports torch, so that `--vis_only` can use it too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from src.measure.speed.analysis import CONFIDENT, QUANTITIES, cells, exponent, repeats
from src.stats.exponents import LEVEL, RESAMPLES
from src.stats.intervals import t_quantile
from src.storage.rows import make_row

KIND = "study"  # of the study's record
YES, NO, UNDECIDED = "yes", "no", "undecided"
QUESTIONS = {  # key -> heading; {} is the baseline
    "faster": "Training is faster than {}",
    "memory": "Memory grows as O(T)",
    "state": "Decoding state is constant",
    "perplexity": "Perplexity on Tiny Shakespeare is worse than {}'s",
    "recall": "Recall is worse than {}'s",
    "copy": "Copying is worse than {}'s",
}
TASK_OF = {"perplexity": "tiny_shakespeare", "recall": "recall", "copy": "copy"}
LINEAR = 1.1  # an exponent up to here counts as linear: caches and fixed costs change it by as much
NO_COST = 0.01  # a difference below this, in nats (1 % of perplexity) or as a share of answers, counts as none
MEMORY = {  # the peaks that are used, the first that was measured, and their names in a sentence
    next(q for q in QUANTITIES if (q.panel, q.metric) == (panel, "peak_bytes")): words
    for panel, words in (
        ("memory", "the peak of one layer, forward and backward,"),
        ("train", "the peak per sequence of a training step, without weights,"),
    )
}
RULE_OF_THREE = 3.0  # if n answers all agree, the share that does not is at most 3 / n (95 %)


@dataclass(frozen=True)
class Outcome:
    """The result of one training.

    status: done, diverged or missing; `why` explains the last two.  value: the loss in nats for language, else the
    primary metric.  low, high: its interval, if it has one.  floor: its highest chance level.
    """

    status: str
    steps: int = 0
    seed: int | None = None
    metric: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    floor: float | None = None
    parameters: int = 0
    source: str | None = None
    diverged_at: int | None = None
    why: str = ""


@dataclass(frozen=True)
class Difference:
    """How much worse a model is than the baseline on the same test set, in nats or as a share of answers.

    low, high: 95 % interval over n windows or examples.
    """

    value: float
    low: float
    high: float
    n: int


def judge(rows, findings, trainings: dict, differences: dict, models, baseline: str) -> list[dict]:
    """Every claim for every model that it concerns, in the order of QUESTIONS.

    rows: of the panels.  findings: `analyse(rows)`.  trainings: {(task, model): Outcome}.
    differences: {(task, model): Difference, or a text that says why there is none}.
    """
    others = [m for m in models if m != baseline]
    found = [faster(rows, findings, m, baseline) for m in others]
    found += [linear_memory(rows, m) for m in models] + [constant_state(rows, m) for m in models]
    for claim, task in TASK_OF.items():
        for m in others:
            pair = (trainings.get((task, name), Outcome("missing", why="it was not trained")) for name in (m, baseline))
            found.append(cost(claim, m, baseline, *pair, differences.get((task, m))))
    return found


def claim_of(claim: str, model: str, verdict: str, words: str, figures=(), baseline: str = "", **more) -> dict:
    """One verdict. words: its sentence.  figures: the numbers that it rests on, of `figure`, the decisive one first."""
    return {
        "claim": claim,
        "model": model,
        "baseline": baseline,
        "verdict": verdict,
        "words": words,
        "figures": list(figures),
        "status": "ok",
        **more,
    }


def figure(metric: str, value: float, low=None, high=None, unit: str = "ratio", x_name=None, x=None, n=None) -> dict:
    """One number of a verdict, with its 95 % interval and its place on an axis."""
    return {"metric": metric, "value": value, "low": low, "high": high, "unit": unit, "x_name": x_name, "x": x, "n": n}


# Speed


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
        ahead = f"{crossing['cheaper']} ahead in {100 * crossing['share']:.0f} % of resamples"
        said = f"at {last:,} the two cannot be told apart: {at_end}, {ahead}"
        return claim_of("faster", model, UNDECIDED, said, figures, baseline)
    if crossing["from"] is not None:
        figures.append(
            figure("step_time_crossover", crossing["from"], crossing["low"], crossing["high"], "tokens", "length", last)
        )
    if crossing["cheaper"] == baseline:
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
            if (c["panel"], c["metric"]) == ("train", "step_ms") and {c["cheaper"], c["dearer"]} == pair
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


def lost(rows, panel: str, models) -> str:
    """'; gla at 16,384: out of memory (...)': the first length of each model that could not be measured."""
    said = []
    for m in models:
        row = next((r for r in rows if r["panel"] == panel and r["model"] == m and r["status"] != "ok"), None)
        if row is not None:
            said.append(f"{m} at {row['x']:,}: {row['note']}")
    return "".join(f"; {one}" for one in said)


# Memory and state


def linear_memory(rows, model: str) -> dict:
    """Does the memory peak grow no faster than T?

    The peak is that of one layer's forward and backward pass, or of a whole step for a model of several kinds of layer.
    """
    q = next((q for q in MEMORY if exponent(rows, q, model) is not None), None)
    if q is None:
        return claim_of(
            "memory",
            model,
            UNDECIDED,
            f"fewer than two lengths were measured{lost(rows, 'memory', (model,))}",
            status="unsupported",
        )
    fit, panel, what = exponent(rows, q, model), q.panel, MEMORY[q]
    if fit.exponent is None:
        return claim_of("memory", model, UNDECIDED, f"{what} has no exponent: {fit.note}", status="unsupported")
    found = cells(rows, panel, "peak_bytes", model)
    less = cells(rows, panel, q.less, model) if q.less else {}
    y = [
        (found[x]["value"] - (less[x]["value"] if x in less else 0)) / (found[x]["batch"] if q.a_sequence else 1)
        for x in fit.used
    ]
    low, high = line_interval(fit.used, y)
    low, high = min(low, fit.low), max(high, fit.high)
    figures = [figure("memory_exponent", fit.exponent, low, high, "exponent", "length", fit.used[-1])]
    said = f"{what} grows as T^{fit.exponent:.2f} [{low:.2f}, {high:.2f}] from {fit.used[0]:,.0f} "
    said += f"to {fit.used[-1]:,.0f}, T^{fit.tail:.2f} at the end{lost(rows, panel, (model,))}"
    if low > LINEAR:
        return claim_of("memory", model, NO, said, figures)
    if high <= LINEAR and fit.tail <= LINEAR:
        return claim_of("memory", model, YES, said, figures)
    why = "the interval holds" if high > LINEAR else "the end is steeper than"
    return claim_of(
        "memory", model, UNDECIDED, f"{said}; {why} {LINEAR}, up to which an exponent counts as linear", figures
    )


def line_interval(xs, ys) -> tuple[float, float]:
    """Student's 95 % interval of the slope of log y against log x, from at least three points.

    Bytes are equal at each repeat, so a bootstrap over repeats gives no width. What is uncertain is whether the points
    are on a line at all.
    """
    x, y = np.log(np.asarray(xs, dtype=float)), np.log(np.asarray(ys, dtype=float))
    x = x - x.mean()
    slope = float(x @ y / (x @ x))
    residual = y - y.mean() - slope * x
    half = t_quantile(LEVEL, len(x) - 2) * math.sqrt(float(residual @ residual) / (len(x) - 2) / float(x @ x))
    return slope - half, slope + half


def constant_state(rows, model: str) -> dict:
    """Are the bytes of a live decoding state equal at the first and the last position, for one sequence?"""
    batch = min((r["batch"] for r in rows if r["panel"] == "decode" and r["model"] == model), default=None)
    found = cells(rows, "decode", "state_bytes", model, batch)
    if len(found) < 2:
        return claim_of(
            "state",
            model,
            UNDECIDED,
            f"fewer than two positions were measured{lost(rows, 'decode', (model,))}",
            status="unsupported",
        )
    first, last = min(found), max(found)
    a, b = found[first]["value"], found[last]["value"]
    figures = [
        figure("state_bytes", b, unit="bytes", x_name="position", x=last),
        figure("state_bytes", a, unit="bytes", x_name="position", x=first),
    ]
    said = f"{a:,.0f} bytes at position {first:,} and {b:,.0f} at {last:,}, batch {batch}"
    if a == b:
        return claim_of("state", model, YES, said, figures)
    return claim_of("state", model, NO, f"{said}{f': x {b / a:.1f}' if a else ''}", figures)


# Quality


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
        f"[{signed(difference.low)}, {signed(difference.high)}] over {difference.n:,} windows"
    )
    return said, [figure("loss_difference", *ends, "nats", **at), figure("perplexity_ratio", *ratio, "ratio", **at)]


def signed(value: float) -> str:
    """Three decimals with a sign, never -0.000."""
    return f"{round(value, 3) + 0.0:+.3f}"


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
    """The Difference of two models over the items of one test set: windows or examples.

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


# Rows


def rows_of_claim(claim: dict, machine: dict | None = None) -> list[dict]:
    """One row per figure of a verdict; without a figure, one row without a value. machine: fields of all these rows."""
    common = {
        **(machine or {}),
        "panel": "claims",
        "model": claim["model"],
        "form": f"{claim['claim']}: {claim['verdict']}",
        "task": TASK_OF.get(claim["claim"]),
        "note": f"{heading(claim)}: {claim['verdict']}: {claim['words']}",
    }
    if not claim["figures"]:
        return [make_row("speed", **common, metric=claim["claim"], status=claim["status"])]
    return [make_row("speed", **common, **one) for one in claim["figures"]]


def heading(claim: dict) -> str:
    """The claim as a sentence, with the baseline's name."""
    return QUESTIONS[claim["claim"]].format(claim["baseline"])
