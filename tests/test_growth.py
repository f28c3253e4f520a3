"""Growth: a new task, layer, metric, claim or panel is one new file and at most one line in a table.

    python -m pytest tests/test_growth.py

Each test plants one: it writes the file, adds the line, and asks whether everything else follows by itself.
"""

import json

import pytest
from conftest import TINY

from dataset import TASKS
from src.flags.registry import Entry
from src.models import MODELS

TASK = '''
"""Doubling: write every letter twice.

    'ab>' -> 'aabb'
"""

from dataclasses import dataclass

from dataset.base import Example, LengthConfig, Slice, Task


class Doubling(Task):
    @dataclass(frozen=True)
    class Config(LengthConfig):
        """doubling"""

    slices = (Slice("first", "first letter"),)
    score_metrics = {"right_length": "higher"}

    def example(self, rng, length):
        word = "".join(rng.choice(list("abcd"), size=length))
        return Example(word + ">", "".join(c + c for c in word), meta={"first": word[0]})

    def score(self, prompt, answer, gold, meta):
        return {"right_length": float(len(answer) == len(gold))}
'''
LAYER = '''
"""Previous token: y_t = W x_(t-1)."""

from torch import nn
from torch.nn.functional import pad

from src.models.base import Mixer


class Previous(Mixer):
    def __init__(self, args):
        super().__init__()
        self.out = nn.Linear(args.d_model, args.d_model)

    def forward(self, x):
        return self.out(pad(x, (0, 0, 1, 0))[:, :-1])
'''


@pytest.fixture
def grown(tmp_path_factory, monkeypatch):
    """A folder that Python imports from, with the new files in it, and one line in each table."""
    folder = tmp_path_factory.mktemp("grown")
    (folder / "doubling.py").write_text(TASK)
    (folder / "previous.py").write_text(LAYER)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(TASKS, "doubling", Entry("doubling:Doubling", "write every letter twice", "a test"))
    monkeypatch.setitem(MODELS, "previous", Entry("previous:Previous", "the token before", "a test"))


def test_a_task_a_layer_and_a_metric_need_one_file_and_one_line(grown, main, tmp_path):
    """The run has the task's chance levels, its metric with an interval, its curve and its figure; `list` has both."""
    listed = main("list")[1]
    assert "write every letter twice" in listed
    assert "the token before" in listed
    assert main("list", "--task", "doubling")[0] == 0
    assert main("list", "--model", "previous")[0] == 0
    code, out, err = main(*TINY, "--task", "doubling", "--model", "previous", "--max_len", "8", "--out_dir", "R")
    assert (code, out) == (0, "R\n"), err
    metrics = json.loads((tmp_path / "R" / "metrics.json").read_text())
    final = metrics["final_test"]
    assert {"uniform", "unigram"} <= metrics["floors"].keys()
    assert 0 <= final["right_length"] <= 1
    assert len(final["intervals"]["right_length"]) == 2
    assert sum(b["count"] for b in final["slices"]["first"]["bins"]) == 30
    assert (tmp_path / "R" / "figures" / "first.png").stat().st_size > 1_000
    rows = [json.loads(line) for line in (tmp_path / "R" / "results.jsonl").read_text().splitlines()]
    assert "right_length" in {row["metric"] for row in rows}


def test_a_new_layer_passes_the_gate_by_its_name(grown, main):
    code, out, _ = main("check", "--model", "previous")
    assert code == 0, out
