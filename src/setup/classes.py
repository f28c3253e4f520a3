"""The classes behind --task and --model, and one clear line for whatever a user's own file raises."""

from __future__ import annotations

import contextlib
import hashlib
import traceback
from pathlib import Path

from dataset import TASKS
from dataset.task import Task
from src.flags import registry
from src.flags.fields import UserError
from src.models import MODELS


def file_digest(path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def find_task(name: str):
    return registry.find("task", TASKS, name, (Task,))


def find_model(name: str, layers: tuple[str, ...] = ()):
    """The class behind --model, for a hybrid that of its --layers."""
    found = registry.find("model", MODELS, name, _model_bases)
    return found.of(tuple(layers)) if layers and hasattr(found, "of") else found


def _model_bases():
    from src.models.contract import ARModel, Mixer

    return Mixer, ARModel


def try_own_model(name: str, model, tokenizer, loader, device) -> None:
    """UserError where a model of the user's own file fails on its first batch, or gives another shape than it must."""
    import torch

    if not registry.is_path(name):
        return
    x = next(iter(loader)).x[:2].to(device)
    with blaming("model", name), torch.no_grad():
        model.eval()
        if hasattr(model, "blocks"):
            h = torch.zeros(*x.shape, model.embed.embedding_dim, device=device)
            check_shape(name, "mixer", model.blocks[0].mixer(h), h.shape)
        check_shape(name, "model", model(x), (*x.shape, len(tokenizer)))


def check_shape(name: str, what: str, got, wanted) -> None:
    shape = tuple(got.shape) if hasattr(got, "shape") else type(got).__name__
    if shape != tuple(wanted):
        raise UserError(
            f"--model: the forward of the {what} in '{name}' returns {shape}, allowed: a tensor of shape {tuple(wanted)}"
        )


@contextlib.contextmanager
def blaming(kind: str, name: str):
    """What a user's own file raises becomes a UserError of one line, with the file's line; a registered name changes nothing."""
    try:
        yield
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:
        if not registry.is_path(name):
            raise
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == name]
        where = f", line {frames[-1].lineno}, in {frames[-1].name}" if frames else ""
        text = (str(error).splitlines() or [""])[0]
        raise UserError(f"--{kind}: '{name}'{where}: {type(error).__name__}: {text}") from error
