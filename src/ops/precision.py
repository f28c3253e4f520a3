"""Precision inside an op, for all ops alike: the dtype of states and sums, and autocast off around the op's own products.

    with no_autocast(q):
        kind = accumulation_dtype(q, k, v)      # float32, or float64 where one of them is

Under bf16 autocast a product of float32 tensors is computed in bf16, so casting an op's operands up is not enough: autocast must be off as well.
"""

from __future__ import annotations

import contextlib

import torch

HALF = (torch.bfloat16, torch.float16)


def accumulation_dtype(*tensors):
    """float64 when any tensor is, else float32: the dtype of states, sums and cumulative decays. None among the tensors counts for nothing."""
    return torch.float64 if any(t is not None and t.dtype == torch.float64 for t in tensors) else torch.float32


def autocast_dtype(like):
    """The dtype that autocast gives products on this tensor's device, None where it is off."""
    device_type = like.device.type
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else None


def no_autocast(like):
    """A context with autocast off on this tensor's device; it does nothing where it is off already."""
    device_type = like.device.type
    return (
        torch.autocast(device_type, enabled=False)
        if torch.is_autocast_enabled(device_type)
        else contextlib.nullcontext()
    )
