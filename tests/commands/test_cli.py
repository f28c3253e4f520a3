"""The command line: help and lists without torch, layers of settings, a user's own files, modes on a finished run.

python -m pytest tests/commands/test_cli.py
"""

import dataclasses
import importlib
import json
import re
import shutil
import statistics
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
from conftest import ROOT, TINY, TINY_NEEDLE, bench

from dataset import TASKS
from src.figures import runs as run_figures
from src.flags import fields as flag_fields
from src.flags import groups as flag_groups
from src.flags import run_flags
from src.flags.fields import UserError
from src.models import MODELS
from src.setup import plan
from src.storage import checkpoint
from src.storage.items import read_items

# The table of flags in the design, each of which must exist.
FLAGS = """task context_len train_size val_size test_size train_lengths eval_lengths loss_on data_path
model d_model n_layer n_head dropout dim_ffn pos embed_std lr min_lr warmup_steps epochs max_steps batch_size
batch_chars micro_batch_size grad_clip beta1 beta2 weight_decay label_smoothing precision
device threads compile backend seed
preset eval_every out_dir overwrite eval_only vis_only resume quiet log""".split()

MIXER = '''
"""A running mean, mixed."""
from dataclasses import dataclass

import torch
from torch import nn

from src.config import option
from src.models.base import Mixer


class Mean(Mixer):
    @dataclass(frozen=True)
    class Config:
        """mean"""

        gain: float = option(1.0, "factor of the mean", above=0.0)

    def __init__(self, args):
        super().__init__()
        self.gain, self.out = args.gain, nn.Linear(args.d_model, args.d_model)
        self.calls = 0

    def forward(self, x):
        # Only training steps count, not the look at the layer before them.
        self.calls += self.training and torch.is_grad_enabled() and self.out.weight.requires_grad
        broken = float("nan") if self.training and self.calls > BREAKS_AFTER else 1.0
        return self.gain * broken * self.out(x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None])
'''

TASK = '''
"""Write the first letter again.

    'kab>' -> 'k'
"""
from dataclasses import dataclass

from dataset.base import Example, LengthConfig, Task, option


class First(Task):
    """The first letter."""

    @dataclass(frozen=True)
    class Config(LengthConfig):
        """first"""

        min_len: int = option(4, "shortest word", least=4)
        copies: int = option(1, "how often it is written", least=1, most=5)

    small = {"context_len": 12, "lr": 0.002}

    def example(self, rng, length):
        word = "".join("abcdefgh"[i] for i in rng.integers(0, 8, length))
        return Example(word + ">", word[0] * self.args.copies)

    def solve(self, prompt):
        return prompt[0] * self.args.copies
'''


