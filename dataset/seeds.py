"""Random streams of the data: a stable digest, and generators seeded by it.

Every process and every machine derives the same streams, because no global random state and no `hash()` is involved.
"""

from __future__ import annotations

import hashlib

import numpy as np


def digest(*parts) -> int:
    """A 64-bit digest of printable values. Unlike `hash()`, it is the same in every process."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big")


def stream(task, name: str, seed: int) -> np.random.Generator:
    """The generator of one named random stream of a task's data. task: a `Task`, asked for its `identity`."""
    return np.random.default_rng([digest(sorted(task.identity().items()), name), seed])
