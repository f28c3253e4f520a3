"""Right layers of unusual kinds. They pass all checks and train. Used by tests/checks/test_unusual_layers.py.

RIGHT, at the end, is the table. The docstring of a layer says what is unusual about it.
"""

import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from src.models.contract import Mixer


class Lru(Mixer):
    """A complex diagonal recurrence whose eigenvalues are real parameters. Orvieto et al. 2023 (LRU)."""

    def __init__(self, args):
        super().__init__()
        n = args.d_model
        radius, phase = torch.rand(n) * 0.09 + 0.9, torch.rand(n) * 6.28
        self.log_decay, self.phase = nn.Parameter((-radius.log()).log()), nn.Parameter(phase)
        self.b = nn.Parameter(torch.randn(n, args.d_model, dtype=torch.complex64) / (2 * args.d_model) ** 0.5)
        self.c = nn.Parameter(torch.randn(args.d_model, n, dtype=torch.complex64) / n**0.5)
        self.skip = nn.Parameter(torch.randn(args.d_model))

    def _eigenvalues(self):
        return torch.polar((-self.log_decay.exp()).exp(), self.phase)

    def _read(self, x, h):
        return (h @ self.c.T).real.to(x.dtype) + self.skip * x

    def _inputs(self, x):
        lam = self._eigenvalues()
        return lam, (1 - lam.abs().square()).sqrt() * (x.to(self.b.dtype) @ self.b.T)

    def forward(self, x):
        return self.prefill(x, self.init_state(len(x), x.shape[1]))[0]

    def init_state(self, batch_size, max_len):
        return (self.b.new_zeros(batch_size, len(self.b)),)

    def prefill(self, x, state):
        lam, u = self._inputs(x)
        (h,), hs = state, []
        for t in range(x.shape[1]):
            h = lam * h + u[:, t]
            hs.append(h)
        return self._read(x, torch.stack(hs, dim=1)), (h,)

    def step(self, x, state):
        lam, u = self._inputs(x)
        h = lam * state[0] + u
        return self._read(x, h), (h,)


class S5(Mixer):
    """A complex state space with a complex buffer of eigenvalues, and a kernel by FFT. Smith et al. 2023 (S5)."""

    def __init__(self, args):
        super().__init__()
        n = args.d_model
        self.register_buffer("lam", torch.polar(torch.rand(n) * 0.1 + 0.85, torch.arange(n) * 0.1))
        self.b = nn.Parameter(torch.randn(args.d_model, n, dtype=torch.complex64) / n)
        self.c = nn.Parameter(torch.randn(n, args.d_model, dtype=torch.complex64))

    def forward(self, x):
        length = x.shape[1]
        powers = self.lam[None] ** torch.arange(length)[:, None]  # (T, N)
        u = x.to(self.b.dtype) @ self.b
        h = torch.fft.ifft(torch.fft.fft(u, 2 * length, dim=1) * torch.fft.fft(powers, 2 * length, dim=0), dim=1)
        return (h[:, :length] @ self.c).real.to(x.dtype)


class Mean(Mixer):
    """The mean of the past. Subclasses replace `project`."""

    def __init__(self, args):
        super().__init__()
        self.value = nn.Linear(args.d_model, args.d_model)

    def forward(self, x):
        return self.project(x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None])

    def project(self, h):
        return self.value(h)


class HalfProjection(Mean):
    """One projection has weights in bf16."""

    def __init__(self, args):
        super().__init__(args)
        self.rounded = nn.Linear(args.d_model, args.d_model).to(torch.bfloat16)

    def project(self, h):
        return self.value(h) + self.rounded(h.bfloat16()).to(h.dtype)


class IntegerParameter(Mean):
    """A permutation of the channels is an integer parameter without a gradient, and a mask is a bool buffer."""

    def __init__(self, args):
        super().__init__(args)
        self.order = nn.Parameter(torch.randperm(args.d_model), requires_grad=False)
        self.register_buffer("mask", torch.arange(args.d_model) > 1)

    def project(self, h):
        return self.value(h[..., self.order] * self.mask)


class ExponentialGates(Mixer):
    """Matrix memory with exponential input gates and no stabiliser. Beck et al. 2024 (mLSTM), equations 19 to 27."""

    def __init__(self, args):
        super().__init__()
        self.qkv = nn.Linear(args.d_model, 3 * args.d_model)
        self.gates = nn.Linear(args.d_model, 2)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        write, keep = self.gates(x).unbind(-1)
        total = F.logsigmoid(keep + 3).cumsum(1)
        weight = (total[:, :, None] - total[:, None] + write[:, None]).tril().exp().tril()
        scores = weight * (q @ k.transpose(1, 2)) / k.shape[-1] ** 0.5
        return scores @ v / (scores.sum(-1, keepdim=True).abs() + 1)


class Experts(Mean):
    """Each token is sent to one of sixteen experts, so some experts wait long for a first token."""

    def __init__(self, args):
        super().__init__(args)
        self.router = nn.Linear(args.d_model, 16)
        self.experts = nn.ModuleList(nn.Linear(args.d_model, args.d_model) for _ in range(16))
        with torch.no_grad():
            self.router.bias.copy_(-0.05 * torch.arange(16))

    def project(self, h):
        weight, chosen = self.router(h).softmax(-1).max(-1)
        y = self.value(h)
        for i, expert in enumerate(self.experts):
            y = y + (chosen == i)[..., None] * weight[..., None] * expert(h)
        return y


class StraightThrough(Mean):
    """A hard gate whose backward pass is that of a sigmoid."""

    surrogate_gradient = True

    def project(self, h):
        soft = h.sigmoid()
        return self.value(h * ((soft > 0.5).to(h.dtype) + soft - soft.detach()))


class Lazy(Mean):
    """A lazy linear map takes its input width from the first pass."""

    def __init__(self, args):
        super().__init__(args)
        self.lazy = nn.LazyLinear(args.d_model)

    def project(self, h):
        return self.value(h) + self.lazy(h)


class NumpyStart(Mean):
    """Its initial weights come from the global generators of NumPy and Python."""

    def __init__(self, args):
        super().__init__(args)
        self.scale = nn.Parameter(torch.from_numpy(np.random.randn(args.d_model)).float() + random.random())

    def project(self, h):
        return self.value(h) * self.scale


class TableByLength(Mean):
    """It keeps a table per length."""

    def __init__(self, args):
        super().__init__(args)
        self.tables = {}

    def project(self, h):
        table = self.tables.setdefault(h.shape[1], torch.arange(h.shape[1])[:, None].cos())
        return self.value(h) + table.to(h.dtype)


RIGHT = (
    Lru,
    S5,
    HalfProjection,
    IntegerParameter,
    ExponentialGates,
    Experts,
    StraightThrough,
    Lazy,
    NumpyStart,
    TableByLength,
)
