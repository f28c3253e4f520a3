"""The backbone: the one model that is built around every layer.

    tokens -> embedding (+ positions) -> n_layer x block -> norm -> head -> logits
    block:    x = x + mixer(conv(norm(x))) ,   x = x + MLP(norm(x))

So a difference between two models comes from the mixer and from its published block: norm, MLP, short convolution and
initialisation. `--fair` gives all layers the same block and the same initialisation, without positions: the convolution
on the mixer's input is the only one, and dropout acts only on embeddings, on what a block adds to the residual stream,
and inside the MLP. src/models/fair.py lists what is left of a difference. `resolve_auto` decides what `auto` means for
a layer.

Source: the pre-norm residual block of Radford et al. 2019 (GPT-2). Shapes: see src/models/contract.py.
Cost per token of the MLP O(D dim_ffn) and of the head O(D C). State: (tokens so far, the state of each block).
"""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import nn

from src.flags.fields import UserError
from src.flags.run_flags import RunArgs, RunFlags, drop_rate, resolved
from src.models.contract import ARModel, BlockDefaults, Mixer, State
from src.models.initial import initialise
from src.models.modules import Dropout, Linear, RMSNorm
from src.models.short_conv import make_conv
from src.ops.backends import parse_backend
from src.ops.precision import no_autocast
from src.ops.swiglu import swiglu

FAIR = BlockDefaults("rms", 4, 4, "gelu")  # the block of every layer under --fair
# Positions of every layer under --fair. Recurrent layers know the order without any, the shared convolution tells the
# other ones that of neighbours, and a learned table would end at the training length.
FAIR_POS = "none"
NORM_EPS = 1e-5  # added to the variance or to the mean square
MLP_MULTIPLE = 8  # the hidden width of a SwiGLU is a multiple of this, because matrix units are slow at others