@pytest.fixture
def figures(monkeypatch):
    """Leave figures to the tests that are about them: drawing takes longer than all the rest of a small run."""
    monkeypatch.setattr(run_figures, "draw_all", lambda document, folder: [])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two finished runs of one task, figures included: a transformer and a GRU."""
    import benchmark

    folder = tmp_path_factory.mktemp("finished")
    for model in ("transformer", "gru"):
        assert (
            benchmark.main([*TINY_NEEDLE, "--task", "reverse", "--model", model, "--out_dir", str(folder / model)]) == 0
        )
    return folder


@pytest.fixture
def text_folder(tmp_path, monkeypatch):
    """A folder that stands in for the cache of texts, so that nothing is fetched."""
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "tiny_shakespeare.txt").write_text(
        "First Citizen:\nBefore we proceed any further, hear me speak.\n" * 100
    )
    monkeypatch.setenv("SEQ_BENCH_DATA", str(tmp_path / "texts"))


def data_path_of(task, folder) -> list[str]:
    """The flag that a task needs which has no text of its own, with a file or folder of its kind."""
    if not getattr(TASKS[task].load(), "own_text", False):
        return []
    lines = [f"line {i} of a text that somebody has written.\n" for i in range(100)]
    if task == "wikitext":
        pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
        for split in ("train", "validation"):
            importlib.import_module("pyarrow.parquet").write_table(
                pyarrow.table({"text": lines}), folder / f"{split}-00000-of-00001.parquet"
            )
        return ["--data_path", str(folder)]
    (folder / "own.txt").write_text("".join(lines))
    return ["--data_path", str(folder / "own.txt")]


def document(run) -> dict:
    return json.loads((Path(run) / "metrics.json").read_text())


def resolved(*argv):
    """The run configuration that a command line gives; nothing is trained."""
    return plan.plan([*TINY_NEEDLE[:4], *map(str, argv)])[0].args


# Help and lists

TORCHLESS = [
    ["--help"],
    ["--help", "--task", "needle"],
    ["list"],
    ["list", "--presets"],
    ["list", "--task", "dyck"],
    ["list", "--help"],
    ["nonsense"],
]


@pytest.mark.parametrize("arguments", TORCHLESS, ids=" ".join)
def test_help_and_lists_import_no_torch(arguments):
    code = f"import sys, benchmark; benchmark.main({arguments!r}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=60).returncode == 0


def test_a_model_s_help_does_import_torch():
    """The check itself: where torch is imported, it is seen."""
    code = "import sys, benchmark; benchmark.main(['--help', '--model', 'gru']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=60).returncode == 1


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--help"], ["list"]], ids=" ".join)
def test_help_and_list_answer_at_once(arguments):
    """Half a second is meant; the double is allowed, because other processes share the machine with a test."""
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        assert bench(*arguments).returncode == 0
        seconds.append(time.perf_counter() - began)
    assert statistics.median(seconds) < 1.0, seconds


def shown_flags(text: str) -> set[str]:
    """The flags that a help text offers, whose lines begin with them."""
    return set(re.findall(r"^ {2}(?:-h, )?--(\w+)", text, re.MULTILINE))


def fields(*classes) -> set[str]:
    return {f.name for cls in classes if cls is not None for f in dataclasses.fields(cls)}


def test_every_flag_of_the_design_exists(main):
    code, out, _ = main("--help")
    assert code == 0
    assert set(FLAGS) | {"rope", "no_bias", "help"} <= shown_flags(out)


@pytest.mark.parametrize("task", TASKS)
def test_help_of_a_choice_shows_its_flags_and_no_others(main, task):
    for model in ("transformer", "template") if task == "needle" else ("gru",):
        code, out, _ = main("--help", "--task", task, "--model", model)
        own = fields(flag_fields.own_config(TASKS[task].load()), flag_fields.own_config(MODELS[model].load()))
        assert code == 0
        assert shown_flags(out) == fields(*flag_groups.SHARED, flag_groups.ControlConfig) | own | {
            "rope",
            "no_bias",
            "help",
        }


def test_help_shows_the_defaults_of_the_preset(main):
    for arguments, width, steps in (
        (["--task", "dyck"], "64", None),
        (["--task", "dyck", "--preset", "base"], "384", "0"),
        ([], "384", "0"),
    ):
        _, out, _ = main("--help", *arguments)
        flat = " ".join(out.split())
        assert f"width of the residual stream [{width}]" in flat
        assert steps is None or f"in both directions [{steps}]" in flat
    assert "Defaults in brackets are those of --preset small for this task." in " ".join(
        main("--help", "--task", "dyck")[1].split()
    )


def test_list_names_everything(main):
    code, out, err = main("list")
    assert (code, err) == (0, "")
    for name, entry in {**TASKS, **MODELS}.items():
        assert re.search(rf"^  {name} +{re.escape(entry.summary)}", out, re.MULTILINE)
    assert re.search(r"^  small .*\n  base ", out, re.MULTILINE)
    assert re.search(r"^  attention=sdpa ", out, re.MULTILINE)
    assert all("pyarrow" in line for line in out.splitlines() if "[needs" in line)


def test_list_says_what_is_not_installed(main, monkeypatch):
    from src.flags.registry import Entry

    monkeypatch.setitem(
        MODELS,
        "mamba",
        Entry("src.models.mamba:Mamba", "selective state space", "Gu & Dao 2023", needs=("json", "no_such_package")),
    )
    assert "[needs json, no_such_package: not installed: no_such_package]" in main("list")[1]


@pytest.mark.parametrize("task", TASKS)
def test_list_shows_a_task_whole(main, text_folder, task):
    """Docstring, flags of its own, floors, and three instances that the task's own oracle solves."""
    code, out, err = main("list", "--task", task)
    assert (code, err) == (0, "")
    cls = TASKS[task].load()
    assert out.startswith(sys.modules[cls.__module__].__doc__.strip().splitlines()[0])
    assert fields(flag_fields.own_config(cls)) <= shown_flags(out)
    assert f"primary metric: {cls.primary}" in out
    if getattr(cls, "own_text", False):  # nothing is fetched to be listed
        assert "--data_path" in out.splitlines()[-1]
        return
    assert re.search(r"chance: uniform = 1/(\d+|\(tokens)", out)
    shown = out.splitlines()[-3:]
    if cls.reads_text:
        assert all(line.startswith("  user: " if cls.talks else ("  '", '  "')) for line in shown)
        return
    oracle = cls(run_flags.resolve(cls))
    for line in shown:
        prompt, answer = line[2:].split("|")
        solved = oracle.solve(prompt)
        if oracle.labelled:
            solved = " ".join(f"{at}:{c}" for at, c in solved)
        assert (
            solved == answer if task != "fourier_mix" else len(solved) == len(answer)
        )  # which has a best method, and no oracle


