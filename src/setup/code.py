"""The code of a run: the user's files that made it, the copy that the run keeps of them, and which of the two it opens.

    {**identity(args)}                            # digests, for config.json
    keep(run_dir, args)                           # R/code/model/my_layer.py and the modules beside it
    code = choose(run_dir, config, "model", Asked(allow_code=True))
    model_class = find_model(code.path); check_loaded(run_dir, config, "model", code)

A run directory may come from a stranger, whose config.json can name any file with its right digest. So nothing that it
names is imported before `choose` has decided, and `choose` allows three things alone:

- the file that the run names, outside of the run directory and unchanged, if this user has run exactly that code from
  that path on this machine before (src/storage/executed.py)
- a file whose path is typed now, by --model or --task
- the copy in the run directory, if --allow_code is typed now
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from src.flags.fields import UserError
from src.flags.own_files import absolute, code_of, digests, file_digest
from src.flags.places import here
from src.flags.registry import is_path
from src.flags.run_flags import RunFlags
from src.setup.classes import remember
from src.storage import executed
from src.storage.rundir import RunDir, write_atomic

KINDS = ("task", "model")


@dataclass(frozen=True)
class Asked:
    """What was typed about the files of an existing run.

    files: {"task" or "model": a path}, other versions.  training: the run goes on. Then the path of the run itself
    asks for no other version, because one training would mix two without anybody having meant it.
    """

    allow_code: bool = False
    files: Mapping[str, str | None] = field(default_factory=dict)
    training: bool = False


@dataclass(frozen=True)
class Code:
    """A user's file as a run opens it.

    version: "original", "copy" (that the run keeps) or "another" (that was asked for).  notice: what to say about it.
    """

    path: str
    version: str
    sha256: str
    notice: str = ""


def identity(args: RunFlags) -> dict:
    """{"files": {kind: digest}, "helpers": {kind: {name: digest}}} of the user's files, for config.json."""
    found = {kind: digests(code) for kind, code in _own_code(args).items()}
    names = {kind: Path(getattr(args, kind)).name for kind in found}
    return {
        "files": {kind: code[names[kind]] for kind, code in found.items()},
        "helpers": {kind: {n: d for n, d in code.items() if n != names[kind]} for kind, code in found.items()},
    }


def keep(run_dir: RunDir, args: RunFlags) -> None:
    """Copy the user's files of a run, and the modules that they load from their folders, into the run directory.

    Modules that were imported inside functions are known by now, so the files count anew as run with all of these.
    """
    for kind, code in _own_code(args).items():
        if why := remember(getattr(args, kind)):
            print(f"notice: {why}; so the run will be opened only with --{kind} PATH or --allow_code", file=sys.stderr)
        for name, path in code.items():
            target = run_dir.code / kind / name
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(target, path.read_bytes())


def choose(run_dir: RunDir, config: dict, kind: str, asked: Asked) -> Code | None:
    """The file that a run opens for its task or its model; None where it has none of the user's. Executes nothing.

    Raises UserError where the file is gone, has changed, or was never run by this user, and nothing else was asked for.
    """
    named = config["args"][kind]
    if not isinstance(named, str):
        raise UserError(f"'{run_dir.config}': got {named!r:.40} for its {kind}, allowed: a name or a path; restore it")
    if not is_path(named):
        return None
    stored, typed = Path(named), asked.files.get(kind)
    typed = absolute(typed) if typed and is_path(typed) else None
    expected = _expected(run_dir, config, kind)
    problem = _problem(stored, expected)
    if typed is not None and (typed != stored or (problem and not asked.training)):
        if not typed.is_file():
            raise UserError(f"--{kind}: got '{typed}' (no such file), allowed: a .py file")
        notice = f"--{kind}: '{typed}' is used, another version than that of the run"
        return Code(str(typed), "another", file_digest(typed), notice)
    inside = run_dir.path.resolve() in stored.parents
    if not problem and not inside and (typed == stored or executed.has_run(stored, expected)):
        return Code(str(stored), "original", config["files"][kind])
    unknown = f"is not known as one that you have run on this machine ('{executed.executed_folder()}')"
    problem = "lies in the run directory" if inside else problem or unknown
    what = f"the {kind} file '{stored}' of this run {problem}"
    copy = run_dir.path.resolve() / "code" / kind / stored.name
    other = f"--{kind} PATH uses another version of it" + (" (under another path)" if asked.training else "")
    if problem == unknown:
        what, other = f"{what}; read it first, if the run is not yours", f"--{kind} '{stored}' runs that file"
    if "helpers" not in config:
        restore = "" if problem == unknown else "restore the file; "
        raise UserError(f"{run_dir.path}: {what}, and this older run kept no copy; {restore}{other}")
    if not asked.allow_code:
        raise UserError(
            f"{run_dir.path}: {what}; --allow_code uses the copy in '{copy.parent}', which runs code from the run "
            f"directory; {other}"
        )
    if damage := _problem(copy, expected):
        raise UserError(f"{run_dir.path}: {what}, and the copy '{copy}' {damage}; restore one of them; {other}")
    return Code(str(copy), "copy", config["files"][kind], f"{what}; its copy in the run directory is used")


def check_loaded(run_dir: RunDir, config: dict, kind: str, code: Code | None) -> None:
    """UserError where a file now loads a module from its folder that it did not load when the run began."""
    if code is None or code.version == "another" or "helpers" not in config:
        return
    more = code_of(Path(code.path)).keys() - _expected(run_dir, config, kind).keys()
    if more:
        raise UserError(
            f"{run_dir.path}: the {kind} file '{code.path}' now loads '{min(more)}' from its folder, which it did not "
            "when the run began; move that file away"
        )


def described(code: Mapping[str, Code]) -> dict:
    """{kind: {"version", "sha256"}} of what is not the original, for results."""
    return {k: {"version": c.version, "sha256": c.sha256} for k, c in code.items() if c.version != "original"}


def _own_code(args: RunFlags) -> dict[str, dict[str, Path]]:
    return {kind: code_of(Path(getattr(args, kind))) for kind in KINDS if is_path(getattr(args, kind))}


def _expected(run_dir: RunDir, config: dict, kind: str) -> dict[str, str]:
    """{name: digest} of the code at the start of the run. UserError where config.json does not tell."""
    try:
        code = {Path(config["args"][kind]).name: config["files"][kind], **config.get("helpers", {}).get(kind, {})}
    except (KeyError, TypeError, AttributeError):
        code = {"": None}
    if not all(isinstance(text, str) for item in code.items() for text in item):
        raise UserError(
            f"'{run_dir.config}' names the {kind} file '{config['args'][kind]}' without its digest, so it was not "
            "written by this program; restore it"
        )
    return code


def _problem(path: Path, expected: dict[str, str]) -> str:
    """What is wrong with a file and the modules beside it, as the end of a sentence; empty where nothing is."""
    for name, digest in expected.items():
        file = here(path).parent / name
        what = "" if name == path.name else f"needs '{name}' beside it, which "
        if not path.is_absolute() or ".." in Path(name).parts or not file.is_file():
            return what + "is gone"
        if file_digest(file) != digest:
            return what + "has changed since the run began"
    return ""
