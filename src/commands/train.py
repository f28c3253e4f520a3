"""`benchmark.py [train]`: train, evaluate on val and test, sample, plot. --resume, --eval_only and --vis_only act on an existing run."""

from __future__ import annotations

import dataclasses
import shlex
import sys
import time

from src import registry
from src.cli import first_look, parser_for
from src.config import UserError

SHORT_LENGTHS = 8


def main(argv: list[str]) -> int:
    seen = first_look(argv)
    if seen.help:
        return print_help(seen)
    if seen.vis_only:
        from src.commands import visualize

        return visualize.main(argv)
    if seen.eval_only:
        from src.commands import evaluate

        return evaluate.main(argv)
    from src.utils import distributed

    world = distributed.join()
    try:
        return resume(argv, seen, world) if seen.resume else start(argv, world)
    finally:
        distributed.leave()


def print_help(seen) -> int:
    """Help of the chosen task and model; their files (and torch, for a model) are imported only when they are named."""
    from src.presets import settings, task_of
    from src.runs import find_model, find_task

    task_name = task_of(seen.preset, seen.task)
    task_class = find_task(task_name) if task_name else None
    model_class = find_model(seen.model, seen.layers) if seen.model else None
    defaults, note = None, ""
    if task_class is not None:
        name, defaults = settings(seen.preset or "small", task_class, "cpu")
        note = f"Defaults in brackets are those of --preset {name} for this task."
    parser_for(task_class, model_class, defaults, note).print_help()
    return 0


def start(argv: list[str], world) -> int:
    """A new run: everything that can be wrong is found before the first file is written."""
    began = time.perf_counter()
    from src.runs import build_model, plan, settle_model, try_own_model
    from src.utils import env
    from src.utils.rundir import RunDir, seal, write_json

    setup, request = plan(argv, world.local_rank)
    if len(request.out_dirs) > 1:
        raise UserError(f"--out_dir: got {len(request.out_dirs)} folders, allowed: one (several only with --vis_only)")
    if request.control.figures:
        raise UserError("--figures: only goes with --vis_only")
    device = env.resolve_device(setup.args.device)
    on_main(world, lambda: RunDir.check(request.control.out_dir, request.control.overwrite))
    task, tokenizer, loaders, task_meta = build_data(setup)
    check_batches(setup.args, task, loaders)
    check_lengths(setup.args, task, tokenizer)
    setup, matched = settle_model(setup, tokenizer, task)
    backends = check_backends(setup, device)
    model = build_model(setup, tokenizer, task, device)
    try_own_model(setup.args.model, model, tokenizer, loaders["val"], device)
    setup, warnings = admit(setup, model, tokenizer, device)
    run_dir = create_run_dir(request, world)
    try:
        if world.is_main:
            write_json(run_dir.config, seal(setup.config()))
            write_json(run_dir.env, environment(setup, device, backends, task_meta))
            tokenizer.save(run_dir.vocab)
        reporter = make_reporter(request.control, world, run_dir)
        announce(reporter, setup, backends, task_meta["data"], [*matched, *warnings])
        return finish(setup, model, loaders, task_meta, device, run_dir, world, reporter, began, None)
    finally:
        run_dir.release()


def resume(argv: list[str], seen, world) -> int:
    """Continue a run from its last checkpoint; a finished one is verified and left alone."""
    began = time.perf_counter()
    from src.cli import read_request
    from src.runs import Setup, build_model, load_checkpoint, open_run, set_threads
    from src.utils import env
    from src.utils.rundir import write_json

    run = open_run(one_out_dir(seen))
    request = read_request(argv, run.task_class, run.model_class)
    same_as_stored(request, run)
    if run.run_dir.finished:
        return report_finished(run, make_reporter(request.control, world), world)
    set_threads(run.args.threads)
    device = env.resolve_device(run.args.device)
    setup = Setup(run.args, run.config["explicit"], run.task_class, run.model_class, run.config["preset"], run.config["precision_reason"])
    on_main(world, run.run_dir.acquire)
    try:
        if world.share(run.run_dir.finished):  # by another process, between the first look and the lock
            return report_finished(run, make_reporter(request.control, world), world)
        task, tokenizer, loaders, task_meta = build_data(setup)
        model = build_model(setup, tokenizer, task, device)
        payload = load_checkpoint(run, run.run_dir.ckpt, device) if run.run_dir.ckpt.exists() else None
        check_same_data(run.run_dir, task_meta)
        if world.is_main:
            run.run_dir.clean()
            if not run.run_dir.env.exists():
                write_json(run.run_dir.env, environment(setup, device, check_backends(setup, device), task_meta))
            tokenizer.save(run.run_dir.vocab)
            run.run_dir.truncate_log(payload["step"] if payload else 0)
        reporter = make_reporter(request.control, world, run.run_dir)
        reporter.say(f"resuming {run.run_dir.path} at step {payload['step'] if payload else 0}")
        return finish(setup, model, loaders, task_meta, device, run.run_dir, world, reporter, began, payload)
    finally:
        run.run_dir.release()


