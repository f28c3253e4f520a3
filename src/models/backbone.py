"""The model contract: `ARModel` (what the harness sees), `Mixer` (what a user writes) and the one backbone around every mixer.

Shapes: B batch, T time, D width (d_model), H heads, K / V key / value size per head, C characters in the vocabulary.

    tokens -> embedding (+ positions) -> n_layer x [ x + mixer(conv(norm(x))) ; x + MLP(norm(x)) ] -> norm -> head -> logits

A difference between two models is then the mixer's alone. Norm, MLP and short convolution are those of the layer's published form, or
under `--fair` the same for all (`settle`). `State` is a nested tuple of tensors and ints, passed in and returned;
`step` may write into the state it is given, which the caller must not use again.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from src.flags.fields import RunArgs, RunFlags, UserError, resolved
from src.models.contract import ARModel, BlockDefaults, Mixer, State
from src.models.short_conv import ShortConv

FAIR = BlockDefaults("rms", 4, 4)  # the form of every layer under --fair


class MLP(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, d_model: int, hidden: int, dropout: float, bias: bool):
        super().__init__()
        self.up = nn.Linear(d_model, hidden, bias=bias)
        self.down = nn.Linear(hidden, d_model, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        return self.down(self.dropout(F.gelu(self.up(x))))


def resolve_auto(model_class, args: RunFlags) -> RunArgs:
    """args with `auto` replaced by what it means for this model: an explicit value stays, `--fair` gives every layer FAIR, else the layer's
    published form. A whole ARModel has no backbone, and a hybrid's norm, MLP and convolution are settled layer by layer."""
    values = {"pos": model_class.default_pos} if args.pos == "auto" else {}
    if hasattr(model_class, "layers"):
        values["n_layer"] = len(model_class.layers)
    elif issubclass(model_class, Mixer):
        form = FAIR if args.fair else model_class.published
        values |= {"norm": form.norm} if args.norm == "auto" else {}
        values |= {"dim_ffn": round(form.ffn_ratio * args.d_model)} if args.dim_ffn < 0 else {}
        values |= {"short_conv": form.short_conv} if args.short_conv < 0 else {}
    return resolved(args, **values)


def ops_of(model_class, args) -> dict[str, tuple[str, ...]]:
    """The ops of src/ops that a model of these settled args calls, and for each the kinds in which it does (see `Mixer.kinds`)."""
    found: dict[str, dict[str, None]] = {}
    for layer in getattr(model_class, "layers", None) or (model_class,):
        mixer = issubclass(layer, Mixer)
        for op in layer.ops:
            kind = layer.kinds(args).get(op) if mixer else None
            found.setdefault(op, {}).update({kind: None} if kind else {})
        if mixer and resolve_auto(layer, args).short_conv > 0:
            found.setdefault("causal_conv", {})
    return {op: tuple(kinds) for op, kinds in found.items()}


def make_norm(args) -> nn.Module:
    """LayerNorm (Ba et al. 2016) or RMSNorm (Zhang & Sennrich 2019) over d_model channels."""
    return nn.RMSNorm(args.d_model, eps=1e-5) if args.norm == "rms" else nn.LayerNorm(args.d_model, bias=args.bias)


class Block(nn.Module):
    """Pre-norm residual block: short convolution where there is one, mixer, then MLP where there is one.

    State: the mixer's, or (convolution's, mixer's).
    """

    def __init__(self, mixer_class: type[Mixer], args):
        """args: settled for this mixer."""
        super().__init__()
        self.norm1 = make_norm(args)
        self.conv = (
            None
            if mixer_class.own_conv or args.short_conv < 1
            else ShortConv(args.d_model, args.short_conv, "silu", args.backend)
        )
        self.mixer = mixer_class(args)
        self.norm2 = make_norm(args) if args.dim_ffn else None
        self.mlp = MLP(args.d_model, args.dim_ffn, args.dropout, args.bias) if args.dim_ffn else None
        self.dropout = nn.Dropout(args.dropout)

    def forward(self, x):
        h = self.norm1(x)
        h = h if self.conv is None else self.conv(h)[0]
        return self._mlp(x + self.dropout(self.mixer(h)))

    def init_state(self, batch_size: int, max_len: int) -> State:
        state = self.mixer.init_state(batch_size, max_len)
        return state if self.conv is None else (self.conv.init_state(batch_size), state)

    def prefill(self, x, state: State):
        return self._advance(x, state, self.conv, self.mixer.prefill)

    def step(self, x, state: State):
        return self._advance(x, state, self.conv and self.conv.step, self.mixer.step)

    def _advance(self, x, state, convolve, mix):
        """One token or several: x -> y, state."""
        h = self.norm1(x)
        if convolve is None:
            y, state = mix(h, state)
        else:
            h, window = convolve(h, state[0])
            y, inner = mix(h, state[1])
            state = (window, inner)
        return self._mlp(x + y), state

    def _mlp(self, x):
        return x if self.mlp is None else x + self.dropout(self.mlp(self.norm2(x)))


