"""`study`: the whole study in one command, and a verdict for each claim of the linear-attention literature.

    study = Validation(plan(models, settings), models, record, runner)
    study.run(Clock(quiet))              # KeyboardInterrupt comes through; finished parts stay on disk
    history = study.conclude()           # claims, trainings, fits, crossovers; rows are in the record

In this order: short trainings on Tiny Shakespeare, recall and copy, of all models at equal parameters; the panels; a profile of each model; the tables.
Each part is one command of this program in a folder of its own below the study's, which is a whole run directory (or record) that the command can
continue, redraw and verify. Each runs in a process of its own, so that a peak of memory is that of one part, and timings do not depend on
what ran before. The study's results.jsonl holds the rows of all parts and of the verdicts (src/study/claims.py); it is made from
the parts, so that a study that was stopped loses nothing but the part that it was in, and that part goes on from its last checkpoint.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dataset.loaders import build_loaders
from src.measure.progress import words as time_words
from src.measure.speed.analysis import analyse
from src.measure.speed.run import whole_cells
from src.setup.plan import build_model
from src.setup.stored import load_checkpoint, open_run
from src.storage.record import Record
from src.storage.rows import make_row, rows_of
from src.storage.rundir import RunDir, open_sealed, read_json
from src.study.claims import KIND, TASK_OF, Outcome, judge, paired, rows_of_claim
from src.utils.evaluation import teacher_forced
from src.utils.metrics import rows_all_correct

__all__ = ["KIND", "Clock", "Part", "Validation", "ordered", "plan", "run_child"]
BENCHMARK = Path(__file__).resolve().parents[2] / "benchmark.py"
TRAININGS: dict[str, tuple[str, ...]] = {
    "tiny_shakespeare": (),
    "recall": (),
    "copy": (),
}  # task -> flags beyond those of --preset small
PANEL_FLAGS: tuple[str, ...] = ()
PROFILE_FLAGS = ("--steps", "10", "--lengths", "64,128,256,512", "--cell_seconds", "1")
SECONDS = {"tiny_shakespeare": 0.12, "recall": 0.05, "copy": 0.04}  # of a step, as guessed before one was measured
OVERHEAD_SECONDS, PROFILE_SECONDS = 15.0, 30.0  # what a part takes beside its steps or cells
OK, DIVERGED, INTERRUPTED = 0, 3, 130  # exit codes of a command
GRACE_SECONDS = 3.0  # for a child that a terminal's Ctrl-C reached too, before it is told


@dataclass(frozen=True)
class Part:
    """One command. kind: training, panels or profile.  folder: below the study's.  words: the command line, without the folder.  seconds: a guess."""

    kind: str
    folder: str
    words: tuple[str, ...]
    seconds: float
    task: str = ""
    model: str = ""

    @property
    def name(self) -> str:
        return (
            f"{self.kind}{f' {self.task}' if self.kind == 'training' else ''}{f', {self.model}' if self.model else ''}"
        )


def ordered(models) -> tuple[str, ...]:
    """The models with the baseline first: the transformer where it is among them. It sets the number of parameters."""
    return tuple(sorted(models, key=lambda m: m != "transformer"))


def plan(names: dict[str, str], lengths, train_steps: int, cell_seconds: float, machine: tuple[str, ...]) -> list[Part]:
    """The parts in order. names: {what --model says: label}, the baseline first.  machine: flags that every command has alike."""
    baseline = next(iter(names))
    parts = []
    for task, flags in TRAININGS.items():
        for model, label in names.items():
            parts.append(
                Part(
                    "training",
                    f"{task}-{label}",
                    (*training_words(task, model, baseline), "--max_steps", str(train_steps), *machine, *flags),
                    OVERHEAD_SECONDS + SECONDS[task] * train_steps,
                    task,
                    label,
                )
            )
    panel = (
        "speed",
        "--model",
        *names,
        "--lengths",
        ",".join(map(str, lengths)),
        "--match_params",
        baseline,
        "--cell_seconds",
        f"{cell_seconds:g}",
    )
    n_cells = len(names) * (4 * len(lengths) + 10)
    parts.append(
        Part("panels", "panels", (*panel, *machine, *PANEL_FLAGS), OVERHEAD_SECONDS + n_cells * (1 + cell_seconds))
    )
    for model, label in names.items():
        parts.append(
            Part(
                "profile",
                f"profile-{label}",
                (
                    "profile",
                    *training_words("tiny_shakespeare", model, baseline),
                    *PROFILE_FLAGS,
                    *machine,
                    *TRAININGS["tiny_shakespeare"],
                ),
                PROFILE_SECONDS,
                "tiny_shakespeare",
                label,
            )
        )
    return parts


def training_words(task: str, model: str, baseline: str) -> tuple[str, ...]:
    """The flags of `train` that say what is trained: small, and with the baseline's number of parameters."""
    return (
        "--task",
        task,
        "--model",
        model,
        "--preset",
        "small",
        *(("--match_params", baseline) if model != baseline else ()),
    )


