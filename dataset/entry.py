"""The function `build_loaders(args)` that each task file exposes.

    build_loaders = loaders_of(Needle)

It is apart from the contract (dataset/task.py), because it needs the loaders, and these need torch: `list` and `--help` have to do without.
"""

from __future__ import annotations


def loaders_of(task_class):
    """args -> (tokenizer, {"train", "val", "test"} loaders, TaskData) of a run configuration."""

    def build_loaders(args):
        from dataset import loaders

        return loaders.build_loaders(task_class(args), args)

    build_loaders.task_class = task_class

    return build_loaders
