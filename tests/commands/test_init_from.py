"""--init_from: a run begins with the weights of another one, says where they came from, and does not need it again.

python -m pytest tests/commands/test_init_from.py
"""

import hashlib
import json
import shutil

import pytest
import torch
from conftest import TINY

from src.figures import runs as run_figures
from src.storage import checkpoint
from src.storage.files import seal, write_json

FEW = "--max_steps 3 --batch_chars 512 --val_size 20 --test_size 30 --threads 1 --precision fp32 --quiet".split()
TALKS = [*FEW, "--task", "chat", "--val_size", "0", "--test_size", "0"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run on words, one that began with its weights, and one on conversations."""
    import benchmark

    folder = tmp_path_factory.mktemp("runs")
    words = ["--task", "reverse", "--max_len", "8"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_figures, "draw_all", lambda document, folder: [])
        for name, arguments in (
            ("first", [*TINY, *words, "--model", "transformer"]),
            ("second", [*FEW, *words, "--init_from", str(folder / "first"), "--lr", "1e-9", "--min_lr", "0"]),
            ("talk", [*TINY, *TALKS, "--model", "gru", "--context_len", "64", "--vocab_size", "300"]),
        ):
            assert benchmark.main([*arguments, "--out_dir", str(folder / name)]) == 0
    return folder


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    monkeypatch.setattr(run_figures, "draw_all", lambda document, folder: [])


def weights(path):
    return checkpoint.load(path)["model"]


def test_the_run_begins_with_the_best_weights_of_the_other(runs):
    """At a rate of 1e-9 they stay where they were, and sizes that nobody typed are those of the other run."""
    first, second = weights(runs / "first" / "best.pt"), weights(runs / "second" / "ckpt.pt")
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)
    args = json.loads((runs / "second" / "config.json").read_text())["args"]
    assert (args["model"], args["d_model"], args["n_layer"]) == ("transformer", 16, 1)


def test_the_source_and_its_digest_are_recorded(runs):
    best = runs / "first" / "best.pt"
    config, env = (json.loads((runs / "second" / name).read_text()) for name in ("config.json", "env.json"))
    for document in (config, env):
        assert document["init_from"] == {
            "run": str((runs / "first").resolve()),
            "checkpoint": "best.pt",
            "step": checkpoint.load(best)["step"],
            "sha256": hashlib.sha256(best.read_bytes()).hexdigest(),
        }
    metrics = (runs / "second" / "metrics.json").read_text()
    assert json.loads(metrics)["args"]["init_from"] == "first"  # a name, no path of this machine
    assert "init_from" not in json.loads((runs / "first" / "config.json").read_text()).keys()


def test_a_run_resumes_when_its_source_is_gone(main, runs, tmp_path):
    """Killed before its first checkpoint, it goes on from its own copy, to the same weights."""
    shutil.copytree(runs / "first", tmp_path / "source")
    arguments = [*FEW, "--task", "reverse", "--max_len", "8", "--init_from", "source"]
    assert main(*arguments, "--out_dir", "whole")[0] == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    for name in (
        "ckpt.pt",
        "best.pt",
        "metrics.json",
        "metrics.jsonl",
        "results.jsonl",
        "samples.txt",
        "test_items.json",
    ):
        (tmp_path / "killed" / name).unlink()
    shutil.rmtree(tmp_path / "source")
    code, _, err = main("--resume", "--out_dir", "killed", "--quiet")
    assert code == 0, err
    whole, killed = weights(tmp_path / "whole" / "ckpt.pt"), weights(tmp_path / "killed" / "ckpt.pt")
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    (tmp_path / "killed" / "init.pt").unlink()
    (tmp_path / "killed" / "metrics.json").unlink()
    code, _, err = main("--resume", "--out_dir", "killed", "--quiet")
    assert code == 2
    assert "init.pt', with which this run began, is gone" in err


def test_conversations_take_over_tokenizer_and_context(main, runs, tmp_path):
    """The tokenizer of the first run stays, although the conversations are others."""
    rows = [
        {"messages": [{"role": "user", "content": f"x{i}"}, {"role": "assistant", "content": "y"}]} for i in range(9)
    ]
    (tmp_path / "other.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, _, err = main(*TALKS, "--init_from", runs / "talk", "--data_path", "other.jsonl", "--out_dir", "R")
    assert code == 0, err
    assert (tmp_path / "R" / "tokenizer.json").read_bytes() == (runs / "talk" / "tokenizer.json").read_bytes()
    args = json.loads((tmp_path / "R" / "config.json").read_text())["args"]
    assert (args["tokenizer"], args["vocab_size"], args["context_len"]) == ("bpe", 300, 64)
    code, out, err = main("--eval_only", "--out_dir", "R")
    assert code == 0, err
    assert json.loads(out)["best"]["test"]["token_acc"] >= 0


def test_a_text_by_characters_takes_over_the_vocabulary(main, runs, tmp_path):
    """Also the order of its ids. What the first text never had is `<unk>`, or an error without one."""
    (tmp_path / "first.txt").write_text("to be or not to be. " * 60)
    (tmp_path / "second.txt").write_text("bo to é. " * 60)
    text = [*FEW, "--context_len", "24", "--data_path"]
    sizes = ["--d_model", "16", "--n_layer", "1", "--model", "gru"]
    assert main(*text, "first.txt", *sizes, "--task", "text", "--out_dir", "A")[0] == 0
    assert main(*text, "first.txt", *sizes, "--task", "tiny_shakespeare", "--out_dir", "B")[0] == 0
    code, _, err = main(*text, "second.txt", "--task", "text", "--init_from", "A", "--out_dir", "C")
    assert code == 0, err
    assert (tmp_path / "C" / "vocab.json").read_bytes() == (tmp_path / "A" / "vocab.json").read_bytes()
    assert json.loads((tmp_path / "C" / "metrics.json").read_text())["data"]["unknown_rate"] > 0
    code, _, err = main(*text, "second.txt", "--task", "tiny_shakespeare", "--init_from", "B", "--out_dir", "D")
    assert code == 2
    assert "character 'é' at position 6 is not in the vocabulary" in err
    code, _, err = main(*text, "second.txt", "--task", "text", "--init_from", "B", "--out_dir", "D")
    assert code == 2
    assert "that run's vocabulary has no <unk>" in err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--task", "reverse", "--model", "gru"], "--model: got gru, but the run of --init_from ("),
        (["--task", "reverse", "--d_model", "32"], "--d_model: got 32, but the run of --init_from ("),
        (["--task", "reverse", "--match_params", "10k"], "--match_params: got 10k, but"),
        (["--task", "reverse", "--max_len", "12"], "tensor pos_embed.weight: this model has (35, 16), but"),
        (["--task", "sort", "--max_len", "8"], "--init_from: the vocabulary has "),
        (["--task", "chat"], "is not in the vocabulary"),
        (["--task", "reverse", "--init_from", "nowhere"], "--init_from: got 'nowhere' (no such folder)"),
    ],
)
def test_the_first_difference_is_one_line_and_nothing_is_written(main, runs, tmp_path, arguments, why):
    code, out, err = main("--init_from", runs / "first", *FEW, *arguments, "--out_dir", "R")
    assert (code, out) == (2, "")
    assert why in err
    assert err.count("\n") == 1
    assert not (tmp_path / "R").exists()


def test_a_source_without_a_checkpoint_is_refused(main, runs, tmp_path):
    """The last weights serve where there are no best ones yet."""
    shutil.copytree(runs / "first", tmp_path / "source")
    arguments = [*FEW, "--task", "reverse", "--max_len", "8", "--init_from", "source"]
    (tmp_path / "source" / "best.pt").unlink()
    code, _, err = main(*arguments, "--out_dir", "R")
    assert code == 0
    assert "has no best.pt, so its last weights are used" in err
    (tmp_path / "source" / "ckpt.pt").unlink()
    code, _, err = main(*arguments, "--out_dir", "S")
    assert code == 2
    assert "has no checkpoint yet" in err


def change_payload(path, **parts):
    payload = checkpoint.load(path)
    checkpoint.save(path, {k: v for k, v in {**payload, **parts}.items() if v is not None})


def change_config(path, **parts):
    document = {k: v for k, v in json.loads(path.read_text()).items() if k != "sha256"}
    write_json(path, seal({k: v for k, v in {**document, **parts}.items() if v is not None}))


FORGED = {
    "no flags": ("config.json", {"args": None}, "config.json': args: missing"),
    "flags as a list": ("config.json", {"args": [1]}, "config.json': args: got"),
    "no digests of code": ("config.json", {"files": None}, "config.json': files: missing"),
    "no step": ("best.pt", {"step": None}, "is damaged: step: got None"),
    "a vocabulary that is a number": ("best.pt", {"vocab": 5}, "is damaged: vocab: got int"),
    "subwords without their file": ("best.pt", {"vocab": {"kind": "bpe"}}, "is damaged: vocab: allowed: the text"),
}


@pytest.mark.parametrize("case", FORGED)
def test_a_forged_source_is_one_line_and_nothing_is_written(case, main, runs, tmp_path):
    """Its files have right digests and wrong content. The same checks open a run for every other command."""
    name, parts, why = FORGED[case]
    shutil.copytree(runs / "first", tmp_path / "source")
    (change_config if name == "config.json" else change_payload)(tmp_path / "source" / name, **parts)
    code, out, err = main(*FEW, "--task", "reverse", "--max_len", "8", "--init_from", "source", "--out_dir", "R")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert why in err
    assert not (tmp_path / "R").exists()


def test_a_forged_copy_of_the_first_weights_is_one_line(main, runs, tmp_path):
    shutil.copytree(runs / "second", tmp_path / "R")
    change_payload(tmp_path / "R" / "init.pt", source={"run": 5})
    code, out, err = main("--eval_only", "--out_dir", "R")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert "init.pt' is damaged: source" in err


@pytest.mark.parametrize("command", ["compare --model gru,lstm", "profile --model gru"])
def test_commands_that_train_from_fresh_weights_refuse_it(main, runs, command):
    code, _, err = main(*command.split(), "--task", "reverse", "--init_from", runs / "first")
    assert code == 2
    assert "--init_from: " in err
