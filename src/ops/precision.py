"""Precision inside an op: the dtype of states and sums, and autocast off around the op's own products.

    with no_autocast(q):
        dtype = accumulation_dtype(q, k, v)  # float32, or float64 where one of them is

Under bf16 autocast torch computes a product of float32 tensors in bf16. Casting the operands to float32 is therefore
not enough: autocast must be off as well.
"""

from __future__ import annotations

import contextlib

import torch

HALF = (torch.bfloat16, torch.float16)


def accumulation_dtype(*tensors):
    """The dtype of states, sums and cumulative decays: float64 when a tensor is, else float32. None is ignored."""
    return torch.float64 if any(t is not None and t.dtype == torch.float64 for t in tensors) else torch.float32


def as_real(x):
    """x, or for complex x (...) a real view (..., 2) of its memory: real and imaginary parts."""
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def autocast_dtype(like):
    """The dtype that autocast gives to products on the device of `like`, None where autocast is off."""
    device_type = like.device.type
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else None


def no_autocast(like):
    """A context with autocast off on the device of `like`. It does nothing where autocast is off already."""
    device_type = like.device.type
    if torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return contextlib.nullcontext()
