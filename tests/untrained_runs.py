"""Runs that were never trained, for tests of what reads a run directory: weights are away from their start."""

import torch
from conftest import TINY
from small_models import disturb

from dataset.tokenizer import Tokenizer
from src.flags.run_flags import to_dict
from src.setup.plan import build_model, plan, resolve_model
from src.storage import checkpoint
from src.storage.rundir import RunDir, seal, write_json

TEXT = "the cat sat on the mat, and the dog saw it. " * 60


def untrained(folder, tokenizer: Tokenizer, *arguments) -> RunDir:
    """A run directory with config.json, the tokenizer, and two checkpoints with different weights."""
    setup, _ = plan([*TINY, *map(str, arguments)])
    task = setup.task_class.without_data(setup.args)
    setup, _ = resolve_model(setup, tokenizer, task)
    folder.mkdir(parents=True)
    run_dir = RunDir(folder)
    write_json(run_dir.config, seal(setup.config()))
    tokenizer.save(folder)
    for path, amount in ((run_dir.best, 0.3), (run_dir.ckpt, 0.2)):
        model = disturb(build_model(setup, tokenizer, task, torch.device("cpu")), amount)
        payload = {"args": to_dict(setup.args), "vocab": tokenizer.payload(), "step": 5}
        checkpoint.save(path, {"model": model.state_dict(), **payload})
    return run_dir


def model_of(folder, weights: str = "best"):
    """(the model of a run in evaluation mode, its tokenizer, its task)."""
    from dataset.vocabulary import tokenizer_of
    from src.setup.stored import load_checkpoint, load_weights, open_run

    run = open_run(str(folder))
    payload = load_checkpoint(run, run.run_dir.best if weights == "best" else run.run_dir.ckpt, "cpu")
    tokenizer, task = tokenizer_of(payload["vocab"]), run.task_class.without_data(run.args)
    model = build_model(run, tokenizer, task, torch.device("cpu"))
    load_weights(run, model, payload)
    return model.eval(), tokenizer, task
