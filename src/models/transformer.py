"""Multi-head causal attention. With the shared backbone it is the decoder-only transformer (pre-norm, GELU MLP).

    paper         here         shape           meaning
    x_t           x            (..., D)        input of the layer at token t
    Q, K, V       q, k, v      (B, H, T, K)    queries, keys and values; this file puts heads before time
    d_k           head_size    -               channels per head
    W^O           out          (D, D)          output map
    theta_i       rope_rates   (K / 2,)        radians per position of each channel pair (rope)
    m             slopes       (H,)            penalty per token of distance, one per head (ALiBi)

    o_t = sum_{s <= t} softmax_s( q_t^T k_s / sqrt(K) + bias(t - s) ) v_s ,   y_t = W_o concat_h(o_t)

Positions (`--pos`): `learned` (the default), `sinusoidal` and `none` come from the backbone. Two act inside attention:
- rope    rotates q and k. Su et al. 2021, arXiv:2104.09864, section 3.4.
- alibi   bias(t - s) = -m (t - s). Press et al. 2022, arXiv:2108.12409, section 3.

Flags:
- `--window W`      a token sees the last W tokens only, itself included. The cache is then a ring of W keys and values.
                    Child et al. 2019, arXiv:1904.10509; Beltagy et al. 2020, arXiv:2004.05150, section 3.1.
- `--short_conv N`  a causal convolution on q, k and v, without an activation.
                    So et al. 2021 (Primer), arXiv:2109.08668, section 3.

Sources: Vaswani et al. 2017, arXiv:1706.03762. Pre-norm and GELU as in Radford et al. 2019 (GPT-2). Each part, with its
initialisation, is that of `nn.TransformerEncoderLayer(norm_first=True, activation="gelu")` under a causal mask.
`to_stock` and `from_stock` convert the weights.

Differs:
- From Vaswani et al.: a decoder alone, norms before attention and MLP and one after the last block, GELU for ReLU,
  learned positions for sinusoids, embeddings not scaled by sqrt(D).
- From GPT-2 and nanoGPT: their maps and embeddings start normal with standard deviation 0.02, and maps onto the
  residual stream with 0.02 / sqrt(2 n_layer). Their head is the embedding (here with `--tie_weights`). GPT-2
  approximates GELU with tanh; nanoGPT and this file do not. They have no dropout between GELU and the last map of the
  MLP. The stock layer has it, and so has this one. nanoGPT has no biases by default.
- From today's decoders (Llama, flash-linear-attention's transformer): RMSNorm, SwiGLU, rotated q and k, no biases.
  `--norm rms --mlp swiglu --pos rope --no_bias` gives these. `--model llama` is that block itself, with fewer key and
  value heads than query heads and a norm on q and k to choose.
- `--fair` moves `--short_conv` to the layer's input, and takes away dropout of the attention weights.

src/models/causal_attention.py has the cache and decoding. Cost per token O(D^2 + T D). State: 2 T D numbers per layer
and sequence, 2 W D with a window.

    python benchmark.py --task needle --model transformer --pos rope
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from src.flags.fields import option
from src.flags.run_flags import drop_rate
from src.models.backbone import Backbone, build, max_len_of
from src.models.causal_attention import CausalAttention, alibi_slopes
from src.models.modules import Linear
from src.models.parts import apply_rotary, check_heads
from src.models.short_conv import make_conv
from src.ops.backends import parse_backend
from src.ops.precision import accumulation_dtype

ROPE_BASE = 10_000.0


class Attention(CausalAttention):
    """Causal multi-head attention. Each head has its own keys and values. State: see `CausalAttention`."""

    @dataclass(frozen=True)
    class Config:
        window: int = option(0, "characters that attention sees, the present one included; 0 = all", least=0)

    positions = ("rope", "alibi")
    default_pos = "learned"
    ops = ("attention", "rope", "linear")
    own_conv = True

    @classmethod
    def called(cls, args):
        return tuple(op for op in cls.ops if op != "rope" or args.pos == "rope")

    def __init__(self, args):
        super().__init__()
        check_heads(args.d_model, args.n_head, args.pos)
        self.n_head = self.n_kv_head = args.n_head
        self.head_size = args.d_model // args.n_head
        self.dropout = drop_rate(args, "attn")
        self.window = args.window
        self.backend = parse_backend(args.backend, "attention")
        self.rope_backend = parse_backend(args.backend, "rope")
        self.pos = args.pos
        self.qkv = Linear(args.d_model, 3 * args.d_model, bias=args.bias, backend=args.backend)
        self.qkv.parts = [args.d_model] * 3
        self.conv = make_conv(3 * args.d_model, args, None)
        self.out = Linear(args.d_model, args.d_model, bias=args.bias, backend=args.backend)
        nn.init.xavier_uniform_(self.qkv.weight)  # as one map, and zero biases: so does nn.MultiheadAttention
        for linear in (self.qkv, self.out):
            if args.bias:
                nn.init.zeros_(linear.bias)
        if self.pos == "alibi":
            self.register_buffer("slopes", alibi_slopes(self.n_head), persistent=False)

    def _project(self, x, start: int, seen):
        """Queries, keys and values (B, H, T, K) of x (B, T, D) at positions start .. start + T - 1, and the window."""
        B, T, _ = x.shape
        qkv = self.qkv(x)
        if self.conv is not None:
            qkv, seen = self.conv(qkv, seen)
        if self.pos == "rope":
            qk, v = qkv.split([2 * self.n_head * self.head_size, self.n_head * self.head_size], dim=-1)
            qk = qk.view(B, T, 2 * self.n_head, self.head_size)
            qk = apply_rotary(qk, start, rope_rates(qk), self.rope_backend)
            q, k = qk.transpose(1, 2).chunk(2, dim=1)
            return q, k, v.view(B, T, self.n_head, self.head_size).transpose(1, 2), seen
        if T == 1:  # a step of decoding: fewer views
            return *qkv.view(B, 3, self.n_head, 1, self.head_size).unbind(1), seen
        # Of the layouts tried, chunks have the fastest backward pass: one concatenation of contiguous rows.
        return *(part.view(B, T, self.n_head, self.head_size).transpose(1, 2) for part in qkv.chunk(3, dim=-1)), seen

    def _output(self, y):
        return self.out(y)


def rope_rates(x):
    """Radians per position for the channel pairs of x (..., K): 10000^(-2i/K), (K / 2,).

    Su et al. 2021, section 3.2.2.
    """
    K = x.shape[-1]
    return ROPE_BASE ** (torch.arange(0, K, 2, device=x.device, dtype=accumulation_dtype(x)) / -K)


def build_model(vocab_size: int, args) -> Backbone:
    """The transformer of a run configuration."""
    return build(Attention, vocab_size, args, max_len_of(args))


STOCK_NAMES = {
    "norm1": "norm1",
    "mixer.qkv": "self_attn.in_proj_",
    "mixer.out": "self_attn.out_proj",
    "norm2": "norm2",
    "mlp.up": "linear1",
    "mlp.down": "linear2",
}


def _stock_pairs(model: Backbone) -> list[tuple[str, torch.Tensor]]:
    """(name in the stock encoder, our parameter) of blocks and final norm; ValueError where no stock layer fits."""
    if not isinstance(model, Backbone) or set(model.mixer_classes) != {Attention}:
        raise ValueError(f"model: got {type(model).__name__}, allowed: the backbone around Attention")
    if model.pos in ("rope", "alibi"):
        raise ValueError(
            f"pos: got '{model.pos}', allowed: learned, sinusoidal, none; "
            "the stock layer has no positions inside attention"
        )
    mlp = model.blocks[0].mlp
    if mlp is None:
        raise ValueError("dim_ffn: got 0, allowed: >= 1; the stock layer always has an MLP")
    if mlp.gate is not None:
        raise ValueError("mlp: got 'swiglu', allowed: gelu; the stock layer's MLP has no gate")
    pairs = [(f"norm.{name}", p) for name, p in model.norm.named_parameters()]
    for i, block in enumerate(model.blocks):
        for ours, stock in STOCK_NAMES.items():
            joint = "" if stock.endswith("_") else "."  # the fused map is a bare parameter there, not a module
            pairs += [
                (f"layers.{i}.{stock}{joint}{name}", p) for name, p in block.get_submodule(ours).named_parameters()
            ]
    return pairs


def to_stock(model: Backbone) -> dict[str, torch.Tensor]:
    """A state dict, copied, with which a stock encoder gives the same hidden states under a causal mask:

    nn.TransformerEncoder(
        nn.TransformerEncoderLayer(d, h, ffn, dropout, "gelu", batch_first=True, norm_first=True), n,
        norm=nn.LayerNorm(d)
    )
    """
    return {name: p.detach().clone() for name, p in _stock_pairs(model)}


def from_stock(state: dict[str, torch.Tensor], model: Backbone) -> Backbone:
    """Load a stock encoder's state dict into the blocks and the final norm of `model`, which is returned.

    Raises ValueError where a name is missing, unknown, or has another shape.
    """
    pairs = dict(_stock_pairs(model))
    if pairs.keys() != state.keys():
        raise ValueError(
            f"state: missing {sorted(pairs.keys() - state.keys()) or 'none'}, "
            f"unknown {sorted(state.keys() - pairs.keys()) or 'none'}"
        )
    for name, p in pairs.items():
        if p.shape != state[name].shape:
            raise ValueError(f"state: {name} has shape {tuple(state[name].shape)}, allowed: {tuple(p.shape)}")
    with torch.no_grad():
        for name, p in pairs.items():
            p.copy_(state[name])
    return model
