"""DeltaNet and Gated DeltaNet: a memory that is corrected instead of added to.

    S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T ,   o_t = S_t^T q_t / sqrt(K)

with q, k, v = SiLU(conv(W x)), q and k of unit length, b_t = sigmoid(W_b x_t).

- `deltanet`        a = 1, y = W_o RMSNorm_h(o). Yang et al. 2024, arXiv:2406.06484, section 3.3. Keys and values of d_model.
- `gated_deltanet`  a_t = exp(-exp(A_log) softplus(W_a x_t + dt_bias)), y = W_o [ silu(W_g x) * RMSNorm_h(o) ]. Yang et al. 2024,
                    arXiv:2412.06464, sections 3.1 and 3.4. Keys of 3/4 d_model and values of 3/2 d_model, 6 d_model^2 parameters in all.

`--neg_eigen` doubles b: the eigenvalue of the transition along k_t, a (1 - b), then reaches from -1 to 1 instead of from 0 (Grazzi et al.
2024, arXiv:2411.12537). Initialisation as in the authors' releases: `deltanet` Xavier-uniform with gain 2^(-5/2);
`gated_deltanet` torch's for linear maps, exp(A_log) uniform in (0, 16], softplus(dt_bias) log-uniform in [0.001, 0.1].

Differs: the block's MLP is the backbone's (GELU, 4 x d_model) and not SwiGLU of equal size; head sizes that do not come out whole are
rounded up; the map to b has no bias, as in flash-linear-attention (NVlabs/GatedDeltaNet has one, initially zero); 0 itself is left out of
the range of exp(A_log), whose logarithm it would make infinite. With `--short_conv 0` the convolution goes and its SiLU stays.

`--bias` does not concern these layers. Gates, decays and norms are float32 under autocast. Cost a token O(D^2 + D K); state (B, H, K, V) float32
and the last three q, k, v, whatever T.   python benchmark.py --model gated_deltanet --neg_eigen true
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from src.flags.fields import option
from src.models.backbone import build, max_len_of
from src.models.contract import ARModel, BlockDefaults
from src.models.parts import (
    Expansion,
    LinearMixer,
    at_least_float32,
    gated,
    head_size,
    initial_dt_bias,
    l2_normalize,
    make_conv,
    split_heads,
    xavier_parts,
)
from src.ops.backends import parse_backend
from src.ops.delta_rule import delta_rule, delta_rule_step


class _Delta(LinearMixer):
    """What both share. State: (memory (B, H, K, V), and the convolution's window where there is one)."""

    @dataclass(frozen=True)
    class Config(Expansion):
        neg_eigen: bool = option(
            False, "transitions between -1 and 1 instead of 0 and 1, which lets a state change its sign"
        )

    ops = ("delta_rule",)
    published = BlockDefaults("rms", 4, 4)
    ratios: tuple[float, float]  # published widths of keys and values, in multiples of d_model

    def __init__(self, args):
        super().__init__()
        H = args.n_head
        K, V = head_size(args, args.expand_k or self.ratios[0]), head_size(args, args.expand_v or self.ratios[1])
        self.memory = H, K, V
        self.strength = 2.0 if args.neg_eigen else 1.0
        self.backend = parse_backend(args.backend, "delta_rule")
        self.qkv = nn.Linear(args.d_model, H * (2 * K + V), bias=False)
        self.beta = nn.Linear(args.d_model, H, bias=False)
        self.conv = make_conv(self.qkv.out_features, args, "silu")
        self.norm = nn.RMSNorm(V, eps=1e-5)
        self.out = nn.Linear(H * V, args.d_model, bias=False)

    def _recall(self, x, decay, memory, window):
        """Normalised outputs (..., H, V), memory and window of x (..., D)."""
        H, K, V = self.memory
        qkv, window = self._convolve(self.qkv(x), window)
        q, k, v = split_heads(F.silu(qkv) if self.conv is None else qkv, H, (K, K, V))
        q, k = l2_normalize(q), l2_normalize(k)
        beta = self.strength * at_least_float32(self.beta(x)).sigmoid()
        if x.dim() == 2:
            o, memory = delta_rule_step(q, k, v, beta, decay, memory, K**-0.5)
        else:
            o, memory = delta_rule(q, k, v, beta, decay, memory, K**-0.5, self.backend)
        return self.norm(at_least_float32(o)), memory, window


class DeltaNet(_Delta):
    """The delta rule without forgetting."""

    ratios = 1.0, 1.0

    def __init__(self, args):
        super().__init__(args)
        H, K, V = self.memory
        xavier_parts(self.qkv.weight, [H * K, H * K, H * V])
        for weight in (self.beta.weight, self.out.weight):
            xavier_parts(weight, [len(weight)])

    def _mix(self, x, memory, window):
        o, memory, window = self._recall(x, None, memory, window)
        return self.out(o.flatten(-2).to(x.dtype)), memory, window


class GatedDeltaNet(_Delta):
    """The delta rule with one forgetting factor a head, and an output gate."""

    ratios = 0.75, 1.5

    def __init__(self, args):
        super().__init__(args)
        H, _, V = self.memory
        self.alpha = nn.Linear(args.d_model, H, bias=False)
        self.gate = nn.Linear(args.d_model, H * V, bias=False)
        self.A_log = nn.Parameter((16 * (1 - torch.rand(H))).log())
        self.dt_bias = nn.Parameter(initial_dt_bias(H))
        for p in (self.A_log, self.dt_bias):
            p._no_weight_decay = True

    def _mix(self, x, memory, window):
        decay = -at_least_float32(self.A_log).exp() * F.softplus(
            at_least_float32(self.alpha(x)) + at_least_float32(self.dt_bias)
        )
        o, memory, window = self._recall(x, decay, memory, window)
        return self.out(gated(o, self.gate(x))), memory, window


def build_model(vocab_size: int, args) -> ARModel:
    """The DeltaNet or Gated DeltaNet model of a run configuration, by `args.model`."""
    return build(GatedDeltaNet if args.model == "gated_deltanet" else DeltaNet, vocab_size, args, max_len_of(args))
