"""Files of a run whose digest is right and whose content is not: one line, exit code 2, and nothing is changed.

    python -m pytest tests/utils/test_forged_files.py

Whoever can write a file can compute its digest, and a program with a bug seals what it should not.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import TINY

from src.figures import runs as run_figures
from src.flags.fields import UserError
from src.setup.log import known_log
from src.setup.plan import build_model
from src.setup.session import open_session
from src.setup.stored import check_state, load_checkpoint, load_weights, open_run
from src.storage import checkpoint
from src.storage.env import open_env, write_env
from src.storage.files import seal
from src.utils import training
from src.utils.reporter import Reporter


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    """A run that was interrupted after its second validation. Copy it before use."""
    import benchmark

    folder = tmp_path_factory.mktemp("forged") / "run"
    words = ["--task", "reverse", "--model", "transformer", *TINY, "--eval_every", "3", "--out_dir", str(folder)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Fit, "_any_rank", lambda fit, here: here or fit.progress.step == 6)
        assert benchmark.main(words) == 130
    return folder


@pytest.fixture(scope="module")
def opened(unfinished):
    """(the run as it is opened, a training of it that has not begun)."""
    stored = open_run(str(unfinished))
    session = open_session(stored.setup(), torch.device("cpu"))
    model = build_model(stored, session.tokenizer, session.task, session.device)
    return stored, training.Fit(model, session, stored.run_dir, Reporter(quiet=True))


@pytest.fixture
def run(unfinished, tmp_path, monkeypatch):
    monkeypatch.setattr(run_figures, "draw_all", lambda document, folder: [])
    shutil.copytree(unfinished, tmp_path / "run")
    return tmp_path / "run"


def bytes_of(run: Path) -> dict:
    return {str(p): p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file() and p.name != ".lock"}


def refused(main, run: Path, *commands) -> None:
    before = bytes_of(run)
    for command in commands:
        code, out, err = main(*command, "--out_dir", run)
        assert (code, out, err.count("\n")) == (2, "", 1), (command, code, err)
        assert bytes_of(run) == before, command


RESUME, EVALUATE, GENERATE = ["--resume"], ["--eval_only"], ["generate", "--prompt", "ab>"]
HEADS = {
    "a weight is missing": lambda p: p["model"].pop(next(iter(p["model"]))),
    "a weight too many": lambda p: p["model"].update(other=torch.ones(2)),
    "weights of another type": lambda p: p["model"].update({k: v.double() for k, v in p["model"].items()}),
    "a weight of another shape": lambda p: p["model"].update({next(iter(p["model"])): torch.ones(3)}),
    "a weight that is a list": lambda p: p["model"].update({next(iter(p["model"])): [1.0]}),
    "weights as a list": lambda p: p.update(model=[1]),
    "flags as a list": lambda p: p.update(args=[1]),
    "a vocabulary of numbers": lambda p: p.update(vocab=[1, 2]),
    "a vocabulary with a character twice": lambda p: p["vocab"].append(p["vocab"][-1]),
    "a step of text": lambda p: p.update(step="3"),
    "no step": lambda p: p.pop("step"),
}


def forge(path: Path, change) -> None:
    payload = checkpoint.load(path)
    change(payload)
    checkpoint.save(path, payload)


@pytest.mark.parametrize("change", HEADS.values(), ids=HEADS)
def test_a_forged_checkpoint_is_refused(opened, run, change):
    """By what every command does with it: open it, and load its weights into a model."""
    stored, job = opened
    forge(run / "best.pt", change)
    with pytest.raises(UserError) as info:
        load_weights(stored, job.model, load_checkpoint(stored, run / "best.pt", "cpu"))
    assert "\n" not in str(info.value)


def test_a_forged_checkpoint_is_refused_by_every_command(main, run):
    for name in ("best.pt", "ckpt.pt"):
        forge(run / name, HEADS["weights of another type"])
    refused(main, run, RESUME, EVALUATE, GENERATE)


def first_moment(payload: dict) -> dict:
    return payload["optimizer"]["state"][0]


STATES = {
    "no optimiser": lambda p: p.pop("optimizer"),
    "an optimiser without content": lambda p: p.update(optimizer={}),
    "a moment of another type": lambda p: first_moment(p).update(exp_avg=first_moment(p)["exp_avg"].double()),
    "a moment of another shape": lambda p: first_moment(p).update(exp_avg=torch.ones(1)),
    "a learning rate of text": lambda p: p["optimizer"]["param_groups"][0].update(lr="x"),
    "a moment of no parameter": lambda p: p["optimizer"]["state"].update({99: {}}),
    "fewer parameters": lambda p: p["optimizer"]["param_groups"][0].update(params=[0]),
    "a schedule that replaces the optimiser": lambda p: p["scheduler"].update(optimizer=1),
    "a schedule at another step": lambda p: p["scheduler"].update(last_epoch=3),
    "a scaler": lambda p: p.update(scaler={"scale": 2.0}),
    "progress at another step": lambda p: p["progress"].update(step=3),
    "a negative epoch": lambda p: p["progress"].update(epoch=-1),
    "a best loss of NaN": lambda p: p["progress"].update(best_val=float("nan")),
    "a best loss without its step": lambda p: p["progress"].update(best_step=None),
    "an unknown part of the progress": lambda p: p["progress"].update(other=1),
    "a short random state": lambda p: p["random"][0].update(torch=torch.zeros(3, dtype=torch.uint8)),
    "a random state of Python that is none": lambda p: p["random"][0].update(python=[1]),
    "no random state": lambda p: p.update(random=[]),
    "what ran as a number": lambda p: p.update(ran={"training": 1}),
    "a log as a number": lambda p: p.update(log=1),
    "a log of NaN": lambda p: p["log"]["groups"][0]["loss"].fill_(float("nan")),
    "another vocabulary": lambda p: p["vocab"].append("Z"),
}


@pytest.mark.parametrize("change", STATES.values(), ids=STATES)
def test_a_training_does_not_go_on_from_a_forged_state(opened, run, change):
    stored, job = opened
    assert check_state(stored, job, checkpoint.load(run / "ckpt.pt")) is None
    forge(run / "ckpt.pt", change)

    def go_on() -> None:
        payload = checkpoint.load(run / "ckpt.pt")
        check_state(stored, job, payload)
        known_log(stored.run_dir, payload)

    with pytest.raises(UserError) as info:
        go_on()
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("name", ["a moment of another shape", "a log of NaN"])
def test_resume_refuses_a_forged_state(main, run, name):
    forge(run / "ckpt.pt", STATES[name])
    refused(main, run, RESUME)


CONFIGS = {
    "flags as a list": lambda d: d.update(args=[]),
    "no flags": lambda d: d.pop("args"),
    "a task that is a number": lambda d: d["args"].update(task=1),
    "a model that is a list": lambda d: d["args"].update(model=["x"]),
    "a width of text": lambda d: d["args"].update(d_model="16"),
    "a width that is true": lambda d: d["args"].update(d_model=True),
    "a width of null": lambda d: d["args"].update(d_model=None),
    "a width of 400 digits": lambda d: d["args"].update(d_model=10**400),
    "a rate of 400 digits": lambda d: d["args"].update(lr=10**400),
    "lengths that are a number": lambda d: d["args"].update(eval_lengths=5),
    "an unknown flag": lambda d: d["args"].update(other=1),
    "a preset that is null": lambda d: d.update(preset=None),
    "files as a list": lambda d: d.update(files=[]),
    "helpers that are a number": lambda d: d.update(helpers={"model": 1}),
}


def forge_json(path: Path, change) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(seal(document)))


@pytest.mark.parametrize("change", CONFIGS.values(), ids=CONFIGS)
def test_a_forged_configuration_is_refused(run, change):
    forge_json(run / "config.json", change)
    with pytest.raises(UserError) as info:
        open_run(str(run))
    assert "\n" not in str(info.value)


def test_a_forged_configuration_is_refused_by_every_command(main, run):
    forge_json(run / "config.json", CONFIGS["a width of text"])
    refused(main, run, RESUME, EVALUATE, GENERATE)


ENVIRONMENTS = ["[]", "{}", "1", "null", '"x"', "[[[", "", '{"data": 1}', '{"data": {"digest": 1}}', "[" * 100_000]


@pytest.mark.parametrize("text", ENVIRONMENTS, ids=lambda text: text[:10] or "empty")
def test_an_environment_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "env.json").write_text(text)
    with pytest.raises(UserError) as info:
        open_env(tmp_path / "env.json")
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("part", ["data", "backends", "device", "versions"])
@pytest.mark.parametrize("value", [None, 1, [], "x", {"a": 1}], ids=str)
def test_an_environment_of_other_types_is_refused(unfinished, tmp_path, part, value):
    content = open_env(unfinished / "env.json")
    write_env(tmp_path / "env.json", {**content, part: value})
    with pytest.raises(UserError, match=part):
        open_env(tmp_path / "env.json")


def test_resume_refuses_an_environment_that_is_none(main, run):
    (run / "env.json").write_text("{}")
    refused(main, run, RESUME)


def test_the_same_run_goes_on_where_nothing_is_forged(main, run):
    """The tests above fail on a run that is refused anyway."""
    for name in ("best.pt", "ckpt.pt"):
        checkpoint.save(run / name, checkpoint.load(run / name))
    assert main(*GENERATE, "--out_dir", run)[0] == 0
    assert main(*RESUME, "--out_dir", run)[0] == 0
