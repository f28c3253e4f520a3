"""`--resume --out_dir R`: continue a run from its last checkpoint; a finished one is verified and left alone."""

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
    from src.setup.plan import build_model, set_threads
    from src.setup.run import carry_out, make_reporter, on_main, record_code
    from src.setup.session import check_backends, environment, open_session
    from src.setup.stored import (
        asked_by,
        check_same_data,
        load_checkpoint,
        load_weights,
        one_out_dir,
        open_run,
        same_as_stored,
        stored_tokenizer,
    )
    from src.storage import env
    from src.storage.rundir import write_json

    seen = first_look(argv)
    run = open_run(one_out_dir(seen), asked_by(seen, training=True))
    request = read_request(argv, run.task_class, run.model_class)
    same_as_stored(request, run)
    if run.run_dir.finished:
        return report_finished(run, make_reporter(request.control, world), world)
    set_threads(run.args.threads)
    device = env.resolve_device(run.args.device)
    if run.args.compile:
        env.check_compiler(device)
    setup = run.setup()
    on_main(world, run.run_dir.acquire)
    try:
        if world.share(run.run_dir.finished):  # by another process, between the first look and the lock
            return report_finished(run, make_reporter(request.control, world), world)
        session = open_session(setup, device, world, stored_tokenizer(run))
        model = build_model(setup, session.tokenizer, session.task, device)
        payload = load_checkpoint(run, run.run_dir.ckpt, device) if run.run_dir.ckpt.exists() else None
        check_same_data(run.run_dir, session.data.facts)
        if payload:
            load_weights(run, model, payload)
        if world.is_main:
            run.run_dir.clean()
            if not run.run_dir.env.exists():
                write_json(run.run_dir.env, environment(setup, session, check_backends(setup, device)))
            record_code(run.run_dir, run.code, payload["step"] if payload else 0)
            session.tokenizer.save(run.run_dir.path)
            run.run_dir.truncate_log(payload["step"] if payload else 0)
        reporter = make_reporter(request.control, world, run.run_dir)
        reporter.say(f"resuming {run.run_dir.path} at step {payload['step'] if payload else 0}")
        return carry_out(session, model, run.run_dir, reporter, began, payload)
    finally:
        run.run_dir.release()


def report_finished(run, reporter, world) -> int:
    """Verify a finished run and say so."""
    from src.setup.stored import verify

    verify(run)
    reporter.say("this run is finished; its metrics and checkpoints are verified and intact")
    if world.is_main:
        print(run.run_dir.path)
    return 0
