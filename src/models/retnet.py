"""RetNet: multi-scale retention, linear attention with a fixed decay a head and rotated queries and keys.

    S_t = g_h S_{t-1} + k_t v_t^T / sqrt(K) ,   o_t = S_t^T q_t ,   g_h = 1 - 2^(-5 - h)
    y_t = W_o [ silu(W_g x_t) * GroupNorm_h(o_t) ] ,   q_t = R_t W_q x_t ,   k_t = R_t W_k x_t

Sun et al. 2023, arXiv:2307.08621, equations 5-8: keys of d_model, values of 2 d_model, GroupNorm of one group a head without weights, pre-LayerNorm
and a GELU MLP of 2 d_model (section 3.1, parameter allocation). R_t turns neighbouring channels (2i, 2i + 1) by t x 10000^(-i / (K/2 - 1)): the
angles of the authors' release, torchscale, as are the epsilon (1e-6) and the initialisation, Xavier-uniform with gain 2^(-5/2) for
W_q, W_k, W_v, W_g and 1 for W_o. No biases.

Differs: the paper also divides the rows of decays and scores by positive numbers (section 2.2), which the GroupNorm undoes; that is left out.
Head sizes that do not come out whole are rounded up. `--short_conv K` puts a SiLU convolution on q, k, v, which was not published.

`--bias` concerns the norms around this layer only. Cost a token O(D^2 + D K); state (B, H, D / H, 2 D / H) float32 and the position, whatever T.
python benchmark.py --model retnet
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from src.flags.fields import UserError
from src.models.backbone import Backbone, build, max_len_of
from src.models.contract import BlockDefaults, State
from src.models.parts import (
    Expansion,
    LinearMixer,
    at_least_float32,
    fixed_log_decay,
    gated,
    head_size,
    make_conv,
    split_heads,
    xavier_parts,
)
from src.ops.backends import parse_backend
from src.ops.precision import accumulation_dtype

ANGLE_BASE = 10_000.0
NORM_EPS = 1e-6


class RetNet(LinearMixer):
    """State: (memory (B, H, K, V), the convolution's window where there is one, tokens so far)."""

    Config = Expansion
    ops = ("linear_attention",)
    published = BlockDefaults("layer", 2, 0)

    @classmethod
    def kinds(cls, args):
        return {"linear_attention": "fixed"}

    def __init__(self, args):
        super().__init__()
        H = args.n_head
        K, V = head_size(args, args.expand_k or 1.0), head_size(args, args.expand_v or 2.0)
        if K % 2:
            raise UserError(
                f"--n_head: got {H}, which gives heads of {K} key channels, allowed: an even number of them, because retention turns "
                "pairs of channels; change --n_head, --d_model or --expand_k"
            )
        self.memory = H, K, V
        self.backend = parse_backend(args.backend, "linear_attention")
        self.qkvg = nn.Linear(args.d_model, H * (2 * K + 2 * V), bias=False)
        self.out = nn.Linear(H * V, args.d_model, bias=False)
        self.conv = make_conv(H * (2 * K + V), args, "silu")
        self.register_buffer("log_decay", fixed_log_decay(H), persistent=False)
        xavier_parts(self.qkvg.weight, [H * K, H * K, H * V, H * V])
        nn.init.xavier_uniform_(self.out.weight)

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
        q, k = turn(qk.unflatten(-1, (2 * H, K)), start).chunk(2, dim=-2)
        (v,) = split_heads(v, H, (V,))
        o, memory = self._attend(q, k, v, self.log_decay, memory, K**-0.5)
        return self.out(gated(F.layer_norm(at_least_float32(o), (V,), eps=NORM_EPS), g)), memory, window


def turn(x, start: int):
    """x (B, T, H, K), or (B, H, K) of one token, at positions start, start + 1, ...: each channel pair (2i, 2i + 1) turned by position x rate_i,
    the rates falling geometrically from 1 to 1/10000. In float32; the result has x's dtype."""
    pairs = x.shape[-1] // 2
    dtype = accumulation_dtype(x)
    rate = ANGLE_BASE ** -torch.linspace(0, 1, pairs, device=x.device, dtype=dtype)
    positions = torch.arange(start, start + (x.shape[1] if x.dim() == 4 else 1), device=x.device, dtype=dtype)
    angle = positions[:, None, None] * rate  # (T, 1, K / 2)
    cos, sin = angle.cos(), angle.sin()
    even, odd = at_least_float32(x).unflatten(-1, (pairs, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(x.dtype)


def build_model(vocab_size: int, args) -> Backbone:
    """The RetNet model of a run configuration."""
    return build(RetNet, vocab_size, args, max_len_of(args))
