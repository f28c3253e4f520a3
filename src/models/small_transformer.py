"""A small transformer to read from top to bottom: a language model in four classes, with nothing fused or cached.

    ids (B, T) -> embedding + positions -> n_layer x TransformerBlock -> norm -> head -> logits (B, T, C)

    block:      x = x + attention(norm1(x)) ,   x = x + feed_forward(norm2(x))
    attention:  w_ts = softmax over s <= t of (q_t . k_s / sqrt(K)) ,   y_t = W_o concat over heads of (sum_s w_ts v_s)

    B  batch    T  time, in tokens    D  width (d_model)    H  heads    K  channels per head, D / H    C  characters

One class serves two uses.
- Alone, as in notebooks/small_transformer.ipynb: `TransformerLM(vocab_size)` has the sizes of its constructor.
- In the bench (`--model small_transformer`): the flags of the run decide all sizes, and `from_flags` hands them over.
  Flags of the bench's block (--fair, --norm, --mlp, --short_conv, --tie_weights) change nothing in a whole model.

Sources: Vaswani et al. 2017, arXiv:1706.03762, section 3; norms before each part and GELU as in Radford et al. 2019.
Differs:
- From Vaswani et al.: a decoder alone, norm before each part, GELU for ReLU, embeddings not scaled by sqrt(D).
- From GPT-2 and nanoGPT: a head of its own, nn.Linear's start for all maps, dropout between GELU and the last map.
- From src/models/transformer.py: no cache, kernels, window, rope or alibi, and another start. With the same weights it
  is the same function, and so is `nn.TransformerEncoder(norm_first=True)` under a causal mask.
Cost per token O(D^2 + T D). While text is written it is O(T D^2 + T^2 D): each new token reads the whole text again.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from src.flags.fields import UserError
from src.models.backbone import build, is_right_padded, max_len_of
from src.models.contract import ARModel
from src.models.parts import check_heads
from src.ops.precision import no_autocast


def causal_mask(length: int, device=None):
    """Which positions may look where: (T, T) bool, True at [t, s] where s <= t."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def sinusoids(length: int, width: int, device=None):
    """Sine and cosine of t 10000^(-2i / D) for positions t = 0 .. T - 1 and channel pairs i: (T, D). Section 3.5."""
    pairs = (width + 1) // 2
    rates = torch.exp(torch.arange(pairs, device=device) * (-math.log(10_000.0) / pairs))
    angles = torch.arange(length, device=device)[:, None] * rates  # (T, D / 2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]


