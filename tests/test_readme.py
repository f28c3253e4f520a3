"""What the README and the pages of docs/ say is true: their commands, links, names, numbers and the tree.

    python -m pytest tests/test_readme.py

Commands are read by the parser of the program and not run, except those on an existing run and `list`, which are fast.
"""

import contextlib
import csv
import io
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import benchmark
from dataset import TASKS
from dataset.loaders import build_loaders
from src.flags.parser import Parser
from src.flags.run_flags import resolve
from src.models import MODELS
from src.setup.classes import find_task
from src.setup.plan import plan
from src.study.comparison import request
from src.utils.chance import chance_levels

ROOT = Path(benchmark.__file__).parent
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
]
TEXT = {name: (ROOT / name).read_text(encoding="utf-8") for name in PAGES}
README = TEXT["README.md"]
MAIN_JOB = (
    "python3 -m venv .venv && .venv/bin/pip install -q -r requirements.txt && "
    ".venv/bin/python benchmark.py --task needle --model mamba"
)
TEST_COMMAND = "python3 -m venv .venv && .venv/bin/pip install -q -r requirements-dev.txt && .venv/bin/python -m pytest"
READING = [
    f"src/ops/{op}/{name}"
    for op in ("selective_scan", "delta_rule")
    for name in ("reference.py", "README.md", "chunked.py", "recurrent.py")
]
TINY = (
    "--context_len 24 --d_model 16 --n_layer 1 --n_head 2 --max_steps 6 --batch_chars 512 --val_size 20 --test_size 20"
)
TINY += " --warmup_steps 2 --threads 1 --precision fp32 --quiet"
OWN_FILES = ("running_mean.py", "difference.py", "bracket_matching.py")  # the first blocks of docs/extending.md


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT[page], flags=re.S | re.M)
    return [text for name, text in fenced if name == language]


def commands() -> list[tuple[str, str]]:
    """(page, the words after `benchmark.py`) of each command in a bash block; a backslash continues a line."""
    found = []
    for page in PAGES:
        for line in "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines():
            words = line.split("#")[0]
            if "benchmark.py" in words:
                found.append((page, words.split("benchmark.py", 1)[1].strip()))
    return found


COMMANDS = list(dict.fromkeys(commands()))
RUNNABLE = ("--resume", "--eval_only", "--vis_only", "generate", "list")
ON_A_RUN = [c for c in COMMANDS if c[1].startswith(RUNNABLE) or c[1].endswith("--help")]
READ_ONLY = [c for c in COMMANDS if c not in ON_A_RUN]


