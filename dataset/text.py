"""Text: model the characters of your own text.

    --data_path book.txt      'Once upon a tim' -> 'e'
    --data_path notes.jsonl   {"text": "a document"}, one JSON object per line
    --data_path folder        every .txt and .jsonl file in it and in its subfolders, in the order of their paths

Text is UTF-8, and line ends are kept. A single .txt file is taken as it is. In a folder, every file that does not end
in a line break gets one. So does every document of a .jsonl file. A line that is no JSON object with a string `text`,
and bytes that are not UTF-8, are errors that name the file and the line. The text is read in blocks
(dataset/corpus/stored_text.py), so memory does not grow with it. Only a line of a .jsonl file must fit into memory.

Splits: the first 90 % of the characters train, the next 5 % are val, and the last 5 % are test. `heldout` is val and
    test in one pass.
Alphabet: the characters of the training text, and `<unk>` for those that only held-out text has. The share of `<unk>`
    in held-out text is reported.
Length: a window reads --context_len characters and predicts the one after each of them.
Scored: all characters of a split but its first one, `<unk>` like any other. Primary: token_acc.
Source: `custom`. Runs on different texts are told apart by the SHA-256 of the text.
Chance: uniform and unigram.
Baselines: interpolated Witten-Bell n-grams (dataset/corpus/ngram.py), fitted on at most the first 2,000,000 training
    characters.
First used by: Karpathy, char-rnn, 2015, in this form (any text file, characters).
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, ClassVar

from dataset.corpus.language import StreamedTask
from dataset.corpus.stored_text import BLOCK
from dataset.entry import loaders_of
from src.flags.fields import UserError

ENDINGS = (".txt", ".jsonl")
ALLOWED = 'allowed: a .txt file, a .jsonl file with one JSON object {"text": ...} per line, or a folder of them'


class Text(StreamedTask):
    """The text of --data_path, in UTF-8."""

    small: ClassVar[dict] = {
        "context_len": 128,
        "train_size": 20_000,
        "val_size": 200,
        "test_size": 200,
        "d_model": 128,
        "max_steps": 800,
        "batch_chars": 4096,
        "embed_std": 1.0,
    }

    def segments(self) -> list[Iterable[str]]:
        path = self.args.data_path
        if not path:
            raise UserError(f"--data_path: missing, {ALLOWED}")
        return [read_documents(Path(path))]


def read_documents(path: Path) -> Iterator[str]:
    """The text of a file or a folder in blocks. UserError for other paths, and for malformed lines."""
    for file in text_files(path):
        last = ""
        for block in (read_json_lines if file.suffix.lower() == ".jsonl" else read_plain)(file):
            yield block
            last = block[-1]
        if path.is_dir() and last not in ("", "\n"):
            yield "\n"


def text_files(path: Path) -> list[Path]:
    """The file itself, or the text files of a folder and its subfolders in the order of their paths.

    UserError if there is none.
    """
    try:
        if not path.exists():
            raise UserError(f"--data_path: got {str(path)!r}, no such file or folder, {ALLOWED}")
        if not path.is_dir():
            if path.suffix.lower() not in ENDINGS:
                raise UserError(f"--data_path: got '{path}', {ALLOWED}; if it is one of these, rename it")
            return [path]
        found = sorted(
            (p for p in path.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file()),
            key=lambda p: p.relative_to(path).parts,
        )
    except OSError as error:
        raise UserError(
            f"--data_path: got '{path}', which cannot be read ({error.strerror or error}), {ALLOWED}"
        ) from None
    if not found:
        raise UserError(f"--data_path: got '{path}', a folder with no {' or '.join(ENDINGS)} file in it, {ALLOWED}")
    return found


def read_plain(path: Path) -> Iterator[str]:
    """A UTF-8 file in blocks of characters. No block is empty."""
    decoder, line, at = codecs.getincrementaldecoder("utf-8")(), 1, 0
    with _opened(path) as file:
        while True:
            data = file.read(BLOCK)
            held = len(decoder.getstate()[0])
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                line += (b"\0" * held + data)[: error.start].count(b"\n")
                raise UserError(
                    f"--data_path: '{path}' line {line}: not UTF-8 (byte {at - held + error.start} of the file), "
                    "allowed: text in UTF-8; convert the file"
                ) from None
            if "\0" in text:
                line += text[: text.index("\0")].count("\n")
                raise UserError(f"--data_path: '{path}' line {line}: a NUL, so this is not a text file, {ALLOWED}")
            if text:
                yield text
            if not data:
                return
            line, at = line + text.count("\n"), at + len(data)


def read_json_lines(path: Path) -> Iterator[str]:
    """The documents of a .jsonl file, joined into blocks of about BLOCK characters. Each ends in a line break."""
    block, size = [], 0
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            text = _document(path, number, line)
            block.append(text if text.endswith("\n") else text + "\n")
            size += len(block[-1])
            if size >= BLOCK:
                yield "".join(block)
                block, size = [], 0
    if block:
        yield "".join(block)


def _document(path: Path, number: int, line: bytes) -> str:
    """The text of one line of a .jsonl file. UserError with the line's number if it has none."""
    why = ""
    try:
        found = json.loads(line.decode())
        if not isinstance(found, dict):
            why = f"JSON, but a {type(found).__name__}, not an object"
        elif "text" not in found:
            why = f'an object without "text", with {", ".join(map(repr, found)) or "no keys"}'
        elif not isinstance(found["text"], str):
            why = f'"text" is a {type(found["text"]).__name__}, not a string'
        elif "\0" in found["text"]:
            why = '"text" holds a NUL'
        else:
            found["text"].encode()  # half a surrogate pair is a string in Python and JSON, but it is not text
            return found["text"]
    except UnicodeDecodeError as error:
        why = f"not UTF-8 (byte {error.start} of the line)"
    except UnicodeEncodeError as error:
        why = f'"text" holds half a surrogate pair (character {error.start})'
    except (ValueError, RecursionError) as error:
        why = f"not JSON ({str(error).splitlines()[0]})" if line.strip() else "empty"
    raise UserError(
        f"--data_path: '{path}' line {number}: {why}, allowed: one JSON object {{\"text\": ...}} per line; "
        "correct the line or remove it"
    )


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(
            f"--data_path: got '{path}', which cannot be read ({error.strerror or error}), {ALLOWED}"
        ) from None


build_loaders = loaders_of(Text)
