"""What is left in the folder that a command was writing, after the disk was full or an error came: found by looking.

    looked("runs/x")      # "in 'runs/x', config.json and ckpt.pt are intact"

`benchmark.py` ends its message about such an error with it. No file is said to be intact that was not read.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from src.flags.fields import UserError
from src.flags.hints import resuming
from src.storage import lock
from src.storage.files import open_sealed

SEALED = ("config.json", "env.json", "metrics.json", "test_items.json", "history.json", "verdicts.json")
CHECKPOINTS = ("ckpt.pt", "best.pt")


def looked(folder: Path | str | None = None) -> str:
    """Which files of a folder are intact, and which are damaged; empty where there is none.

    folder: that which this process locked last, if none is given.
    """
    folder = lock.last_taken() if folder is None else Path(folder)
    if folder is None:
        return ""
    found: dict[bool, list[str]] = {True: [], False: []}
    for names, is_intact in ((SEALED, _is_sealed), (CHECKPOINTS, _is_whole)):
        for name in names:
            if (folder / name).is_file():
                found[is_intact(folder / name)].append(name)
    words = [f"{_and(found[True])} {_are(found[True])} intact"] if found[True] else []
    words += [f"{_and(found[False])} {_are(found[False])} damaged"] if found[False] else []
    if not words:
        return ""
    unfinished = "ckpt.pt" in found[True] and "metrics.json" not in found[True]
    way = f"; with room on the disk, continue with: {resuming(folder)}" if unfinished else ""
    return f"; in '{folder}', {', and '.join(words)}{way}"


def _is_sealed(path: Path) -> bool:
    """Whether a file of JSON is whole, and its digest right where it has one."""
    return _is(lambda: json.loads(path.read_bytes()) if path.name == "env.json" else open_sealed(path))


def _is_whole(path: Path) -> bool:
    from src.storage import checkpoint  # loads torch, which a command without checkpoints does not need

    return _is(lambda: checkpoint.check_digest(path))


def _is(look: Callable) -> bool:
    try:
        look()
    except (UserError, OSError, ValueError, RecursionError):
        return False
    return True


def _and(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def _are(names: list[str]) -> str:
    return "are" if len(names) > 1 else "is"
