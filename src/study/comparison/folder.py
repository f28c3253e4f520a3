"""The folder of a comparison: what it stores before the runs, and what it writes after them.

    place = Folder(out_dir)
    place.check(reuse)                           # UserError, nothing written
    code = carry_out(place, argv, asked, cells, notes, workers)

    config.json     what was asked; the plan may change, finished runs stay
    plan.json       the equal terms of every cell
    runs/<name>/    one run directory each; its name is the digest of what determines it
    logs/           what each run printed
    drawn/          while runs go on: the examples that they share
    results.csv, results.jsonl, summary.csv, verdicts.json, figures/, report.html
    speed/          with --cost: a record of `speed` of the same models

One process at a time works in a folder; a second one is refused.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from src.flags.fields import UserError
from src.measure.session import continuing
from src.storage import env
from src.storage.files import make_writable, open_sealed, seal, write_atomic, write_json
from src.storage.rundir import RunDir
from src.study import engines
from src.study.comparison.board import Board
from src.study.comparison.budget import run_seconds
from src.study.comparison.campaign import Campaign, Known, Run
from src.study.comparison.cells import Cell
from src.study.comparison.cost import measure_cost
from src.study.comparison.gate import check_layers
from src.study.comparison.pictures import draw
from src.study.comparison.stored import KIND
from src.study.comparison.summary import summarise, summary_columns
from src.study.comparison.tables import columns_of, start_of, to_csv
from src.study.comparison.verdicts import judge
from src.study.engines import DIVERGED, DONE, Outcome
from src.study.engines.grouped import Grouped
from src.study.page import write_report
from src.study.page.card import NAME as CARD

TABLES = ("results.csv", "results.jsonl", "summary.csv", "verdicts.json", CARD, "report.html")
OK, FAILED, INTERRUPTED = 0, 1, 130


class Folder:
    """out_dir: the typed --out_dir; empty for runs/<timestamp>."""

    def __init__(self, out_dir: str = ""):
        self.out_dir = out_dir
        self.dir = RunDir(out_dir or "runs")

    @property
    def path(self) -> Path:
        """The folder."""
        return self.dir.path

    def check(self, reuse: Sequence[str] = ()) -> None:
        """UserError where the folder cannot be a comparison's, or one of --reuse is none. Writes nothing."""
        if not (self.out_dir and self._is_comparison("--out_dir")):
            RunDir.check(self.out_dir)
        for folder in reuse:
            other = Folder(folder)
            if not (other.dir.exists and other._is_comparison("--reuse")):
                raise UserError(f"--reuse: got '{folder}', allowed: the folder of a comparison; it has no config.json")

    def _is_comparison(self, flag: str) -> bool:
        """Whether a comparison was begun here. UserError where the folder holds something else."""
        if not self.dir.exists:
            return False
        kind = open_sealed(self.dir.config).get("kind")
        if kind != KIND:
            what = f"results of `{kind}`" if kind else "a training run"
            raise UserError(f"{flag}: '{self.path}' holds {what}, allowed: a new folder, or that of a comparison")
        return True

    def acquire(self) -> None:
        """Make the folder if it is new, and lock it. UserError where another process is at work in it."""
        if self.out_dir and self.dir.exists:
            make_writable(self.path)
        else:
            self.dir = RunDir.create(self.out_dir)
        self.dir.acquire()

    def begin(self, settings: Mapping, cells: Sequence[Cell], notes: Sequence[str], command: str) -> None:
        """Store what is compared, before the first run."""
        self.dir.clean()
        asked = seal({"schema": 1, "kind": KIND, "settings": settings, "command": command})
        if self.dir.exists and open_sealed(self.dir.config)["settings"] != asked["settings"]:
            for name in TABLES:  # of another plan: nobody may take them for this one's after a kill
                (self.path / name).unlink(missing_ok=True)
        write_json(self.dir.config, asked)
        terms = [
            {"task": c.task, "model": c.model, "setting": c.setting, "words": list(c.words), **c.terms} for c in cells
        ]
        write_json(self.path / "plan.json", seal({"schema": 1, "cells": terms, "notes": list(notes)}))
        if not self.dir.env.exists():
            args = cells[0].setup.args
            device = env.resolve_device(args.device)
            write_json(self.dir.env, env.collect(dict(settings), device, (args.precision, "of all runs"), {}))


