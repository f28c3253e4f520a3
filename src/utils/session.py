"""What a run works with, as one value: its flags, data, loaders, device and processes.

src/setup/session.py opens it. Training, evaluation and results read what was decided there, and decide nothing again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch.utils.data import DataLoader

from dataset.loaders import TaskData
from dataset.task import Task
from dataset.tokenizer import Tokenizer
from src.flags.run_flags import RunArgs
from src.utils.distributed import World


@dataclass(frozen=True)
class Session:
    """The parts of a run that do not change while it trains.

    args: the flags, `auto` decided.  loaders: "train", "val" and "test", and "heldout" for a task on real text.
    eval_lengths: the further test lengths of --eval_lengths, as numbers.
    preset: its name.
    """

    args: RunArgs
    data: TaskData
    loaders: dict[str, DataLoader]
    device: torch.device
    world: World = field(default_factory=World)
    eval_lengths: tuple[int, ...] = ()
    preset: str = ""

    @property
    def task(self) -> Task:
        return self.data.task

    @property
    def tokenizer(self) -> Tokenizer:
        return self.data.tokenizer
