"""The README's commands are parsed and run: with tiny sizes by default, whole under `-m slow`."""

import dataclasses
import re
import shlex
import shutil

import pytest
from conftest import ROOT, TINY, bench

from dataset import TASKS
from src.flags.fields import SHARED, ControlConfig
from src.models import MODELS

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, flags=re.S)
LINES = [
    line.split("#")[0].strip() for block in BLOCKS for line in block.replace("\\\n", " ").splitlines() if line.strip()
]
COMMANDS = [re.sub(r"^.*?python benchmark\.py", "", line).strip() for line in LINES if "python benchmark.py" in line]
TRAININGS = [c for c in COMMANDS if c.startswith(("--task", "--preset"))]
OTHERS = [c for c in COMMANDS if c not in TRAININGS]


def test_the_readme_has_a_main_job_a_test_command_and_more():
    assert TRAININGS
    assert OTHERS
    assert re.search(r"<!-- test-command -->\n```bash\n.*pytest.*\n```\n<!-- end -->", README)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with the finished runs that the README calls runs/R and runs/S."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copy(ROOT / "src/models/template.py", folder / "my_layer.py")
    text = folder / "text.txt"
    text.write_text("ROMEO: what light through yonder window breaks?\nJULIET: it is the east.\n" * 200)
    for name, task in (
        ("R", ["--task", "tiny_shakespeare", "--data_path", text]),
        ("S", ["--task", "tiny_shakespeare", "--data_path", text]),
    ):
        done = bench(
            *task, "--model", "gru" if name == "S" else "template", *TINY, "--out_dir", f"runs/{name}", cwd=folder
        )
        assert done.returncode == 0, done.stderr
    return folder


# What makes the measuring commands of the README short; flags of the same name are replaced.
SHORT = {
    "speed": {
        "--model": "gru,mamba",
        "--lengths": "16",
        "--batch_tokens": "32",
        "--panel": "train,decode",
        "--decode_batches": "1",
        "--cell_seconds": "0.05",
        "--d_model": "16",
        "--n_layer": "1",
        "--threads": "1",
    },
    "kernels": {"--lengths": "16", "--batch_tokens": "64", "--width": "16", "--cell_seconds": "0.05", "--threads": "1"},
    "profile": {"--context_len": "24", "--d_model": "16", "--batch_chars": "512", "--steps": "2", "--threads": "1"},
}


def shortened(words: list[str]) -> list[str]:
    """A measuring command with the flags of SHORT in place of its own."""
    kept = list(words)
    for flag, value in SHORT.get(words[0], {}).items():
        if flag in kept:
            at = kept.index(flag)
            del kept[at : at + 2]
        kept += [flag, value]
    return kept


@pytest.mark.parametrize("command", OTHERS)
def test_command_on_an_existing_run_works(command, runs):
    words = shortened(shlex.split(command))
    done = bench(*words, cwd=runs)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("command", TRAININGS)
def test_training_command_works_at_a_tiny_size(command, tmp_path):
    words = shlex.split(command)
    if "tiny_shakespeare" in words:
        (tmp_path / "text.txt").write_text("it is the east, and Juliet is the sun. " * 300)
        words += ["--data_path", "text.txt"]
    tiny = list(TINY)
    for given, contradicted in (
        ("--batch_size", "--batch_chars"),
        ("--match_params", "--d_model"),
        ("--match_state", "--d_model"),
    ):
        if given in words:
            at = tiny.index(contradicted)
            del tiny[at : at + 2]
    done = bench(*words, *tiny, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / done.stdout.strip().splitlines()[-1]
    assert (run / "metrics.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("command", TRAININGS)
def test_training_command_works_whole(command, tmp_path):
    done = bench(*shlex.split(command), cwd=tmp_path, timeout=1800)
    assert done.returncode == 0, done.stderr


def test_python_example_runs():
    example = (
        re.search(r"```python\n(.*?)```", README, flags=re.S)
        .group(1)
        .replace("train_size=2000", "train_size=200, d_model=16, val_size=20, test_size=20")
    )
    exec(compile(example, "README.md", "exec"), {})


def test_readme_names_every_flag_task_and_model():
    missing = [
        f.name for part in (*SHARED, ControlConfig) for f in dataclasses.fields(part) if f"`--{f.name}`" not in README
    ]
    missing += [name for name in (*TASKS, *MODELS) if f"`{name}`" not in README]
    assert not missing
