"""The course of a run: training, evaluation, samples and figures in its directory, on one process or on several.

`train` and `--resume` open a session, build a model, and then both call `carry_out`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from src.figures import runs as run_figures
from src.flags.fields import UserError
from src.flags.groups import ControlConfig
from src.flags.hints import resuming
from src.flags.kinds import as_text
from src.flags.parser import Request
from src.models.contract import ARModel
from src.ops import ran
from src.ops.choices import in_words
from src.setup.code import Code, keep
from src.setup.log import changed
from src.setup.plan import Setup
from src.setup.session import environment, write_vocabulary
from src.storage.checkpoint import set_random_state
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
from src.utils.together import Member, train_together

T = TypeVar("T")


class HasBegun(Protocol):
    """What `write_beginning` reads: `prepare` returns it (src/checks/ready.py)."""

    setup: Setup
    session: Session
    backends: dict[str, dict]


def carry_out(
    session: Session, model: ARModel, run_dir: RunDir, reporter: Reporter, began: float, payload: dict | None = None
) -> int:
    """Train, evaluate, sample and draw. Returns the exit code: 0, 3 after a divergence, 130 after an interruption.

    began: `time.perf_counter()` at the start of the command.  payload: that of the checkpoint to continue from.
    """
    main = session.world.is_main
    say_busy(session, reporter)
    try:
        with ran.recording() as seen:
            fit = training.fit(model, session, run_dir, reporter, payload)
            document = conclude(fit, seen, reporter, began)
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
        tell(document, run_dir, reporter)
    return 3 if document["status"] == "diverged" else 0


def conclude(fit: training.Fit, seen: ran.Seen, reporter: Reporter, began: float) -> dict:
    """Evaluate a training that has ended, and write its results. Returns the content of metrics.json.

    seen: of the recording that the training and this call belong to.
    """
    run_dir, world = fit.run_dir, fit.world
    reporter.close()
    on_main(world, lambda: check_log(run_dir))
    reporter.say("evaluating the best and the last weights ...")
    document, samples, items = results.final_metrics(fit, began)
    for name, why in document["failed"].items():
        reporter.say(f"warning: {name} {why}; the scores are complete")
    if world.is_main:
        record_backends(run_dir, seen)
        document = seal(with_code(document, run_dir))
        write_results(document, samples, items, run_dir)
    return document


def say_busy(session: Session, reporter: Reporter) -> None:
    """Say it where other programs leave too few processors for a run on a CPU."""
    processes = session.world.size
    if session.device.type == "cpu" and not reporter.quiet:
        if line := busy_line(session.args.threads * processes, processes):
            reporter.say(line)


def tell(document: dict, run_dir: RunDir, reporter: Reporter) -> None:
    """Print the summary of a run, and its directory."""
    if not reporter.quiet:
        print(summary(document))
    print(run_dir.path)


def carry_out_together(members: Sequence[Member], began: float) -> int:
    """`carry_out` of several seeds at once. Returns 3 where a seed has diverged, 130 after an interruption, else 0.

    A seed that an interruption leaves unfinished goes on as a single run.
    """
    codes = set()
    try:
        with ran.recording() as trained:
            train_together(members)
        for member in members:
            with ran.recording() as seen:
                ran.restore(trained)
                set_random_state(member.random)
                document = conclude(member, seen, member.reporter, began)
            tell(document, member.run_dir, member.reporter)
            codes.add(3 if document["status"] == "diverged" else 0)
    except (training.Interrupted, KeyboardInterrupt):
        for member in members:
            member.reporter.close()
            if not member.run_dir.finished:
                print(f"interrupted; continue with: {resuming(member.run_dir.path)}", file=sys.stderr)
        return 130
    return max(codes)


def write_beginning(run_dir: RunDir, ready: HasBegun, **noted) -> None:
    """Write what a run directory has before the first step. noted: more for env.json."""
    setup, session = ready.setup, ready.session
    keep(run_dir, setup.args)
    if setup.source:
        setup.source.keep(run_dir)
    write_json(run_dir.config, seal(setup.config()))
    write_env(run_dir.env, {**environment(setup, session, ready.backends), **noted})
    write_vocabulary(session, run_dir)


def announce(reporter, setup, backends: dict[str, dict], data, run_dir) -> None:
    """What this run is, in a few lines: the preset and what was typed, the precision and the backends, the text."""
    typed = " ".join(f"--{k} {as_text(v)}" for k, v in setup.explicit.items())
    reporter.say(f"preset {setup.preset}, with {typed}; all flags: {run_dir.config}")
    kernels = f"; {in_words(backends)}" if backends else ""
    reporter.say(f"precision {setup.args.precision}: {setup.precision_reason}{kernels}")
    if data.facts.source:
        reporter.say(f"text: {data.facts.source}, SHA-256 {data.facts.digest}")
        for line in data.task.about:
            reporter.say(line)
        reporter.say(f"evaluation: {data.task.protocol}")
    if "d_conv" in setup.explicit and (setup.args.fair or setup.args.short_conv >= 0):
        reporter.say("notice: --d_conv is ignored, because --fair or --short_conv decides about the convolution")
    if "n_head" in setup.explicit and not setup.model_class.has_heads:
        reporter.say(f"notice: --n_head is ignored, {setup.model_class.__name__} has no heads")


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


def make_reporter(control: ControlConfig, world: World, run_dir: RunDir | None = None, prefix: str = "") -> Reporter:
    """The reporter of this rank. Only rank 0 prints, and it writes for TensorBoard where there is a run directory.

    prefix: begins each line, where several runs report at once.
    """
    log = control.log if run_dir is not None and world.is_main else "none"
    return Reporter(control.quiet or not world.is_main, log, run_dir and run_dir.path / "tensorboard", prefix)
