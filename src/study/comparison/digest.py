"""The name of a run: the digest of what determines its numbers. Runs of one name are one run, in any comparison.

    code = CodeDigests()
    name = run_name(cell, lr=3e-3, seed=11, min_lr=3e-5, code=code)      # 16 hexadecimal digits

It covers the resolved flags, the text of a language task, and the code: the files of this program that a training
imports, and a user's own files. Comments, docstrings and the place of a user's file do not count. Versions of packages
and the machine do not count either. They are in each run's env.json, and the report says where they differ.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path

from dataset.vocabulary import read_tokenizer
from src.flags.groups import TOKENIZERS
from src.flags.places import here
from src.flags.registry import is_path
from src.flags.run_flags import RunFlags, to_dict
from src.setup.code import identity
from src.storage import files

PROJECT = Path(__file__).resolve().parents[3]
# What trains, evaluates and writes the numbers. What these import is found by reading their source.
ROOTS = ("src.setup.run", "src.setup.session", "src.setup.plan")
OUR_ROOMS = ("src", "dataset")
# These change no number of a run: how it is drawn and stored, and flags, whose resolved values are counted.
NOT_CODE = ("src.figures", "src.study", "src.commands", "src.flags", "src.storage")
REGISTRIES = ("dataset", "src.models")  # a new task or layer changes no other
WITHOUT_EFFECT = ("lr_tried", "task", "model", "data_path", "layers")  # recorded only, or named by their content below


def run_name(cell, lr: float, seed: int) -> str:
    """The name of a run of a cell. cell: a src.study.comparison.cells.Cell."""
    args, setup = to_dict(cell.setup.args), cell.setup
    flags = {k: v for k, v in args.items() if k not in WITHOUT_EFFECT}
    flags |= {"lr": lr, "seed": seed, "min_lr": min(args["min_lr"], lr)}
    if args["tokenizer"] not in TOKENIZERS:  # a path: another tokenizer in its place makes another run
        flags["tokenizer"] = files.digest({"tokenizer": read_tokenizer(here(args["tokenizer"])).payload()})
    own = identity(setup.args)
    return files.digest(
        {
            "flags": flags,
            "names": _names(setup.args),
            "text": cell.terms["data_digest"],
            "own": own,
            "code": cell.terms["code_digest"],
        }
    )[:16]


def _names(args: RunFlags) -> dict:
    """The task and the model; of a user's file its name, because its digest is counted elsewhere."""
    named = {kind: getattr(args, kind) for kind in ("task", "model")}
    named = {kind: Path(name).name if is_path(name) else name for kind, name in named.items()}
    return {**named, "layers": [Path(n).name if is_path(n) else n for n in getattr(args, "layers", ())]}


def _layer_classes(setup) -> tuple[type, ...]:
    from src.models.backbone import layers_of
    from src.models.contract import ARModel

    if issubclass(setup.model_class, ARModel):
        return (setup.model_class,)
    return (setup.model_class, *(layer for layer, _ in layers_of(setup.model_class, setup.args)))


def code_digest(setup) -> str:
    """The digest of the program's files that a run of this task and this model uses. setup: a src.setup.plan.Setup."""
    classes = (setup.task_class, *_layer_classes(setup))
    ours = {c.__module__ for c in classes if c.__module__.split(".")[0] in OUR_ROOMS}
    return _digest_of(frozenset({*ROOTS, *ours}))


@functools.lru_cache(maxsize=256)
def _digest_of(roots: frozenset[str]) -> str:
    found: dict[str, str] = {}
    waiting = sorted(roots)
    while waiting:
        name = waiting.pop()
        if name in found or name in REGISTRIES or name.startswith(NOT_CODE):
            continue
        path = _file_of(name)
        if path is None:
            continue
        found[name], needs = _read(path)
        waiting += sorted(needs - found.keys())
    return files.digest(found)


@functools.lru_cache(maxsize=1024)
def _file_of(name: str) -> Path | None:
    base = PROJECT.joinpath(*name.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


@functools.lru_cache(maxsize=1024)
def _read(path: Path) -> tuple[str, frozenset[str]]:
    """(the digest of a file without comments and docstrings, the modules of ours that it imports anywhere)."""
    tree = ast.parse(path.read_bytes())
    needs = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            needs |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            needs |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_text(body[0]):
            node.body = body[1:] or [ast.Pass()]
    return files.digest({"code": ast.dump(tree)}), frozenset(n for n in needs if n.split(".")[0] in OUR_ROOMS)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
