"""The shape of the tree: four rules of docs/extending.md, read from the source, and what registries and flags promise.

    python -m pytest tests/test_architecture.py

1. No circle between files.
2. Arrows point down (MAY_IMPORT); no task imports a task, no layer a layer.
3. A new task, layer, metric, claim or panel is one new file and at most one line in a table (tests/test_growth.py).
4. Public names stay importable (tests/test_public_names.py).

Imports count wherever they are: at the top of a file, inside a function, and as a name that is handed to
`importlib.import_module`.
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
from dataset.task import Task
from src.flags.fields import own_config
from src.flags.groups import SHARED, ControlConfig
from src.flags.run_flags import config_parts, resolve
from src.measure.speed.panels import PANELS
from src.models import MODELS

# room: the rooms that it may import from, besides itself. `dataset` and `models` do not know each other.
BOTTOM = ("flags", "stats", "storage")
MAY_IMPORT = {
    "flags": (),
    "stats": ("flags",),
    "storage": ("flags", "stats"),
    "figures": BOTTOM,
    "dataset": BOTTOM,
    "ops": BOTTOM,
    "models": (*BOTTOM, "ops"),
    "utils": (*BOTTOM, "figures", "dataset", "ops", "models"),
    "setup": (*BOTTOM, "figures", "dataset", "ops", "models", "utils"),
    "checks": (*BOTTOM, "dataset", "ops", "models", "utils", "setup"),
    "exchange": (*BOTTOM, "dataset", "ops", "models", "utils", "setup"),
    "measure": (*BOTTOM, "figures", "dataset", "ops", "models", "utils", "setup"),
    "study": (*BOTTOM, "figures", "dataset", "ops", "models", "utils", "setup", "checks", "measure"),
    "claims": (*(*BOTTOM, "figures", "dataset", "ops", "models", "utils", "setup", "checks", "measure", "study"),),
    "numpy_transformer": (*BOTTOM, "figures"),
    "commands": (
        *(*BOTTOM, "figures", "dataset", "ops", "models", "utils", "setup", "checks", "measure", "study"),
        *("exchange", "numpy_transformer", "claims"),
    ),
    "benchmark": ("flags", "dataset", "models", "utils", "commands"),
}
PEERS = {
    "dataset": {entry.target.split(":")[0] for entry in TASKS.values()},
    "models": {entry.target.split(":")[0] for entry in MODELS.values()},
}
ALIASES = {
    "src": "flags",
    "src.config": "flags",
}  # `src` is empty; src/config.py is what a user's file imports of the flags

SOURCES = [ROOT / "benchmark.py", *sorted((ROOT / "dataset").rglob("*.py")), *sorted((ROOT / "src").rglob("*.py"))]


def module_name(path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in SOURCES}


def room_of(name: str) -> str:
    """The room of a module: `src.measure.speed.run` is in `measure`."""
    if name in ALIASES:
        return ALIASES[name]
    return name.split(".")[1] if name.startswith("src.") else name.split(".")[0]


def handed_to_importlib(node: ast.Call) -> set[str]:
    """Modules that `import_module(name)` may load: by its text, or by the fixed parts of an f-string."""
    argument = node.args[0] if node.args else None
    if isinstance(argument, ast.Constant):
        return {argument.value}
    if isinstance(argument, ast.JoinedStr):
        pattern = "".join(
            re.escape(part.value) if isinstance(part, ast.Constant) else r"\w+" for part in argument.values
        )
        return {name for name in MODULES if re.fullmatch(pattern, name)}
    return set()


def imports(source: str) -> set[str]:
    """Modules of this project that a source imports anywhere, inside functions and through importlib too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide where they point"
            deeper = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = deeper & MODULES.keys()
            found |= modules | ({node.module} if len(modules) < len(deeper) else set())
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module":
            found |= handed_to_importlib(node)
    return {name for name in found if name.split(".")[0] in ("src", "dataset", "benchmark")}


