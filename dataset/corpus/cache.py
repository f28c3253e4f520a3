"""The folder in which downloaded texts and n-gram tables are kept."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """Where this project keeps what it fetched or computed for a user; it may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "seq-bench"


def write_cache(name: str, data: bytes) -> str | None:
    """Put a file into the cache folder, whole or not at all. Returns None, or why it could not be written, which is no error."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=name + ".")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.replace(temporary, folder / name)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        return reason_of(error)
    return None


def reason_of(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
