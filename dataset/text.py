"""Text: model the characters of your own text.

    --data_path book.txt      'Once upon a tim' -> 'e'
    --data_path notes.jsonl   {"text": "a document"}, one JSON object per line
    --data_path rows.parquet  a column `text` of strings; it needs pyarrow
    --data_path folder        every such file in it and in its subfolders, in the order of their paths

Text is UTF-8, and line ends are kept. A byte order mark at its beginning is no part of it. Apart from that, a single
.txt file is taken as it is. In a folder, every file that does not end in a line break gets one. So does every document
of a .jsonl file. Hidden files and folders are left out, links are followed, and files with equal content get a warning
(dataset/corpus/folder.py). A line that is no JSON object with a string `text`,
and bytes that are not UTF-8, are errors that name the file and the line. The text is read in blocks
(dataset/corpus/stored_text.py), so memory does not grow with it. Only a line of a .jsonl file must fit into memory.

--text_key names another field or column than `text`. Documents are lines of a .jsonl file, rows of a .parquet file, and
the files of a folder.

Tokens: --tokenizer bpe, or a path, makes subword tokens of them. `<eos>` follows each document instead of a line break,
    and --pack no has one document per row (dataset/corpus/language.py).
Splits: the first 90 % of the characters train, the next 5 % are val, and the last 5 % are test. `heldout` is val and
    test in one pass.
Alphabet: without --tokenizer the characters of the training text, and `<unk>` for those that only held-out text has.
    The share of `<unk>` in held-out text is reported.
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
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, ClassVar

from dataset.corpus.documents import END, Piece
from dataset.corpus.folder import Found, copies_line, count, find_texts
from dataset.corpus.language import StreamedTask
from dataset.corpus.parquet import read_parquet
from dataset.corpus.stored_text import BLOCK
from dataset.entry import loaders_of
from src.flags.fields import UserError
from src.flags.groups import DataConfig
from src.flags.places import here

ENDINGS = (".txt", ".jsonl", ".parquet")
MARK = "\ufeff"  # the byte order mark, which some editors write before UTF-8
ALLOWED = (
    'allowed: a .txt file, a .jsonl file with one JSON object {"text": ...} per line, a .parquet file, or a folder of '
    "them"
)


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

    has_fields = True

    def segments(self) -> list[Iterable[Piece]]:
        path, key = self.args.data_path, self.args.text_key
        if not path:
            raise UserError(f"--data_path: missing, {ALLOWED}")
        found = text_files(here(path))
        if not isinstance(found, Path):
            return [self._read_folder(found)]
        if key != DataConfig.text_key and found.suffix.lower() == ".txt":
            raise UserError(f"--text_key: got '{key}', but '{found}' has no fields; leave it out")
        return [read_file(found, key)]

    def _read_folder(self, found: Found) -> Iterator[Piece]:
        """The text of a folder in pieces. A .txt file is a document. At its end `about` says what was read, left out
        and equal."""
        digests, empty = {}, []
        for path in found.files:
            sha, is_plain, some = hashlib.sha256(), path.suffix.lower() == ".txt", False
            for piece in read_file(path, self.args.text_key):
                some = some or piece is END or bool(piece)
                sha.update(b"\n" if piece is END else piece.removesuffix("\n" * (not is_plain)).encode())
                yield piece
            if not some:
                empty.append(path)
                continue
            digests[path] = sha.hexdigest()
            if is_plain:
                yield END
        without = f"; {count(len(empty), 'file')} without a character ({found.named(empty)})" if empty else ""
        self.about = tuple(filter(None, (found.summary() + without, copies_line(found, digests))))


def text_files(path: Path) -> Path | Found:
    """The file itself, or the text files of a folder and its subfolders. UserError if there is none."""
    try:
        if not path.exists():
            raise UserError(f"--data_path: got {str(path)!r}, no such file or folder, {ALLOWED}")
        if not path.is_dir():
            if path.suffix.lower() not in ENDINGS:
                raise UserError(f"--data_path: got '{path}', {ALLOWED}; if it is one of these, rename it")
            return path
        found = find_texts(path, ENDINGS)
    except OSError as error:
        raise UserError(
            f"--data_path: got '{error.filename or path}', which cannot be read ({error.strerror or error}), {ALLOWED}"
        ) from None
    if not found.files:
        raise UserError(
            f"--data_path: got '{path}', a folder with no {' or '.join(ENDINGS)} file in it ({found.summary()}), "
            f"{ALLOWED}"
        )
    return found


def read_file(path: Path, key: str = "text") -> Iterator[Piece]:
    """The text of a file in pieces, END after each document of a .jsonl or .parquet file. UserError where malformed.

    key: the field that holds the text.
    """
    kind = path.suffix.lower()
    if kind == ".txt":
        return read_plain(path)
    return read_json_lines(path, key) if kind == ".jsonl" else read_rows(path, key)


def read_rows(path: Path, key: str) -> Iterator[Piece]:
    """The rows of a Parquet file, each of which is a document."""
    for rows in read_parquet(path, key):
        for row in rows:
            if "\0" in row:
                raise UserError(f"--data_path: '{path}': a row of `{key}` holds a NUL, so it is not text, {ALLOWED}")
            yield row
            yield END


def read_plain(path: Path) -> Iterator[str]:
    """A UTF-8 file in blocks of characters. No block is empty."""
    decoder, line, at, begun = codecs.getincrementaldecoder("utf-8")(), 1, 0, False
    with _opened(path) as file:
        while True:
            data = file.read(BLOCK)
            held = len(decoder.getstate()[0])
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                line += (b"\0" * held + data)[: error.start].count(b"\n")
                raise UserError(
                    f"--data_path: '{path}' line {line}: not UTF-8 (byte {at - held + error.start} of the file"
                    f"{_utf16(data, at)}), allowed: text in UTF-8; convert the file"
                ) from None
            if text and not begun:
                text, begun = text.removeprefix(MARK), True
            if "\0" in text:
                line += text[: text.index("\0")].count("\n")
                raise UserError(f"--data_path: '{path}' line {line}: a NUL, so this is not a text file, {ALLOWED}")
            if text:
                yield text
            if not data:
                return
            line, at = line + text.count("\n"), at + len(data)


def read_json_lines(path: Path, key: str = "text") -> Iterator[Piece]:
    """The documents of a .jsonl file."""
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            yield _document(path, number, line, key)
            yield END


def _document(path: Path, number: int, line: bytes, key: str) -> str:
    """The text of one line of a .jsonl file. UserError with the line's number if it has none."""
    why = ""
    try:
        found = json.loads(line.decode().removeprefix(MARK))
        if not isinstance(found, dict):
            why = f"JSON, but a {type(found).__name__}, not an object"
        elif key not in found:
            why = f'an object without "{key}", with {", ".join(map(repr, found)) or "no keys"} (--text_key names it)'
        elif not isinstance(found[key], str):
            why = f'"{key}" is a {type(found[key]).__name__}, not a string'
        elif "\0" in found[key]:
            why = f'"{key}" holds a NUL'
        else:
            found[key].encode()  # half a surrogate pair is a string in Python and JSON, but it is not text
            return found[key]
    except UnicodeDecodeError as error:
        why = f"not UTF-8 (byte {error.start} of the line{_utf16(line, number - 1)})"
    except UnicodeEncodeError as error:
        why = f'"{key}" holds half a surrogate pair (character {error.start})'
    except (ValueError, RecursionError) as error:
        why = f"not JSON ({str(error).splitlines()[0]})" if line.strip() else "empty"
    raise UserError(
        f"--data_path: '{path}' line {number}: {why}, allowed: one JSON object {{\"{key}\": ...}} per line; "
        "correct the line or remove it"
    )


def _utf16(data: bytes, at: int) -> str:
    """For an error: whether a file begins as UTF-16 does.  at: 0 if `data` is the beginning of the file."""
    return ", which begins as UTF-16" * (at == 0 and data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)))


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(
            f"--data_path: got '{path}', which cannot be read ({error.strerror or error}), {ALLOWED}"
        ) from None


build_loaders = loaders_of(Text)
