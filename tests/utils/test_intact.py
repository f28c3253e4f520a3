"""What a message says about the files of a run after an error: only what was found by looking.

python -m pytest tests/utils/test_intact.py
"""

import os
import shlex

import pytest

from src.flags import hints
from src.storage import checkpoint
from src.storage.files import seal, write_json, write_new
from src.storage.rundir import RunDir
from src.utils.intact import looked


@pytest.fixture
def folder(tmp_path):
    for name in ("config.json", "metrics.json"):
        write_json(tmp_path / name, seal({"name": name}))
    for name in ("ckpt.pt", "best.pt"):
        checkpoint.save(tmp_path / name, {"model": {}, "args": {}, "vocab": []})
    return tmp_path


def test_what_is_intact_and_what_is_damaged_is_named(folder):
    assert looked(folder) == f"; in '{folder}', config.json, metrics.json, ckpt.pt and best.pt are intact"
    (folder / "best.pt").write_bytes((folder / "best.pt").read_bytes()[:-1])
    (folder / "config.json").write_text("{}")
    found = looked(folder)
    assert found == f"; in '{folder}', metrics.json and ckpt.pt are intact, and config.json and best.pt are damaged"


def test_an_unfinished_run_has_a_way_to_go_on_and_no_run_says_nothing(folder, tmp_path_factory):
    (folder / "metrics.json").unlink()
    assert looked(folder).endswith(f"; with room on the disk, continue with: {hints.resuming(folder)}")
    assert looked(tmp_path_factory.mktemp("empty")) == ""


def test_the_folder_is_the_one_that_was_locked_last(folder, tmp_path_factory):
    other = RunDir.create(tmp_path_factory.mktemp("other") / "run")
    with other.lock():
        assert looked() == ""
    with RunDir(folder).lock():
        pass
    assert "are intact" in looked()


def test_a_command_to_continue_has_the_real_path_of_the_program(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(hints.resuming("my run", "--quiet"))
    assert words == ["python", str(hints.PROGRAM), "--resume", "--quiet", "--out_dir", "my run"]
    assert os.path.isfile(words[1])
    monkeypatch.chdir(hints.PROGRAM.parent)
    assert hints.program() == "benchmark.py"
    monkeypatch.chdir(hints.PROGRAM.parent.parent)
    assert os.path.isfile(hints.program())


def test_a_new_file_replaces_none(tmp_path):
    paths = [write_new(tmp_path, "eval", ".json", b"%d" % n) for n in range(3)]
    assert [p.name for p in paths] == ["eval.json", "eval-2.json", "eval-3.json"]
    assert [p.read_bytes() for p in paths] == [b"0", b"1", b"2"]
    assert len(list(tmp_path.iterdir())) == 3


def test_a_new_file_needs_no_links(tmp_path, monkeypatch):
    def no_links(*_):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", no_links)
    assert [write_new(tmp_path, "eval", ".json", b"x").name for _ in range(2)] == ["eval.json", "eval-2.json"]
