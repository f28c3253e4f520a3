"""Parts that several layers share: the mixer with a matrix memory, heads, decays, rotations and initialisations.

Each function names the paper that its formula comes from. Shapes: see src/models/contract.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from src.flags.fields import UserError, option
from src.flags.run_flags import RunArgs
from src.models.contract import Mixer, State
from src.models.modules import Linear
from src.models.short_conv import ShortConv
from src.ops.linear_attention import linear_attention, linear_attention_step
from src.ops.precision import accumulation_dtype
from src.ops.rope import rope
from src.ops.swiglu import swiglu

GATE_RANK = 16  # of the map to a decay per key channel. Yang et al. 2023 (GLA), section 4.4
GATE_TEMPERATURE = 16.0  # sigmoid(x)^(1/16): decays start near 1. The same section
NORM_EPS = 1e-6  # added to the squared length, as in flash-linear-attention


class LinearMixer(Mixer):
    """A layer with one matrix memory (K, V) per head. Its subclass writes `_mix`, for a sequence and for one token.

    State: (memory (B, H, K, V) float32,). With a short convolution its window (B, W - 1, channels) follows the memory.
    """

    has_heads = True
    own_conv = True
    backend: str  # of `linear_attention`
    conv: ShortConv | None
    memory: tuple[int, int, int]  # (H, K, V), set by the subclass

    def _mix(self, x, memory, window):
        """x (B, T, D) or (B, D); memory and window, None at the start of a sequence -> y like x, memory, window."""
        raise NotImplementedError(f"{type(self).__name__} must define _mix(self, x, memory, window)")

    def forward(self, x):
        return self._mix(x, None, None)[0]

    def init_state(self, batch_size: int, max_len: int) -> State:
        weight = next(self.parameters())
        memory = torch.zeros(batch_size, *self.memory, dtype=accumulation_dtype(weight), device=weight.device)
        window = self._first_window(batch_size)
        return (memory,) if window is None else (memory, window)

    def prefill(self, x, state: State):
        return self._advance(x, state)

    def step(self, x, state: State):
        return self._advance(x, state)

    def _advance(self, x, state: State, *where):
        """One token or several: x, state -> y, state."""
        memory, *window = state
        y, memory, window = self._mix(x, memory, window[0] if window else None, *where)
        return y, (memory,) if window is None else (memory, window)

    def _first_window(self, batch_size: int):
        """The convolution's state before the first token; None without a convolution."""
        return None if self.conv is None else self.conv.init_state(batch_size)

    def _convolve(self, x, window):
        """x (..., channels), window -> x after the short convolution if there is one, window."""
        if self.conv is None:
            return x, None
        return self.conv.step(x, window) if x.dim() == 2 else self.conv(x, window)

    def _attend(self, q, k, v, decay, memory, scale=None):
        """`linear_attention` over a sequence (B, T, H, K), or its step for one token (B, H, K)."""
        if q.dim() == 3:
            return linear_attention_step(q, k, v, decay, memory, scale)
        return linear_attention(q, k, v, decay, memory, scale, self.backend)


@dataclass(frozen=True)
class Expansion:
    """The flags for the widths of keys and values."""

    expand_k: float = option(
        0.0, "width of all keys in multiples of d_model, rounded up to whole heads; 0 = as published", least=0, most=16
    )
    expand_v: float = option(
        0.0,
        "width of all values in multiples of d_model, rounded up to whole heads; 0 = as published",
        least=0,
        most=16,
    )


# --- heads -----------------------------------------------------------------------------------------------------------


def head_size(args: RunArgs, ratio: float) -> int:
    """Channels of one head where all heads together have ratio x d_model, rounded up.

    UserError for a wrong --n_head.
    """
    check_heads(args.d_model, args.n_head, "none")
    return max(1, math.ceil(ratio * args.d_model / args.n_head - 1e-9))


