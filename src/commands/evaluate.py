"""`--eval_only --out_dir R`: evaluate a run's best and last checkpoints on val and test.

The result is JSON, on stdout and in R/eval-<timestamp>.json. Under torchrun the processes share the batches, and rank 0
prints and writes.
"""

from __future__ import annotations

import dataclasses
import json
import time

from src.flags.fields import UserError
from src.flags.kinds import as_text, to_json
from src.flags.parser import first_look, read_request

CHANGEABLE = ("eval_lengths", "eval_size", "test_size", "batch_size", "device", "precision", "threads")


def main(argv: list[str]) -> int:
    from src.utils import distributed

    with distributed.joined() as world:
        return evaluate(argv, world)


def evaluate(argv: list[str], world) -> int:
    """Evaluate both checkpoints. Only rank 0 prints and writes."""
    from src.ops import ran
    from src.setup.code import described
    from src.setup.plan import build_model, make_setup
    from src.setup.session import check_backends, open_session
    from src.setup.stored import (
        asked_by,
        load_checkpoint,
        load_weights,
        one_out_dir,
        open_run,
        override,
        stored_tokenizer,
    )
    from src.storage import env
    from src.storage.rundir import seal, write_json
    from src.utils.results import chance_of, evaluate_splits, length_curve, length_mean, public_args

    seen_flags = first_look(argv)
    run = open_run(one_out_dir(seen_flags), asked_by(seen_flags))
    request = read_request(argv, run.task_class, run.model_class)
    changes = allowed_changes(request, run)
    run = override(run, changes)
    device = env.resolve_device(run.args.device)
    setup = make_setup(run.args, {}, run.task_class, run.model_class, run.config["preset"], device)
    session = open_session(setup, device, world, stored_tokenizer(run))
    model = build_model(setup, session.tokenizer, session.task, device)
    levels, ceiling = chance_of(session)  # of the test set, so the same for both weights
    found = {}
    for name, path in (("best", run.run_dir.best), ("last", run.run_dir.ckpt)):
        if not path.exists():
            continue
        payload = load_checkpoint(run, path, device)
        if payload["vocab"] != session.tokenizer.payload():
            raise UserError(
                f"{path}: its vocabulary is not that of this data; the text or the task has changed since training, "
                "restore it"
            )
        load_weights(run, model, payload)
        with ran.recording() as seen:
            result, _ = evaluate_splits(model, session)
            curve = length_curve(model, session, result["test"])
        mean = length_mean(session.task, run.args, curve, levels, ceiling)
        found[name] = {"step": payload["step"], **result, "length_curve": curve, "length_mean": mean}
    if not found:
        raise UserError(f"{run.run_dir.path}: no checkpoint yet; train it further with --resume")
    if not world.is_main:
        return 0
    changed = {k: to_json(v) for k, v in changes.items()}
    shown = public_args(run.args)
    document = {
        "task": shown["task"],
        "model": shown["model"],
        "changed": changed,
        "precision": setup.args.precision,
        "backends": ran.described(check_backends(setup, device), seen),
        "data": dataclasses.asdict(session.data.facts),
        "code": described(run.code),
        **found,
    }
    write_json(run.run_dir.path / f"eval-{time.strftime('%Y%m%d-%H%M%S')}.json", seal(document))
    print(json.dumps(document, indent=1, allow_nan=False))
    return 0


def allowed_changes(request, run) -> dict:
    """The flags that change evaluation; UserError for any other that differs from the stored run."""
    from src.setup.stored import is_stored

    if request.control.overwrite:
        raise UserError("--eval_only and --overwrite contradict each other; give one")
    changes = {}
    for name, value in request.explicit.items():
        if name in CHANGEABLE:
            changes[name] = value
        elif not is_stored(name, value, run):
            raise UserError(
                f"--{name}: got {as_text(value)}, but the run has {as_text(getattr(run.args, name))}; with --eval_only "
                f"only {', '.join(CHANGEABLE)} may change"
            )
    if "batch_size" in changes:
        changes["batch_chars"] = 0
    return changes
