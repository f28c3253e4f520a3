"""Groups of heads: the R = H / G heads of a group share its queries and keys, and each has values of its own."""

from __future__ import annotations


def per_head(x, v):
    """q or k of G groups, (..., G, K), as (..., H, K) for the heads of v (..., H, V): a group again for each head."""
    groups, heads = x.shape[-2], v.shape[-2]
    return x if groups == heads else x.repeat_interleave(heads // groups, dim=-2)


def beside(x, groups: int):
    """(B, H, ..., V) -> (B, G, ..., R V): the values of the heads of each group side by side."""
    return x.unflatten(1, (groups, -1)).movedim(2, -2).flatten(-2)


def apart(x, heads: int):
    """(B, G, ..., R V) -> (B, H, ..., V): back to one head after the other."""
    return x.unflatten(-1, (heads // x.shape[1], -1)).movedim(-2, 2).flatten(1, 2)
