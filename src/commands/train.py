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
    from src.checks.admission import check_user_model
    from src.models.fair import block_words
    from src.models.state import refuse_opaque
    from src.setup.code import keep
    from src.setup.plan import build_model, plan, resolve_model
    from src.setup.run import carry_out, create_run_dir, make_reporter, on_main
    from src.setup.session import check_backends, check_batches, check_lengths, environment, open_session, with_args
    from src.setup.trial import try_own_model
    from src.storage import env
    from src.storage.notes import no_score
    from src.storage.rundir import RunDir, seal, write_json
    from src.utils.results import why_undefined

    setup, request = plan(argv, world.local_rank)
    if len(request.out_dirs) > 1:
        raise UserError(f"--out_dir: got {len(request.out_dirs)} folders, allowed: one (several only with --vis_only)")
    if request.control.figures:
        raise UserError("--figures: only goes with --vis_only")
    if request.control.allow_code:
        raise UserError("--allow_code: only goes with --resume, --eval_only and generate; leave it out")
    device = env.resolve_device(setup.args.device)
    if setup.args.compile:
        env.check_compiler(device)
    on_main(world, lambda: RunDir.check(request.control.out_dir, request.control.overwrite))
    session = open_session(setup, device, world)
    check_batches(session)
    tokens = check_lengths(session)
    setup, matched = resolve_model(setup, session.tokenizer, session.task)
    backends = check_backends(setup, device)
    model = build_model(setup, session.tokenizer, session.task, device)
    check_longest(model, session.task, setup.args)
    try_own_model(setup.args, model, session.tokenizer, session.loaders["val"], device)
    refuse_opaque(model)
    setup, warnings = check_user_model(setup, model, session.tokenizer, device, session.task, tokens.values())
    session = with_args(session, setup)
    run_dir = create_run_dir(request, world)
    try:
        if world.is_main:
            keep(run_dir, setup.args)
            write_json(run_dir.config, seal(setup.config()))
            write_json(run_dir.env, environment(setup, session, backends))
            session.tokenizer.save(run_dir.vocab)
        reporter = make_reporter(request.control, world, run_dir)
        announce(reporter, setup, backends, session.data, run_dir)
        reporter.say(f"block: {block_words(setup.model_class, setup.args)}")
        unscored = [f"notice: {note}" for note in no_score({n: why_undefined(model, t) for n, t in tokens.items()})]
        ignored = ignored_lines(setup, len(session.tokenizer))
        for line in (*matched, *fair_lines(model, setup.args), *ignored, *warnings, *unscored):
            reporter.say(line)
        return carry_out(session, model, run_dir, reporter, began)
    finally:
        run_dir.release()


def check_longest(model, task, args) -> None:
    """UserError for a model that can take fewer tokens than the task feeds."""
    fed = task.max_tokens() if task.reads_text else task.max_tokens() - 1  # the <eos> of an example is never fed
    if model.max_len is not None and model.max_len < fed:
        raise UserError(
            f"--model: {model.limit()} are too few for --task {args.task}, which feeds {fed}; lower --context_len or "
            "--max_len, or raise max_len in the layer"
        )


def fair_lines(model, args) -> list[str]:
    """One line if --fair could not make everything equal."""
    from src.models.fair import fair_differences

    found = fair_differences(model, args)
    return [f"notice: --fair leaves these differences: {'; '.join(found)}"] if found else []


def ignored_lines(setup, vocab_size: int) -> list[str]:
    """One line about typed flags of the block that a whole model does not read: they change nothing."""
    from src.models.contract import ARModel
    from src.models.fair import BLOCK_FLAGS, unread

    typed = [name for name in BLOCK_FLAGS if name in setup.explicit]
    if not typed or not issubclass(setup.model_class, ARModel):
        return []
    ignored = unread(setup.model_class, vocab_size, setup.args, typed)
    found = ", ".join("--no_bias" if name == "bias" else f"--{name}" for name in ignored)
    whole = f"{setup.model_class.__name__} is a whole model, which has no block of the bench and does not read them"
    return [f"notice: {found} change{'s' * (',' not in found)} nothing: {whole}"] if found else []


def announce(reporter, setup, backends: dict[str, dict], data, run_dir) -> None:
    """What this run is, in a few lines: the preset and what was typed, the precision and the backends, the text."""
    typed = " ".join(f"--{k} {as_text(v)}" for k, v in setup.explicit.items())
    reporter.say(f"preset {setup.preset}, with {typed}; all flags: {run_dir.config}")
    kernels = "".join(f"; {op}: {c['backend']} ({c['reason']})" for op, c in backends.items())
    reporter.say(f"precision {setup.args.precision}: {setup.precision_reason}{kernels}")
    if data.facts.source:
        reporter.say(f"text: {data.facts.source}, SHA-256 {data.facts.digest}")
        for line in data.task.about:
            reporter.say(line)
        reporter.say(
            "evaluation: consecutive windows of the text, each starting without memory; all characters but the first "
            "are scored"
        )
    if "d_conv" in setup.explicit and (setup.args.fair or setup.args.short_conv >= 0):
        reporter.say("notice: --d_conv is ignored, because --fair or --short_conv decides about the convolution")
    if "n_head" in setup.explicit and not setup.model_class.has_heads:
        reporter.say(f"notice: --n_head is ignored, {setup.model_class.__name__} has no heads")
