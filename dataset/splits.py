"""Which key belongs to train, val or test, and how the examples of a split are drawn. No two splits share a key."""

from __future__ import annotations

import hashlib
import math
from collections import Counter

import numpy as np

from dataset.task import Example, Task
from src.flags.fields import UserError

SPLITS = ("train", "val", "test")
DRAWN_CHARS = 1 << 26  # characters that are drawn at once for a held-out split, to limit the memory of long examples


def split_of(key: str) -> str:
    """The split a key belongs to, by its digest: 80 / 10 / 10."""
    part = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "big") % 10
    return "train" if part < 8 else "val" if part == 8 else "test"


def draw_train(task: Task, n: int, length: int | None, rng: np.random.Generator) -> list[Example]:
    """n training examples of one length. Keys may repeat. UserError when no key of this length belongs to train."""
    kept: list[Example] = []
    draws_without_success = 0
    while len(kept) < n:
        drawn = task.examples(rng, max(4, math.ceil((n - len(kept)) * 1.35)), length)
        fresh = [e for e in drawn if split_of(task.key(e)) == "train"]
        draws_without_success = 0 if fresh else draws_without_success + len(drawn)
        if draws_without_success > 2_000:
            raise UserError(
                f"length {length}: no training example in {draws_without_success} draws, because every key there "
                "belongs to val or test; raise --min_len"
            )
        kept += fresh
    return kept[:n]


def draw_heldout(
    task: Task, split: str, n: int, length: int | None, rng: np.random.Generator
) -> tuple[list[Example], list[str]]:
    """n examples of one held-out split with distinct keys, and the names of the strata that were dropped.

    A stratum is dropped once duplicates outnumber new keys: it is nearly exhausted, and training has seen nearly all
    of its keys. UserError when the other strata cannot give n examples.
    """
    kept: dict[str, tuple[str | None, Example]] = {}
    repeats: Counter = Counter()
    found: Counter = Counter()
    small: set[str] = set()
    rounds_without_success = 0
    while len(kept) < n:
        before = len(kept)
        at_once = max(64, min(4_096, 8 * (n - len(kept))))
        for e in task.examples(rng, max(1, min(at_once, DRAWN_CHARS // (length or 1))), length):
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
        rounds_without_success = rounds_without_success + 1 if len(kept) <= before else 0
        if rounds_without_success >= 30:
            raise UserError(
                f"--{split}_size: got {n}, allowed: at most {len(kept)}, the distinct {split} examples that exist at "
                f"these settings{f' (length {length})' if length else ''}; use --{split}_size {len(kept)}"
            )
    return [e for _, e in kept.values()], sorted(small)


def largest_train_size(task: Task) -> int | None:
    """The distinct training keys, about 80 % of all keys; None where their number is unknown or too large to matter."""
    total = task.n_keys()
    return None if total is None else int(total * 0.8)


def check_train_size(task: Task, n: int) -> None:
    """UserError when more training examples are asked for than distinct training keys exist, where that is known."""
    most = largest_train_size(task)
    if most is not None and n > most:
        raise UserError(
            f"--train_size: got {n}, allowed: at most about {most}, 80 % of the {task.n_keys()} distinct keys of this "
            "task at these settings; use fewer, or 0 for fresh examples that may repeat"
        )
