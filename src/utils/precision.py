"""The autocast context of a precision: where a pass computes in bf16 or fp16 instead of float32.

with autocast(device, args.precision):
    loss, aux = model.loss_fn(batch)
"""

from __future__ import annotations

from functools import lru_cache

import torch

from src.storage.env import resolve_precision


def autocast(device: torch.device | str, precision: str) -> torch.autocast:
    """The autocast context of a precision; fp32 changes nothing.

    The commands decide `auto` once, in src/setup. A script may pass flags that still say `auto`. It then gets the
    precision that the commands would choose for this device.
    """
    device = torch.device(device)
    if precision == "auto":
        precision = _automatic_precision(str(device))
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


@lru_cache
def _automatic_precision(device: str) -> str:
    return resolve_precision("auto", torch.device(device))[0]
