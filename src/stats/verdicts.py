"""Verdicts over a table of comparisons: better, worse, equivalent, no difference shown, or no verdict.

    family = headline({("copy", "mamba"): paired_seeds(...), ..., ("all tasks", "mamba"): over_tasks(...)})
    verdict(facts, family.adjusted[key], budget_steps=5_000, needed=family.needed)    -> Verdict(word, words)

The rule, fixed before any run:

1. The family. The first model is compared with every other: on each task (`paired_seeds`), and, with two tasks or more,
   over all tasks together (`over_tasks`). All of these are one family of K. Pairs that do not contain the first model
   are exploratory: they have intervals and p-values, and no verdict.
2. What can be tested. A comparison whose smallest possible p, times the number of comparisons that are tested, is above
   alpha cannot have a verdict, whatever its scores. It is left out: the tested ones are the largest set, by smallest p,
   in which each can reach alpha. The smallest p depends on the number of seeds only, so the scores do not choose it.
3. Holm's correction of the exact p of what is left. It holds for any dependence between them.
4. "better" or "worse": the corrected p is at most alpha, and the interval over sequences excludes 0. The p is about
   other seeds on this test set; the interval is about other sequences with these seeds. So no verdict rests on a few
   test sequences. (The interval over both would count the seeds twice.)
5. Otherwise "equivalent", if a margin was stated and the p of `tost`, corrected like the others, is at most alpha.
6. Otherwise "no difference shown within N steps". It is not evidence of equality.

The claim is "differs" (two-sided), or "better" if it was stated in advance that only an improvement counts. Then p is
one-sided, "worse" does not occur, and one comparison can have a verdict at 3 seeds: p = .05 if all runs are separated.

What 3 seeds can show. No exact test of one task reaches .05 in a table, and a t test at 3 seeds is wrong far too often
(pairs.py). But runs of all tasks together do: with 3 tasks the smallest p of `over_tasks` is 2 / 20^3 = .00025. So a
table of 3 seeds says for each model whether it is better over the tasks, and per task it has means, intervals,
`separated`, and the number of seeds that a verdict needs. For a verdict per task, the first model against 3 others on
3 tasks, and all tasks together, take 6 seeds.

Measured on 1,000 tables of 4 equal models on 3 tasks (alpha .05; scores as in pairs.py): the share of tables with any
"better" or "worse". It is below .05 because exact p-values have steps and the comparisons share the first model.

| seeds | tested     | normal | two modes | saturated |
|-------|------------|--------|-----------|-----------|
| 3     | 3 of 12    | .025   | .025      | .017      |
| 5     | 3 of 12    | .034   | .039      | .024      |
| 6     | all 12     | .018   | .018      | .006      |
| 10    | all 12     | .042   | .046      | .021      |

Power, for normal scores where one model is better by this many standard deviations of a seed on each task: over all
tasks .76 (2 deviations, 3 seeds), 1.00 (3, 3), .99 (2, 5); on a given task .80 (3, 6), .98 (4, 6), .87 (2, 10).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from src.stats.permutation import ALPHA, CLAIMS, ROUNDING, seeds_needed

BETTER, WORSE, EQUIVALENT, NO_VERDICT = "better", "worse", "equivalent", "no verdict"
NOT_SHOWN = {"differs": "no difference shown", "better": "no improvement shown"}


class Verdict(NamedTuple):
    """word: one of BETTER, WORSE, EQUIVALENT, NO_VERDICT and NOT_SHOWN.  words: the word with what limits it."""

    word: str
    words: str


@dataclass(frozen=True)
class Family:
    """The comparisons that are corrected together.

    adjusted: {key: Holm's p}, None where no verdict is possible.  comparisons: K, all that have a p.  tested: how many
    of them can have a verdict.  needed: the seeds with which one task can; None if no number does.
    """

    adjusted: dict[Hashable, float | None]
    comparisons: int
    tested: int
    needed: int | None


def headline(facts: Mapping[Hashable, Mapping], claim: str = "differs", alpha: float = ALPHA) -> Family:
    """The corrected p of each comparison of the headline family.

    facts: {key: result of `paired_seeds` or `over_tasks`}.  claim: one for all of them, stated before the runs.
    """
    check_alpha(alpha)
    kind = _suffix(claim)
    with_p = {key: f for key, f in facts.items() if f["p" + kind] is not None}
    reach = np.array([f["smallest_p" + kind] for f in with_p.values()])
    most = max((s for s in reach if s * (reach <= s).sum() <= alpha + ROUNDING), default=-1.0)
    tested = [key for key, smallest in zip(with_p, reach, strict=True) if smallest <= most]
    corrected = holm([facts[key]["p" + kind] for key in tested])
    adjusted = {**dict.fromkeys(facts), **dict(zip(tested, corrected, strict=True))}
    return Family(adjusted, len(with_p), len(tested), seeds_needed(max(1, len(with_p)), alpha, claim))


def verdict(
    facts: Mapping,
    p_adjusted: float | None,
    *,
    budget_steps: int,
    claim: str = "differs",
    alpha: float = ALPHA,
    over_sequences: Sequence[float] | None = None,
    margin: float | None = None,
    p_equivalent: float | None = None,
    needed: int | None = None,
) -> Verdict:
    """The verdict about the second model of one comparison, by the rule above.

    facts: of `paired_seeds` or `over_tasks`.  p_adjusted, needed: from `headline`.  budget_steps: of the training.
    over_sequences: of `two_level_bootstrap`, None if the sequences are not known.  margin, p_equivalent: the stated
    margin and the corrected p of `tost`, or None.
    """
    check_alpha(alpha)
    _suffix(claim)
    within = f"within {budget_steps:,} steps"
    if facts["n"] < 2:
        return Verdict(NO_VERDICT, "one seed: no verdict" if facts["n"] else "no seed that both have: no verdict")
    reversible = over_sequences is not None and over_sequences[0] <= 0 <= over_sequences[1]
    wanted = (1,) if claim == "better" else (1, -1)
    is_shown = p_adjusted is not None and p_adjusted <= alpha + ROUNDING and facts["direction"] in wanted
    if is_shown and not reversible:
        return Verdict(BETTER, BETTER) if facts["direction"] > 0 else Verdict(WORSE, f"{WORSE} {within}")
    if margin is not None and p_equivalent is not None and p_equivalent <= alpha + ROUNDING:
        return Verdict(EQUIVALENT, f"equivalent within {margin:g}, {within}")
    if p_adjusted is None:
        more = f", {needed} needed" if needed else ""
        return Verdict(NO_VERDICT, f"{facts['n']} seeds are too few for a verdict{more}")
    why = ": other test sequences could reverse it" if is_shown else ""
    return Verdict(NOT_SHOWN[claim], f"{NOT_SHOWN[claim]} {within}{why}")


def holm(p_values) -> list[float]:
    """Holm's adjusted p-values, in the given order (Holm, Scandinavian Journal of Statistics 6, 1979).

    Compare each with alpha: the chance of any false rejection is then at most alpha, for any dependence.
    By hand: SciPy has only the correction of the false discovery rate. Raises ValueError outside [0, 1].
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p_values: got {p_values!r:.80}, allowed: a list of numbers from 0 to 1")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted.tolist()


def check_alpha(alpha: float) -> None:
    """ValueError unless alpha is a probability of error below one half."""
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha: got {alpha}, allowed: above 0 and below 0.5, such as 0.05")


def _suffix(claim: str) -> str:
    if claim not in CLAIMS:
        raise ValueError(f"claim: got '{claim}', allowed: {', '.join(CLAIMS)}")
    return "_better" if claim == "better" else ""
