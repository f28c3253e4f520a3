"""The model contract: `ARModel` (what the harness sees), `Mixer` (what a user writes) and the one backbone around every mixer.

Shapes: B batch, T time, D width (d_model), H heads, K / V key / value size per head, C characters in the vocabulary.

    tokens -> embedding (+ positions) -> n_layer x [ x + mixer(conv(norm(x))) ; x + MLP(norm(x)) ] -> norm -> head -> logits

A difference between two models is then the mixer's alone. Norm, MLP and short convolution are those of the layer's published form, or
under `--fair` the same for all (`settle`). `State` is a nested tuple of tensors and ints, passed in and returned;
`step` may write into the state it is given, which the caller must not use again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from src.config import UserError
from src.models.short_conv import ShortConv
from src.ops.precision import accumulation_dtype

State = tuple


class Form(NamedTuple):
    """What `auto` means for a layer: the norm before it, its MLP's hidden width in multiples of d_model (0 = none), the width of the short
    convolution (0 = none, -1 = the layer has a flag of its own)."""

    norm: str = "layer"
    ffn_ratio: float = 4
    short_conv: int = 0


FAIR = Form("rms", 4, 4)  # the form of every layer under --fair


class Mixer(nn.Module):
    """A sequence layer: `forward(x: (B, T, D)) -> (B, T, D)`, causal, is all that must be written.

    Built as `MyMixer(args)`: `args` is the run configuration (args.d_model, args.n_head, and the fields of the class's own
    `Config` dataclass, which become flags). It initialises itself; the backbone overwrites nothing.

    Without `init_state` / `step`, decoding replays the whole prefix through `forward` (correct, O(T) a token, `cache = replay`).
    A mixer that defines `step` defines `init_state` too, and may define `prefill` where the parallel form can give the state.
    """

    Config: type | None = None
    positions: tuple[str, ...] = ()  # position encodings that the mixer applies itself: of "rope", "alibi"
    default_pos = "none"
    has_heads = False
    ops: tuple[str, ...] = ()  # those of src/ops that it calls, so that a run records which backend computed them
    own_conv = False  # True where the mixer reads args.short_conv itself (on q, k, v); else the block convolves the mixer's input
    published: Form = Form()

    def __init__(self, args=None):
        """A layer without parameters needs no __init__ of its own."""
        super().__init__()

    def forward(self, x):
        raise NotImplementedError(f"{type(self).__name__} must define forward(self, x): (B, T, D) -> (B, T, D)")

    @classmethod
    def kinds(cls, args) -> dict[str, str]:
        """{op: the kind in which it is called}, for ops whose backend depends on that."""
        return {}

    @classmethod
    def cache_kind(cls) -> str:
        """"own" when the class decodes by its own step, else "replay"."""
        return "replay" if cls.step is Mixer.step else "own"

    def init_state(self, batch_size: int, max_len: int) -> State:
        """State before the first token, for at most max_len tokens. Here: an empty prefix buffer, allocated at the first step."""
        return (None, max_len)

    def step(self, x, state: State):
        """One token: x (B, D), state -> y (B, D), state. Here: append to the prefix and run `forward` on all of it."""
        prefix, max_len = state
        prefix = x[:, None] if prefix is None else torch.cat([prefix, x[:, None]], dim=1)
        return self.forward(prefix)[:, -1], (prefix, max_len)

    def prefill(self, x, state: State):
        """Several tokens: x (B, T, D), state -> y (B, T, D), state. Here: one forward when replaying, else a loop over `step`."""
        if self.cache_kind() == "replay":
            prefix, max_len = state
            prefix = x if prefix is None else torch.cat([prefix, x], dim=1)
            return self.forward(prefix)[:, -x.shape[1]:], (prefix, max_len)
        outputs = []
        for t in range(x.shape[1]):
            y, state = self.step(x[:, t], state)
            outputs.append(y)
        return torch.stack(outputs, dim=1), state


def state_tensors(state) -> Iterable[torch.Tensor]:
    """All tensors of a nested state."""
    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, (tuple, list)):
        for part in state:
            yield from state_tensors(part)


def state_bytes(state) -> int:
    """Bytes held by a live state: measured, never declared. A storage shared by several views counts once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in state_tensors(state)}
    return sum(storages.values())