class Backbone(ARModel):
    """Embedding, positions, blocks, final norm and head.

    State: (tokens so far, (state of block 1, ..., of block n_layer)).
    """

    def __init__(self, model_class: type, vocab_size: int, flags: RunFlags, max_len: int):
        """model_class: a Mixer for all blocks, or a class whose `layers` name one Mixer per block.

        max_len: tokens of the longest sequence (task.max_tokens), the size of a learned position table.
        """
        super().__init__()
        args = resolve_auto(model_class, flags)
        layers = layers_of(model_class, args)
        self.mixer_classes = tuple(mixer_class for mixer_class, _ in layers)
        self.pos = args.pos
        if self.pos in ("rope", "alibi") and self.pos not in model_class.positions:
            own = ("learned", "sinusoidal", "none", *model_class.positions)
            raise UserError(
                f"--pos: got '{self.pos}', which {model_class.__name__} does not have, allowed: {', '.join(own)}"
            )
        self.embed = nn.Embedding(vocab_size, args.d_model)
        nn.init.normal_(self.embed.weight, std=args.embed_std)
        self.table_len = max_len if self.pos == "learned" else None
        if self.pos == "learned":
            self.pos_embed = nn.Embedding(max_len, args.d_model)
            nn.init.normal_(self.pos_embed.weight, std=args.embed_std)
        self.dropout = Dropout(drop_rate(args, "embed"))
        self.blocks = nn.ModuleList(Block(mixer_class, layer_args) for mixer_class, layer_args in layers)
        bounds = [self.table_len, *(stated_max_len(block.mixer) for block in self.blocks)]
        self.max_len = min((n for n in bounds if n is not None), default=None)
        self.norm = make_norm(layers[-1][1])
        self.loss_backend = parse_backend(args.backend, "softmax")
        self.head = Linear(args.d_model, vocab_size, bias=False, backend=args.backend)
        self.head_scale = head_scale(args)
        if args.tie_weights:
            self.head.weight = self.embed.weight
        initialise(self, args.init, args.n_layer)

    def cache_kind(self) -> str:
        """How the model decodes: "own" where every mixer has its own step, else "replay"."""
        return "own" if all(m.cache_kind() == "own" for m in self.mixer_classes) else "replay"

    def limits_by_table(self) -> bool:
        return self.max_len is not None and self.max_len == self.table_len

    def limit(self) -> str:
        if self.max_len is None or self.limits_by_table():
            return super().limit()
        stated = [type(b.mixer).__name__ for b in self.blocks if getattr(b.mixer, "max_len", None) == self.max_len]
        return f"the {self.max_len} tokens that {stated[0] if stated else 'a layer'} states as its max_len"

    def _logits(self, h):
        """Logits (..., C) of final hidden states (..., D). In evaluation and decoding they are float32 at least.

        bf16 has steps of 1/64 at a logit of 3. Differences of 1e-6 between a parallel pass and a step then become ties,
        and the two choose different characters.
        """
        h = h if self.head_scale == 1.0 else h * self.head_scale
        if self.training:
            return self.head(h)
        with no_autocast(h):
            return self.head(h.to(self.head.weight.dtype))

    def _embed(self, x, start: int):
        """Embeddings (B, T, D) of ids (B, T) at positions start .. start + T - 1."""
        h = self.embed(x)
        end = start + x.shape[1]
        if self.max_len is not None and end > self.max_len:
            raise ValueError(f"position {end} is beyond {self.limit()}")
        if self.pos == "learned":
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
                "attn_mask: padding must be on the right; group prompts by length instead of padding them on the left"
            )
        return self._logits(self.hidden(x))

    def logits_at(self, x, index=None):
        h = self.hidden(x).flatten(0, 1)
        return self._logits(h if index is None else h[index])

    @torch.no_grad()
    def output_ratios(self, x, real=None) -> dict[str, list]:
        """{"mixer": [one per block], "mlp": [...]}: RMS of an output over that of the residual that it is added to.

        x: ids (B, T).  real: (B, T) bool, the positions that count; None means all.  "mlp" has None where a block has
        no MLP. Dropout is off. A ratio over a residual of zero is infinite or NaN.
        """
        training = self.training
        try:
            self.eval()
            found = self._output_ratios(x, real)
        finally:
            self.train(training)
        ratios = torch.stack([r for r in (*found["mixer"], *found["mlp"]) if r is not None]).tolist()  # one transfer
        return {name: [None if r is None else ratios.pop(0) for r in values] for name, values in found.items()}

    def _output_ratios(self, x, real) -> dict[str, list]:
        """The ratios of `output_ratios`, as scalars on the device."""
        found = {"mixer": [], "mlp": []}
        h = self._embed(x, 0)
        for block in self.blocks:
            seen = {}
            watched = {name: getattr(block, name) for name in ("mixer", "norm2", "mlp") if getattr(block, name)}
            handles = [m.register_forward_hook(_keeps(seen, name)) for name, m in watched.items()]
            try:
                after = block(h)
            finally:
                for handle in handles:
                    handle.remove()
            found["mixer"].append(_rms(seen["mixer"][1], real) / _rms(h, real))
            found["mlp"].append(_rms(seen["mlp"][1], real) / _rms(seen["norm2"][0], real) if "mlp" in seen else None)
            h = after
        return found

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


def build(model_class: type, vocab_size: int, args: RunFlags, max_len: int) -> ARModel:
    """A model from its class: a mixer or a hybrid gets the backbone around it, a whole ARModel is built as it is."""
    if issubclass(model_class, ARModel):
        model = model_class.from_flags(vocab_size, args, max_len)
        model.loss_backend = parse_backend(args.backend, "softmax")
        initialise(model, resolve_auto(model_class, args).init, args.n_layer)
        return model
    return Backbone(model_class, vocab_size, args, max_len)


def head_scale(args: RunFlags) -> float:
    """The factor before a head: 1, or less where it is tied to an embedding of large values.

    The final norm has a mean square of 1, so a tied head alone would give logits of std embed_std sqrt(D). Above 1 they
    are scaled down to 1, as in Raffel et al. 2020 (T5). Below, as in GPT-2, nothing is scaled.
    """
    return 1 / max(1.0, args.embed_std * math.sqrt(args.d_model)) if args.tie_weights else 1.0