def check_heads(d_model: int, n_head: int, pos: str) -> None:
    """Raise UserError unless the heads divide the width and, for rope, have an even size."""

    def fits(heads: int) -> bool:
        return d_model % heads == 0 and (pos != "rope" or d_model // heads % 2 == 0)

    if fits(n_head):
        return
    allowed = [heads for heads in range(1, d_model + 1) if fits(heads)]
    if not allowed:
        raise UserError(
            f"--pos rope: got --d_model {d_model}, allowed: an even --d_model, because rope rotates pairs of channels"
        )
    nearest = min(allowed, key=lambda heads: (abs(heads - n_head), heads))
    need = f"a divisor of --d_model {d_model}" + (" that leaves an even head size for rope" if pos == "rope" else "")
    raise UserError(f"--n_head: got {n_head}, allowed: {need}; try --n_head {nearest}")


def split_heads(x, n_head: int, sizes):
    """x (..., H (K_1 + K_2 + ...)) -> (..., H, K_1), (..., H, K_2), ... without a copy."""
    parts = x.split([n_head * size for size in sizes], dim=-1)
    return tuple(part.unflatten(-1, (n_head, size)) for part, size in zip(parts, sizes, strict=True))


# --- decays, gates, rotations and norms ------------------------------------------------------------------------------


def fixed_log_decay(n_head: int):
    """log(1 - 2^(-5 - h)) of the heads h = 0 .. H - 1: (H,) float32. Sun et al. 2023 (RetNet), equation 8."""
    return torch.log1p(-torch.exp2(-5.0 - torch.arange(n_head, dtype=torch.float64))).float()


def log_gate(x):
    """log sigmoid(x)^(1/16), float32: a learned log decay, near 0 while x is near 0."""
    return F.logsigmoid(at_least_float32(x)) / GATE_TEMPERATURE


def gated(o, g, backend: str = "auto"):
    """Normalised outputs o (..., H, V) float32 times silu(g), g (..., H V): (..., H V) in g's dtype.

    backend: of the op `swiglu`.
    """
    return swiglu(g, o.flatten(-2).to(g.dtype), backend)


def low_rank(d_in: int, d_out: int, args: RunArgs) -> nn.Sequential:
    """The map of a gate per key channel, through GATE_RANK channels: (..., d_in) -> (..., d_out)."""
    first = Linear(d_in, GATE_RANK, bias=False, backend=args.backend)
    return nn.Sequential(first, Linear(GATE_RANK, d_out, backend=args.backend))


def apply_rotary(x, start: int, rates, backend: str = "auto"):
    """Rotate neighbouring channels (2i, 2i + 1) by position x rates[i]. Su et al. 2021 (rope), equation 34.

    x: (B, T, H, K) at positions start .. start + T - 1, or (B, H, K) of one token.  rates: (K / 2,) radians per
    position. Transformer and RetNet differ in the rates only.  backend: of the op `rope`. Computed in float32 at least;
    the result has x's dtype.
    """
    if x.dim() == 3:
        return apply_rotary(x[:, None], start, rates, backend)[:, 0]
    positions = torch.arange(start, start + x.shape[1], device=x.device, dtype=rates.dtype)
    angle = positions[:, None] * rates  # (T, K / 2)
    return rope(x, angle.cos(), angle.sin(), "pairs", backend)


class Rotation:
    """Rotation of channels (i, i + K / 2) by position x base^(-2i / K). Su et al. 2021 (rope), equation 34.

    The pairs are those of Llama as Hugging Face stores it. Cosines and sines are kept for the positions that were asked
    for, so that a step of decoding looks them up.
    """

    def __init__(self, size: int, base: float, backend: str = "auto"):
        """size: channels per head, K.  base: of the rates.  backend: of the op `rope`."""
        self.size, self.base, self.backend = size, base, backend
        self._table = torch.empty(2, 0, size // 2)

    def __call__(self, x, start: int):
        """x (B, T, H, K) at positions start .. start + T - 1, rotated; in x's dtype, computed in float32 at least."""
        cos, sin = self.table(start + x.shape[1], x)[:, start:]
        return rope(x, cos, sin, "halves", self.backend)

    def table(self, end: int, like):
        """Cosines and sines (2, end, K / 2) of positions 0 .. end - 1, on the device of `like`, float32 at least."""
        kept, dtype = self._table, accumulation_dtype(like)
        if kept.shape[1] < end or kept.device != like.device or kept.dtype != dtype:
            # Also for a backward pass: what inference_mode makes could not be kept for one.
            with torch.inference_mode(False), torch.no_grad():
                self._table = kept = self._computed(1 << (end - 1).bit_length(), like.device, dtype)
        return kept[:, :end]

    def _computed(self, positions: int, device, dtype):
        rates = self.base ** (torch.arange(0, self.size, 2, device=device, dtype=dtype) / -self.size)
        angle = torch.arange(positions, device=device, dtype=dtype)[:, None] * rates
        return torch.stack([angle.cos(), angle.sin()])


def l2_normalize(x):
    """x (..., K) at unit length, computed in float32. The result has x's dtype, and a zero vector stays zero."""
    y = at_least_float32(x)
    return (y * torch.rsqrt(y.square().sum(dim=-1, keepdim=True) + NORM_EPS)).to(x.dtype)


def at_least_float32(x):
    """x in float32, or float64 if it is that. Recurrences, gates, decays, norms and sums keep it under autocast."""
    return x.to(accumulation_dtype(x))


# --- initialisation --------------------------------------------------------------------------------------------------


def initial_dt_bias(n: int):
    """b (n,) with softplus(b) log-uniform in [0.001, 0.1]. Gu & Dao 2023 (Mamba), section 3.6."""
    dt = torch.exp(torch.rand(n) * (math.log(0.1) - math.log(0.001)) + math.log(0.001))
    return dt + torch.log(-torch.expm1(-dt))  # the inverse of softplus


def residual_scale(args: RunArgs) -> float:
    """What Mamba's authors divide the initial output map by: sqrt(n_layer), or sqrt(2 n_layer) with an MLP.

    So the sum of all outputs does not grow with the depth. `_init_weights` in mamba_ssm, models/mixer_seq_simple.py,
    after Radford et al. 2019 (GPT-2), section 2.3.
    """
    return math.sqrt((2 if args.dim_ffn > 0 else 1) * args.n_layer)
