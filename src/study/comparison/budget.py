"""--budget: what a plan costs, and what is left out until it takes no longer than the user has.

    seconds = read_budget("45m")
    fitted, lines = fit(cells, comparison, seconds, workers)      # what can be afforded, and what was left out

In this order: the growths of the learning-rate grid, seeds above three, then steps, down to a quarter of each run. A
plan that does not fit even then is a UserError that says how long it takes.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence

from src.flags.fields import UserError
from src.measure.progress import words as time_words
from src.study.comparison.cells import START_SECONDS, Cell, rates_of
from src.study.comparison.request import Comparison

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
LEAST_SEEDS = 3  # with fewer, no table has an interval worth the name
LEAST_STEPS = 0.25  # of a run; a shorter one says little about the layer
STEP_SHARES = (0.75, 0.5, 0.35, LEAST_STEPS)
RESERVE = 0.9  # of the budget, because the guess comes from a few steps


def read_budget(text: str) -> float:
    """Seconds of '45m', '2h', '90s' or '1h30m'. UserError for other text."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    if not parts or "".join(number + unit for number, unit in parts) != text.strip() or not seconds:
        raise UserError(f"--budget: got '{text}', allowed: a time such as 45m, 2h, 90s or 1h30m")
    return seconds


def seconds_of(cells: Sequence[Cell], comparison: Comparison, share: float = 1.0, growths: int | None = None) -> float:
    """Seconds of one worker for all runs of a plan. growths: of each grid; half of those allowed by default."""
    config = comparison.config
    growths = math.ceil(config.lr_extend / 2) if growths is None else growths
    total = 0.0
    for cell in cells:
        rates = len(rates_of([cell], config.lr))
        trials = rates + growths if rates > 1 else 0
        total += (trials + config.seeds) * run_seconds(cell, share)
    return total


def run_seconds(cell: Cell, share: float = 1.0) -> float:
    """Seconds of one run of a cell with this share of its steps."""
    whole = cell.terms["run_seconds"]
    return START_SECONDS + share * max(0.0, whole - START_SECONDS)


def fit(cells: Sequence[Cell], comparison: Comparison, budget: float, workers: int) -> tuple[Comparison, list[str]]:
    """The comparison within a budget, and one line for each thing that was left out.

    cells: prepared with all steps. Where steps are left out, they must be prepared again, with `steps_share`.
    """
    found, lines = comparison, []

    def takes(share: float = 1.0) -> float:
        return seconds_of(cells, found, share, found.config.lr_extend) / max(1, workers)

    def changed(**values) -> Comparison:
        return dataclasses.replace(found, config=dataclasses.replace(found.config, **values))

    whole = takes()
    while takes() > RESERVE * budget and found.config.lr_extend:
        found = changed(lr_extend=found.config.lr_extend - 1)
    if found.config.lr_extend < comparison.config.lr_extend:
        lines.append(
            f"the learning rates grow at most {found.config.lr_extend} times, not {comparison.config.lr_extend}"
        )
    while takes() > RESERVE * budget and found.config.seeds > LEAST_SEEDS:
        found = changed(seeds=found.config.seeds - 1)
    if found.config.seeds < comparison.config.seeds:
        lines.append(f"{found.config.seeds} seeds, not {comparison.config.seeds}")
    share = next((s for s in (1.0, *STEP_SHARES) if takes(s) <= RESERVE * budget), None)
    if share is None:
        raise UserError(
            f"--budget: got {time_words(budget)}, but {len(cells)} cells take about {time_words(takes(LEAST_STEPS))} "
            f"even with {found.config.seeds} seeds and {LEAST_STEPS:.0%} of their steps; allowed: more time, or fewer "
            "models, tasks or --lr"
        )
    if share < 1:
        lines.append(f"{share:.0%} of each run's steps, so every result is 'within' fewer steps")
        found = dataclasses.replace(found, steps_share=share)
    if lines:
        lines = [f"--budget {time_words(budget)}: the whole plan takes about {time_words(whole)}; left out:", *lines]
    return found, lines
