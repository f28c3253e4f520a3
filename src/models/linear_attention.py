"""Linear attention, the bare block: a feature map and a decay, nothing else.

    paper      here            shape               meaning
    x_i        x               (..., D)            input of the layer at token i, below t
    q, k       q, k            (..., H, K)         query and key; after the feature map F features each
    v          v               (..., H, V)         value
    phi        features        K -> F              feature map
    s_i        memory[.., :V]  (B, H, F, V)        sum of phi(k) v^T, below S_t
    z_i        memory[.., V]   (B, H, F)           sum of phi(k); the last column of the memory
    -          exp(decay)      (..., H, F)         what is kept of the sums, below a_t; one per head if all F share it

    S_t = diag(a_t) S_{t-1} + phi(k_t) v_t^T ,   z_t = diag(a_t) z_{t-1} + phi(k_t)
    o_t = S_t^T phi(q_t) / (z_t^T phi(q_t) + 1e-6)

So o_t is a weighted mean of the values with the weights phi(q_t)^T phi(k_i). Softmax attention is the same mean with
the weights exp(q_t^T k_i / sqrt(K)). Here the sums S and z have a fixed size. The decay acts on both, so o_t stays a
mean.

Source: Katharopoulos et al. 2020, arXiv:2006.16236, equations 16-20. The defaults, `--feature_map elu --decay none`,
are its block: maps with biases, LayerNorm, an MLP of 4 x d_model, and torch's initialisation of linear maps.

`--feature_map`
- elu        elu(x) + 1. Katharopoulos et al. 2020, equation 7.
- relu       max(x, 0). Kasai et al. 2021 (T2R), arXiv:2103.13076, without its trained map. 0 / 0 gives 0.
- taylor     [1, x / K^(1/4), (x (x) x) / sqrt(2 K)], so that phi(q)^T phi(k) = 1 + s + s^2 / 2 with s = q^T k /
             sqrt(K). This is exp(s) to second order. It reads `--feature_dim` channels per head. Arora et al. 2024
             (Based), arXiv:2402.18668.
- identity   x, and o is scaled by K^(-1/2). The sum of keys may be zero, so it cannot normalise. An RMSNorm per head
             replaces it, because the sums grow with T. Qin et al. 2022 (TransNormer), arXiv:2210.10340.

`--decay`
- none       a = 1.
- fixed      a = 1 - 2^(-5 - h) for head h = 0, 1, ... Sun et al. 2023 (RetNet), arXiv:2307.08621, equation 8.
- scalar     a_t = sigmoid(w^T x_t + b)^(1/16) per head. Sun et al. 2024 (gated retention), arXiv:2405.05254.
- vector     a_t = sigmoid(W_2 W_1 x_t + b)^(1/16) per head and key channel; W_1 has 16 rows. Yang et al. 2023 (GLA),
             arXiv:2312.06635, section 4.4.

Differs from the paper and its release, fast-transformers:
- The norm is before the layer and before the MLP. In the release it is after each sum (post-norm).
- The MLP has GELU. The release has ReLU by default, and GELU as an option.
- No positions by default, although only causality gives this layer an order. The paper's models add encodings of the
  position: `--pos learned` or `sinusoidal`.
- `--short_conv W` adds a convolution on q, k and v without an activation. The gates of `--decay` are not theirs, and
  keep their biases under `--bias False`.

Differs from flash-linear-attention of today: there the feature map multiplies two learned maps, the sum of the keys
does not normalise unless asked for, an RMSNorm with a gain per head follows, no map has a bias, and the block has
RMSNorm and a SwiGLU MLP. `--feature_map identity --norm rms --mlp swiglu --no_bias` comes nearest.

src/ops/linear_attention has the recurrence. Features, sums and decays are float32 under autocast. Cost
per token O(D^2 + F D) with F features per head. State: (B, H, F, D / H + 1) float32 for any T.

    python benchmark.py --task needle --model linear_attention --decay scalar
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from src.flags.fields import option
from src.models.backbone import Backbone, build, max_len_of
from src.models.contract import BlockDefaults
from src.models.modules import Linear, RMSNorm
from src.models.parts import (
    LinearMixer,
    at_least_float32,
    fixed_log_decay,
    head_size,
    log_gate,
    low_rank,
    split_heads,
)
from src.models.short_conv import make_conv
from src.ops.backends import parse_backend

EPS = 1e-6  # in the denominator, as in the code released with Katharopoulos et al. 2020


def taylor(x):
    """Features (..., 1 + K + K^2) of x (..., K) with taylor(q)^T taylor(k) = 1 + s + s^2 / 2, s = q^T k / sqrt(K)."""
    K = x.shape[-1]
    x = x * K**-0.25
    second = (x[..., :, None] * x[..., None, :]).flatten(-2) * 0.5**0.5
    return torch.cat([torch.ones_like(x[..., :1]), x, second], dim=-1)


FEATURES = {"elu": lambda x: F.elu(x) + 1, "relu": F.relu, "identity": lambda x: x, "taylor": taylor}


class LinearAttention(LinearMixer):
    """State: (memory (B, H, F, V + 1), the convolution's window if there is one).

    The last column of the memory is the sum of the features. `identity` has no such column.
    """

    @dataclass(frozen=True)
    class Config:
        feature_map: str = option("elu", "the map of queries and keys to features", choices=tuple(FEATURES))
        decay: str = option(
            "none",
            "decay of the memory: none, fixed per head, or learned per head (scalar) or per key channel (vector)",
            choices=("none", "fixed", "scalar", "vector"),
        )
        feature_dim: int = option(
            16,
            "channels of q and k per head with --feature_map taylor; n channels give 1 + n + n^2 features",
            least=1,
            most=64,
        )

    ops = ("linear_attention", "rmsnorm", "linear")
    published = BlockDefaults("layer", 4, 0)

    @classmethod
    def called(cls, args):
        return cls.ops if args.feature_map == "identity" else ("linear_attention", "linear")

    @classmethod
    def kinds(cls, args):
        return {"linear_attention": f"{args.decay} float32"}

    def __init__(self, args):
        super().__init__()
        V = head_size(args, 1.0)
        K = args.feature_dim if args.feature_map == "taylor" else V
        n_features = 1 + K + K * K if args.feature_map == "taylor" else K
        self.sizes = K, K, V
        self.features = FEATURES[args.feature_map]
        self.backend = parse_backend(args.backend, "linear_attention")
        self.qkv = Linear(args.d_model, args.n_head * sum(self.sizes), bias=args.bias, backend=args.backend)
        self.qkv.parts = [args.n_head * size for size in self.sizes]
        self.out = Linear(args.n_head * V, args.d_model, bias=args.bias, backend=args.backend)
        self.conv = make_conv(self.qkv.out_features, args, None)
        self.norm = RMSNorm(V, 1e-5, args.backend) if args.feature_map == "identity" else None
        self.memory = args.n_head, n_features, V + (self.norm is None)
        self.decay = args.decay
        if self.decay == "fixed":
            self.register_buffer("log_decay", fixed_log_decay(args.n_head), persistent=False)
        elif self.decay == "scalar":
            self.gate = Linear(args.d_model, args.n_head, backend=args.backend)
            self.gate.bias._no_reinit = True
        elif self.decay == "vector":
            self.gate = low_rank(args.d_model, args.n_head * n_features, args)
            self.gate[1].bias._no_reinit = True

    def _mix(self, x, memory, window):
        qkv, window = self._convolve(self.qkv(x), window)
        q, k, v = split_heads(at_least_float32(qkv), self.memory[0], self.sizes)
        q, k = self.features(q), self.features(k)
        if self.norm is not None:
            o, memory = self._attend(q, k, v, self._log_decay(x), memory, self.sizes[0] ** -0.5)
            o = self.norm(o)
        else:
            v = F.pad(v, (0, 1), value=1.0)  # the column of ones sums the features: z
            sums, memory = self._attend(q, k, v, self._log_decay(x), memory)
            o = sums[..., :-1] / (sums[..., -1:] + EPS)
        return self.out(o.flatten(-2).to(qkv.dtype)), memory, window

    def _log_decay(self, x):
        """The log decay at x: None, (H,), (..., H) or (..., H, F)."""
        if self.decay == "none":
            return None
        if self.decay == "fixed":
            return self.log_decay
        gate = log_gate(self.gate(x))
        return gate if self.decay == "scalar" else gate.unflatten(-1, self.memory[:2])


def build_model(vocab_size: int, args) -> Backbone:
    """The linear attention model of a run configuration."""
    return build(LinearAttention, vocab_size, args, max_len_of(args))
