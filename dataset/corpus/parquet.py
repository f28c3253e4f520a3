"""Rows of text from Parquet files, in blocks, so that memory does not grow with the file. No torch here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from src.flags.fields import UserError, suggest

ROWS = 256  # decoded at once
READ_BYTES = 1 << 20  # read at once; without it pyarrow reads the whole column


def parquet(what: str, instead: str) -> ModuleType:
    """pyarrow's Parquet module. UserError if it is not installed.

    what: who reads Parquet, and instead: what to do without pyarrow, for the error.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            f"{what} reads Parquet files, which needs pyarrow ({str(error).splitlines()[0]}); "
            f"install it: pip install pyarrow; or {instead}"
        ) from None
    return pyarrow.parquet


def read_parquet(path: Path, key: str) -> Iterator[list[str]]:
    """The rows of a column of strings, some at once. A row without a value is empty.

    UserError that lists the columns where there is none of this name, and for a file that is damaged.
    """
    parquet("--data_path", "name another file")
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path, buffer_size=READ_BYTES, pre_buffer=False) as file:
            names = {field.name: field.type for field in file.schema_arrow}
            kind = names.get(key)
            if kind is None or not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
                columns = ", ".join(f"{name} ({kind})" for name, kind in names.items())
                raise UserError(
                    f"--data_path: '{path}' has the columns {columns or 'none'}, allowed: a column `{key}` of strings; "
                    f"name another one with --text_key{suggest(key, names)}"
                )
            for batch in file.iter_batches(batch_size=ROWS, columns=[key], use_threads=False):
                yield [row or "" for row in batch.column(0).to_pylist()]
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--data_path: '{path}' cannot be read as Parquet ({reason}), allowed: a whole Parquet file; fetch it again"
        ) from None
