"""The machine code of compiled kernels on disk: one file per function, signature and processor.

    store_in_files(dispatcher)          # in place of numba's index file and its numbered files

numba keeps an index of numbered files for each function. Two processes that compile two variants of one function at the
same time, as the workers of `compare` do, both read the index and may both take the next number. From then on, the
index names the code of one variant under the key of the other, without a word. Here the name of a file is a digest of
its whole key, so there is no index to race for. A file that cannot be read counts as absent, and a disk that is full
costs only the next compilation.

A key holds numba's own (signature, processor, bytecode, enclosed constants) and the source of the kernels: of the file
that holds the function, and of the two files whose code is compiled into it, lanes.py and vector.py.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from pathlib import Path

import numba
from numba.core.caching import IndexDataCacheFile

SHARED = ("lanes.py", "vector.py")  # their functions are compiled into every kernel


@functools.cache
def _shared_source() -> str:
    """A digest of the files that are compiled into every kernel."""
    sources = [(Path(__file__).parent / name).read_bytes() for name in SHARED]
    return hashlib.sha256(b"\0".join(sources)).hexdigest()


class _OneFilePerKey(IndexDataCacheFile):
    """numba's store of one function, with the key in the name of each file and in its content."""

    def save(self, key, data) -> None:
        """Write the code of a key, whole or not at all."""
        full = self._full(key)
        with contextlib.suppress(OSError):  # a full disk: the code is compiled again next time
            self._save_data(self._name(full), (full, data))

    def load(self, key):
        """The code of a key, or None where there is none that can be read."""
        full = self._full(key)
        try:
            stored, data = self._load_data(self._name(full))
        except Exception:  # absent, or damaged: a pickle that was cut off raises almost anything
            return None
        return data if stored == full else None

    def flush(self) -> None:
        """Delete all files of the function."""
        for path in Path(self._cache_path).glob(f"{self._base()}.*.nbc"):
            with contextlib.suppress(OSError):
                path.unlink()

    def _full(self, key) -> tuple:
        return numba.__version__, self._source_stamp, _shared_source(), key

    def _base(self) -> str:
        return os.path.splitext(self._index_name)[0]

    def _name(self, full: tuple) -> str:
        return f"{self._base()}.{hashlib.sha256(repr(full).encode()).hexdigest()[:16]}.nbc"


def store_in_files(dispatcher) -> None:
    """Give a numba dispatcher a cache on disk. RuntimeError where numba finds no folder that it can write."""
    dispatcher.enable_caching()
    cache = dispatcher._cache
    cache._cache_file = _OneFilePerKey(cache.cache_path, cache._impl.filename_base, cache._cache_file._source_stamp)
