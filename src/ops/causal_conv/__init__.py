"""Causal depthwise convolution over time: `causal_conv(x, weight, bias, state, activation)`, and one token of it.

    y_t = act(bias + sum_i weight[:, i] * x_{t - K + 1 + i}) ,   i = 0 .. K - 1,   x before the first token: the state

This is the short convolution in front of Mamba (Gu & Dao 2023, arXiv:2312.00752, section 3.4) and of the delta-rule
layers. All backends compute what reference.py defines (tests/ops/test_causal_conv.py compares them). Reading order:
reference.py, README.md (the maths), shifted.py, one_pass.py; causal_conv1d.py adapts a package.

B batch, T time, D channels, K width of the convolution.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from src.ops import stacked
from src.ops.backends import load_implementation, not_installed, usable
from src.ops.precision import accumulation_dtype, no_autocast
from src.ops.ran import STEP, note

ACTIVATIONS = (None, "silu")
WIDTHS = (2, 3, 4)  # of causal_conv1d's kernels


def causal_conv(x, weight, bias=None, state=None, activation: str | None = None, backend: str = "auto"):
    """Convolve each channel of a sequence with its own short kernel, without seeing later tokens.

    x: (B, T, D), T >= 1.  weight: (D, K), K >= 1; the last column meets the present token.  bias: (D,) or None.
    state: (B, K - 1, D), the K - 1 inputs before x, oldest first; None is zeros.  activation: None or "silu".
    Returns y (B, T, D) in x's dtype, and the state after the last token (B, K - 1, D), which has its own memory. Sums
    and state are float32 at least, float64 for float64 x, also under autocast.
    Kept for the backward pass: x, state and parameters.
    backend: "auto" or a name. "numba" takes float32, bf16 and fp16 on a CPU, so "auto" takes "eager" for float64.
    "causal_conv1d" takes widths 2 to 4 on CUDA.
    Raises ValueError when shapes disagree or `activation` or `backend` is unknown, RuntimeError when the named backend
    cannot run here.
    """
    _check(x, weight, bias, state, activation)
    if stacked.inside():
        return stacked.widened(lambda *given: causal_conv(*given, activation, backend), x, weight, bias, state)
    implementation = _choose(backend, x, weight.shape[1])
    kind = accumulation_dtype(x)
    with no_autocast(x):
        weight = weight.to(kind)
        bias = None if bias is None else bias.to(kind)
        state = None if state is None else state.to(kind)
        return implementation.run(x, weight, bias, state, activation), last_inputs(x, state, weight.shape[1])


def causal_conv_step(x, weight, bias=None, state=None, activation: str | None = None):
    """One token of `causal_conv`. Its cost does not depend on the token's position.

    x: (B, D).  state: (B, K - 1, D), or None for zeros; it is left as it is. The other arguments as there.
    Returns y (B, D) in x's dtype, and the next state.  Raises ValueError as `causal_conv` does.
    """
    if x.dim() != 2:
        raise ValueError(f"x: got {tuple(x.shape)}, allowed: (B, D), one token")
    _check(x[:, None], weight, bias, state, activation)
    note("causal_conv", STEP, step=True)
    kind = accumulation_dtype(x)
    B, (D, K) = len(x), weight.shape
    with no_autocast(x):
        old = x.new_zeros(B, K - 1, D, dtype=kind) if state is None else state.to(kind)
        window = torch.cat([old, x[:, None].to(kind)], dim=1)  # (B, K, D)
        y = (window * weight.to(kind).T).sum(dim=1)
        y = y if bias is None else y + bias.to(kind)
        y = F.silu(y) if activation == "silu" else y
        return y.to(x.dtype), window[:, 1:].clone()  # a copy: a view would keep all K rows in memory


def automatic(device_type: str, args=None) -> tuple[str, str]:
    """(backend, reason) of "auto" on a type of device, for the record of a run.

    args: the flags of the run, of which the width, `short_conv` or `d_conv`, counts.
    """
    # Forward and backward pass, B 8, T 512, D 256, K 4, float32, medians, one thread of a CPU with AVX-512, without and
    # with SiLU: numba 4.1 and 6.6 ms, eager 14.7 and 19.9 ms, torch's grouped conv1d 11.9 and 18.4 ms.
    present = usable("causal_conv", device_type)
    K = _width(args)
    if "causal_conv1d" in present:
        if K in WIDTHS:
            return "causal_conv1d", "the published kernel"
        return "eager", f"causal_conv1d has widths 2 to 4, not {K}"
    if "numba" in present:
        return "numba", "3 times as fast as shifted sums in torch on a CPU in float32"
    missing = not_installed("causal_conv", device_type)
    return "eager", f"shifted sums in torch{f'; not installed: {missing}' if missing else ', which run on any device'}"


def _width(args) -> int:
    """The width K that the flags of a run ask for; 4, the published one, where they say nothing."""
    short_conv = getattr(args, "short_conv", -1)
    return getattr(args, "d_conv", 4) if short_conv < 0 else short_conv


def last_inputs(x, state, K: int):
    """The last K - 1 inputs (B, K - 1, D) of `state` followed by x, in memory of their own, float32 at least."""
    kind = accumulation_dtype(x)
    if K == 1:
        return x.new_zeros(len(x), 0, x.shape[2], dtype=kind)
    tail = x[:, -(K - 1) :].to(kind)
    missing = K - 1 - tail.shape[1]
    if not missing:
        return tail.clone()
    old = x.new_zeros(len(x), missing, x.shape[2], dtype=kind) if state is None else state[:, -missing:]
    return torch.cat([old, tail], dim=1)


def _choose(backend: str, x, K: int):
    """The module that computes, after the choice of "auto" for these tensors."""
    double = x.dtype == torch.float64
    if backend == "auto":
        present = usable("causal_conv", x.device.type)
        fits = {"causal_conv1d": not double and K in WIDTHS, "numba": not double}
        backend = next((name for name in fits if name in present and fits[name]), "eager")
    module = load_implementation("causal_conv", backend, x.device.type, double)
    note("causal_conv", backend)
    if backend == "causal_conv1d" and K not in WIDTHS:
        widths = ", ".join(map(str, WIDTHS))
        raise RuntimeError(f"backend 'causal_conv1d' of causal_conv has widths {widths}, got {K}; take eager, or auto")
    return module


def _check(x, weight, bias, state, activation) -> None:
    if x.dim() != 3 or 0 in x.shape or weight.dim() != 2 or weight.shape[0] != x.shape[2] or weight.shape[1] < 1:
        raise ValueError(
            f"x, weight: got {tuple(x.shape)} and {tuple(weight.shape)}, "
            "allowed: x (B, T, D) with T >= 1, weight (D, K) with K >= 1"
        )
    (B, _, D), K = x.shape, weight.shape[1]
    if bias is not None and bias.shape != (D,):
        raise ValueError(f"bias: got {tuple(bias.shape)}, allowed: ({D},) or None")
    if state is not None and state.shape != (B, K - 1, D):
        raise ValueError(f"state: got {tuple(state.shape)}, allowed: ({B}, {K - 1}, {D}) or None")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: got {activation!r}, allowed: None, 'silu'")