class Clock:
    """The time left over all parts: a line before each. A part that is like one already run is expected to take as long."""

    def __init__(self, quiet: bool, clock: Callable[[], float] = time.perf_counter):
        self.quiet, self.clock, self.measured, self.waiting, self.total = quiet, clock, {}, [], 0

    def begin(self, parts: list[Part], done: list[Part]) -> None:
        self.total, self.waiting = len(parts), [p for p in parts if p not in done]
        if done:
            self._say(f"{len(done)} of {len(parts)} parts are finished and verified")

    def now(self, part: Part) -> None:
        self.started = self.clock()
        self._say(
            f"part {self.total - len(self.waiting) + 1} of {self.total}, {part.name}: about {time_words(self.left())} left over all parts"
        )

    def done(self, part: Part) -> None:
        self.measured.setdefault((part.kind, part.task), []).append((self.clock() - self.started) / part.seconds)
        self.waiting.remove(part)

    def left(self) -> float:
        """Seconds that the remaining parts may take: their guesses, times what parts of that kind and task took of theirs; else of any training."""
        every = [ratio for (kind, _), ratios in self.measured.items() if kind == "training" for ratio in ratios]
        total = 0.0
        for part in self.waiting:
            known = self.measured.get((part.kind, part.task)) or (every if part.kind == "training" else [])
            total += part.seconds * (sum(known) / len(known) if known else 1.0)
        return total

    def _say(self, text: str) -> None:
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)


def run_child(words: list[str], quiet: bool) -> int:
    """Run `benchmark.py` with these words in a process of its own, its output on stderr; the exit code. Ctrl-C ends it before it comes through."""
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
    """Wait for a child that was interrupted together with this process; tell one that was not."""
    for number in (None, signal.SIGINT, signal.SIGKILL):
        if number is not None:
            child.send_signal(number)
        try:
            child.wait(timeout=GRACE_SECONDS if number is None else 20 * GRACE_SECONDS)
            return
        except subprocess.TimeoutExpired:
            continue


class PartRecord(Record):
    """The record of a part, to look at."""

    def read(self) -> list[dict]:
        """The rows that are on disk; none where the part was not begun."""
        return self._read_rows() if self.exists else []


