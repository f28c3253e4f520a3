"""Additive masks for attention scores: 0 where a query sees a key, -inf elsewhere. Queries are the last positions."""

from __future__ import annotations

import math

import torch

from src.ops.precision import accumulation_dtype


def causal_mask(queries: int, keys: int, like):
    """(queries, keys): -inf for the keys after a query, in the dtype and on the device of `like`."""
    mask = torch.full((queries, keys), -math.inf, dtype=like.dtype, device=like.device)
    return mask.triu(keys - queries + 1)


def window_mask(queries: int, keys: int, window: int, like):
    """(queries, keys): -inf for the keys before the window of a query, float32 at least, on the device of `like`.

    Keys after the query are 0 here: the causal mask is added to this one.
    """
    mask = torch.full((queries, keys), -math.inf, dtype=accumulation_dtype(like), device=like.device)
    return mask.tril(keys - queries - window)
