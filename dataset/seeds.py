"""Random streams of the data: stable digests and explicit generators, the same in every process and on every machine."""

from __future__ import annotations

import hashlib

import numpy as np


def digest(*parts) -> int:
    """A 64-bit digest of printable values: the same in every process and on every machine (unlike hash())."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big")


def stream(task, name, seed: int) -> np.random.Generator:
    """The generator of one named random stream of a task's data."""
    return np.random.default_rng([digest(sorted(task.identity().items()), name), seed])