def call(words: list[str]) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of the program in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = benchmark.main(words)
        except SystemExit as left:  # argparse, after --help
            code = left.code
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as the pages assume it: the files that a reader wrote, and two small runs in runs/R and runs/S."""
    place = tmp_path_factory.mktemp("reader")
    (place / "my_layer.py").write_text((ROOT / "src/models/template.py").read_text())
    for name, block in zip(OWN_FILES, blocks("docs/extending.md", "python"), strict=False):
        (place / name).write_text(block)
    (place / "book.txt").write_text("ROMEO: what light through yonder window breaks?\n" * 300)
    (place / "chats.jsonl").write_bytes((ROOT / "dataset/chats.jsonl").read_bytes())
    chdir = contextlib.chdir(place) if hasattr(contextlib, "chdir") else working_in(place)
    with chdir, pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.figures.runs.draw_all", lambda document, folder: [])  # the commands below draw
        for name, model in (("R", "template"), ("S", "gru")):
            task = f"--task tiny_shakespeare --data_path book.txt --model {model} --out_dir runs/{name}"
            code, _, err = call(shlex.split(f"{task} {TINY}"))
            assert code == 0, err
        code, _, err = call(
            shlex.split(f"--task chat --model gru --out_dir runs/C {TINY} --context_len 96 --vocab_size 300")
        )
        assert code == 0, err
    for name in ("base", "chat", "back"):  # of docs/small_assistant.md
        shutil.copytree(place / "runs" / "C", place / "runs" / name)
    return place


@contextlib.contextmanager
def working_in(place):
    """contextlib.chdir, which Python 3.10 does not have."""
    before = Path.cwd()
    os.chdir(place)
    try:
        yield
    finally:
        os.chdir(before)


class Parsed(Exception):
    """Raised in place of the work of a command, once its command line is read."""


def values_fit(parser: Parser, namespace) -> None:
    """Each value is one that the help of its flag shows: of {a,b}, a whole number for N, a number for X."""
    for action in parser._actions:
        value = getattr(namespace, action.dest, None)
        for word in value if isinstance(value, list) else [value] if isinstance(value, str) else []:
            kind = action.metavar or ""
            if kind.startswith("{"):
                assert word in kind[1:-1].split(","), f"{action.dest}: {word}"
            elif kind in ("N", "X"):
                (int if kind == "N" else float)(word)


@pytest.mark.parametrize(("page", "command"), READ_ONLY, ids=[f"{p}: {c}" for p, c in READ_ONLY])
def test_command_parses(page, command, folder, monkeypatch):
    monkeypatch.chdir(folder)
    words = shlex.split(command)
    if words[0] in ("--task", "--preset"):
        setup, _ = plan(words)
        assert setup.args.task
        return
    if words[0] == "compare":
        assert request.read(words[1:]).comparison.models
        return
    strict = Parser.parse_strict

    def stop(parser, argv):
        values_fit(parser, strict(parser, argv))
        raise Parsed

    monkeypatch.setattr(Parser, "parse_strict", stop)
    try:
        code, _, err = call(words)
    except Parsed:
        return
    pytest.fail(f"exit code {code}: {err}")


@pytest.mark.parametrize(("page", "command"), ON_A_RUN, ids=[f"{p}: {c}" for p, c in ON_A_RUN])
def test_command_on_an_existing_run_works(page, command, folder, monkeypatch):
    monkeypatch.chdir(folder)
    code, out, err = call(shlex.split(command))
    assert code == 0, err
    assert out


def test_the_pages_have_commands_of_each_kind():
    assert len(READ_ONLY) > 20
    assert len(ON_A_RUN) > 8


def test_set_up_commands_are_what_newcomers_and_ci_paste():
    assert f"```bash\n{MAIN_JOB}\n```" in README
    assert f"<!-- test-command -->\n```bash\n{TEST_COMMAND}\n```\n<!-- end -->" in README
    assert README.index(MAIN_JOB) < README.index(". .venv/bin/activate")


def test_readme_is_short_and_no_page_is_wide():
    assert len(README.splitlines()) <= 160
    wide = [
        f"{name}:{i}"
        for name, text in TEXT.items()
        for i, line in enumerate(text.splitlines(), 1)
        if len(line) > 120 and not (name == "docs/findings.md" and line.startswith("|"))  # a row cannot be broken
    ]
    assert wide == [f"README.md:{README.splitlines().index(MAIN_JOB) + 1}"]  # a command that is pasted is not wrapped


def slug(heading: str) -> str:
    """The anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_links_and_named_files_exist(page):
    anchors = {n: {slug(h) for h in re.findall(r"^#+ (.*)$", text, flags=re.M)} for n, text in TEXT.items()}
    missing = []
    prose = re.sub(r"^```.*?^```$|^    [^\n]*$", "", TEXT[page], flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        name = str(file.resolve().relative_to(ROOT))
        if not file.exists() or (anchor and anchor not in anchors[name]):
            missing.append(target)
    named = re.findall(r"`((?:src|dataset|docs|tests|runs/records|runs/LOG)[\w./-]*[/.][\w./-]*)`", TEXT[page])
    missing += [name for name in named if not (ROOT / name).exists()]
    assert not missing


def test_reading_order_names_files_that_exist():
    for path in READING:
        assert (ROOT / path).is_file(), path
    section = README[README.index("## Read the code") :]
    names = {f"`{Path(path).name}`" for path in READING} | {f"`{Path(path).parent}/`" for path in READING}
    assert not [name for name in names if name not in section]


def tree() -> set[str]:
    """The entries of the tree in the README; `{a,b}` after a folder names its subfolders, and `x.md, y.md` are two."""
    block = next(b for b in blocks("README.md", "") if b.startswith("benchmark.py"))
    found = set()
    for line in block.splitlines():
        entry, about = line.split(maxsplit=1)
        found.add(entry)
        for names in re.findall(r"\{([\w,/]+)\}", about):
            found |= {f"{entry}{name}/" for name in names.split(",")}
        found |= set(re.findall(r"[\w-]+\.(?:md|txt|toml)\b|\bLICENSE\b", about)) if not entry.endswith("/") else set()
    return found | {f"{parent}/" for entry in found for parent in Path(entry).parents if str(parent) != "."}


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout: no list of tracked files")
def test_tree_is_that_of_the_folders():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [Path(name) for name in listed.splitlines() if not name.startswith(".")]
    folders = {f"{p}/" for path in paths for p in path.parents if str(p) != "." and p.parts[0] != "runs"} | {"runs/"}
    files = {str(path) for path in paths if len(path.parts) == 1}
    assert tree() == folders | files


def first_column(page: str, header: str) -> list[str]:
    """The names in the first column of the table with this header."""
    lines = TEXT[page][TEXT[page].index(header) :].splitlines()[2:]
    rows = [line for i, line in enumerate(lines) if all(x.startswith("|") for x in lines[: i + 1])]
    return [row.split("|")[1].strip().strip("`") for row in rows]


def test_tables_list_every_task_model_and_command():
    assert first_column("README.md", "| task | what") == list(TASKS)
    assert first_column("README.md", "| model | what") == list(MODELS)
    assert first_column("docs/models.md", "| model | what") == list(MODELS)
    sections = TEXT["docs/tasks.md"].split("\n## ")
    each = next(section for section in sections if section.startswith("Each task"))
    assert re.findall(r"^### (\w+)$", each, flags=re.M) == list(TASKS)
    unnamed = [c for c in benchmark.COMMANDS if c != "train" and not re.search(rf"benchmark\.py {c}\b", README)]
    assert not unnamed


def published_rows() -> dict[str, list[str]]:
    """{model: norm, MLP, size of the MLP, convolution} of the table of published blocks in docs/models.md."""
    page = TEXT["docs/models.md"]
    lines = page[page.index("| model | norm") :].splitlines()[2:]
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in itertools.takewhile(lambda x: "|" in x, lines)]
    return {name: row for first, *row in cells for name in re.findall(r"`(\w+)`", first)}


