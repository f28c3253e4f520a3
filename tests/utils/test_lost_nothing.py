"""No training is lost to what is measured beside its scores, to a cache, or to a longest T that a layer states.

python -m pytest tests/utils/test_lost_nothing.py
"""

import json

import pytest

from src.storage.schema import validate

HEAD = """
import torch
from torch import nn
from src.models.base import Mixer


class Layer(Mixer):
    def __init__(self, args):
        super().__init__()
        self.l = nn.Linear(args.d_model, args.d_model)
        self.register_buffer("mask", torch.tril(torch.ones(args.context_len, args.context_len)))
        {more}
"""
MASKED = """
    def forward(self, x):
        m = self.mask[: x.shape[1], : x.shape[1]]
        return self.l(m / m.sum(1, keepdim=True) @ x)
"""
MEAN = """
    def forward(self, x):
        return self.l(x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None])
"""
BROKEN_STATE = (
    MEAN
    + """
    def init_state(self, batch_size, max_len):
        return (self.nothing,)

    def step(self, x, state):
        return self.l(x), state
"""
)
TABLE = """
    table = None

    def forward(self, x):
        if self.table is None or len(self.table) < x.shape[1]:
            self.table = torch.arange(x.shape[1]).float().cos()
        y = self.l(x) * self.table[: x.shape[1], None]
        return y.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]
"""
WORDS = (
    "--task text --data_path text.txt --context_len 20 --d_model 8 --n_layer 1 --max_steps 3 --eval_every 1 "
    "--batch_size 4 --threads 1 --precision fp32 --out_dir run"
).split()


@pytest.fixture
def train(main, tmp_path, monkeypatch):
    """(methods, further flags, what __init__ does) -> (exit code, stderr, metrics.json)."""
    monkeypatch.setattr("src.figures.runs.draw_all", lambda metrics, folder: [])
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over a lazy dog. " * 100)

    def call(methods, *more, init="pass"):
        (tmp_path / "layer.py").write_text(HEAD.format(more=init) + methods)
        code, _, err = main(*WORDS, "--model", "layer.py", *more)
        path = tmp_path / "run/metrics.json"
        metrics = json.loads(path.read_text()) if path.exists() else None
        if metrics:
            validate(metrics)
        return code, err, metrics

    return call


def test_a_mask_of_the_window_decodes_within_the_window_and_longer_rows_say_why_they_failed(train, tmp_path):
    code, err, metrics = train(MASKED, "--context_len", "72", "--eval_lengths", "10,150")
    assert code == 0, err
    assert metrics["decode_state"]["tokens"] == 72
    assert metrics["decode_state"]["bytes"] > 0
    assert metrics["failed"] == {}
    undefined = {row["length"]: row["undefined"] for row in metrics["length_curve"]}
    assert undefined[10] is undefined[72] is None
    assert undefined[150].startswith("failed: RuntimeError: ")
    assert any(note.startswith("no score at length 150: failed: RuntimeError") for note in metrics["notes"])
    assert "--- got" in (tmp_path / "run/samples.txt").read_text()


def test_a_broken_state_costs_the_state_and_the_samples_but_not_the_scores(train, main, tmp_path):
    code, err, metrics = train(BROKEN_STATE)
    assert code == 0, err
    why = "failed: AttributeError: 'Layer' object has no attribute 'nothing'"
    assert metrics["failed"] == {"decode_state": why, "samples": why}
    assert metrics["decode_state"]["bytes"] is None
    assert metrics["final_test"]["token_acc"] >= 0
    assert f"warning: decode_state {why}" in err
    assert (tmp_path / "run/samples.txt").read_text() == why + "\n"
    (tmp_path / "run/metrics.json").unlink()  # as if the process had died while it measured
    assert main("--resume", "--out_dir", "run")[0] == 0
    assert json.loads((tmp_path / "run/metrics.json").read_text())["failed"] == metrics["failed"]


def test_output_ratios_that_fail_do_not_stop_a_training(train, monkeypatch):
    def broken(*_):
        raise KeyError("mixer")

    monkeypatch.setattr("src.utils.training.output_ratios", broken)
    code, err, metrics = train(MEAN)
    assert code == 0, err
    assert metrics["output_ratios"] is None
    assert metrics["failed"] == {"output_ratios": "failed: KeyError: 'mixer'"}


def test_a_table_that_a_validation_has_made_serves_the_next_training_step(train):
    """Tensors made in inference mode cannot be saved for a backward pass. Validation comes after each step here."""
    code, err, metrics = train(TABLE, "--eval_lengths", "40")
    assert code == 0, err
    assert metrics["steps"] == 3
    assert metrics["length_curve"][-1]["undefined"] is None


@pytest.mark.parametrize("init", ["self.max_len = 20", "type(self).max_len = 20"])
def test_a_longest_length_that_a_layer_states_is_honoured_everywhere(train, main, init):
    code, err, metrics = train(MASKED, "--eval_lengths", "40", init=init)
    assert code == 0, err
    assert metrics["length_curve"][-1]["undefined"] == "beyond the 20 tokens that Layer states as its max_len"
    assert metrics["decode_state"]["tokens"] == 20
    assert "no score at length 40: beyond the 20 tokens" in err
    code, _, err = main("generate", "run", "--prompt", "the", "--max_new_tokens", "50")
    assert code == 2
    assert "exceed the 20 tokens that Layer states as its max_len" in err


@pytest.mark.parametrize(
    ("init", "told"),
    [
        ("self.max_len = 19", "--model: the 19 tokens that Layer states as its max_len are too few for --task text"),
        ("self.max_len = 0", "Layer.max_len: got 0, allowed: the longest T that the layer can take"),
        ("self.max_len = 'long'", "Layer.max_len: got 'long', allowed:"),
    ],
)
def test_a_longest_length_that_cannot_be_is_one_line_and_nothing_is_written(train, tmp_path, init, told):
    code, err, metrics = train(MEAN, init=init)
    assert (code, metrics) == (2, None)
    assert told in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_the_run_says_what_is_around_the_layer(train):
    _, err, _ = train(MEAN, "--fair")
    assert "block: rms, conv 4 on its input, MLP 32" in err.splitlines()
