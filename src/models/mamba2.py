"""Mamba-2: a selective state space with one decay per head (state space duality, SSD), as the block of its paper.

    paper      here             shape            meaning
    u_t        x                (..., D)         input of the layer at token t
    x_t        inner            (..., H, V)      inner channels in H heads of size V (P in the paper, --headdim)
    B_t, C_t   key, query       (..., H, N)      how the token is written and read; one pair per group of heads
    Delta_t    dt               (..., H)         step size, > 0
    A          -exp(A_log)      (H,)             how fast a head decays; one number per head
    a_t        exp(decay)       (..., H)         what is kept of the memory: exp(Delta_t A)
    h_t        memory           (B, H, N, V)     the memory, below S_t (the paper writes it as V x N)
    D          self.D           (H,)             direct path from input to output

    z, (x, B, C), dt = in_proj(u) ,   (x, B, C) = SiLU(conv1d(x, B, C)) ,   Delta_t = softplus(dt_t + dt_bias)
    S_t = exp(-Delta_t exp(A_log)) S_{t-1} + B_t (Delta_t x_t)^T ,   y_t = S_t^T C_t + D x_t
    out = out_proj(RMSNorm(y * silu(z)))

This is linear attention with C as query, B as key, Delta x as value and one decay per head, and it runs on that op
(src/ops/linear_attention). Mamba has one decay per channel and state instead, which does not fit the op.

Source: Dao & Gu 2024, arXiv:2405.21060, recurrence in section 5.1, block in section 7.1 and figure 6. Parameters have
the names and shapes of `mamba_ssm.Mamba2`, so a state dict moves both ways. So does the initialisation: torch's for the
maps and the convolution, exp(A_log) uniform in [1, 16], softplus(dt_bias) log-uniform in [0.001, 0.1], D = 1. Then
out_proj is divided by sqrt(n_layer), as in their language model (models/mixer_seq_simple.py), by sqrt(2 n_layer) with
an MLP. RMSNorm before the layer, and no MLP.

Differs from the authors' language model, mamba_ssm of today:
- Its embedding starts normal with standard deviation 0.02 (here `--embed_std`), is also the head (here with
  `--tie_weights`), and its vocabulary is padded.
- It keeps the residual stream in float32 under mixed precision. Here autocast decides.
- Heads have 64 channels. Where the inner width is no multiple of 64, theirs is an error, and here heads are smaller.
- Dropout where `--dropout` asks for it; theirs has none. `--dim_ffn` adds an MLP, which theirs has as an option.
- Not here: bounds of the step size, a D per channel, the norm before the gate, an SSM on a part of the channels.
- `--fair` removes the convolution, keeps its SiLU, and convolves the layer's input instead.

`--short_conv W` replaces `--d_conv`; 0 removes the convolution and keeps its SiLU. `--n_head` and
`--bias` do not concern this layer: the convolution has biases, the maps have none.

Decays, sums and the norm are float32 under autocast. Cost per token O(D^2 + D N). State: (B, H, N, V) float32 and the
last W - 1 inputs of the convolution, for any T.

    python benchmark.py --task needle --model mamba2 --d_state 32
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from src.flags.fields import UserError, option
from src.models.backbone import Backbone, build, max_len_of
from src.models.contract import BlockDefaults
from src.models.modules import Linear
from src.models.parts import LinearMixer, at_least_float32, initial_dt_bias, residual_scale
from src.ops.backends import parse_backend
from src.ops.causal_conv import causal_conv, causal_conv_step
from src.ops.precision import accumulation_dtype
from src.ops.rmsnorm import rmsnorm
from src.ops.swiglu import swiglu

PUBLISHED_STATE = 128
PUBLISHED_HEAD = 64


class Mamba2(LinearMixer):
    """State: (memory (B, H, N, V), the convolution's window (B, W - 1, channels) if there is one)."""

    @dataclass(frozen=True)
    class Config:
        d_state: int = option(0, "states per channel; 0 = as published (16 for mamba, 128 for mamba2)", least=0)
        d_conv: int = option(4, "characters that the convolution sees, the present one included", least=1)
        expand: int = option(2, "inner channels, as a multiple of d_model", least=1)
        headdim: int = option(
            0, "channels per head; 0 = 64, or the largest divisor of the inner width below it", least=0
        )
        ngroups: int = option(1, "groups of heads; each group has a B and a C of its own", least=1)

    has_heads = False
    ops = ("causal_conv", "linear_attention", "rmsnorm", "swiglu", "linear")
    published = BlockDefaults("rms", 0, -1)

    @classmethod
    def kinds(cls, args):
        return {"linear_attention": "scalar float32"}

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
        self.in_proj = Linear(args.d_model, sum(self.parts), bias=False, backend=args.backend)
        width = args.d_conv if args.short_conv < 0 else args.short_conv
        channels = self.parts[1]
        self.conv1d = nn.Conv1d(channels, channels, width, groups=channels) if width else None
        self.A_log = nn.Parameter(torch.empty(H).uniform_(1, 16).log())
        self.dt_bias = nn.Parameter(initial_dt_bias(H))
        self.D = nn.Parameter(torch.ones(H))
        self.norm = GatedRMSNorm(inner, args.ngroups, args.backend)
        self.out_proj = Linear(inner, args.d_model, bias=False, backend=args.backend)
        with torch.no_grad():
            self.out_proj.weight /= residual_scale(args)
        self.in_proj.parts = [inner, inner, args.ngroups * N, args.ngroups * N, H]
        for p in (self.A_log, self.dt_bias, self.D):
            p._no_weight_decay = p._no_reinit = True

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
        key, query = (x.unflatten(-1, (self.ngroups, N)) for x in (key, query))
        y, memory = self._attend(query, key, inner * dt[..., None], decay, memory)
        y = y + at_least_float32(self.D)[:, None] * inner
        return self.out_proj(self.norm(y.flatten(-2), z)), memory, window


class GatedRMSNorm(nn.Module):
    """RMSNorm(y * silu(z)) over each of `groups` equal parts of the channels, in float32. Section 7.1 of the paper."""

    def __init__(self, channels: int, groups: int, backend: str = "auto"):
        """backend: the --backend flag."""
        super().__init__()
        self.groups = groups
        self.norm_backend = parse_backend(backend, "rmsnorm")
        self.gate_backend = parse_backend(backend, "swiglu")
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, y, z):
        """y (..., channels) float32, z (..., channels) -> (..., channels) in z's dtype."""
        y = swiglu(at_least_float32(z), y, self.gate_backend).unflatten(-1, (self.groups, -1))
        y = rmsnorm(y, eps=1e-5, backend=self.norm_backend).flatten(-2)
        return (y * at_least_float32(self.weight)).to(z.dtype)


def head_channels(inner: int, headdim: int) -> int:
    """Channels per head: --headdim, or for 0 the largest divisor of the inner width up to 64.

    Raises UserError where --headdim does not divide the inner width.
    """
    divisors = [n for n in range(1, inner + 1) if inner % n == 0]
    if not headdim:
        return max(n for n in divisors if n <= PUBLISHED_HEAD)
    if headdim not in divisors:
        nearest = min(divisors, key=lambda n: (abs(n - headdim), n))
        raise UserError(
            f"--headdim: got {headdim}, allowed: a divisor of the inner width {inner} (--expand x --d_model); "
            f"try --headdim {nearest}"
        )
    return headdim


def build_model(vocab_size: int, args) -> Backbone:
    """The Mamba-2 model of a run configuration."""
    return build(Mamba2, vocab_size, args, max_len_of(args))
