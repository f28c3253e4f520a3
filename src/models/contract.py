"""The contract: `Mixer` is a layer, `ARModel` is a whole model, `State` is what decoding keeps.

A layer needs a constructor and `forward`. This is a complete one, a running mean of the past:

    import torch
    from torch import nn
    from src.models.base import Mixer

    class RunningMean(Mixer):
        def __init__(self, args):
            super().__init__()
            self.out = nn.Linear(args.d_model, args.d_model)

        def forward(self, x):  # (B, T, D) -> (B, T, D)
            count = torch.arange(1, x.shape[1] + 1, device=x.device)
            return self.out(x.cumsum(dim=1) / count[:, None])  # output t reads x_1 .. x_t only

    python benchmark.py check --model running_mean.py            is it causal, does decoding equal `forward`?
    python benchmark.py --task needle --model running_mean.py

Everything else comes from src/models/backbone.py. Without `init_state` and `step`, decoding runs `forward` on the whole
prefix for each token: correct, but slow. src/models/template.py shows both methods, flags of a layer's own, and a whole
model.

Decoding state. A nested tuple of tensors and whole numbers. Each call of `step` or `prefill` gets a state and returns
the next one. It may write into the tensors that it got, so the caller must not use the old state again.
src/models/state.py counts its bytes, and says what else a state may hold.

Shapes, the legend of all files in src/models:

    B   batch                      H   heads                      N   states per channel (Mamba, Mamba-2)
    T   time, in tokens            K   key channels per head      C   characters in the vocabulary
    D   model width, --d_model     V   value channels per head    W   width of a short convolution

    (...)  any leading axes: (B, T) for a sequence, (B,) for one token
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from src.flags.run_flags import RunArgs, RunFlags
from src.models.sampling import check_sampling, sample
from src.ops.softmax import cross_entropy

State = tuple

TABLE_ADVICE = ", or train with --pos sinusoidal, rope, alibi or none"


class BlockDefaults(NamedTuple):
    """The block around a layer as it was published: what `auto` means for --norm, --dim_ffn, --short_conv and --mlp."""

    norm: str = "layer"  # "layer" or "rms"
    # Hidden width of a GELU MLP in multiples of d_model; 0 = no MLP. A SwiGLU gets as many parameters, not channels.
    ffn_ratio: float = 4
    short_conv: int = 0  # width of the short convolution; 0 = none, -1 = the layer has a flag of its own
    mlp: str = "gelu"  # "gelu" or "swiglu"
    bias: bool = True  # biases in the maps of the MLP and in a LayerNorm; --no_bias takes them away from every layer


class Mixer(nn.Module):
    """A sequence layer. Its subclass must write `forward(x: (B, T, D)) -> (B, T, D)`, which must be causal.

    It is built as `MyMixer(args)`. `args` holds the flags of the run: args.d_model, args.n_head, and the fields of the
    class's own `Config` dataclass, which become flags. The layer initialises itself. The backbone overwrites nothing,
    unless `--init` or `--fair` asks for another start of the linear maps (src/models/initial.py): a parameter `p` that
    must keep its values is marked `p._no_reinit = True`. Bare parameters, convolutions and norms keep theirs anyway.

    `surrogate_gradient = True` says that the backward pass is not the derivative on purpose, as in a straight-through
    gate (Bengio et al. 2013). `check` then measures the gradients, does not judge them, and names the layer.

    Without `init_state` and `step`, decoding replays the prefix through `forward`: correct, O(T) per token, reported as
    `cache=replay`. A mixer that defines `step` must define `init_state` too. It may define `prefill` where its parallel
    form can give the state.
    """

    Config: type | None = None
    positions: tuple[str, ...] = ()  # position encodings that the mixer applies itself: of "rope" and "alibi"
    default_pos = "none"  # what --pos auto means
    has_heads = False  # True where the mixer reads args.n_head
    ops: tuple[str, ...] = ()  # the ops of src/ops that it may call; a run records which backend computed them
    own_conv = False  # True where the mixer reads args.short_conv itself; else the block convolves the mixer's input
    output_maps: tuple[str, ...] = ("out", "out_proj", "o_proj")  # members that write into the residual stream
    surrogate_gradient = False
    keeps: tuple[str, ...] = ()  # what --fair cannot take away: order or a convolution that is the layer itself
    max_len: int | None = None  # longest T that the layer can take, of the class or set in __init__; None: no bound
    published: BlockDefaults = BlockDefaults()

    def __init__(self, args: RunArgs | None = None):
        """A layer without parameters needs no __init__ of its own."""
        super().__init__()

    def forward(self, x):
        raise NotImplementedError(f"{type(self).__name__} must define forward(self, x): (B, T, D) -> (B, T, D)")

    @classmethod
    def called(cls, args: RunArgs) -> tuple[str, ...]:
        """Those of `ops` that the layer calls under these flags."""
        return cls.ops

    @classmethod
    def kinds(cls, args: RunArgs) -> dict[str, str]:
        """{op: the kind of call}, for the ops whose backend depends on the kind, such as the shape of a decay.

        " float32" after the kind says that the layer gives the op float32 tensors under autocast too.
        """
        return {}

    @classmethod
    def cache_kind(cls) -> str:
        """How the class decodes: "own" by its own `step`, "replay" by `forward` on the whole prefix."""
        return "replay" if cls.step is Mixer.step else "own"

    def init_state(self, batch_size: int, max_len: int) -> State:
        """The state before the first of at most max_len tokens. Here: an empty prefix."""
        return (None, max_len)

    def step(self, x, state: State):
        """One token: x (B, D), state -> y (B, D), state. Here: `forward` on the prefix and this token."""
        prefix, max_len = state
        prefix = x[:, None] if prefix is None else torch.cat([prefix, x[:, None]], dim=1)
        return self.forward(prefix)[:, -1], (prefix, max_len)

    def prefill(self, x, state: State):
        """Several tokens: x (B, T, D), state -> y (B, T, D), state.

        Here: one `forward` when replaying, else a loop over `step`.
        """
        if self.cache_kind() == "replay":
            prefix, max_len = state
            prefix = x if prefix is None else torch.cat([prefix, x], dim=1)
            return self.forward(prefix)[:, -x.shape[1] :], (prefix, max_len)
        outputs = []
        for t in range(x.shape[1]):
            y, state = self.step(x[:, t], state)
            outputs.append(y)
        return torch.stack(outputs, dim=1), state


class ARModel(nn.Module):
    """An autoregressive model over characters, as training, evaluation and generation see it.

    A whole model of a user's own subclasses this and writes `forward`. It is built as `MyModel(vocab_size, args)`.
    The class attributes mean what they mean in `Mixer`.
    """

    Config: type | None = None
    positions: tuple[str, ...] = ()
    default_pos = "none"
    has_heads = False
    surrogate_gradient = False
    ops: tuple[str, ...] = ()
    max_len: int | None = None  # longest T that the model can take; None where the length has no bound
    loss_backend = "auto"  # of the op `softmax` in `loss_fn`; `build` sets what --backend names

    @classmethod
    def from_flags(cls, vocab_size: int, args: RunFlags, max_len: int) -> ARModel:
        """The model of a run.  max_len: tokens of its longest sequence, the size of a learned position table.

        A class whose constructor takes sizes, and not flags, translates them here.
        """
        return cls(vocab_size, args)

    def forward(self, x, attn_mask=None):
        """Token ids x (B, T) -> logits (B, T, C).

        attn_mask (B, T) bool marks the real tokens. Padding is on the right, so a causal model may ignore the mask.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define forward(self, x, attn_mask=None): (B, T) -> (B, T, vocab)"
        )

    @classmethod
    def cache_kind(cls) -> str:
        return "replay" if cls.step is ARModel.step else "own"

    def logits_at(self, x, index=None):
        """Logits (n, C) at n flat positions of (B * T); None means all positions.

        The backbone runs its head only there.
        """
        logits = self.forward(x).flatten(0, 1)
        return logits if index is None else logits[index]

    def loss_fn(self, batch, label_smoothing: float = 0.0):
        """Mean cross-entropy in nats over the trained positions of a batch, and their logits, targets and flat index.

        batch.x, batch.y: (B, T) int64.  batch.index: (n,) flat positions where y is trained; None means all positions.
        """
        logits = self.logits_at(batch.x, batch.index)
        target = batch.y.flatten() if batch.index is None else batch.y.flatten()[batch.index]
        loss = cross_entropy(logits, target, label_smoothing, backend=self.loss_backend)
        return loss, {"logits": logits, "target": target, "index": batch.index}

    def init_state(self, batch_size: int, max_len: int) -> State:
        """The state before the first of at most max_len tokens. Here: an empty prefix."""
        return (None, max_len)

    def step(self, ids, state: State):
        """One token: ids (B,), state -> logits (B, C), state. Here: `forward` on the prefix and this token."""
        logits, state = self.prefill(ids[:, None], state)
        return logits[:, -1], state

    def prefill(self, x, state: State):
        """Several tokens: x (B, T), state -> logits (B, T, C), state.

        Here: `forward` on the prefix and these tokens.
        """
        prefix, max_len = state
        prefix = x if prefix is None else torch.cat([prefix, x], dim=1)
        return self.forward(prefix)[:, -x.shape[1] :], (prefix, max_len)

    def limits_by_table(self) -> bool:
        """Whether a learned position table of the bench sets `max_len`."""
        return False

    def limit(self) -> str:
        """What sets `max_len`, in words."""
        if self.limits_by_table():
            return f"the learned position table of {self.max_len} tokens"
        return f"the {self.max_len} tokens that the model can take (max_len)"

    def output_ratios(self, x, real=None) -> dict[str, list] | None:
        """How much each block adds to the residual stream, see the backbone. None: a whole model has no blocks."""
        return None

    @torch.no_grad()
    def generate(
        self,
        prompt_ids,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        stop_id: int | None = None,
        generator: torch.Generator | None = None,
    ):
        """Continue prompts (B, T) with cached decoding; returns the new ids (B, at most max_new_tokens).

        temperature: 0 is greedy.  top_k: keep the k likeliest.  top_p: keep the smallest set whose probability reaches
        p. stop_id: a row is filled with it after its first one, and decoding ends when every row has one. Raises
        ValueError for an empty prompt, a temperature below 0, top_k below 1, top_p outside (0, 1], or more tokens than
        the model can take.
        """
        check_sampling(temperature, top_k, top_p)
        if prompt_ids.dim() != 2 or 0 in prompt_ids.shape:
            raise ValueError(
                f"prompt_ids: got shape {tuple(prompt_ids.shape)}, allowed: (B, T) with at least one token"
            )
        total = prompt_ids.shape[1] + max_new_tokens
        if self.max_len is not None and total - 1 > self.max_len:
            raise ValueError(
                f"{prompt_ids.shape[1]} prompt tokens and {max_new_tokens} new ones exceed {self.limit()}; "
                f"ask for fewer{TABLE_ADVICE * self.limits_by_table()}"
            )
        if max_new_tokens < 1:
            return prompt_ids[:, :0]
        training = self.training
        self.eval()
        try:
            return self._continue(
                prompt_ids, max_new_tokens, stop_id, lambda logits: sample(logits, temperature, top_k, top_p, generator)
            )
        finally:
            self.train(training)

    def _continue(self, prompt_ids, max_new_tokens: int, stop_id: int | None, draw):
        """The loop of `generate`.  draw: logits (B, C) -> ids (B,)."""
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
