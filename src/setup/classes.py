"""The classes of --task and --model, and the first checks of a user's own file.

    task_class, model_class = find_task("needle"), find_model("my_layer.py")
    with blaming("model", "my_layer.py"):        # an exception of that file becomes one clear line
        model = model_class(args)

torch is imported inside the functions, so that `--help` of a task answers at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dataset import TASKS
from dataset.task import Task
from src.flags import registry
from src.flags.fields import UserError
from src.models import MODELS

if TYPE_CHECKING:
    import torch
    from torch.utils.data import DataLoader

    from dataset.tokenizer import CharTokenizer
    from src.models.contract import ARModel, Mixer


def find_task(name: str) -> type[Task]:
    """The class of --task: a registered name, or a path to a user's file."""
    return registry.find("task", TASKS, name, (Task,))


def find_model(name: str, layers: tuple[str, ...] = ()) -> type[Mixer] | type[ARModel]:
    """The class of --model: a registered name, or a path to a user's file. A hybrid is made of its --layers."""
    found = registry.find("model", MODELS, name, _model_bases)
    return found.of(tuple(layers)) if layers and hasattr(found, "of") else found


@contextlib.contextmanager
def blaming(kind: str, name: str) -> Iterator[None]:
    """Turn an exception of a user's own file into a UserError of one line that names the place in the file.

    kind: "task" or "model".  name: its name or path. With a registered name, exceptions pass unchanged.
    """
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


def try_own_model(
    name: str, model: ARModel, tokenizer: CharTokenizer, loader: DataLoader, device: torch.device
) -> None:
    """Run a model of a user's file on one batch. UserError where it fails, or returns a wrong shape or dtype."""
    from src.setup.forms import check_forms

    if not registry.is_path(name):
        return
    with blaming("model", name):
        check_forms(name, model, next(iter(loader)).x[:2].to(device), len(tokenizer))


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal: it shows whether a user's file has changed since a run began."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _model_bases() -> tuple[type, ...]:
    from src.models.contract import ARModel, Mixer

    return Mixer, ARModel