@torch.inference_mode()
def state_after(model: ARModel, tokens: int) -> State:
    """The live decoding state of one sequence after `tokens` tokens, from `init_state(1, tokens)`."""
    training = model.training
    device = next(model.parameters()).device
    _, state = model.eval().prefill(torch.ones(1, tokens, dtype=torch.long, device=device), model.init_state(1, tokens))
    model.train(training)
    return state


class ARModel(nn.Module):
    """An autoregressive model over characters. A whole model of the user's own subclasses this and writes `forward`.

    Built as `MyModel(vocab_size, args)`. `self.max_len` (tokens) bounds a position table; None where there is no bound.
    """

    Config: type | None = None
    positions: tuple[str, ...] = ()
    default_pos = "none"
    has_heads = False
    ops: tuple[str, ...] = ()
    max_len: int | None = None

    def forward(self, x, attn_mask=None):
        """Token ids x (B, T) -> logits (B, T, C). attn_mask (B, T) bool marks real tokens; padding stands on the right,
        where a causal model cannot see it, so the mask changes nothing before it."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(self, x, attn_mask=None): (B, T) -> (B, T, vocab)")

    @classmethod
    def cache_kind(cls) -> str:
        return "replay" if cls.step is ARModel.step else "own"

    def logits_at(self, x, index=None):
        """Logits (N, C) at flat positions `index` of (B * T), all where None. The backbone runs its head only there."""
        logits = self.forward(x).flatten(0, 1)
        return logits if index is None else logits[index]

    def loss_fn(self, batch, label_smoothing: float = 0.0):
        """Mean cross-entropy in nats over the trained positions of a batch, and aux: their logits, targets and flat index.

        batch.x, batch.y (B, T) int64; batch.index (N,) flat positions where y is trained, or None for all of them.
        """
        logits = self.logits_at(batch.x, batch.index)
        target = batch.y.flatten() if batch.index is None else batch.y.flatten()[batch.index]
        loss = F.cross_entropy(logits.float(), target, label_smoothing=label_smoothing)
        return loss, {"logits": logits, "target": target, "index": batch.index}

    def init_state(self, batch_size: int, max_len: int) -> State:
        return (None, max_len)

    def step(self, ids, state: State):
        """One token: ids (B,), state -> logits (B, C), state. Here: replay the prefix."""
        logits, state = self.prefill(ids[:, None], state)
        return logits[:, -1], state

    def prefill(self, x, state: State):
        """Several tokens: x (B, T), state -> logits (B, T, C), state."""
        prefix, max_len = state
        prefix = x if prefix is None else torch.cat([prefix, x], dim=1)
        return self.forward(prefix)[:, -x.shape[1]:], (prefix, max_len)

    @torch.inference_mode()
    def generate(self, prompt_ids, max_new_tokens: int, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None,
                 stop_id: int | None = None, generator: torch.Generator | None = None):
        """Continue prompts (B, T) by at most max_new_tokens with cached decoding; returns the new ids (B, <= max_new_tokens).

        temperature 0 is greedy.  top_k: only the k likeliest.  top_p: the smallest set whose probability reaches p.
        Rows are filled with stop_id after their first stop_id, and decoding ends when every row has one.
        Raises ValueError for an empty prompt, a temperature below 0, top_k below 1, top_p outside (0, 1], or more tokens than a position
        table holds.
        """
        check_sampling(temperature, top_k, top_p)
        if prompt_ids.dim() != 2 or 0 in prompt_ids.shape:
            raise ValueError(f"prompt_ids: got shape {tuple(prompt_ids.shape)}, allowed: (B, T) with at least one token, <bos>")
        total = prompt_ids.shape[1] + max_new_tokens
        if self.max_len is not None and total - 1 > self.max_len:
            raise ValueError(f"{prompt_ids.shape[1]} prompt tokens and {max_new_tokens} new ones exceed the learned position table of {self.max_len}; "
                             "ask for fewer, or train with --pos sinusoidal, rope, alibi or none")
        if max_new_tokens < 1:
            return prompt_ids[:, :0]
        training = self.training
        self.eval()
        try:
            return self._continue(prompt_ids, max_new_tokens, stop_id, lambda logits: sample(logits, temperature, top_k, top_p, generator))
        finally:
            self.train(training)

    def _continue(self, prompt_ids, max_new_tokens: int, stop_id: int | None, draw):
        """The loop of `generate`; draw: logits (B, C) -> ids (B,)."""
        logits, state = self.prefill(prompt_ids, self.init_state(len(prompt_ids), prompt_ids.shape[1] + max_new_tokens))
        logits = logits[:, -1]
        done = torch.zeros(len(prompt_ids), dtype=torch.bool, device=prompt_ids.device)
        new = []
        for i in range(max_new_tokens):
            ids = draw(logits)
            if stop_id is not None:
                ids = torch.where(done, stop_id, ids)
                done |= ids == stop_id
            new.append(ids)
            if i + 1 == max_new_tokens or (stop_id is not None and bool(done.all())):
                break
            logits, state = self.step(ids, state)
        return torch.stack(new, dim=1)


def check_sampling(temperature, top_k, top_p) -> None:
    """Raise ValueError for settings of `generate` that mean nothing."""
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"temperature: got {temperature}, allowed: a finite number >= 0 (0 is greedy)")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k: got {top_k}, allowed: >= 1")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p: got {top_p}, allowed: above 0, at most 1")


def sample(logits, temperature: float, top_k: int | None, top_p: float | None, generator=None):
    """Draw ids (B,) from logits (B, C)."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits.float() / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        kth = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -math.inf)
    if top_p is not None and top_p < 1:
        ranked, order = logits.sort(dim=-1, descending=True)
        probability = ranked.softmax(dim=-1)
        outside = probability.cumsum(dim=-1) - probability >= top_p  # the likeliest always stays
        logits = logits.masked_fill(outside.scatter(1, order, outside), -math.inf)
    return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)[:, 0]