def test_list_shows_a_user_s_task(main, tmp_path):
    (tmp_path / "first.py").write_text(TASK)
    code, out, _ = main("list", "--task", "./first.py")
    assert code == 0
    assert "Write the first letter again." in out
    assert "--copies N" in out


@pytest.mark.parametrize(
    ("task", "where"),
    [
        (TASK.replace('word = "', 'word = {}["w"] + "'), r"', line \d+, in example: KeyError: 'w'"),
        (TASK.replace("return Example(", "return tuple("), r"TypeError: "),
        (TASK.replace('small = {"context_len": 12, "lr": 0.002}', "small = 5"), r"TypeError: "),
        (
            TASK + "\n    def __init__(self, args):\n        raise RuntimeError('no\\nway')\n",
            r"in __init__: RuntimeError: no$",
        ),
    ],
    ids=["example", "kind of example", "small", "init"],
)
def test_list_of_a_task_that_raises_is_one_line(main, tmp_path, task, where):
    (tmp_path / "first.py").write_text(task)
    code, _, err = main("list", "--task", "./first.py")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: --task: '{tmp_path / 'first.py'}'")
    assert re.search(where, err.strip())


class CannotCompile(Exception):
    """Like torch's, with a text of many lines."""


@pytest.mark.parametrize("command", [TINY_NEEDLE, ["profile", *TINY_NEEDLE[:4]], ["speed", "--model", "gru"]])
def test_compile_without_a_compiler_is_one_line_and_nothing_is_written(main, monkeypatch, tmp_path, command):
    def compiled(function):
        def run(*arguments):
            raise CannotCompile("no C++ compiler\n\nSet TORCHDYNAMO_VERBOSE=1")

        return run

    monkeypatch.setattr("torch.compile", compiled)
    code, out, err = main(*command, "--device", "cpu", "--compile")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--compile: torch.compile does not work here for cpu (CannotCompile: no C++ compiler); install" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_missing_compiler_is_found_before_the_run_begins(tmp_path):
    arguments = [*TINY_NEEDLE, "--device", "cpu", "--compile"]
    assert bench(*arguments, cwd=tmp_path).returncode == 0  # so that torch's cache has kernels
    done = bench(*arguments, "--out_dir", "r", cwd=tmp_path, env={"PATH": "", "CXX": "/nonexistent/g++"})
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "C++ compiler" in done.stderr
    assert not (tmp_path / "r").exists()


def test_a_text_folder_says_what_was_read(main, figures, tmp_path):
    for name in ("a.txt", "b.txt", ".hidden/a.txt"):
        (tmp_path / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "texts" / name).write_text("to be or not to be, that is the question\n" * 20)
    words = [word for word in TINY_NEEDLE if word != "--quiet"]
    code, _, err = main(*words, "--task", "text", "--data_path", "texts", "--max_steps", 2, "--out_dir", "r")
    assert code == 0
    assert f"\nread 2 files of '{tmp_path / 'texts'}'; left out: 1 hidden (.hidden)\n" in err
    assert "\nwarning: 1 file of " in err


