"""Multi-head causal attention. With the shared backbone it is the decoder-only transformer (pre-norm, GELU MLP).

    paper         here         shape           meaning
    x_t           x            (..., D)        input of the layer at token t
    Q, K, V       q, k, v      (B, H, T, K)    queries, keys and values; this file puts heads before time
    d_k           head_size    -               channels per head
    W^O           out          (D, D)          output map
    theta_i       rope_rates   (K / 2,)        radians per position of each channel pair (rope)
    m             slopes       (H,)            penalty per token of distance, one per head (ALiBi)

    o_t = sum_{s <= t} softmax_s( q_t^T k_s / sqrt(K) + bias(t - s) ) v_s ,   y_t = W_o concat_h(o_t)

Positions (`--pos`): `learned` (the default), `sinusoidal` and `none` come from the backbone. Two are in this file:
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
  `--norm rms --mlp swiglu --pos rope --no_bias` gives these. Not here: fewer key and value heads than query heads, a
  norm on q and k.
- `--fair` moves `--short_conv` to the layer's input, and takes away dropout of the attention weights.

src/ops/attention computes the sum. Cost per token O(D^2 + T D). State: 2 T D numbers per layer and sequence, 2 W D with
a window.

    python benchmark.py --task needle --model transformer --pos rope
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from src.flags.fields import option
from src.flags.run_flags import drop_rate
from src.models.backbone import Backbone, build, max_len_of
from src.models.contract import Mixer, State
from src.models.modules import Linear
from src.models.parts import apply_rotary, check_heads
from src.models.short_conv import make_conv
from src.ops.attention import attention
from src.ops.backends import parse_backend
from src.ops.precision import accumulation_dtype

ROPE_BASE = 10_000.0


class Attention(Mixer):
    """Causal multi-head attention.

    State: (keys and values (2, B, H, max_len or window, K), tokens so far, the short convolution's window or None).
    With --window the cache is a ring: the token at position t is in slot t mod window.
    """

    @dataclass(frozen=True)
    class Config:
        window: int = option(0, "characters that attention sees, the present one included; 0 = all", least=0)

    positions = ("rope", "alibi")
    default_pos = "learned"
    has_heads = True
    ops = ("attention", "rope", "linear")
    own_conv = True

    @classmethod
    def called(cls, args):
        return tuple(op for op in cls.ops if op != "rope" or args.pos == "rope")

    def __init__(self, args):
        super().__init__()
        check_heads(args.d_model, args.n_head, args.pos)
        self.n_head = args.n_head
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

    def forward(self, x):
        q, k, v, _ = self._project(x, 0, None)
        return self._attend(q, k, v)

    def init_state(self, batch_size: int, max_len: int) -> State:
        """An empty cache in the dtype that keys and values will have: autocast's where it is on, else the weights'."""
        weight = self.qkv.weight
        device_type = weight.device.type
        dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else weight.dtype
        slots = self.window or max_len
        cache = torch.empty(2, batch_size, self.n_head, slots, self.head_size, dtype=dtype, device=weight.device)
        return cache, 0, None if self.conv is None else self.conv.init_state(batch_size)

    def prefill(self, x, state: State):
        cache, start, seen = state
        q, k, v, seen = self._project(x, start, seen)
        end = start + x.shape[1]
        if self.window:
            past = self._ring_order(cache, start)
            self._write_ring(cache, k, v, end)
            if start:
                k, v = (torch.cat(pair, dim=2) for pair in zip(past.to(k.dtype), (k, v), strict=True))
        else:
            keys, values = room(cache, end).unbind(0)
            keys[:, :, start:] = k
            values[:, :, start:] = v
            if start:
                k, v = keys, values
        return self._attend(q, k, v), (cache, end, seen)

    def step(self, x, state: State):
        cache, start, seen = state
        q, k, v, seen = self._project(x[:, None], start, seen)
        filled = min(start + 1, self.window) if self.window else start + 1
        keys, values = room(cache, filled).unbind(0)
        slot = start % self.window if self.window else start
        keys.select(2, slot).copy_(k.squeeze(2))
        values.select(2, slot).copy_(v.squeeze(2))
        bias = None
        if self.pos == "alibi":
            # A ring overwrites its oldest slot, so distances wrap around.
            distance = (slot - torch.arange(filled, device=x.device)) % (self.window or start + 1)
            bias = -self.slopes[:, None, None] * distance
        return self._mix(q, keys, values, bias, window=0).squeeze(1), (cache, start + 1, seen)

    def _ring_order(self, cache, tokens: int):
        """A copy of the keys and values (2, B, H, at most window, K) of a ring that has seen `tokens`, oldest first."""
        if tokens <= self.window:
            return cache[:, :, :, :tokens].clone()
        return cache.roll(-(tokens % self.window), dims=3)

    def _write_ring(self, cache, k, v, end: int) -> None:
        """Put the last keys and values (B, H, S, K), which end at position `end`, into their slots."""
        n = min(self.window, k.shape[2])
        slots = torch.arange(end - n, end, device=k.device) % self.window
        cache[:, :, :, slots] = torch.stack([k[:, :, -n:], v[:, :, -n:]]).to(cache.dtype)

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
        # Of the layouts tried, chunks have the fastest backward pass: one concatenation of contiguous rows.
        return *(part.view(B, T, self.n_head, self.head_size).transpose(1, 2) for part in qkv.chunk(3, dim=-1)), seen

    def _attend(self, q, k, v):
        """Outputs (B, S, D) of queries (B, H, S, K), which are the last S of the T positions of keys and values."""
        bias = alibi_bias(self.slopes, q.shape[2], k.shape[2]) if self.pos == "alibi" else None
        return self._mix(q, k, v, bias, self.window)

    def _mix(self, q, k, v, bias, window: int):
        y = attention(
            q, k, v, bias=bias, window=window, dropout_p=self.dropout, training=self.training, backend=self.backend
        )
        return self.out(y.transpose(1, 2).flatten(2))


def room(cache, end: int):
    """A view of the first `end` slots of a cache: (2, B, H, end, K)."""
    if end > cache.shape[3]:
        raise ValueError(f"{end} tokens do not fit a cache for {cache.shape[3]}; give init_state a larger max_len")
    return cache.narrow(3, 0, end)


def rope_rates(x):
    """Radians per position for the channel pairs of x (..., K): 10000^(-2i/K), (K / 2,).

    Su et al. 2021, section 3.2.2.
    """
    K = x.shape[-1]
    return ROPE_BASE ** (torch.arange(0, K, 2, device=x.device, dtype=accumulation_dtype(x)) / -K)


def alibi_slopes(n_head: int):
    """One slope per head (H,): 2^(-8/n), 2^(-16/n), ... for n heads, a power of two.

    Other counts take the slopes of the power below, then every second one of the next power. Press et al. 2022, section
    3, and their released code for other counts.
    """

    def powers(n):
        return [2.0 ** (-8.0 * i / n) for i in range(1, n + 1)]

    below = 2 ** int(math.log2(n_head))
    return torch.tensor((powers(below) + powers(2 * below)[::2])[:n_head])


def alibi_bias(slopes, queries: int, keys: int):
    """-slope x distance for the last `queries` of `keys` positions: (H, queries, keys). The op masks later keys."""
    at = torch.arange(keys, device=slopes.device)
    distance = at[keys - queries :, None] - at
    return -slopes[:, None, None] * distance


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
