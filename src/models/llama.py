"""The decoder of today: attention with rotated queries and keys, shared keys and values, RMSNorm, SwiGLU, no biases.

    paper          here       shape              meaning
    x_t            x          (..., D)           input of the layer at token t
    Q              q          (B, H, T, K)       queries
    K, V           k, v       (B, H_kv, T, K)    keys and values; H / H_kv neighbouring query heads share one of them
    theta_i        rates      (K / 2,)           radians per position of each channel pair: base^(-2i/K)

    q_t, k_t = R_t W_q x_t, R_t W_k x_t ,   R_t turns the channels (i, i + K/2) by t theta_i
    o_t = sum_{s <= t} softmax_s( q_t^T k_s / sqrt(K) ) v_s ,   y_t = W_o concat_h(o_t)

With the shared backbone this is the model that papers call Llama or "Transformer++" (Gu & Dao 2023, section 4.2.1).

Flags:
- `--n_kv_head N`   heads of keys and values; 0 is as many as query heads. N = 1 is multi-query attention.
- `--rope_base X`   base of the rotation's rates. Llama 1 and 2 have 10,000, Llama 3 has 500,000.
- `--qk_norm`       RMSNorm on each head of q and k, before the rotation. Henry et al. 2020, arXiv:2010.04245, with
                    RMSNorm in place of a unit length, as in Qwen3 (Yang et al. 2025, arXiv:2505.09388, section 2).
- `--window W`      a token sees the last W tokens only, itself included, as in Mistral (Jiang et al. 2023,
                    arXiv:2310.06825, section 2). The cache is then a ring of W keys and values.

Sources: Touvron et al. 2023, arXiv:2302.13971, section 2.2. Shared keys and values: Ainslie et al. 2023 (GQA),
arXiv:2305.13245, section 2.2, as in Llama 2 and 3. The norms add 1e-5 to the mean square (Llama 2; Llama 1 has 1e-6).
Names and layouts are those of transformers' `LlamaForCausalLM`: `to_hugging_face` and `from_hugging_face` carry the
weights over, `--qk_norm` to and from `Qwen3ForCausalLM`, `--window` to and from `MistralForCausalLM`.

Differs:
- The SwiGLU has 2/3 of 4 D channels as in Llama, rounded to a multiple of 8 and not up to one of 256.
- The initialisation of Llama is not published. Here maps start as an `nn.Linear` does. `--init normal --embed_std 0.02`
  is nearest to other code.
- Dropout acts where the backbone has it. Llama has none (`--dropout 0`).
- `--short_conv` and `--fair` put a convolution on the layer's input. Under `--fair` there is no rotation.

src/models/causal_attention.py has the cache and decoding. Cost per token O(D^2 + T D). State: 2 T H_kv K numbers per
layer and sequence, 2 W H_kv K with a window.

    python benchmark.py --task needle --model llama --n_kv_head 2
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from src.flags.fields import UserError, option
from src.flags.run_flags import RunArgs, drop_rate
from src.models.backbone import NORM_EPS, Backbone, build, head_scale, max_len_of
from src.models.causal_attention import CausalAttention, alibi_slopes
from src.models.contract import BlockDefaults
from src.models.modules import Linear, RMSNorm
from src.models.parts import Rotation, check_heads
from src.ops.backends import parse_backend
from src.ops.linear import linear

# A step makes one product of larger maps three: to copy their weights side by side takes longer than two more calls.
ONE_PRODUCT = 1 << 15


class Llama(CausalAttention):
    """Causal attention with rotated queries and keys, and shared keys and values. State: see `CausalAttention`."""

    @dataclass(frozen=True)
    class Config:
        n_kv_head: int = option(0, "heads of keys and values, a divisor of n_head; 0 = n_head", least=0)
        rope_base: float = option(10_000.0, "base of the rotation's rates", above=1.0, most=1e9)
        qk_norm: bool = option(False, "RMSNorm on each head of queries and keys")
        window: int = option(0, "characters that attention sees, the present one included; 0 = all", least=0)

    ops = ("attention", "rope", "rmsnorm", "linear")
    positions = ("rope", "alibi")
    default_pos = "rope"
    published = BlockDefaults("rms", 4, 0, "swiglu", bias=False)

    @classmethod
    def called(cls, args):
        left_out = (() if args.pos == "rope" else ("rope",)) + (() if args.qk_norm else ("rmsnorm",))
        return tuple(op for op in cls.ops if op not in left_out)

    def __init__(self, args):
        super().__init__()
        check_heads(args.d_model, args.n_head, args.pos)
        self.n_head, self.n_kv_head = args.n_head, kv_heads(args)
        self.head_size = args.d_model // args.n_head
        self.dropout = drop_rate(args, "attn")
        self.window = args.window
        self.backend = parse_backend(args.backend, "attention")
        self.pos = args.pos
        self.conv = None
        keys = self.n_kv_head * self.head_size
        self.q_proj = Linear(args.d_model, args.d_model, bias=False, backend=args.backend)
        self.k_proj = Linear(args.d_model, keys, bias=False, backend=args.backend)
        self.v_proj = Linear(args.d_model, keys, bias=False, backend=args.backend)
        self.o_proj = Linear(args.d_model, args.d_model, bias=False, backend=args.backend)
        self.q_norm = RMSNorm(self.head_size, NORM_EPS, args.backend) if args.qk_norm else None
        self.k_norm = RMSNorm(self.head_size, NORM_EPS, args.backend) if args.qk_norm else None
        turns = self.pos == "rope"
        self.rotation = Rotation(self.head_size, args.rope_base, parse_backend(args.backend, "rope")) if turns else None
        if self.pos == "alibi":
            self.register_buffer("slopes", alibi_slopes(self.n_head), persistent=False)

    def _project(self, x, start: int, seen):
        B, T, _ = x.shape
        H, H_kv = self.n_head, self.n_kv_head
        qkv = self._maps(x).view(B, T, H + 2 * H_kv, self.head_size)
        qk, v = qkv.split([H + H_kv, H_kv], dim=2)
        if self.q_norm is not None:
            q, k = qk.split([H, H_kv], dim=2)
            qk = torch.cat([self.q_norm(q), self.k_norm(k)], dim=2)
        if self.rotation is not None:
            qk = self.rotation(qk, start)
        q, k = qk.transpose(1, 2).split([H, H_kv], dim=1)
        return q, k, v.transpose(1, 2), seen

    def _maps(self, x):
        """Queries, keys and values of x (B, T, D), side by side: (B, T, (H + 2 H_kv) K)."""
        maps = self.q_proj, self.k_proj, self.v_proj
        if x.shape[1] == 1 and self.q_proj.weight.numel() > ONE_PRODUCT:
            return torch.cat([one(x) for one in maps], dim=-1)
        return linear(x, torch.cat([one.weight for one in maps]), None, self.q_proj.backend)

    def _output(self, y):
        return self.o_proj(y)


def kv_heads(args: RunArgs) -> int:
    """The heads of keys and values. UserError for a number that does not divide the heads of queries."""
    if args.n_kv_head and args.n_head % args.n_kv_head:
        allowed = [n for n in range(1, args.n_head + 1) if args.n_head % n == 0]
        nearest = min(allowed, key=lambda n: (abs(n - args.n_kv_head), n))
        raise UserError(
            f"--n_kv_head: got {args.n_kv_head}, allowed: a divisor of --n_head {args.n_head}, or 0 for as many; "
            f"try --n_kv_head {nearest}"
        )
    return args.n_kv_head or args.n_head


def build_model(vocab_size: int, args) -> Backbone:
    """The llama of a run configuration."""
    return build(Llama, vocab_size, args, max_len_of(args))


# --- weights of transformers -----------------------------------------------------------------------------------------

# Ours: theirs. "{i}" is the number of a block.
NAMES = {
    "embed.weight": "model.embed_tokens.weight",
    "blocks.{i}.norm1.weight": "model.layers.{i}.input_layernorm.weight",
    **{f"blocks.{{i}}.mixer.{m}_proj.weight": f"model.layers.{{i}}.self_attn.{m}_proj.weight" for m in "qkvo"},
    "blocks.{i}.mixer.q_norm.weight": "model.layers.{i}.self_attn.q_norm.weight",
    "blocks.{i}.mixer.k_norm.weight": "model.layers.{i}.self_attn.k_norm.weight",
    "blocks.{i}.norm2.weight": "model.layers.{i}.post_attention_layernorm.weight",
    **{f"blocks.{{i}}.mlp.{m}.weight": f"model.layers.{{i}}.mlp.{m}_proj.weight" for m in ("gate", "up", "down")},
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}


def names(args: RunArgs) -> dict[str, str]:
    """{our name: transformers' name} of all weights of a llama with these flags. A tied head has no entry.

    UserError for flags whose model transformers does not have.
    """
    _check_block(args)
    left_out = () if args.qk_norm else ("blocks.{i}.mixer.q_norm.weight", "blocks.{i}.mixer.k_norm.weight")
    left_out = (*left_out, "head.weight") if args.tie_weights else left_out
    found = {}
    for ours, theirs in NAMES.items():
        if ours not in left_out:
            blocks = range(args.n_layer) if "{i}" in ours else (0,)
            found |= {ours.format(i=i): theirs.format(i=i) for i in blocks}
    return found


def to_hugging_face(state: dict[str, torch.Tensor], args: RunArgs) -> dict[str, torch.Tensor]:
    """The state dict of a llama of ours as transformers' class has it, in copies. args: the decided flags of the run.

    With `--tie_weights` there is no lm_head.weight, and the scale of our logits is part of the last norm.
    UserError for flags whose model transformers does not have, ValueError for missing or unknown names.
    """
    table = names(args)
    tied = {"head.weight"} if args.tie_weights else set()
    _check_names(state.keys() - tied, table.keys())
    found = {theirs: state[ours].detach().clone() for ours, theirs in table.items()}
    found["model.norm.weight"] *= head_scale(args)
    return found


def from_hugging_face(state: dict[str, torch.Tensor], args: RunArgs) -> dict[str, torch.Tensor]:
    """The state dict of transformers' class for a llama with these flags, in copies: the inverse of `to_hugging_face`.

    An lm_head.weight beside tied embeddings is ignored. Raises as `to_hugging_face` does.
    """
    table = names(args)
    tied = {"lm_head.weight"} if args.tie_weights else set()
    _check_names(state.keys() - tied, set(table.values()))
    found = {ours: state[theirs].detach().clone() for ours, theirs in table.items()}
    found["norm.weight"] /= head_scale(args)
    return found | ({"head.weight": found["embed.weight"]} if args.tie_weights else {})


def _check_names(got, wanted) -> None:
    if got != wanted:
        raise ValueError(f"state: missing {sorted(wanted - got) or 'none'}, unknown {sorted(got - wanted) or 'none'}")


def _check_block(args: RunArgs) -> None:
    """UserError unless the block is that of transformers' Llama."""
    for flag, got, allowed in (
        ("pos", args.pos, "rope"),
        ("norm", args.norm, "rms"),
        ("mlp", args.mlp, "swiglu"),
        ("bias", args.bias, False),
        ("short_conv", args.short_conv, 0),
    ):
        if got != allowed:
            raise UserError(f"--{flag}: got {got}, allowed: {allowed}; the Llama of transformers has no other form")
    if not args.dim_ffn:
        raise UserError("--dim_ffn: got 0, allowed: >= 1; the Llama of transformers always has an MLP")