def test_a_reader_that_has_seen_enough_is_no_error():
    done = subprocess.run(
        f'"{sys.executable}" benchmark.py --help | head -n 1',
        shell=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.startswith("usage:")
    assert done.stderr == ""


# Flags


def test_lists_take_commas_or_spaces():
    for words in (["2x,4x,256"], ["2x", "4x", "256"], ["2x,4x", "256"]):
        assert resolved("--eval_lengths", *words).eval_lengths == ("2x", "4x", "256")


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (["--no_bias"], "bias", False),
        (["--bias", "false"], "bias", False),
        (["--bias"], "bias", True),
        (["--tie_weights"], "tie_weights", True),
        (["--tie_weights", "0"], "tie_weights", False),
        (["--rope"], "pos", "rope"),
        (["--pos", "rope", "--rope"], "pos", "rope"),
        (["--lr", "1", "--lr=0.5"], "lr", 0.5),
        (["--compile", "True"], "compile", True),
        (["--min_lr=0"], "min_lr", 0.0),
    ],
    ids=lambda v: str(v),
)
def test_flag_forms(words, field, value):
    got = getattr(resolved(*words), field)
    assert got == value
    assert type(got) is type(value)


def test_no_bias_and_rope_reach_the_model(main, figures):
    import torch

    assert main(*TINY_NEEDLE, "--no_bias", "--rope", "--tie_weights", "--dim_ffn", "0", "--out_dir", "run")[0] == 0
    weights = torch.load("run/ckpt.pt", weights_only=True)["model"]
    assert not [name for name in weights if name.endswith("bias") or "pos_embed" in name or "mlp" in name]
    assert torch.equal(weights["head.weight"], weights["embed.weight"])


@pytest.mark.parametrize("task", TASKS)
def test_small_is_its_shared_layer_and_then_the_task_s(task):
    cls = TASKS[task].load()
    args = resolved("--task", task, "--device", "cpu", "--preset", "small")
    for name, value in {**run_flags.SMALL, **cls.small}.items():
        assert getattr(args, name) == value, name
    assert run_flags.to_dict(resolved("--task", task, "--device", "cpu")) == run_flags.to_dict(
        args
    )  # the default on a CPU


def test_base_is_the_defaults_of_the_flags():
    args = resolved("--preset", "base", "--task", "needle")
    expected = {
        "context_len": 512,
        "d_model": 384,
        "n_layer": 6,
        "n_head": 6,
        "dropout": 0.1,
        "lr": 3e-4,
        "batch_size": 32,
        "batch_chars": 0,
        "epochs": 5,
        "max_steps": 0,
        "warmup_steps": 200,
        "grad_clip": 1.0,
        "beta1": 0.9,
        "beta2": 0.999,
        "weight_decay": 0.01,
        "seed": 1337,
        "train_size": 20_000,
    }
    assert {name: getattr(args, name) for name in expected} == expected


def test_what_is_typed_wins_over_a_preset():
    assert resolved("--d_model", 48, "--lr", 0.5).d_model == 48
    sized = resolved("--batch_size", 8)
    assert (sized.batch_size, sized.batch_chars) == (8, 0)  # small has batch_chars, which would replace it
    passes = resolved("--epochs", 2, "--train_size", 100)
    assert (passes.epochs, passes.max_steps, passes.train_size) == (2, 0, 100)
    assert resolved("--epochs", 2, "--train_size", 100, "--max_steps", 7).max_steps == 7


def test_choices_are_announced_with_their_reasons(main, figures):
    code, out, err = main(*(word for word in TINY_NEEDLE if word != "--quiet"), "--out_dir", "run")
    assert code == 0
    assert re.match(
        r"preset small, with --task needle .*--d_model 16 .*; all flags: run/config.json\n"
        r"precision fp32: asked for; attention: \w+ \(.+\)\nblock: layer, no conv, MLP 64\nstep ",
        err,
    )
    assert out.splitlines()[-1] == "run"
    assert re.search(r"^test hit_rate 0\.\d+ \[0\.\d+, 0\.\d+\]", out)
    stored = json.loads(Path("run/env.json").read_text())
    assert stored["precision"] == {"name": "fp32", "reason": "asked for"}
    assert "attention" in stored["backends"]