def report_finished(run, reporter, world) -> int:
    """Verify a finished run and say so."""
    verify(run)
    reporter.say("this run is finished; its metrics and checkpoints are verified and intact")
    if world.is_main:
        print(run.run_dir.path)
    return 0


def finish(setup, model, loaders, task_meta, device, run_dir, world, reporter, began, payload) -> int:
    """Train, evaluate, sample, plot; the exit code."""
    from src.utils import results, training, viz
    from src.utils.rows import rows_of, to_jsonl
    from src.utils.rundir import read_json, seal, write_atomic, write_json
    from src.utils.schema import validate

    try:
        fit = training.fit(model, loaders, task_meta, setup.args, device, run_dir, world, reporter, payload)
        reporter.close()
        reporter.say("evaluating the best and the last weights ...")
        document, samples = results.final_metrics(fit, setup, world, time.perf_counter() - began)
        if world.is_main:
            write_atomic(run_dir.samples, samples.encode())
            document = seal(document)
            validate(document)
            viz.draw_all(document, run_dir.figures)
            repeatable = {k: v for k, v in document.items() if k != "machine"}  # times differ from run to run, and these bytes must not
            write_atomic(run_dir.results, to_jsonl(rows_of(repeatable, read_json(run_dir.env))))
            write_json(run_dir.metrics, document)  # last, because it marks the run as finished
    except (training.Interrupted, KeyboardInterrupt):
        reporter.close()
        if world.is_main:
            print(f"interrupted; continue with: python {shlex.quote(sys.argv[0])} --resume --out_dir {shlex.quote(str(run_dir.path))}", file=sys.stderr)
        return 130
    if world.is_main:
        if not reporter.quiet:
            print(results.summary(document))
        print(run_dir.path)
    return 3 if document["status"] == "diverged" else 0


def build_data(setup):
    from dataset.common import build_loaders, parse_lengths
    from src.runs import blaming

    with blaming("task", setup.args.task):
        task = setup.task_class(setup.args)
        parse_lengths(task, setup.args.eval_lengths)
        return (task, *build_loaders(task, setup.args))


def check_batches(args, task, loaders) -> None:
    """UserError for a batch that holds no sequence, or a run without end."""
    from src.utils.training import total_steps

    if args.batch_chars and args.batch_chars < task.max_tokens():
        raise UserError(f"--batch_chars: got {args.batch_chars}, allowed: at least the longest sequence, {task.max_tokens()} characters")
    total_steps(args, loaders["train"])


def check_lengths(args, task, tokenizer) -> None:
    """UserError for a training or --eval_lengths length at which the task has too few examples; found now, not at the end of the run."""
    from dataset.base import draw_train, stream
    from dataset.common import length_loader, parse_lengths
    from src.runs import blaming

    with blaming("task", args.task):
        for length in parse_lengths(task, args.eval_lengths):
            length_loader(task, tokenizer, args, length)
        low, high = task.lengths or (1, 0)
        for length in range(low, min(high, low + SHORT_LENGTHS) + 1):  # longer ones have more keys than can all be held out
            draw_train(task, 1, length, stream(task, "lengths", args.seed))


def environment(setup, device, backends: dict, task_meta) -> dict:
    """The content of env.json: the machine, the choices made on it, and which data this is."""
    from src.utils import env

    collected = env.collect(setup.args, device, (setup.args.precision, setup.precision_reason), backends)
    return {**collected, "data": {k: task_meta["data"][k] for k in ("digest", "source")}}


def check_backends(setup, device) -> dict:
    """Which backend computes each op of the model and why; UserError where --backend names what cannot run here."""
    from src.models.base import ops_of
    from src.ops.backends import choices

    return choices(ops_of(setup.model_class, setup.args), setup.args, device)


