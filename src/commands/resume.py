"""`--resume --out_dir R`: continue a run from its last checkpoint; a finished one is verified and left alone.

With --from_checkpoint_log the log is first written again from the copy that the checkpoint holds.
"""

from __future__ import annotations

import time

from src.flags.parser import first_look, read_request


def main(argv: list[str]) -> int:
    from src.utils import distributed

    with distributed.joined() as world:
        return resume(argv, world)


def resume(argv: list[str], world) -> int:
    """Check that the flags and the data are those of the run, then go on from its last checkpoint."""
    began = time.perf_counter()
    from src.setup.log import known_log
    from src.setup.plan import build_model, set_threads
    from src.setup.run import carry_out, make_reporter, on_main, record_code
    from src.setup.session import check_backends, environment, open_session, write_vocabulary
    from src.setup.stored import (
        asked_by,
        check_best,
        check_same_data,
        check_state,
        check_trained,
        load_checkpoint,
        load_weights,
        one_out_dir,
        open_run,
        same_as_stored,
        stored_tokenizer,
    )
    from src.storage import env
    from src.utils import training
    from src.utils.allocator import keep_freed_memory
    from src.utils.reporter import Reporter

    seen = first_look(argv)
    run = open_run(one_out_dir(seen), asked_by(seen, training=True))
    check_trained(run)
    request = read_request(argv, run.task_class, run.model_class)
    same_as_stored(request, run)
    if run.run_dir.finished:
        return report_finished(run, request.control, world)
    set_threads(run.args.threads)
    keep_freed_memory()
    device = env.resolve_device(run.args.device)
    if run.args.compile:
        env.check_compiler(device)
    setup = run.setup()
    on_main(world, run.run_dir.acquire)
    try:
        if world.share(run.run_dir.finished):  # by another process, between the first look and the lock
            return report_finished(run, request.control, world)
        session = open_session(setup, device, world, stored_tokenizer(run))
        model = build_model(setup, session.tokenizer, session.task, device)
        payload = load_checkpoint(run, run.run_dir.ckpt, device) if run.run_dir.ckpt.exists() else None
        check_same_data(run.run_dir, session.data.facts)
        if payload:
            check_best(run, model, payload)
            load_weights(run, model, payload)
            check_state(run, training.Fit(model, session, run.run_dir, Reporter(quiet=True)), payload)
        elif setup.source:
            setup.source.apply(model, session.tokenizer)
        log = on_main(world, lambda: known_log(run.run_dir, payload, request.control.from_checkpoint_log))
        if world.is_main:
            run.run_dir.clean()
            if not run.run_dir.env.exists():
                env.write_env(run.run_dir.env, environment(setup, session, check_backends(setup, device)))
            record_code(run.run_dir, run.code, payload["step"] if payload else 0)
            write_vocabulary(session, run.run_dir)
            run.run_dir.training_log.restore(log.lines)
        reporter = make_reporter(request.control, world, run.run_dir)
        if log and log.notice:
            reporter.say(f"notice: {log.notice}")
        reporter.say(f"resuming {run.run_dir.path} at step {payload['step'] if payload else 0}")
        return carry_out(session, model, run.run_dir, reporter, began, payload)
    finally:
        run.run_dir.release()


def report_finished(run, control, world) -> int:
    """Verify a finished run and say so. With --from_checkpoint_log its log is written again first."""
    from src.setup.run import make_reporter, on_main
    from src.setup.stored import verify

    reporter = make_reporter(control, world)
    if control.from_checkpoint_log:
        on_main(world, lambda: rebuild_log(run, reporter))
    verify(run)
    reporter.say("this run is finished; its metrics, its log and its checkpoints are verified and intact")
    if world.is_main:
        print(run.run_dir.path)
    return 0


def rebuild_log(run, reporter) -> None:
    """Write the log of a finished run again from the copy in its checkpoint."""
    from src.setup.log import known_log
    from src.setup.stored import load_checkpoint

    log = known_log(run.run_dir, load_checkpoint(run, run.run_dir.ckpt, "cpu"), rebuild=True)
    run.run_dir.training_log.restore(log.lines)
    if log.notice:
        reporter.say(f"notice: {log.notice}")
