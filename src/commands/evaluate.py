"""`--eval_only --out_dir R`: evaluate a run's best and last checkpoints on val and test.

The result is JSON, on stdout and in R/eval-<timestamp>.json. Under torchrun the processes share the batches, and rank 0
prints and writes.
"""

from __future__ import annotations

import dataclasses
import json
import time

from src.flags.fields import UserError
from src.flags.hints import resuming
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
        diverged_at,
        load_checkpoint,
        load_weights,
        one_out_dir,
        open_run,
        override,
        stored_tokenizer,
    )
    from src.storage import env
    from src.storage.files import json_bytes, seal, write_new
    from src.utils.results import chance_of, evaluate_splits, has_finite_loss, length_curve, length_mean, public_args

    seen_flags = first_look(argv)
    run = open_run(one_out_dir(seen_flags), asked_by(seen_flags))
    request = read_request(argv, run.task_class, run.model_class)
    changes = allowed_changes(request, run)
    run = override(run, changes)
    device = env.resolve_device(run.args.device)
    setup = make_setup(run.args, {}, run.task_class, run.model_class, run.config["preset"], device, run.source)
    session = open_session(setup, device, world, stored_tokenizer(run))
    model = build_model(setup, session.tokenizer, session.task, device)
    levels, ceiling = chance_of(session)  # of the test set, so the same for both weights
    diverged, noted, found = diverged_at(run), {}, {}
    for name, path in (("best", run.run_dir.best), ("last", run.run_dir.ckpt)):
        if not path.exists():
            if diverged is not None:
                found[name] = nothing(None, f"the run diverged at step {diverged}, before its first validation")
            continue
        payload = load_checkpoint(run, path, device)
        if payload["vocab"] != session.tokenizer.payload():
            raise UserError(
                f"{path}: its vocabulary is not that of this data; the text or the task has changed since training, "
                "restore it"
            )
        if name == "last" and diverged is not None:
            found[name] = nothing(payload["step"], f"the run diverged at step {diverged}")
            continue
        load_weights(run, model, payload)
        with ran.recording() as seen:
            noted = seen
            result, _ = evaluate_splits(model, session)
            if not has_finite_loss(result):
                found[name] = nothing(payload["step"], "the loss is not finite")
                continue
            curve = length_curve(model, session, result["test"])
        mean = length_mean(session.task, run.args, curve, levels, ceiling)
        found[name] = {"step": payload["step"], **result, "length_curve": curve, "length_mean": mean}
    if not any(part["step"] is not None for part in found.values()):
        raise UserError(f"{run.run_dir.path}: no checkpoint yet; train it further with `{resuming(run.run_dir.path)}`")
    if not world.is_main:
        return 0
    changed = {k: to_json(v) for k, v in changes.items()}
    shown = public_args(run.args)
    document = {
        "task": shown["task"],
        "model": shown["model"],
        "changed": changed,
        "precision": setup.args.precision,
        "backends": ran.described(check_backends(setup, device), noted),
        "data": dataclasses.asdict(session.data.facts),
        "code": described(run.code),
        **found,
    }
    # Written before it is printed: a reader of stdout that goes away loses nothing.
    write_new(run.run_dir.path, f"eval-{time.strftime('%Y%m%d-%H%M%S')}", ".json", json_bytes(seal(document)))
    print(json.dumps(document, indent=1, allow_nan=False))
    return 0


def nothing(step: int | None, reason: str) -> dict:
    """The result of weights that have none."""
    return {"step": step, "val": None, "test": None, "length_curve": [], "length_mean": None, "reason": reason}


def allowed_changes(request, run) -> dict:
    """The flags that change evaluation; UserError for any other that differs from the stored run."""
    from src.setup.stored import is_stored

    if request.control.overwrite:
        raise UserError("--eval_only and --overwrite contradict each other; give one")
    if request.control.from_checkpoint_log:
        raise UserError("--from_checkpoint_log: only goes with --resume; leave it out")
    changes = {}
    changeable = (*CHANGEABLE, "data_path") if run.run_dir.imported else CHANGEABLE  # an import reads no data
    for name, value in request.explicit.items():
        if name in changeable:
            changes[name] = value
        elif not is_stored(name, value, run):
            raise UserError(
                f"--{name}: got {as_text(value)}, but the run has {as_text(getattr(run.args, name))}; with --eval_only "
                f"only {', '.join(changeable)} may change"
            )
    if "batch_size" in changes:
        changes["batch_chars"] = 0
    return changes
