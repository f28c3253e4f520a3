"""Which backend computes each op of a model, and why: what env.json records."""

from __future__ import annotations

import importlib
import importlib.util

from src.flags.fields import UserError
from src.ops.backends import parse_backend, read_flag, usable


def choices(ops: dict[str, tuple[str, ...]], args, device) -> dict[str, dict[str, str]]:
    """{op: {"backend": ..., "reason": ...}} of the ops that a model uses, for the run's record: what they do on this device.

    ops: op -> the kinds in which the model calls it, () where the op knows no kinds; two kinds may take two backends, then joined by "+".
    device: a torch.device, or a string such as "cuda:0".  Raises UserError where --backend names what cannot run here, or only ops that the
    model does not use.
    """
    device_type = getattr(device, "type", None) or str(device).split(":")[0]
    named = read_flag(args.backend)
    if named and not set(named) & set(ops):
        raise UserError(
            f"--backend: got '{args.backend}', but this model uses {'only ' + ', '.join(ops) if ops else 'none of the ops with backends'}; "
            "leave it out, or see `list`"
        )
    result = {}
    for op, kinds in ops.items():
        found = {parse_backend(args.backend, op, usable(op, device_type)): "named by --backend"}
        if "auto" in found:
            automatic = importlib.import_module(f"src.ops.{op}").automatic  # torch stays out of `list`
            found = dict([automatic(device_type, args, *([kind] if kind else [])) for kind in kinds or ("",)])
        result[op] = {"backend": "+".join(found), "reason": "; ".join(found.values())}
    return result
