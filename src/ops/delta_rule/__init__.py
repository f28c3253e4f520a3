"""The delta rule, with and without decay: `delta_rule(q, k, v, beta, decay)`, and `delta_rule_step` for one token.

    S_t = exp(decay_t) (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T ,   o_t = scale S_t^T q_t

Linear attention that erases before it writes: what the state returns for key k_t moves by a fraction beta_t towards
v_t. Yang et al. 2024 (DeltaNet, arXiv:2406.06484, section 3) and, with the decay, Yang et al. 2024 (Gated DeltaNet,
arXiv:2412.06464, section 3.3). beta up to 2 gives transitions with eigenvalues down to -1 (Grazzi et al. 2024,
arXiv:2411.12537).

Reading order: reference.py (the definition), README.md (the maths), chunked.py, recurrent.py; fla.py adapts a package.
B batch, T time, H heads, K size of a key, V size of a value (they may differ).
"""

from __future__ import annotations

import torch

from src.ops import backends, hopper, stacked
from src.ops.precision import HALF, accumulation_dtype, no_autocast
from src.ops.ran import STEP, note


def delta_rule(q, k, v, beta, decay=None, state=None, scale=None, backend: str = "auto"):
    """Run the delta rule over a sequence. Decay and erasure act before the write, the query reads after it.

    q, k: (B, T, H, K). The caller gives k unit norm; longer keys may make the state grow.  v: (B, T, H, V).
    beta: (B, T, H) in [0, 2].  decay: (B, T, H), the log decay, <= 0, or None. Neither range is checked.
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
    _check(q, k, v, beta, decay, state, time=True)
    if stacked.inside():
        return stacked.folded(lambda *given: delta_rule(*given, scale, backend), q, k, v, beta, decay, state)
    double = accumulation_dtype(q, k, v, beta, decay, state) == torch.float64
    implementation = _choose(backend, v, double, "" if decay is None else "gated")
    with no_autocast(q):
        return implementation.run(q, k, v, beta, decay, state, 1.0 if scale is None else float(scale))


def delta_rule_step(q, k, v, beta, decay=None, state=None, scale=None):
    """One token of `delta_rule`. Its cost does not depend on the token's position.

    q, k: (B, H, K).  v: (B, H, V).  beta: (B, H).  decay: (B, H) or None.  state: (B, H, K, V), or None for zeros.
    Returns (o, state): o (B, H, V) in v's dtype, and the next state. Where no gradient is recorded, the given state is
    overwritten and returned.  Raises ValueError when shapes disagree.
    """
    _check(q, k, v, beta, decay, state, time=False)
    note("delta_rule", STEP, step=True)
    with no_autocast(q):
        return _step(q, k, v, beta, decay, state, scale)


def obstacle(backend: str, kind: str = "") -> str:
    """Why a backend that is installed cannot run this kind on the present device; empty where it can."""
    return hopper.gated_backward_problem() if backend == "fla" and kind == "gated" else ""


def automatic(device_type: str, args=None, kind: str = "") -> tuple[str, str]:
    """(backend, reason) of "auto" on a type of device, for the record of a run.

    args: the flags of the run, of which `precision` counts.  kind: "gated" with a decay.
    """
    # Time of eager / time of numba. Forward and backward pass, T 1024, 4 heads, fp32, CPU time of one thread of a CPU
    # with AVX-512, medians of alternating runs:
    #   K = V, B         16, 16   32, 8   64, 4   128, 2
    #   without decay     1.91     2.03    1.78    1.59
    #   with decay        2.97     2.85    2.28    2.03
    present = backends.usable("delta_rule", device_type)
    if "fla" in present:
        if getattr(args, "precision", "bf16") == "fp32":
            return (
                "eager",
                "flash-linear-attention multiplies float32 in TF32, which keeps 10 bits, or has no chunk kernel for it",
            )
        if why := obstacle("fla", kind):
            return "eager", why
        return "fla", "flash-linear-attention is installed: fused kernels for half precision"
    if "numba" in present:
        return "numba", "the compiled recurrence took 0.34 to 0.63 of the time of chunks in torch (keys of 16 to 128)"
    return "eager", "chunks as matrix products and a triangular solve in torch"


def _step(q, k, v, beta, decay, state, scale):
    dtype = accumulation_dtype(q, k, v, beta, decay, state)
    out_dtype = v.dtype
    q, k, v, beta = q.to(dtype), k.to(dtype), v.to(dtype), beta.to(dtype)[..., None]
    if state is None:
        state = k[..., :, None] * (beta * v)[..., None, :]
    else:
        tensors = (q, k, v, beta, state) if decay is None else (q, k, v, beta, decay, state)
        in_place = not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
        state = state.to(dtype)
        if decay is not None:
            gate = decay.to(dtype).exp()[..., None, None]
            state = state.mul_(gate) if in_place else state * gate
        update = beta * (v - (k[..., None, :] @ state)[..., 0, :])
        write = k[..., :, None], update[..., None, :]
        state = state.addcmul_(*write) if in_place else state.addcmul(*write)
    o = (q[..., None, :] @ state)[..., 0, :]
    o = o if scale is None or scale == 1 else o * scale
    return o.to(out_dtype), state


def _choose(backend: str, v, double: bool, kind: str):
    """The module that computes, after the choice of "auto" for these tensors."""
    if backend == "auto":
        backend, _ = automatic(v.device.type, None, kind)
        if double or (backend == "fla" and v.dtype not in HALF):
            backend = "eager"
    if why := obstacle(backend, kind):
        raise RuntimeError(f"backend '{backend}' of delta_rule cannot run: {why}; take eager, or auto")
    implementation = backends.load_implementation("delta_rule", backend, v.device.type, double)
    note("delta_rule", backend)
    return implementation


def _check(q, k, v, beta, decay, state, time: bool) -> None:
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
    if beta.shape != q.shape[:-1]:
        raise ValueError(
            f"beta: got {tuple(beta.shape)}, allowed: {tuple(q.shape[:-1])}, that of q without its last dimension"
        )
    if decay is not None and decay.shape != q.shape[:-1]:
        raise ValueError(
            f"decay: got {tuple(decay.shape)}, allowed: None or {tuple(q.shape[:-1])}, "
            "that of q without its last dimension"
        )
    expected = (q.shape[0], q.shape[-2], q.shape[-1], v.shape[-1])
    if state is not None and tuple(state.shape) != expected:
        raise ValueError(f"state: got {tuple(state.shape)}, allowed: None or (B, H, K, V) = {expected}")
