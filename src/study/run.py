"""A study that runs: its parts in order, each in a process of its own, and what they say together.

    study = Study(plan(names, ...), models, record, machine, quiet, one_by_one)
    study.run(TimeLeft(quiet))           # KeyboardInterrupt passes through; finished parts stay on disk
    history = study.conclude()           # claims, trainings, fits, crossovers; the rows are in the record

Each part writes a whole run directory (or record) below the study's folder. Its own command can continue, redraw and
verify it. A process per part (src/study/parts.py) also means that timings do not depend on what ran before.
The study's results.jsonl holds the rows of all parts and of the verdicts (src/study/claims.py). It is made from the
parts. A study that was stopped loses at most the part that was running, and that part goes on from its last checkpoint.
"""

from __future__ import annotations

from src.measure.speed.analysis import analyse
from src.storage.env import open_env
from src.storage.finished import finished_metrics
from src.storage.record import Record
from src.storage.rows import make_row, rows_of
from src.storage.rundir import RunDir
from src.study.claims import judge, rows_of_claim
from src.study.claims.contract import Evidence, Outcome
from src.study.parts import EngineMaker, Parts
from src.study.plan import Part
from src.study.scores import differences


class Study(Parts):
    """parts: of `plan`.  models: labels, the baseline first.  machine: fields of every row that the study adds.

    engine(home, quiet) is the place where they run.
    """

    def __init__(
        self,
        parts: list[Part],
        models,
        record: Record,
        machine: dict,
        quiet: bool,
        engine: EngineMaker,
    ):
        super().__init__(parts, record.path, quiet, engine)
        self.models, self.record, self.machine = tuple(models), record, machine

    @property
    def baseline(self) -> str:
        """The model that the others are compared with."""
        return self.models[0]

    def conclude(self) -> dict:
        """Put the rows of all parts and of the verdicts into the record; return the rest of history.json.

        Parts may be missing.
        """
        panels = self._collect_rows()
        findings = analyse(panels, self.models)
        documents = {(p.task, p.model): self._metrics(p) for p in self.parts if p.kind == "training"}
        trainings = {
            (p.task, p.model): self.outcome(p, documents[p.task, p.model]) for p in self.parts if p.kind == "training"
        }
        found = differences(self.record.path, self.models, trainings, documents)
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
        self.record.clear_rows()
        panels = []
        for part in self.parts:
            rows = [{**row, "model": part.model or row["model"]} for row in self.rows_of(part)]
            panels += rows if part.kind == "panels" else []
            self.record.add(*rows)
        return panels

    def _metrics(self, part: Part) -> dict | None:
        run_dir = RunDir(self.folder(part))
        return finished_metrics(run_dir) if run_dir.exists and run_dir.finished else None

    def rows_of(self, part: Part) -> list[dict]:
        """The rows that a part has so far, and one more if it failed."""
        failed = [self._row_of_failure(part)] if part in self.failed else []
        if part.kind == "training":
            metrics = self._metrics(part)
            return [*rows_of(metrics, open_env(self.folder(part) / "env.json")), *failed] if metrics else failed
        record = Record(self.folder(part))
        return [*(record.read_rows() if record.exists else []), *failed]

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
