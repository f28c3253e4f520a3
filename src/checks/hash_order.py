"""Hash order: a layer has the same parameters, in the same order, in processes with other hashes of strings.

Python orders a set of strings by hashes that differ from process to process, unless PYTHONHASHSEED is set. A layer that
builds its parts in that order starts from other weights in every run, whatever its seed. An optimiser numbers the
parameters, so a continued run would also mix up their moments.

Each process imports torch, which takes about a second.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from src.checks.base import Result, Subject, judged, names
from src.flags.run_flags import to_dict

HASH_SEEDS = (1, 2)  # of the processes that build the model again; the hashes of this one are a third order
SECONDS = 300  # after which a process is ended
ROOT = Path(__file__).resolve().parents[2]
CODE = (
    "import json, sys; d = json.load(sys.stdin); sys.path[:] = d['path']; import src.checks.hash_order as h; h.child(d)"
)


def other_hashes(subject: Subject):
    """The initial values of the model that --model names, in processes with other hash seeds."""
    if subject.args is None or not subject.args.model:  # a class alone cannot be found by another process
        return
    values = to_dict(subject.args)
    order = {
        "path": [str(ROOT), *sys.path],
        "flags": values,
        "vocab_size": subject.vocab_size,
        "max_len": subject.longest,
        "seed": subject.seed,
        "threads": torch.get_num_threads(),
    }
    children = [_start(seed, order) for seed in HASH_SEEDS]
    found = [digests(subject.model(awake=False)), *map(_finish, children)]
    yield _compared(found)


def _compared(found: list[dict[str, str]]) -> Result:
    """One row for the digests of several processes."""
    everywhere = {name for one in found for name in one}
    differing = [name for name in everywhere if len({one.get(name) for one in found}) > 1]
    ordered = len({tuple(one) for one in found}) == 1
    failure = (
        f"{names(differing)} start from other values in another process" if differing else "parameters change places"
    )
    return judged(
        "tensors that PYTHONHASHSEED changes",
        len(differing) + (not ordered and not differing),
        0,
        f"{len(found)} processes build the same {len(everywhere)} tensors",
        f"{failure}: the layer depends on the order of a set, or on hash()",
    )


def digests(model) -> dict[str, str]:
    """{name: SHA-256 of the bytes} of parameters and buffers, in the order of the model."""
    found = {}
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        flat = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        found[name] = hashlib.sha256(flat.numpy().tobytes()).hexdigest()
    return found


def _start(hash_seed: int, order: dict) -> subprocess.Popen:
    """A process that builds the model again."""
    child = subprocess.Popen(
        [sys.executable, "-c", CODE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONIOENCODING": "utf-8"},
    )
    child.stdin.write(json.dumps(order))
    child.stdin.close()
    child.stdin = None  # so that communicate does not write to it again
    return child


def _finish(child: subprocess.Popen) -> dict[str, str]:
    """What a process found. RuntimeError with its last line where it failed."""
    try:
        out, err = child.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        raise RuntimeError(f"another process did not build the model in {SECONDS} s") from None
    if child.returncode:
        raise RuntimeError(f"another process could not build the model: {(err.splitlines() or [''])[-1]}")
    return json.loads(out.splitlines()[-1])


def child(order: dict) -> None:
    """Build the model in this process and print its digests. What the user's file prints goes to stderr."""
    import contextlib

    from src.checks.base import Subject
    from src.flags.run_flags import resolve
    from src.models.backbone import resolve_auto
    from src.setup.classes import find_model
    from src.setup.plan import set_threads

    class NoTask:
        Config = None

    flags = order["flags"]
    with contextlib.redirect_stdout(sys.stderr):
        set_threads(order["threads"])
        model_class = find_model(flags["model"], tuple(flags.get("layers", ())))
        args = resolve_auto(model_class, resolve(NoTask, model_class, preset={}, **flags))
        subject = Subject(
            model_class, args, vocab_size=order["vocab_size"], longest=order["max_len"], seed=order["seed"]
        )
        found = digests(subject.model(awake=False))
    print(json.dumps(found))
