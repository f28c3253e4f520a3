"""The selective scan, Mamba's state space model with input-dependent step, input and output.

    h_t = a_t h_{t-1} + (delta_t u_t) B_t ,   y_t = <C_t, h_t> + D u_t ,   a_t = exp(delta_t A)

`selective_scan` runs it, `projected_scan` computes delta, B and C from u first, `selective_scan_step` is one token.

Gu & Dao 2023, arXiv:2312.00752, algorithm 2: A is discretised by zero-order hold, B by Euler's rule, as in the
published kernels. With neg_eigen a_t = 2 exp(delta_t A) - 1, between -1 and 1 (Grazzi et al. 2024, arXiv:2411.12537).
The input term stays the same.

All backends compute what reference.py defines (tests/ops/test_selective_scan.py compares them). They keep only their
inputs for the backward pass, where the states are computed again. Reading order: reference.py, README.md (the maths),
chunked.py, recurrent.py; mamba_ssm.py adapts a package, steps.py gives it and chunked.py their steps.

B batch, T time, E channels, N states per channel, R rank of the step's projection.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from src.ops import stacked
from src.ops.backends import load_implementation, not_installed, usable
from src.ops.precision import accumulation_dtype, autocast_dtype, no_autocast
from src.ops.ran import STEP, note
from src.ops.selective_scan import chunked


def selective_scan(u, delta, A, B, C, D=None, state=None, neg_eigen: bool = False, backend: str = "auto"):
    """Run the selective state space model over a sequence.

    u, delta: (B, T, E), T >= 1, delta > 0 (after softplus).  A: (E, N), < 0.  B, C: (B, T, N).  D: (E,) or None.
    state: (B, E, N), the state before the first token; None is zeros.
    neg_eigen: transitions in (-1, 1) instead of (0, 1).
    Returns y (B, T, E) in u's dtype, and the state after the last token (B, E, N). States and sums are float32, float64
    for float64 u, also under autocast.
    backend: "auto" or a name. "numba" computes in float32 on a CPU, so "auto" takes "eager" for float64. "mamba_ssm"
    has no initial state, no neg_eigen and no gradient through the returned state. "auto" takes "eager" for the first
    two.
    Raises ValueError when shapes disagree or `backend` is unknown, RuntimeError when the named backend cannot run this.
    """
    _check(u, delta, A, B, C, D, state)
    if stacked.inside():
        return _stacked_scan(u, delta, A, B, C, D, state, neg_eigen, backend)
    implementation = _choose(backend, u, state, neg_eigen)
    with no_autocast(u):
        inputs = [None if t is None else t.to(accumulation_dtype(u)) for t in (u, delta, A, B, C, D, state)]
        y, last = _Scan.apply(*inputs, neg_eigen, implementation)
        return y.to(u.dtype), last


def projected_scan(u, x_proj, dt_proj, dt_bias, A_log, D, state=None, neg_eigen: bool = False, backend: str = "auto"):
    """Run the selective scan of u with Mamba's own projections, whose results are not kept for the backward pass.

        step, B, C = split(u x_proj^T) ;   delta = softplus(step dt_proj^T + dt_bias) ;   A = -exp(A_log)

    u: (B, T, E).  x_proj: (R + 2 N, E).  dt_proj: (E, R).  dt_bias, D: (E,).  A_log: (E, N). The other arguments, the
    results and the errors are those of `selective_scan`.
    The two products run in autocast's dtype where autocast is on. The bias is added in float32, and all that follows
    stays in float32.
    Kept for the backward pass are u, state and parameters, so the bytes kept do not grow with N. The projections are
    computed again: 2 E operations for each number of step, B and C, and 2 R for each number of delta.
    """
    (E, R), N = dt_proj.shape, A_log.shape[-1]
    if u.dim() != 3 or u.shape[2] != E or x_proj.shape != (R + 2 * N, E) or A_log.shape != (E, N):
        got = ", ".join(str(tuple(t.shape)) for t in (u, x_proj, dt_proj, A_log))
        raise ValueError(f"u, x_proj, dt_proj, A_log: got {got}, allowed: (B, T, E), (R + 2 N, E), (E, R), (E, N)")
    if dt_bias.shape != (E,) or D.shape != (E,) or (state is not None and state.shape != (len(u), E, N)):
        got = ", ".join(str(t if t is None else tuple(t.shape)) for t in (dt_bias, D, state))
        raise ValueError(f"dt_bias, D, state: got {got}, allowed: ({E},), ({E},), ({len(u)}, {E}, {N}) or None")
    if stacked.inside():
        return _stacked_projected(u, x_proj, dt_proj, dt_bias, A_log, D, state, neg_eigen, backend)
    implementation = _choose(backend, u, state, neg_eigen)
    return _ProjectedScan.apply(u, x_proj, dt_proj, dt_bias, A_log, D, state, neg_eigen, implementation)


def selective_scan_step(u, delta, A, B, C, D=None, state=None, neg_eigen: bool = False):
    """One token of `selective_scan`. Its cost does not depend on the token's position.

    u, delta: (B, E).  B, C: (B, N).  state: (B, E, N), or None for zeros; it is left as it is. The rest as there.
    Returns y (B, E) in u's dtype, and the next state.  Raises ValueError when shapes disagree.
    """
    if u.dim() != 2:
        raise ValueError(f"u: got {tuple(u.shape)}, allowed: (B, E), one token")
    _check(*(t[:, None] for t in (u, delta)), A, B[:, None], C[:, None], D, state)
    note("selective_scan", STEP, step=True)
    dtype = u.dtype
    with no_autocast(u):
        u, delta, A, B, C = (t.to(accumulation_dtype(u)) for t in (u, delta, A, B, C))
        decay = torch.exp(delta[..., None] * A)  # (B, E, N)
        decay = 2 * decay - 1 if neg_eigen else decay
        h = (delta * u)[..., None] * B[:, None]
        h = h if state is None else torch.addcmul(h, decay, state.to(h.dtype))
        y = torch.bmm(h, C[..., None])[..., 0]
        y = y if D is None else y + D.to(y.dtype) * u
        return y.to(dtype), h


def automatic(device_type: str, args=None) -> tuple[str, str]:
    """(backend, reason) of "auto" on a type of device, for the record of a run.

    args: the flags of the run, of which `neg_eigen` counts.
    """
    # Forward and backward pass of the scan alone, B 8, T 512, E 256, N 16, float32, medians, one thread of a CPU with
    # AVX-512: numba 36 ms, eager 230 ms, the recurrence under autograd without recomputation 160 ms (and 0.9 GB kept).
    neg_eigen = getattr(args, "neg_eigen", False)
    present = usable("selective_scan", device_type)
    if "mamba_ssm" in present:
        if neg_eigen:
            return "eager", "mamba_ssm's kernel has no negative transitions (--neg_eigen)"
        return "mamba_ssm", "the published kernel"
    if "numba" in present:
        return "numba", "4 to 6 times as fast as torch operations on a CPU in float32"
    missing = not_installed("selective_scan", device_type)
    return "eager", f"torch operations{f'; not installed: {missing}' if missing else ', which run on any device'}"


def _stacked_projected(u, x_proj, dt_proj, dt_bias, A_log, D, state, neg_eigen: bool, backend: str):
    """`projected_scan` of several models at once."""
    implementation = _choose(backend, u, state, neg_eigen)
    if implementation is not chunked:
        return stacked.each(
            lambda *given: projected_scan(*given, neg_eigen, backend), u, x_proj, dt_proj, dt_bias, A_log, D, state
        )
    with no_autocast(u):
        mapped, raw = _project(*_cast(_products(u), u, x_proj, dt_proj))
        u, raw, A, B, C, D, state = _scanned(u, mapped, raw, A_log, D, state)
        delta = F.softplus(raw.to(A.dtype) + dt_bias.to(A.dtype))
    return _stacked_scan(u, delta, A, B, C, D, state, neg_eigen, backend)


def _stacked_scan(u, delta, A, B, C, D, state, neg_eigen: bool, backend: str):
    """`selective_scan` of several models at once. The chunks in torch take an A and a D per row, no kernel does."""
    implementation = _choose(backend, u, state, neg_eigen)
    if implementation is not chunked:
        return stacked.each(lambda *given: selective_scan(*given, neg_eigen, backend), u, delta, A, B, C, D, state)

    def run(u, delta, A, B, C, D, state):
        with no_autocast(u):
            inputs = [None if t is None else t.to(accumulation_dtype(u)) for t in (u, delta, A, B, C, D, state)]
            y, last = _Scan.apply(*inputs, neg_eigen, implementation)
            return y.to(u.dtype), last

    rows = len(u)
    A = A.expand(rows, 1, 1, *A.shape)  # (B, 1, 1, E, N)
    D = None if D is None else D.expand(rows, 1, *D.shape)
    return stacked.folded(run, u, delta, A, B, C, D, state)


# An implementation is a module with two functions:
#     forward(u, delta, A, B, C, D, state, neg_eigen, bias=None) -> y, last
#     backward(dy, dlast, the same) -> the gradients of u, delta, A, B, C, D, state and bias, None for what is None
# With a bias (E,) the steps are softplus(delta + bias). u, delta, B and C may have other dtypes than the rest, which is
# float32 or float64.


class _Scan(torch.autograd.Function):
    """`selective_scan` of tensors of one dtype, by an implementation's `forward` and `backward`. Keeps the inputs."""

    @staticmethod
    def forward(ctx, u, delta, A, B, C, D, state, neg_eigen, implementation):
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(u, delta, A, B, C, D, state)
        ctx.neg_eigen, ctx.implementation = neg_eigen, implementation
        return implementation.forward(u, delta, A, B, C, D, state, neg_eigen)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, dlast):
        inputs = ctx.saved_tensors
        dy = torch.zeros_like(inputs[0]) if dy is None else dy
        *gradients, dstate, _ = ctx.implementation.backward(dy, dlast, *inputs, ctx.neg_eigen)
        return (*gradients, None if inputs[-1] is None else dstate, None, None)


