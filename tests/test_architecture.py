"""The shape of the tree: imports point one way, torch stays out of what must answer at once, registries and flags hold together.

    python -m pytest tests/test_architecture.py
"""

import ast
import dataclasses
import importlib
import itertools
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from dataset import TASKS
from dataset.base import Task
from src.config import SHARED, ControlConfig, config_parts, own_config, resolve
from src.models import MODELS

# From the bottom up; a module may import from layers below its own, and from its own group. The longest name that fits a module counts.
LAYERS = [
    {"config": ["src", "src.config", "src.registry"]},
    {"small utils": ["src.utils", "src.utils.tokenizer", "src.utils.stats", "src.utils.rundir", "src.utils.checkpoint", "src.utils.env", "src.utils.schema",
                     "src.utils.distributed", "src.utils.reporter", "src.utils.timing", "src.utils.scaling", "src.utils.rows", "src.utils.memory",
                     "src.presets", "src.cli"]},
    {"ops": ["src.ops"]},
    {"dataset": ["dataset"], "models": ["src.models"]},
    {"training": ["src.utils.metrics", "src.utils.evaluation", "src.utils.training", "src.utils.results", "src.utils.viz", "src.utils.viz_speed",
                  "src.utils.viz_kernels"]},
    {"runs": ["src.runs"], "checks": ["src.checks"]},
    {"suites": ["src.suites"]},
    {"commands": ["src.commands"]},
    {"benchmark": ["benchmark"]},
]
PLACES = {name: (level, group) for level, groups in enumerate(LAYERS) for group, names in groups.items() for name in names}
# Any file under these belongs to their layer; others are listed one by one.
OPEN = ("dataset", "src.models", "src.ops", "src.checks", "src.suites", "src.commands")

SOURCES = [ROOT / "benchmark.py", *sorted((ROOT / "dataset").rglob("*.py")), *sorted((ROOT / "src").rglob("*.py"))]
WITHOUT_TORCH = [
    "benchmark", "dataset", "dataset.base", "src.config", "src.registry", "src.cli", "src.presets", "src.models", "src.ops.backends", "src.utils.rundir",
    "src.utils.stats", "src.utils.schema", "src.utils.viz", "src.utils.env", "src.utils.tokenizer", "src.commands.train", "src.commands.list",
    "src.commands.visualize", "src.commands.generate", "src.commands.evaluate", "src.commands.check", "src.commands.speed", "src.commands.profile",
    "src.commands.kernels", "src.suites.record", "src.suites.session", "src.suites.progress", "src.suites.speed_analysis", "src.suites.profile_trace",
    "src.suites.kernels_subjects", "src.suites.validate_claims", "src.utils.viz_speed", "src.utils.viz_kernels", "src.utils.rows",
    "src.utils.scaling", "src.utils.timing",
    *sorted({entry.target.split(":")[0] for entry in TASKS.values()}),
]


def module_name(path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in SOURCES}


def place(name: str):
    """(level, group) of a module, or None where the table does not know it."""
    if name in PLACES:
        return PLACES[name]
    return next((PLACES[folder] for folder in OPEN if name.startswith(folder + ".")), None)


