"""A study that runs: its parts in order, each in a process of its own, and what they say together.

    study = Study(plan(names, ...), models, record, machine, quiet, run_child)
    study.run(TimeLeft(quiet))           # KeyboardInterrupt passes through; finished parts stay on disk
    history = study.conclude()           # claims, trainings, fits, crossovers; the rows are in the record

Each part writes a whole run directory (or record) below the study's folder. Its own command can continue, redraw and
verify it. A process per part keeps a memory peak to that part, and timings do not depend on what ran before.
The study's results.jsonl holds the rows of all parts and of the verdicts (src/study/claims.py). It is made from the
parts. A study that was stopped loses at most the part that was running, and that part goes on from its last checkpoint.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from src.flags.fields import UserError
from src.measure.speed.analysis import analyse
from src.measure.speed.run import whole_cells
from src.setup.stored import load_checkpoint, open_run
from src.storage.files import open_sealed, read_json
from src.storage.record import Record
from src.storage.rows import make_row, rows_of
from src.storage.rundir import RunDir
from src.storage.schema import validate
from src.study.claims import judge, rows_of_claim
from src.study.claims.contract import Evidence, Outcome
from src.study.plan import Part, TimeLeft
from src.study.scores import differences

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmark.py"
OK, DIVERGED, INTERRUPTED = 0, 3, 130  # exit codes of a command
GRACE_SECONDS = 3.0  # a terminal's Ctrl-C reaches the child too; wait so long before a signal is sent to it


class Study:
    """parts: of `plan`.  models: labels, the baseline first.  machine: fields of every row that the study adds.

    runner(words, quiet) runs a command and returns its exit code.
    """

    def __init__(
        self,
        parts: list[Part],
        models,
        record: Record,
        machine: dict,
        quiet: bool,
        runner: Callable[[list[str], bool], int],
    ):
        self.parts, self.models, self.record = parts, tuple(models), record
        self.machine, self.quiet, self.runner = machine, quiet, runner
        self.failed: dict[Part, str] = {}

    @property
    def baseline(self) -> str:
        """The model that the others are compared with."""
        return self.models[0]

    def folder(self, part: Part) -> Path:
        """The folder of a part."""
        return self.record.path / part.folder

    def clear(self) -> None:
        """For a new study: remove what an older one left in the parts' folders, as `--overwrite` of each part would."""
        for part in self.parts:
            if RunDir(self.folder(part)).exists:
                Record.create(str(self.folder(part)), overwrite=True)

    def run(self, time_left: TimeLeft) -> None:
        """Run every part that is not finished. A part that fails is noted, and the next one follows."""
        done = [part for part in self.parts if self.is_done(part)]
        time_left.begin(self.parts, done)
        for part in self.parts:
            if part in done:
                continue
            time_left.now(part)
            code = self.runner(self.command(part), self.quiet)
            if code == INTERRUPTED:
                raise KeyboardInterrupt
            if code not in (OK, DIVERGED):
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                self.failed[part] = f"{part.name} {how}"
            time_left.done(part)

    def command(self, part: Part) -> list[str]:
        """The words that begin a part or continue it. A training needs --resume to continue; records do not."""
        goes_on = part.kind == "training" and RunDir(self.folder(part)).exists
        return [*part.words, "--out_dir", str(self.folder(part)), *(["--resume"] if goes_on else [])]

    def is_done(self, part: Part) -> bool:
        """Whether a part is finished. UserError if its files were altered or are of another version."""
        if part.kind != "training":
            record = Record(self.folder(part))
            return record.exists and record.finished and bool(record.read_history())
        run_dir = RunDir(self.folder(part))
        if not (run_dir.exists and run_dir.finished):
            return False
        run, document = open_run(str(run_dir.path)), _open_metrics(run_dir)
        for path in (run_dir.ckpt, *([run_dir.best] if document["best_step"] is not None else [])):
            load_checkpoint(run, path, "cpu")
        return True

    def conclude(self, compare: bool = True) -> dict:
        """Put the rows of all parts and of the verdicts into the record; return the rest of history.json.

        Parts may be missing. compare: score the trained models once more, which takes seconds, to compare them item by
        item. Without it the claims about quality stay undecided.
        """
        panels = self._collect_rows()
        findings = analyse(panels, self.models)
        documents = {(p.task, p.model): self._metrics(p) for p in self.parts if p.kind == "training"}
        trainings = {
            (p.task, p.model): self.outcome(p, documents[p.task, p.model]) for p in self.parts if p.kind == "training"
        }
        found = differences(self.record.path, self.models, trainings, documents) if compare else {}
        claims = judge(Evidence(panels, findings, trainings, found, tuple(self.models), self.baseline))
        for claim in claims:
            self.record.add(*rows_of_claim(claim, self.machine))
        return {
            "claims": claims,
            "trainings": [{"task": t, "model": m, **vars(o)} for (t, m), o in trainings.items()],
            "failed": list(self.failed.values()),
            "parts": {p.folder: list(p.words) for p in self.parts},
            **findings,
        }

    def _collect_rows(self) -> list[dict]:
        """Replace the record's rows by those of all parts; return the rows of the panels."""
        self.record.rows = []
        self.record.results.write_bytes(b"")
        panels = []
        for part in self.parts:
            rows = [{**row, "model": part.model or row["model"]} for row in self.rows_of(part)]
            panels += rows if part.kind == "panels" else []
            self.record.add(*rows)
        return panels

    def _metrics(self, part: Part) -> dict | None:
        run_dir = RunDir(self.folder(part))
        return _open_metrics(run_dir) if run_dir.exists and run_dir.finished else None

    def rows_of(self, part: Part) -> list[dict]:
        """The rows that a part has so far, and one more if it failed."""
        failed = [self._row_of_failure(part)] if part in self.failed else []
        if part.kind == "training":
            metrics = self._metrics(part)
            return [*rows_of(metrics, read_json(self.folder(part) / "env.json")), *failed] if metrics else failed
        record = Record(self.folder(part))
        rows = record.read_rows() if record.exists else []
        return [*(whole_cells(rows) if part.kind == "panels" else rows), *failed]

    def _row_of_failure(self, part: Part) -> dict:
        about = {"panel": "parts", "task": part.task or None, "model": part.model or None, "metric": "part"}
        return make_row("speed", **self.machine, **about, status="failed", note=self.failed[part])

    def outcome(self, part: Part, metrics: dict | None) -> Outcome:
        """The result of a training, in the form that claims are judged by."""
        if metrics is None:
            return Outcome("missing", why=self.failed.get(part, "this training was not finished"))
        known = {
            "steps": metrics["steps"],
            "seed": metrics["args"]["seed"],
            "parameters": metrics["parameters"]["total"],
            "source": metrics["data"]["source"],
            "diverged_at": metrics["diverged_at"],
        }
        primary, result = metrics["primary"], metrics["final_test"]
        chance = max(f["primary"] for f in metrics["floors"].values())
        if result is None:
            why = f"diverged at step {metrics['diverged_at']:,}"
            return Outcome("diverged", metric=primary, floor=chance, why=why, **known)
        if metrics["kind"] == "language":
            return Outcome("done", metric="loss", value=result["loss"], **known)
        low, high = result["intervals"][primary]
        return Outcome("done", metric=primary, value=result[primary], low=low, high=high, floor=chance, **known)


def _open_metrics(run_dir: RunDir) -> dict:
    """metrics.json of a finished training, verified."""
    document = open_sealed(run_dir.metrics)
    try:
        validate(document)
    except ValueError as error:
        raise UserError(f"{run_dir.metrics}: not of this schema: {error}; run the study with --overwrite") from error
    return document


def run_child(words: list[str], quiet: bool) -> int:
    """Run `benchmark.py` with these words in a process of its own, its output on stderr; return the exit code.

    On Ctrl-C the child is ended first, then KeyboardInterrupt passes through.
    """
    child = subprocess.Popen(
        [sys.executable, str(BENCHMARK), *words, *(["--quiet"] if quiet else [])],
        stdout=subprocess.DEVNULL if quiet else 2,
    )
    try:
        return child.wait()
    except BaseException:
        _stop(child)
        raise


def _stop(child) -> None:
    """Wait for a child that got the same Ctrl-C; interrupt it, and then kill it, if it goes on."""
    for number in (None, signal.SIGINT, signal.SIGKILL):
        if number is not None:
            child.send_signal(number)
        try:
            child.wait(timeout=GRACE_SECONDS if number is None else 20 * GRACE_SECONDS)
            return
        except subprocess.TimeoutExpired:
            continue
