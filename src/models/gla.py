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

The block has RMSNorm and a SwiGLU MLP with as many parameters as a GELU MLP of 4 x d_model (section 4.4).

Differs from the paper:
- The MLP has biases unless `--bias False`. Theirs has none. `--bias` does not concern the layer itself.
- Its hidden width is rounded to a multiple of 8 (theirs: 256, upwards). Head sizes that are not whole are rounded up.
- Dropout where `--dropout` asks for it, which also acts inside the MLP. The paper has none.
- `--short_conv W` adds a convolution with SiLU on q, k and v, an option of the release.

Differs from flash-linear-attention of today:
- There all maps and embeddings start normal with standard deviation 0.02, a rule of its model class that overrides the
  layer's own. Its norms have epsilon 1e-6 (here 1e-5). It has 4 heads whatever the width.
- The same: temperature 16, no lower bound of the decay, no feature map of q and k, the gain of the norm per head.

src/ops/linear_attention has the recurrence, with decays of this kind as "vector". Cost per token O(D^2 + D K). State:
(B, H, D / 2H, D / H) float32 for any T.

    python benchmark.py --task needle --model gla
"""

from __future__ import annotations

from torch import nn

from src.models.backbone import Backbone, build, max_len_of
from src.models.contract import BlockDefaults
from src.models.initial import RELEASE_GAIN, xavier_parts
from src.models.modules import Linear, RMSNorm
from src.models.parts import (
    Expansion,
    LinearMixer,
    at_least_float32,
    gated,
    head_size,
    log_gate,
    low_rank,
    split_heads,
)
from src.models.short_conv import make_conv
from src.ops.backends import parse_backend


class GLA(LinearMixer):
    """State: (memory (B, H, K, V), the convolution's window if there is one)."""

    Config = Expansion
    ops = ("linear_attention", "rmsnorm", "swiglu", "linear")
    published = BlockDefaults("rms", 4, 0, "swiglu")

    @classmethod
    def kinds(cls, args):
        return {"linear_attention": "vector"}

    def __init__(self, args):
        super().__init__()
        H, D = args.n_head, args.d_model
        K, V = head_size(args, args.expand_k or 0.5), head_size(args, args.expand_v or 1.0)
        self.memory = H, K, V
        self.backend = parse_backend(args.backend, "linear_attention")
        self.gate_backend = parse_backend(args.backend, "swiglu")
        self.qkvg = Linear(D, H * (2 * K + 2 * V), bias=False, backend=args.backend)
        self.gate = low_rank(D, H * K, args)
        self.norm = RMSNorm(V, 1e-5, args.backend)
        self.out = Linear(H * V, D, bias=False, backend=args.backend)
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
        return self.out(gated(self.norm(at_least_float32(o)), g, self.gate_backend)), memory, window


def build_model(vocab_size: int, args) -> Backbone:
    """The GLA model of a run configuration."""
    return build(GLA, vocab_size, args, max_len_of(args))