def imports(source: str) -> set[str]:
    """Modules of this project that a source imports anywhere, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide where they point"
            deeper = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = deeper & MODULES.keys()
            found |= modules | ({node.module} if len(modules) < len(deeper) else set())
    return {name for name in found if name.split(".")[0] in ("src", "dataset", "benchmark")}


def wrong_arrows(name: str, source: str) -> list[str]:
    """The imports of a module that point up, or across to a sibling group."""
    level, group = place(name)
    wrong = []
    for target in imports(source):
        target_level, target_group = place(target)
        if target_level > level or (target_level == level and target_group != group):
            wrong.append(f"{name} ({group}) imports {target} ({target_group})")
    return wrong


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_one_way(name):
    assert place(name) is not None, f"{name} has no layer: add it to the table in this file"
    assert wrong_arrows(name, MODULES[name].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(("name", "source"), [
    ("src.models.x", "from dataset.base import Task"),
    ("dataset.x", "def f():\n    from src.models import base"),
    ("src.ops.x", "import src.models.base"),
    ("src.utils.stats", "from src.utils import training"),
    ("src.config", "from src.utils.stats import wilson"),
    ("src.utils.training", "from src.commands.train import main"),
    ("src.commands.list", "import benchmark"),
])
def test_an_arrow_that_points_up_or_across_is_found(name, source):
    assert len(wrong_arrows(name, source)) == 1


@pytest.mark.parametrize(("name", "source"), [
    ("src.models.x", "import torch\nfrom src.ops.attention import attention"),
    ("dataset.x", "from dataset import base"),
    ("src.commands.x", "from src.utils import training, viz"),
    ("benchmark", "import src.commands.train"),
])
def test_an_arrow_that_points_down_is_fine(name, source):
    assert wrong_arrows(name, source) == []


def test_no_import_cycle_at_module_level():
    """Top-level imports alone, of modules proper: a cycle works until somebody imports the other end first."""
    graph = {}
    for name, path in MODULES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        top = ast.Module([n for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom))], [])
        graph[name] = imports(ast.unparse(top)) & MODULES.keys()
    done = set()
    while ready := {name for name, needs in graph.items() if name not in done and needs <= done | {name}}:
        done |= ready
    assert graph.keys() - done == set()


PROBE = """
import importlib, sys
sys.modules["torch"] = None  # any import of it raises
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(name, error)
"""


def test_what_must_answer_at_once_imports_no_torch():
    done = subprocess.run([sys.executable, "-c", PROBE, *WITHOUT_TORCH], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == ""


def test_an_import_of_torch_would_be_found():
    done = subprocess.run([sys.executable, "-c", PROBE, "src.utils.metrics"], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.startswith("src.utils.metrics")


@pytest.mark.parametrize("name", TASKS)
def test_a_task_file_exposes_its_class_and_build_loaders(name):
    task_class = TASKS[name].load()
    module = importlib.import_module(TASKS[name].target.split(":")[0])
    assert issubclass(task_class, Task)
    assert module.build_loaders == task_class.build_loaders
    assert TASKS[name].summary
    assert TASKS[name].source


@pytest.mark.parametrize("name", MODELS)
def test_a_model_file_exposes_its_class_and_build_model(name):
    from src.models.base import ARModel, Mixer

    model_class = MODELS[name].load()
    module = importlib.import_module(MODELS[name].target.split(":")[0])
    assert all(issubclass(c, (ARModel, Mixer)) for c in getattr(model_class, "layers", (model_class,)))
    args = resolve(TASKS["needle"].load(), model_class, model=name, d_model=8, n_layer=1, n_head=2, context_len=16)
    model = module.build_model(9, args)
    assert isinstance(model, ARModel)
    assert set(getattr(model, "mixer_classes", (type(model),))) == set(getattr(model_class, "layers", (model_class,)))
    assert MODELS[name].summary
    assert MODELS[name].source


@pytest.mark.parametrize("registry", [TASKS, MODELS], ids=["tasks", "models"])
def test_every_file_of_the_folder_is_registered_or_shared(registry):
    """A file that nobody registered is dead; the shared ones are named here."""
    of_tasks = ("dataset", {"base", "common", "corpora", "language", "ngram", "stored_text"})
    folder, shared = of_tasks if registry is TASKS else ("src.models", {"base", "match", "short_conv"})
    files = {path.stem for path in (ROOT / folder.replace(".", "/")).glob("*.py")} - {"__init__"} - shared
    assert files == {entry.target.split(":")[0].split(".")[-1] for entry in registry.values()}


def test_no_pair_of_task_and_model_has_a_flag_twice():
    pairs = list(itertools.product(TASKS.values(), MODELS.values()))
    assert len(pairs) >= 44
    for task, model in pairs:
        config_parts(task.load(), model.load())


def test_no_two_shared_flags_are_alike():
    fields = [f for part in (*SHARED, ControlConfig) for f in dataclasses.fields(part)]
    flags = ["--" + f.name for f in fields] + [flag for f in fields for flag in f.metadata["shorthand"]]
    flags += ["--no_" + f.name for f in fields if f.default is True]
    assert len(flags) == len(set(flags))
    folded = [flag.replace("_", "").removesuffix("s") for flag in flags]
    assert len(folded) == len(set(folded)), "two flags that differ by an underscore or a plural are one flag to a reader"
    helps = [f.metadata["help"] for f in fields]
    assert all(helps)
    assert len(helps) == len(set(helps))


@pytest.mark.parametrize("name", [*TASKS, *MODELS])
def test_own_flags_have_help_and_a_default_within_their_bounds(name):
    cls = ({**TASKS, **MODELS})[name].load()
    config = own_config(cls)
    for f in dataclasses.fields(config) if config else ():
        assert f.metadata.get("help"), f"--{f.name} has no help text"
    resolve(*((cls,) if name in TASKS else (TASKS["needle"].load(), cls)), preset={})


MACHINE_PATH = re.compile(r"""(?<![\w.$}])/(?:home|root|Users|mnt|work|workspace|scratch|tmp)/\w|\b[A-Z]:\\\\?Users""")


def tracked_files():
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, cwd=ROOT)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def test_no_tracked_file_names_a_path_of_somebodys_machine():
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # a figure
            continue
        found += [f"{path.relative_to(ROOT)}:{i}: {line.strip()[:120]}" for i, line in enumerate(text.splitlines(), 1) if MACHINE_PATH.search(line)]
    assert found == []


@pytest.mark.parametrize("line", ["open('/" + "home/me/x.txt')", "cd /" + "work/main", "C:" + "\\Users\\me", "sys.path.insert(0, '/" + "root/code')"])
def test_a_path_of_a_machine_would_be_found(line):
    assert MACHINE_PATH.search(line)


@pytest.mark.parametrize("line", ["#!/usr/bin/env bash", "https://example.org/home/page", "runs/records/x", "../home/x", "${HOME}/" + "work/x"])
def test_addresses_and_relative_paths_are_fine(line):
    assert not MACHINE_PATH.search(line)
