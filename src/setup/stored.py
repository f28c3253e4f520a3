"""An existing run directory: opened, verified, and compared with the flags that are typed with it.

    run = open_run("runs/20250101-120000")
    payload = load_checkpoint(run, run.run_dir.best, device)

The task, the model and all sizes come from its config.json alone.
"""

from __future__ import annotations

import argparse
import contextlib
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
from src.flags.hints import resuming
from src.flags.kinds import as_text, to_json
from src.flags.parser import Request
from src.flags.run_flags import RunArgs, resolve, resolved
from src.models.contract import ARModel
from src.setup.classes import blaming, find_model, find_task
from src.setup.code import KINDS, Asked, Code, check_loaded, choose
from src.setup.log import verify_log
from src.setup.opening import OLDER_RUNS, open_config, open_payload
from src.setup.plan import Setup
from src.setup.source import Source, kept_source
from src.storage.env import open_env
from src.storage.finished import finished_metrics
from src.storage.items import open_items
from src.storage.rundir import RunDir
from src.utils.launch import launched
from src.utils.restoring import weights_problem
from src.utils.training import Fit

NOTHING = Asked()


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
            self.source,
        )

    @property
    def source(self) -> Source | None:
        """The run's own copy of the weights and the vocabulary that it began with."""
        if not self.args.init_from:
            return None
        found = kept_source(self.run_dir)
        if found is None:
            raise UserError(f"'{self.run_dir.init}', with which this run began, is gone; restore it, or train anew")
        return found


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
    config = open_config(run_dir)
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
    return open_payload(run.config["args"], path, device)


def stored_tokenizer(run: StoredRun) -> Tokenizer | None:
    """The tokenizer that a run was started with. None where it reads characters, whose vocabulary its data gives."""
    folder = run.run_dir.path
    return (
        read_tokenizer(folder, "--out_dir") if run.args.tokenizer != "char" and (folder / FILES[0]).exists() else None
    )


def load_weights(run: StoredRun, model: ARModel, payload: dict) -> None:
    """Put the weights of a checkpoint into a model. UserError where they do not fit it."""
    own = "model" in run.code  # torch's message says more about a file that the user has changed
    problem = weights_problem(payload["model"], model.state_dict())
    if problem and not own:
        raise UserError(
            f"'{run.run_dir.path}': the weights of step {payload['step']} are not those of this model: {problem}; "
            "restore the checkpoint, or train again with --overwrite"
        )
    with blaming("model", run.code["model"].path if own else run.args.model, "its weights are loaded"):
        model.load_state_dict(payload["model"])
        if problem:
            raise ValueError(f"the weights of step {payload['step']} do not fit: {problem}")


def diverged_at(run: StoredRun) -> int | None:
    """The step at which a run diverged; None where it did not, or where no file that is intact says so."""
    with contextlib.suppress(UserError):
        if run.run_dir.finished:
            return finished_metrics(run.run_dir)["diverged_at"]
        return (load_checkpoint(run, run.run_dir.ckpt, "cpu").get("progress") or {}).get("diverged_at")
    return None


def open_weights(run: StoredRun, which: str, device: torch.device | str) -> dict:
    """The payload of the "best" or the "last" checkpoint, for a use of its weights.

    UserError where there is none, where the run diverged and the weights are those of its end, and where they are not
    finite. The best weights of a run that diverged later are used, and a note says so.
    """
    path, step = (run.run_dir.best if which == "best" else run.run_dir.ckpt), diverged_at(run)
    if step is not None and which == "last":
        instead = "; use --weights best" if run.run_dir.best.exists() else ""
        raise UserError(
            f"'{run.run_dir.path}': the run diverged at step {step}, so its last weights are no result{instead}"
        )
    if not path.exists() and step is not None:
        raise UserError(
            f"'{run.run_dir.path}': the run diverged at step {step}, before its first validation, so it has no best "
            "weights; train again with a lower --lr"
        )
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint; train the run further with `{resuming(run.run_dir.path)}`")
    payload = load_checkpoint(run, path, device)
    if name := next((n for n, w in payload["model"].items() if not _is_finite(w)), None):
        raise UserError(f"'{path}': '{name}' is not finite; the run diverged, train again with a lower --lr")
    if step is not None and launched().rank == 0:
        print(
            f"note: the run diverged at step {step}; these are its weights of step {payload['step']}", file=sys.stderr
        )
    return payload


def _is_finite(weight) -> bool:
    return not isinstance(weight, torch.Tensor) or bool(torch.isfinite(weight).all())


def check_best(run: StoredRun, model: ARModel, payload: dict) -> None:
    """UserError where a run that goes on would find at its end that its best.pt is not there or not its own."""
    if isinstance(payload.get("progress"), dict) and payload["progress"].get("best_step") is not None:
        best = load_checkpoint(run, run.run_dir.best, "cpu")
        if best["vocab"] != payload["vocab"]:
            raise UserError(
                f"'{run.run_dir.best}' has another vocabulary than '{run.run_dir.ckpt}'; restore it, or train again "
                "with --overwrite"
            )
        load_weights(run, model, best)


def check_state(run: StoredRun, job: Fit, payload: dict) -> None:
    """UserError where the training cannot go on from what ckpt.pt holds. Nothing is changed."""
    if problem := job.problem_of(payload):
        raise UserError(f"'{run.run_dir.ckpt}': {problem}; restore it, or train again with --overwrite")


def override(run: StoredRun, changes: dict) -> StoredRun:
    """The same run with some flags changed. changes: values that are typed and checked already."""
    return dataclasses.replace(run, args=dataclasses.replace(run.args, **changes))


def check_trained(run: StoredRun) -> None:
    """UserError for a run that `import` made: it has weights, and no training to go on with."""
    if run.run_dir.imported:
        raise UserError(
            f"--resume: '{run.run_dir.path}' was imported and has no state of a training; train on from its weights "
            "with --init_from"
        )


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
        then, now = open_env(run_dir.env)["data"]["digest"], facts.digest
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
    if document["best_step"] is not None:
        open_payload(args, run_dir.best, "cpu")
    verify_log(run_dir, open_payload(args, run_dir.ckpt, "cpu"), document)
    return document