def test_a_run_records_what_ran_and_not_what_was_chosen(main, figures, monkeypatch):
    """Keeps out: an op declined the chosen kernel because of a dtype, and env.json and the rows named the kernel."""
    monkeypatch.setattr("src.ops.delta_rule.automatic", lambda device, *rest, **named: ("fla", "planted"))
    words = [*TINY, "--task", "fibonacci", "--model", "deltanet", "--backend", "causal_conv=eager"]
    assert main(*words, "--out_dir", "run")[0] == 0
    env = json.loads(Path("run/env.json").read_text())
    assert env["chosen_backends"]["delta_rule"] == {"backend": "fla", "reason": "planted"}
    assert env["backends"]["delta_rule"] == {
        "backend": "eager",
        "reason": "observed to run; chosen by flags and device: fla (planted)",
    }
    rows = [json.loads(line) for line in Path("run/results.jsonl").read_text().splitlines()]
    assert {row["backend"]["delta_rule"]["backend"] for row in rows} == {"eager"}
    document = json.loads(Path("run/metrics.json").read_text())
    assert document["precision"] == "fp32"
    code, out, _ = main("--eval_only", "--out_dir", "run")
    assert code == 0
    assert json.loads(out)["backends"]["delta_rule"]["backend"] == "eager"


def test_n_head_of_a_layer_without_heads_is_a_notice(main, figures):
    loud = [word for word in TINY_NEEDLE if word != "--quiet"]
    assert "notice: --n_head is ignored, GRU has no heads\n" in main(*loud, "--model", "gru", "--out_dir", "a")[2]
    assert "notice" not in main(*loud, "--out_dir", "b")[2]
    at = loud.index("--n_head")
    assert "notice" not in main(*loud[:at], *loud[at + 2 :], "--model", "gru", "--out_dir", "c")[2]


def test_quiet_prints_the_run_directory_and_nothing_else(main, figures, tmp_path):
    code, out, err = main(*TINY_NEEDLE)
    assert (code, err) == (0, "")
    assert re.fullmatch(r"runs/\d{8}-\d{6}\n", out)
    assert (tmp_path / out.strip() / "metrics.json").exists()


# Whole runs


@pytest.mark.parametrize("task", TASKS)
def test_every_task_runs(main, figures, text_folder, tmp_path, task):
    size = ["--train_size", "0", "--max_len", "20"] if task in ("reverse", "rle", "caesar") else ["--train_size", "0"]
    assert main(
        *TINY_NEEDLE, "--task", task, *size, *data_path_of(task, tmp_path), "--max_steps", "3", "--out_dir", "run"
    ) == (0, "run\n", "")
    found = document("run")
    assert (found["status"], found["task"], found["steps"]) == ("done", task, 3)
    assert 0 <= found["final_test"][found["primary"]] <= 1
    items = read_items("run")
    assert 1 - items.errors.sum() / items.counts.sum() == pytest.approx(found["final_test"][items.metric], abs=1e-6)
    assert len(items.errors) == found["final_test"]["interval_basis"][found["primary"]]["units"]


@pytest.mark.parametrize("model", MODELS)
def test_every_model_runs(main, figures, model):
    assert main(*TINY_NEEDLE, "--task", "reverse", "--model", model, "--out_dir", "run") == (0, "run\n", "")
    found = document("run")
    assert (found["status"], found["model"]) == ("done", model)
    assert found["loss_curve"]["val"][-1][1] < found["loss_curve"]["val"][0][1]


def test_a_user_s_task_and_model_go_all_the_way(main, figures, tmp_path, monkeypatch):
    """Two files with flags of their own, from another folder by the same relative path; every command takes the run."""
    (tmp_path / "first.py").write_text(TASK)
    (tmp_path / "mean.py").write_text(MIXER.replace("BREAKS_AFTER", "10**9"))
    mine = ["--task", "first.py", "--model", "./mean.py", "--copies", "2", "--gain", "0.5"]
    assert main(*TINY_NEEDLE, *mine, "--out_dir", "run") == (0, "run\n", "")
    found = document("run")
    assert (found["task"], found["model"], found["args"]["copies"], found["args"]["gain"]) == ("first", "mean", 2, 0.5)
    assert found["args"]["lr"] == 0.002  # the task's own small layer
    assert found["decode_state"]["cache"] == "replay"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main("--resume", "--out_dir", "../run")[0] == 0
    evaluated = main("--eval_only", "--out_dir", "../run")
    assert evaluated[0] == 0
    assert json.loads(evaluated[1])["best"]["test"] == found["test"]["best"]
    assert main("generate", "../run", "--prompt", "abcd>", "--greedy")[0] == 0
    (tmp_path / "mean.py").write_text(MIXER.replace("BREAKS_AFTER", "10**8"))
    code, _, err = main("--resume", "--out_dir", "../run")
    assert code == 2
    assert re.search(r"the model file '.*mean.py' of this run has changed since the run began; --allow_code", err)