class _ProjectedScan(torch.autograd.Function):
    """`projected_scan`: computes the projections twice instead of keeping them."""

    @staticmethod
    def forward(ctx, u, x_proj, dt_proj, dt_bias, A_log, D, state, neg_eigen, implementation):
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(u, x_proj, dt_proj, dt_bias, A_log, D, state)
        ctx.neg_eigen, ctx.implementation, ctx.products = neg_eigen, implementation, _products(u)
        with no_autocast(u):
            mapped, raw = _project(*_cast(ctx.products, u, x_proj, dt_proj))
            given = _scanned(u, mapped, raw, A_log, D, state)
            y, last = implementation.forward(*given, neg_eigen, dt_bias.to(accumulation_dtype(u)))
        return y.to(u.dtype), last

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, dlast):
        u, x_proj, dt_proj, dt_bias, A_log, D, state = ctx.saved_tensors
        with no_autocast(u):
            operands = _cast(ctx.products, u, x_proj, dt_proj)
            mapped, raw = _project(*operands)
            inputs = _scanned(u, mapped, raw, A_log, D, state)
            dy = torch.zeros_like(u) if dy is None else dy
            du, draw, dA, dB, dC, dD, dstate, dbias = ctx.implementation.backward(
                dy, dlast, *inputs, ctx.neg_eigen, dt_bias.to(accumulation_dtype(u))
            )
            more, dx_proj, ddt_proj = _projection_gradients(*operands, mapped, draw, dB, dC)
        return (
            *(du.to(u.dtype) + more.to(u.dtype), dx_proj.to(x_proj.dtype), ddt_proj.to(dt_proj.dtype)),
            *(dbias.to(dt_bias.dtype), (dA * inputs[2]).to(A_log.dtype), dD.to(D.dtype)),
            *(None if state is None else dstate, None, None),
        )


