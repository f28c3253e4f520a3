"""The function `build_loaders(args)` that each task file exposes.

    build_loaders = loaders_of(Needle)

It is apart from the contract (dataset/task.py) because it needs the loaders, and these need torch. The commands `list`
and `--help` must work without torch.
"""

from __future__ import annotations

from collections.abc import Callable

from dataset.task import Task
from src.flags.run_flags import RunFlags


def loaders_of(task_class: type[Task]) -> Callable[[RunFlags], tuple]:
    """args -> (tokenizer, loaders by split, TaskData), as `dataset.loaders.build_loaders` returns them."""

    def build_loaders(args: RunFlags) -> tuple:
        from dataset import loaders

        return loaders.build_loaders(task_class(args), args)

    build_loaders.task_class = task_class

    return build_loaders
