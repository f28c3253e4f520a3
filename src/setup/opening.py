"""The two files that every opener of a run reads first: config.json and a checkpoint, with what must hold of both.

    config = open_config(run_dir)
    payload = open_payload(config["args"], run_dir.best)

A right digest does not show that a file is what this program wrote, so the types are checked too. Nothing of a run's
code is loaded here. `stored` opens a whole run with these, and `source` the run of --init_from.
"""

from __future__ import annotations

from pathlib import Path

import torch

from src.flags.fields import UserError
from src.flags.groups import TOKEN_DEFAULTS
from src.storage import checkpoint
from src.storage.rundir import RunDir, open_sealed
from src.storage.schema import MayLack, check
from src.utils.restoring import head_problem

CONFIG = {  # of config.json, what is read from it; the values of flags are checked by `resolve`
    "args": {"task": "text", "model": "text", "layers": MayLack(["text"]), "*": "anything"},
    "explicit": {"*": "anything"},
    "preset": "text",
    "precision_reason": "text",
    "files": {"*": "text"},
    "helpers": MayLack({"*": {"*": "text"}}),
    "*": "anything",
}
# Flags that came later, and what a run did that was started before them.
OLDER_RUNS = {"init": "published", "mlp": "gelu", "solved_at": 0.0, "stop_after": 1, **TOKEN_DEFAULTS}


def open_config(run_dir: RunDir) -> dict:
    """The content of config.json, verified: its digest, and that what is read from it has the right types.

    The values of the flags are checked where they are read (`resolve`).
    """
    config = open_sealed(run_dir.config)
    try:
        check(config, CONFIG)
    except ValueError as error:
        raise UserError(f"'{run_dir.config}': {error}; restore the file, or start again with --overwrite") from error
    return config


def open_payload(args: dict, path: Path, device: torch.device | str = "cpu") -> dict:
    """The payload of a checkpoint of the run with these flags, which are those of its config.json."""
    payload = checkpoint.load(path, device)
    if problem := head_problem(payload):
        raise UserError(f"'{path}' is damaged: {problem}; restore it, or train again with --overwrite")
    here, there = {**OLDER_RUNS, **args}, {**OLDER_RUNS, **payload["args"]}
    if there != here:
        name = next((k for k in here if there.get(k) != here[k]), "args")
        raise UserError(
            f"'{path}' belongs to another run (--{name} was {there.get(name)!r} there, here {here.get(name)!r}); "
            "restore the right file, or train again with --overwrite"
        )
    return payload