def _products(u):
    """The dtype of the two products where autocast decides about it, else None."""
    return None if u.dtype == torch.float64 else autocast_dtype(u)


def _cast(dtype, *tensors):
    return tensors if dtype is None else tuple(t.to(dtype) for t in tensors)


def _project(u, x_proj, dt_proj):
    """step, B and C side by side (B, T, R + 2 N), and what softplus makes steps of, without its bias (B, T, E)."""
    mapped = F.linear(u, x_proj)
    return mapped, F.linear(mapped[..., : dt_proj.shape[1]], dt_proj)


def _projection_gradients(u, x_proj, dt_proj, mapped, draw, dB, dC):
    """From the gradients of what `_project` computes: those of u, x_proj and dt_proj.

    Written out: torch.autograd.grad loads sympy when it is given gradients, which takes half a second.
    """
    draw = draw.reshape(-1, draw.shape[-1]).to(mapped.dtype)
    dstep = draw @ dt_proj
    dmapped = torch.cat([dstep, *(g.reshape(len(dstep), -1).to(dstep.dtype) for g in (dB, dC))], dim=1)
    ddt_proj = draw.T @ mapped.reshape(len(draw), -1)[:, : dt_proj.shape[1]]
    return (dmapped @ x_proj).view(u.shape), dmapped.T @ u.reshape(len(draw), -1), ddt_proj


