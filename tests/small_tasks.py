"""Small tasks and configurations that several tests build."""

import numpy as np
import torch

from dataset import TASKS
from dataset.common import ExampleDataset
from dataset.seeds import stream
from dataset.task import Example, LengthConfig, Task
from src.flags.fields import resolve
from src.models.contract import Mixer


class Parity(Task):
    """'0110' with labels '0010' at its characters: the parity so far. The smallest task of the label kind, for the tests."""

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
    """A causal mixer without parameters: the mean of what came so far."""

    def __init__(self, args):
        super().__init__()

    def forward(self, x):
        return x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]


class WholeTaskLm(Parity):
    """The same labels, and every written character is trained as well."""

    train_all = True


def make(name, **options):
    cls = {"parity": Parity, "parity_lm": WholeTaskLm}.get(name) or TASKS[name].load()
    task = cls(resolve(cls, **{"context_len": 32, "val_size": 20, "test_size": 20, **options}))
    return task, task.args


def answer_names():
    return [name for name in TASKS if TASKS[name].load().kind == "answer"]


def mixed(task, tokenizer, n=12, loss_on="answer"):
    """A dataset of examples of several lengths, so that a batch of all rows needs padding."""
    rng = stream(task, "mixed", 0)
    lengths = (
        [None] * n if task.lengths is None else [int(v) for v in rng.integers(task.lengths[0], task.lengths[1] + 1, n)]
    )
    examples = [task.examples(rng, 1, length)[0] for length in lengths]
    return ExampleDataset(examples, lengths, task, tokenizer, loss_on)
