"""The step sizes of a scan that takes them as they are: delta = softplus(raw + bias).

    @from_raw_steps                    # above `forward(u, delta, A, B, C, D, state, neg_eigen)`
    @gradients_of_raw_steps            # above `backward(dy, dlast, u, delta, A, B, C, D, state, neg_eigen)`

Both take one argument more, bias=None. With a bias the tensors may have any dtypes, and are converted to that of A. The
numba implementation does without: it computes softplus inside its loop.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F


def from_raw_steps(forward):
    """`forward`, whose steps are softplus(delta + bias) where a bias (E,) is given."""

    @functools.wraps(forward)
    def wrapped(u, delta, A, B, C, D, state, neg_eigen: bool, bias=None):
        if bias is not None:
            u, delta, B, C = (t.to(A.dtype) for t in (u, delta, B, C))
            delta = F.softplus(delta + bias)
        return forward(u, delta, A, B, C, D, state, neg_eigen)

    return wrapped


def gradients_of_raw_steps(backward):
    """`backward`, which then returns the gradient of the bias too, as its last one; None without a bias."""

    @functools.wraps(backward)
    def wrapped(dy, dlast, u, delta, A, B, C, D, state, neg_eigen: bool, bias=None):
        if bias is None:
            return *backward(dy, dlast, u, delta, A, B, C, D, state, neg_eigen), None
        dy, u, delta, B, C = (t.to(A.dtype) for t in (dy, u, delta, B, C))
        raw = delta + bias
        du, ddelta, *rest = backward(dy, dlast, u, F.softplus(raw), A, B, C, D, state, neg_eigen)
        draw = ddelta * torch.sigmoid(raw)
        return du, draw, *rest, draw.sum((0, 1))

    return wrapped
