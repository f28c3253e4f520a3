"""checks.json: what `check` says about each layer of the user's own that is compared, for the report.

Each cell passed the quick gate before the first run. This is the whole list of checks, once per layer.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from src.flags.fields import own_config
from src.flags.kinds import as_text
from src.setup.code import identity
from src.storage.env import PROJECT
from src.storage.files import read_json, write_json
from src.study.comparison.cells import Cell

NAME = "checks.json"
PASSED, FAILED = 0, 4  # exit codes of `check`


def check_layers(home: Path, cells: Sequence[Cell], known: Mapping[str, dict] | None = None) -> None:
    """Run `check` for each layer of a user's own file, unless it was checked with the same code and flags before.

    known: what was found before the first run, if it is not in the folder yet.
    """
    before = known_checks(home)
    found = checks_of(cells, {**before, **(known or {})})
    if found and found != before:
        write_json(home / NAME, found)


def known_checks(home: Path) -> dict:
    """What a folder holds about layers that were checked before."""
    path = home / NAME
    return read_json(path) if path.is_file() else {}


def checks_of(cells: Sequence[Cell], before: Mapping[str, dict]) -> dict[str, dict]:
    """{label: what `check` says} of each layer of a user's own file. before: what is known and need not be run."""
    found: dict[str, dict] = {}
    for cell in cells:
        if not cell.terms["own_file"] or cell.model in found:
            continue
        words = _words(cell)
        asked = {"words": list(words), "code": identity(cell.setup.args)}
        old = before.get(cell.model, {})
        found[cell.model] = old if old.get("asked") == asked else {"asked": asked, **_checked(words)}
    return found


def _words(cell: Cell) -> tuple[str, ...]:
    """The command line of `check`: the layer with its own flags, at the small sizes of `check`."""
    own = own_config(cell.setup.model_class)
    names = {f.name for f in dataclasses.fields(own)} if own else set()
    typed = [(name, value) for name, value in cell.setup.explicit.items() if name in names]
    flags = [word for name, value in typed for word in (f"--{name}", as_text(value))]
    return ("check", "--model", cell.setup.args.model, *flags, "--threads", str(cell.setup.args.threads), "--json")


def _checked(words: Sequence[str]) -> dict:
    """What the command printed, and its verdict; the error where it printed none."""
    ended = subprocess.run([sys.executable, str(PROJECT / "benchmark.py"), *words], capture_output=True, text=True)
    if ended.returncode not in (PASSED, FAILED):
        why = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
        return {"verdict": "error", "error": why, "results": []}
    return {**json.loads(ended.stdout), "verdict": "pass" if ended.returncode == PASSED else "fail"}
