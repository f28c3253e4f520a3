"""The verdicts of `study`: each claim about linear attention, judged by what was measured, in one sentence.

    found = judge(Evidence(rows, findings, trainings, differences, models, baseline))      # a list of dicts, JSON-able
    rows = [row for verdict in found for row in rows_of_claim(verdict)]

Katharopoulos et al. 2020, arXiv:2006.16236, claim a cost linear in T and a state of constant size. Arora et al. 2023,
arXiv:2312.04927, report that recall gets worse. A verdict is yes or no only if the whole 95 % interval is on one side.
Otherwise it is undecided, and the sentence gives the reason. Every sentence about quality names its seeds and steps.
A new claim is a file beside this one, and a line in CLAIMS. Nothing here imports torch, because `--vis_only` uses it.
"""

from __future__ import annotations

from src.storage.rows import make_row
from src.study.claims import memory, quality, speed
from src.study.claims.contract import Claim, Evidence

KIND = "study"  # of the study's record
CLAIMS: tuple[Claim, ...] = (
    speed.FASTER,
    memory.LINEAR_MEMORY,
    memory.CONSTANT_STATE,
    quality.PERPLEXITY,
    quality.RECALL,
    quality.COPY,
)


def claim_named(key: str) -> Claim:
    """The claim of a verdict's key."""
    return next(claim for claim in CLAIMS if claim.key == key)


def trained_tasks() -> tuple[str, ...]:
    """The tasks whose trainings the claims need, each once."""
    return tuple(dict.fromkeys(claim.task for claim in CLAIMS if claim.task))


def judge(evidence: Evidence) -> list[dict]:
    """Every claim for every model that it concerns, in the order of CLAIMS."""
    return [verdict for claim in CLAIMS for verdict in claim.judge(evidence)]


def rows_of_claim(verdict: dict, machine: dict | None = None) -> list[dict]:
    """One row per figure of a verdict; without a figure, one row without a value. machine: fields of all these rows."""
    common = {
        **(machine or {}),
        "panel": "claims",
        "model": verdict["model"],
        "form": f"{verdict['claim']}: {verdict['verdict']}",
        "task": claim_named(verdict["claim"]).task or None,
        "note": f"{heading(verdict)}: {verdict['verdict']}: {verdict['words']}",
    }
    if not verdict["figures"]:
        return [make_row("speed", **common, metric=verdict["claim"], status=verdict["status"])]
    return [make_row("speed", **common, **one) for one in verdict["figures"]]


def heading(verdict: dict) -> str:
    """The claim as a sentence, with the baseline's name."""
    return claim_named(verdict["claim"]).question.format(verdict["baseline"])
