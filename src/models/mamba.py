"""Mamba (Mamba-1): a selective state space after a short convolution, with an output gate.

    paper         here           shape           meaning
    x             u              (..., E)        input of the state space, after the convolution
    h_t           h              (B, E, N)       state: N numbers for each of the E inner channels
    A             -exp(A_log)    (E, N)          how fast each state decays; the same for all tokens
    B_t, C_t      B, C           (..., N)        how the token is written and read; computed from u_t ("selective")
    Delta_t       delta          (..., E)        step size, > 0; computed from u_t through a map of rank R
    D             self.D         (E,)            direct path from input to output
    E             expand         -               inner channels as a multiple of d_model
    N             d_state        -               states per channel

    x, z = split(W_in s) ,   u = silu(conv(x)) ,   (r, B, C) = W_x u ,   delta = softplus(W_dt r + b_dt)
    h_t = exp(delta_t A) * h_{t-1} + delta_t B_t u_t ,   y_t = C_t^T h_t + D u_t ,   out_t = W_out (y_t * silu(z_t))

s_t is the input of the layer at token t, (..., D). Each inner channel has its own h, A, delta and D. All share B and C.
A large delta_t makes a channel forget its state and take in the token. A small one makes it keep the state and ignore
the token.

Source: Gu & Dao 2023, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", arXiv:2312.00752, section
3.4, figure 3 and algorithm 2. Parameters have the names and shapes of `mamba_ssm.Mamba` with its defaults, so a state
dict moves both ways.

Initialisation as published: A_log = log(1 .. N) for each channel (S4D-real), D = 1, dt_proj.weight uniform in +-
R^(-1/2), and the first steps softplus(dt_proj.bias) log-uniform in [0.001, 0.1]. The other maps keep torch's, and
out_proj is divided by sqrt(n_layer), as in the authors' language model (mamba_ssm, models/mixer_seq_simple.py), by
sqrt(2 n_layer) with an MLP. A_log, D and the bias of dt_proj take no weight decay.

The block has RMSNorm and no MLP, and the convolution has a bias. `--bias` and `--n_head` do not concern this layer.

Differs from the authors' language model, mamba_ssm of today:
- Its embedding starts normal with standard deviation 0.02 (here `--embed_std`), is also the head (here with
  `--tie_weights`), and its vocabulary is padded to a multiple of 8.
- It keeps the residual stream in float32 under mixed precision. Here autocast decides.
- Dropout where `--dropout` asks for it; theirs has none. `--dim_ffn` adds an MLP, which theirs has not.
- The steps at the start have no lower bound of 1e-4, which acts on no step of [0.001, 0.1].
- `--fair` removes the convolution, keeps its SiLU, and convolves the layer's input instead.

Beyond the paper: `--neg_eigen` uses a_t = 2 exp(delta_t A) - 1, which is between -1 and 1 instead of 0 and 1 (Grazzi
et al. 2024, arXiv:2411.12537). `--short_conv W` replaces `--d_conv`; 0 removes the convolution and keeps its SiLU.

src/ops/selective_scan has the recurrence. Cost per token O(D E + E N). State: (B, W - 1, E) and (B, E, N), float32, for
any T.

    python benchmark.py --task needle --model mamba
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from src.flags.fields import option
from src.models.backbone import build, max_len_of
from src.models.contract import ARModel, BlockDefaults, Mixer, State
from src.models.modules import Linear
from src.models.parts import initial_dt_bias, residual_scale
from src.ops.backends import parse_backend
from src.ops.causal_conv import causal_conv, causal_conv_step
from src.ops.precision import accumulation_dtype
from src.ops.selective_scan import projected_scan, selective_scan_step
from src.ops.swiglu import swiglu

PUBLISHED_STATE = 16


class Mamba(Mixer):
    """State: (the last W - 1 inputs of the convolution (B, W - 1, E), h (B, E, N)), float32."""

    @dataclass(frozen=True)
    class Config:
        d_state: int = option(0, "states per channel; 0 = as published (16 for mamba, 128 for mamba2)", least=0)
        d_conv: int = option(4, "characters that the convolution sees, the present one included", least=1)
        expand: int = option(2, "inner channels, as a multiple of d_model", least=1)
        dt_rank: int = option(0, "rank of the projection to the step sizes; 0 = d_model / 16, rounded up", least=0)
        neg_eigen: bool = option(
            False, "transitions between -1 and 1 instead of 0 and 1; a state can then change its sign"
        )

    ops = ("causal_conv", "selective_scan", "swiglu", "linear")
    own_conv = True
    published = BlockDefaults("rms", 0, -1)

    def __init__(self, args):
        super().__init__()
        D, E = args.d_model, args.expand * args.d_model
        self.d_state = args.d_state or PUBLISHED_STATE
        self.dt_rank = args.dt_rank or math.ceil(D / 16)
        self.neg_eigen = args.neg_eigen
        self.conv_backend = parse_backend(args.backend, "causal_conv")
        self.scan_backend = parse_backend(args.backend, "selective_scan")
        self.gate_backend = parse_backend(args.backend, "swiglu")
        width = args.d_conv if args.short_conv < 0 else args.short_conv
        self.in_proj = Linear(D, 2 * E, bias=False, backend=args.backend)
        self.conv1d = nn.Conv1d(E, E, width, groups=E) if width else None
        self.x_proj = Linear(E, self.dt_rank + 2 * self.d_state, bias=False, backend=args.backend)
        self.dt_proj = nn.Linear(self.dt_rank, E)  # part of the scan, which takes its weight and bias
        self.A_log = nn.Parameter(torch.arange(1, self.d_state + 1, dtype=torch.float32).log().repeat(E, 1))
        self.D = nn.Parameter(torch.ones(E))
        self.out_proj = Linear(E, D, bias=False, backend=args.backend)
        with torch.no_grad():
            self.dt_proj.weight.uniform_(-(self.dt_rank**-0.5), self.dt_rank**-0.5)
            self.dt_proj.bias.copy_(initial_dt_bias(E))
            self.out_proj.weight /= residual_scale(args)
        self.in_proj.parts = [E, E]
        self.x_proj.parts = [self.dt_rank, self.d_state, self.d_state]
        for parameter in (self.A_log, self.D, self.dt_proj.bias):
            parameter._no_weight_decay = True
        for parameter in (self.A_log, self.D, *self.dt_proj.parameters()):
            parameter._no_reinit = True

    def forward(self, x):
        return self._run(x, None, None)[0]

    def init_state(self, batch_size: int, max_len: int) -> State:
        E, dtype = len(self.D), accumulation_dtype(self.D)
        past = 0 if self.conv1d is None else self.conv1d.kernel_size[0] - 1
        window = self.D.new_zeros(batch_size, past, E, dtype=dtype)
        return window, self.D.new_zeros(batch_size, E, self.d_state, dtype=dtype)

    def prefill(self, x, state: State):
        window, h = state
        # On a GPU this test waits for the device. Where h is zero, the published kernel can run: it starts from zero.
        if x.device.type == "cpu" or bool(h.any()):
            if self.scan_backend == "mamba_ssm":
                return super().prefill(x, state)
            return self._run(x, window, h)
        return self._run(x, window, None)

    def step(self, x, state: State):
        window, h = state
        u, z = self.in_proj(x).chunk(2, dim=-1)
        if self.conv1d is None:
            u = F.silu(u)
        else:
            u, window = causal_conv_step(u, *self._kernel(), window, "silu")
        step, B, C = self.x_proj(u).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        delta = F.softplus(F.linear(step, self.dt_proj.weight).to(h.dtype) + self.dt_proj.bias)
        y, h = selective_scan_step(u, delta, -torch.exp(self.A_log), B, C, self.D, h, self.neg_eigen)
        return self.out_proj(swiglu(z, y, self.gate_backend)), (window, h)

    def _run(self, x, window, h):
        """x (B, T, D), window and h (None at the start of a sequence) -> y (B, T, D), state."""
        u, z = self.in_proj(x).chunk(2, dim=-1)
        if self.conv1d is None:
            u = F.silu(u)
        else:
            u, window = causal_conv(u, *self._kernel(), window, "silu", self.conv_backend)
        dt = self.dt_proj.weight, self.dt_proj.bias
        y, h = projected_scan(u, self.x_proj.weight, *dt, self.A_log, self.D, h, self.neg_eigen, self.scan_backend)
        return self.out_proj(swiglu(z, y, self.gate_backend)), (window, h)

    def _kernel(self):
        """Weight (E, K) and bias (E,) of the convolution."""
        return self.conv1d.weight[:, 0], self.conv1d.bias


def build_model(vocab_size: int, args) -> ARModel:
    """The Mamba model of a run configuration."""
    return build(Mamba, vocab_size, args, max_len_of(args))
