"""Linear attention, the bare block: a feature map, a decay, and nothing else.

    S_t = diag(a_t) S_{t-1} + phi(k_t) v_t^T ,   z_t = diag(a_t) z_{t-1} + phi(k_t) ,   o_t = S_t^T phi(q_t) / (z_t^T phi(q_t) + 1e-6)

Katharopoulos et al. 2020, arXiv:2006.16236, equations 16-20, whose block is `--feature_map elu --decay none` (the defaults):
q, k, v and output projections with biases, LayerNorm, MLP of 4 x d_model, torch's initialisation of linear maps.

`--feature_map`
- elu        elu(x) + 1, Katharopoulos et al. 2020, equation 7.
- relu       max(x, 0), Kasai et al. 2021 (T2R), arXiv:2103.13076, without its trained map. Where no feature of a query meets one of a key,
             0 / 0 is taken as 0.
- taylor     [1, x / K^(1/4), (x (x) x) / sqrt(2 K)] on `--feature_dim` channels a head, so that phi(q)^T phi(k) = 1 + s + s^2 / 2 with
             s = q^T k / sqrt(K), the second-order expansion of exp(s): Arora et al. 2024 (Based), arXiv:2402.18668.
- identity   x, scaled by K^(-1/2). The sum of keys may cross zero, so it cannot normalise; an RMSNorm a head stands in its place, as in
             Qin et al. 2022 (TransNormer), arXiv:2210.10340, because the sums grow with T.

`--decay` (the sums z decay with S, so o stays a weighted mean of values)
- none       a = 1.
- fixed      a = 1 - 2^(-5 - h) for head h = 0, 1, ...: Sun et al. 2023 (RetNet), arXiv:2307.08621, equation 8.
- scalar     a_t = sigmoid(w^T x_t + b)^(1/16) a head: Sun et al. 2024 (gated retention), arXiv:2405.05254.
- vector     a_t = sigmoid(W_2 W_1 x_t + b)^(1/16) a head and key channel, W_1 of 16 rows: Yang et al. 2023 (GLA), arXiv:2312.06635, section 4.4.

Features, sums and decays are float32 under autocast; the gates keep their biases under `--bias False`. `--short_conv K` convolves q, k, v
without an activation. Cost a token O(D^2 + F D), F features a head; state (B, H, F, D / H + 1) float32 whatever T.
python benchmark.py --model linear_attention --decay scalar

`LinearMixer` below is what the files of this family share.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from src.flags.fields import option
from src.models.backbone import Backbone, build, max_len_of
from src.models.contract import BlockDefaults
from src.models.parts import (
    GATE_RANK,
    LinearMixer,
    at_least_float32,
    fixed_log_decay,
    head_size,
    log_gate,
    make_conv,
    split_heads,
)
from src.ops.backends import parse_backend

EPS = 1e-6  # of the normaliser, as in the code released with Katharopoulos et al. 2020


def taylor(x):
    """Features (..., 1 + K + K^2) of x (..., K) with taylor(q)^T taylor(k) = 1 + s + s^2 / 2, s = q^T k / sqrt(K)."""
    K = x.shape[-1]
    x = x * K**-0.25
    second = (x[..., :, None] * x[..., None, :]).flatten(-2) * 0.5**0.5
    return torch.cat([torch.ones_like(x[..., :1]), x, second], dim=-1)


FEATURES = {"elu": lambda x: F.elu(x) + 1, "relu": F.relu, "identity": lambda x: x, "taylor": taylor}


class LinearAttention(LinearMixer):
    """The bare block. State: (memory (B, H, F, V + 1), the last column the sum of features, absent for `identity`; window)."""

    @dataclass(frozen=True)
    class Config:
        feature_map: str = option("elu", "what q and k pass through before they meet", choices=tuple(FEATURES))
        decay: str = option(
            "none",
            "forgetting: none, fixed a head, or learned from the input a head (scalar) or a key channel (vector)",
            choices=("none", "fixed", "scalar", "vector"),
        )
        feature_dim: int = option(
            16,
            "channels of q and k a head under --feature_map taylor, which makes 1 + n + n^2 features of n",
            least=1,
            most=64,
        )

    ops = ("linear_attention",)
    published = BlockDefaults("layer", 4, 0)

    @classmethod
    def kinds(cls, args):
        return {"linear_attention": args.decay}

    def __init__(self, args):
        super().__init__()
        V = head_size(args, 1.0)
        K = args.feature_dim if args.feature_map == "taylor" else V
        n_features = 1 + K + K * K if args.feature_map == "taylor" else K
        self.sizes = K, K, V
        self.features = FEATURES[args.feature_map]
        self.backend = parse_backend(args.backend, "linear_attention")
        self.qkv = nn.Linear(args.d_model, args.n_head * sum(self.sizes), bias=args.bias)
        self.out = nn.Linear(args.n_head * V, args.d_model, bias=args.bias)
        self.conv = make_conv(self.qkv.out_features, args, None)
        self.norm = nn.RMSNorm(V, eps=1e-5) if args.feature_map == "identity" else None
        self.memory = args.n_head, n_features, V + (self.norm is None)
        self.decay = args.decay
        if self.decay == "fixed":
            self.register_buffer("log_decay", fixed_log_decay(args.n_head), persistent=False)
        elif self.decay == "scalar":
            self.gate = nn.Linear(args.d_model, args.n_head)
        elif self.decay == "vector":
            self.gate = nn.Sequential(
                nn.Linear(args.d_model, GATE_RANK, bias=False), nn.Linear(GATE_RANK, args.n_head * n_features)
            )

    def _mix(self, x, memory, window):
        qkv, window = self._convolve(self.qkv(x), window)
        q, k, v = split_heads(at_least_float32(qkv), self.memory[0], self.sizes)
        q, k = self.features(q), self.features(k)
        if self.norm is not None:
            o, memory = self._attend(q, k, v, self._log_decay(x), memory, self.sizes[0] ** -0.5)
            o = self.norm(o)
        else:
            sums, memory = self._attend(
                q, k, F.pad(v, (0, 1), value=1.0), self._log_decay(x), memory
            )  # a value of 1 sums the features
            o = sums[..., :-1] / (sums[..., -1:] + EPS)
        return self.out(o.flatten(-2).to(qkv.dtype)), memory, window

    def _log_decay(self, x):
        """None, (H,), (..., H) or (..., H, F)."""
        if self.decay == "none":
            return None
        if self.decay == "fixed":
            return self.log_decay
        gate = log_gate(self.gate(x))
        return gate if self.decay == "scalar" else gate.unflatten(-1, self.memory[:2])


def build_model(vocab_size: int, args) -> Backbone:
    """The linear attention model of a run configuration."""
    return build(LinearAttention, vocab_size, args, max_len_of(args))