def max_len_of(args: RunFlags) -> int:
    """Tokens of a learned position table where only the flags are known: context_len + 256.

    `build_model(vocab_size, args)` of the model files uses it. The training command knows the task and passes
    `task.max_tokens` to `build`. 256 leaves room for the query, the answer, <bos> and <eos> of every task here.
    """
    return args.context_len + 256


def resolve_auto(model_class: type, flags: RunFlags) -> RunArgs:
    """The flags with `auto` decided for this model; flags that are decided already come back as they are.

    A typed value stays. Else `--fair` gives every layer the block FAIR and the positions FAIR_POS, and without it a
    layer gets its published block. A whole ARModel has no block. A hybrid leaves norm, MLP and convolution to each of
    its layers (see `layers_of`).
    """
    return flags if isinstance(flags, RunArgs) else _decide(model_class, flags)


def layers_of(model_class: type, args: RunArgs) -> list[tuple[type[Mixer], RunArgs]]:
    """The mixer class of each block and its flags. A layer of a hybrid decides here what is still `auto`."""
    if hasattr(model_class, "layers"):
        return [(layer, _decide(layer, args)) for layer in model_class.layers]
    return [(model_class, args)] * args.n_layer


def _decide(model_class: type, flags: RunFlags) -> RunArgs:
    default_pos = FAIR_POS if flags.fair and not issubclass(model_class, ARModel) else model_class.default_pos
    values = {"pos": default_pos} if flags.pos == "auto" else {}
    values |= {"init": initial_for(model_class, flags.fair)} if flags.init == "auto" else {}
    if hasattr(model_class, "layers"):
        values["n_layer"] = len(model_class.layers)
    elif issubclass(model_class, Mixer):
        block = FAIR if flags.fair else model_class.published
        values |= {"norm": block.norm} if flags.norm == "auto" else {}
        mlp = block.mlp if flags.mlp == "auto" else flags.mlp
        values |= {"mlp": mlp}
        values |= {"dim_ffn": hidden_width(mlp, block.ffn_ratio * flags.d_model)} if flags.dim_ffn < 0 else {}
        values |= {"short_conv": block.short_conv} if flags.short_conv < 0 else {}
        values |= {"bias": flags.bias and block.bias}
    return resolved(flags, **values)


def initial_for(model_class: type, fair: bool) -> str:
    """What --init auto means: the layer's own start, or torch's under --fair. A whole model keeps its own."""
    return "torch" if fair and not issubclass(model_class, ARModel) else "published"


def hidden_width(mlp: str, gelu_width: float) -> int:
    """The hidden width of this MLP with as many parameters as a GELU MLP of `gelu_width` channels.

    A SwiGLU has three maps and not two, so it gets two thirds of the channels (Shazeer 2020, section 3), rounded to the
    nearest multiple of MLP_MULTIPLE, and at least that. At 4 x d_model its weights then differ in number from those of
    the GELU MLP by at most 1.5 / d_model as a share, from d_model 2 on: 2.4 % at 64, 0.4 % at 384.
    """
    if mlp != "swiglu" or not gelu_width:
        return round(gelu_width)
    return max(MLP_MULTIPLE, MLP_MULTIPLE * round(2 / 3 * gelu_width / MLP_MULTIPLE))


def ops_of(model_class: type, flags: RunFlags) -> dict[str, tuple[str, ...]]:
    """The ops of src/ops that a model calls, and the kinds of call of each (see `Mixer.kinds`).

    The layers come first, then the parts around them: the block, the head, and the loss.
    """
    loss = ("softmax",) if getattr(model_class, "loss_fn", ARModel.loss_fn) is ARModel.loss_fn else ()
    if issubclass(model_class, ARModel):
        return dict.fromkeys((*model_class.ops, *loss), ())
    found: dict[str, dict[str, None]] = {}
    layers = layers_of(model_class, resolve_auto(model_class, flags))
    for layer, args in layers:
        kinds = layer.kinds(args)
        for op in layer.called(args):
            found.setdefault(op, {}).update({kinds[op]: None} if op in kinds else {})
    around = (op for _, args in layers for op in _around(args))
    for op in (*around, "linear", *loss):  # the head is a linear map
        found.setdefault(op, {})
    return {op: tuple(kinds) for op, kinds in found.items()}


