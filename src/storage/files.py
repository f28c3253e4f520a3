"""Files that appear whole or not at all, and JSON that shows an edit.

    write_atomic(path, data)
    write_json(run.config, seal({"args": ..., "machine": ...}))
    doc = open_sealed(run.config)

A file is written next to its place and then renamed. A killed process leaves the old content or the new, never a part.
`seal` adds the SHA-256 of the content. The part under "machine" has a digest of its own, so the first digest is equal
wherever the result is. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import secrets
from pathlib import Path

from src.flags.fields import UserError

TEMP_PREFIX = ".tmp-"
LINE = 200  # columns of JSON: a bin of a curve with its interval fits


def write_atomic(path, data: bytes) -> None:
    """Replace `path` by `data`, whole or not at all. After an error the old file is unchanged and no other is left."""
    path = Path(path)
    temp = path.with_name(f"{TEMP_PREFIX}{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with open(temp, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temp, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temp.unlink()
        raise
    _sync_folder(path.parent)


def write_new(folder, stem: str, suffix: str, data: bytes) -> Path:
    """Write a new file, whole or not at all: stem + suffix, or stem-2, stem-3, ... where that name is taken.

    No file is replaced, also not one that another process writes at the same moment. Returns the path.
    """
    folder = Path(folder)
    temp = folder / f"{TEMP_PREFIX}{stem}-{os.getpid()}-{secrets.token_hex(4)}"
    write_atomic(temp, data)
    try:
        for n in itertools.count(1):
            path = folder / f"{stem}{f'-{n}' if n > 1 else ''}{suffix}"
            try:
                _take_name(temp, path, data)
                return path
            except FileExistsError:
                continue
    finally:
        temp.unlink()


def _take_name(temp: Path, path: Path, data: bytes) -> None:
    """Give a finished file a second name; FileExistsError where the name is taken."""
    try:
        os.link(temp, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links: there the file is not whole at once
        with open(path, "xb") as file:
            file.write(data)


def append_whole(file, data: bytes) -> None:
    """Append to a file that was opened unbuffered. If the disk is full, what was written is taken back: OSError."""
    size = os.fstat(file.fileno()).st_size
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError:
        os.ftruncate(file.fileno(), size)
        raise


def write_json(path, obj) -> None:
    """Write `obj` as JSON: keys in their order, ASCII, one line per key and per array of numbers or strings.

    Raises ValueError for NaN and infinities, which JSON does not have.
    """
    write_atomic(path, json_bytes(obj))


def json_bytes(obj) -> bytes:
    """The bytes that `write_json` writes."""
    return (_layout(json.loads(json.dumps(obj, allow_nan=False)), 0) + "\n").encode("ascii")


def read_json(path):
    """The content of a JSON file; UserError of one line if it is missing, unreadable or not JSON."""
    path = Path(path)
    try:
        return json.loads(path.read_bytes().decode("utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        what = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise UserError(f"'{path}': {what}, allowed: the {path.name} of a run; check --out_dir") from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"'{path}' is truncated or not JSON ({_first_line(error)}); "
            "restore it, or start the run again with --overwrite"
        ) from error


def digest(doc) -> str:
    """SHA-256, in hex, of JSON content. The order of keys, spaces and line breaks do not matter."""
    text = json.dumps(doc, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def seal(doc: dict, machine_key: str = "machine") -> dict:
    """A copy of `doc` as JSON holds it (tuples become lists, keys become strings), with its digests.

    "sha256" covers all keys but itself and `machine_key`. If `machine_key` is a dict, it gets a "sha256" of its own.
    """
    doc = json.loads(json.dumps(doc, allow_nan=False))
    doc.pop("sha256", None)
    if isinstance(doc.get(machine_key), dict):
        machine = _without(doc[machine_key], "sha256")
        doc[machine_key] = {**machine, "sha256": digest(machine)}
    return {**doc, "sha256": digest(_without(doc, machine_key))}


def open_sealed(path, machine_key: str = "machine") -> dict:
    """The content of a file that holds a sealed document; UserError if it is missing, truncated or was edited."""
    doc = read_json(path)
    if not isinstance(doc, dict) or not isinstance(doc.get("sha256"), str):
        raise UserError(
            f"'{path}' has no sha256 of its content, so it was not written by this program, or was edited; "
            "restore it, or use --overwrite"
        )
    parts = {"": (_without(doc, "sha256", machine_key), doc["sha256"])}
    if machine_key in doc:
        machine = doc[machine_key]
        has_digest = isinstance(machine, dict)
        content, expected = (_without(machine, "sha256"), machine.get("sha256")) if has_digest else (machine, None)
        parts[f" under '{machine_key}'"] = (content, expected)
    for where, (content, expected) in parts.items():
        if digest(content) != expected:
            raise UserError(
                f"'{path}' was edited or damaged{where}: its content does not match its sha256; "
                "restore it, or start again with --overwrite"
            )
    return doc


def remove_files(folder: Path, pattern: str) -> None:
    """Remove the files and links in a folder whose names match; folders stay."""
    for path in folder.glob(pattern):
        if path.is_symlink() or path.is_file():
            path.unlink(missing_ok=True)


def make_writable(folder: Path, flag: str = "--out_dir") -> None:
    """Make a folder and its parents, and write one byte into it to be sure. flag: where the folder was typed.

    Raises UserError, and leaves no new folder, if that fails.
    """
    made = []
    try:
        for part in (folder, *folder.parents):
            if os.path.isdir(part):
                break
            made.append(part)
        folder.mkdir(parents=True, exist_ok=True)
        probe(folder)
    except OSError as error:
        for part in made:
            with contextlib.suppress(OSError):
                part.rmdir()
        raise unwritable(folder, error, flag) from error


def probe(folder: Path) -> None:
    """Write one byte into the folder and remove it; OSError if that fails."""
    path = folder / f"{TEMP_PREFIX}probe-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        path.write_bytes(b"x")
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        raise
    path.unlink()


def probe_for(folder: Path) -> None:
    """`probe` the nearest folder that exists, of a folder that may not exist yet and its parents."""
    probe(next(p for p in (folder, *folder.parents) if os.path.lexists(p)))


def unwritable(folder: Path, error: OSError, flag: str = "--out_dir") -> UserError:
    """The error for a folder that cannot be written. flag: where it was typed."""
    return UserError(
        f"{flag}: got '{folder}', which cannot be written ({error.strerror}), allowed: a folder that can; "
        "choose another"
    )


def _layout(value, depth: int) -> str:
    """JSON text, indented by one space per level, with one line per key and per item of an array.

    An array of numbers and strings is one line. So is an array of arrays, or an item of an array, that fits into LINE.
    """
    if isinstance(value, dict) and value:
        items = [f"{json.dumps(key)}: {_layout(item, depth + 1)}" for key, item in value.items()]
    elif isinstance(value, list) and not _is_one_line(value):
        texts = ((item, json.dumps(item)) for item in value)
        items = [text if len(text) <= LINE else _layout(item, depth + 1) for item, text in texts]
    else:
        return json.dumps(value)
    left, right = "{}" if isinstance(value, dict) else "[]"
    start = "\n" + " " * (depth + 1)
    return f"{left}{start}{f',{start}'.join(items)}\n{' ' * depth}{right}"


def _is_one_line(items: list) -> bool:
    if not any(isinstance(item, (dict, list)) for item in items):
        return True
    return not any(isinstance(item, dict) for item in items) and len(json.dumps(items)) <= LINE


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power failure, on systems that can open a folder."""
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _refuse_constant(name):
    raise ValueError(f"{name} is not JSON")


def _first_line(error) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _without(doc: dict, *keys) -> dict:
    return {k: v for k, v in doc.items() if k not in keys}
