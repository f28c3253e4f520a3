"""RetNet: multi-scale retention, which is linear attention with one fixed decay per head and rotated queries and keys.

    paper      here             shape           meaning
    X_n        x                (..., D)        input of the layer at token n, below t
    Q_n, K_n   q, k             (..., H, K)     query and key, rotated by their position
    V_n        v                (..., H, V)     value
    gamma      exp(log_decay)   (H,)            what is kept of the memory; a constant of each head
    S_n        memory           (B, H, K, V)    the memory
    Theta      angle_rates      (K / 2,)        radians per position of each channel pair

    S_t = gamma_h S_{t-1} + k_t v_t^T / sqrt(K) ,   o_t = S_t^T q_t ,   gamma_h = 1 - 2^(-5 - h)
    y_t = W_o [ silu(W_g x_t) * GroupNorm_h(o_t) ] ,   q_t = R_t W_q x_t ,   k_t = R_t W_k x_t

R_t rotates neighbouring channels (2i, 2i + 1) by t x 10000^(-i / (K/2 - 1)). So q_t^T k_s depends on the distance t - s
only.

Source: Sun et al. 2023, arXiv:2307.08621, equations 5-8. Keys have d_model channels and values 2 d_model. GroupNorm has
one group per head and no weights. LayerNorm before the layer, and a GELU MLP of 2 d_model (section 3.1, parameter
allocation). No biases. The angles, the epsilon (1e-6) and the initialisation are those of the authors' release,
torchscale: Xavier-uniform with gain 2^(-5/2) for W_q, W_k, W_v and W_g, and with gain 1 for W_o.

Differs from the paper:
- The paper also divides the rows of decays and scores by positive numbers (section 2.2). GroupNorm undoes this, up to
  its epsilon, so it is left out.
- The MLP and the norms of the block have biases unless `--bias False`. `--bias` does not concern the layer itself.
- `--n_head` heads of any size. The paper keeps heads of 256 key channels and adds heads. Head sizes that are not whole
  are rounded up.
- `--short_conv W` adds a convolution with SiLU on q, k and v, which was not published.

Differs from torchscale of today, which was changed after the paper:
- Its blocks and its heads have RMSNorm. The norm of a head has no gain there and here, but here it subtracts the mean.
- Its MLP is gated: a SwiGLU, where its activation is swish. `--norm rms --mlp swiglu` gives both.
- Its head starts normal with standard deviation d_model^(-1/2). Its options of scaled embeddings, mixtures of experts,
  DeepNorm and dropped paths are not here.

Differs from flash-linear-attention: RMSNorm in blocks and heads, with gains (epsilon 1e-6 as here); a SwiGLU MLP of the
same size; rotation of channel i with i + K/2 by 10000^(-2i/K); all maps start normal with standard deviation 0.02.

src/ops/linear_attention has the recurrence. Cost per token O(D^2 + D K). State: (B, H, D / H, 2 D / H) float32 and the
position, for any T.

    python benchmark.py --task needle --model retnet
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from src.flags.fields import UserError
from src.models.backbone import Backbone, build, max_len_of
from src.models.contract import BlockDefaults, State
from src.models.initial import RELEASE_GAIN, xavier_parts
from src.models.modules import Linear
from src.models.parts import (
    Expansion,
    LinearMixer,
    apply_rotary,
    at_least_float32,
    fixed_log_decay,
    gated,
    head_size,
    split_heads,
)
from src.models.short_conv import make_conv
from src.ops.backends import parse_backend
from src.ops.precision import accumulation_dtype

ANGLE_BASE = 10_000.0
NORM_EPS = 1e-6


class RetNet(LinearMixer):
    """State: (memory (B, H, K, V), the convolution's window if there is one, tokens so far)."""

    Config = Expansion
    ops = ("linear_attention", "rope", "swiglu", "linear")
    published = BlockDefaults("layer", 2, 0)
    keeps = ("it rotates queries and keys by their position",)

    @classmethod
    def kinds(cls, args):
        return {"linear_attention": "fixed"}

    def __init__(self, args):
        super().__init__()
        H = args.n_head
        K, V = head_size(args, args.expand_k or 1.0), head_size(args, args.expand_v or 2.0)
        if K % 2:
            raise UserError(
                f"--n_head: got {H}, which gives heads of {K} key channels, allowed: an even number of them, because "
                "retention rotates pairs of channels; change --n_head, --d_model or --expand_k"
            )
        self.memory = H, K, V
        self.backend = parse_backend(args.backend, "linear_attention")
        self.rope_backend = parse_backend(args.backend, "rope")
        self.gate_backend = parse_backend(args.backend, "swiglu")
        self.qkvg = Linear(args.d_model, H * (2 * K + 2 * V), bias=False, backend=args.backend)
        self.out = Linear(H * V, args.d_model, bias=False, backend=args.backend)
        self.conv = make_conv(H * (2 * K + V), args, "silu")
        self.register_buffer("log_decay", fixed_log_decay(H), persistent=False)
        self.qkvg.parts = [H * K, H * K, H * V, H * V]
        xavier_parts(self.qkvg, RELEASE_GAIN)
        xavier_parts(self.out, 1.0)

    def init_state(self, batch_size: int, max_len: int) -> State:
        return (*super().init_state(batch_size, max_len), 0)

    def prefill(self, x, state: State):
        return self._from(state[-1], x, state, x.shape[1])

    def step(self, x, state: State):
        return self._from(state[-1], x, state, 1)

    def _from(self, start: int, x, state, tokens: int):
        y, inner = self._advance(x, state[:-1], start)
        return y, (*inner, start + tokens)

    def _mix(self, x, memory, window, start: int = 0):
        H, K, V = self.memory
        qkv, g = self.qkvg(x).split([H * (2 * K + V), H * V], dim=-1)
        qkv, window = self._convolve(qkv, window)
        qk, v = qkv.split([2 * H * K, H * V], dim=-1)
        qk = qk.unflatten(-1, (2 * H, K))
        q, k = apply_rotary(qk, start, angle_rates(qk), self.rope_backend).chunk(2, dim=-2)
        (v,) = split_heads(v, H, (V,))
        o, memory = self._attend(q, k, v, self.log_decay, memory, K**-0.5)
        o = F.layer_norm(at_least_float32(o), (V,), eps=NORM_EPS)
        return self.out(gated(o, g, self.gate_backend)), memory, window


def angle_rates(x):
    """Radians per position for the channel pairs of x (..., K): (K / 2,), from 1 down to 1/10000. As in torchscale."""
    return ANGLE_BASE ** -torch.linspace(0, 1, x.shape[-1] // 2, device=x.device, dtype=accumulation_dtype(x))


def build_model(vocab_size: int, args) -> Backbone:
    """The RetNet model of a run configuration."""
    return build(RetNet, vocab_size, args, max_len_of(args))
