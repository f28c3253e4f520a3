"""Linear attention with every kind of decay: `linear_attention(q, k, v, decay)`, and `linear_attention_step` for one token.

    S_t = diag(exp(decay_t)) S_{t-1} + k_t v_t^T ,   o_t = scale S_t^T q_t

One op for several layers: without decay it is the causal linear attention of Katharopoulos et al. 2020 (arXiv:2006.16236, eq. 16-20; a
feature map and a normaliser are the caller's: a column of ones appended to v carries the normaliser), with a fixed decay a head the retention
of Sun et al. 2023 (RetNet, arXiv:2307.08621, eq. 6), with a scalar decay a step the form of Dao and Gu 2024 (SSD, arXiv:2405.21060, section
6), with a decay a key channel the gated linear attention of Yang et al. 2023 (GLA, arXiv:2312.06635, section 4).

reference.py defines the function, README.md has the maths of the chunked form. K size of a key, V size of a value (they may differ).
"""

from __future__ import annotations

import contextlib

import torch

from src.ops import backends

HALF = (torch.bfloat16, torch.float16)


def linear_attention(q, k, v, decay=None, state=None, scale=None, backend: str = "auto"):
    """Run linear attention over a sequence: the decay acts before the write, the query reads after it.

    q, k: (B, T, H, K).  v: (B, T, H, V); V need not be K, and may be odd.
    decay: the log decay, <= 0 (not checked): None, (H,) fixed a head, (B, T, H) a step, or (B, T, H, K) a step and key channel.
    state: (B, H, K, V) float32 (float64 with float64 inputs), the state before the first token; None is zeros.
    scale: factor of the output; None is 1.
    Returns (o, state): o (B, T, H, V) in v's dtype, and the state after the last token, float32 (float64 for float64 inputs).
    States, sums and cumulative decays are float32 whatever the inputs, also under autocast. Differentiable in every tensor.
    Raises ValueError when shapes disagree or `backend` is unknown, RuntimeError when the named backend cannot run on these tensors.
    """
    _check(q, k, v, decay, state, time=True)
    name = _choose(backend, q)
    with no_autocast(q):
        return COMPUTE[name](q, k, v, decay, state, 1.0 if scale is None else float(scale))


def linear_attention_step(q, k, v, decay=None, state=None, scale=None):
    """One token of `linear_attention`, in a time that does not depend on the token's position.

    q, k: (B, H, K).  v: (B, H, V).  decay: None, (H,), (B, H) or (B, H, K).  state: (B, H, K, V), or None for zeros.
    Returns (o, state), o (B, H, V). Where no gradient is recorded, the given state is written in place and returned.
    """
    _check(q, k, v, decay, state, time=False)
    with no_autocast(q):
        return _step(q, k, v, decay, state, scale)


def automatic(device_type: str, args=None) -> tuple[str, str]:
    """(backend, reason) for a device. Pure, so that a run can record it."""
    names = backends.usable("linear_attention", device_type)
    if "fla" in names:
        return "fla", "flash-linear-attention is installed: fused chunk kernels"
    return "eager", "chunks as matrix products in torch"


def accumulation_dtype(*tensors):
    """float64 when any tensor is, else float32: the dtype of states, sums and cumulative decays."""
    return torch.float64 if any(t is not None and t.dtype == torch.float64 for t in tensors) else torch.float32


def no_autocast(like):
    """Autocast off where it is on: it would round the float32 operands of the products to half precision."""
    device_type = like.device.type
    return torch.autocast(device_type, enabled=False) if torch.is_autocast_enabled(device_type) else contextlib.nullcontext()


def _step(q, k, v, decay, state, scale):
    dtype = accumulation_dtype(q, k, v, decay, state)
    out_dtype = v.dtype
    q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    if state is None:
        state = k[..., :, None] * v[..., None, :]
    else:
        tensors = (q, k, v, state) if decay is None else (q, k, v, decay, state)
        state = state.to(dtype)
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            state = state if decay is None else state * _gate(decay, dtype)
            state = state + k[..., :, None] * v[..., None, :]
        else:
            if decay is not None:
                state.mul_(_gate(decay, dtype))
            state.addcmul_(k[..., :, None], v[..., None, :])
    o = (q[..., None, :] @ state)[..., 0, :]
    o = o if scale is None or scale == 1 else o * scale
    return o.to(out_dtype), state


def _gate(decay, dtype):
    """exp(decay) shaped to multiply a state (B, H, K, V)."""
    gate = decay.to(dtype).exp()
    return gate[..., None] if gate.dim() == 3 else gate[..., None, None]


def _choose(backend: str, q) -> str:
    if backend == "auto":
        return automatic(q.device.type)[0] if q.dtype != torch.float64 else "eager"
    if backend not in COMPUTE:
        raise ValueError(f"backend: got '{backend}' for linear_attention, allowed: auto, {', '.join(COMPUTE)}")
    return backend


def _check(q, k, v, decay, state, time: bool) -> None:
    letters = "(B, T, H, K)" if time else "(B, H, K)"
    if q.dim() != (4 if time else 3) or q.shape != k.shape or v.dim() != q.dim() or v.shape[:-1] != k.shape[:-1] or 0 in q.shape or 0 in v.shape:
        raise ValueError(f"q, k, v: got {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}, "
                         f"allowed: q and k {letters}, v {letters.replace('K', 'V')}, none of them empty")
    H = q.shape[-2]
    if decay is not None and tuple(decay.shape) not in ((H,), tuple(q.shape[:-1]), tuple(q.shape)):
        raise ValueError(f"decay: got {tuple(decay.shape)}, allowed: None, ({H},), {tuple(q.shape[:-1])} or {tuple(q.shape)}")
    expected = (q.shape[0], H, q.shape[-1], v.shape[-1])
    if state is not None and tuple(state.shape) != expected:
        raise ValueError(f"state: got {tuple(state.shape)}, allowed: None or (B, H, K, V) = {expected}")


def _eager(*arguments):
    from src.ops.linear_attention.eager import linear_attention_eager
    return linear_attention_eager(*arguments)


def _compiled(*arguments):
    from src.ops.linear_attention.compiled import linear_attention_compiled
    return linear_attention_compiled(*arguments)


COMPUTE = {"eager": _eager, "numba": _compiled}
