"""Several seeds at once: each leaves the run directory that it leaves alone, whatever becomes of the others.

python -m pytest tests/utils/test_together.py
"""

import json
import math
import os
import signal

import pytest
from conftest import TINY

from src.figures import runs as run_figures
from src.storage import checkpoint
from src.storage.rundir import RunDir
from src.utils import training
from src.utils.stack import Stack

COPY = ["--task", "copy", "--model", "transformer", *TINY]
TWO = ["--seeds_at_once", "2", "--seed", "5"]


@pytest.fixture(scope="module", autouse=True)
def without_figures():
    """Figures are drawn from metrics.json as for any run, and take most of the time of such a small one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_figures, "draw_all", lambda document, folder: None)
        yield


def log_of(folder):
    """The rows of metrics.jsonl without the seconds."""
    rows = RunDir(folder).read_log()
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def assert_same_course(folder, wanted):
    """Two logs agree up to the rounding of sums: the losses, the norms, and all counts."""
    found, single = log_of(folder), log_of(wanted)
    assert len(found) == len(single)
    for one, other in zip(found, single, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


@pytest.fixture(scope="module")
def singles(tmp_path_factory):
    """The runs of seeds 5 and 6, each alone."""
    import benchmark

    home = tmp_path_factory.mktemp("singles")
    for seed in (5, 6):
        assert benchmark.main([*COPY, "--seed", str(seed), "--out_dir", str(home / f"seed{seed}")]) == 0
    return home


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The same runs at once."""
    import benchmark

    home = tmp_path_factory.mktemp("pair")
    assert benchmark.main([*COPY, *TWO, "--out_dir", str(home)]) == 0
    return home


@pytest.mark.parametrize("seed", [5, 6])
def test_each_seed_leaves_the_directory_of_a_single_run(pair, singles, seed):
    found, wanted = pair / f"seed{seed}", singles / f"seed{seed}"
    assert_same_course(found, wanted)
    assert sorted(p.name for p in found.iterdir()) == sorted(p.name for p in wanted.iterdir())
    configs = [json.loads((folder / "config.json").read_text()) for folder in (found, wanted)]
    assert configs[0]["args"] == configs[1]["args"]
    documents = [json.loads((folder / "metrics.json").read_text()) for folder in (found, wanted)]
    assert documents[0]["data"] == documents[1]["data"]
    assert documents[0]["test"]["best"]["loss"] == pytest.approx(documents[1]["test"]["best"]["loss"], rel=1e-4)
    assert json.loads((found / "env.json").read_text())["seeds_at_once"] == [5, 6]


def test_a_checkpoint_has_the_weights_the_moments_and_the_random_state_of_its_seed(pair, singles):
    found, wanted = (checkpoint.load(home / "seed6" / "ckpt.pt") for home in (pair, singles))
    assert found.keys() == wanted.keys()
    assert found["scheduler"] == wanted["scheduler"]
    assert found["random"][0]["torch"].equal(wanted["random"][0]["torch"])
    assert found["optimizer"]["param_groups"] == wanted["optimizer"]["param_groups"]
    for index, moments in wanted["optimizer"]["state"].items():
        assert found["optimizer"]["state"][index]["exp_avg"].sub(moments["exp_avg"]).abs().max() < 1e-5
    other = checkpoint.load(pair / "seed5" / "ckpt.pt")["model"]
    assert not found["model"]["head.weight"].equal(other["head.weight"])


def test_other_commands_read_a_seed_as_a_single_run(pair, main):
    assert main("--eval_only", "--out_dir", pair / "seed5")[0] == 0
    assert main("--resume", "--out_dir", pair / "seed5", "--quiet")[0] == 0


def test_an_interrupted_pair_goes_on_as_two_single_runs(main, tmp_path, monkeypatch, singles):
    update, steps = Stack.update, []

    def interrupted(stack):
        steps.append(stack)
        if len(steps) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return update(stack)

    monkeypatch.setattr(Stack, "update", interrupted)
    code, _, err = main(*COPY, *TWO, "--out_dir", tmp_path / "p")
    assert code == 130
    assert err.count("--resume") == 2
    monkeypatch.undo()
    for seed in (5, 6):
        folder = tmp_path / "p" / f"seed{seed}"
        assert len(log_of(folder)) == 4
        assert main("--resume", "--out_dir", folder, "--quiet")[0] == 0
        assert_same_course(folder, singles / f"seed{seed}")


