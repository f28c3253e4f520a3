"""What several layers share: the mixer with one matrix memory per head, gates, head splits and initialisations."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from src.flags.fields import UserError, option
from src.models.contract import Mixer, State
from src.models.short_conv import ShortConv
from src.ops.linear_attention import linear_attention, linear_attention_step
from src.ops.precision import accumulation_dtype


@dataclass(frozen=True)
class Expansion:
    """Widths of keys and values, for all layers that have them."""

    expand_k: float = option(
        0.0,
        "width of all keys in multiples of d_model, rounded up to whole heads; 0 = as published",
        least=0.0,
        most=16.0,
    )
    expand_v: float = option(
        0.0,
        "width of all values in multiples of d_model, rounded up to whole heads; 0 = as published",
        least=0.0,
        most=16.0,
    )


def gated(o, g):
    """o (..., H, V), normalised in float32 -> (..., H V) in the dtype of the gate g (..., H V), times silu(g)."""
    return o.flatten(-2).to(g.dtype) * F.silu(g)


def xavier_parts(weight, sizes, gain: float = 2**-2.5) -> None:
    """Initialise the rows of a fused map part by part, as the separate maps that they are."""
    for part in weight.data.split(sizes):
        nn.init.xavier_uniform_(part, gain=gain)


GATE_RANK = 16  # of the vector decay's map, Yang et al. 2023, section 4.4


GATE_TEMPERATURE = 16.0  # sigmoid^(1/16): decays start near 1


class LinearMixer(Mixer):
    """A layer with one matrix memory a head. Its subclass writes `_mix`, once for a sequence and for a token.

    State: (memory (B, H, K, V) float32,), and behind it the window of the short convolution (B, width - 1, channels) where there is one.
    """

    has_heads = True
    own_conv = True
    memory: tuple[int, int, int]  # (H, K, V), set by the subclass
    conv: ShortConv | None

    def _mix(self, x, memory, window):
        """x (B, T, D) or (B, D); memory and window, None at the start of a sequence -> y of x's shape, memory, window."""
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

    def _advance(self, x, state, *where):
        """One token or several."""
        memory, *window = state
        y, memory, window = self._mix(x, memory, window[0] if window else None, *where)
        return y, (memory,) if window is None else (memory, window)

    def _first_window(self, batch_size: int):
        """The convolution's state before the first token, None where there is no convolution."""
        return None if self.conv is None else self.conv.init_state(batch_size)

    def _convolve(self, x, window):
        """x (B, T, C) or (B, C) through the short convolution, where there is one."""
        if self.conv is None:
            return x, None
        return self.conv.step(x, window) if x.dim() == 2 else self.conv(x, window)

    def _attend(self, q, k, v, decay, memory, scale=None):
        """`linear_attention` over a sequence (B, T, H, K), or its step for a token (B, H, K)."""
        if q.dim() == 3:
            return linear_attention_step(q, k, v, decay, memory, scale)
        return linear_attention(q, k, v, decay, memory, scale, self.backend)


def make_conv(channels: int, args, activation: str | None) -> ShortConv | None:
    """The convolution that --short_conv asks for."""
    return ShortConv(channels, args.short_conv, activation, args.backend) if args.short_conv > 0 else None


def head_size(args, ratio: float) -> int:
    """Channels of one head where all heads together have ratio x d_model, rounded up. UserError where --n_head does not divide --d_model."""
    check_heads(args.d_model, args.n_head, "none")
    return max(1, math.ceil(ratio * args.d_model / args.n_head - 1e-9))


def split_heads(x, n_head: int, sizes):
    """x (..., H (K_1 + K_2 + ...)) -> (..., H, K_1), (..., H, K_2), ... without a copy."""
    parts = x.split([n_head * size for size in sizes], dim=-1)
    return tuple(part.unflatten(-1, (n_head, size)) for part, size in zip(parts, sizes, strict=True))


def fixed_log_decay(n_head: int):
    """log(1 - 2^(-5 - h)) of heads h = 0 .. n_head - 1: (H,) float32. Sun et al. 2023, equation 8."""
    return torch.log1p(-torch.exp2(-5.0 - torch.arange(n_head, dtype=torch.float64))).float()


def log_gate(x):
    """log sigmoid(x)^(1/16), float32: a decay near 1 while x is near 0."""
    return F.logsigmoid(at_least_float32(x)) / GATE_TEMPERATURE


UNIT_EPS = 1e-6  # added to the squared length, as in flash-linear-attention


def l2_normalize(x):
    """x (..., K) at unit length, computed in float32; the result has x's dtype, and a zero vector stays zero."""
    y = at_least_float32(x)
    return (y * torch.rsqrt(y.square().sum(dim=-1, keepdim=True) + UNIT_EPS)).to(x.dtype)


def initial_dt_bias(n: int):
    """b (n,) with softplus(b) log-uniform in [0.001, 0.1]. Gu & Dao 2023, arXiv:2312.00752, section 3.6."""
    dt = torch.exp(torch.rand(n) * (math.log(0.1) - math.log(0.001)) + math.log(0.001))
    return dt + torch.log(-torch.expm1(-dt))  # the inverse of softplus


ROPE_BASE = 10_000.0


def check_heads(d_model: int, n_head: int, pos: str) -> None:
    """Raise UserError unless the heads divide the width and, for rope, have an even size."""

    def fits(h):
        return d_model % h == 0 and (pos != "rope" or d_model // h % 2 == 0)

    if fits(n_head):
        return
    allowed = [h for h in range(1, d_model + 1) if fits(h)]
    if not allowed:
        raise UserError(
            f"--pos rope: got --d_model {d_model}, allowed: an even --d_model, because rope turns pairs of a head's channels"
        )
    nearest = min(allowed, key=lambda h: (abs(h - n_head), h))
    need = f"a divisor of --d_model {d_model}" + (" that leaves an even head size for rope" if pos == "rope" else "")
    raise UserError(f"--n_head: got {n_head}, allowed: {need}; try --n_head {nearest}")


def rotate(x, start: int):
    """Rotary embedding of x (B, T, ..., H, K) at positions start .. start + T - 1: neighbouring channels (2i, 2i+1) turn by
    position x 10000^(-2i/K). Su et al. 2021, equation 34. In float32 at least; the result has x's dtype."""
    T, K = x.shape[1], x.shape[-1]
    dtype = accumulation_dtype(x)
    rate = ROPE_BASE ** (torch.arange(0, K, 2, device=x.device, dtype=dtype) / -K)
    angle = torch.arange(start, start + T, device=x.device, dtype=dtype)[:, None] * rate  # (T, K / 2)
    angle = angle.view(T, *[1] * (x.dim() - 3), K // 2)
    cos, sin = angle.cos(), angle.sin()
    even, odd = x.to(dtype).unflatten(-1, (K // 2, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(x.dtype)


def at_least_float32(x):
    """x in float32 at least: recurrences, gates, decays, norms and sums keep it under autocast."""
    return x.to(accumulation_dtype(x))
