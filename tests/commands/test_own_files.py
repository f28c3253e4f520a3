"""A user's own files as people write them: exits, helpers, links, prints, settings, and runs that survive them.

    python -m pytest tests/commands/test_own_files.py

Each wrong file is refused in one line that names it, with exit code 2, before anything is written.
"""

import json
import os
import random
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from conftest import TINY, TINY_NEEDLE, bench

from src.figures import runs as run_figures
from src.flags import own_files
from src.flags.run_flags import resolve
from src.models.backbone import build
from src.setup.trial import _unchanged

LAYER = """import torch
from torch import nn
from src.models.base import Mixer
{top}

class Layer(Mixer):
    def __init__(self, args):
        super().__init__()
        {init}
        self.l = nn.Linear(args.d_model, args.d_model)

    def forward(self, x):
        {forward}
        return self.l(x)
{bottom}
"""
TASK = """from dataset.task import Example, Task
{top}

class Echo(Task):
    def example(self, rng, length):
        {example}
        word = "".join(rng.choice(list("abcdefgh"), size=8))
        return Example(word + ">", word)
"""
WHOLE = """import torch
from torch import nn
from src.models.base import ARModel

class Whole(ARModel):
    def __init__(self, vocab_size, args):
        super().__init__()
        {init}

    def forward(self, x, attn_mask=None):
        {forward}
"""
PARSE = "import argparse; p = argparse.ArgumentParser(); p.add_argument('data'); p.parse_args()"
SMALL = [*TINY, "--max_steps", "2", "--val_size", "4", "--test_size", "4"]


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    monkeypatch.setattr(run_figures, "draw_all", lambda document, folder: [])


def write(path, text: str, **parts) -> str:
    """Write a user's file. Parts that are not given are `pass`."""
    names = re.findall(r"{(\w+)}", text)
    path.write_text(text.format(**{**dict.fromkeys(names, "pass"), **parts}))
    return str(path)


def document(run="R") -> dict:
    with open(f"{run}/metrics.json") as file:
        return json.load(file)


def refused(answer, *patterns) -> str:
    """The one line of an error with exit code 2."""
    code, out, err = answer
    assert (code, out, err.count("\n")) == (2, "", 1), (code, out, err)
    for pattern in patterns:
        assert re.search(pattern, err), err
    return err


# --- exits ------------------------------------------------------------------------------------------------------------

