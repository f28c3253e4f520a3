"""An existing run directory: opened, verified, and compared with the flags that are typed with it.

    run = open_run("runs/20250101-120000")
    payload = load_checkpoint(run, run.run_dir.best, device)

The task, the model and all sizes come from its config.json alone.
"""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch

from dataset.loaders import DataFacts
from dataset.task import Task
from src.flags.fields import UserError
from src.flags.parser import Request
from src.flags.run_flags import RunArgs, resolve, resolved
from src.models.contract import ARModel
from src.setup.classes import file_digest, find_model, find_task
from src.setup.plan import Setup
from src.storage import checkpoint
from src.storage.rundir import RunDir, open_sealed, read_json

# Flags that came later, and what a run did that was started before them.
OLDER_RUNS = {"init": "published"}


@dataclass
class StoredRun:
    """A run directory whose configuration is verified. config: the content of config.json."""

    run_dir: RunDir
    args: RunArgs
    task_class: type[Task]
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


def one_out_dir(seen: argparse.Namespace) -> str:
    """The one directory of --out_dir; UserError for several. seen: what `first_look` found on the command line."""
    if len(seen.out_dir) > 1:
        raise UserError(f"--out_dir: got {len(seen.out_dir)} folders, allowed: exactly one, that of an existing run")
    return seen.out_dir[0] if seen.out_dir else ""  # `open_run("")` raises an error that names the latest run


def open_run(out_dir: str) -> StoredRun:
    """Open a run by its path or bare name. UserError where it is missing, was edited, or is not a training run."""
    run_dir = RunDir.open(out_dir)
    config = open_sealed(run_dir.config)
    stored = config["args"]
    for kind, digest in config["files"].items():
        if not Path(stored[kind]).is_file() or file_digest(stored[kind]) != digest:
            raise UserError(
                f"{run_dir.path}: the {kind} file '{stored[kind]}' of this run is missing or has changed since; "
                "restore it, or train anew"
            )
    task_class, model_class = find_task(stored["task"]), find_model(stored["model"], stored.get("layers", ()))
    older = "init" not in stored
    if older and stored["tie_weights"] and stored["embed_std"] != 1 and not issubclass(model_class, ARModel):
        raise UserError(
            f"{run_dir.path}: got a run of an older version, which scaled a tied head by d_model^-0.5 also at "
            f"--embed_std {stored['embed_std']:g}; use that version, or train anew"
        )
    config["args"] = stored = {**OLDER_RUNS, **stored}
    args = resolved(resolve(task_class, model_class, preset={}, **stored))
    return StoredRun(run_dir, args, task_class, model_class, config)


def load_checkpoint(run: StoredRun, path: Path, device: torch.device | str) -> dict:
    """The payload of one of a run's checkpoints. UserError where it is missing, damaged, or belongs to another run."""
    payload = checkpoint.load(path, device)
    here, there = run.config["args"], {**OLDER_RUNS, **payload["args"]}
    if there != here:
        name = next((k for k in here if there.get(k) != here[k]), "args")
        raise UserError(
            f"'{path}' belongs to another run (--{name} was {there.get(name)!r} there, here {here.get(name)!r}); "
            "restore the right file, or train again with --overwrite"
        )
    return payload


def override(run: StoredRun, changes: dict) -> StoredRun:
    """The same run with some flags changed. changes: values that are typed and checked already."""
    return dataclasses.replace(run, args=dataclasses.replace(run.args, **changes))


def same_as_stored(request: Request, run: StoredRun) -> None:
    """UserError where a flag typed with --resume differs from the stored run."""
    if request.control.overwrite:
        raise UserError("--resume and --overwrite contradict each other; give one")
    if request.control.preset not in ("auto", run.config["preset"]):
        raise UserError(
            f"--preset: got '{request.control.preset}', but this run was started with '{run.config['preset']}'; "
            "--resume changes nothing"
        )
    if request.control.figures:
        raise UserError("--figures: only goes with --vis_only")
    for name, value in request.explicit.items():
        if not is_stored(name, value, run):
            raise UserError(
                f"--{name}: got {value}, but this run was started with {run.config['args'][name]}; "
                "--resume changes nothing, leave the flag out"
            )


def is_stored(name: str, value, run: StoredRun) -> bool:
    """Whether the run was started with this value of a flag, either as it was typed or as it was resolved."""
    value = list(value) if isinstance(value, tuple) else value
    typed = run.config["explicit"].get(name, "auto")  # a flag that nobody typed could have been typed as `auto`
    return value in (run.config["args"][name], typed)


def check_same_data(run_dir: RunDir, facts: DataFacts) -> None:
    """UserError where the data is not that of the run's start: the text has changed, or the code of the task."""
    if run_dir.env.exists():
        then, now = read_json(run_dir.env)["data"]["digest"], facts.digest
        if then != now:
            raise UserError(
                f"--out_dir: the data of '{run_dir.path}' has changed since it was started "
                f"(SHA-256 {then[:12]}..., now {now[:12]}...); "
                "restore the text or the task's file, or train anew with --overwrite"
            )


def verify(run: StoredRun) -> None:
    """UserError where the metrics or the checkpoints of a finished run are missing or damaged."""
    document = open_sealed(run.run_dir.metrics)
    for path in (run.run_dir.ckpt, *([run.run_dir.best] if document["best_step"] is not None else [])):
        load_checkpoint(run, path, "cpu")