def _scanned(u, mapped, raw, A_log, D, state):
    """The first arguments of an implementation: u, steps, A, B, C, D, state."""
    kind, N = accumulation_dtype(u), A_log.shape[1]
    _, B, C = mapped.split([mapped.shape[-1] - 2 * N, N, N], dim=-1)
    return u, raw, -torch.exp(A_log.to(kind)), B, C, D.to(kind), None if state is None else state.to(kind)


def _choose(backend: str, u, state, neg_eigen: bool):
    """The module that computes, after the choice of "auto" for these tensors."""
    double = u.dtype == torch.float64
    if backend == "auto":
        present = usable("selective_scan", u.device.type)
        fits = {"mamba_ssm": not double and state is None and not neg_eigen, "numba": not double}
        backend = next((name for name in fits if name in present and fits[name]), "eager")
    implementation = load_implementation("selective_scan", backend, u.device.type, double)
    note("selective_scan", backend)
    return implementation


def _check(u, delta, A, B, C, D, state) -> None:
    shapes = f"got {tuple(u.shape)}, {tuple(delta.shape)}, {tuple(A.shape)}, {tuple(B.shape)}, {tuple(C.shape)}"
    if (
        u.dim() != 3
        or 0 in u.shape
        or delta.shape != u.shape
        or A.dim() != 2
        or A.shape[0] != u.shape[2]
        or A.shape[1] < 1
    ):
        raise ValueError(
            f"u, delta, A, B, C: {shapes}, allowed: u and delta (B, T, E) with T >= 1, A (E, N), B and C (B, T, N)"
        )
    (batch, T, E), N = u.shape, A.shape[1]
    if B.shape != (batch, T, N) or C.shape != (batch, T, N):
        raise ValueError(f"u, delta, A, B, C: {shapes}, allowed: B and C ({batch}, {T}, {N})")
    if D is not None and D.shape != (E,):
        raise ValueError(f"D: got {tuple(D.shape)}, allowed: ({E},) or None")
    if state is not None and state.shape != (batch, E, N):
        raise ValueError(f"state: got {tuple(state.shape)}, allowed: ({batch}, {E}, {N}) or None")
