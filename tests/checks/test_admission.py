"""`train` refuses a layer of the user's own that sees the future, and warns where `step` does not equal `forward`.

python -m pytest tests/checks/test_admission.py
"""

import json
import textwrap

import pytest
from planted_metrics import good_metrics

from src.figures import runs as run_figures

LAYER = """
    import torch
    from src.models.base import Mixer

    class Mine(Mixer):
        def __init__(self, args):
            super().__init__()
            self.out = torch.nn.Linear(args.d_model, args.d_model)

        def forward(self, x):
            return self.out({mean})
"""
CAUSAL = "x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]"
LEAKY = "x - x.mean(1, keepdim=True)"
STALE = """
        def init_state(self, batch_size, max_len):
            return (0,)

        def step(self, x, state):
            return self.out(x), state
"""
TINY = (
    "--task reverse --max_len 8 --max_steps 2 --val_size 20 --test_size 20 "
    "--d_model 8 --n_layer 1 --batch_size 4 --threads 1"
).split()


@pytest.fixture
def layer(tmp_path):
    """Write a layer file: (the mean that it computes, further methods) -> its path."""

    def write(mean, methods=""):
        path = tmp_path / "mine.py"
        path.write_text(
            textwrap.dedent(LAYER.format(mean=mean)) + textwrap.dedent(methods).replace("\n", "\n    "),
            encoding="utf-8",
        )
        return str(path)

    return write


@pytest.fixture
def train(main, monkeypatch):
    """(layer file, run directory, further flags) -> (exit code, stderr). No figures are drawn, only their titles."""
    monkeypatch.setattr(run_figures, "draw_all", lambda document, folder: [])

    def call(layer_file, out_dir, *more):
        code, _, err = main(*TINY, "--model", layer_file, "--out_dir", out_dir, *more)
        return code, err

    return call


def stored(out_dir):
    return json.loads((out_dir / "metrics.json").read_text(encoding="utf-8"))


def test_a_layer_that_sees_the_future_is_refused_before_anything_is_written(layer, train, tmp_path):
    code, err = train(layer(LEAKY), tmp_path / "run")
    assert code == 2
    assert "is not causal: check 'changed tokens' failed, logits before t changed" in err
    assert "run `python benchmark.py check --model" in err.lower()
    assert "--allow_noncausal" in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_allow_noncausal_trains_it_and_marks_every_figure(layer, train, tmp_path):
    code, err = train(layer(LEAKY), tmp_path / "run", "--allow_noncausal")
    assert code == 0, err
    assert "sees the future" in err
    metrics = stored(tmp_path / "run")
    assert metrics["args"]["allow_noncausal"] is True
    assert run_figures.NOT_CAUSAL in run_figures.run_title(metrics)
    assert f"{run_figures.NOT_CAUSAL}: mine" in run_figures.overlay_title(
        [("mine", metrics), ("gru", {**metrics, "args": {}})]
    )


def test_a_causal_layer_is_admitted_and_the_needless_flag_leaves_no_mark(layer, train, tmp_path):
    code, err = train(layer(CAUSAL), tmp_path / "run", "--allow_noncausal")
    assert code == 0, err
    assert "warning" not in err
    metrics = stored(tmp_path / "run")
    assert metrics["args"]["allow_noncausal"] is False
    assert run_figures.NOT_CAUSAL not in run_figures.run_title(metrics)


def test_a_step_that_does_not_equal_forward_is_a_warning(layer, train, tmp_path):
    code, err = train(layer(CAUSAL, STALE), tmp_path / "run")
    assert code == 0, err
    assert "fails check 'steps from an empty state' (decoding gave other logits than forward" in err
    assert "decoded answers and samples will be wrong" in err


def test_every_figure_carries_the_title_that_says_so(tmp_path, monkeypatch):
    """Each figure gets the title of run_title or overlay_title. A figure without it would not say so."""
    titles = []
    monkeypatch.setattr(run_figures.style, "save", lambda figure, path: titles.append(figure.get_suptitle()) or path)
    metrics = good_metrics()
    metrics["args"] = {**metrics["args"], "allow_noncausal": True}
    drawn = run_figures.draw_all(metrics, tmp_path) + run_figures.overlay([("a", metrics), ("b", metrics)], tmp_path)
    assert len(titles) == len(drawn) > 8
    assert all(run_figures.NOT_CAUSAL in title for title in titles)