def carry_out(
    place: Folder,
    argv: list[str],
    asked,
    cells: Sequence[Cell],
    notes: Sequence[str],
    workers: int,
    command: str = KIND,
    finish: Callable[[Campaign], list[str]] | None = None,
    checks: Mapping[str, dict] | None = None,
) -> int:
    """Run what is missing, then write tables, verdicts and the report; returns the exit code.

    command: its name, for the line that continues the runs.  finish: called once all runs have ended and before the
    report is written; it may add files to the folder, and its lines are printed in place of the verdicts.
    checks: what `check` said about the layers before, so that it is not run again.
    """
    control, said = asked.control, None
    place.acquire()
    typed = shlex.join(["python", "benchmark.py", command, *argv])
    board = Board(control.quiet, workers)
    try:
        campaign = Campaign(asked.comparison, cells, place.path, control.reuse)
        place.begin(asked.comparison.settings_json(), cells, notes, typed)
        code = OK
        try:
            _run(campaign, control, workers, board)
        except KeyboardInterrupt:
            code = INTERRUPTED
        finally:
            board.close()
        verdicts = conclude(place.path, campaign)
        if code == OK:
            if asked.comparison.config.cost:
                code = measure_cost(place.path, asked.comparison, cells, control.quiet)
            check_layers(place.path, cells, checks)
            draw(place.path, campaign)
            said = finish(campaign) if finish else None
            write_report([place.path])
    finally:
        place.dir.release()
    return _end(place, [command, *argv], verdicts, code, control.quiet, said)


def _run(campaign: Campaign, control, workers: int, board: Board) -> None:
    """Carry out the campaign, one line per run."""
    board.begin(campaign.total(), campaign.seconds_left(run_seconds))
    settings = {"workers": workers, "threads": control.threads, "timeout": 60 * control.timeout}
    if control.engine == "ray":
        settings["address"] = control.ray_address
    else:
        settings["drawn"] = campaign.home / "drawn"
    made = engines.make(control.engine, campaign.home, **settings)
    if control.seeds_at_once > 1:
        made = Grouped(made, control.seeds_at_once)
    with made as engine:
        for run, known, outcome in campaign.run(engine):
            if outcome is None:
                board.found()
                continue
            left = campaign.seconds_left(run_seconds)
            board.update(campaign.total(), left)
            board.done(_line(run, known, outcome), run_seconds(run.cell), outcome.seconds, left)
        board.say_found()


def _line(run: Run, known: Known, outcome: Outcome) -> str:
    """'recall, mamba: lr 0.003, seed 11  token_acc 0.998  31 s'."""
    if known.status not in (DONE, DIVERGED):
        return f"{run.label}  {known.status}: {known.why}"
    row = known.row
    if known.status == DIVERGED:
        what = f"diverged at step {row['diverged_at']}, counts as chance {row['value']:.3f}"
    else:
        which, value = ("val", row["val_value"]) if run.role == "tuning" else ("test", row["value"])
        what = f"{which} {row['metric']} {value:.3f}"
    return f"{run.label}  {what}  {outcome.seconds:.0f} s"


def conclude(home: Path, campaign: Campaign) -> dict:
    """Write the tables and the verdicts of what is known; returns the content of verdicts.json."""
    rows, summary = rows_of(campaign.runs()), summarise(campaign)
    write_atomic(home / "results.csv", to_csv(rows, columns_of(rows)))
    write_atomic(home / "results.jsonl", to_jsonl(rows, columns_of(rows)))
    write_atomic(home / "summary.csv", to_csv(summary, summary_columns(summary)))
    verdicts = judge(campaign)
    write_json(home / "verdicts.json", seal(verdicts))
    return verdicts


def rows_of(runs: Iterable[tuple[Run, Known]]) -> list[dict]:
    """The rows of results.csv, holes included."""
    return [{**start_of(run), "status": known.status, "why": known.why, **known.row} for run, known in runs]


def to_jsonl(rows: Sequence[Mapping], columns: Sequence[str]) -> bytes:
    """The same rows, one JSON object per line."""
    return "".join(json.dumps({c: row.get(c) for c in columns}) + "\n" for row in rows).encode("ascii")


def _end(
    place: Folder, argv: list[str], verdicts: Mapping, code: int, quiet: bool, said: Sequence[str] | None = None
) -> int:
    """Say how it ended; returns the exit code. argv: the command and its words.  said: lines in place of verdicts."""
    if code == INTERRUPTED:
        again = continuing(argv[0], argv[1:], place.path)
        print(f"interrupted; finished runs are kept, continue with: {again}", file=sys.stderr)
        return code
    for hole in verdicts["holes"]:
        where = ", ".join(filter(None, (hole["task"], hole["model"], hole["setting"])))
        which = "" if hole["lr"] is None else f": lr {hole['lr']:g}, seed {hole['seed']}"
        print(
            f"error: {where}{which} {hole['status']}: {hole['why']}; the same command with --out_dir {place.path} "
            "tries it again",
            file=sys.stderr,
        )
    if not quiet:
        print("\n".join(said or (pair["words"] for pair in verdicts["pairs"] if pair["headline"])))
        print(f"report: {place.path / 'report.html'}")
    print(place.path)
    return FAILED if verdicts["holes"] else code