def _around(args: RunArgs) -> tuple[str, ...]:
    """The ops of a block around its layer."""
    conv = ("causal_conv",) if args.short_conv > 0 else ()
    norm = ("rmsnorm",) if args.norm == "rms" else ()
    return (*conv, *norm, *(("swiglu",) if args.dim_ffn and args.mlp == "swiglu" else ()))


class Block(nn.Module):
    """Pre-norm residual block: a short convolution if any, the mixer, then an MLP if any.

    State: the mixer's, or (the convolution's, the mixer's).
    """

    def __init__(self, mixer_class: type[Mixer], args: RunArgs):
        """args: the flags of this layer. Under --fair the mixer gets them without a convolution and dropout."""
        super().__init__()
        self.norm1 = make_norm(args)
        convolves = args.fair or not mixer_class.own_conv
        self.conv = make_conv(args.d_model, args, "silu") if convolves else None
        self.mixer = mixer_class(dataclasses.replace(args, short_conv=0, dropout=0.0) if args.fair else args)
        self.norm2 = make_norm(args) if args.dim_ffn else None
        self.mlp = MLP(args) if args.dim_ffn else None
        self.dropout = Dropout(args.dropout)

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


class MLP(nn.Module):
    """`--mlp gelu`: down(gelu(up(x))).  `--mlp swiglu`: down(silu(gate(x)) * up(x)). Dropout before the last map.

    Hendrycks & Gimpel 2016, arXiv:1606.08415; Shazeer 2020, arXiv:2002.05202, equation 6, here with biases.
    """

    output_maps = ("down",)  # see src/models/initial.py

    def __init__(self, args: RunArgs):
        super().__init__()
        self.backend = parse_backend(args.backend, "swiglu")
        self.up = Linear(args.d_model, args.dim_ffn, bias=args.bias, backend=args.backend)
        self.down = Linear(args.dim_ffn, args.d_model, bias=args.bias, backend=args.backend)
        gated = args.mlp == "swiglu"
        self.gate = Linear(args.d_model, args.dim_ffn, bias=args.bias, backend=args.backend) if gated else None
        self.dropout = Dropout(args.dropout)

    def forward(self, x):
        h = F.gelu(self.up(x)) if self.gate is None else swiglu(self.gate(x), self.up(x), self.backend)
        return self.down(self.dropout(h))


def make_norm(args: RunArgs) -> nn.Module:
    """LayerNorm (Ba et al. 2016) or RMSNorm (Zhang & Sennrich 2019) over d_model channels."""
    if args.norm == "rms":
        return RMSNorm(args.d_model, NORM_EPS, args.backend)
    return nn.LayerNorm(args.d_model, bias=args.bias)


def stated_max_len(mixer: Mixer) -> int | None:
    """The longest T that a mixer states with `max_len`, None without a bound; UserError for what is no such number."""
    stated = getattr(mixer, "max_len", None)
    if stated is not None and (type(stated) is not int or stated < 1):
        raise UserError(
            f"{type(mixer).__name__}.max_len: got {stated!r:.40}, allowed: the longest T that the layer can take, a "
            "whole number >= 1, or None; rename an attribute that means something else"
        )
    return stated


def _keeps(seen: dict, name: str):
    """A forward hook that keeps (first input, output) of a module in `seen`."""

    def hook(module, inputs, output):
        seen[name] = inputs[0], output

    return hook


def _rms(x, real):
    """Root mean square of x (B, T, D) at the positions `real` (B, T), or at all: a float32 scalar."""
    return (x if real is None else x[real]).float().square().mean().sqrt()


def is_right_padded(mask) -> bool:
    """Whether each row of a (B, T) bool mask is a run of True followed by a run of False."""
    return bool((mask[:, :-1] >= mask[:, 1:]).all())


def sinusoid(start: int, end: int, width: int, device):
    """Sines and cosines of positions start .. end - 1: (T, D). Vaswani et al. 2017, section 3.5."""
    half = (width + 1) // 2
    rate = torch.exp(torch.arange(half, device=device) * (-math.log(10_000.0) / half))
    angle = torch.arange(start, end, device=device)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :width]