class Validation:
    """parts: of `plan`.  models: labels, the baseline first.  runner(words, quiet) -> exit code of a command.  machine: fields that all own rows have."""

    def __init__(self, parts: list[Part], models, record: Record, machine: dict, quiet: bool, runner=run_child):
        self.parts, self.models, self.record, self.machine, self.quiet, self.runner = (
            parts,
            tuple(models),
            record,
            machine,
            quiet,
            runner,
        )
        self.failed: dict[Part, str] = {}

    @property
    def baseline(self) -> str:
        return self.models[0]

    def folder(self, part: Part) -> Path:
        return self.record.path / part.folder

    def clear(self) -> None:
        """Of a new study: remove what an older one left in the parts' folders, as `--overwrite` of each part would."""
        for part in self.parts:
            if RunDir(self.folder(part)).exists:
                Record.create(str(self.folder(part)), overwrite=True)

    def run(self, clock: Clock) -> None:
        """Run every part that is not finished. One that fails has a row that says so, and the next one follows."""
        done = [part for part in self.parts if self.is_done(part)]
        clock.begin(self.parts, done)
        for part in self.parts:
            if part in done:
                continue
            clock.now(part)
            code = self.runner(self.command(part), self.quiet)
            if code == INTERRUPTED:
                raise KeyboardInterrupt
            if code not in (OK, DIVERGED):
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                self.failed[part] = f"{part.name} {how}"
            clock.done(part)

    def command(self, part: Part) -> list[str]:
        """The words that begin a part or go on with it. Records go on by themselves."""
        goes_on = part.kind == "training" and RunDir(self.folder(part)).exists
        return [*part.words, "--out_dir", str(self.folder(part)), *(["--resume"] if goes_on else [])]

    def is_done(self, part: Part) -> bool:
        """Whether a part came to its end; UserError where its files are not what it wrote."""
        if part.kind != "training":
            record = Record(self.folder(part))
            return record.exists and record.finished and bool(record.read_history())
        run_dir = RunDir(self.folder(part))
        if not (run_dir.exists and run_dir.finished):
            return False
        run, document = open_run(str(run_dir.path)), open_sealed(run_dir.metrics)
        for path in (run_dir.ckpt, *([run_dir.best] if document["best_step"] is not None else [])):
            load_checkpoint(run, path, "cpu")
        return True

    # What the parts say --------------------------------------------------------------------------------------------------------------------

    def conclude(self, compare: bool = True) -> dict:
        """Put the rows of all parts and of the verdicts into the record; returns what history.json holds beside them. Parts may be missing.

        compare: score the trained models once more, which takes seconds, to compare them item by item; without it their claims stay undecided.
        """
        self.record.rows = []
        self.record.results.write_bytes(b"")
        panels = []
        for part in self.parts:
            rows = [{**row, "model": part.model or row["model"]} for row in self.rows_of(part)]
            panels += rows if part.kind == "panels" else []
            self.record.add(*rows)
        findings = analyse(panels, self.models)
        documents = {(p.task, p.model): self._metrics(p) for p in self.parts if p.kind == "training"}
        trainings = {
            (p.task, p.model): self.outcome(p, documents[p.task, p.model]) for p in self.parts if p.kind == "training"
        }
        claims = judge(
            panels, findings, trainings, self.gaps(trainings, documents) if compare else {}, self.models, self.baseline
        )
        for claim in claims:
            self.record.add(*rows_of_claim(claim, self.machine))
        return {
            "claims": claims,
            "trainings": [{"task": t, "model": m, **vars(o)} for (t, m), o in trainings.items()],
            "failed": list(self.failed.values()),
            "parts": {p.folder: list(p.words) for p in self.parts},
            **findings,
        }

    def _metrics(self, part: Part) -> dict | None:
        run_dir = RunDir(self.folder(part))
        return open_sealed(run_dir.metrics) if run_dir.exists and run_dir.finished else None

    def rows_of(self, part: Part) -> list[dict]:
        """The rows of a part as far as it came, and one that says so where it failed."""
        failed = (
            []
            if part not in self.failed
            else [
                make_row(
                    "speed",
                    **self.machine,
                    panel="parts",
                    task=part.task or None,
                    model=part.model or None,
                    metric="part",
                    status="failed",
                    note=self.failed[part],
                )
            ]
        )
        if part.kind == "training":
            metrics = self._metrics(part)
            return (
                failed if metrics is None else [*rows_of(metrics, read_json(self.folder(part) / "env.json")), *failed]
            )
        rows = PartRecord(self.folder(part)).read()
        return [*(whole_cells(rows) if part.kind == "panels" else rows), *failed]

    def outcome(self, part: Part, metrics: dict | None) -> Outcome:
        """What came of a training."""
        if metrics is None:
            return Outcome("missing", why=self.failed.get(part, "this training was not finished"))
        known = {
            "steps": metrics["steps"],
            "seed": metrics["args"]["seed"],
            "parameters": metrics["parameters"]["total"],
            "source": metrics["data"]["source"],
            "diverged_at": metrics["diverged_at"],
        }
        floor = max(f["primary"] for f in metrics["floors"].values())
        if metrics["final_test"] is None:
            return Outcome(
                "diverged",
                metric=metrics["primary"],
                floor=floor,
                why=f"diverged at step {metrics['diverged_at']:,}",
                **known,
            )
        if metrics["kind"] == "language":
            return Outcome("done", metric="loss", value=metrics["final_test"]["loss"], **known)
        low, high = metrics["final_test"]["intervals"][metrics["primary"]]
        return Outcome(
            "done",
            metric=metrics["primary"],
            value=metrics["final_test"][metrics["primary"]],
            low=low,
            high=high,
            floor=floor,
            **known,
        )

    def gaps(self, trainings: dict, documents: dict) -> dict:
        """{(task, model): Gap of the model to the baseline, or why there is none}, scored anew, window by window and example by example."""
        found = {}
        for task in TASK_OF.values():
            ready = [m for m in self.models if (task, m) in trainings and trainings[task, m].status == "done"]
            if self.baseline not in ready:
                continue
            test, scores = None, {}
            for m in ready:
                if documents[task, m]["data"]["digest"] != documents[task, self.baseline]["data"]["digest"]:
                    found[task, m] = (
                        f"{m} and {self.baseline} were trained on different data ({documents[task, m]['data']['source']} and "
                        f"{documents[task, self.baseline]['data']['source']}); train them again with --overwrite"
                    )
                    continue
                run = open_run(str(self.record.path / f"{task}-{m}"))
                test = test or build_loaders(run.task_class(run.args), run.args)
                if test[2].facts.digest != documents[task, m]["data"]["digest"]:
                    found[task, m] = "the test text is no longer the one that was trained on"
                    continue
                scores[m] = score(run, test)
            is_share = trainings[task, self.baseline].metric != "loss"
            for m in scores.keys() - {self.baseline}:
                if self.baseline in scores:
                    found[task, m] = paired(scores[m][0], scores[self.baseline][0], scores[m][1], is_share)
        return found


def score(run, data) -> tuple[np.ndarray, np.ndarray]:
    """(what is bad, what it is counted over), each (n,) by window or example of the test set, of a run's best weights: nats, wrong labels or wrong answers."""
    tokenizer, loaders, meta = data
    task = meta.task
    device = torch.device(run.args.device)
    model = build_model(run.setup(), tokenizer, task, device)
    model.load_state_dict(load_checkpoint(run, run.run_dir.best, device)["model"])
    among = (
        torch.from_numpy(tokenizer.encode(task.score_among).astype(np.int64)).to(device) if task.score_among else None
    )
    scored = teacher_forced(model, loaders["test"], device, run.args, among)
    _, index = np.unique(scored.row, return_inverse=True)
    counts = np.bincount(index).astype(float)
    if task.reads_text:
        return np.bincount(index, weights=scored.nll), counts
    if task.primary == "token_acc":
        return np.bincount(index, weights=~scored.correct), counts
    exact = rows_all_correct(scored.correct, scored.row)
    return np.array([1.0 - exact[row] for row in sorted(exact)]), np.ones(len(exact))
