"""Names to classes: lazy registry entries, and a user's own file.

`TASKS` and `MODELS` are dicts of `Entry`. Nothing is imported before it is asked for. So a missing optional package
never breaks another entry, and `list` needs no torch.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from src.flags.fields import UserError, suggest
from src.flags.own_files import absolute, load, modules_beside
from src.flags.places import here


@dataclass(frozen=True)
class Entry:
    """One line of `list`.

    target: "package.module:Class".  needs: packages, looked up with find_spec and not imported.
    """

    target: str
    summary: str
    source: str
    needs: tuple[str, ...] = ()

    def load(self):
        module, name = self.target.split(":")
        return getattr(importlib.import_module(module), name)

    def missing(self) -> list[str]:
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


def find(kind: str, registry: dict[str, Entry], name: str, bases: tuple[type, ...] | None = None):
    """The class behind a registry name or a path to a .py file; UserError when there is none.

    bases: a user's file must define exactly one public subclass of these. A function that returns the tuple keeps
    imports lazy.
    """
    if is_path(name):
        return load_file(kind, here(absolute(name)), bases() if callable(bases) else bases)
    if name not in registry:
        raise UserError(
            f"--{kind}: unknown {kind} '{name}', allowed: {', '.join(registry)}, or a path to a .py "
            f"file{suggest(name, registry)}"
        )
    return registry[name].load()


def is_path(name: str) -> bool:
    """Whether a --task or --model names a file, and not an entry of the registry."""
    return name.endswith(".py") or "/" in name or "\\" in name


def load_file(kind: str, path: Path, bases: tuple[type, ...]):
    """The one public subclass of `bases` that the file defines, or else imports from a file beside it.

    path: whole, see `own_files.absolute`.
    """
    wanted = " or ".join(b.__name__ for b in bases)
    if not path.is_file() or path.suffix != ".py":
        what = "is a folder" if path.is_dir() else "no such file" if not path.exists() else "not a .py file"
        raise UserError(f"--{kind}: got '{path}' ({what}), allowed: a .py file that defines one {wanted} subclass")
    module = load(kind, path)
    public = dict.fromkeys(c for n, c in vars(module).items() if isinstance(c, type) and not n.startswith("_"))
    classes = [c for c in public if issubclass(c, bases)]  # a second name of a class is no second class
    found = [c for c in classes if c.__module__ == module.__name__]
    found = found or [c for c in classes if c.__module__ in modules_beside(path)]
    if len(found) != 1:
        got = ", ".join(c.__name__ for c in found) or "none"
        raise UserError(
            f"--{kind}: '{path}' defines {got}, allowed: exactly one public {wanted} subclass (prefix the others "
            "with '_')"
        )
    return found[0]
