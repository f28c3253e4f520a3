"""What a run works with, as one value: its flags, its data, its loaders, the device and the processes."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch.utils.data import DataLoader

from dataset.loaders import TaskData
from dataset.task import Task
from dataset.tokenizer import CharTokenizer
from src.flags.fields import RunArgs
from src.utils.distributed import World


@dataclass(frozen=True)
class Session:
    """args: the flags, `auto` decided.  loaders: "train", "val", "test", and "heldout" for a task on real text."""

    args: RunArgs
    data: TaskData
    loaders: dict[str, DataLoader]
    device: torch.device
    world: World = field(default_factory=World)

    @property
    def task(self) -> Task:
        return self.data.task

    @property
    def tokenizer(self) -> CharTokenizer:
        return self.data.tokenizer
