"""Commands as people type them: task and model are named, `--epochs` alone means passes over a training set.

python -m pytest tests/commands/test_named_commands.py
"""

import json
import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT, bench

import benchmark
from dataset import TASKS
from dataset.splits import largest_train_size
from src.flags.fields import UserError
from src.flags.presets import PRESETS
from src.setup.plan import plan

WHOLE = (
    "--task {task} --model {model} --context_len 512 --d_model 384 --n_layer 6 --n_head 6 --lr 3e-4 --batch_size 32 "
    "--epochs 5 --precision bf16"
)
# The commands of docs/flags.md, and one of full size. The tests train them with smaller sizes (SHRUNK).
COMMANDS = {
    "shakespeare": "--task tiny_shakespeare --model transformer --epochs 3",
    "needle": "--task needle --model mamba --context_len 512 --epochs 3",
    "dyck": "--task dyck --model template --epochs 3",
    "whole": WHOLE.format(task="needle", model="transformer"),
}
SHRUNK = (
    "--context_len 24 --d_model 16 --n_layer 1 --n_head 2 --val_size 20 --test_size 20 --threads 1 --precision fp32 "
    "--quiet --train_size 200"
)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_documented_command_means_passes_over_twenty_thousand_examples(name):
    args = plan(shlex.split(COMMANDS[name]))[0].args
    assert (args.epochs, args.max_steps, args.train_size) == (5 if name == "whole" else 3, 0, 20_000)
    if name == "whole":
        got = (args.d_model, args.n_layer, args.n_head, args.lr, args.batch_size, args.batch_chars, args.precision)
        assert got == (384, 6, 6, 3e-4, 32, 0, "bf16")


LONG = {"shakespeare", "whole"}  # of the same kind as the others


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in LONG else ()) for n in COMMANDS])
def test_a_documented_command_trains_evaluates_and_draws_at_a_tiny_size(name, main, tmp_path):
    assert main(*shlex.split(COMMANDS[name]), *shlex.split(SHRUNK), "--epochs", 2, "--out_dir", "R") == (0, "R\n", "")
    metrics = json.loads((tmp_path / "R" / "metrics.json").read_text())
    assert metrics["args"]["epochs"] == 2
    assert metrics["examples_seen"] == 2 * 200
    assert main("--eval_only", "--out_dir", "R")[0] == 0
    assert main("--vis_only", "--out_dir", "R")[0] == 0


@pytest.mark.parametrize("preset", ["small", "grazzi-parity-mini"])
def test_epochs_outrank_the_step_count_of_a_preset(preset):
    task = [] if PRESETS[preset].task else ["--task", "needle"]
    args = plan(["--preset", preset, *task, "--model", "gru", "--epochs", "2"])[0].args
    assert (args.epochs, args.max_steps, args.train_size) == (2, 0, 20_000)


def test_a_task_with_few_distinct_examples_takes_as_many_as_it_has():
    args = plan(["--task", "trigo", "--model", "gru", "--epochs", "2"])[0].args
    task = TASKS["trigo"].load()(args)
    assert args.train_size == largest_train_size(task) < task.n_keys() < 20_000


def test_a_step_count_or_a_size_that_is_typed_stays():
    words = ["--task", "needle", "--model", "gru", "--epochs", "2"]
    assert plan([*words, "--max_steps", "7"])[0].args.max_steps == 7
    assert plan([*words, "--train_size", "64"])[0].args.train_size == 64
    with pytest.raises(UserError, match=r"--epochs: got 2, but fresh data \(--train_size 0\) has no epochs"):
        plan([*words, "--train_size", "0"])


def test_the_bare_command_prints_five_commands_to_paste(capsys):
    assert benchmark.main([]) == 2
    shown = capsys.readouterr().err
    commands = [line.strip() for line in shown.splitlines() if line.startswith("  python benchmark.py")]
    assert len(commands) == 5
    for command in commands:
        words = shlex.split(command)[2:]
        if words[0].startswith("--"):
            plan(words)
        else:
            assert words[0] in benchmark.COMMANDS


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--model gru", r"--task is missing, allowed: a name such as needle, .*list.*"),
        ("--task needle", r"--model is missing, allowed: a name such as transformer, .*list.*"),
        ("--preset grazzi-parity-mini", r"--model is missing"),
        ("--quiet", r"--task is missing"),
    ],
)
def test_a_missing_name_is_said_in_one_line_and_nothing_is_written(words, message, main, tmp_path):
    code, out, err = main(*words.split())
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert re.search(message, err)
    assert list(tmp_path.iterdir()) == []


def test_a_preset_that_fixes_its_task_needs_no_task():
    assert plan(["--preset", "grazzi-parity-mini", "--model", "gru"])[0].args.task == "parity"


WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; import benchmark; sys.exit(benchmark.main(sys.argv[1:]))"


def test_a_python_without_torch_is_told_what_to_install():
    command = [sys.executable, "-c", WITHOUT_TORCH, "--task", "needle", "--model", "gru"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.startswith("error: torch is not installed for ")
    assert "pip install -r requirements.txt" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_old_spelling_of_study_says_where_it_is():
    done = bench("speed", "--validate", "--model", "gru")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --validate is a command of its own now: python benchmark.py study\n"
