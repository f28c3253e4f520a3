"""The file to copy for a sequence layer of your own: `--model my_layer.py`. It works as it is.

Define one public class, in either form. A leading underscore hides a class from the loader.

1. A `Mixer` is the layer alone: `GatedConv` below. Only `__init__(args)` and `forward` are needed. The embedding,
   positions, norms, residuals, MLP, head, loss and text generation come with the backbone. The other methods make
   decoding fast.
2. An `ARModel` is the whole model, from characters to logits: `_WholeModel` below. Only `__init__(vocab_size, args)`
   and `forward` are needed. To use it, remove its underscore and delete `GatedConv` and `build_model`.

    python benchmark.py check --model my_layer.py                 is it causal, and does `step` equal `forward`?
    python benchmark.py --task needle --model my_layer.py --kernel_size 6

The layer of this file is a gated causal convolution with one kernel per channel:

    paper      here           shape          meaning
    X          x              (..., D)       input of the layer
    W          kernel         (W, D)         c_i below: W = kernel_size numbers per channel
    b          kernel_bias    (D,)           bias of the convolution
    V, c       gate           (..., D)       the gate, here a linear map of x_t

    y_t = W_o [ sigmoid(W_g x_t + b_g) * (conv(v)_t + b_c) ] ,   v_t = W_v x_t
    conv(v)_t = sum_i c_i * v_{t - W + 1 + i} ,   i = 0 .. W - 1

Source: after Dauphin et al. 2017, arXiv:1612.08083, equation 1. Differs: their value and gate are full convolutions
over all channels, with weight normalisation, and no MLP follows. Here the value has one kernel per channel, the gate
sees the present token only, and the layer is in the block of the backbone.
Cost per token O(D^2 + D W). State: (B, W, D), for any T.

Positions. `--pos learned`, `sinusoidal` and `none` work for every mixer, because the backbone adds them. `default_pos`
says what `--pos auto` means. If your layer applies "rope" or "alibi" itself, name them in `positions` and read
`args.pos`, as src/models/transformer.py does. A whole model handles positions itself, or ignores `args.pos`.

Decoding state. A nested tuple of tensors and whole numbers that `step` gets and returns. `step` may write into the
tensors that it got. The bytes of the state are measured on the live tensors. A view counts with all the memory that it
is a view of. Lists, dicts and objects with attributes count too. What Python cannot look into, such as a generator or a
function, is refused (src/models/state.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from src.models.base import ARModel, Backbone, Mixer, State, build, max_len_of, option


class GatedConv(Mixer):
    """Gated causal convolution.  State: (the last kernel_size values (B, W, D),)."""

    @dataclass(frozen=True)
    class Config:
        """Each field becomes a flag of this model and an attribute of `args`: default, help text, bounds."""

        kernel_size: int = option(4, "characters that the convolution sees, the present one included", least=1)

    positions = ()  # position encodings that the layer applies itself: of "rope" and "alibi"
    default_pos = "none"  # the kernel knows the order of the last few characters
    has_heads = False  # True if the layer reads args.n_head
    max_len = None  # the longest T that the layer can take, if there is a bound; __init__ may set it too
    # Does the layer have a short convolution as an extra, as Mamba has? Then write `own_conv = True`, and build it
    # args.short_conv wide, 0 = none. `published = BlockDefaults(short_conv=4)` sets the usual width. The block adds no
    # other one then. Under --fair the block has the only one, and args.short_conv is 0 for the layer.
    own_conv = False
    # What is the layer itself, so that --fair cannot take it away. A run prints and stores it. Here the convolution is
    # the layer. So under --fair there are two, that of the block and this one, and the run says so.
    keeps = ("a convolution of its own, over --kernel_size characters",)

    def __init__(self, args):
        super().__init__()
        self.kernel_size = args.kernel_size
        self.value_gate = nn.Linear(args.d_model, 2 * args.d_model, bias=args.bias)
        self.value_gate.parts = [args.d_model, args.d_model]  # two maps in one; only `--init xavier` asks
        self.out = nn.Linear(args.d_model, args.d_model, bias=args.bias)
        # The layer initialises itself. `--init` may replace the linear maps, but no bare parameter such as this one:
        # each channel begins as the mean of its window.
        self.kernel = nn.Parameter(torch.full((args.kernel_size, args.d_model), 1.0 / args.kernel_size))
        self.kernel_bias = nn.Parameter(torch.zeros(args.d_model)) if args.bias else None
        # To keep weight decay off a parameter: self.kernel._no_weight_decay = True. Norms and biases have none anyway.

    def forward(self, x):
        """x (B, T, D) -> y (B, T, D). Needed. Output t may depend on x_0 .. x_t only."""
        value, gate = self.value_gate(x).chunk(2, dim=-1)
        return self._mix(F.pad(value, (0, 0, self.kernel_size - 1, 0)), gate)

    def init_state(self, batch_size: int, max_len: int) -> State:
        """The state before the first of at most max_len tokens. Needed if you write `step`."""
        return (self.kernel.new_zeros(batch_size, self.kernel_size, self.kernel.shape[1]),)

    def step(self, x, state: State):
        """One token: x (B, D), state -> y (B, D), state. Optional. It must give what `forward` gives."""
        value, gate = self.value_gate(x).chunk(2, dim=-1)
        window = torch.cat([state[0][:, 1:], value[:, None]], dim=1)  # (B, W, D)
        mixed = (window * self.kernel).sum(dim=1)
        return self._gated(mixed, gate), (window,)

    def prefill(self, x, state: State):
        """Several tokens: x (B, T, D), state -> y (B, T, D), state. Optional; the default calls `step` in a loop.

        The state may already hold tokens. Write it if the parallel form can give the state after the last token.
        """
        value, gate = self.value_gate(x).chunk(2, dim=-1)
        window = torch.cat([state[0][:, 1:], value], dim=1)  # (B, W - 1 + T, D)
        last = window[:, -self.kernel_size :].clone()  # a copy, because a view would keep the whole prompt in memory
        return self._mix(window, gate), (last,)

    def _mix(self, window, gate):
        """Values (B, W - 1 + T, D), gates (B, T, D) -> y (B, T, D)."""
        T = gate.shape[1]
        # For short kernels a sum over the taps is faster on a CPU than F.conv1d.
        mixed = sum(self.kernel[i] * window[:, i : i + T] for i in range(self.kernel_size))
        return self._gated(mixed, gate)

    def _gated(self, mixed, gate):
        mixed = mixed if self.kernel_bias is None else mixed + self.kernel_bias
        return self.out(gate.sigmoid() * mixed)


def build_model(vocab_size: int, args) -> Backbone:
    """This file's model for the flags of a run. A file of your own does not need it."""
    return build(GatedConv, vocab_size, args, max_len_of(args))