def admit(setup, model, tokenizer, device) -> tuple:
    """(setup, lines to print) after a quick look at a layer of the user's own file: does it see the future, and does `step` equal `forward`?

    One that sees the future is a UserError without --allow_noncausal; the setup's allow_noncausal is then true only where it is needed.
    """
    allowed = setup.args.allow_noncausal
    causal = dataclasses.replace(setup, args=dataclasses.replace(setup.args, allow_noncausal=False))
    if not registry.is_path(setup.args.model):
        return causal, []
    from src.checks import quick, sees_the_future

    results = quick(model, len(tokenizer), device)
    leaks = sees_the_future(results)
    if leaks and not allowed:
        raise UserError(f"--model: '{setup.args.model}' is not causal ({leaks[0].name}: {leaks[0].note}); see `benchmark.py check --model "
                        f"{setup.args.model}`, or give --allow_noncausal, which is then written on every figure")
    if leaks:
        return setup, [f"warning: {setup.args.model} sees the future ({leaks[0].name}: {leaks[0].note}); its scores say nothing about prediction"]
    broken = [r for r in results if r.status == "fail"]
    return causal, [f"warning: {r.name} fails ({r.note}): decoded answers and samples will be wrong; see `benchmark.py check`" for r in broken[:1]]


def create_run_dir(request, world):
    """Rank 0 creates and locks the directory; the others learn its path."""
    from src.utils.rundir import RunDir

    def create():
        made = RunDir.create(request.control.out_dir, overwrite=request.control.overwrite)
        made.acquire()
        return made

    made = on_main(world, create)
    path = world.share(made and str(made.path))
    return made or RunDir(path)


def on_main(world, action):
    """Do something on rank 0 alone and return its result there; its UserError is raised on every rank, so that none waits for another."""
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


def make_reporter(control, world, run_dir=None):
    from src.utils.reporter import Reporter

    log = control.log if run_dir is not None and world.is_main else "none"
    return Reporter(control.quiet or not world.is_main, log, run_dir and run_dir.path / "tensorboard")


def announce(reporter, setup, backends, data, lines) -> None:
    """The resolved values, in one short paragraph."""
    from src.config import to_dict

    shown = {k: v for k, v in to_dict(setup.args).items() if v not in ("", [])}
    reporter.say(f"preset {setup.preset}: " + " ".join(f"{k}={v}" for k, v in shown.items()))
    kernels = "".join(f"; {op}: {c['backend']} ({c['reason']})" for op, c in backends.items())
    reporter.say(f"precision {setup.args.precision}: {setup.precision_reason}{kernels}")
    if data["source"]:
        reporter.say(f"text: {data['source']}, SHA-256 {data['digest']}; evaluated over consecutive windows, each starting without memory")
    for line in lines:
        reporter.say(line)
    if "n_head" in setup.explicit and not setup.model_class.has_heads:
        reporter.say(f"notice: --n_head is ignored, {setup.model_class.__name__} has no heads")


def one_out_dir(seen) -> str:
    if len(seen.out_dir) > 1:
        raise UserError(f"--out_dir: got {len(seen.out_dir)} folders, allowed: exactly one, that of an existing run")
    return seen.out_dir[0] if seen.out_dir else ""  # opening nothing is an error that names the latest run


def same_as_stored(request, run) -> None:
    """UserError where a flag typed beside --resume differs from the stored run."""
    if request.control.overwrite:
        raise UserError("--resume and --overwrite contradict each other; give one")
    if request.control.preset not in ("auto", run.config["preset"]):
        raise UserError(f"--preset: got '{request.control.preset}', but this run was started with '{run.config['preset']}'; --resume changes nothing")
    if request.control.figures:
        raise UserError("--figures: only goes with --vis_only")
    for name, value in request.explicit.items():
        if not is_stored(name, value, run):
            raise UserError(f"--{name}: got {value}, but this run was started with {run.config['args'][name]}; --resume changes nothing, leave the flag out")


def is_stored(name: str, value, run) -> bool:
    """Whether a flag's value is the one that the run was started with, as it was typed or as it was resolved."""
    value = list(value) if isinstance(value, tuple) else value
    typed = run.config["explicit"].get(name, "auto")  # nobody typed it: `auto` would have given the same
    return value in (run.config["args"][name], typed)


def check_same_data(run_dir, task_meta) -> None:
    """UserError where a run would go on with other data than it began with: a text that changed, or a task's code."""
    from src.utils.rundir import read_json

    if run_dir.env.exists():
        then, now = read_json(run_dir.env)["data"]["digest"], task_meta["data"]["digest"]
        if then != now:
            raise UserError(f"--out_dir: the data of '{run_dir.path}' has changed since it was started (SHA-256 {then[:12]}..., now {now[:12]}...); "
                            "restore the text or the task's file, or train anew with --overwrite")


def verify(run) -> None:
    """UserError where a finished run's files are not what was written."""
    from src.runs import load_checkpoint
    from src.utils.rundir import open_sealed

    document = open_sealed(run.run_dir.metrics)
    for path in (run.run_dir.ckpt, *([run.run_dir.best] if document["best_step"] is not None else [])):
        load_checkpoint(run, path, "cpu")