def test_the_table_of_published_blocks_is_that_of_the_classes():
    found = published_rows()
    assert set(found) == set(MODELS) - {"hybrid", "small_transformer"}
    for name, (norm, mlp, size, conv) in found.items():
        block = MODELS[name].load().published
        assert norm == {"rms": "RMSNorm", "layer": "LayerNorm"}[block.norm], name
        assert mlp == ({"gelu": "GELU", "swiglu": "SwiGLU"}[block.mlp] if block.ffn_ratio else "none"), name
        assert size == (f"{block.ffn_ratio:g} x d_model" if block.ffn_ratio else "none"), name
        widths = {0: "none", 4: "width 4, on q, k, v", -1: "width 4, inside the layer (`--d_conv`)"}
        assert conv == widths[block.short_conv], name


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_file_says_in_what_it_differs(name):
    """From its paper and, where there is one, from the reference code of today."""
    text = sys.modules[MODELS[name].load().__module__].__doc__
    assert re.search(r"\bDiffers\b", text)
    released = {"transformer": "nanoGPT", "mamba": "mamba_ssm of today", "mamba2": "mamba_ssm of today"}
    released |= {"linear_attention": "fast-transformers", "retnet": "torchscale of today", "hybrid": "Jamba"}
    released |= dict.fromkeys(("gla", "deltanet", "gated_deltanet"), "flash-linear-attention")
    assert released.get(name, "") in text