class Backbone(ARModel):
    """The one model around every mixer: embedding, positions, blocks, final norm, head.

    State: (tokens so far, (state of block 1, ..., state of block n_layer)).
    """

    def __init__(self, model_class, vocab_size: int, args, max_len: int):
        """model_class: a Mixer for all blocks, or a class with `layers`, one Mixer a block.
        max_len: tokens of the longest sequence (task.max_tokens): the size of a learned position table."""
        super().__init__()
        args = args if isinstance(args, RunArgs) else resolve_auto(model_class, args)
        self.mixer_classes = getattr(model_class, "layers", None) or (model_class,) * args.n_layer
        layer_args = [resolve_auto(mixer_class, args) for mixer_class in self.mixer_classes]
        self.pos = args.pos
        if self.pos in ("rope", "alibi") and self.pos not in model_class.positions:
            own = ("learned", "sinusoidal", "none", *model_class.positions)
            raise UserError(
                f"--pos: got '{self.pos}', which {model_class.__name__} does not have, allowed: {', '.join(own)}"
            )
        self.embed = nn.Embedding(vocab_size, args.d_model)
        nn.init.normal_(self.embed.weight, std=args.embed_std)
        if self.pos == "learned":
            self.max_len = max_len
            self.pos_embed = nn.Embedding(max_len, args.d_model)
            nn.init.normal_(self.pos_embed.weight, std=args.embed_std)
        self.dropout = nn.Dropout(args.dropout)
        self.blocks = nn.ModuleList(Block(*pair) for pair in zip(self.mixer_classes, layer_args, strict=True))
        self.norm = make_norm(layer_args[-1])
        self.head = nn.Linear(args.d_model, vocab_size, bias=False)
        self.head_scale = 1.0
        if args.tie_weights:
            self.head.weight = self.embed.weight
            # Raffel et al. 2020 (T5): embeddings of std 1 as a head give logits of std sqrt(D), a first loss of tens of nats.
            self.head_scale = args.d_model**-0.5

    def cache_kind(self) -> str:
        """ "own" where every mixer decodes by its own step, else "replay": the backbone's own step only hands the token through."""
        return "own" if all(m.cache_kind() == "own" for m in self.mixer_classes) else "replay"

    def _logits(self, h):
        """Logits (..., C) of final hidden states (..., D)."""
        return self.head(h if self.head_scale == 1.0 else h * self.head_scale)

    def _embed(self, x, start: int):
        """Embeddings of ids (B, T) that stand at positions start .. start + T - 1: (B, T, D)."""
        h = self.embed(x)
        end = start + x.shape[1]
        if self.pos == "learned":
            if end > self.max_len:
                raise ValueError(f"position {end} is beyond the learned position table of {self.max_len}")
            h = h + self.pos_embed.weight[start:end]
        elif self.pos == "sinusoidal":
            h = h + sinusoid(start, end, h.shape[-1], h.device).to(h.dtype)
        return self.dropout(h)

    def hidden(self, x):
        """Final hidden states (B, T, D), after the last norm."""
        h = self._embed(x, 0)
        for block in self.blocks:
            h = block(h)
        return self.norm(h)

    def forward(self, x, attn_mask=None):
        if attn_mask is not None and not is_right_padded(attn_mask):
            raise ValueError(
                "attn_mask: padding must stand on the right; group prompts by length instead of padding them on the left"
            )
        return self._logits(self.hidden(x))

    def logits_at(self, x, index=None):
        h = self.hidden(x).flatten(0, 1)
        return self._logits(h if index is None else h[index])

    def init_state(self, batch_size: int, max_len: int) -> State:
        return (0, tuple(block.init_state(batch_size, max_len) for block in self.blocks))

    def prefill(self, x, state: State):
        position, states = state
        h = self._embed(x, position)
        new = []
        for block, s in zip(self.blocks, states, strict=True):
            h, s = block.prefill(h, s)
            new.append(s)
        return self._logits(self.norm(h)), (position + x.shape[1], tuple(new))

    def step(self, ids, state: State):
        position, states = state
        h = self._embed(ids[:, None], position)[:, 0]
        new = []
        for block, s in zip(self.blocks, states, strict=True):
            h, s = block.step(h, s)
            new.append(s)
        return self._logits(self.norm(h)), (position + 1, tuple(new))


def is_right_padded(mask) -> bool:
    """Whether each row of a (B, T) bool mask is a run of True followed by a run of False."""
    return bool((mask[:, :-1] >= mask[:, 1:]).all())


def sinusoid(start: int, end: int, width: int, device):
    """Sines and cosines of positions start .. end - 1: (T, D). Vaswani et al. 2017, section 3.5."""
    half = (width + 1) // 2
    rate = torch.exp(torch.arange(half, device=device) * (-math.log(10_000.0) / half))
    angle = torch.arange(start, end, device=device)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :width]


def max_len_of(args) -> int:
    """Tokens of a learned position table when only `args` is known: `args.max_tokens` where it exists, else context_len + 256.

    The training command knows the task and passes `task.max_tokens` to `build`; `build_model(vocab_size, args)` of the model files uses
    this. 256 leaves room for the query, the answer, <bos> and <eos> of every task here.
    """
    return getattr(args, "max_tokens", None) or args.context_len + 256


def build(model_class, vocab_size: int, args, max_len: int) -> ARModel:
    """A model from its class: a mixer, or a list of them, gets the backbone around it; a whole ARModel is built as it is."""
    if issubclass(model_class, ARModel):
        return model_class(vocab_size, args)
    return Backbone(model_class, vocab_size, args, max_len)
