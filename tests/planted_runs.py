"""Comparisons without training: an engine whose runs have planted results, and campaigns that stand on it."""

import functools
from pathlib import Path
from unittest import mock

from src.study.comparison import campaign as campaigns
from src.study.comparison import cells as cell_module
from src.study.comparison import request
from src.study.comparison.campaign import Campaign, Known
from src.study.engines import DONE, Outcome

SMALL = (
    "--task",
    "parity",
    "--max_steps",
    "20",
    "--max_len",
    "8",
    "--min_len",
    "2",
    "--val_size",
    "20",
    "--test_size",
    "20",
)


def planted_row(value: float, val: float | None = None, loss: float = 1.0, **changed) -> dict:
    """The columns of a finished run with this test score; its val score is the same unless given."""
    row = {
        "status": "done",
        "metric": "token_acc",
        "value": value,
        "low": None,
        "high": None,
        "scaled": 2 * value - 1,
        "chance": 0.5,
        "ceiling": 1.0,
        "val_value": value if val is None else val,
        "val_loss": loss,
        "test_loss": loss,
        "solved_at": None,
        "steps": 20,
        "diverged_at": None,
        "train_s": 1.0,
    }
    return {**row, **changed}


class PlantedEngine:
    """Runs nothing. result(run) -> Known, or an Outcome's (status, why) for a run that failed.

    reverse: the last job that waits ends first.
    """

    def __init__(self, campaign: Campaign, result, reverse: bool = False):
        self.campaign, self.result, self.reverse = campaign, result, reverse
        self.waiting, self.jobs = [], []

    def submit(self, jobs):
        self.jobs += jobs
        self.waiting += jobs

    def outcomes(self):
        while self.waiting:
            job = self.waiting.pop(-1 if self.reverse else 0)
            known = self.result(run_of(self.campaign, job))
            yield Outcome(job, known.status, known.why, 1.0)


def run_of(campaign: Campaign, job):
    """The run of the plan that a job carries out."""
    return next(run for run in campaign._made.values() if run.folder == job.folder)


@functools.lru_cache
def cells_of(*models: str, typed: tuple[str, ...] = (), tasks: tuple[str, ...] = SMALL):
    """(what was asked, prepared cells) of a tiny comparison; its times are planted. Made once: do not change it."""
    asked = request.read([*tasks, "--model", *models, *typed])
    with mock.patch.object(cell_module, "measured", lambda ready, steps: (0.01 * steps, 1.0)):
        return asked, cell_module.prepare_cells(asked)


def carried_out(monkeypatch, asked, cells, home, result, reverse: bool = False, reuse=()) -> tuple[Campaign, list]:
    """A campaign whose runs had these results, and the jobs that the engine got.

    What a finished run has on disk is a file whose text is its folder's name; `verified` reads the planted result.
    """
    campaign = Campaign(asked.comparison, cells, home, reuse)
    stored = {}

    def verified(folder) -> Known:
        return stored[Path(folder).name]

    engine = PlantedEngine(campaign, lambda run: stored.setdefault(run.name, result(run)), reverse)
    monkeypatch.setattr(campaigns, "verified", verified)
    for _ in campaign.run(engine):
        pass
    return campaign, engine.jobs


def done(value: float, **row) -> Known:
    """A finished run."""
    return Known(DONE, "", planted_row(value, **row))
