"""From what a checkpoint, a run directory or another project's folder holds to a tokenizer.

tokenizer = tokenizer_of(payload["vocab"])        # of a checkpoint
tokenizer = read_tokenizer(Path("my_model"))      # a folder with tokenizer.json, or that file itself
"""

from __future__ import annotations

import json
from pathlib import Path

from dataset.bpe import FILES, BpeTokenizer
from dataset.tokenizer import CharTokenizer, Tokenizer
from src.flags.fields import UserError

ALLOWED = "allowed: char, bpe, or a folder with the tokenizer.json of a byte-level BPE tokenizer"


def tokenizer_of(payload: list[str] | dict) -> Tokenizer:
    """The tokenizer whose `payload()` this is. UserError for the payload of a newer version."""
    if isinstance(payload, dict):
        if payload.get("kind") != "bpe":
            raise UserError(
                f"the checkpoint's tokenizer is of the kind {payload.get('kind')!r}, which this version does not know; "
                "use the version that wrote it"
            )
        return BpeTokenizer(payload["tokenizer"], payload.get("config"))
    return CharTokenizer(payload)


def read_tokenizer(path: str | Path, what: str = "--tokenizer") -> Tokenizer:
    """The tokenizer in a folder (tokenizer.json, tokenizer_config.json), or of a tokenizer.json alone.

    A tokenizer.json that `CharTokenizer.hugging_face` wrote gives that tokenizer back.
    what: the flag that named the path, for the error. UserError of one line for anything else.
    """
    path = Path(path)
    file, config_file = (path / FILES[0], path / FILES[1]) if path.is_dir() else (path, path.with_name(FILES[1]))
    text = _read(file, path, what)
    config = _json(_read(config_file, path, what), config_file, what) if config_file.is_file() else {}
    characters = _characters(_json(text, file, what))
    if characters is not None:
        return CharTokenizer(characters)
    try:
        return BpeTokenizer(text, config)
    except UserError as error:
        raise UserError(f"{what}: got '{path}', which cannot be used: {error}, {ALLOWED}") from None


def _read(file: Path, path: Path, what: str) -> str:
    try:
        return file.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{what}: '{file}' is not UTF-8 (byte {error.start}), {ALLOWED}") from None
    except (OSError, ValueError) as error:
        reason = "no such file or folder" if not path.exists() else f"'{file}': {getattr(error, 'strerror', error)}"
        raise UserError(f"{what}: got '{path}', which cannot be read ({reason}), {ALLOWED}") from None


def _json(text: str, file: Path, what: str) -> dict:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what}: '{file}' is not JSON ({str(error).splitlines()[0]}), {ALLOWED}") from None
    if not isinstance(found, dict):
        raise UserError(f"{what}: '{file}' holds a {type(found).__name__}, not an object, {ALLOWED}")
    return found


def _characters(document: dict) -> list[str] | None:
    """The tokens of a tokenizer.json that `CharTokenizer.hugging_face` wrote. None for any other one."""
    try:
        model = document["model"]
        tokens = sorted(model["vocab"], key=model["vocab"].get)
        splits = document["pre_tokenizer"]["pattern"]["Regex"] == r"[\s\S]"
    except (KeyError, TypeError):
        return None
    return tokens if splits and model.get("type") == "WordLevel" else None
