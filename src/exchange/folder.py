"""A folder in Hugging Face's format: written whole or not at all, and read without running code from it.

    check_target(path, overwrite=False)
    write_folder(path, {"config.json": {...}}, tensors, overwrite=False)
    config, tensors = read_config(path), read_tensors(path)

Tensors are in safetensors files only. A pickle (pytorch_model.bin) can run code, so none is written and none is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor, float32

from src.flags.fields import UserError
from src.storage.files import TEMP_PREFIX, make_writable

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TEMPLATE = "chat_template.jinja"
BLOCK = 1 << 20  # bytes that are read at once
FILES = ("config.json", "generation_config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json")


def check_target(path: Path, overwrite: bool) -> None:
    """UserError where no folder may be written at `path`, or where --overwrite would remove what no export wrote."""
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_dir():
        raise UserError(f"--to: got '{path}', which is not a folder, allowed: a new folder; choose another")
    if not overwrite:
        raise UserError(f"--to: '{path}' exists, allowed: a new folder; replace it with --overwrite, or choose another")
    foreign = sorted(entry.name for entry in path.iterdir() if entry.name not in FILES or not entry.is_file())
    if foreign:
        raise UserError(
            f"--to: '{path}' holds '{foreign[0]}', which no export wrote, so --overwrite does not replace the folder; "
            "choose another"
        )


def write_folder(
    path: Path, documents: Mapping[str, dict | str], tensors: Mapping[str, Tensor], overwrite: bool
) -> None:
    """Write the documents and the weights into a new folder beside `path`, then give it its name.

    documents: {file name: the object of a JSON file, or its text}.  Raises what `check_target` does, and OSError.
    """
    check_target(path, overwrite)
    make_writable(path.parent, "--to")
    temp = path.with_name(f"{TEMP_PREFIX}{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    temp.mkdir()
    try:
        for name, content in documents.items():
            text = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            (temp / name).write_text(text, encoding="utf-8")
        _write_tensors(temp / WEIGHTS, tensors)
        for file in temp.iterdir():
            file.chmod((temp / "config.json").stat().st_mode)  # the library lets only the owner read its file
            with open(file, "rb+") as written:
                os.fsync(written.fileno())
        _give_name(temp, path)
    except BaseException:
        shutil.rmtree(temp, ignore_errors=True)
        raise


def read_config(folder: Path) -> dict:
    """The content of config.json. UserError where it is missing or no JSON object, or the weights are quantised."""
    if not folder.is_dir():
        what = "no such folder" if not os.path.lexists(folder) else "not a folder"
        raise UserError(f"import: got '{folder}' ({what}), allowed: a folder with config.json and {WEIGHTS}")
    config = read_object(folder / "config.json")
    if "explicit" in config and "args" in config:
        raise UserError(f"import: got '{folder}', which is a run of this bench already, allowed: a folder of `export`")
    if config.get("quantization_config"):
        raise UserError(
            "config.json: got quantization_config, allowed: weights in float32, float16 or bfloat16; save the model "
            "without quantisation"
        )
    return config


def read_object(path: Path) -> dict:
    """A JSON object. UserError of one line where the file is missing, unreadable, or something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"import: '{path}' cannot be read ({error.strerror}), allowed: a folder that save_pretrained wrote"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"import: '{path}' is no JSON ({str(error).splitlines()[0]}); restore the file") from None
    if not isinstance(found, dict):
        raise UserError(f"import: '{path}' holds a {type(found).__name__}, allowed: a JSON object; restore the file")
    return found


def read_template(folder: Path) -> str | None:
    """The chat template of a folder, None without one. Newer versions of the package write it as a file of its own.

    UserError where tokenizer_config.json holds one that is no text, or the file is not UTF-8.
    """
    path = folder / TEMPLATE
    if path.is_file():
        try:
            return path.read_bytes().decode()
        except UnicodeDecodeError as error:
            raise UserError(f"import: '{path}' is not UTF-8 (byte {error.start}); convert the file") from None
    if not (folder / "tokenizer_config.json").is_file():
        return None
    found = read_object(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(found, list):  # several, each with a name
        found = next(
            (one.get("template") for one in found if isinstance(one, dict) and one.get("name") == "default"), None
        )
    if not isinstance(found, (str, type(None))):
        raise UserError(
            f"tokenizer_config.json: got chat_template of type {type(found).__name__}, allowed: a Jinja template as "
            "text; restore the file"
        )
    return found


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors in float32. UserError where there are none, a file is damaged, or one holds no real numbers."""
    tensors = {}
    for path, names in _weight_files(folder).items():
        for name, tensor in _tensors_of(path, names):
            if not tensor.is_floating_point():
                raise UserError(f"import: '{path}' holds '{name}' in {tensor.dtype}, allowed: floating-point numbers")
            tensors[name] = tensor.to(float32)
    return tensors


def digest_of(folder: Path) -> str:
    """SHA-256 over config.json and the weights, in hexadecimal: what an imported run is made from."""
    total = hashlib.sha256()
    for path in sorted({folder / "config.json", *_weight_files(folder)}):
        total.update(path.name.encode() + b"\0")
        with open(path, "rb") as file:
            while block := file.read(BLOCK):
                total.update(block)
    return total.hexdigest()


def _weight_files(folder: Path) -> dict[Path, set[str] | None]:
    """{file: the names to take from it, None for all}."""
    if (folder / WEIGHTS).is_file():
        return {folder / WEIGHTS: None}
    if (folder / INDEX).is_file():
        return _shards(folder)
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"))
    if pickles:
        raise UserError(
            f"import: '{folder}' has its weights in '{pickles[0]}', a pickle, which can run code, allowed: {WEIGHTS}; "
            "load it with a program that you trust and save it with save_pretrained"
        )
    raise UserError(f"import: '{folder}' has no weights, allowed: {WEIGHTS}, or {INDEX} with its parts")


def _shards(folder: Path) -> dict[Path, set[str] | None]:
    places = read_object(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise UserError(f"import: '{folder / INDEX}' has no weight_map, allowed: {{name: file}}; restore the file")
    found: dict[Path, set[str] | None] = {}
    for name, file in places.items():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise UserError(
                f"import: '{folder / INDEX}' has '{name}' in {file!r:.80}, allowed: a .safetensors file of the folder"
            )
        names = found.setdefault(folder / file, set())
        names.add(name)
    return found


def _tensors_of(path: Path, names: set[str] | None) -> Iterator[tuple[str, Tensor]]:
    """The named tensors of a safetensors file, or all."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            there = set(file.keys())
            if names is not None and names - there:
                raise UserError(f"import: '{path}' lacks '{min(names - there)}', which {INDEX} says it has; restore it")
            for name in sorted(there if names is None else names):
                yield name, file.get_tensor(name)
    except (OSError, SafetensorError) as error:
        why = str(error).splitlines()[0]
        raise UserError(f"import: '{path}' is missing or damaged ({why}); restore the file") from None


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save_file

    # The package `transformers` asks for this entry. A tensor must be contiguous and alone in its memory.
    save_file({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, path, {"format": "pt"})


def _give_name(temp: Path, path: Path) -> None:
    """Rename the finished folder. One that is replaced is moved away first, and back if the rename fails."""
    if not path.exists():
        os.rename(temp, path)
        return
    old = temp.with_name(temp.name + "-old")
    os.rename(path, old)
    try:
        os.rename(temp, path)
    except OSError:
        os.rename(old, path)
        raise
    with contextlib.suppress(OSError):
        shutil.rmtree(old)
