"""Mamba-2: a selective state space with one decay a head (SSD), as the block of its paper.

    z, (x, B, C), dt = in_proj(u) ,   (x, B, C) = SiLU(conv1d(x, B, C)) ,   d_t = softplus(dt_t + dt_bias)
    S_t = exp(-d_t exp(A_log)) S_{t-1} + B_t (d_t x_t)^T ,   y_t = S_t^T C_t + D x_t ,   out = out_proj(RMSNorm(y * silu(z)))

Dao & Gu 2024, arXiv:2405.21060: the recurrence is section 5.1, the block section 7.1 and figure 6. It is linear attention with C as query, B as key
and a scalar decay, and runs on that op. x has `--expand` x d_model channels in heads of `--headdim`; B and C of `--d_state` channels are shared by
all heads of a group (`--ngroups`). Parameter names and shapes are those of `mamba_ssm.Mamba2`, so a state dict moves both ways, and so is
the initialisation: torch's for the maps and the convolution, exp(A_log) uniform in [1, 16], softplus(dt_bias) log-uniform in [0.001, 0.1], D one.

No MLP beside it, RMSNorm before it. `--short_conv K` replaces `--d_conv`; 0 takes the convolution away and leaves its SiLU. Differs: their
language model divides out_proj by sqrt(n_layer) after this initialisation; the block alone does not, nor does this one.

B is the batch in shapes, and H heads of size V with a state of N = d_state. Neither `--n_head` nor `--bias` concerns this layer (the convolution has
biases, the maps none). Decays, sums and the norm are float32 under autocast. Cost a token O(D^2 + D N); state (B, H, N, V) float32 and
the last d_conv - 1 inputs of the convolution, whatever T.   python benchmark.py --model mamba2 --d_state 32
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from src.flags.fields import UserError, option
from src.models.backbone import Backbone, build, max_len_of
from src.models.contract import BlockDefaults
from src.models.parts import LinearMixer, at_least_float32, initial_dt_bias
from src.ops.backends import parse_backend
from src.ops.causal_conv import causal_conv, causal_conv_step
from src.ops.precision import accumulation_dtype

PUBLISHED_STATE = 128
PUBLISHED_HEAD = 64


class Mamba2(LinearMixer):
    """State: (memory (B, H, N, V), the convolution's window (B, width - 1, channels) where there is one)."""

    @dataclass(frozen=True)
    class Config:
        d_state: int = option(0, "states a channel; 0 = as published (16 for mamba, 128 for mamba2)", least=0)
        d_conv: int = option(4, "characters that the convolution sees, the present one included", least=1)
        expand: int = option(2, "channels inside, as a multiple of d_model", least=1)
        headdim: int = option(0, "channels a head; 0 = 64, or the largest divisor of the inner width below it", least=0)
        ngroups: int = option(1, "groups of heads, each with a B and a C of its own", least=1)

    has_heads = False
    ops = ("causal_conv", "linear_attention")
    published = BlockDefaults("rms", 0, -1)

    @classmethod
    def kinds(cls, args):
        return {"linear_attention": "scalar"}

    def __init__(self, args):
        super().__init__()
        inner, N = args.expand * args.d_model, args.d_state or PUBLISHED_STATE
        V = head_channels(inner, args.headdim)
        H = inner // V
        if H % args.ngroups:
            raise UserError(f"--ngroups: got {args.ngroups}, allowed: a divisor of the {H} heads; try --ngroups 1")
        self.memory, self.ngroups = (H, N, V), args.ngroups
        self.parts = inner, inner + 2 * args.ngroups * N, H  # z; x, B, C; dt
        self.backend = parse_backend(args.backend, "linear_attention")
        self.conv_backend = parse_backend(args.backend, "causal_conv")
        self.in_proj = nn.Linear(args.d_model, sum(self.parts), bias=False)
        width = args.d_conv if args.short_conv < 0 else args.short_conv
        self.conv1d = (
            nn.Conv1d(self.parts[1], self.parts[1], width, groups=self.parts[1], padding=width - 1) if width else None
        )
        self.A_log = nn.Parameter(torch.empty(H).uniform_(1, 16).log())
        self.dt_bias = nn.Parameter(initial_dt_bias(H))
        self.D = nn.Parameter(torch.ones(H))
        self.norm = GatedRMSNorm(inner, args.ngroups)
        self.out_proj = nn.Linear(inner, args.d_model, bias=False)
        for p in (self.A_log, self.dt_bias, self.D):
            p._no_weight_decay = True

    def _first_window(self, batch_size: int):
        if self.conv1d is None:
            return None
        weight = self.conv1d.weight
        return torch.zeros(
            batch_size, weight.shape[-1] - 1, len(weight), dtype=accumulation_dtype(weight), device=weight.device
        )

    def _convolve(self, x, window):
        """SiLU(conv1d(x)) of x (B, T, channels) or (B, channels), and the window."""
        if self.conv1d is None:
            return F.silu(x), None
        weight, bias = self.conv1d.weight[:, 0], self.conv1d.bias
        if x.dim() == 2:
            return causal_conv_step(x, weight, bias, window, "silu")
        return causal_conv(x, weight, bias, window, "silu", self.conv_backend)

    def _mix(self, x, memory, window):
        H, N, V = self.memory
        z, xBC, dt = self.in_proj(x).split(self.parts, dim=-1)
        xBC, window = self._convolve(xBC, window)
        inner, key, query = at_least_float32(xBC).split([H * V, self.ngroups * N, self.ngroups * N], dim=-1)
        inner = inner.unflatten(-1, (H, V))
        dt = F.softplus(at_least_float32(dt) + at_least_float32(self.dt_bias))  # (..., H)
        decay = -at_least_float32(self.A_log).exp() * dt
        y, memory = self._attend(self._per_head(query), self._per_head(key), inner * dt[..., None], decay, memory)
        y = y + at_least_float32(self.D)[:, None] * inner
        return self.out_proj(self.norm(y.flatten(-2), z)), memory, window

    def _per_head(self, x):
        """x (..., G N) of the groups -> (..., H, N); for one group a view of the same memory for every head."""
        H, N, _ = self.memory
        x = x.unflatten(-1, (self.ngroups, 1, N)).expand(*x.shape[:-1], self.ngroups, H // self.ngroups, N)
        return x[..., 0, :, :] if self.ngroups == 1 else x.flatten(-3, -2)


class GatedRMSNorm(nn.Module):
    """RMSNorm(y * silu(z)) over each of `groups` equal parts of the channels, in float32. Dao & Gu 2024, section 7.1."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, y, z):
        """y (..., C) float32, z (..., C) -> (..., C) in z's dtype."""
        y = (y * F.silu(at_least_float32(z))).unflatten(-1, (self.groups, -1))
        y = F.rms_norm(y, y.shape[-1:], eps=1e-5).flatten(-2)
        return (y * at_least_float32(self.weight)).to(z.dtype)


def head_channels(inner: int, headdim: int) -> int:
    """Channels a head: --headdim, or for 0 the largest divisor of the inner width up to 64. UserError where --headdim does not divide it."""
    divisors = [n for n in range(1, inner + 1) if inner % n == 0]
    if not headdim:
        return max(n for n in divisors if n <= PUBLISHED_HEAD)
    if headdim not in divisors:
        nearest = min(divisors, key=lambda n: (abs(n - headdim), n))
        raise UserError(
            f"--headdim: got {headdim}, allowed: a divisor of the inner width {inner} (--expand x --d_model); try --headdim {nearest}"
        )
    return headdim


def build_model(vocab_size: int, args) -> Backbone:
    """The Mamba-2 model of a run configuration."""
    return build(Mamba2, vocab_size, args, max_len_of(args))
