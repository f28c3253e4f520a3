"""Fresh training batches in blocks, so that one run draws a block and the others with the same data read it.

    blocks = Blocks(store, key, draw)            # store: of dataset/drawn.py; draw(i) is batch i
    blocks.batch(i)                              # read, if a run has drawn its block; else drawn

A block that is not there yet is drawn batch by batch, as they are asked for, and written after its last batch. So runs
that go side by side never wait for each other. A block that a run enters in its middle is not written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch

from dataset.common import Batch
from dataset.drawn import Arrays, Store, narrow

SIZE = 32  # batches of a block
TABLES = ("x", "y", "gaps")  # (B, T) whole numbers


class Blocks:
    """store: where blocks lie.  key: what the batches depend on besides the task's settings.  draw(i): batch i."""

    def __init__(self, store: Store, key: Mapping, draw: Callable[[int], Batch]):
        self.store, self.key, self.draw = store, dict(key), draw
        self._number: int | None = None

    def batch(self, i: int) -> Batch:
        """Batch i of the stream, equal to draw(i)."""
        number, at = divmod(i, SIZE)
        if number != self._number:
            self._number, self._drawn = number, []
            found = self.store.read(self._name(number))
            self._read = None if found is None else list(_unpacked(found))
        if self._read is not None:
            return self._read[at]
        batch = self.draw(i)
        if at == len(self._drawn):
            self._drawn.append(batch)
            if len(self._drawn) == SIZE:
                self.store.write(self._name(number), _packed(self._drawn))
        return batch

    def _name(self, number: int) -> dict:
        return {**self.key, "stream": "train batches", "block": number, "of": SIZE}


def _packed(batches: list[Batch]) -> Arrays:
    """The content of several batches, one after the other, in small types."""
    flat = {name: narrow(np.concatenate([getattr(b, name).numpy().ravel() for b in batches])) for name in TABLES}
    return {
        **flat,
        "score": np.packbits(np.concatenate([b.score.numpy().ravel() for b in batches])),
        "shape": np.asarray([tuple(b.x.shape) for b in batches], dtype=np.int64),
        "tokens": narrow(np.concatenate([b.lengths.numpy() for b in batches])),
        "row": narrow(np.concatenate([b.meta["row"] for b in batches])),
        "length": narrow(np.concatenate([b.meta["length"] for b in batches])),
    }


def _unpacked(found: Arrays) -> Iterator[Batch]:
    """The batches of `_packed`, with the types that they had."""
    score = np.unpackbits(found["score"]).view(bool)
    at = row = 0
    for rows, tokens in found["shape"].tolist():
        here, these = slice(at, at + rows * tokens), slice(row, row + rows)
        tables = {n: torch.from_numpy(found[n][here].astype(np.int64).reshape(rows, tokens)) for n in TABLES}
        yield Batch(
            **tables,
            score=torch.from_numpy(score[here].reshape(rows, tokens).copy()),
            lengths=torch.from_numpy(found["tokens"][these].astype(np.int64)),
            meta={n: found[n][these].astype(np.int64) for n in ("row", "length")},
        )
        at, row = here.stop, these.stop
