"""The global random generators: those of torch, of NumPy and of Python, seeded and restored together.

    seed_all(0)
    with kept_random_state():
        ...                       # may draw and seed; afterwards all generators are as they were

A layer may draw from any of them, for instance `random.random()` for a stochastic depth. So a run seeds all, and a
checkpoint holds the state of all (src/storage/checkpoint.py).
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

from src.storage.checkpoint import random_state, set_random_state


def seed_all(seed: int) -> None:
    """Seed torch on all devices, NumPy and Python.  seed: >= 0. NumPy uses its lowest 32 bits."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def seed_rank(seed: int, rank: int, step: int = 0) -> None:
    """Begin the random streams of one of several processes. Other ranks and other steps have other streams."""
    seed_all(int(np.random.SeedSequence((seed, rank, step)).generate_state(1)[0]))


@contextlib.contextmanager
def kept_random_state() -> Iterator[None]:
    """Restore all generators afterwards."""
    before = random_state()
    try:
        yield
    finally:
        set_random_state(before)