class MultiHeadAttention(nn.Module):
    """Each token gathers from itself and from the tokens before it, once per head: (B, T, D) -> (B, T, D)."""

    output_maps = ("out",)  # `--init normal` makes the maps into the residual stream smaller

    def __init__(self, d_model: int, n_head: int, dropout: float = 0.0):
        """Four maps (D, D).  dropout: share of weights that training sets to 0.  UserError if H does not divide D."""
        super().__init__()
        check_heads(d_model, n_head, "none")
        self.n_head = n_head
        self.query = nn.Linear(d_model, d_model)  # what a token looks for
        self.key = nn.Linear(d_model, d_model)  # what a token is found by
        self.value = nn.Linear(d_model, d_model)  # what a token hands over
        self.out = nn.Linear(d_model, d_model)
        self.dropout = nn.Dropout(dropout)

    def split(self, x):
        """Cut the channels into heads: (B, T, D) -> (B, H, T, K)."""
        return x.unflatten(-1, (self.n_head, -1)).transpose(1, 2)

    def weights(self, x):
        """How much token t takes from token s: x (B, T, D) -> (B, H, T, T). Each row sums to 1, and is 0 for s > t."""
        q, k = self.split(self.query(x)), self.split(self.key(x))
        # A sum of K products has a variance that grows with K. Without the division, softmax would begin saturated.
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, H, T, T)
        scores = scores.masked_fill(~causal_mask(x.shape[1], x.device), -math.inf)
        return scores.softmax(dim=-1)

    def forward(self, x):
        """x (B, T, D) -> y (B, T, D): the weighted mean of the values of each head, joined and mapped."""
        y = self.dropout(self.weights(x)) @ self.split(self.value(x))  # (B, H, T, K)
        return self.out(y.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """A small network that reads each token alone: (B, T, D) -> (B, T, D)."""

    output_maps = ("down",)

    def __init__(self, d_model: int, d_ff: int, dropout: float = 0.0):
        """Maps (D, d_ff) and (d_ff, D).  dropout: share of hidden channels that training sets to 0."""
        super().__init__()
        self.up = nn.Linear(d_model, d_ff)
        self.down = nn.Linear(d_ff, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        """x (B, T, D) -> y (B, T, D)."""
        return self.down(self.dropout(F.gelu(self.up(x))))


class TransformerBlock(nn.Module):
    """Attention, then feed-forward. Each reads a normed copy of x and adds its answer to x: (B, T, D) -> (B, T, D)."""

    def __init__(self, d_model: int, n_head: int, d_ff: int, dropout: float = 0.0):
        """Sizes as in `MultiHeadAttention` (D, H) and `FeedForward` (d_ff).  dropout: also of what is added to x."""
        super().__init__()
        self.norm1 = nn.LayerNorm(d_model)
        self.attention = MultiHeadAttention(d_model, n_head, dropout)
        self.norm2 = nn.LayerNorm(d_model)
        self.feed_forward = FeedForward(d_model, d_ff, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        """x (B, T, D) -> (B, T, D). The sums let gradients pass every block unchanged."""
        x = x + self.dropout(self.attention(self.norm1(x)))
        return x + self.dropout(self.feed_forward(self.norm2(x)))


class TransformerLM(ARModel):
    """The language model: ids (B, T) -> logits (B, T, C).  State: the ids so far, read again for each new one."""

    default_pos = "learned"
    has_heads = True

    def __init__(
        self,
        vocab_size: int,
        d_model: int = 128,
        n_layer: int = 3,
        n_head: int = 4,
        d_ff: int = 512,
        n_positions: int = 128,  # the longest T with learned positions
        dropout: float = 0.1,
        pos: str = "learned",  # or "sinusoidal" or "none"
        embed_std: float = 0.3,  # standard deviation of new embeddings
    ):
        """Embeddings (C, D) and (n_positions, D), n_layer blocks, head (D, C). UserError where a size does not fit."""
        super().__init__()
        if pos not in ("learned", "sinusoidal", "none"):
            raise UserError(f"--pos: got '{pos}', which TransformerLM lacks, allowed: learned, sinusoidal, none")
        if d_ff < 1:
            raise UserError(f"--dim_ffn: got {d_ff}, allowed: >= 1, or -1 for 4 x d_model, with small_transformer")
        self.pos = pos
        self.max_len = n_positions if pos == "learned" else None
        self.embed = nn.Embedding(vocab_size, d_model)
        nn.init.normal_(self.embed.weight, std=embed_std)
        if pos == "learned":
            self.pos_embed = nn.Embedding(n_positions, d_model)
            nn.init.normal_(self.pos_embed.weight, std=embed_std)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(TransformerBlock(d_model, n_head, d_ff, dropout) for _ in range(n_layer))
        self.norm, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size, bias=False)

    @classmethod
    def from_flags(cls, vocab_size: int, args, max_len: int) -> TransformerLM:
        """The model (B, T) -> (B, T, C) for the flags of a run.  max_len: tokens of its longest sequence."""
        pos = cls.default_pos if args.pos == "auto" else args.pos
        d_ff = 4 * args.d_model if args.dim_ffn == -1 else args.dim_ffn
        sizes = args.d_model, args.n_layer, args.n_head, d_ff, max_len
        return cls(vocab_size, *sizes, args.dropout, pos, args.embed_std)

    def limits_by_table(self) -> bool:
        """Whether the learned table (n_positions, D) sets the longest T."""
        return self.pos == "learned"

    def embedded(self, x):
        """ids (B, T) -> embeddings plus positions (B, T, D). ValueError where T is above the learned table."""
        T, h = x.shape[1], self.embed(x)
        if self.max_len is not None and self.max_len < T:
            raise ValueError(f"position {T} is beyond {self.limit()}")
        if self.pos == "learned":
            h = h + self.pos_embed.weight[:T]
        elif self.pos == "sinusoidal":
            h = h + sinusoids(T, h.shape[-1], h.device).to(h.dtype)
        return self.dropout(h)

    def hidden(self, x):
        """ids (B, T) -> what the head reads (B, T, D)."""
        h = self.embedded(x)
        for block in self.blocks:
            h = block(h)
        return self.norm(h)

    def forward(self, x, attn_mask=None):
        """ids (B, T) -> logits (B, T, C) for the token after each.  attn_mask (B, T): padding, on the right only."""
        if attn_mask is not None and not is_right_padded(attn_mask):
            raise ValueError("attn_mask: padding must be on the right; group prompts by length instead")
        h = self.hidden(x)
        if self.training:
            return self.head(h)
        with no_autocast(h):  # bf16 logits have ties, and a choice must not depend on how they were computed
            return self.head(h.to(self.head.weight.dtype))


def build_model(vocab_size: int, args) -> TransformerLM:
    """The model (B, T) -> (B, T, C) of a run configuration."""
    return build(TransformerLM, vocab_size, args, max_len_of(args))
