"""An existing run directory: opened, verified, and compared with the flags that are typed with it.

    run = open_run("runs/20250101-120000")
    payload = load_checkpoint(run, run.run_dir.best, device)

The task, the model and all sizes come from its config.json alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch

from dataset.bpe import FILES
from dataset.loaders import DataFacts
from dataset.task import Task
from dataset.tokenizer import Tokenizer
from dataset.vocabulary import read_tokenizer
from src.flags.fields import UserError
from src.flags.groups import TOKEN_DEFAULTS
from src.flags.kinds import as_text, to_json
from src.flags.parser import Request
from src.flags.run_flags import RunArgs, resolve, resolved
from src.models.contract import ARModel
from src.setup.classes import blaming, find_model, find_task
from src.setup.code import KINDS, Asked, Code, check_loaded, choose
from src.setup.plan import Setup
from src.storage import checkpoint
from src.storage.finished import finished_metrics
from src.storage.items import open_items
from src.storage.rundir import RunDir, open_sealed, read_json
from src.utils.launch import launched

NOTHING = Asked()
# Flags that came later, and what a run did that was started before them.
OLDER_RUNS = {"init": "published", "mlp": "gelu", "solved_at": 0.0, **TOKEN_DEFAULTS}


@dataclass
class StoredRun:
    """A run directory whose configuration is verified.

    config: the content of config.json.  code: the user's files of the run as they were opened, by "task" and "model".
    """

    run_dir: RunDir
    args: RunArgs
    task_class: type[Task]
    model_class: type
    config: dict
    code: dict[str, Code] = field(default_factory=dict)

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


def asked_by(seen: argparse.Namespace, training: bool = False) -> Asked:
    """What the command line says about the run's own files. seen: what `first_look` found on it."""
    return Asked(seen.allow_code, {"task": seen.task, "model": seen.model}, training)


def open_run(out_dir: str, asked: Asked = NOTHING) -> StoredRun:
    """Open a run by its path or bare name. UserError where it is missing, was edited, or is not a training run.

    A user's file that is gone or has changed is a UserError too, unless `asked` says what to use in its place.
    """
    run_dir = RunDir.open(out_dir)
    config = open_sealed(run_dir.config)
    stored = config["args"]
    if "mlp" not in stored and stored.get("fair"):
        raise UserError(
            f"{run_dir.path}: this run is older than --mlp, and its --fair left the convolution inside the layer; "
            "train anew with --overwrite"
        )
    code = {kind: choose(run_dir, config, kind, asked) for kind in KINDS}
    code = {kind: found for kind, found in code.items() if found is not None}
    named = {kind: code[kind].path if kind in code else stored[kind] for kind in KINDS}
    for found in code.values():
        if found.notice and launched().rank == 0:
            print(f"notice: {found.notice}", file=sys.stderr)
    task_class, model_class = find_task(named["task"]), find_model(named["model"], stored.get("layers", ()))
    for kind, found in code.items():
        check_loaded(run_dir, config, kind, found)
    older = "init" not in stored
    if older and stored["tie_weights"] and stored["embed_std"] != 1 and not issubclass(model_class, ARModel):
        raise UserError(
            f"{run_dir.path}: got a run of an older version, which scaled a tied head by d_model^-0.5 also at "
            f"--embed_std {stored['embed_std']:g}; use that version, or train anew"
        )
    if older and task_class.reads_text:
        raise UserError(
            f"{run_dir.path}: got a run of an older version, whose windows of a text began with <bos>; use that "
            "version, or train anew"
        )
    config["args"] = stored = {**OLDER_RUNS, **stored}
    args = resolved(resolve(task_class, model_class, preset={}, **stored))
    return StoredRun(run_dir, args, task_class, model_class, config, code)


def load_checkpoint(run: StoredRun, path: Path, device: torch.device | str) -> dict:
    """The payload of one of a run's checkpoints. UserError where it is missing, damaged, or belongs to another run."""
    return _load_of(run.config["args"], path, device)


def _load_of(args: dict, path: Path, device: torch.device | str) -> dict:
    """The payload of a checkpoint of the run with these flags, which are those of its config.json."""
    payload = checkpoint.load(path, device)
    here, there = {**OLDER_RUNS, **args}, {**OLDER_RUNS, **payload["args"]}
    if there != here:
        name = next((k for k in here if there.get(k) != here[k]), "args")
        raise UserError(
            f"'{path}' belongs to another run (--{name} was {there.get(name)!r} there, here {here.get(name)!r}); "
            "restore the right file, or train again with --overwrite"
        )
    return payload


def stored_tokenizer(run: StoredRun) -> Tokenizer | None:
    """The tokenizer that a run was started with. None where it reads characters, whose vocabulary its data gives."""
    folder = run.run_dir.path
    return (
        read_tokenizer(folder, "--out_dir") if run.args.tokenizer != "char" and (folder / FILES[0]).exists() else None
    )


def load_weights(run: StoredRun, model: ARModel, payload: dict) -> None:
    """Put the weights of a checkpoint into a model. UserError where they do not fit a user's own file."""
    with blaming("model", run.code["model"].path if "model" in run.code else run.args.model, "its weights are loaded"):
        model.load_state_dict(payload["model"])


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
                f"--{name}: got {as_text(value)}, but this run was started with {as_text(_stored_value(name, run))}; "
                "--resume changes nothing, leave the flag out"
            )


def is_stored(name: str, value, run: StoredRun) -> bool:
    """Whether the run was started with this value of a flag, either as it was typed or as it was resolved."""
    if name in run.code and value == run.code[name].path:
        return True
    value = to_json(value)
    typed = run.config["explicit"].get(name, "auto")  # a flag that nobody typed could have been typed as `auto`
    return value in (_stored_value(name, run), typed)


def _stored_value(name: str, run: StoredRun):
    """The resolved value of a flag; a flag that is younger than the run has the value that the run is opened with."""
    return run.config["args"].get(name, getattr(run.args, name))


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
    """UserError where a result or a checkpoint of a finished run is missing, damaged or of another version."""
    verify_files(run.run_dir, run.config["args"])


def verify_files(run_dir: RunDir, args: dict) -> dict:
    """metrics.json of a finished run, after what `verify` does. No code of the run is executed.

    args: the flags in its config.json.
    """
    document = finished_metrics(run_dir)
    open_items(run_dir, document)
    for path in (run_dir.ckpt, *([run_dir.best] if document["best_step"] is not None else [])):
        _load_of(args, path, "cpu")
    return document
