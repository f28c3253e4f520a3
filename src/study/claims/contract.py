"""What a claim is made of: the evidence it reads, the verdict it gives, the numbers it rests on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

YES, NO, UNDECIDED = "yes", "no", "undecided"


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

    low, high: 95 % interval of test sampling, over n blocks of text or sequences.
    """

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Evidence:
    """What was measured, for all models.

    rows: of the panels of `speed`.  findings: `analyse(rows)`.  trainings: {(task, model): Outcome}.
    differences: {(task, model): Difference, or a text that says why there is none}.  models: their names, the baseline
    among them.
    """

    rows: list[dict]
    findings: dict
    trainings: dict[tuple[str, str], Outcome]
    differences: dict[tuple[str, str], Difference | str]
    models: tuple[str, ...]
    baseline: str

    @property
    def others(self) -> list[str]:
        """The models without the baseline."""
        return [m for m in self.models if m != self.baseline]


@dataclass(frozen=True)
class Claim:
    """One claim.

    question: its heading, with {} for the baseline.  judge(evidence): its verdicts (`claim_of`), one per model that it
    concerns.  task: the training that it needs, "" for none.
    """

    key: str
    question: str
    judge: Callable[[Evidence], list[dict]]
    task: str = ""


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


def lost(rows, panel: str, models) -> str:
    """'; gla at 16,384: out of memory (...)': the first length of each model that could not be measured."""
    said = []
    for m in models:
        row = next((r for r in rows if r["panel"] == panel and r["model"] == m and r["status"] != "ok"), None)
        if row is not None:
            said.append(f"{m} at {row['x']:,}: {row['note']}")
    return "".join(f"; {one}" for one in said)


def signed(value: float) -> str:
    """Three decimals with a sign, never -0.000."""
    return f"{round(value, 3) + 0.0:+.3f}"
