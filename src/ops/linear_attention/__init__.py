"""Linear attention with every kind of decay: `linear_attention(q, k, v, decay)`, and `linear_attention_step` for one token.

    S_t = diag(exp(decay_t)) S_{t-1} + k_t v_t^T ,   o_t = scale S_t^T q_t

One op for several layers: without decay it is the causal linear attention of Katharopoulos et al. 2020 (arXiv:2006.16236, eq. 16-20; a
feature map and a normaliser are the caller's: a column of ones appended to v carries the normaliser), with a fixed decay a head the retention
of Sun et al. 2023 (RetNet, arXiv:2307.08621, eq. 6), with a scalar decay a step the form of Dao and Gu 2024 (SSD, arXiv:2405.21060, section
6), with a decay a key channel the gated linear attention of Yang et al. 2023 (GLA, arXiv:2312.06635, section 4).

reference.py defines the function, README.md has the maths of the chunked form. K size of a key, V size of a value (they may differ).
"""

from __future__ import annotations

import importlib

import torch

from src.ops import backends
from src.ops.precision import HALF, accumulation_dtype, no_autocast

FORMS = {
    "eager": "chunked",
    "numba": "recurrent",
    "fla": "fla",
}  # backend -> the file of this package that has its `run`


def linear_attention(q, k, v, decay=None, state=None, scale=None, backend: str = "auto"):
    """Run linear attention over a sequence: the decay acts before the write, the query reads after it.

    q, k: (B, T, H, K).  v: (B, T, H, V); V need not be K, and may be odd.
    decay: the log decay, <= 0 (not checked): None, (H,) fixed a head, (B, T, H) a step, or (B, T, H, K) a step and key channel.
    state: (B, H, K, V) float32 (float64 with float64 inputs), the state before the first token; None is zeros.
    scale: factor of the output; None is 1.
    Returns (o, state): o (B, T, H, V) in v's dtype, and the state after the last token, float32 (float64 for float64 inputs).
    States, sums and cumulative decays are float32 whatever the inputs, also under autocast. Differentiable (once) in every tensor.
    backend "numba" is for float32, bf16 and fp16 on a CPU, "fla" for the same on CUDA, where its products of float32 inputs have TF32's 10 bits;
    "auto" therefore takes eager for float64 everywhere and for float32 on CUDA.
    Raises ValueError when shapes disagree or `backend` is unknown, RuntimeError when the named backend cannot run here.
    """
    _check(q, k, v, decay, state, time=True)
    form = _form(backend, v, decay, accumulation_dtype(q, k, v, decay, state) == torch.float64)
    with no_autocast(q):
        return form.run(q, k, v, decay, state, 1.0 if scale is None else float(scale))


def linear_attention_step(q, k, v, decay=None, state=None, scale=None):
    """One token of `linear_attention`, in a time that does not depend on the token's position.

    q, k: (B, H, K).  v: (B, H, V).  decay: None, (H,), (B, H) or (B, H, K).  state: (B, H, K, V), or None for zeros.
    Returns (o, state), o (B, H, V). Where no gradient is recorded, the given state is written in place and returned.
    """
    _check(q, k, v, decay, state, time=False)
    with no_autocast(q):
        return _step(q, k, v, decay, state, scale)


def automatic(device_type: str, args=None, decay: str | None = None) -> tuple[str, str]:
    """(backend, reason) of "auto" on a device. decay: none, fixed, scalar or vector; where it is not given, `args.decay`. Pure, so that a run can
    record it."""
    # Time of eager / time of numba, forward and backward, T 1024, 4 heads, fp32, CPU time of one thread of a CPU with AVX-512, medians interleaved:
    #   K = V, B     16, 16   32, 8   64, 4   128, 2
    #   none          0.75     0.66    0.64    0.56
    #   fixed         1.35     0.98    0.78    0.68
    #   scalar        1.30     1.04    0.85    0.70
    #   vector        3.50     3.81    2.70    1.90
    present = backends.usable("linear_attention", device_type)
    if "fla" in present:
        return _cuda(args)
    decay = decay or getattr(args, "decay", None)
    if decay == "vector" and "numba" in present:
        return (
            "numba",
            "with a decay a key channel, the compiled recurrence took 0.26 to 0.53 of the time of chunks in torch (keys of 16 to 128)",
        )
    return "eager", "chunks as matrix products in torch" + (
        "" if decay else ", unless there is a decay a key channel and numba"
    )


def _cuda(args) -> tuple[str, str]:
    if getattr(args, "precision", "bf16") == "fp32":
        return "eager", "flash-linear-attention multiplies float32 in TF32, which keeps 10 bits"
    return "fla", "flash-linear-attention is installed: fused kernels for half precision"


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


def _form(backend: str, v, decay, double: bool):
    """The module that computes, after the choice of "auto"."""
    if backend == "auto":
        backend, _ = automatic(v.device.type, None, "vector" if decay is not None and decay.dim() == 4 else "other")
        if double or (backend == "fla" and v.dtype not in HALF):
            backend = "eager"
    check_backend("linear_attention", backend, FORMS, v, double)
    return importlib.import_module(f"src.ops.linear_attention.{FORMS[backend]}")


def check_backend(op: str, backend: str, forms, x, double: bool) -> None:
    """ValueError for a backend that `op` does not have, RuntimeError for one that cannot run here on tensors like x."""
    if backend not in forms:
        raise ValueError(f"backend: got '{backend}' for {op}, allowed: auto, {', '.join(forms)}")
    present = backends.usable(op, x.device.type)
    if backend not in present:
        raise RuntimeError(
            f"backend '{backend}' of {op} cannot run here on {x.device.type}, usable: {', '.join(present)}; see `list` for what it needs"
        )
    if double and backend != "eager":
        raise RuntimeError(f"backend '{backend}' of {op} computes in float32, got float64; take eager")


def _check(q, k, v, decay, state, time: bool) -> None:
    letters = "(B, T, H, K)" if time else "(B, H, K)"
    if (
        q.dim() != (4 if time else 3)
        or q.shape != k.shape
        or v.dim() != q.dim()
        or v.shape[:-1] != k.shape[:-1]
        or 0 in q.shape
        or 0 in v.shape
    ):
        raise ValueError(
            f"q, k, v: got {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}, "
            f"allowed: q and k {letters}, v {letters.replace('K', 'V')}, none of them empty"
        )
    H = q.shape[-2]
    if decay is not None and tuple(decay.shape) not in ((H,), tuple(q.shape[:-1]), tuple(q.shape)):
        raise ValueError(
            f"decay: got {tuple(decay.shape)}, allowed: None, ({H},), {tuple(q.shape[:-1])} or {tuple(q.shape)}"
        )
    expected = (q.shape[0], H, q.shape[-1], v.shape[-1])
    if state is not None and tuple(state.shape) != expected:
        raise ValueError(f"state: got {tuple(state.shape)}, allowed: None or (B, H, K, V) = {expected}")
