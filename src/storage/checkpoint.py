"""Checkpoints that run no code and notice a flipped byte. Each is one file that torch.load and zipfile can read.

torch.save writes a zip archive. The SHA-256 of its bytes is appended as the archive's comment, which zip readers skip:

    before: [ archive as torch.save wrote it, comment length 0 ]
    after:  [ the same archive, comment length 71 ] [ "sha256:" + 64 hex digits ]

`load` checks the digest before anything is unpickled, then reads with weights_only=True. The digest is no signature:
whoever can write the file can compute it. A crafted file is stopped by weights_only, which runs no code, and by
src/storage/outline.py, which refuses one that would take more memory than it has bytes.
Payloads are plain: tensors, numbers, strings, None, lists, tuples and dicts. They are normalised before they are
written. So equal payloads give equal bytes, whether a value was just computed or came from an earlier checkpoint.
"""

from __future__ import annotations

import hashlib
import io
import random
import re
import warnings
from pathlib import Path

import numpy as np
import torch

from src.flags.fields import UserError
from src.storage.files import write_atomic
from src.storage.outline import check_outline

KEYS = ("model", "args", "vocab")  # of every checkpoint; training adds optimiser, scheduler, step, random states, ...
# The end record of a zip without its comment length, the length 71, and the comment.
TAIL = re.compile(rb"(.{20})\x47\x00sha256:([0-9a-f]{64})\Z", re.DOTALL)
END_RECORD = b"PK\x05\x06"


def save(path, payload: dict) -> None:
    """Write a checkpoint whole or not at all. Tensors are copied to the CPU; tied ones (same memory) stay tied.

    Raises ValueError if one of KEYS is missing, TypeError for a value that is not plain, OSError if the disk is full.
    """
    lacking = [key for key in KEYS if key not in payload]
    if lacking:
        raise ValueError(f"payload: lacks {', '.join(lacking)}, must have {', '.join(KEYS)}")
    write_atomic(path, to_bytes(payload))


def to_bytes(payload: dict) -> bytes:
    """The bytes of a checkpoint file: equal payloads give equal bytes."""
    buffer = io.BytesIO()
    torch.save(_plain(payload, "payload", {}), buffer)
    archive = buffer.getvalue()
    if archive[-22:-18] != END_RECORD or archive[-2:] != b"\0\0":
        raise RuntimeError(
            f"torch {torch.__version__} ends its archives in an unknown way, so they cannot carry a digest; "
            "use torch 2.6 to 2.13"
        )
    comment = b"sha256:" + hashlib.sha256(archive).hexdigest().encode("ascii")
    return archive[:-2] + len(comment).to_bytes(2, "little") + comment


def check_digest(path) -> None:
    """UserError where a checkpoint is missing, truncated or altered. Nothing is unpickled."""
    if problem := _digest_problem(_read(Path(path))):
        raise UserError(f"'{path}' {problem}")


def load(path, map_location="cpu") -> dict:
    """The payload of a checkpoint, its tensors on `map_location` (a device or its name).

    Raises UserError of one line if the file is missing, truncated, altered or not a checkpoint of this program. Then
    nothing was unpickled. Raises it too, with no code run, if the file holds anything but plain values.
    """
    path = Path(path)
    data = _read(path)
    problem = _digest_problem(data)
    if problem:
        raise UserError(f"'{path}' {problem}; {_way_out(path)}")
    try:
        check_outline(data)
    except ValueError as error:
        raise UserError(
            f"'{path}' is not a checkpoint of this program: {error}; nothing in it was run; {_way_out(path)}"
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on archives of other kinds, which are refused anyway
            payload = _plain(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True), "payload", {})
    except MemoryError:
        raise
    # A crafted file can raise anything. torch's own text has many lines and advises to trust the file.
    except Exception as error:
        raise UserError(
            f"'{path}' is not a checkpoint of this program: it holds more than tensors, numbers and text "
            f"({type(error).__name__}); nothing in it was run; {_way_out(path)}"
        ) from error
    if not isinstance(payload, dict) or not all(key in payload for key in KEYS):
        got = ", ".join(map(str, payload)) if isinstance(payload, dict) else type(payload).__name__
        raise UserError(
            f"'{path}' is not a checkpoint of this program: got {got[:80]!r}, must have {', '.join(KEYS)}; "
            f"{_way_out(path)}"
        )
    device = torch.device(map_location)
    return payload if device.type == "cpu" else _plain(payload, "payload", {}, device)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"'{path}': no such checkpoint; {_way_out(path)}") from None
    except OSError as error:
        raise UserError(f"'{path}' cannot be read ({error.strerror}); {_way_out(path)}") from error


