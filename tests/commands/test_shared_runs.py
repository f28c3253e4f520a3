"""A run directory from somebody else: whatever it names, opening it executes nothing that was not asked for.

python -m pytest tests/commands/test_shared_runs.py

The stranger knows all formats: config.json is sealed anew, and the digests in it are right.
"""

import csv
import json
import os
import re
import shutil

import pytest
from conftest import TINY

from src.figures import runs as run_figures
from src.flags.own_files import file_digest
from src.flags.places import VARIABLE
from src.models import MODELS
from src.storage import executed
from src.storage.files import open_sealed, seal, write_json
from src.study import parts, records

LAYER = """from torch import nn
from pathlib import Path
from src.models.base import Mixer
{top}

class Layer(Mixer):
    def __init__(self, args):
        super().__init__()
        self.l = nn.Linear(args.d_model, args.d_model)

    def forward(self, x):
        return self.l(x)
"""
EVIL = "from pathlib import Path\nPath({mark!r}).write_text('was here')\n" + LAYER.format(top="")
SMALL = [*TINY, "--max_steps", "2", "--val_size", "4", "--test_size", "4"]
OPENERS = {
    "evaluate": ["--eval_only", "--out_dir", "R"],
    "resume": ["--resume", "--out_dir", "R"],
    "generate": ["generate", "R", "--prompt", "a", "--max_new_tokens", "1"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with the finished runs `plain` (a GRU) and `own` (layer.py with its helper.py)."""
    import benchmark

    home = tmp_path_factory.mktemp("made")
    (home / "helper.py").write_text("FACTOR = 1\n")
    (home / "layer.py").write_text(LAYER.format(top="import helper"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr(run_figures, "draw_all", lambda document, folder: [])
        for name, model in (("plain", "gru"), ("own", "layer.py")):
            assert benchmark.main([*SMALL, "--task", "needle", "--model", model, "--out_dir", name]) == 0
    return home


@pytest.fixture
def shared(made, main, tmp_path, monkeypatch):
    """The run `plain` as R, changed by a stranger. shared(change) -> the mark that the stranger's code would leave."""
    monkeypatch.setattr(run_figures, "draw_all", lambda document, folder: [])
    shutil.copytree(made / "plain", "R")
    mark = tmp_path / "mark"
    for name in ("evil.py", "R/evil.py"):
        (tmp_path / name).write_text(EVIL.format(mark=str(mark)))

    def change(edit) -> None:
        config = open_sealed("R/config.json")
        edit(config, str(tmp_path / "evil.py"))
        write_json("R/config.json", seal(config))
        return mark

    return change


def name_file(config: dict, kind: str, path: str, real: str = "") -> None:
    """Name a file as that of the run, with its right digest. real: where it is, if it is not at `path`."""
    config["args"][kind] = path
    config["files"] = {kind: file_digest(real or path)}
    config["helpers"] = {kind: {}}


def without_digest(config, evil):
    config["args"]["model"] = evil


def with_odd_digest(config, evil):
    name_file(config, "model", evil)
    config["files"] = {"model": ["a"]}


def with_odd_helpers(config, evil):
    name_file(config, "model", evil)
    config["helpers"] = ["a"]


def as_a_layer(config, evil):
    config["args"] |= {"model": "hybrid", "layers": ["gru", evil]}


def as_a_layer_of_a_file(config, evil):
    name_file(config, "layers", evil)
    config["args"] |= {"model": "hybrid", "layers": [evil]}


def through_a_link(config, evil):
    os.symlink(evil, "link.py")
    name_file(config, "model", os.path.abspath("link.py"))


TRICKS = {
    "a model": lambda config, evil: name_file(config, "model", evil),
    "a task": lambda config, evil: name_file(config, "task", evil),
    "a relative path": lambda config, evil: name_file(config, "task", "evil.py"),
    "a folder up": lambda config, evil: name_file(config, "model", os.path.abspath("R") + "/../evil.py"),
    "in the run": lambda config, evil: name_file(config, "model", os.path.abspath("R/evil.py")),
    "a link": through_a_link,
    "no digest": without_digest,
    "an odd digest": with_odd_digest,
    "odd helpers": with_odd_helpers,
    "a layer of a hybrid": as_a_layer,
    "a layer with a digest": as_a_layer_of_a_file,
    "not a text": lambda config, evil: config["args"].update(model=[evil]),
}


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("opener", OPENERS)
def test_opening_a_stranger_s_run_executes_nothing(main, shared, trick, opener):
    mark = shared(TRICKS[trick])
    code, out, err = main(*OPENERS[opener])
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert not mark.exists()


def test_a_file_that_is_never_opened_is_not_executed_either(main, shared):
    """--match_params may name a file, but a run is opened at the sizes that were solved."""
    mark = shared(lambda config, evil: config["args"].update(match_params=evil))
    for words in OPENERS.values():
        main(*words)
    assert not mark.exists()


@pytest.mark.parametrize("words", [["report", "R"], ["--vis_only", "--out_dir", "R"]], ids=["report", "vis_only"])
def test_what_shows_a_run_needs_no_code_of_it(main, shared, words):
    mark = shared(TRICKS["a model"])
    main(*words)
    assert not mark.exists()


def test_the_stranger_s_code_would_leave_its_mark(main, shared):
    """The tests above can fail: whoever names the file on the command line runs it. Then it is known."""
    mark = shared(TRICKS["a model"])
    refused = main(*OPENERS["generate"])
    assert re.search(r"the model file '.*evil.py' of this run is not known as one that you have run", refused[2])
    assert re.search(
        r"read it first, .*--allow_code uses the copy in .*; --model '.*evil.py' runs that file", refused[2]
    )
    main(*OPENERS["generate"], "--model", "evil.py")
    assert mark.exists()
    mark.unlink()
    main(*OPENERS["generate"])
    assert mark.exists(), "what was named once is not asked for again"


@pytest.fixture
def own(made, main, tmp_path):
    """A copy of the run `own`, whose config.json names layer.py in the folder where it was trained."""
    shutil.copytree(made / "own", "R")
    return made / "layer.py"


def somebody_else(monkeypatch, tmp_path) -> None:
    """The same files, opened by a user who has run nothing yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another user"))


def test_the_user_who_trained_a_run_opens_it_and_another_one_is_asked(main, own, monkeypatch, tmp_path):
    assert main(*OPENERS["generate"])[0] == 0
    somebody_else(monkeypatch, tmp_path)
    code, out, err = main(*OPENERS["generate"])
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "is not known as one that you have run on this machine" in err
    assert main(*OPENERS["generate"], "--allow_code")[0] == 0
    assert main(*OPENERS["generate"])[0] == 2, "--allow_code is for one command"
    assert main(*OPENERS["resume"], "--model", own)[0] == 0
    assert main(*OPENERS["generate"])[0] == 0


def test_the_helpers_that_a_stranger_names_must_be_those_that_were_run(main, own):
    """Otherwise a file of the user's own could be made to load a helper that it never had."""
    config = open_sealed("R/config.json")
    config["helpers"]["model"] = {}
    write_json("R/config.json", seal(config))
    assert not executed.has_run(own, {"layer.py": "0" * 64})
    code, _, err = main(*OPENERS["evaluate"])
    assert code == 2
    assert "is not known as one that you have run" in err


def test_a_state_folder_that_cannot_be_written_costs_a_question_and_no_run(main, tmp_path, monkeypatch):
    monkeypatch.setattr(run_figures, "draw_all", lambda document, folder: [])
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    (tmp_path / "layer.py").write_text(LAYER.format(top=""))
    code, _, err = main(*SMALL, "--task", "needle", "--model", "layer.py", "--out_dir", "R")
    assert (code, err.count("\n")) == (0, 1)
    assert re.search(r"notice: '.*' cannot be written: .*; so the run will be opened only with --model PATH", err)
    assert main(*OPENERS["generate"])[0] == 2
    assert main(*OPENERS["generate"], "--model", "layer.py")[0] == 0


def test_a_thousand_runs_of_one_file_leave_one_note(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for digest in ("a", "a", "b", "a"):
        assert executed.record(tmp_path / "x.py", {"x.py": digest}) == ""
    assert len(list(executed.executed_folder().iterdir())) == 2


def test_a_damaged_note_allows_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    path = tmp_path / "x.py"
    path.write_text("")
    executed.record(path, {"x.py": file_digest(path)})
    assert executed.is_as_it_was_run(path)
    (note,) = executed.executed_folder().iterdir()
    for text in (b"", b"\0" * 90, b"[]", b'{"code": {}}', b'{"code": {"x.py": 1}}', b"[" * 100_000):
        note.write_bytes(text)
        assert not executed.is_as_it_was_run(path)


def test_a_file_of_the_cluster_is_looked_for_where_it_lies_now(tmp_path, monkeypatch):
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "x.py").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    planned = tmp_path / "planned" / "x.py"
    executed.record(planned, {"x.py": file_digest(tmp_path / "node" / "x.py")})
    assert not executed.is_as_it_was_run(planned)
    monkeypatch.setenv(VARIABLE, json.dumps({str(tmp_path / "planned"): str(tmp_path / "node")}))
    assert executed.is_as_it_was_run(planned)


ROWS = {
    "task": {"task": "{evil}"},
    "model": {"model": "{evil}"},
    "match_params": {"flags": "--match_params {evil}"},
    "an equal sign": {"flags": "--model={evil}"},
    "a layer": {"model": "hybrid", "flags": "--layers gru,{evil}"},
}


@pytest.mark.parametrize("trick", ROWS)
def test_reproducing_a_stranger_s_record_executes_nothing(main, made, shared, monkeypatch, tmp_path, trick):
    records.collect([made / "plain"], "record")
    with open("record/results.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    row |= {name: text.format(evil=tmp_path / "evil.py") for name, text in ROWS[trick].items()}
    with open("record/results.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, row, lineterminator="\n")
        writer.writeheader()
        writer.writerow(row)
    monkeypatch.setattr(parts, "one_by_one", None)  # nothing is started
    code, out, err = main("reproduce", "record", "--out_dir", "again")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert re.search("is not known as one that you have run|--layers: got the file", err)
    assert not (tmp_path / "mark").exists()
    assert not (tmp_path / "again").exists()


def test_a_file_is_no_layer_of_a_hybrid(main, made):
    """A run keeps the code of --task and --model alone, so such a file would have no digest and no copy."""
    code, _, err = main(*SMALL, "--task", "needle", "--model", "hybrid", "--layers", f"gru,{made / 'layer.py'}")
    assert (code, err.count("\n")) == (2, 1)
    assert "allowed: names of layers, of " + ", ".join(n for n in MODELS if n != "hybrid") in err


def test_a_lock_that_is_a_link_is_not_followed(main, shared, tmp_path):
    """Its target would be emptied when the lock is given back."""
    shared(lambda config, evil: None)
    (tmp_path / "precious").write_text("mine")
    os.remove("R/.lock")
    os.symlink(tmp_path / "precious", "R/.lock")
    os.remove("R/metrics.json")  # so that the run goes on
    code, _, err = main(*OPENERS["resume"])
    assert (tmp_path / "precious").read_text() == "mine"
    assert (code, err.count("\n")) == (2, 1)
    assert "cannot be locked" in err
