"""The definition of the selective scan: the recurrence as a float64 loop over time, with no shortcut."""

from __future__ import annotations

import torch


def selective_scan_reference(u, delta, A, B, C, D=None, state=None, neg_eigen: bool = False, dtype=torch.float64):
    """The recurrence of `selective_scan`, with the same arguments and shapes.

    Returns y (B, T, E) and the state after the last token (B, E, N), both in `dtype` and differentiable.
    Gu & Dao 2023, arXiv:2312.00752, algorithm 2 with equation 2; neg_eigen: Grazzi et al. 2024, arXiv:2411.12537.
    """
    u, delta, A, B, C = (t.to(dtype) for t in (u, delta, A, B, C))
    h = u.new_zeros(len(u), *A.shape) if state is None else state.to(dtype)
    outputs = []
    for t in range(u.shape[1]):
        decay = torch.exp(delta[:, t, :, None] * A)  # (B, E, N)
        if neg_eigen:
            decay = 2 * decay - 1
        h = decay * h + (delta[:, t] * u[:, t])[..., None] * B[:, t, None]
        y = (h * C[:, t, None]).sum(-1)
        outputs.append(y if D is None else y + D.to(dtype) * u[:, t])
    return torch.stack(outputs, dim=1), h
