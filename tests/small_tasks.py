"""Small tasks and configurations that several tests build."""

import numpy as np
import torch

from dataset import TASKS
from dataset.common import ExampleDataset
from dataset.seeds import stream
from dataset.task import Example, LengthConfig, Task
from src.flags.run_flags import resolve
from src.models.contract import Mixer


class Parity(Task):
    """'0110' with labels '0100' at its characters, the parity so far: the smallest task with labels.

    From 4 characters on, only every second character has a label.
    """

    Config = LengthConfig
    kind = "labels"
    primary = "token_acc"
    alphabet = "01"

    def example(self, rng, length):
        bits = rng.integers(0, 2, length)
        odd = np.cumsum(bits) % 2
        labels = tuple((i, str(v)) for i, v in enumerate(odd) if i % 2 == 0 or length < 4)
        return Example("".join(map(str, bits)), labels=labels, gaps=tuple(i % 3 for i, _ in labels))


class Running(Mixer):
    """A causal mixer without parameters: the mean of all inputs so far."""

    def __init__(self, args):
        super().__init__()

    def forward(self, x):
        return x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]


class WholeTaskLm(Parity):
    """The same labels, and every written character is trained too."""

    train_all = True


def make(name, **options):
    """A task at 32 characters with small test sets, and its flags."""
    cls = {"parity": Parity, "parity_lm": WholeTaskLm}.get(name) or TASKS[name].load()
    task = cls(resolve(cls, **{"context_len": 32, "val_size": 20, "test_size": 20, **options}))
    return task, task.args


def answer_names():
    """The registered tasks that write an answer."""
    return [name for name, entry in TASKS.items() if not entry.load().reads_text and make(name)[0].writes_answer]


def mixed(task, tokenizer, n=12, loss_on="answer"):
    """A dataset of examples of several lengths, so that a batch of all rows needs padding."""
    rng = stream(task, "mixed", 0)
    lengths = [task.train_length(rng) for _ in range(n)]
    examples = [task.example(rng, length) for length in lengths]
    return ExampleDataset(examples, lengths, task, tokenizer, loss_on)