class MLP(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, d_model: int, hidden: int, dropout: float, bias: bool):
        super().__init__()
        self.up = nn.Linear(d_model, hidden, bias=bias)
        self.down = nn.Linear(hidden, d_model, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        return self.down(self.dropout(F.gelu(self.up(x))))


def settle(model_class, args):
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
    return dataclasses.replace(args, **values)


def ops_of(model_class, args) -> dict[str, tuple[str, ...]]:
    """The ops of src/ops that a model of these settled args calls, and for each the kinds in which it does (see `Mixer.kinds`)."""
    found: dict[str, dict[str, None]] = {}
    for layer in getattr(model_class, "layers", None) or (model_class,):
        mixer = issubclass(layer, Mixer)
        for op in layer.ops:
            kind = layer.kinds(args).get(op) if mixer else None
            found.setdefault(op, {}).update({kind: None} if kind else {})
        if mixer and settle(layer, args).short_conv > 0:
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
        self.conv = None if mixer_class.own_conv or args.short_conv < 1 else ShortConv(args.d_model, args.short_conv, "silu", args.backend)
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
        args = settle(model_class, args)
        self.mixer_classes = getattr(model_class, "layers", None) or (model_class,) * args.n_layer
        layer_args = [settle(mixer_class, args) for mixer_class in self.mixer_classes]
        self.pos = args.pos
        if self.pos in ("rope", "alibi") and self.pos not in model_class.positions:
            own = ("learned", "sinusoidal", "none", *model_class.positions)
            raise UserError(f"--pos: got '{self.pos}', which {model_class.__name__} does not have, allowed: {', '.join(own)}")
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
            self.head_scale = args.d_model ** -0.5

    def cache_kind(self) -> str:
        """"own" where every mixer decodes by its own step, else "replay": the backbone's own step only hands the token through."""
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
            raise ValueError("attn_mask: padding must stand on the right; group prompts by length instead of padding them on the left")
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


def wide(x):
    """x in float32 at least: recurrences, gates, decays, norms and sums keep it under autocast."""
    return x.to(accumulation_dtype(x))


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
