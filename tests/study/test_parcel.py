"""What travels to a machine of a cluster and back: files, a user's own layer, texts. No Ray is needed here.

python -m pytest tests/study/test_parcel.py
"""

import json
import shutil
from pathlib import Path

import pytest
from conftest import TINY
from run_content import content

from src.flags import own_files
from src.flags.fields import UserError
from src.flags.places import VARIABLE, here
from src.setup.stored import open_run
from src.storage.env import versions
from src.storage.files import read_json
from src.study.engines import DONE, FAILED, TIMEOUT, Job
from src.study.engines import ray as ray_engine
from src.study.engines.node import STOPPED, Delivery, Order, carry_out, different
from src.study.engines.parcel import files_of, needed, put, unpack, write

LIGHT = {"threads": 1, "target": "engine_jobs:act", "preload": ("pytest", "src.study.engines.worker")}
LAYER = """
import torch
from helper import scale
from src.models.base import Mixer


class Layer(Mixer):
    def __init__(self, args):
        super().__init__()
        self.map = torch.nn.Linear(args.d_model, args.d_model)

    def forward(self, x):
        return scale * self.map(x)
"""


@pytest.fixture
def layer(tmp_path):
    """A user's layer with a helper beside it."""
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "layer.py").write_text(LAYER)
    (folder / "helper.py").write_text("scale = 0.5\n")
    (folder / "unused.py").write_text("")
    return folder / "layer.py"


def test_a_path_is_found_where_its_folder_was_unpacked(monkeypatch):
    monkeypatch.setenv(VARIABLE, json.dumps({"/a/b": "/here/0", "/a": "/here/1"}))
    assert here("/a/b/c/d.py") == Path("/here/0/c/d.py")
    assert here("/a/x.py") == Path("/here/1/x.py")
    assert here("/other/x.py") == Path("/other/x.py")
    monkeypatch.delenv(VARIABLE)
    assert here("/a/b") == Path("/a/b")


def test_a_folder_comes_back_as_it_was_and_replaces_the_old_one(tmp_path):
    files = {"config.json": b"{}", "figures/loss.png": b"\x89"}
    write({**files, ".lock": b"7"}, tmp_path / "a")
    assert files_of(tmp_path / "a") == files
    write({"old": b""}, tmp_path / "runs/b")
    put(files, tmp_path / "runs/b")
    assert files_of(tmp_path / "runs/b") == files
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["b"]
    assert files_of(tmp_path / "missing") == {}


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x"])
def test_no_file_is_written_outside_of_the_folder(name, tmp_path):
    with pytest.raises(ValueError, match="allowed: a path below"):
        put({"config.json": b"{}", name: b""}, tmp_path / "runs/a")
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_layer_travels_with_what_it_loads_and_with_its_whole_path(layer, monkeypatch):
    monkeypatch.chdir(layer.parent)
    with own_files.hosted():
        words, places = needed(["--task", "needle", "--model", "layer.py"])
    assert set(places[str(layer.parent)]) == {"layer.py", "helper.py"}
    assert words[-4:] == ("--task", "needle", "--model", str(layer))


def test_texts_travel_and_a_text_that_may_be_missing_elsewhere_is_refused(tmp_path, monkeypatch):
    (tmp_path / "tiny_shakespeare.txt").write_text("to be")
    (tmp_path / "book.txt").write_text("or not")
    monkeypatch.setenv("SEQ_BENCH_DATA", str(tmp_path))
    assert needed(["--task", "tiny_shakespeare", "--model", "gru"])[1] == {
        str(tmp_path): {"tiny_shakespeare.txt": b"to be"}
    }
    monkeypatch.chdir(tmp_path)
    words, places = needed(["--task", "text", "--model", "gru", "--data_path", "book.txt"])
    assert (words[-1], places) == (str(tmp_path / "book.txt"), {str(tmp_path): {"book.txt": b"or not"}})
    assert needed(["--task", "needle", "--model", "gru"])[1] == {}
    for task in ("tiny_shakespeare", "wikitext"):
        monkeypatch.delenv("SEQ_BENCH_DATA", raising=False)
        with pytest.raises(UserError, match=f"--engine ray: task '{task}' reads a text from the cache"):
            needed(["--task", task, "--model", "gru"])
    with pytest.raises(UserError, match=r"--data_path: got '.*nothing\.txt', which cannot be read"):
        needed(["--task", "text", "--model", "gru", "--data_path", "nothing.txt"])


def test_the_node_says_where_its_files_are(tmp_path):
    places = {"/a": {"x.py": b"1"}, "/b": {"c/y": b"2"}}
    found = unpack(places, tmp_path)
    assert {name: files_of(Path(folder)) for name, folder in found.items()} == places


def order(*words, name="a", begun=None, settings=LIGHT, data="", **changed) -> Order:
    return Order(Job(name, f"runs/{name}", words), begun or {}, {**versions(), **changed}, data, settings)


def test_a_job_runs_on_a_node_and_its_folder_goes_back():
    done = carry_out(order("tell"), {})
    assert (done.outcome.status, set(done.files)) == (DONE, {"seen", "words"})
    assert carry_out(order("say"), {}).log.splitlines()[1] == b"error: --lr: got 7, allowed: less"
    lost = carry_out(order("kill_itself"), {}).outcome
    assert (lost.status, lost.attempts, lost.lost) == (FAILED, 1, True)  # the engine on the other side tries again