def _digest_problem(data: bytes) -> str:
    """What is wrong with a checkpoint's bytes, as the end of a sentence; empty if the digest is right."""
    tail = TAIL.search(data, max(0, len(data) - 93))
    if tail is None or not tail[1].startswith(END_RECORD):
        if data[:4] != b"PK\x03\x04"[: len(data)]:
            return "is not a checkpoint of this program; nothing in it was run"
        return (
            "is truncated, or not a checkpoint of this program: there is no SHA-256 at its end; nothing in it was run"
        )
    content = hashlib.sha256(memoryview(data)[:-73])
    content.update(b"\0\0")
    if content.hexdigest().encode("ascii") != tail[2]:
        return "was altered or damaged: its content does not match its SHA-256"
    return ""


def _way_out(path: Path) -> str:
    """What to do instead: use the run's other checkpoint if it is undamaged, else train again."""
    other = path.with_name({"ckpt.pt": "best.pt", "best.pt": "ckpt.pt"}.get(path.name, "ckpt.pt"))
    try:
        sound = other != path and not _digest_problem(other.read_bytes())
    except OSError:
        sound = False
    if sound:
        return f"use '{other}', which is undamaged and has the weights of its own step, or train again with --overwrite"
    return "train again with --overwrite, or choose another --out_dir"


def _plain(value, name: str, memo: dict, device=None):
    """A copy that always gives the same pickle: new containers, each string and tensor once, Python's own numbers.

    memo: the strings and tensors so far. Pickle refers back to an object that it has seen: identity changes the bytes.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, str):
        return memo.setdefault(value, str(value))
    if isinstance(value, (float, np.number, np.bool_)):
        return value.item() if isinstance(value, np.generic) else float(value)
    if isinstance(value, torch.Tensor):
        return _plain_tensor(value, memo, device or torch.device("cpu"))
    if isinstance(value, dict):
        return {_key(k, name, memo): _plain(v, f"{name}[{k!r}]", memo, device) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(v, f"{name}[{i}]", memo, device) for i, v in enumerate(value))
    raise TypeError(
        f"{name}: got {type(value).__name__}, allowed: tensors, numbers, strings, None, lists, tuples and dicts of them"
    )


def _key(key, name, memo):
    if not isinstance(key, (str, int)):
        raise TypeError(f"{name}: got a key of type {type(key).__name__}, allowed: strings and ints")
    return _plain(key, name, memo)


def _plain_tensor(tensor, memo, device):
    """The tensor alone in its storage, contiguous. A tensor tied to an earlier one is tied to its copy."""
    place = (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
    if tensor.numel() == 0 or place not in memo:
        copy = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        copy.copy_(tensor.detach())
        memo[place] = (copy, tensor)  # keep the original: its address must not be reused
    return memo[place][0]


def random_state(generators: dict | None = None) -> dict:
    """States of the global generators of torch, Python and NumPy, of CUDA's if CUDA is in use, and of `generators`.

    generators: name -> np.random.Generator or torch.Generator.  The result is plain, so it can go into a checkpoint.
    """
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    own = {
        name: g.get_state() if isinstance(g, torch.Generator) else _lists(g.bit_generator.state)
        for name, g in (generators or {}).items()
    }
    return {
        "torch": torch.get_rng_state(),
        "cuda": list(cuda),
        "python": random.getstate(),
        "numpy": _lists(np.random.get_state(legacy=False)),
        "generators": own,
    }


def set_random_state(state: dict, generators: dict | None = None) -> None:
    """Restore what `random_state` returned; ValueError if a generator has no saved state.

    CUDA states beyond the devices of this machine are dropped. Checkpoints of older versions lack "python" and "numpy".
    """
    torch.set_rng_state(state["torch"].cpu())
    if "python" in state:
        random.setstate(state["python"])
        np.random.set_state(state["numpy"])
    if torch.cuda.is_available():
        for index, saved in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(saved.cpu(), index)
    for name, generator in (generators or {}).items():
        if name not in state["generators"]:
            raise ValueError(f"generator {name!r}: no saved state, got {', '.join(state['generators']) or 'none'}")
        saved = state["generators"][name]
        if isinstance(generator, torch.Generator):
            generator.set_state(saved.cpu())
        else:
            generator.bit_generator.state = saved  # its setter takes lists for arrays


def _lists(value):
    """NumPy's generator state with lists for arrays. Its plain ints keep all 128 bits of a PCG64."""
    if isinstance(value, dict):
        return {k: _lists(v) for k, v in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value
