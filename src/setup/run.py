"""The course of a run: training, evaluation, samples and figures in its directory, on one process or on several.

`train` and `--resume` open a session, build a model, and then both call `carry_out`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TypeVar

from src.figures import runs as run_figures
from src.flags.fields import UserError
from src.flags.groups import ControlConfig
from src.flags.hints import resuming
from src.flags.parser import Request
from src.models.contract import ARModel
from src.ops import ran
from src.setup.code import Code
from src.setup.log import changed
from src.storage.env import open_env, write_env
from src.storage.rows import rows_of, to_jsonl
from src.storage.rundir import RunDir, seal, write_atomic, write_json
from src.storage.schema import validate
from src.utils import results, training
from src.utils.distributed import World
from src.utils.launch import ProcessLost, launcher
from src.utils.load import busy_line
from src.utils.reporter import Reporter
from src.utils.session import Session
from src.utils.summary import summary

T = TypeVar("T")


def carry_out(
    session: Session, model: ARModel, run_dir: RunDir, reporter: Reporter, began: float, payload: dict | None = None
) -> int:
    """Train, evaluate, sample and draw. Returns the exit code: 0, 3 after a divergence, 130 after an interruption.

    began: `time.perf_counter()` at the start of the command.  payload: that of the checkpoint to continue from.
    """
    main = session.world.is_main
    if session.device.type == "cpu" and (busy := busy_line(session.args.threads * session.world.size)):
        reporter.say(busy)
    try:
        with ran.recording() as seen:
            fit = training.fit(model, session, run_dir, reporter, payload)
            reporter.close()
            on_main(session.world, lambda: check_log(run_dir))
            reporter.say("evaluating the best and the last weights ...")
            document, samples, items = results.final_metrics(fit, began)
            for name, why in document["failed"].items():
                reporter.say(f"warning: {name} {why}; the scores are complete")
        if main:
            record_backends(run_dir, seen)
            document = seal(with_code(document, run_dir))
            write_results(document, samples, items, run_dir)
    except (training.Interrupted, KeyboardInterrupt):
        reporter.close()
        if main:
            print(f"interrupted; continue with: {resuming(run_dir.path)}", file=sys.stderr)
        return 130
    except ProcessLost as error:
        reporter.close()
        again = resuming(run_dir.path, starter=launcher())
        raise ProcessLost(f"{error}; continue with: {again}", error.is_first) from error
    if main:
        if not reporter.quiet:
            print(summary(document))
        print(run_dir.path)
    return 3 if document["status"] == "diverged" else 0


def check_log(run_dir: RunDir) -> None:
    """UserError where metrics.jsonl is not what this process logged. Nothing is sealed that was not measured."""
    if problem := run_dir.training_log.problem():
        raise changed(run_dir, problem)


def record_backends(run_dir: RunDir, seen: ran.Seen) -> None:
    """Put what ran in the place of what was chosen, in env.json. A second time changes nothing."""
    env = open_env(run_dir.env)
    chosen = env.setdefault("chosen_backends", env["backends"])
    write_env(run_dir.env, {**env, "backends": ran.described(chosen, seen)})


def record_code(run_dir: RunDir, code: Mapping[str, Code], step: int) -> None:
    """Note in env.json that the run goes on from this step with another version of a user's file."""
    found = [
        {"kind": kind, "sha256": c.sha256, "from_step": step} for kind, c in code.items() if c.version == "another"
    ]
    if found:
        env = open_env(run_dir.env)
        write_env(run_dir.env, {**env, "other_code": [*env.get("other_code", []), *found]})


def with_code(document: dict, run_dir: RunDir) -> dict:
    """metrics.json with the versions of a user's files that the run went on with, and a note about each."""
    other = open_env(run_dir.env).get("other_code")
    if not other:
        return document
    notes = [
        f"after step {c['from_step']} the run went on with another version of its {c['kind']} file "
        f"(SHA-256 {c['sha256'][:12]}...)"
        for c in other
    ]
    return {**document, "other_code": other, "notes": [*document["notes"], *notes]}


def write_results(document: dict, samples: str, items: dict, run_dir: RunDir) -> None:
    """Write samples, test items, figures, rows and metrics.json.

    metrics.json comes last, because it marks the run as finished.
    """
    write_atomic(run_dir.samples, samples.encode())
    write_json(run_dir.items, items)
    validate(document)
    run_figures.draw_all(document, run_dir.figures)
    # The rows have no times: an equal run must write equal bytes.
    repeatable = {k: v for k, v in document.items() if k != "machine"}
    write_atomic(run_dir.results, to_jsonl(rows_of(repeatable, open_env(run_dir.env))))
    write_json(run_dir.metrics, document)


def create_run_dir(request: Request, world: World) -> RunDir:
    """Create and lock the run directory on rank 0. The other ranks learn its path."""

    def create() -> RunDir:
        made = RunDir.create(request.control.out_dir, overwrite=request.control.overwrite)
        made.acquire()
        return made

    made = on_main(world, create)
    path = world.share(made and str(made.path))
    return made or RunDir(path)


def on_main(world: World, action: Callable[[], T]) -> T | None:
    """Call `action` on rank 0 only, and return its result there.

    A UserError of rank 0 is raised on every rank, so that no rank waits for one that has stopped.
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


def make_reporter(control: ControlConfig, world: World, run_dir: RunDir | None = None) -> Reporter:
    """The reporter of this rank. Only rank 0 prints, and it writes for TensorBoard where there is a run directory."""
    log = control.log if run_dir is not None and world.is_main else "none"
    return Reporter(control.quiet or not world.is_main, log, run_dir and run_dir.path / "tensorboard")
