"""Which key belongs to train, val or test, and how examples of a split are drawn. No two splits share a key."""

from __future__ import annotations

import hashlib
import math
from collections import Counter

import numpy as np

from dataset.task import Example, Task
from src.flags.fields import UserError

SPLITS = ("train", "val", "test")


def split_of(key: str) -> str:
    """The split a key belongs to, by its digest: 80 / 10 / 10."""
    part = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "big") % 10
    return "train" if part < 8 else "val" if part == 8 else "test"


def draw_train(task: Task, n: int, length: int | None, rng: np.random.Generator) -> list[Example]:
    """n training examples of one length; keys may repeat. UserError when no key of this length belongs to train."""
    kept: list[Example] = []
    barren = 0
    while len(kept) < n:
        drawn = task.examples(rng, max(4, math.ceil((n - len(kept)) * 1.35)), length)
        fresh = [e for e in drawn if split_of(task.key(e)) == "train"]
        barren = 0 if fresh else barren + len(drawn)
        if barren > 2_000:
            raise UserError(
                f"length {length}: no training example in {barren} draws, because every key there belongs to val or test; raise --min_len"
            )
        kept += fresh
    return kept[:n]


def draw_heldout(
    task: Task, split: str, n: int, length: int | None, rng: np.random.Generator
) -> tuple[list[Example], list[str]]:
    """n examples of one held-out split with distinct keys, and the names of the strata left out of it.

    A stratum in which more draws repeat a key than find a new one is too small: a test of it would hardly grow, and the train
    set has seen nearly all its neighbours. It is left out and named. UserError when the rest cannot give n.
    """
    kept: dict[str, tuple[object, Example]] = {}
    repeats: Counter = Counter()
    found: Counter = Counter()
    small: set = set()
    barren = 0
    while len(kept) < n:
        before = len(kept)
        for e in task.examples(rng, max(64, min(4_096, 8 * (n - len(kept)))), length):
            key = task.key(e)
            if split_of(key) != split:
                continue
            stratum = task.stratum(e)
            if stratum in small:
                continue
            if key in kept:
                repeats[stratum] += 1
            else:
                found[stratum] += 1
                kept[key] = (stratum, e)
            if stratum is not None and repeats[stratum] > max(20, found[stratum]):
                small.add(stratum)
                kept = {k: v for k, v in kept.items() if v[0] != stratum}
            if len(kept) == n:
                break
        barren = barren + 1 if len(kept) <= before else 0
        if barren >= 30:
            raise UserError(
                f"--{split}_size: got {n}, allowed: at most {len(kept)}, the distinct {split} examples that exist at these settings"
                + (f" (length {length})" if length else "")
                + f"; use --{split}_size {len(kept)}"
            )
    return [e for _, e in kept.values()], sorted(map(str, small))


def largest_train_size(task: Task) -> int | None:
    """The distinct training keys of a task, about 80 % of all keys; None where their number is unknown or too large to matter."""
    total = task.n_keys()
    return None if total is None else int(total * 0.8)


def check_train_size(task: Task, n: int) -> None:
    """UserError when more training examples are asked for than distinct training keys exist, where that is known."""
    most = largest_train_size(task)
    if most is not None and n > most:
        raise UserError(
            f"--train_size: got {n}, allowed: at most about {most}, 80 % of the {task.n_keys()} distinct keys of this task at these settings; "
            "use fewer, or 0 for fresh examples that may repeat"
        )