def test_flags_page_names_every_flag():
    helps = [[command, "--help"] for command in benchmark.COMMANDS]
    helps += [["--task", name, "--help"] for name in TASKS] + [["--model", name, "--help"] for name in MODELS]
    flags = set()
    for words in helps:
        code, out, err = call(words)
        assert code == 0, err
        flags |= set(re.findall(r"^ +(--\w+)", out, flags=re.M))
    assert len(flags) > 100
    assert not [flag for flag in sorted(flags) if not re.search(rf"`{flag}\b", TEXT["docs/flags.md"])]


def rows(record: str) -> dict[str, dict]:
    """{run: row} of a record."""
    with open(ROOT / "runs/records" / record / "results.csv", newline="") as file:
        return {row["run"]: row for row in csv.DictReader(file)}


def test_scores_of_the_default_runs_are_those_of_the_record():
    record = rows("defaults")
    page = TEXT["docs/tasks.md"]
    shown = re.findall(r"^\| `(\w+)` \| ([\w.]+) \| (\d\.\d+) \[(\d\.\d+), (\d\.\d+)\]", page, flags=re.M)
    assert len(shown) == 11
    for task, metric, *numbers in shown:
        row = record.get(task) or record[f"{task}-1337"]
        assert row["metric"] == metric
        assert [f"{float(row[name]):.3f}" for name in ("value", "low", "high")] == numbers, task
        task_class = TASKS[task].load()
        if task_class.primary in task_class.score_metrics and not row.get("chance_constant"):
            continue  # the record is older than this level; the next test computes it
        chance = max(float(v) for k, v in row.items() if k.startswith("chance_") and v)
        assert f"| `{task}` |" in README
        assert re.search(rf"^\| `{task}` \|.*\| {chance:.3f} \|$", README, flags=re.M), (task, chance)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trigo", "fibonacci", "fourier_mix"])
def test_chance_of_graded_metrics_is_that_of_the_default_run(name):
    task_class = TASKS[name].load()
    args = resolve(task_class)
    _, loaders, data = build_loaders(task_class(args), args)
    levels = chance_levels(data, loaders["test"].dataset.examples)
    chance = f"{max(level['primary'] for level in levels.values()):.3f}"
    assert re.search(rf"^\| `{name}` \|.*\| {chance} \|$", README, flags=re.M), chance
    assert f"; constant {levels['constant']['primary']:.3f} |" in TEXT["docs/tasks.md"]


def test_main_result_and_recipe_are_those_of_the_record():
    main, recipe = rows("main"), rows("recipe")
    needle = [row for row in main.values() if row["task"] == "needle" and row["model"] == "mamba"]
    assert {row["seed"] for row in needle} == {"1337", "1338", "1339", "1340", "1341"}
    assert sorted(round(float(row["value"]) * int(row["n_examples"])) for row in needle) == [1999, *[2000] * 4]
    first = next(row for row in needle if row["seed"] == "1337")
    interval = f"1.0000 [{float(first['low']):.3f}, {float(first['high']):.3f}]"
    assert interval in README
    facts = TEXT["docs/findings.md"][TEXT["docs/findings.md"].index("## The needle") :].replace("\n", " ")
    for column, words in (("parameters", "parameters"), ("steps", "steps"), ("chars_seen", "characters")):
        assert f"{int(first[column]):,} {words}" in facts
    for column, words in (("train_s", "s of training"), ("command_s", "s in all")):
        assert f"{float(first[column]):.0f} {words}" in facts
    shown = [f"{float(row['test_heldout_loss']):.3f}" for row in sorted(recipe.values(), key=lambda row: row["seed"])]
    assert f"{shown[0]}, {shown[1]} and {shown[2]} nats" in TEXT["docs/tasks.md"]


