"""Which of their own files a user has run on this machine: the only code that a run directory may have executed again.

    record(path, {"my_layer.py": digest, "helper.py": digest})     # a file that was named on a command line was run
    has_run(path, {"my_layer.py": digest, "helper.py": digest})    # whether exactly this code was run, from this place
    is_as_it_was_run(path)                                         # whether the file is one of these as it is now

A run names the files that made it, with their digests. But a run directory may come from somebody else, and its
config.json can name any file and any digest, such as a file that lies next to it. Digests and seals cannot tell whose
they are. So the answer is kept where only the user writes: one small file per content, in the user's state folder.
Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from platformdirs import user_state_path

from src.flags.own_files import file_digest
from src.flags.places import here
from src.storage.files import digest, write_json

APP = "seq-bench"
DIGITS = 32  # hexadecimal, of each of the two digests in a file's name


def state_folder() -> Path:
    """Where the bench keeps what it has to remember for this user. The folder may not exist yet.

    $XDG_STATE_HOME is used on every system, as $XDG_CACHE_HOME is for the cache. Without it: ~/.local/state/seq-bench
    on Linux, and the system's own folder elsewhere.
    """
    chosen = os.environ.get("XDG_STATE_HOME")
    return Path(chosen) / APP if chosen else user_state_path(APP, appauthor=False)


def executed_folder() -> Path:
    """The folder with one file per content that was run."""
    return state_folder() / "executed"


def record(path: Path, code: Mapping[str, str]) -> str:
    """Remember that a file was run. Returns why it could not be remembered, empty if it was.

    path: whole, as `own_files.absolute` makes it.  code: {name below its folder: SHA-256} of it and its modules.
    """
    target = _file(path, code)
    if target.is_file():
        return ""
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(target, {"path": str(path), "code": dict(code)})
    except OSError as error:
        return f"'{target.parent}' cannot be written: {error.strerror or error}"
    return ""


def has_run(path: Path, code: Mapping[str, str]) -> bool:
    """Whether a file was run from this path with exactly this code."""
    return _file(path, code).is_file()


def is_as_it_was_run(path: Path) -> bool:
    """Whether a file, and the modules that it had, have a content with which it was run from this path."""
    folder = here(path).parent
    for known in executed_folder().glob(f"{_place(path)}-*.json"):
        code = _code_in(known)
        if code and all((folder / name).is_file() and file_digest(folder / name) == d for name, d in code.items()):
            return True
    return False


def _code_in(known: Path) -> dict[str, str]:
    """The code that a file of this folder tells; none where it is damaged, so that it allows nothing."""
    try:
        code = json.loads(known.read_bytes())["code"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return {}
    return code if isinstance(code, dict) and all(isinstance(d, str) for d in code.values()) else {}


def _file(path: Path, code: Mapping[str, str]) -> Path:
    return executed_folder() / f"{_place(path)}-{digest(dict(code))[:DIGITS]}.json"


def _place(path: Path) -> str:
    """A path as a part of a file's name. It may hold bytes that are no text."""
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:DIGITS]
