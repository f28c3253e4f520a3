"""`translate prepare`, `train` and `run`: what they write and print, Ctrl-C and resume, and that they need no torch."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from translation_runs import files_of, write_settings

import benchmark
from src.numpy_transformer import loop, transformer


def translate(*words):
    """Run the command in this process; its exit code."""
    return benchmark.main(["translate", *map(str, words)])


def trained(folder, **changed):
    """Prepare and train a run in `folder`/run; returns (configuration, run)."""
    config, run = write_settings(folder, **changed), folder / "run"
    for action in ("prepare", "train"):
        assert translate(action, "--config", config, "--out_dir", run, "--quiet") == 0
    return config, run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(configuration, run) of a finished training, for tests that only read it."""
    return trained(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def copied(finished, tmp_path):
    """The same, as a copy that a test may change."""
    shutil.copytree(finished[1].parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / "c.yaml", tmp_path / "run"


def test_a_training_leaves_its_files_and_memorises_its_pairs(finished):
    _, run = finished
    assert set(files_of(run)) - {".lock"} == {
        *("checkpoint.npz", "config.json", "history.json", "pairs.npz", "samples.txt"),
        *("vocab_source.json", "vocab_target.json", "figures/attention.png", "figures/loss.png"),
    }
    history = json.loads((run / "history.json").read_text())
    assert (history["status"], history["steps"], len(history["train"])) == ("done", 120, 120)
    assert history["train"][0][1] > 2 > 0.2 > history["train"][-1][1]
    assert history["scores"]["train"]["right"] == 8
    assert {name: s["count"] for name, s in history["scores"].items()} == {"train": 8, "heldout": 2, "nearest": 2}
    assert [step for step, _ in history["heldout"]] == [30, 60, 90, 120]
    samples = (run / "samples.txt").read_text(encoding="utf-8")
    assert samples.count("expected ") == 7
    assert "train    the cat sleeps.\nexpected le chat dort.\ngot      le chat dort." in samples


def test_run_translates_a_text_and_a_file_of_lines(finished, capsys, tmp_path):
    config, run = finished
    flags = ["run", "--config", config, "--out_dir", run]
    (tmp_path / "lines.txt").write_text("The cat sleeps.\r\nThe bird sings.\n")
    for beam in (1, 3):
        assert translate(*flags, "--file", tmp_path / "lines.txt", "--beam", beam) == 0
        assert capsys.readouterr() == ("le chat dort.\nl'oiseau chante.\n", "")
    assert translate(*flags, "--text", "the zebra sleeps!", "--attention", tmp_path / "a.png") == 0
    out, err = capsys.readouterr()
    assert out.endswith("\n")
    assert err == "note: --text: not in the vocabulary, read as <unk>: zebra, !\n"
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_the_attention_that_is_drawn_belongs_to_the_words(finished):
    """One row per written word, <eos> too, and one column per source word; each row of a head sums to 1."""
    from src.numpy_transformer.actions import trained_model
    from src.numpy_transformer.config import load_config
    from src.numpy_transformer.folder import TranslationRun
    from src.numpy_transformer.report import attention_of, cross_attention
    from src.numpy_transformer.tokenization import EOS, encode

    config = load_config(str(finished[0]))
    run = TranslationRun.of(config, str(finished[1]))
    vocabs = run.vocabularies()
    model = trained_model(run, config, *vocabs)
    source, target = encode("the cat sleeps.", vocabs[0]), [*encode("le chat dort.", vocabs[1]), EOS]
    weights, written = cross_attention(model, source, target)
    assert written == target
    assert weights.shape == (2, 5, 5)
    assert weights.sum(-1) == pytest.approx(1)
    axes = attention_of(model, source, 8, *vocabs).axes
    assert [t.get_text() for t in axes[0].get_xticklabels()] == ["the", "cat", "sleeps", ".", "<eos>"]
    assert [t.get_text() for t in axes[0].get_yticklabels()] == ["le", "chat", "dort", ".", "<eos>"]
    assert axes[0].get_xlabel()
    assert axes[0].get_ylabel()


def test_a_finished_training_is_kept_unless_overwrite_says_otherwise(copied, capsys):
    """An --overwrite gives the same bytes again, and does not need the file of pairs: all is prepared."""
    config, run = copied
    flags = ["train", "--config", config, "--out_dir", run, "--quiet"]
    before = files_of(run)
    assert translate(*flags) == 2
    assert "go on with --resume, or replace it with --overwrite" in capsys.readouterr().err
    assert translate(*flags, "--resume") == 0
    assert "already ended, at step 120" in capsys.readouterr().err
    (config.parent / "pairs.csv").unlink()
    assert translate(*flags, "--overwrite") == 0
    assert files_of(run) == before


def compare_with_whole(whole, folder, interrupt, **changed):
    """Train in `folder`, stopped by `interrupt(config, run)` and resumed. All files must have the bytes of `whole`."""
    config, cut = write_settings(folder, **changed), folder / "run"
    assert translate("prepare", "--config", config, "--out_dir", cut, "--quiet") == 0
    interrupt(config, cut)
    history = json.loads((cut / "history.json").read_text())
    assert history["status"] == "interrupted"
    assert not (cut / "samples.txt").exists()
    assert translate("train", "--config", config, "--out_dir", cut, "--quiet", "--resume") == 0
    found, wanted = files_of(cut), files_of(whole)
    assert {name for name in wanted if found.get(name) != wanted[name]} == set()
    assert found.keys() == wanted.keys()
    return history["steps"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for a process")
def test_ctrl_c_and_resume_give_the_bytes_of_an_uninterrupted_training(finished, tmp_path, monkeypatch, capsys):
    """Checkpoint, history, samples and figures. A SIGINT of the operating system arrives inside step 50 of 120."""
    step = loop.Training._step

    def interrupt(config, run):
        def interrupted_step(training, batch):
            if training.step == 49:
                os.kill(os.getpid(), signal.SIGINT)
            step(training, batch)

        monkeypatch.setattr(loop.Training, "_step", interrupted_step)
        assert translate("train", "--config", config, "--out_dir", run) == 130
        assert "continue with: python benchmark.py translate train --config" in capsys.readouterr().err
        monkeypatch.setattr(loop.Training, "_step", step)

    assert compare_with_whole(finished[1], tmp_path, interrupt) == 50


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
def test_ctrl_c_from_outside_at_any_moment_gives_the_same_bytes(tmp_path):
    """A training in a process of its own, and a signal from this one."""

    def interrupt(config, run):
        words = [sys.executable, str(ROOT / "benchmark.py"), "translate", "train", "--config", config, "--out_dir", run]
        with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert "step 30 of" in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        assert process.returncode == 130, err

    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    _, whole = trained(tmp_path / "whole", train__epochs=3000)
    assert 30 <= compare_with_whole(whole, tmp_path / "cut", interrupt, train__epochs=3000) < 9000


def test_a_stop_inside_an_epoch_is_resumed_at_the_next_batch(copied):
    """Stopped after each of the first steps in turn; a resume that began the epoch again would change the losses."""
    from src.numpy_transformer import prepare
    from src.numpy_transformer.config import load_config
    from src.numpy_transformer.folder import TranslationRun
    from src.numpy_transformer.loop import StopRequest, Training

    config = load_config(str(copied[0]))
    prepared = prepare.load(TranslationRun.of(config, str(copied[1])), config)

    def nothing():
        pass

    whole = Training(config, prepared)
    assert whole.run(nothing, nothing, StopRequest())
    arrays = None
    for step in range(1, 6):
        stop = StopRequest()
        stop.asked = True
        part = Training(config, prepared)
        if arrays is not None:
            part.restore(arrays, "checkpoint")
        assert not part.run(nothing, nothing, stop)
        assert part.step == step
        arrays = {name: a.copy() for name, a in part.state().items()}
    rest = Training(config, prepared)
    rest.restore(arrays, "checkpoint")
    assert rest.run(nothing, nothing, StopRequest())
    assert rest.losses == whole.losses
    assert np.array_equal(rest.model.params.values, whole.model.params.values)


def test_a_loss_that_is_not_finite_is_a_result(tmp_path, monkeypatch, capsys):
    config, run = write_settings(tmp_path), tmp_path / "run"
    assert translate("prepare", "--config", config, "--out_dir", run, "--quiet") == 0
    steps = iter([2.0, 1.5, float("nan")])
    monkeypatch.setattr(transformer.Seq2Seq, "loss_and_gradients", lambda self, batch: next(steps))
    assert translate("train", "--config", config, "--out_dir", run, "--quiet") == 3
    assert "the loss of step 3 is not finite" in capsys.readouterr().err
    history = json.loads((run / "history.json").read_text())
    assert (history["status"], history["train"]) == ("diverged", [[1, 2.0], [2, 1.5]])


WITHOUT = """
import sys
sys.path.insert(0, sys.argv[1])
for name in ("torch", "scipy", "numba", "pyarrow"):
    sys.modules[name] = None  # any import of it raises
import benchmark
for action in (["prepare"], ["train"], ["run", "--text", "the cat sleeps.", "--beam", "2"]):
    assert benchmark.main(["translate", *action, "--config", sys.argv[2]]) == 0, action
"""


def test_translate_needs_no_torch_and_says_what_it_does(tmp_path):
    """Without --out_dir the folder is runs/<name>. Progress and notes go to stderr."""
    config = write_settings(tmp_path, train__epochs=1, data__limit=6)
    done = subprocess.run([sys.executable, "-c", WITHOUT, ROOT, config], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == [os.path.join("runs", "mini")] * 2
    for part in (
        "6 training pairs, 2 held out\nen: 14 words, <pad>, <bos>, <eos> and <unk> among them\n",
        "step 2 of 2: loss ",
        "heldout, chance: the nearest training sentence: 0 of 2 whole sentences (0.000 [0.000, 0.658]), words ",
    ):
        assert part in done.stderr


def test_only_numpy_yaml_and_optional_packages_are_imported():
    """Matplotlib is imported by src/figures. pyarrow is for .parquet files."""
    import ast

    found = set()
    for path in (ROOT / "src/numpy_transformer").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module.split(".")[0])
    assert found - sys.stdlib_module_names == {"numpy", "yaml", "pyarrow", "src"}
