"""Sentence pairs of a file: .csv (commas), .tsv (tabs) or .parquet, one pair per row, with a header.

    en,fr,split
    The cat sleeps.,Le chat dort.,train
    The bird sleeps.,L'oiseau dort.,heldout

The columns are named in the configuration. The column `split` says whether a pair is trained or held out.
"""

from __future__ import annotations

import csv
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

from src.flags.fields import UserError, suggest
from src.numpy_transformer.config import Config, DataConfig
from src.numpy_transformer.tokenization import tokenize

MOST_BYTES = 1 << 29  # of a file of pairs
DELIMITERS = {".csv": ",", ".tsv": "\t"}
ENDINGS = (*DELIMITERS, ".parquet")
PARTS = ("train", "heldout")


@dataclass(frozen=True)
class SentencePair:
    """One row: a sentence, its translation, and its part: `train` or `heldout`. row: as an editor counts lines."""

    row: int
    source: str
    target: str
    part: str


def read_pairs(config: Config) -> list[SentencePair]:
    """The pairs of the configured file, checked. The first data.limit training pairs, and all held-out pairs.

    UserError of one line for a file that cannot be read, a missing column, an empty or too long side, another word in
    the split column, a held-out sentence that is also trained, and for a file without training pairs.
    """
    path, data = config.pairs_path(), config.data
    where = f"data.path: '{path}'"
    content = _content(path, where)
    columns = {"source": data.source, "target": data.target} | ({"split": data.split} if data.split else {})
    read = _parquet_rows if path.suffix == ".parquet" else _text_rows
    pairs = [_pair(where, n, row, data) for n, row in read(where, path, content, columns)]
    trained = [p for p in pairs if p.part == "train"]
    trained = trained[: data.limit] if data.limit else trained
    heldout = [p for p in pairs if p.part == "heldout"]
    if not trained:
        raise UserError(f"{where}: got {len(pairs)} pairs, none of them for training, allowed: at least one")
    _refuse_leak(where, trained, heldout)
    return trained + heldout


def digest_of(config: Config) -> str | None:
    """The SHA-256 of the file of pairs, in hexadecimal; None if there is no such file now."""
    path = config.pairs_path()
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _content(path: Path, where: str) -> bytes:
    """The bytes of a file with pairs."""
    if path.suffix not in ENDINGS:
        raise UserError(f"{where}: the ending is '{path.suffix}', allowed: {', '.join(ENDINGS)}")
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{where}: has {path.stat().st_size} bytes, allowed: at most {MOST_BYTES}; split the file")
        content = path.read_bytes()
    except OSError as error:
        kinds = {FileNotFoundError: "no such file", IsADirectoryError: "which is a folder"}
        what = kinds.get(type(error), f"which cannot be read: {error.strerror}")
        raise UserError(f"{where}: {what}, allowed: a file with sentence pairs (relative to the YAML file)") from None
    if not content.strip():
        raise UserError(f"{where}: is empty, allowed: a header and one pair per row")
    return content


def _text_rows(where: str, path: Path, content: bytes, columns: dict[str, str]):
    """(line, {use: text}) of each row of a .csv or .tsv file; columns: {use: column}."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: byte {error.start} is no UTF-8, allowed: a file in UTF-8") from None
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=DELIMITERS[path.suffix], strict=True)
    try:
        header = [name.strip() for name in next(rows)]
        at = {use: _column(where, header, column) for use, column in columns.items()}
        for row in rows:
            if not row:
                continue
            if len(row) != len(header):
                raise UserError(
                    f"{where}, line {rows.line_num}: got {len(row)} columns, allowed: {len(header)}, as in the header; "
                    "a text with the delimiter in it needs quotes"
                )
            yield rows.line_num, {use: row[i] for use, i in at.items()}
    except csv.Error as error:
        raise UserError(f"{where}, line {rows.line_num}: is no row of a {path.suffix} file ({error})") from None


def _parquet_rows(where: str, path: Path, content: bytes, columns: dict[str, str]):
    """(row, {use: text}) of each row of a .parquet file; columns: {use: column}. It needs the package pyarrow."""
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ModuleNotFoundError:
        raise UserError(f"{where}: needs pyarrow; `pip install pyarrow`, or save the pairs as .csv") from None
    try:
        header = parquet.read_schema(io.BytesIO(content)).names
        for column in columns.values():
            _column(where, header, column)
        table = parquet.read_table(io.BytesIO(content), columns=list(dict.fromkeys(columns.values())))
        lists = {use: table.column(column).to_pylist() for use, column in columns.items()}
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{where}: is no .parquet file ({str(error).partition(chr(10))[0]:.80})") from None
    for n in range(table.num_rows):
        row = {use: values[n] for use, values in lists.items()}
        for use, value in row.items():
            if not isinstance(value, str | None):
                raise UserError(f"{where}, row {n + 1}: {columns[use]}: got {value!r:.40}, allowed: text")
        yield n + 1, {use: value or "" for use, value in row.items()}


def _column(where: str, header: list[str], column: str) -> int:
    """The place of a column in the header, which must have it once."""
    if header.count(column) != 1:
        what = "comes twice" if column in header else "is missing"
        near = suggest(column, header) if column not in header else ""
        raise UserError(
            f"{where}: the column '{column}' {what}; got {', '.join(header):.80}, allowed: once in the header, "
            f"with commas in .csv and tabs in .tsv; the configuration names the columns{near}"
        )
    return header.index(column)


def _pair(where: str, line: int, row: dict[str, str], data: DataConfig) -> SentencePair:
    """A row as a pair; UserError for an empty side, a side that is too long, and another word in the split column."""
    for use, column in (("source", data.source), ("target", data.target)):
        tokens = len(tokenize(row[use]))
        if not tokens:
            raise UserError(f"{where}, line {line}: {column} is empty, allowed: a sentence on both sides")
        if tokens + 1 > data.max_len:
            raise UserError(
                f"{where}, line {line}: {column} has {tokens} tokens and <eos>, allowed: data.max_len={data.max_len}; "
                "raise it, or take the pair out"
            )
    part = row.get("split", "train").strip()
    if part not in PARTS:
        raise UserError(f"{where}, line {line}: {data.split}: got '{part:.40}', allowed: {', '.join(PARTS)}")
    return SentencePair(line, row["source"], row["target"], part)


def _refuse_leak(where: str, trained: list[SentencePair], heldout: list[SentencePair]) -> None:
    """UserError if a held-out sentence is also trained: its score would measure memory."""
    known = {tuple(tokenize(p.source)): p.row for p in trained}
    for p in heldout:
        if (row := known.get(tuple(tokenize(p.source)))) is not None:
            raise UserError(
                f"{where}, line {p.row}: the held-out sentence is also in line {row} for training, allowed: one of both"
            )
