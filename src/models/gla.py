"""Gated linear attention (GLA): a decay per key channel, learned from the input.

    paper      here            shape           meaning
    x_t        x               (..., D)        input of the layer at token t
    q_t, k_t   q, k            (..., H, K)     query and key
    v_t        v               (..., H, V)     value
    alpha_t    exp(decay)      (..., H, K)     what is kept of each row of the memory; `decay` is its logarithm, <= 0
    S_t        memory          (B, H, K, V)    the memory
    r_t        silu(g)         (..., H V)      output gate
    tau        16              -               temperature that keeps the decays near 1

    alpha_t = sigmoid(W_2 W_1 x_t + b)^(1/16) ,   S_t = diag(alpha_t) S_{t-1} + k_t v_t^T ,   o_t = S_t^T q_t / sqrt(K)
    y_t = W_o [ silu(W_g x_t) * RMSNorm_h(o_t) ]

Source: Yang et al. 2023, arXiv:2312.06635, section 4.4. Keys and queries have d_model / 2 channels, values d_model. W_1
has 16 rows. No convolution, and no bias except b. Initialisation and the RMSNorm per head as in the authors' release,
flash-linear-attention: Xavier-uniform with gain 2^(-5/2), and b zero.

Differs:
- The block's MLP is the backbone's (GELU, 4 x d_model), not a SwiGLU of equal size.
- Head sizes that are not whole are rounded up.
- `--short_conv W` adds a convolution with SiLU on q, k and v, an option of the release. `--bias` does not concern this
  layer.

src/ops/linear_attention has the recurrence, with decays of this kind as "vector". Cost per token O(D^2 + D K). State:
(B, H, D / 2H, D / H) float32 for any T.

    python benchmark.py --task needle --model gla
"""

from __future__ import annotations

from torch import nn

from src.models.backbone import Backbone, build, max_len_of
from src.models.contract import BlockDefaults
from src.models.initial import RELEASE_GAIN, xavier_parts
from src.models.parts import (
    GATE_RANK,
    Expansion,
    LinearMixer,
    at_least_float32,
    gated,
    head_size,
    log_gate,
    split_heads,
)
from src.models.short_conv import make_conv
from src.ops.backends import parse_backend


class GLA(LinearMixer):
    """State: (memory (B, H, K, V), the convolution's window if there is one)."""

    Config = Expansion
    ops = ("linear_attention",)
    published = BlockDefaults("rms", 4, 0)

    @classmethod
    def kinds(cls, args):
        return {"linear_attention": "vector"}

    def __init__(self, args):
        super().__init__()
        H, D = args.n_head, args.d_model
        K, V = head_size(args, args.expand_k or 0.5), head_size(args, args.expand_v or 1.0)
        self.memory = H, K, V
        self.backend = parse_backend(args.backend, "linear_attention")
        self.qkvg = nn.Linear(D, H * (2 * K + 2 * V), bias=False)
        self.gate = nn.Sequential(nn.Linear(D, GATE_RANK, bias=False), nn.Linear(GATE_RANK, H * K))
        self.norm = nn.RMSNorm(V, eps=1e-5)
        self.out = nn.Linear(H * V, D, bias=False)
        self.conv = make_conv(H * (2 * K + V), args, "silu")
        self.qkvg.parts = [H * K, H * K, H * V, H * V]
        for linear in (self.qkvg, *self.gate, self.out):
            xavier_parts(linear, RELEASE_GAIN)
        nn.init.zeros_(self.gate[1].bias)
        self.gate[1].bias._no_reinit = True

    def _mix(self, x, memory, window):
        H, K, V = self.memory
        qkv, g = self.qkvg(x).split([H * (2 * K + V), H * V], dim=-1)
        qkv, window = self._convolve(qkv, window)
        q, k, v = split_heads(qkv, H, (K, K, V))
        decay = log_gate(self.gate(x)).unflatten(-1, (H, K))
        o, memory = self._attend(q, k, v, decay, memory, K**-0.5)
        return self.out(gated(self.norm(at_least_float32(o)), g)), memory, window


def build_model(vocab_size: int, args) -> Backbone:
    """The GLA model of a run configuration."""
    return build(GLA, vocab_size, args, max_len_of(args))
