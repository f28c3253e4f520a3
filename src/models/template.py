"""The file to copy for a sequence layer of your own: `--model my_layer.py`. It works as it stands.

    y_t = W_o ( sigmoid(W_g x_t + b_g) * (conv(v)_t + b_c) ),   v_t = W_v x_t,   conv(v)_t = sum_i c_i * v_{t - kernel_size + 1 + i}

a gated causal depthwise convolution (c_i is one number a channel), after Dauphin et al. 2017, arXiv:1612.08083, whose convolutions
are not depthwise. Cost a token O(D^2 + D kernel_size); state (B, kernel_size, D).

Two forms, of which a file has one, the only public class of the file (a leading underscore hides a class from the loader):

1. a `Mixer`, the layer alone: `GatedConv` below. Only `__init__(args)` and `forward` are needed; embedding, positions, norms, residuals,
   MLP, head, loss and text generation come with the backbone. The rest of the class makes decoding fast.
2. an `ARModel`, the whole model from characters to logits: `_WholeModel` below. Only `__init__(vocab_size, args)` and `forward` are needed.
   To use it, remove its underscore and delete `GatedConv` and `build_model`.

    python benchmark.py check --model my_layer.py                 is it causal, and does `step` equal `forward`?
    python benchmark.py --task needle --model my_layer.py --kernel_size 6

Position encodings. `--pos learned`, `sinusoidal` and `none` are added by the backbone and work for every mixer; `default_pos` says what
`--pos auto` means. Name in `positions` those of "rope" and "alibi" that the layer applies itself (it then reads `args.pos`, as
src/models/transformer.py does); the others are refused. A whole model handles positions itself, or ignores `args.pos`.

Decoding state. A nested tuple of tensors and whole numbers that `step` gets and returns; it may write into what it got. Its bytes are measured
from the live tensors (a view counts with all that it is a view of). Without `init_state` and `step`, decoding runs `forward` on the whole
prefix for every token: right, slow, and reported as `cache=replay`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from src.flags.fields import option
from src.models.backbone import Backbone, build, max_len_of
from src.models.contract import ARModel, Mixer, State


class GatedConv(Mixer):
    """Gated causal depthwise convolution. State: (the last kernel_size values, (B, kernel_size, D),)."""

    @dataclass(frozen=True)
    class Config:
        """Each field becomes a flag of this model, and an attribute of `args`: name, type, default, help, bounds."""

        kernel_size: int = option(4, "characters that the convolution sees, the present one included", least=1)

    positions = ()  # neither rope nor alibi here
    default_pos = "none"  # the order of the last few characters is in the convolution
    has_heads = False  # True where the layer reads args.n_head

    def __init__(self, args):
        super().__init__()
        self.kernel_size = args.kernel_size
        self.value_gate = nn.Linear(args.d_model, 2 * args.d_model, bias=args.bias)
        self.out = nn.Linear(args.d_model, args.d_model, bias=args.bias)
        # The layer initialises itself and nothing overwrites it: each channel begins as the mean of its window.
        self.kernel = nn.Parameter(torch.full((args.kernel_size, args.d_model), 1.0 / args.kernel_size))
        self.kernel_bias = nn.Parameter(torch.zeros(args.d_model)) if args.bias else None
        # self.kernel._no_weight_decay = True would keep AdamW's decay off a parameter (norms and biases have none anyhow).

    def forward(self, x):
        """x (B, T, D) -> (B, T, D). Needed. Output t may depend on x_0 .. x_t only."""
        value, gate = self.value_gate(x).chunk(2, dim=-1)
        return self._mix(F.pad(value, (0, 0, self.kernel_size - 1, 0)), gate)

    def init_state(self, batch_size: int, max_len: int) -> State:
        """The state before the first of at most max_len tokens. Needed where `step` is written."""
        return (self.kernel.new_zeros(batch_size, self.kernel_size, self.kernel.shape[1]),)

    def prefill(self, x, state: State):
        """Several tokens at once: x (B, T, D), state -> y (B, T, D), state. Optional; the default calls `step` in a loop.

        The state may already hold tokens. Write it where the parallel form can give the state after the last token.
        """
        value, gate = self.value_gate(x).chunk(2, dim=-1)
        window = torch.cat([state[0][:, 1:], value], dim=1)  # (B, kernel_size - 1 + T, D)
        return self._mix(window, gate), (
            window[:, -self.kernel_size :].clone(),
        )  # a copy: a view would keep all of the prompt

    def step(self, x, state: State):
        """One token: x (B, D), state -> y (B, D), state. Optional; it must give what `forward` gives."""
        value, gate = self.value_gate(x).chunk(2, dim=-1)
        window = torch.cat([state[0][:, 1:], value[:, None]], dim=1)  # (B, kernel_size, D)
        mixed = (window * self.kernel).sum(dim=1)
        return self._gated(mixed, gate), (window,)

    def _mix(self, window, gate):
        """Outputs (B, T, D) from the values (B, kernel_size - 1 + T, D) and the gates (B, T, D)."""
        T = gate.shape[1]
        mixed = sum(
            self.kernel[i] * window[:, i : i + T] for i in range(self.kernel_size)
        )  # faster on a CPU than F.conv1d for short kernels
        return self._gated(mixed, gate)

    def _gated(self, mixed, gate):
        mixed = mixed if self.kernel_bias is None else mixed + self.kernel_bias
        return self.out(gate.sigmoid() * mixed)


def build_model(vocab_size: int, args) -> Backbone:
    """This file's model for a run configuration. A file of your own does not need it."""
    return build(GatedConv, vocab_size, args, max_len_of(args))


class _WholeModel(ARModel):
    """A whole model: what comes next, from this character and the mean embedding of all characters so far.

    State: (sum of the embeddings (B, D), their number).
    """

    def __init__(self, vocab_size: int, args):
        super().__init__()
        self.max_len = (
            None  # a number where a position table ends the sequence; `generate` then refuses to go beyond it
        )
        self.embed = nn.Embedding(vocab_size, args.d_model)
        self.up = nn.Linear(2 * args.d_model, 4 * args.d_model)
        self.head = nn.Linear(4 * args.d_model, vocab_size)

    def forward(self, x, attn_mask=None):
        """Ids (B, T) -> logits (B, T, C). Needed. attn_mask marks padding on the right, which a causal model may ignore."""
        return self.prefill(x, self.init_state(len(x), x.shape[1]))[0]

    def init_state(self, batch_size: int, max_len: int) -> State:
        return self.embed.weight.new_zeros(batch_size, self.embed.embedding_dim), 0

    def prefill(self, x, state: State):
        """Several tokens: ids (B, T), state -> logits (B, T, C), state. Needed where `step` is written."""
        total, count = state
        h = self.embed(x)
        sums = total[:, None] + h.cumsum(dim=1)
        counts = torch.arange(count + 1, count + 1 + x.shape[1], device=x.device)
        return self._predict(h, sums / counts[:, None]), (sums[:, -1].clone(), count + x.shape[1])

    def step(self, ids, state: State):
        """One token: ids (B,), state -> logits (B, C), state. Optional."""
        total, count = state
        h = self.embed(ids)
        total = total + h
        return self._predict(h, total / (count + 1)), (total, count + 1)

    def _predict(self, h, mean):
        return self.head(F.gelu(self.up(torch.cat([h, mean], dim=-1))))
