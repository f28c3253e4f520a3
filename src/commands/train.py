"""`benchmark.py [train]`: train, evaluate on val and test, sample, plot."""

from __future__ import annotations

import time

from src.flags.fields import UserError
from src.flags.kinds import as_text
from src.flags.parser import first_look, parser_for


def main(argv: list[str]) -> int:
    seen = first_look(argv)
    if seen.help:
        return print_help(seen)
    from src.utils import distributed

    with distributed.joined() as world:
        return train(argv, world)


def print_help(seen) -> int:
    """Help of the chosen task and model; their files (and torch, for a model) are imported only when they are named."""
    from src.flags.presets import settings, task_of
    from src.setup.classes import find_model, find_task

    task_name = task_of(seen.preset, seen.task)
    task_class = find_task(task_name) if task_name else None
    model_class = find_model(seen.model, seen.layers) if seen.model else None
    defaults, note = None, ""
    if task_class is not None:
        models = (seen.model or "", *seen.layers)
        name, defaults = settings(seen.preset or "small", task_class, "cpu", models)
        note = f"Defaults in brackets are those of --preset {name} for this task."
    parser_for(task_class, model_class, defaults, note).print_help()
    return 0


def train(argv: list[str], world) -> int:
    """A new run: everything that can be wrong is found before the first file is written."""
    began = time.perf_counter()
    from src.checks.ready import prepare
    from src.setup.plan import plan
    from src.setup.run import carry_out, create_run_dir, make_reporter, on_main, write_beginning
    from src.storage.rundir import RunDir

    setup, request = plan(argv, world.local_rank)
    if request.control.seeds_at_once > 1:
        from src.commands.seeds import train_seeds

        return train_seeds(setup, request, world, began)
    check_control(request)
    on_main(world, lambda: RunDir.check(request.control.out_dir, request.control.overwrite))
    ready = prepare(setup, world)
    setup, session = ready.setup, ready.session
    run_dir = create_run_dir(request, world)
    try:
        if world.is_main:
            write_beginning(run_dir, ready)
        reporter = make_reporter(request.control, world, run_dir)
        announce(reporter, setup, ready.backends, session.data, run_dir)
        for line in ready.lines:
            reporter.say(line)
        return carry_out(session, ready.model, run_dir, reporter, began)
    finally:
        run_dir.release()


def check_control(request) -> None:
    """UserError for flags that only go with another way to call the command."""
    if len(request.out_dirs) > 1 and request.control.seeds_at_once == 1:
        raise UserError(f"--out_dir: got {len(request.out_dirs)} folders, allowed: one (several only with --vis_only)")
    if request.control.figures:
        raise UserError("--figures: only goes with --vis_only")
    if request.control.allow_code:
        raise UserError("--allow_code: only goes with --resume, --eval_only and generate; leave it out")
    if request.control.from_checkpoint_log:
        raise UserError("--from_checkpoint_log: only goes with --resume; add that, or leave it out")


def announce(reporter, setup, backends: dict[str, dict], data, run_dir) -> None:
    """What this run is, in a few lines: the preset and what was typed, the precision and the backends, the text."""
    from src.ops.choices import in_words

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