def test_speed_tables_are_those_of_the_record():
    with open(ROOT / "runs/records/speed-six/results.csv", newline="") as file:
        record = list(csv.DictReader(file))
    value = {(r["model"], r["metric"], int(r["x"]), int(r["batch"])): r["value"] for r in record if r["status"] == "ok"}
    page, checked = TEXT["docs/measuring.md"], 0
    for model in ("transformer", "linear_attention", "gla", "mamba", "gated_deltanet", "gru"):
        train, decode = re.findall(rf"^\| `{model}` \| (\d.*) \|$", page, flags=re.M)[:2]
        for length, cell in zip((128, 1024, 4096), train.split(" | ")[:3], strict=True):
            assert f"{float(value[model, 'step_ms', length, 8192 // length]):,.0f}" == cell, (model, length)
            checked += 1
        for position, cell in zip((128, 4096), decode.split(" | "), strict=True):
            assert f"{float(value[model, 'token_ms', position, 32]):.2f}" == cell, (model, position)
            checked += 1
    assert checked == 30


def test_python_example_runs():
    example = next(b for b in blocks("docs/extending.md", "python") if "train_one_epoch" in b)
    sizes = "train_size=200, d_model=16, n_layer=1, val_size=20, test_size=20"
    assert "train_size=2000" in example
    exec(compile(example.replace("train_size=2000", sizes), "docs/extending.md", "exec"), {})


def balanced(text: str) -> bool:
    """Whether nothing is left of a string after its innermost pairs are taken out, one after the other."""
    while "()" in text:
        text = text.replace("()", "")
    return text == ""


def test_the_task_with_labels_says_which_strings_are_balanced(folder):
    loaded = find_task(str(folder / "bracket_matching.py"))
    task = loaded(resolve(loaded, max_len=8))
    drawn = [e for length in (1, 3, 8) for e in task.examples(np.random.default_rng(length), 200, length)]
    labels = Counter(e.labels for e in drawn if len(e.prompt) == 17)
    assert {len(e.prompt) for e in drawn} == {3, 7, 17}
    for e in drawn:
        assert e.labels == task.solve(e.prompt) == ((len(e.prompt) - 1, str(int(balanced(e.prompt[:-1])))),)
    assert len(labels) == 2
    assert min(labels.values()) > 0.3 * sum(labels.values())


def test_the_task_with_labels_trains(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr("src.figures.runs.draw_all", lambda document, folder: [])
    words = f"--task bracket_matching.py --model gru --out_dir runs/brackets --eval_lengths 2x --eval_size 20 {TINY}"
    code, _, err = call(shlex.split(words))
    assert code == 0, err
    found = json.loads((folder / "runs/brackets/metrics.json").read_text())
    assert [row["length"] for row in found["length_curve"]] == [24, 48]
    assert 0.4 < found["floors"]["unigram"]["primary"] < 0.8


@pytest.mark.slow
def test_example_files_train_and_pass_the_check(folder, monkeypatch):
    """The layer and the task of docs/extending.md, as a reader would paste them."""
    monkeypatch.chdir(folder)
    code, _, err = call(shlex.split(f"--task difference.py --model running_mean.py --out_dir runs/own {TINY}"))
    assert code == 0, err
    monkeypatch.setattr("src.checks.hash_order.HASH_SEEDS", ())  # see tests/checks/test_hash_order.py
    code, out, err = call(["check", "--model", "running_mean.py"])
    assert code == 0, err
    assert re.search(r"^pass: running_mean.py", out, flags=re.M)


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for page, c in COMMANDS if page == "README.md" and c.startswith("--task")])
def test_training_command_of_the_readme_works_whole(command, folder, monkeypatch):
    monkeypatch.chdir(folder)
    code, _, err = call(shlex.split(command))
    assert code == 0, err