@pytest.mark.parametrize("how", ["a layer that breaks", "a rate that explodes"])
def test_a_run_that_diverges_is_a_result_of_its_own(main, figures, tmp_path, how):
    (tmp_path / "mean.py").write_text(MIXER.replace("BREAKS_AFTER", "6"))
    breaks = ["--model", "mean.py", "--eval_every", "5"]
    explodes = [
        "--lr",
        "100",
        "--min_lr",
        "100",
        "--weight_decay",
        "10",
        "--grad_clip",
        "0",
        "--warmup_steps",
        "0",
        "--max_steps",
        "40",
    ]
    code, out, err = main(*TINY_NEEDLE, *(breaks if how == "a layer that breaks" else explodes), "--out_dir", "run")
    assert (code, out, err) == (3, "run\n", "")
    found = document("run")
    assert (found["status"], found["final_test"], found["test"]["last"], found["scaled"]) == (
        "diverged",
        None,
        None,
        0.0,
    )
    assert 1 <= found["diverged_at"] <= 40
    with pytest.raises(UserError, match=f"has no items: the run diverged at step {found['diverged_at']}"):
        read_items("run")
    if how == "a layer that breaks":
        assert (found["diverged_at"], found["best_step"]) == (7, 5)
        assert found["test"]["best"] is not None
    assert main("--resume", "--out_dir", "run")[0] == 0  # finished, and verified
    code, _, err = main("--vis_only", "--out_dir", "run")
    assert (code, err) == (0, "")
    it_diverged = f"the run diverged at step {found['diverged_at']}"
    code, out, err = main("--eval_only", "--out_dir", "run")
    last = json.loads(out)["last"]
    assert (code, err, last["test"], last["reason"]) == (0, "", None, it_diverged)
    code, out, err = main("generate", "run", "--prompt", "ab", "--weights", "last")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert it_diverged in err
    code, out, err = main("generate", "run", "--prompt", "ab")
    assert (code, err.count("\n")) == ((0, 1) if how == "a layer that breaks" else (2, 1)), err
    assert it_diverged in err


def test_weights_that_are_not_finite_are_evaluated_to_null_and_write_no_text(main, figures, finished, tmp_path):
    run = tmp_path / "nan"
    shutil.copytree(finished / "transformer", run)
    for name in ("best.pt", "ckpt.pt"):
        payload = checkpoint.load(run / name)
        next(iter(payload["model"].values())).fill_(float("nan"))
        checkpoint.save(run / name, payload)
    code, out, err = main("--eval_only", "--out_dir", run)
    assert (code, err) == (0, "")
    assert [json.loads(out)[which]["reason"] for which in ("best", "last")] == ["the loss is not finite"] * 2
    code, out, err = main("generate", run, "--prompt", "ab")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "is not finite" in err


def test_two_evaluations_at_one_moment_are_two_files(main, finished, monkeypatch, tmp_path):
    run = tmp_path / "twice"
    shutil.copytree(finished / "transformer", run)
    monkeypatch.setattr("time.strftime", lambda form: "20250101-000000")
    for _ in range(2):
        assert main("--eval_only", "--out_dir", run)[0] == 0
    names = sorted(path.name for path in run.glob("*eval*"))
    assert names == ["eval-20250101-000000-2.json", "eval-20250101-000000.json"]


def test_accuracy_beyond_a_learned_table_is_undefined(main, figures):
    loud = [word for word in TINY_NEEDLE if word != "--quiet"]
    code, out, _ = main(*loud, "--eval_lengths", "2x", "--out_dir", "learned")
    assert code == 0
    assert re.search(r"^length 48: undefined \(beyond the learned position table of \d+ tokens\)$", out, re.MULTILINE)
    rows = document("learned")["length_curve"]
    assert [(r["length"], r["in_distribution"], r["value"] is None) for r in rows] == [
        (24, True, False),
        (48, False, True),
    ]
    code, out, _ = main(*loud, "--eval_lengths", "2x,20", "--pos", "sinusoidal", "--out_dir", "sinusoidal")
    assert re.search(r"^length 48: 0\.\d+$", out, re.MULTILINE)
    rows = document("sinusoidal")["length_curve"]
    assert [(r["length"], r["in_distribution"], r["value"] is None) for r in rows] == [
        (20, True, False),
        (24, True, False),
        (48, False, False),
    ]


