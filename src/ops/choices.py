"""Which backend computes each op of a model, and why: what a run records in env.json.

This is a file of its own so that backends.py need not know the packages of the ops.
"""

from __future__ import annotations

import importlib
import itertools

from src.flags.fields import UserError
from src.ops.backends import parse_backend, read_flag, usable


def in_words(chosen: dict[str, dict[str, str]]) -> str:
    """'attention: sdpa (why); rmsnorm, linear: eager (why)': ops with one backend and one reason are named together."""
    groups: dict[tuple[str, str], list[str]] = {}
    for op, choice in chosen.items():
        groups.setdefault((choice["backend"], choice["reason"]), []).append(op)
    return "; ".join(f"{', '.join(ops)}: {backend} ({reason})" for (backend, reason), ops in groups.items())


def choices(ops: dict[str, tuple[str, ...]], args, device) -> dict[str, dict[str, str]]:
    """{op: {"backend": ..., "reason": ...}} for the ops that a model uses on this device.

    ops: op -> the kinds in which the model calls it, () where the op has no kinds. Two kinds may take two backends;
    these are joined by "+".
    args: the resolved flags of the run.  device: a torch.device, or a string such as "cuda:0".
    Raises UserError where --backend names a backend that cannot run here, or only ops that the model does not use.
    """
    device_type = getattr(device, "type", None) or str(device).split(":")[0]
    named = read_flag(args.backend)
    if named and not set(named) & set(ops):
        raise UserError(
            f"--backend: got '{args.backend}', but this model uses "
            f"{'only ' + ', '.join(ops) if ops else 'none of the ops with backends'}; leave it out, or see `list`"
        )
    result = {}
    for op, kinds in ops.items():
        found = {parse_backend(args.backend, op, usable(op, device_type)): "named by --backend"}
        package = importlib.import_module(f"src.ops.{op}")  # imports torch, which `list` must not need
        obstacle = getattr(package, "obstacle", None)
        for name, kind in itertools.product(found, kinds if obstacle else ()):
            if why := obstacle(name, kind):
                raise UserError(
                    f"--backend: got '{name}' for {op}, which cannot run here ({why}), allowed: auto, eager"
                )
        if "auto" in found:
            automatic = package.automatic
            found = dict([automatic(device_type, args, *([kind] if kind else [])) for kind in kinds or ("",)])
        result[op] = {"backend": "+".join(found), "reason": "; ".join(found.values())}
    return result
