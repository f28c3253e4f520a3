"""An existing run directory: opened, verified, and compared with what is typed next to it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from dataset.loaders import DataFacts
from src.flags.fields import RunArgs, UserError, resolve, resolved
from src.setup.classes import file_digest, find_model, find_task
from src.setup.plan import Setup
from src.storage.rundir import RunDir, open_sealed


@dataclass
class StoredRun:
    """An existing run directory, verified: its configuration and classes.  config: the content of config.json."""

    run_dir: RunDir
    args: RunArgs
    task_class: type
    model_class: type
    config: dict

    def setup(self) -> Setup:
        """The setup that the run was started with."""
        config = self.config
        return Setup(
            self.args,
            config["explicit"],
            self.task_class,
            self.model_class,
            config["preset"],
            config["precision_reason"],
        )


def load_checkpoint(run: StoredRun, path, device) -> dict:
    """The payload of one of a run's checkpoints; UserError when it is missing, damaged, or another run's."""
    from src.storage import checkpoint

    payload = checkpoint.load(path, device)
    if payload["args"] != run.config["args"]:
        name = next((k for k in run.config["args"] if payload["args"].get(k) != run.config["args"][k]), "args")
        raise UserError(
            f"'{path}' belongs to another run (--{name} was {payload['args'].get(name)!r} there, here {run.config['args'].get(name)!r}); "
            "restore the right file, or train again with --overwrite"
        )
    return payload


def open_run(out_dir: str) -> StoredRun:
    """Open a run by path or bare name; UserError for a missing, edited or foreign one."""
    run_dir = RunDir.open(out_dir)
    config = open_sealed(run_dir.config)
    stored = config["args"]
    for kind, digest in config["files"].items():
        if not Path(stored[kind]).is_file() or file_digest(stored[kind]) != digest:
            raise UserError(
                f"{run_dir.path}: the {kind} file '{stored[kind]}' of this run is missing or has changed since; restore it, or train anew"
            )
    task_class, model_class = find_task(stored["task"]), find_model(stored["model"], stored.get("layers", ()))
    return StoredRun(
        run_dir, resolved(resolve(task_class, model_class, preset={}, **stored)), task_class, model_class, config
    )


def override(run: StoredRun, changes: dict) -> StoredRun:
    """The same run with some flags changed (typed and checked already)."""
    return dataclasses.replace(run, args=dataclasses.replace(run.args, **changes))


def one_out_dir(seen) -> str:
    if len(seen.out_dir) > 1:
        raise UserError(f"--out_dir: got {len(seen.out_dir)} folders, allowed: exactly one, that of an existing run")
    return seen.out_dir[0] if seen.out_dir else ""  # opening nothing is an error that names the latest run


def same_as_stored(request, run) -> None:
    """UserError where a flag typed beside --resume differs from the stored run."""
    if request.control.overwrite:
        raise UserError("--resume and --overwrite contradict each other; give one")
    if request.control.preset not in ("auto", run.config["preset"]):
        raise UserError(
            f"--preset: got '{request.control.preset}', but this run was started with '{run.config['preset']}'; --resume changes nothing"
        )
    if request.control.figures:
        raise UserError("--figures: only goes with --vis_only")
    for name, value in request.explicit.items():
        if not is_stored(name, value, run):
            raise UserError(
                f"--{name}: got {value}, but this run was started with {run.config['args'][name]}; --resume changes nothing, leave the flag out"
            )


def is_stored(name: str, value, run) -> bool:
    """Whether a flag's value is the one that the run was started with, as it was typed or as it was resolved."""
    value = list(value) if isinstance(value, tuple) else value
    typed = run.config["explicit"].get(name, "auto")  # nobody typed it: `auto` would have given the same
    return value in (run.config["args"][name], typed)


def check_same_data(run_dir, facts: DataFacts) -> None:
    """UserError where a run would go on with other data than it began with: a text that changed, or a task's code."""
    from src.storage.rundir import read_json

    if run_dir.env.exists():
        then, now = read_json(run_dir.env)["data"]["digest"], facts.digest
        if then != now:
            raise UserError(
                f"--out_dir: the data of '{run_dir.path}' has changed since it was started (SHA-256 {then[:12]}..., now {now[:12]}...); "
                "restore the text or the task's file, or train anew with --overwrite"
            )


def verify(run) -> None:
    """UserError where a finished run's files are not what was written."""
    document = open_sealed(run.run_dir.metrics)
    for path in (run.run_dir.ckpt, *([run.run_dir.best] if document["best_step"] is not None else [])):
        load_checkpoint(run, path, "cpu")
