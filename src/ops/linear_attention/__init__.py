"""Linear attention with every kind of decay: `linear_attention(q, k, v, decay)`; `linear_attention_step` is one token.

    S_t = diag(exp(decay_t)) S_{t-1} + k_t v_t^T ,   o_t = scale S_t^T q_t

One op serves several layers. The kind of decay makes the difference:

- none: the causal linear attention of Katharopoulos et al. 2020 (arXiv:2006.16236, eq. 16-20). Feature map and
  normaliser are the caller's; a column of ones appended to v carries the normaliser.
- fixed, one number per head: the retention of Sun et al. 2023 (RetNet, arXiv:2307.08621, eq. 6).
- scalar, one number per head and token: Dao and Gu 2024 (SSD, arXiv:2405.21060, section 6).
- vector, one number per key channel and token: the gated linear attention of Yang et al. 2023 (GLA, arXiv:2312.06635,
  section 4).

Reading order: reference.py (the definition), README.md (the maths), chunked.py, recurrent.py; fla.py adapts a package.
B batch, T time, H heads, K size of a key, V size of a value (they may differ).
"""

from __future__ import annotations

import torch

from src.ops import backends, hopper, stacked
from src.ops.linear_attention.heads import per_head
from src.ops.precision import HALF, accumulation_dtype, no_autocast
from src.ops.ran import STEP, note


def linear_attention(q, k, v, decay=None, state=None, scale=None, backend: str = "auto"):
    """Run linear attention over a sequence. The decay acts before the write, the query reads after it.

    v: (B, T, H, V).  q, k: (B, T, H, K), or (B, T, G, K) for G groups of heads, where the first H / G heads of v share
    the first query and key, and so on. V need not be K, and may be odd.
    decay: the log decay, <= 0 and finite (not checked). None, (H,) per head, (B, T, H) per head and token, or
    (B, T, H, K) per key channel and token.
    state: (B, H, K, V) float32 (float64 with float64 inputs), the state before the first token; None is zeros.
    scale: a factor of the output; None is 1.
    Returns (o, state): o (B, T, H, V) in v's dtype, and the state after the last token, float32 (float64 for float64
    inputs). Differentiable once in every tensor.
    States, sums and cumulative decays are float32 for inputs of any lower precision, also under autocast.
    backend: "auto" or a name. "numba" takes float32, bf16 and fp16 on a CPU. "fla" takes the same on CUDA, where it
    multiplies float32 inputs with TF32's 10 bits. "auto" therefore takes "eager" for float64 everywhere and for float32
    on CUDA.
    Raises ValueError when shapes disagree or `backend` is unknown, RuntimeError when the named backend cannot run here.
    """
    _check(q, k, v, decay, state, time=True)
    if stacked.inside():
        if decay is not None and decay.dim() == 1 and decay.requires_grad:  # each model has learned its own
            decay = decay.expand(v.shape[:-1])
        return stacked.folded(lambda *given: linear_attention(*given, scale, backend), q, k, v, decay, state)
    double = accumulation_dtype(q, k, v, decay, state) == torch.float64
    implementation = _choose(backend, v, decay, double)
    with no_autocast(q):
        return implementation.run(q, k, v, decay, state, 1.0 if scale is None else float(scale))


def linear_attention_step(q, k, v, decay=None, state=None, scale=None):
    """One token of `linear_attention`. Its cost does not depend on the token's position.

    q, k: (B, H, K), or (B, G, K) for groups of heads.  v: (B, H, V).  decay: None, (H,), (B, H) or (B, H, K).
    state: (B, H, K, V), or None for zeros.
    Returns (o, state): o (B, H, V) in v's dtype, and the next state. Where no gradient is recorded, the given state is
    overwritten and returned.  Raises ValueError when shapes disagree.
    """
    _check(q, k, v, decay, state, time=False)
    note("linear_attention", STEP, step=True)
    with no_autocast(q):
        return _step(q, k, v, decay, state, scale)