def test_a_run_that_was_begun_goes_on_elsewhere():
    assert carry_out(order("kill_itself_once", begun={"mark": b""}), {}).outcome.status == DONE


def test_another_version_is_one_line():
    done = carry_out(order("tell", torch="1.0.0", python="3.9.1"), {})
    assert done.outcome.status == FAILED
    assert "Python 3." in done.outcome.why
    assert "and not 1.0.0 as the machine of the plan; install the same versions" in done.outcome.why
    assert "\n" not in done.outcome.why
    assert different({"python": "3.11.1", "torch": "2.6.0+cpu"}, {"python": "3.11.9", "torch": "2.6.0"}) == ""


def test_without_ray_one_line_says_what_to_install(tmp_path, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr(ray_engine.importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"pip install -r requirements-cluster\.txt"):
        ray_engine.RayEngine(tmp_path).__enter__()


@pytest.mark.parametrize(
    ("words", "gpus"),
    [
        (("--device", "cuda"), 1),
        (("--device=cuda:0",), 1),
        (("--device", "cuda", "--device", "cpu"), None),
        (("--model", "cuda"), None),
    ],
)
def test_a_gpu_is_asked_for_where_the_words_name_one(words, gpus):
    assert ray_engine.resources(Job("a", "a", words), 2) == {"CPU": 2, **({"GPU": gpus} if gpus else {})}


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:x", "ray://127.0.0.1:99999"])
def test_a_cluster_that_is_not_there_is_one_line_at_once(address):
    with pytest.raises(UserError, match="where no cluster answers"):
        ray_engine.check_address(address)
    for fine in ("", "auto"):
        ray_engine.check_address(fine)


def test_a_stopped_run_that_has_not_begun_leaves_the_folder_as_it_was(tmp_path):
    write({"config.json": b"old"}, tmp_path / "runs/a")
    engine, job = ray_engine.RayEngine(tmp_path), Job("a", "runs/a", ())
    engine._place(job, 1, Delivery(ray_engine.Outcome(job, STOPPED), {"x": b""}, b"said"))
    assert files_of(tmp_path / "runs/a") == {"config.json": b"old"}
    assert engine.log(job).read_bytes() == b"said"
    engine._place(job, 2, Delivery(ray_engine.Outcome(job, TIMEOUT), {"config.json": b"new"}, b" again"))
    assert files_of(tmp_path / "runs/a") == {"config.json": b"new"}
    assert engine.log(job).read_bytes() == b"said again"


@pytest.mark.slow
def test_a_run_made_elsewhere_opens_here_like_one_made_here(layer, tmp_path, main):
    """The file is not there while the run is made; its copy on the node is. Then it is back, and everything fits."""
    with own_files.hosted():
        words, places = needed(["--task", "needle", "--model", str(layer), *TINY[:-1]])
    moved = layer.parent.rename(tmp_path / "away")
    done = carry_out(order(*words, settings={"threads": 1}), places)
    assert done.outcome.status == DONE, done.log.decode()
    moved.rename(layer.parent)
    put(done.files, tmp_path / "runs/a")
    assert main("--task", "needle", "--model", layer, *TINY, "--out_dir", tmp_path / "local")[0] == 0
    assert content(tmp_path / "runs/a") == content(tmp_path / "local")
    stored = open_run(str(tmp_path / "runs/a"))
    assert stored.args.model == str(layer)
    code, _, said = main("--resume", "--out_dir", tmp_path / "runs/a")
    assert code == 0, said


@pytest.mark.slow
def test_a_text_is_the_same_elsewhere(tmp_path, monkeypatch, main):
    text = tmp_path / "texts" / "tiny_shakespeare.txt"
    text.parent.mkdir()
    text.write_text("it is the east, and Juliet is the sun. " * 300)
    monkeypatch.setenv("SEQ_BENCH_DATA", str(text.parent))
    words, places = needed(["--task", "tiny_shakespeare", "--model", "gru", *TINY[:-1]])
    away = text.parent.rename(tmp_path / "away")
    done = carry_out(order(*words, settings={"threads": 1}, data=str(text.parent)), places)
    assert done.outcome.status == DONE, done.log.decode()
    away.rename(text.parent)
    assert main("--task", "tiny_shakespeare", "--model", "gru", *TINY, "--out_dir", tmp_path / "local")[0] == 0
    put(done.files, tmp_path / "a")
    assert content(tmp_path / "a") == content(tmp_path / "local")
    assert read_json(tmp_path / "a/env.json")["data"] == read_json(tmp_path / "local/env.json")["data"]
    shutil.rmtree(tmp_path / "away", ignore_errors=True)


def test_conversations_of_this_project_need_not_travel_and_a_template_does(tmp_path):
    template = tmp_path / "own.jinja"
    template.write_text("<|user|>")
    words, places = needed(["--task", "chat", "--model", "gru"])
    assert (words, places) == (("--task", "chat", "--model", "gru", "--task", "chat", "--model", "gru"), {})
    _, places = needed(["--task", "chat", "--model", "gru", "--chat_template", str(template)])
    assert places == {str(tmp_path): {"own.jinja": b"<|user|>"}}
