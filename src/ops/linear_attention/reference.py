"""The definition of linear attention: the recurrence of its papers as a float64 loop over time, with no shortcut."""

from __future__ import annotations

import torch


def linear_attention_reference(q, k, v, decay=None, state=None, scale=None):
    """S_t = diag(exp(decay_t)) S_{t-1} + k_t v_t^T and o_t = scale S_t^T q_t.

    Arguments and shapes as in `linear_attention`. Returns o (B, T, H, V) and the last state (B, H, K, V), both float64
    and differentiable.
    """
    q, k, v = q.double(), k.double(), v.double()
    q, k = (x.repeat_interleave(v.shape[2] // x.shape[2], dim=2) for x in (q, k))  # groups of heads share them
    B, T, H, K = q.shape
    S = torch.zeros(B, H, K, v.shape[-1], dtype=torch.float64, device=q.device) if state is None else state.double()
    decay = torch.zeros(H, device=q.device) if decay is None else decay
    decay = decay if decay.dim() == 4 else decay[..., None]  # (H, 1), (B, T, H, 1) or (B, T, H, K)
    decay = decay.double().expand(B, T, H, K)
    outputs = []
    for t in range(T):
        S = decay[:, t].exp()[..., None] * S + k[:, t, :, :, None] * v[:, t, :, None, :]
        outputs.append((1.0 if scale is None else scale) * (S * q[:, t, :, :, None]).sum(dim=2))
    return torch.stack(outputs, dim=1), S