def wrong_arrows(name: str, source: str) -> list[str]:
    """The imports of a module that its room may not have, and those of one task by another or one layer by another."""
    room, wrong = room_of(name), []
    for target in sorted(imports(source) - {name}):
        other = room_of(target)
        if other != room and other not in MAY_IMPORT[room]:
            wrong.append(f"{name} ({room}) imports {target} ({other})")
        if {name, target} <= PEERS.get(room, set()):
            wrong.append(f"{name} imports {target}, another file of its kind; what both need goes into a shared file")
    return wrong


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of some circle, in order; empty where there is none."""
    done: set[str] = set()
    while ready := {name for name, needs in graph.items() if name not in done and needs <= done | {name}}:
        done |= ready
    name = min(graph.keys() - done, default=None)
    path: list[str] = []
    while name is not None and name not in path:
        path.append(name)
        name = min(graph[name] - done - {name})
    return path[path.index(name) :] if name is not None else []


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name):
    assert room_of(name) in MAY_IMPORT, f"{name} is in no room that MAY_IMPORT knows"
    assert wrong_arrows(name, MODULES[name].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("src.models.x", "from dataset.task import Task"),
        ("dataset.x", "def f():\n    from src.models import base"),
        ("src.ops.x", "import src.models.base"),
        ("src.stats.intervals", "from src.utils import training"),
        ("src.flags.fields", "from src.stats.intervals import wilson"),
        ("src.utils.training", "import importlib\nimportlib.import_module('src.commands.train')"),
        (
            "src.measure.x",
            "import importlib\n\n\ndef f(name):\n    return importlib.import_module(f'src.checks.{name}ality')",
        ),
        ("src.commands.list", "import benchmark"),
        ("dataset.needle", "from dataset.caesar import LETTERS"),
        ("src.models.gla", "from src.models.retnet import RetNet"),
        ("src.numpy_transformer.loop", "from src.utils import training"),
        ("src.models.transformer", "from src.numpy_transformer import attention"),
    ],
)
def test_an_arrow_that_points_up_or_across_is_found(name, source):
    assert len(wrong_arrows(name, source)) == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("src.models.x", "import torch\nfrom src.ops.attention import attention"),
        ("dataset.x", "from dataset import task"),
        ("src.commands.x", "from src.utils import training, viz"),
        ("src.models.hybrid", "from src.models import MODELS"),
        ("benchmark", "import importlib\nimportlib.import_module('src.commands.train')"),
    ],
)
def test_an_arrow_that_points_down_is_fine(name, source):
    assert wrong_arrows(name, source) == []


def test_there_is_no_circle_between_files():
    """Imports inside functions count too: a circle works until somebody imports the other end first."""
    graph = {
        name: imports(path.read_text(encoding="utf-8")) & MODULES.keys() - {name} for name, path in MODULES.items()
    }
    assert circle(graph) == []


def test_a_circle_would_be_found():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}
    assert circle(graph) == ["b", "c"]
    assert circle({"a": {"b"}, "b": set()}) == []


TORCH_FREE_ROOMS = ("flags", "stats", "figures", "numpy_transformer")
WITHOUT_TORCH = [
    *"benchmark dataset dataset.task dataset.seeds dataset.splits dataset.tokenizer src.models".split(),
    *"src.ops.backends src.utils.tokenizer src.utils.viz src.utils.reporter src.storage.rundir".split(),
    *"src.storage.schema".split(),
    *"src.storage.env src.storage.rows src.storage.record src.measure.timing src.measure.session".split(),
    *"src.measure.progress".split(),
    *"src.measure.speed.analysis src.measure.profile.trace src.measure.kernels.subjects src.study.claims".split(),
    *"src.study.report src.study.records src.study.sameness".split(),
    *"src.claims.table src.claims.publish src.claims.runs".split(),
    *"src.study.comparison.stored src.study.comparison.request".split(),
    *sorted(name for name in MODULES if name.startswith("src.commands.")),
    *sorted(name for name in MODULES if room_of(name) in TORCH_FREE_ROOMS or name.startswith("src.study.page")),
    *sorted({entry.target.split(":")[0] for entry in TASKS.values()}),
    *sorted({target.split(":")[0] for target in PANELS.values()}),
]


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
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *WITHOUT_TORCH], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout == ""


def test_an_import_of_torch_would_be_found():
    done = subprocess.run(
        [sys.executable, "-c", PROBE, "src.utils.metrics"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.startswith("src.utils.metrics")


@pytest.mark.parametrize("name", TASKS)
def test_a_task_file_exposes_its_class_and_build_loaders(name):
    task_class = TASKS[name].load()
    module = importlib.import_module(TASKS[name].target.split(":")[0])
    assert issubclass(task_class, Task)
    assert module.build_loaders.task_class is task_class
    assert TASKS[name].summary
    assert TASKS[name].source


@pytest.mark.parametrize("name", MODELS)
def test_a_model_file_exposes_its_class_and_build_model(name):
    from src.models.contract import ARModel, Mixer

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
    of_tasks = (
        "dataset",
        {
            "base",
            "blocks",
            "bpe",
            "common",
            "drawn",
            "entry",
            "loaders",
            "plans",
            "rows",
            "seeds",
            "splits",
            "strings",
            "task",
            "tokenizer",
        }
        | {"vocabulary", "windows"},
    )
    folder, shared = (
        of_tasks
        if registry is TASKS
        else (
            "src.models",
            {
                *("backbone", "base", "causal_attention", "contract", "fair", "initial", "match", "modules", "parts"),
                *("sampling", "short_conv", "state"),
            },
        )
    )
    files = {path.stem for path in (ROOT / folder.replace(".", "/")).glob("*.py")} - {"__init__"} - shared
    assert files == {
        entry.target.split(":")[0].split(".")[-1]
        for entry in registry.values()
        if entry.target.count(".") == folder.count(".") + 1
    }


def test_every_file_of_the_panels_is_in_their_table_or_shared():
    files = {path.stem for path in (ROOT / "src/measure/speed/panels").glob("*.py")} - {"__init__", "memory_of"}
    assert files == {target.split(":")[0].split(".")[-1] for target in PANELS.values()}


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
    assert len(folded) == len(set(folded)), (
        "two flags that differ by an underscore or a plural are one flag to a reader"
    )
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
        found += [
            f"{path.relative_to(ROOT)}:{i}: {line.strip()[:120]}"
            for i, line in enumerate(text.splitlines(), 1)
            if MACHINE_PATH.search(line)
        ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "open('/" + "home/me/x.txt')",
        "cd /" + "work/main",
        "C:" + "\\Users\\me",
        "sys.path.insert(0, '/" + "root/code')",
    ],
)
def test_a_path_of_a_machine_would_be_found(line):
    assert MACHINE_PATH.search(line)


@pytest.mark.parametrize(
    "line",
    ["#!/usr/bin/env bash", "https://example.org/home/page", "runs/records/x", "../home/x", "${HOME}/" + "work/x"],
)
def test_addresses_and_relative_paths_are_fine(line):
    assert not MACHINE_PATH.search(line)
