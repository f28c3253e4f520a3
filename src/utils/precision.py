"""The autocast context of a precision."""

from __future__ import annotations

from functools import lru_cache

import torch

from src.storage.env import resolve_precision


def autocast(device, precision: str):
    """The autocast context of a precision; fp32 gives none, auto what the command would choose for the device."""
    device = torch.device(device)
    if precision == "auto":
        precision = _automatic_precision(str(device))
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


@lru_cache
def _automatic_precision(device: str) -> str:
    return resolve_precision("auto", torch.device(device))[0]
