"""The classes of --task and --model, and the first checks of a user's own file.

    task_class, model_class = find_task("needle"), find_model("my_layer.py")
    with blaming("model", "my_layer.py"):        # an exception of that file becomes one clear line
        model = model_class(args)

torch is imported inside the functions, so that `--help` of a task answers at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dataset import TASKS
from dataset.task import Task
from src.flags import own_files, registry
from src.flags.fields import UserError
from src.flags.places import here
from src.models import MODELS
from src.storage import executed
from src.utils.memory import is_out_of_memory

if TYPE_CHECKING:
    from src.models.contract import ARModel, Mixer


def find_task(name: str) -> type[Task]:
    """The class of --task: a registered name, or a path to a user's file, which is executed.

    A file is only handed to this function or to `find_model` after the user has named it, or `src.setup.code.choose`
    has allowed it. Then it counts as one that this user has run.
    """
    found = registry.find("task", TASKS, name, (Task,))
    remember(name)
    return found


def find_model(name: str, layers: tuple[str, ...] = ()) -> type[Mixer] | type[ARModel]:
    """The class of --model: a registered name, or a path to a user's file. A hybrid is made of its --layers."""
    found = registry.find("model", MODELS, name, _model_bases)
    remember(name)
    return found.of(tuple(layers)) if layers and hasattr(found, "of") else found


def remember(name: str) -> str:
    """Note that a user's file was run, so that a run of it can be opened. Returns why this failed, empty if it did not.

    The name of a registered task or layer needs no note.
    """
    if not registry.is_path(name):
        return ""
    path = own_files.absolute(name)
    return executed.record(path, own_files.digests(own_files.code_of(path)))


@contextlib.contextmanager
def blaming(kind: str, name: str, doing: str = "") -> Iterator[None]:
    """Turn what a user's own file raises into a UserError of one line that names the place in the file.

    kind: "task" or "model".  name: its name or path. With a registered name, exceptions pass unchanged.
    doing: what is tried, in words, for an error that no line of the file raised.
    Settings of the process that the file changes are restored.
    """
    if not registry.is_path(name):
        yield
        return
    try:
        with own_files.unchanged_settings(name):
            yield
    except (UserError, KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:
        if isinstance(error, OSError) and not own_files.own_frames(error):
            raise  # a full disk, say
        if is_out_of_memory(error):
            raise
        where = place_of(error, name) or (f", while {doing}" if doing else "")
        raise UserError(f"--{kind}: '{name}'{where}: {own_files.told(error)}") from error


def place_of(error: BaseException, name: str) -> str:
    """', line 3, in forward': the innermost line of a user's file in an error; a helper beside the file is named."""
    frames = own_files.own_frames(error)
    if not frames:
        return ""
    last = frames[-1]
    of = "" if here(own_files.absolute(name)) == Path(last.filename) else f" of '{last.filename}'"
    return f", line {last.lineno}{of}, in {last.name}"


def _model_bases() -> tuple[type, ...]:
    from src.models.contract import ARModel, Mixer

    return Mixer, ARModel
