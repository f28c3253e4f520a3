"""Carrying a run out: its directory and lock, training, evaluation, samples and figures."""

from __future__ import annotations

import shlex
import sys
import time

from src.figures import runs as run_figures
from src.flags.fields import UserError
from src.storage.rows import rows_of, to_jsonl
from src.storage.rundir import RunDir, read_json, seal, write_atomic, write_json
from src.storage.schema import validate
from src.utils import results, training
from src.utils.reporter import Reporter
from src.utils.session import Session
from src.utils.summary import summary


def carry_out(
    session: Session, model, run_dir: RunDir, reporter: Reporter, began: float, payload: dict | None = None
) -> int:
    """Train, evaluate, sample, plot; returns the exit code.

    began: `time.perf_counter()` at the start of the command.  payload: that of the checkpoint to go on from.
    """
    main = session.world.is_main
    try:
        fit = training.fit(model, session, run_dir, reporter, payload)
        reporter.close()
        reporter.say("evaluating the best and the last weights ...")
        document, samples = results.final_metrics(fit, time.perf_counter() - began)
        if main:
            document = seal(document)
            write_results(document, samples, run_dir)
    except (training.Interrupted, KeyboardInterrupt):
        reporter.close()
        if main:
            words = ["python", sys.argv[0], "--resume", "--out_dir", str(run_dir.path)]
            print(f"interrupted; continue with: {shlex.join(words)}", file=sys.stderr)
        return 130
    if main:
        if not reporter.quiet:
            print(summary(document))
        print(run_dir.path)
    return 3 if document["status"] == "diverged" else 0


def write_results(document: dict, samples: str, run_dir: RunDir) -> None:
    """Samples, figures and rows, then metrics.json, because that file marks the run as finished."""
    write_atomic(run_dir.samples, samples.encode())
    validate(document)
    run_figures.draw_all(document, run_dir.figures)
    repeatable = {
        k: v for k, v in document.items() if k != "machine"
    }  # times differ from run to run, and these bytes must not
    write_atomic(run_dir.results, to_jsonl(rows_of(repeatable, read_json(run_dir.env))))
    write_json(run_dir.metrics, document)


def create_run_dir(request, world) -> RunDir:
    """Rank 0 creates and locks the directory; the others learn its path."""

    def create():
        made = RunDir.create(request.control.out_dir, overwrite=request.control.overwrite)
        made.acquire()
        return made

    made = on_main(world, create)
    path = world.share(made and str(made.path))
    return made or RunDir(path)


def on_main(world, action):
    """Do something on rank 0 alone and return its result there.

    Its UserError is raised on every rank, so that none waits for another.
    """
    result = error = None
    if world.is_main:
        try:
            result = action()
        except UserError as caught:
            error = str(caught)
    error = world.share(error)
    if error:
        raise UserError(error)
    return result


def make_reporter(control, world, run_dir: RunDir | None = None) -> Reporter:
    """The reporter of this rank: only rank 0 prints, and logs where there is a run directory."""
    log = control.log if run_dir is not None and world.is_main else "none"
    return Reporter(control.quiet or not world.is_main, log, run_dir and run_dir.path / "tensorboard")
