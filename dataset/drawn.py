"""Data that several runs draw alike, drawn once: what one run drew lies in a folder, and the others read it from there.

    SEQ_BENCH_DRAWN=/some/folder                          # set by an engine for its workers; without it all runs draw
    store = shared_store(task)                            # None without it
    arrays = store.read(key)                              # None: not drawn yet, damaged, or drawn by something else
    store.write(key, arrays)

The models of a comparison see the same examples for a seed. Drawing the training batches took 0.5 to 5 % of the CPU
time of a small run's steps; reading one takes 0.2 to 0.6 ms where drawing it takes 1 to 5 (a busy machine). A file
holds its key, its arrays and the SHA-256 of both. The key names everything that the data depends on: the task's
settings, the seed, the sizes, the code of the tasks, and the versions of Python and NumPy. So a file that is damaged,
cut off or of another key is not used, and what is read equals what would be drawn, byte for byte. Files appear whole or
not at all, and two runs that draw the same write the same file. Only tasks of this program share what they draw: the
code of a user's own file may be anywhere. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from dataset.task import Example, Task

VARIABLE = "SEQ_BENCH_DRAWN"
FREE_BYTES = 2 << 30  # of the disk, which a store never takes: runs need it for their checkpoints
DIGEST_BYTES, NAME_DIGITS = 32, 32
CODE = Path(__file__).resolve().parent
Arrays = Mapping[str, np.ndarray]


class Store:
    """A folder of drawn arrays. task: whose data it is."""

    def __init__(self, folder: Path, task: Task):
        self.folder = folder
        self.about = {
            "task": sorted(task.identity().items()),
            "loss_on": task.args.loss_on,
            "code": _code_digest(),
            "versions": [list(sys.version_info[:3]), np.__version__],
        }

    def read(self, key: Mapping) -> dict[str, np.ndarray] | None:
        """The arrays that were written under this key; None where there are none that can be trusted."""
        head = self._head(key)
        try:
            data = self._path(head).read_bytes()
        except OSError:
            return None
        whole, content = data[:DIGEST_BYTES], memoryview(data)[DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != whole or bytes(content[: len(head)]) != head:
            return None
        layout, _, rest = bytes(content[len(head) :]).partition(b"\n")
        return _unpacked(json.loads(layout), rest)

    def write(self, key: Mapping, arrays: Arrays) -> None:
        """Keep arrays under a key. Where they cannot be kept, the next run draws them itself."""
        head, layout = self._head(key), {name: [a.dtype.str, list(a.shape)] for name, a in arrays.items()}
        content = b"".join([head, json.dumps(layout).encode(), b"\n", *(a.tobytes() for a in arrays.values())])
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(self.folder).free < FREE_BYTES + len(content):
                return
            handle, temporary = tempfile.mkstemp(dir=self.folder, prefix=".")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(hashlib.sha256(content).digest() + content)
                os.replace(temporary, self._path(head))
            except OSError:
                Path(temporary).unlink(missing_ok=True)

    def _head(self, key: Mapping) -> bytes:
        return json.dumps({**self.about, **key}, sort_keys=True).encode() + b"\n"

    def _path(self, head: bytes) -> Path:
        return self.folder / f"{hashlib.sha256(head).hexdigest()[:NAME_DIGITS]}.drawn"


def shared_store(task: Task) -> Store | None:
    """The store that this process shares with others; None where it has none, and for a task of a user's own file."""
    folder = os.environ.get(VARIABLE)
    return Store(Path(folder), task) if folder and type(task).__module__.startswith("dataset.") else None


def drawn_once(
    task: Task, key: Mapping, draw: Callable[[], tuple[list[Example], Sequence]]
) -> tuple[list[Example], list]:
    """Examples and what was said about them (JSON-able), from the shared store or else from `draw`.

    key: what they depend on besides the task's settings.
    """
    store = shared_store(task)
    found = store and store.read(key)
    if found:
        return _decoded(found)
    examples, more = draw()
    if store:
        arrays = _encoded(examples, more)
        # A number of NumPy would come back as one of Python.
        if repr(_decoded(arrays)) == repr((examples, list(more))):
            store.write(key, arrays)
    return examples, list(more)


def narrow(array: np.ndarray) -> np.ndarray:
    """The same whole numbers in the smallest signed type that holds them."""
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    fits = (t for t in (np.int8, np.int16, np.int32) if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
    return array.astype(next(fits, np.int64))


def _encoded(examples: Sequence[Example], more: Sequence) -> Arrays:
    """Texts and meta as JSON; positions and gaps, of which there are many, as arrays."""
    labels, gaps = [e.labels or () for e in examples], [e.gaps or () for e in examples]
    rows = [
        [e.prompt, e.answer, None if e.labels is None else "".join(c for _, c in e.labels), e.gaps is None, e.meta]
        for e in examples
    ]
    text = json.dumps([rows, list(more)], default=_refused).encode()
    return {
        "json": np.frombuffer(text, dtype=np.uint8),
        "at": narrow(np.asarray([p for part in labels for p, _ in part], dtype=np.int64)),
        "gaps": narrow(np.asarray([g for part in gaps for g in part], dtype=np.int64)),
        "gap_counts": narrow(np.asarray([len(part) for part in gaps], dtype=np.int64)),
    }


def _refused(value) -> str:
    """A value that JSON has no form for. It comes back as another one, so the examples are not shared."""
    return f"{type(value).__name__} cannot be shared"


def _decoded(arrays: Arrays) -> tuple[list[Example], list]:
    rows, more = json.loads(arrays["json"].tobytes())
    at, gaps, counts = (arrays[name].tolist() for name in ("at", "gaps", "gap_counts"))
    examples, label, gap = [], 0, 0
    for (prompt, answer, chars, no_gaps, meta), count in zip(rows, counts, strict=True):
        these = None if no_gaps else tuple(gaps[gap : gap + count])
        pairs = None if chars is None else tuple(zip(at[label : label + len(chars)], chars, strict=True))
        known = {name: tuple(value) if isinstance(value, list) else value for name, value in meta.items()}
        examples.append(Example(prompt, answer, pairs, these, known))
        label, gap = label + len(chars or ""), gap + count
    return examples, more


def _unpacked(layout: dict, data: bytes) -> dict[str, np.ndarray]:
    found, at = {}, 0
    for name, (kind, shape) in layout.items():
        count = int(np.prod(shape, dtype=np.int64))
        found[name] = np.frombuffer(data, dtype=kind, count=count, offset=at).reshape(shape)
        at += found[name].nbytes
    return found


@functools.lru_cache(maxsize=1)
def _code_digest() -> str:
    """SHA-256 of the files of this room, which draw the data."""
    sha = hashlib.sha256()
    for path in sorted(CODE.glob("*.py")):
        sha.update(path.read_bytes())
    return sha.hexdigest()