# Modes on a finished run


def test_eval_only_gives_what_training_stored(main, finished):
    names = ("metrics.json", "test_items.json", "results.jsonl")
    before = [(finished / "gru" / name).read_bytes() for name in names]
    code, out, err = main("--eval_only", "--out_dir", finished / "gru")
    assert (code, err) == (0, "")
    assert [(finished / "gru" / name).read_bytes() for name in names] == before
    found, stored = json.loads(out), document(finished / "gru")
    for name in ("best", "last"):
        for split in ("val", "test"):
            assert found[name][split] == stored[split][name]
        assert found[name]["length_curve"] == stored["length_curve"] or name == "last"
    written = sorted((finished / "gru").glob("eval-*.json"))
    assert {k: v for k, v in json.loads(written[-1].read_text()).items() if k != "sha256"} == found


def test_eval_only_takes_the_flags_of_evaluation(main, finished):
    code, out, _ = main(
        "--eval_only", "--out_dir", finished / "gru", "--test_size", 10, "--eval_lengths", "2x", "--batch_size", 3
    )
    assert code == 0
    found = json.loads(out)
    assert found["best"]["test"]["n_examples"] == 10
    assert [row["length"] for row in found["best"]["length_curve"]] == [24, 48]
    assert found["changed"] == {"test_size": 10, "eval_lengths": ["2x"], "batch_size": 3, "batch_chars": 0}


def test_vis_only_redraws_without_torch(finished, tmp_path):
    folder = finished / "transformer" / "figures"
    drawn = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert {"loss.png", "ppl.png"} <= set(drawn)
    for path in folder.iterdir():
        path.unlink()
    code = "import sys, benchmark; code = benchmark.main(sys.argv[1:]); sys.exit(code or 'torch' in sys.modules)"
    command = [sys.executable, "-c", code, "--vis_only", "--out_dir", finished / "transformer"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == drawn
    assert sorted(done.stdout.split()) == sorted(str(folder / name) for name in drawn)


def test_vis_only_overlays_several_runs(main, finished, tmp_path):
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}
    code, out, err = main(
        "--vis_only", "--out_dir", finished / "transformer", finished / "gru", "--figures", tmp_path / "both"
    )
    assert (code, err) == (0, "")
    assert (tmp_path / "both" / "loss.png").stat().st_size > 1_000
    assert sorted(out.split()) == sorted(str(p) for p in (tmp_path / "both").iterdir())
    assert {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()} == before


# TensorBoard


def test_tensorboard_that_is_not_installed_is_said_once(main, figures, monkeypatch):
    from src.utils import reporter

    monkeypatch.setattr(reporter.importlib.util, "find_spec", lambda name: None)
    code, out, err = main(*TINY_NEEDLE, "--log", "tensorboard", "--out_dir", "run")
    assert (code, out) == (0, "run\n")
    assert err == "--log tensorboard: the package is not installed; `pip install tensorboard`. Going on without it.\n"


def test_tensorboard_gets_every_step_and_validation(main, figures, monkeypatch):
    """A stand-in for the package, which records what it is told."""
    told = []

    class Writer:
        def __init__(self, folder):
            assert Path(folder) == Path("run/tensorboard")

        def add_scalar(self, name, value, step):
            told.append((name, step))

        def close(self):
            told.append("closed")

    from src.utils import reporter

    monkeypatch.setattr(reporter.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer))
    assert main(*TINY_NEEDLE, "--log", "tensorboard", "--eval_every", 6, "--out_dir", "run") == (0, "run\n", "")
    assert [step for name, step in told[:-1] if name == "train/loss"] == list(range(1, 13))
    assert [step for name, step in told[:-1] if name == "val/loss"] == [6, 12]
    assert told[-1] == "closed"


def test_tensorboard_writes_its_files(main, figures):
    pytest.importorskip("tensorboard")
    assert main(*TINY_NEEDLE, "--log", "tensorboard", "--out_dir", "run")[0] == 0
    assert list(Path("run/tensorboard").glob("events.out.tfevents.*"))
