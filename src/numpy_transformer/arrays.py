"""Arrays in an .npz file: the same bytes for the same arrays, and a reader that trusts nothing.

    write_arrays(path, {"step": np.array(12), "param.head.w": w})
    arrays = read_arrays(path)

An .npz file is a ZIP archive with one .npy file per array. Written here, it has no date and is not compressed, so its
arrays cannot be larger than the file. No pickle is read, so a file can run no code. ZIP checks each array by its CRC.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np

from src.flags.fields import UserError
from src.storage.files import write_atomic

MOST_BYTES = 1 << 32
MOST_ARRAYS = 100_000
KINDS = "biuf"  # bool, whole numbers and floats: no objects, no texts


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write named arrays (...), of bools, whole numbers or floats, whole or not at all."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            assert array.dtype.kind in KINDS, name
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue())  # its date is 1980, always
    write_atomic(path, buffer.getvalue())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """{name: array (...)} of a file of `write_arrays`; UserError if it is missing, damaged or of another kind."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"'{path}': has {path.stat().st_size} bytes, allowed: at most {MOST_BYTES}")
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > MOST_ARRAYS or any(m.compress_type != zipfile.ZIP_STORED for m in members):
                raise ValueError("it is compressed or has too many arrays")
            if sum(m.file_size for m in members) > path.stat().st_size:
                raise ValueError("its arrays are larger than the file")
            return {m.filename.removesuffix(".npy"): _array(archive.read(m)) for m in members}
    except OSError as error:
        what = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise UserError(f"'{path}': {what}, allowed: a file that `translate` wrote") from None
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, KeyError, NotImplementedError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"'{path}': is truncated, damaged or no .npz file of `translate` ({reason:.80}); write it again"
        ) from None


def _array(content: bytes) -> np.ndarray:
    """The array (...) in a .npy file; ValueError where its header and its size do not fit."""
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"an array has version {version}")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.kind not in KINDS or fortran or any(n < 0 for n in shape):
        raise ValueError(f"an array has the type {dtype}")
    size = dtype.itemsize
    for n in shape:
        size *= n  # Python's numbers do not overflow
    if size != len(content) - stream.tell():
        raise ValueError(f"an array of shape {shape} has {len(content) - stream.tell()} bytes")
    return np.frombuffer(content, dtype, offset=stream.tell()).reshape(shape).copy()