def automatic(device_type: str, args=None, decay: str | None = None) -> tuple[str, str]:
    """(backend, reason) of "auto" on a type of device, for the record of a run.

    args: the flags of the run; `decay` and `precision` count.  decay: "none", "fixed", "scalar" or "vector" in place of
    `args.decay`. " float32" after it: the values are float32 under autocast too (see `Mixer.kinds`).
    """
    # Time of eager / time of numba. Forward and backward pass, T 1024, 4 heads, fp32, CPU time of one thread of a CPU
    # with AVX-512, medians of alternating runs:
    #   K = V, B     16, 16   32, 8   64, 4   128, 2
    #   none          0.75     0.66    0.64    0.56
    #   fixed         1.35     0.98    0.78    0.68
    #   scalar        1.30     1.04    0.85    0.70
    #   vector        3.50     3.81    2.70    1.90
    present = backends.usable("linear_attention", device_type)
    float32 = (decay or "").endswith(" float32")
    decay = decay.split()[0] if decay else getattr(args, "decay", None)
    if "fla" in present:
        return _cuda(args, float32, decay)
    if decay == "vector" and "numba" in present:
        return (
            "numba",
            "with one decay per key channel, the compiled recurrence took 0.26 to 0.53 of the time of chunks in torch "
            "(keys of 16 to 128)",
        )
    exception = "" if decay else ", unless there is one decay per key channel, and numba"
    return "eager", f"chunks as matrix products in torch{exception}"


def obstacle(backend: str, kind: str = "") -> str:
    """Why a backend that is installed cannot run this kind of decay on the present device; empty where it can."""
    is_gated = backend == "fla" and kind.split(" ")[0] == "scalar"
    return hopper.gated_backward_problem() if is_gated else ""


def _cuda(args, float32: bool, decay: str | None) -> tuple[str, str]:
    if float32:
        return "eager", "this layer keeps its values float32, which flash-linear-attention would multiply in TF32"
    if getattr(args, "precision", "bf16") == "fp32":
        return "eager", "flash-linear-attention multiplies float32 in TF32, which keeps 10 bits"
    if why := obstacle("fla", decay or ""):
        return "eager", why
    return "fla", "flash-linear-attention is installed: fused kernels for half precision"


def _step(q, k, v, decay, state, scale):
    dtype = accumulation_dtype(q, k, v, decay, state)
    out_dtype = v.dtype
    q, k, v = per_head(q.to(dtype), v), per_head(k.to(dtype), v), v.to(dtype)
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


def _choose(backend: str, v, decay, double: bool):
    """The module that computes, after the choice of "auto" for these tensors."""
    kind = _kind(decay)
    if backend == "auto":
        backend, _ = automatic(v.device.type, None, kind)
        if double or (backend == "fla" and v.dtype not in HALF):
            backend = "eager"
    if why := obstacle(backend, kind):
        raise RuntimeError(f"backend '{backend}' of linear_attention cannot run: {why}; take eager, or auto")
    implementation = backends.load_implementation("linear_attention", backend, v.device.type, double)
    note("linear_attention", backend)
    return implementation


def _kind(decay) -> str:
    """The kind of a decay. A fixed one that is learned is given to the kernels as one per token."""
    if decay is None:
        return "none"
    if decay.dim() == 1 and not decay.requires_grad:
        return "fixed"
    return "vector" if decay.dim() == 4 else "scalar"


def _check(q, k, v, decay, state, time: bool) -> None:
    letters = "(B, T, H, K)" if time else "(B, H, K)"
    if (
        q.dim() != (4 if time else 3)
        or q.shape != k.shape
        or v.dim() != q.dim()
        or v.shape[:-2] != k.shape[:-2]
        or 0 in q.shape
        or 0 in v.shape
        or v.shape[-2] % q.shape[-2]
    ):
        raise ValueError(
            f"q, k, v: got {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}, allowed: q and k {letters}, "
            f"v {letters.replace('K', 'V')}, none of them empty; q and k may have fewer heads, a divisor of H"
        )
    H, K, V = v.shape[-2], q.shape[-1], v.shape[-1]
    token = (*v.shape[:-1],)
    if decay is not None and tuple(decay.shape) not in ((H,), token, (*token, K)):
        raise ValueError(f"decay: got {tuple(decay.shape)}, allowed: None, ({H},), {token} or {(*token, K)}")
    expected = (q.shape[0], H, K, V)
    if state is not None and tuple(state.shape) != expected:
        raise ValueError(f"state: got {tuple(state.shape)}, allowed: None or (B, H, K, V) = {expected}")
