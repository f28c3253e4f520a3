"""The definition of the delta rule: the recurrence of its papers as a float64 loop over time, with no shortcut."""

from __future__ import annotations

import torch


def delta_rule_reference(q, k, v, beta, decay=None, state=None, scale=None):
    """S_t = exp(decay_t) (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T and o_t = scale S_t^T q_t.

    Arguments and shapes as in `delta_rule`. Returns o (B, T, H, V) and the last state (B, H, K, V), both float64 and
    differentiable.
    """
    q, k, v, beta = q.double(), k.double(), v.double(), beta.double()
    B, T, H, K = q.shape
    S = torch.zeros(B, H, K, v.shape[-1], dtype=torch.float64, device=q.device) if state is None else state.double()
    decay = torch.zeros_like(beta) if decay is None else decay.double()
    eye = torch.eye(K, dtype=torch.float64, device=q.device)
    outputs = []
    for t in range(T):
        key, strength = k[:, t], beta[:, t, :, None, None]
        erase = eye - strength * key[..., :, None] * key[..., None, :]  # (B, H, K, K)
        transition = decay[:, t].exp()[..., None, None] * erase
        S = transition @ S + strength * key[..., :, None] * v[:, t, :, None, :]
        outputs.append((1.0 if scale is None else scale) * (S * q[:, t, :, :, None]).sum(dim=2))
    return torch.stack(outputs, dim=1), S
