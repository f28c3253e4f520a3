"""What travels between the machine of a plan and a machine of a cluster, which share no disk: files as bytes.

    parcel = files_of(folder)                    # {"config.json": b"...", "figures/loss.png": b"..."}
    put(parcel, target)                          # the folder appears whole, in the place of the old one
    words, places = needed(job.words)            # a job's own files and texts, by the folders that the run names

`needed` makes the paths in the words whole. On the other machine src/flags/places.py leads from them to the files.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from dataset.bpe import FILES
from dataset.corpus.sources import FILE
from src.flags.groups import TOKENIZERS
from src.flags.kinds import UserError
from src.flags.own_files import code_of
from src.flags.parser import first_look, read_request
from src.flags.presets import task_of
from src.flags.registry import is_path
from src.setup.classes import find_model, find_task

DATA = "SEQ_BENCH_DATA"
NOT_SENT = (".lock",)  # a lock belongs to a machine

Files = dict[str, bytes]  # {path below a folder: content}


def files_of(folder: Path) -> Files:
    """All files in a folder and below it; none if there is no such folder."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if path.name not in NOT_SENT}


def write(files: Files, folder: Path) -> None:
    """Write files below a folder. ValueError for a name that leads out of it."""
    for name, content in files.items():
        path = Path(name)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"got a file named '{name}', allowed: a path below the folder")
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


def put(files: Files, folder: Path) -> None:
    """Put a folder with these files in the place of the old one. It appears whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".tmp-{folder.name}-", dir=folder.parent))
    try:
        write(files, beside / "new")
        if folder.exists():
            os.replace(folder, beside / "old")
        os.replace(beside / "new", folder)
    finally:
        shutil.rmtree(beside)


def needed(words: Sequence[str]) -> tuple[tuple[str, ...], dict[str, Files]]:
    """(the words with whole paths, {folder: its files that the job opens}).

    Raises UserError for a text that only this machine is known to have.
    """
    words = list(words)
    seen = first_look(words)
    task = task_of(seen.preset, seen.task)
    task_class, model_class = find_task(task), find_model(seen.model, seen.layers)
    explicit = read_request(words, task_class, model_class).explicit
    match = explicit.get("match_params", "")
    if is_path(match) and not Path(match).is_absolute():
        raise UserError(f"--match_params: got '{match}', allowed with --engine ray: a whole path")
    places: dict[str, Files] = {}
    for path in filter(is_path, (explicit.get("task", ""), explicit["model"], match)):
        code = {name: file.read_bytes() for name, file in code_of(Path(path)).items()}
        places.setdefault(str(Path(path).parent), {}).update(code)
    if explicit.get("data_path"):
        _add_text(Path(explicit["data_path"]), places)
    elif task_class.reads_text and not task_class.own_text:
        folder = _data_folder(task)
        places.setdefault(folder, {})[FILE] = _read(Path(folder) / FILE)
    elif task_class.reads_text:
        raise UserError(_without_text(task))
    tokenizer = explicit.get("tokenizer", TOKENIZERS[0])
    if tokenizer not in TOKENIZERS:
        _add_tokenizer(Path(tokenizer), places)
    whole = [
        w
        for name in ("task", "model", "data_path", "tokenizer")
        if explicit.get(name)
        for w in (f"--{name}", explicit[name])
    ]
    return (*words, *whole), places


def _add_text(path: Path, places: dict[str, Files]) -> None:
    """Add the file or the folder of --data_path."""
    if path.is_dir():
        places.setdefault(str(path), {}).update(files_of(path))
    else:
        places.setdefault(str(path.parent), {})[path.name] = _read(path)


def _add_tokenizer(path: Path, places: dict[str, Files]) -> None:
    """Add the files of --tokenizer, which may be a folder with more than these."""
    folder, names = (path, FILES) if path.is_dir() else (path.parent, (path.name, FILES[1]))
    found = {name: _read(folder / name, "--tokenizer") for name in names if (folder / name).is_file()}
    places.setdefault(str(folder), {}).update(found)


def _read(path: Path, what: str = "--data_path") -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{what}: got '{path}', which cannot be read ({error.strerror})") from error


def _data_folder(task: str) -> str:
    """The folder of SEQ_BENCH_DATA, whole."""
    folder = os.environ.get(DATA, "")
    if not folder or not (Path(folder) / FILE).is_file():
        raise UserError(_without_text(task))
    return str(Path(folder).absolute())


def _without_text(task: str) -> str:
    return (
        f"--engine ray: task '{task}' reads a text from the cache of this machine, which the others may not have; name "
        f"it with --data_path, or its folder with {DATA}"
    )


def unpack(places: Mapping[str, Files], below: Path) -> dict[str, str]:
    """Write the files of all places below a folder; {folder that the run names: folder here}."""
    found = {}
    for number, (folder, files) in enumerate(places.items()):
        found[folder] = str(below / str(number))
        write(files, below / str(number))
    return found
