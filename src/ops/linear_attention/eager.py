from __future__ import annotations

import torch
import torch.nn.functional as F

CHUNK = 64


def linear_attention_eager(q, k, v, decay, state, scale):
    dtype = torch.float64 if any(t is not None and t.dtype == torch.float64 for t in (q, k, v, decay, state)) else torch.float32
    out_dtype = v.dtype
    (B, T, H, K), V = q.shape, v.shape[-1]
    C = min(CHUNK, 1 << (T - 1).bit_length())
    N = -(-T // C)
    q, k, v = (chunks(x.to(dtype), C) for x in (q, k, v))
    S = q.new_zeros(B, H, K, V) if state is None else state.to(dtype)
    mask = torch.ones(C, C, dtype=torch.bool, device=q.device).tril()
    if decay is None:
        scores, total, q_in, k_out = (q @ k.transpose(-1, -2)) * mask, None, q, k
    else:
        if decay.dim() == 1:
            decay = decay[:, None].expand(B, T, H, 1)
        b = chunks((decay if decay.dim() == 4 else decay[..., None]).to(dtype), C).cumsum(-2)  # (B, H, N, C, 1 or K)
        total = b[..., -1:, :]
        q_in, k_out = q * b.exp(), k * (total - b).exp()
        if decay.shape[-1] == K and decay.dim() == 4 and K > 1:
            scores = halves(q, k, b)
        else:
            scores = (q @ k.transpose(-1, -2)) * (b - b.transpose(-1, -2)).masked_fill(~mask, -torch.inf).exp()
    writes = k_out.transpose(-1, -2) @ v  # (B, H, N, K, V)
    states = []
    keep = None if total is None else total.exp().transpose(-1, -2)  # (B, H, N, 1 or K, 1)
    for n in range(N):
        states.append(S)
        S = (S if keep is None else S * keep[:, :, n]) + writes[:, :, n]
    o = scores @ v + q_in @ torch.stack(states, 2)
    o = o.reshape(B, H, N * C, V)[:, :, :T].transpose(1, 2)
    return (o * scale).to(out_dtype), S


def halves(q, k, b):
    C = q.shape[-2]
    scores = torch.diag_embed((q * k).sum(-1))
    h = 1
    while h < C:
        q2, k2, b2 = (x.unflatten(-2, (C // (2 * h), 2, h)) for x in (q, k, b))
        edge = b2[..., 0, -1:, :]
        block = (q2[..., 1, :, :] * (b2[..., 1, :, :] - edge).exp()) @ (k2[..., 0, :, :] * (edge - b2[..., 0, :, :]).exp()).transpose(-1, -2)
        rows = torch.arange(C, device=q.device).view(-1, 2, h)
        i, j = rows[:, 1, :, None].expand(-1, h, h), rows[:, 0, None, :].expand(-1, h, h)
        scores = scores.index_put((*(slice(None),) * 0, ..., i, j) if False else (Ellipsis, i, j), block) if False else scores.clone()
        scores[..., i, j] = block
        h *= 2
    return scores


def chunks(x, C):
    """(B, T, H, X) -> (B, H, N, C, X), zeros after the end."""
    x = F.pad(x, (0, 0, 0, 0, 0, -x.shape[1] % C))
    return x.unflatten(1, (-1, C)).permute(0, 3, 1, 2, 4).contiguous()