class _WholeModel(ARModel):
    """A whole model: it predicts from this character and from the mean embedding of all characters so far.

    State: (sum of the embeddings (B, D), number of characters).
    """

    def __init__(self, vocab_size: int, args):
        super().__init__()
        self.max_len = None  # the longest T that the model can take, if there is a bound; nothing longer is fed
        self.embed = nn.Embedding(vocab_size, args.d_model)
        self.up = nn.Linear(2 * args.d_model, 4 * args.d_model)
        self.head = nn.Linear(4 * args.d_model, vocab_size)

    def forward(self, x, attn_mask=None):
        """Ids (B, T) -> logits (B, T, C).

        Needed. attn_mask marks padding on the right, so a causal model may ignore it.
        """
        return self.prefill(x, self.init_state(len(x), x.shape[1]))[0]

    def init_state(self, batch_size: int, max_len: int) -> State:
        """The state before the first of at most max_len tokens. Needed if you write `step`."""
        return self.embed.weight.new_zeros(batch_size, self.embed.embedding_dim), 0

    def step(self, ids, state: State):
        """One token: ids (B,), state -> logits (B, C), state. Optional."""
        total, count = state
        h = self.embed(ids)
        total = total + h
        return self._predict(h, total / (count + 1)), (total, count + 1)

    def prefill(self, x, state: State):
        """Several tokens: ids (B, T), state -> logits (B, T, C), state. Needed if you write `step`."""
        total, count = state
        h = self.embed(x)
        sums = total[:, None] + h.cumsum(dim=1)
        counts = torch.arange(count + 1, count + 1 + x.shape[1], device=x.device)
        return self._predict(h, sums / counts[:, None]), (sums[:, -1].clone(), count + x.shape[1])

    def _predict(self, h, mean):
        return self.head(F.gelu(self.up(torch.cat([h, mean], dim=-1))))
