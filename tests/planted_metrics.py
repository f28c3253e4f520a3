"""Planted metrics: those of an invented run, complete, consistent and known in advance."""

import math

import numpy as np

from src.stats import intervals
from src.storage.files import seal
from src.storage.schema import SCHEMA_VERSION

TEST_SIZE = 2_000


def good_metrics(
    task="needle", model="gru", kind="answer", seed=0, reach=140.0, steps=600, lengths=(64, 128, 256), diverged_at=None
) -> dict:
    """Metrics of an invented run, complete and consistent. Accuracy falls with distance over about `reach` characters.

    Tests draw figures from them, so the numbers look like those of a real run.
    """
    rng = np.random.default_rng([seed, 11])
    steps = diverged_at or steps
    val = [[s, 3.3 * math.exp(-s / 150) + 0.08 + 0.02 * float(rng.random())] for s in range(60, steps + 1, 60)]
    train = [[s, 3.5 * math.exp(-s / 150) + 0.06 + 0.15 * float(rng.random())] for s in range(10, steps + 1, 10)]
    best_step = min(val, key=lambda p: p[1])[0] if val else None
    result = _result(rng, kind, reach) if best_step else None
    last = None if diverged_at else result
    test = {"best": result, "last": last}
    if kind == "language":
        test = {which: r and {**r, "heldout_loss": 1.9} for which, r in test.items()}
    primary = "token_acc" if kind == "language" else "hit_rate"
    final = None if diverged_at else test["best"]
    return seal(
        {
            "schema": SCHEMA_VERSION,
            "status": "diverged" if diverged_at else "done",
            "task": task,
            "model": model,
            "kind": kind,
            "primary": primary,
            "args": {"task": task, "model": model, "lr": 3e-3, "context_len": 64, "eval_lengths": ["2x", "4x"]},
            "data": {
                "digest": "5be1c7f0d2",
                "source": "canonical" if kind == "language" else None,
                "train_examples": 0,
                "val_examples": 1_000,
                "test_examples": TEST_SIZE,
                "left_out": {"val": [], "test": ["1 digit"]},
                "vocab_size": 66,
                "unknown_rate": None,
            },
            "parameters": {"total": 84_600, "embedding": 5_440},
            "decode_state": {"cache": "own", "tokens": 80, "bytes": 1_024},
            "output_ratios": {"mixer": [0.21, 0.18], "mlp": [0.3, None]},
            "steps": steps,
            "best_step": best_step,
            "diverged_at": diverged_at,
            "chars_seen": 4_096 * steps,
            "examples_seen": 64 * steps,
            "loss_curve": {"train": train, "val": val},
            "ppl_curve": {
                part: [[s, math.exp(v)] for s, v in points] for part, points in (("train", train), ("val", val))
            },
            "grad_norm": {"median": 0.8, "max": 4.2, "clipped_share": 0.3},
            "final_train": {"loss": 0.1, "bpc": 0.144, "ppl": 1.105},
            "val": {"best": result, "last": last},
            "test": test,
            "final_test": final,
            "floors": {
                "uniform": {"primary": 6e-7, "token_acc": 0.027},
                "unigram": {"primary": 0.0, "token_acc": 0.041},
                "query-blind": {"primary": 0.06, "token_acc": None},
            },
            "baselines": {"copy the last needle": 0.21},
            "ceiling": 1.0,
            "scaled": 0.0 if final is None else (final[primary] - 0.06) / 0.94,
            "length_curve": [] if final is None else [_length_row(n, n == lengths[0], reach) for n in lengths],
            "machine": {"train_seconds": 41.3, "out_dir": "runs/x"},
        }
    )


def _result(rng, kind: str, reach: float) -> dict:
    gaps = rng.integers(4, 512, TEST_SIZE * 5)
    right = (rng.random(TEST_SIZE * 5) < 0.04 + 0.95 / (1 + (gaps / reach) ** 2)).astype(float)
    hit = right[:TEST_SIZE]
    depth = rng.integers(0, 101, TEST_SIZE)
    kinds = rng.choice(["random", "repeat", "words"], TEST_SIZE, p=[0.5, 0.1, 0.4])
    cut = {
        "gap": (
            "gap",
            "distance from evidence to answer (characters)",
            "char",
            "token_acc",
            "log2",
            intervals.binned(right, gaps, "log2"),
        ),
        "gap_linear": (
            "gap",
            "distance from evidence to answer (characters)",
            "char",
            "token_acc",
            "linear",
            intervals.binned(right, gaps, "linear"),
        ),
        "depth": (
            "depth",
            "depth of the needle (% of the haystack)",
            "example",
            "hit_rate",
            "linear",
            intervals.binned(hit, depth, "linear"),
        ),
        "haystack": ("haystack", "kind of haystack", "example", "hit_rate", "category", intervals.binned(hit, kinds)),
    }
    slices = {
        name: dict(zip(("of", "label", "level", "metric", "scale", "bins"), parts, strict=True))
        for name, parts in cut.items()
    }
    result = {
        "loss": 0.4,
        "bpc": 0.4 / math.log(2),
        "ppl": math.exp(0.4),
        "token_acc": float(right.mean()),
        "exact_match": None if kind == "language" else float(hit.mean()),
        "n_examples": TEST_SIZE,
        "n_scored": TEST_SIZE * 5,
        "intervals": {"token_acc": list(intervals.wilson(right.sum(), TEST_SIZE * 5))},
        "slices": slices,
    }
    return result if kind == "language" else {**result, "hit_rate": result["exact_match"]}


def _length_row(length: int, inside: bool, reach: float) -> dict:
    if length > 200:
        return {
            "length": length,
            "in_distribution": False,
            "count": TEST_SIZE,
            "value": None,
            "ci": None,
            "token_acc": None,
            "loss": None,
            "undefined": "beyond the learned position table of 210",
        }
    value = 1 / (1 + (length / reach) ** 3)
    return {
        "length": length,
        "in_distribution": inside,
        "count": TEST_SIZE,
        "value": value,
        "ci": list(intervals.wilson(value * TEST_SIZE, TEST_SIZE)),
        "token_acc": value,
        "loss": 0.3,
        "undefined": None,
    }
