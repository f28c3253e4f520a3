"""Verdicts: what the evidence says about each claim, corrected over the table that they stand in together.

    verdicts = judge([(claim, evidence), (claim, None), ...])        # in the same order

The rule, fixed before the runs:
1. Each part of a claim's rule holds, fails or stays open (src/claims/rules.py).
2. The p of a claim is the largest p of its parts: all of them must hold. Holm corrects it over the claims of the table
   that have one. A claim without runs is not part of the family, because it has no p.
3. Reproduced: all parts hold, and the corrected p is at most .05. Contradicted: a part fails. Undecided: otherwise.
4. An A/A claim expects no difference. It is contradicted if its part fails and the corrected p is at most .05.
5. The quick mode has one seed. Its verdict is never more than "points to".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from src.claims.contract import (
    CONTRADICTED,
    FAILS,
    HOLDS,
    NOT_RUN,
    OPEN,
    QUICK,
    REPRODUCED,
    UNDECIDED,
    Claim,
    Evidence,
    Found,
)
from src.stats.verdicts import holm

ALPHA = 0.05


@dataclass(frozen=True)
class Verdict:
    """One row of the table.

    word: reproduced, contradicted, undecided or not run; in the quick mode "points to ...".  effect, low, high: of the
    first part that has one.  p_adjusted, family: Holm's p and over how many claims.  parts: a clause for each part.
    """

    claim: str
    word: str
    mode: str
    origin: str
    parts: tuple[tuple[str, str], ...] = ()
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_adjusted: float | None = None
    family: int = 0
    seeds: int = 0
    steps: int = 0

    def as_dict(self) -> dict:
        """JSON-able, without what is empty."""
        counts = ("family", "seeds", "steps")
        return {k: v for k, v in asdict(self).items() if v not in (None, (), "") and not (k in counts and v == 0)}

    @property
    def words(self) -> str:
        """'reproduced: gru against transformer: +0.475 [...]; 6 seeds, within 400 steps (p = ...)'."""
        said = "; ".join(words for _, words in self.parts)
        basis = ", ".join(
            [
                *([f"{self.seeds} seed{'s' * (self.seeds != 1)}"] if self.seeds else []),
                *([f"within {self.steps:,} steps"] if self.steps else []),
            ]
        )
        tests = f"{self.family} test{'s' * (self.family != 1)}"
        p = "" if self.p_adjusted is None else f" (p = {self.p_adjusted:.2g} after correction for {tests})"
        return "; ".join(filter(None, (f"{self.word}: {said}" if said else self.word, basis))) + p


def judge(table: Sequence[tuple[Claim, Evidence | None]]) -> list[Verdict]:
    """The verdict of each claim of a table."""
    found = {claim.key: judged(claim, evidence) for claim, evidence in table if evidence is not None}
    p = {key: worst for key, parts in found.items() if (worst := _p(parts)) is not None}
    adjusted = dict(zip(p, holm(list(p.values())), strict=True))
    return [
        Verdict(claim.key, NOT_RUN, "", "")
        if evidence is None
        else _verdict(claim, evidence, found[claim.key], p.get(claim.key), adjusted.get(claim.key), len(p))
        for claim, evidence in table
    ]


def judged(claim: Claim, evidence: Evidence) -> list[Found]:
    """What each part of a claim's rule found. A part stays open where the evidence lacks what it needs.

    That is a result: the loss of a run that diverged does not exist.
    """
    found = []
    for part in claim.rule:
        try:
            found.append(part.judge(evidence))
        except ValueError as error:
            found.append(Found(OPEN, str(error)))
    return found


def _p(parts: Sequence[Found]) -> float | None:
    """The largest p of the parts: the claim says that all of them hold."""
    return max((part.p for part in parts if part.p is not None), default=None)


def _verdict(claim: Claim, evidence: Evidence, parts: Sequence[Found], p, adjusted, family: int) -> Verdict:
    main = next((part for part in parts if part.value is not None), parts[0])
    word = _word(parts, adjusted)
    if evidence.mode == QUICK:
        word = f"points to {word}" if word != UNDECIDED else "points to nothing"
    return Verdict(
        claim.key,
        word,
        evidence.mode,
        evidence.origin,
        tuple((part.state, part.words) for part in parts),
        main.value,
        main.low,
        main.high,
        p,
        adjusted,
        family if p is not None else 0,
        evidence.seeds,
        evidence.steps,
    )


def _word(parts: Sequence[Found], adjusted: float | None) -> str:
    is_shown = adjusted is None or adjusted <= ALPHA
    if any(part.same for part in parts):
        states = {part.state for part in parts}
        return CONTRADICTED if FAILS in states and is_shown else REPRODUCED if states <= {HOLDS, FAILS} else UNDECIDED
    if any(part.state == FAILS for part in parts):
        return CONTRADICTED
    return REPRODUCED if all(part.state == HOLDS for part in parts) and is_shown else UNDECIDED