COMMANDS = {
    "train": [*SMALL, "--task", "needle"],
    "check": ["check"],
    "speed": ["speed", "--panel", "train", "--lengths", "16"],
    "list": ["list"],
    "help": ["--help"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("exit", ["import sys; sys.exit()", "raise SystemExit(0)", PARSE])
def test_an_exit_when_the_file_is_read_is_one_line_that_names_the_file(main, tmp_path, command, exit):
    write(tmp_path / "leaves.py", LAYER, top=exit)
    answer = main(*COMMANDS[command], "--model", "leaves.py")
    refused(answer, r"--model: '.*leaves.py' cannot be imported, line 4: the file ends the program \(SystemExit: ")
    assert os.listdir(tmp_path) == ["leaves.py"]


@pytest.mark.parametrize("command", ["train", "check", "speed"])
@pytest.mark.parametrize("place", ["init", "forward"])
def test_an_exit_inside_the_layer_is_one_line_that_names_the_file(main, tmp_path, command, place):
    write(tmp_path / "leaves.py", LAYER, **{place: "raise SystemExit(0)"})
    code, out, err = main(*COMMANDS[command], "--model", "leaves.py")
    lines = [line for line in err.splitlines() if not line.startswith("[")]  # without the progress of `check`
    assert (code, out, len(lines)) == (2, "", 1), err
    assert re.search(r"leaves.py', line \d+, in (__init__|forward): the file ends the program", err), err
    assert os.listdir(tmp_path) == ["leaves.py"]


TASKS_THAT_EXIT = {
    "train, at the top": ([*SMALL, "--model", "gru"], "top"),
    "train, in example": ([*SMALL, "--model", "gru"], "example"),
    "list": (["list"], "top"),
}


@pytest.mark.parametrize(("command", "place"), TASKS_THAT_EXIT.values(), ids=TASKS_THAT_EXIT)
def test_an_exit_of_a_task_file_is_one_line_that_names_the_file(main, tmp_path, command, place):
    write(tmp_path / "leaves.py", TASK, **{place: "raise SystemExit"})
    refused(main(*command, "--task", "leaves.py"), r"leaves.py'.*line \d+.*the file ends the program")


def test_an_exit_in_a_late_training_step_is_no_success(main, tmp_path):
    stop = "self.n = getattr(self, 'n', 0) + self.training\n        if self.n > 4: raise SystemExit(0)"
    write(tmp_path / "leaves.py", LAYER, forward=stop)
    answer = main(*SMALL, "--max_steps", "9", "--task", "needle", "--model", "leaves.py", "--out_dir", "R")
    refused(answer, r"leaves.py', line \d+, in forward: the file ends the program")


def test_what_is_no_exception_is_told_too(main, tmp_path):
    """`pytest.skip` at the top of a file raises a BaseException."""
    write(tmp_path / "skips.py", LAYER, top="import pytest; pytest.skip('not here', allow_module_level=True)")
    refused(main("check", "--model", "skips.py"), r"--model: '.*skips.py' cannot be imported, line 4: Skipped")


def test_a_missing_file_that_a_layer_reads_is_blamed_on_the_layer(main, tmp_path):
    write(tmp_path / "reads.py", LAYER, init="open('weights.bin')")
    refused(main("check", "--model", "reads.py"), r"'.*reads.py', line \d+, in __init__: FileNotFoundError")


# --- helpers and paths ------------------------------------------------------------------------------------------------


def test_a_helper_beside_the_file_is_imported_and_errors_in_it_are_named(main, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "helper.py").write_text("def pad(x):\n    return x[0, 0, 0, 0, 0]\n")
    write(folder / "layer.py", LAYER, top="import helper", forward="helper.pad(x)")
    answer = main(*SMALL, "--task", "needle", "--model", "mine/layer.py")
    refused(answer, r"--model: '.*layer.py', line 2 of '.*helper.py', in pad: IndexError")
    (folder / "helper.py").write_text("def pad(x:\n")
    answer = main(*SMALL, "--task", "needle", "--model", "mine/layer.py")
    refused(answer, r"'.*layer.py' cannot be imported, line 1 of helper.py: SyntaxError")


def test_a_file_s_folder_shadows_neither_this_project_nor_python(main, tmp_path):
    for name in ("src", "dataset"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('shadowed')\n")
    (tmp_path / "csv.py").write_text("raise RuntimeError('shadowed')\n")
    write(tmp_path / "layer.py", LAYER, top="import csv; import dataset.strings; import src.models.parts")
    assert main("list", "--model", "layer.py")[0] == 0


def test_two_files_of_one_name_have_their_own_helpers(tmp_path):
    """Modules of one folder are not those of another, and a changed one is read again."""
    with own_files.hosted():
        for value in ("one", "two"):
            folder = tmp_path / value
            folder.mkdir()
            (folder / "helper.py").write_text(f"VALUE = '{value}'\n")
            path = folder / "layer.py"
            path.write_text("import helper\nVALUE = helper.VALUE\n")
            assert own_files.load("model", path).VALUE == value
            assert list(own_files.code_of(path)) == ["layer.py", "helper.py"]
        (folder / "helper.py").write_text("VALUE = 'six'\n")
        assert own_files.load("model", path).VALUE == "six"
    assert str(folder) not in sys.path
    assert "helper" not in sys.modules


def test_a_helper_counts_under_a_link_to_its_folder_too(tmp_path, monkeypatch):
    """PYTHONPATH may name the folder by a link; an installed package below the folder is no helper."""
    folder, link = tmp_path / "mine", tmp_path / "link"
    (folder / "venv/site-packages").mkdir(parents=True)
    link.symlink_to(folder)
    (folder / "helper.py").write_text("")
    (folder / "venv/site-packages/installed.py").write_text("")
    for path in (link, folder / "venv/site-packages"):
        monkeypatch.syspath_prepend(path)
    (folder / "layer.py").write_text("import helper, installed\n")
    with own_files.hosted():
        own_files.load("model", folder / "layer.py")
        assert list(own_files.code_of(folder / "layer.py")) == ["layer.py", "helper.py"]
        assert own_files.is_own(str(folder / "helper.py"))
        assert not own_files.is_own(str(folder / "venv/site-packages/installed.py"))


def test_a_helper_that_is_imported_inside_a_function_is_found_and_counts(main, tmp_path):
    (tmp_path / "late.py").write_text("FACTOR = 1.0\n")
    path = write(tmp_path / "layer.py", LAYER, forward="import late; x = x * late.FACTOR")
    assert main(*SMALL, "--task", "needle", "--model", path, "--out_dir", "R")[0] == 0
    (tmp_path / "late.py").write_text("FACTOR = 2.0\n")
    refused(main("--resume", "--out_dir", "R"), "needs 'late.py' beside it, which has changed")


def test_a_class_may_come_from_a_helper_and_have_a_second_name(main, tmp_path):
    write(tmp_path / "impl.py", LAYER)
    (tmp_path / "layer.py").write_text("from impl import Layer\nOldName = Layer\n")
    write(tmp_path / "alias.py", LAYER, bottom="OldName = Layer")
    for name in ("layer.py", "alias.py"):
        assert main("list", "--model", name)[0] == 0


@pytest.mark.slow
def test_a_link_to_a_blob_without_a_suffix_is_a_model_a_task_and_a_text(main, tmp_path):
    """The store of a hub: names are links to files that are named by their digest. A file that changes the folder."""
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    write(blobs / "0a1b", LAYER, top="import os; os.chdir('/')")
    (blobs / "2c3d").write_text("to be or not to be, that is the question\n" * 60)
    (tmp_path / "layer.py").symlink_to("blobs/0a1b")
    (tmp_path / "text.txt").symlink_to("blobs/2c3d")
    mine = ["--task", "tiny_shakespeare", "--data_path", "text.txt", "--model", "layer.py", "--context_len", "16"]
    assert main(*SMALL, *mine, "--out_dir", "R")[:2] == (0, "R\n")
    config = json.loads((tmp_path / "R/config.json").read_text())
    assert config["args"]["model"] == str(tmp_path / "layer.py")
    assert config["args"]["data_path"] == str(tmp_path / "text.txt")
    assert os.getcwd() == str(tmp_path)
    assert main("--resume", "--out_dir", "R")[0] == 0
    assert main("--eval_only", "--out_dir", "R")[0] == 0


# --- a run survives its file ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept_run(tmp_path_factory):
    """A finished run of a user's layer and task, each with a helper. Tests take a copy."""
    import benchmark

    folder = tmp_path_factory.mktemp("kept")
    (folder / "pack").mkdir()
    (folder / "pack" / "__init__.py").write_text("")
    (folder / "pack" / "part.py").write_text("FACTOR = 1.0\n")
    write(folder / "layer.py", LAYER, top="from pack import part", forward="x = x * part.FACTOR")
    write(folder / "task.py", TASK)
    before, run_figures.draw_all = run_figures.draw_all, lambda document, folder: []
    try:
        words = [*SMALL, "--task", folder / "task.py", "--model", folder / "layer.py", "--out_dir", folder / "R"]
        assert benchmark.main(list(map(str, words))) == 0
    finally:
        run_figures.draw_all = before
    return folder


@pytest.fixture
def kept(kept_run, tmp_path):
    """The same run with its own copy of everything, at the place that config.json names."""
    saved = tmp_path / "saved"
    shutil.copytree(kept_run, saved)
    yield kept_run
    shutil.rmtree(kept_run)
    shutil.copytree(saved, kept_run)


def test_a_run_keeps_a_copy_of_its_files(kept):
    for name in ("model/layer.py", "model/pack/part.py", "task/task.py"):
        assert (kept / "R/code" / name).read_bytes() == (kept / name.split("/", 1)[1]).read_bytes()
    config = json.loads((kept / "R/config.json").read_text())
    assert config["files"].keys() == {"task", "model"}
    assert "pack/part.py" in config["helpers"]["model"]


USES = {
    "evaluate": ["--eval_only", "--out_dir"],
    "resume": ["--resume", "--out_dir"],
    "generate": ["generate", "--prompt", "abcdabcd>", "--greedy", "--out_dir"],
}
BREAKS = {
    "gone": (lambda f: (f / "layer.py").unlink(), r"the model file '.*layer.py' of this run is gone; --allow_code"),
    "moved": (lambda f: (f / "layer.py").rename(f / "x.py"), r"the model file '.*layer.py' of this run is gone;"),
    "a comment": (
        lambda f: (f / "layer.py").open("a").write("# why\n"),
        r"the model file '.*layer.py' of this run has changed since the run began; --allow_code uses the copy",
    ),
    "a helper": (
        lambda f: (f / "pack/part.py").write_text("FACTOR = 2.0\n"),
        r"'.*layer.py' of this run needs 'pack/part.py' beside it, which has changed since the run began",
    ),
    "no helper": (lambda f: shutil.rmtree(f / "pack"), r"needs 'pack/\w+.py' beside it, which is gone"),
    "the task": (lambda f: (f / "task.py").unlink(), r"the task file '.*task.py' of this run is gone"),
}


@pytest.mark.parametrize("how", [pytest.param(h, marks=[] if h == "a helper" else pytest.mark.slow) for h in BREAKS])
def test_a_changed_file_is_told_and_the_copy_is_used_when_it_is_asked_for(main, kept, how):
    change, told = BREAKS[how]
    code, first, _ = main("--eval_only", "--out_dir", kept / "R")
    assert code == 0
    change(kept)
    use = list(USES.values())[list(BREAKS).index(how) % len(USES)]
    refused(main(*use, kept / "R"), told, r"--(model|task) PATH uses another version")
    code, out, err = main("--eval_only", "--out_dir", kept / "R", "--allow_code")
    assert code == 0
    assert re.search(r"notice: .*; its copy in the run directory is used", err)
    found = json.loads(out)
    assert [v["version"] for v in found.pop("code").values()] == ["copy"]
    assert found == {k: v for k, v in json.loads(first).items() if k != "code"}


@pytest.mark.slow
def test_every_command_opens_the_copy(main, kept):
    (kept / "layer.py").unlink()
    for use in USES.values():
        code, out, err = main(*use, kept / "R", "--allow_code")
        assert code == 0, err
        assert "its copy in the run directory is used" in err
        assert "notice" not in out


def test_a_changed_copy_is_refused(main, kept):
    (kept / "layer.py").unlink()
    (kept / "R/code/model/layer.py").open("a").write("print('from a stranger')\n")
    refused(
        main("--eval_only", "--out_dir", kept / "R", "--allow_code"), r"and the copy '.*layer.py' has changed since"
    )


def test_code_inside_a_run_directory_is_never_run_unasked(main, kept):
    """A stranger's config.json may name a file of its own directory as the original."""
    from src.storage.files import open_sealed, seal, write_json

    (kept / "R/evil.py").write_text("raise SystemExit('ran')\n")
    config = open_sealed(kept / "R/config.json")
    config["args"]["model"] = str(kept / "R/evil.py")
    config["files"]["model"] = own_files.file_digest(kept / "R/evil.py")
    config["helpers"]["model"] = {}
    write_json(kept / "R/config.json", seal(config))
    refused(main("--eval_only", "--out_dir", kept / "R"), r"lies in the run directory; --allow_code")


@pytest.mark.slow
def test_another_version_is_used_when_it_is_asked_for_and_the_result_says_so(main, kept, tmp_path):
    write(tmp_path / "new.py", LAYER, forward="x = x * 1.0")
    (kept / "layer.py").unlink()
    code, out, err = main("--eval_only", "--out_dir", kept / "R", "--model", "new.py")
    assert code == 0, err
    assert json.loads(out)["code"] == {
        "model": {"version": "another", "sha256": own_files.file_digest(tmp_path / "new.py")}
    }
    assert "new.py' is used, another version than that of the run" in err
    assert main("generate", kept / "R", "--model", "new.py", "--prompt", "abcdabcd>")[0] == 0
    write(tmp_path / "wider.py", LAYER, init="self.more = nn.Linear(2, 2)")
    answer = main("--eval_only", "--out_dir", kept / "R", "--model", "wider.py")
    assert answer[0] == 2
    assert re.search(r"wider.py', while its weights are loaded: RuntimeError", answer[2])
    answer = main("--eval_only", "--out_dir", kept / "R", "--model", "transformer")
    assert answer[0] == 2


def test_metrics_say_that_a_run_went_on_with_another_version(main, tmp_path):
    """The repeated path of the run asks for nothing: a habit must not mix two versions in one training."""
    stop = "self.n = getattr(self, 'n', 0) + self.training\n        if self.n > 8: raise SystemExit(0)"
    path = write(tmp_path / "layer.py", LAYER, forward=stop)
    start = [*SMALL, "--task", "needle", "--model", path]
    assert main(*start, "--max_steps", "30", "--out_dir", "R")[0] == 2
    write(tmp_path / "new.py", LAYER)
    (tmp_path / "layer.py").open("a").write("# changed\n")
    refused(main("--resume", "--out_dir", "R", "--model", "layer.py"), r"has changed since the run began")
    assert main("--resume", "--quiet", "--out_dir", "R", "--model", "new.py")[0] == 0
    found = document()
    assert [c["kind"] for c in found["other_code"]] == ["model"]
    assert found["other_code"][0]["sha256"] == own_files.file_digest(tmp_path / "new.py")
    assert any("went on with another version of its model file" in note for note in found["notes"])


@pytest.mark.slow
def test_a_module_that_appears_beside_the_file_is_noticed(main, tmp_path):
    """A new einops.py beside the layer would be imported in place of the package."""
    (tmp_path / "lib").mkdir()
    folder = tmp_path / "mine"
    folder.mkdir()
    top = "try:\n    import a_helper_of_mine\nexcept ImportError:\n    pass"
    path = write(folder / "layer.py", LAYER, top=top)
    assert main(*SMALL, "--task", "needle", "--model", path, "--out_dir", "R")[0] == 0
    (folder / "a_helper_of_mine.py").write_text("")
    refused(main("--resume", "--out_dir", "R"), r"'.*layer.py' now loads 'a_helper_of_mine.py' from its folder")


def test_overwrite_replaces_the_copy_and_leaves_other_files(main, kept):
    (kept / "R/code/model/notes.txt").write_text("mine")
    assert main(*SMALL, "--task", "needle", "--model", "gru", "--overwrite", "--out_dir", kept / "R")[0] == 0
    assert [p.name for p in (kept / "R/code").rglob("*") if p.is_file()] == ["notes.txt"]


# --- prints -----------------------------------------------------------------------------------------------------------


def test_prints_of_a_user_s_files_go_to_stderr_once(main, tmp_path):
    """At import, in a pass, in a helper: stdout of `--eval_only` and `generate` is their answer alone."""
    (tmp_path / "helper.py").write_text("import sys\ndef say(text):\n    sys.stdout.write(text + '\\n')\n")
    top = "from helper import say; print('at', 'import')"
    path = write(tmp_path / "layer.py", LAYER, top=top, forward="print('in', 'forward'); say('in a helper')")
    task = write(tmp_path / "task.py", TASK, top="print('task')", example="print('example')")
    answer = main(*SMALL, "--task", task, "--model", path, "--out_dir", "R")
    assert answer[:2] == (0, "R\n")
    assert sorted(answer[2].splitlines()) == sorted(["at import", "in forward", "in a helper", "task", "example"])
    code, out, err = main("--eval_only", "--out_dir", "R")
    json.loads(out)
    assert (code, err.splitlines().count("in forward")) == (0, 1)
    code, out, err = main("generate", "R", "--prompt", "abcdabcd>", "--greedy")
    assert (code, out.count("\n")) == (0, 1)
    assert "forward" not in out
    assert main("list", "--model", path)[1].count("at import") == 0


# --- settings ---------------------------------------------------------------------------------------------------------

SETTINGS = {
    "gradient mode": ("torch.set_grad_enabled(False)", torch.is_grad_enabled),
    "default dtype": ("torch.set_default_dtype(torch.float64)", torch.get_default_dtype),
    "default device": ("torch.set_default_device('meta')", torch.get_default_device),
    "number of threads": ("torch.set_num_threads(torch.get_num_threads() + 1)", torch.get_num_threads),
    "deterministic": ("torch.use_deterministic_algorithms(True)", torch.are_deterministic_algorithms_enabled),
    "float32 precision": ("torch.set_float32_matmul_precision('medium')", torch.get_float32_matmul_precision),
    "working directory": ("import os; os.chdir('/')", os.getcwd),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_a_file_changes_when_it_is_read_are_restored(main, tmp_path, name):
    change, read = SETTINGS[name]
    write(tmp_path / "sets.py", LAYER, top=change)
    before = read()
    code, out, err = main("list", "--model", "sets.py")
    assert (code, read()) == (0, before)
    assert re.search(rf"notice: '.*sets.py' changed .*{name}.* to .* for the whole program; it is .* again", err)
    assert "notice" not in out


def test_gradients_that_a_file_turns_off_are_on_for_its_training(main, tmp_path):
    """At import and in __init__; the float64 of a constructor does not reach the backbone either."""
    top, init = "torch.set_grad_enabled(False)", "torch.set_default_dtype(torch.float32); torch.set_grad_enabled(False)"
    path = write(tmp_path / "sets.py", LAYER, top=top, init=init)
    code, _, err = main(*SMALL, "--task", "needle", "--model", path, "--out_dir", "R")
    assert code == 0, err
    assert torch.is_grad_enabled()
    assert document()["grad_norm"]["max"] > 0


# --- one training step and one checkpoint before anything is written --------------------------------------------------

EXTRA = """
    def get_extra_state(self):
        return {extra}
"""
TRIALS = {
    "sparse embedding": (
        WHOLE,
        {
            "init": "self.e, self.h = nn.Embedding(vocab_size, 8, sparse=True), nn.Linear(8, vocab_size)",
            "forward": "return self.h(self.e(x))",
        },
        r"while one training step is tried: \w+: .*[Ss]parse",
    ),
    "no parameters": (
        WHOLE,
        {
            "init": "self.n = vocab_size",
            "forward": "return nn.functional.one_hot(x, self.n).float()",
        },
        r"while one training step is tried: ValueError: optimizer got an empty parameter list",
    ),
    "no gradients": (
        WHOLE,
        {
            "init": "self.h = nn.Embedding(vocab_size, vocab_size)",
            "forward": "return self.h(x).detach()",
        },
        r"while one training step is tried: RuntimeError: .* does not require grad",
    ),
    "gradients off in forward": (
        LAYER,
        {"forward": "torch.set_grad_enabled(False)"},
        r"RuntimeError: .*grad",
    ),
    "extra state that is not plain": (
        LAYER,
        {"bottom": EXTRA.format(extra="object()") + "\n    def set_extra_state(self, state):\n        pass"},
        r"while a checkpoint is tried: TypeError: payload.*_extra_state.*got object, allowed: tensors",
    ),
    "extra state that nobody reads": (
        LAYER,
        {"bottom": EXTRA.format(extra="{'n': 1}")},
        r"set_extra_state|Unexpected",
    ),
    "a backward pass that fails": (
        LAYER,
        {"forward": "x = x.exp(); y = self.l(x.sin()); x.mul_(2); return y"},
        r"while one training step is tried: RuntimeError: one of the variables needed for gradient",
    ),
}


@pytest.mark.parametrize("case", TRIALS)
def test_what_cannot_be_trained_or_saved_is_refused_before_the_run_directory_is_made(main, tmp_path, case):
    text, parts, told = TRIALS[case]
    write(tmp_path / "layer.py", text, **parts)
    refused(main(*SMALL, "--task", "needle", "--model", "layer.py", "--out_dir", "R"), "--model: '.*layer.py'", told)
    assert os.listdir(tmp_path) == ["layer.py"]


def test_the_trial_leaves_weights_members_and_random_state_as_they_were():
    from dataset.needle import Needle
    from src.models.template import GatedConv

    args = resolve(Needle, GatedConv, d_model=16, n_layer=1, n_head=2)
    model = build(GatedConv, 20, args, 64)
    model.seen, model.calls = [1], 0
    before = {k: v.clone() for k, v in model.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    with _unchanged(model):
        model.seen.append(2)
        model.calls, model.late = 5, torch.rand(3)
        np.random.rand(), random.random()
        model(torch.zeros(1, 3, dtype=torch.long)).sum().backward()
        for p in model.parameters():
            p.data += 1
    assert (model.seen, model.calls, hasattr(model, "late")) == ([1], 0, False)
    assert all(p.grad is None for p in model.parameters())
    for k, v in model.state_dict().items():
        assert torch.equal(v, before[k])
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]


@pytest.mark.slow
def test_a_helper_is_noticed_with_its_folder_on_pythonpath(tmp_path):
    """In processes of their own, as a user starts them."""
    (tmp_path / "helper.py").write_text("FACTOR = 1.0\n")
    path = write(tmp_path / "layer.py", LAYER, top="import helper", forward="x = x * helper.FACTOR")
    env = {"PYTHONPATH": str(tmp_path)}
    start = [*TINY_NEEDLE, "--model", path, "--max_steps", "2", "--out_dir", "R"]
    assert bench(*start, cwd=tmp_path, env=env).returncode == 0
    (tmp_path / "helper.py").write_text("FACTOR = 2.0\n")
    found = bench("--resume", "--out_dir", "R", cwd=tmp_path, env=env)
    assert (found.returncode, found.stderr.count("\n")) == (2, 1)
    assert "needs 'helper.py' beside it, which has changed since the run began" in found.stderr
