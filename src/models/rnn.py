"""LSTM and GRU layers: torch's own, inside the shared backbone.

LSTM: Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000. GRU: Cho et al. 2014, arXiv:1406.1078, with the reset
gate after the recurrent product, as cuDNN and torch have it. Initialisation is torch's: uniform in +- 1/sqrt(d_model), for all weights
and biases. The gates keep their biases under `--bias False`, which speaks of the backbone and attention.

The recurrence runs in float32 under autocast too, because a state rounded to bf16 at every step drifts. Cost a token O(D^2); state
(B, D), for the LSTM twice, independent of T.   python benchmark.py --model lstm
"""

from __future__ import annotations

import torch
from torch import nn

from src.models.backbone import build, max_len_of
from src.models.contract import ARModel, Mixer, State
from src.models.parts import at_least_float32


class _Recurrent(Mixer):
    """What both share. Subclasses name torch's module and its one-step function."""

    module: type[nn.RNNBase]

    def __init__(self, args):
        super().__init__()
        self.rnn = self.module(args.d_model, args.d_model, batch_first=True)

    def forward(self, x):
        return self._run(x, None)[0]

    def _run(self, x, start):
        """Outputs (B, T, D) in x's dtype and the last state, in torch's layout (1, B, D)."""
        with torch.autocast(x.device.type, enabled=False):
            y, last = self.rnn(at_least_float32(x), start)
        return y.to(x.dtype), last

    def _weights(self):
        r = self.rnn
        return r.weight_ih_l0, r.weight_hh_l0, r.bias_ih_l0, r.bias_hh_l0

    def _zeros(self, batch_size: int):
        """(B, D) float32 zeros on the device of the weights."""
        return torch.zeros(batch_size, self.rnn.hidden_size, device=self.rnn.weight_hh_l0.device)


class LSTM(_Recurrent):
    """Long short-term memory. State: (output h (B, D), cell c (B, D)), float32."""

    module = nn.LSTM

    def init_state(self, batch_size: int, max_len: int) -> State:
        return self._zeros(batch_size), self._zeros(batch_size)

    def prefill(self, x, state: State):
        y, (h, c) = self._run(x, tuple(part[None] for part in state))
        return y, (h[0], c[0])

    def step(self, x, state: State):
        with torch.autocast(x.device.type, enabled=False):
            h, c = torch.lstm_cell(at_least_float32(x), state, *self._weights())
        return h.to(x.dtype), (h, c)


class GRU(_Recurrent):
    """Gated recurrent unit. State: (output h (B, D),), float32."""

    module = nn.GRU

    def init_state(self, batch_size: int, max_len: int) -> State:
        return (self._zeros(batch_size),)

    def prefill(self, x, state: State):
        y, h = self._run(x, state[0][None])
        return y, (h[0],)

    def step(self, x, state: State):
        with torch.autocast(x.device.type, enabled=False):
            h = torch.gru_cell(at_least_float32(x), state[0], *self._weights())
        return h.to(x.dtype), (h,)


def build_model(vocab_size: int, args) -> ARModel:
    """The LSTM or GRU model of a run configuration, by `args.model`."""
    return build(GRU if args.model == "gru" else LSTM, vocab_size, args, max_len_of(args))