def test_a_seed_that_diverges_leaves_and_the_other_one_goes_on(main, tmp_path, monkeypatch, singles):
    gradients = Stack.gradients
    calls = []

    def lost(stack, batches):
        losses, norms = gradients(stack, batches)
        calls.append(len(losses))
        return ([math.nan, losses[1]], norms) if len(calls) == 3 + 1 else (losses, norms)  # the first call is a trial

    monkeypatch.setattr(Stack, "gradients", lost)
    code, _, _ = main(*COPY, *TWO, "--out_dir", tmp_path / "p")
    assert code == 3
    assert calls == [2, 2, 2, 2, *[1] * 9]
    documents = [json.loads((tmp_path / "p" / f"seed{s}" / "metrics.json").read_text()) for s in (5, 6)]
    assert [(d["status"], d["diverged_at"], d["steps"]) for d in documents] == [("diverged", 3, 2), ("done", None, 12)]
    assert_same_course(tmp_path / "p" / "seed6", singles / "seed6")


def test_a_seed_that_is_solved_stops_and_the_other_one_goes_on(main, tmp_path, monkeypatch, singles):
    scores = iter([0.0, 1.0, 0.0])  # of seed 5 and of seed 6 at step 6, of seed 5 at step 12
    monkeypatch.setattr(training, "validation_score", lambda task, scored: next(scores))
    stop = ["--stop_at", "0.9", "--stop_after", "1"]
    assert main(*COPY, *TWO, *stop, "--out_dir", tmp_path / "p")[0] == 0
    documents = [json.loads((tmp_path / "p" / f"seed{s}" / "metrics.json").read_text()) for s in (5, 6)]
    assert [(d["stopped_at"], d["steps"]) for d in documents] == [(None, 12), (6, 6)]
    assert_same_course(tmp_path / "p" / "seed5", singles / "seed5")


LAYERS = {
    "noisy.py": (
        "return x.cumsum(1) * (1 + 0.1 * torch.rand_like(x))",
        "cannot be computed for several seeds at once",
    ),
    "asking.py": (
        "return x.cumsum(1) if bool(x.sum() > 0) else -x.cumsum(1)",
        "cannot be computed for several seeds at once",
    ),
    "counting.py": (
        "self.calls = getattr(self, 'calls', 0) + 1; return x.cumsum(1) * (-1) ** self.calls",
        "alone, so Backbone cannot be one of several",
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_that_cannot_be_one_of_several_is_refused_before_anything_is_written(name, main, tmp_path):
    body, words = LAYERS[name]
    head = "import torch\nfrom src.models.base import Mixer\n\nclass Own(Mixer):\n    def forward(self, x):\n"
    (tmp_path / name).write_text(f"{head}        {body}\n")
    code, _, err = main(
        *("--task", "copy", "--model", tmp_path / name, *TINY, *TWO, "--allow_noncausal", "--out_dir", tmp_path / "p")
    )
    assert code == 2
    assert words in err
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--dropout", "0.1"], "--dropout 0"),
        (["--attn_dropout", "0.1"], "--attn_dropout 0"),
        (["--compile"], "--compile"),
        (["--micro_batch_size", "2"], "--micro_batch_size"),
        (["--seed", str(2**31 - 1)], "--seed"),
        (["--seeds_at_once", "0"], "allowed: >= 1"),
        (["--out_dir", "a", "b", "c"], "got 3 folders"),
        (["--out_dir", "a", "a"], "got 2 folders"),
        (["--resume", "--out_dir", "a"], "--out_dir"),
    ],
)
def test_what_several_seeds_cannot_share_is_one_line(flags, words, main, tmp_path):
    code, _, err = main("--task", "copy", "--model", "transformer", *TINY, *TWO, *flags)
    assert code == 2
    assert words in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not [p for p in tmp_path.iterdir() if p.name != "runs"]


def test_a_mode_of_existing_runs_takes_one_seed_at_a_time(pair, main):
    for mode in ("--resume", "--eval_only", "--vis_only"):
        code, _, err = main(mode, "--out_dir", pair / "seed5", "--seeds_at_once", "2")
        assert (code, "--seeds_at_once: only goes with new runs" in err) == (2, True)


def test_a_finished_seed_is_not_overwritten(pair, main):
    code, _, err = main(*COPY, *TWO, "--out_dir", pair)
    assert code == 2
    assert "seed5' holds a finished run" in err
