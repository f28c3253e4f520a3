"""Mamba: a selective state space behind a short convolution, gated (Mamba-1).

    x, z = split(W_in s) ;   u = silu(conv(x)) ;   y = selective_scan(u, delta(u), A, B(u), C(u), D) ;   out = W_out (y * silu(z))

Gu & Dao 2023, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", arXiv:2312.00752, section 3.4 and figure 3, algorithm 2.
Parameters have the names and shapes of `mamba_ssm.Mamba` with its defaults, so a state dict moves both ways and gives the same output.
`--neg_eigen` widens the transitions from (0, 1) to (-1, 1): a = 2 exp(delta A) - 1, Grazzi et al. 2024, arXiv:2411.12537.

Initialisation as published: A_log = log(1 .. N) for each channel (S4D-real), D = 1, dt_proj.weight uniform in +- R^-1/2, and its bias such that
the first steps softplus(bias) are log-uniform between 0.001 and 0.1; the other maps keep torch's own. A_log, D and that bias take no weight decay.

E = expand x D channels inside, N states a channel, R rank of the step's projection, K width of the convolution.
Cost a token O(D E + E N); state (B, K - 1, E) and (B, E, N) float32, independent of T.   python benchmark.py --model mamba
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
from src.ops.backends import parse_backend
from src.ops.causal_conv import causal_conv, causal_conv_step
from src.ops.selective_scan import projected_scan, selective_scan_step

PUBLISHED_STATE = 16
STEP_MIN, STEP_MAX, STEP_FLOOR = 1e-3, 0.1, 1e-4


class Mamba(Mixer):
    """Selective state space. State: (the last K - 1 inputs of the convolution (B, K - 1, E), h (B, E, N)), float32."""

    @dataclass(frozen=True)
    class Config:
        """mamba"""

        d_state: int = option(0, "states a channel; 0 = as published (16 for mamba, 128 for mamba2)", least=0)
        d_conv: int = option(4, "characters that the convolution sees, the present one included", least=1)
        expand: int = option(2, "channels inside, as a multiple of d_model", least=1)
        dt_rank: int = option(0, "rank of the projection to the steps; 0 = d_model / 16, rounded up", least=0)
        neg_eigen: bool = option(
            False, "transitions between -1 and 1 instead of 0 and 1, which lets a state change its sign"
        )

    ops = ("causal_conv", "selective_scan")
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
        short_conv = getattr(args, "short_conv", -1)
        self.width = (
            args.d_conv if short_conv < 0 else short_conv or 1
        )  # K; without a convolution a window of one token
        self.in_proj = nn.Linear(D, 2 * E, bias=False)
        if short_conv:
            self.conv1d = nn.Conv1d(E, E, self.width, groups=E)
        self.x_proj = nn.Linear(E, self.dt_rank + 2 * self.d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, E)
        self.A_log = nn.Parameter(torch.arange(1, self.d_state + 1, dtype=torch.float32).log().repeat(E, 1))
        self.D = nn.Parameter(torch.ones(E))
        self.out_proj = nn.Linear(E, D, bias=False)
        self._start_steps()
        for parameter in (self.A_log, self.D, self.dt_proj.bias):
            parameter._no_weight_decay = True

    @torch.no_grad()
    def _start_steps(self):
        """The published start of dt_proj: softplus(bias) is log-uniform in [STEP_MIN, STEP_MAX]."""
        nn.init.uniform_(self.dt_proj.weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        low, high = math.log(STEP_MIN), math.log(STEP_MAX)
        step = torch.exp(low + (high - low) * torch.rand(len(self.dt_proj.bias))).clamp(min=STEP_FLOOR)
        self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus

    def forward(self, x):
        return self._run(x, None, None)[0]

    def init_state(self, batch_size: int, max_len: int) -> State:
        E, kind = len(self.D), torch.float64 if self.D.dtype == torch.float64 else torch.float32
        return self.D.new_zeros(batch_size, self.width - 1, E, dtype=kind), self.D.new_zeros(
            batch_size, E, self.d_state, dtype=kind
        )

    def prefill(self, x, state: State):
        window, h = state
        if x.device.type == "cpu" or bool(h.any()):
            if self.scan_backend == "mamba_ssm":  # the kernel starts from zero only
                return super().prefill(x, state)
            return self._run(x, window, h)
        return self._run(x, window, None)

    def step(self, x, state: State):
        window, h = state
        u, z = self.in_proj(x).chunk(2, dim=-1)
        u, window = causal_conv_step(u, *self._kernel(), window, "silu") if self._has_conv else (F.silu(u), window)
        step, B, C = self.x_proj(u).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        delta = F.softplus(F.linear(step, self.dt_proj.weight).to(h.dtype) + self.dt_proj.bias)
        y, h = selective_scan_step(u, delta, -torch.exp(self.A_log), B, C, self.D, h, self.neg_eigen)
        return self.out_proj(y * F.silu(z)), (window, h)

    def _run(self, x, window, h):
        """Outputs (B, T, D) of x (B, T, D) from a state (None: empty), and the state after it."""
        u, z = self.in_proj(x).chunk(2, dim=-1)
        if self._has_conv:
            u, window = causal_conv(u, *self._kernel(), window, "silu", self.conv_backend)
        else:
            u = F.silu(u)
        y, h = projected_scan(
            u,
            self.x_proj.weight,
            self.dt_proj.weight,
            self.dt_proj.bias,
            self.A_log,
            self.D,
            h,
            self.neg_eigen,
            self.scan_backend,
        )
        return self.out_proj(y * F.silu(z)), (window, h)

    @property
    def _has_conv(self) -> bool:
        return hasattr(self, "conv1d")

    def _kernel(self):
        """Weight (E, K) and bias (E,) of the convolution."""
        return self.conv1d.weight[:, 0], self.conv1d.bias


def build_model(vocab_size: int, args) -> ARModel:
    """The Mamba model of a run configuration."""
    return build(Mamba, vocab_size, args, max_len_of(args))
