"""LSTM and GRU: torch's own recurrent layers inside the shared backbone.

    paper      here            shape       meaning
    x_t        x               (..., D)    input of the layer at token t
    h_t        h               (B, D)      output, and the state of the GRU
    c_t        c               (B, D)      cell of the LSTM, its second state
    W, b       rnn.weight_ih   (4 D, D)    maps of x_t to the gates, in torch's order i, f, g, o; GRU: r, z, n, (3 D, D)
    U, b       rnn.weight_hh   (4 D, D)    maps of h_{t-1} to the gates
    i, f, o    -               (B, D)      input, forget and output gate of the LSTM
    r, z       -               (B, D)      reset and update gate of the GRU

LSTM   i, f, o = sigmoid(W x_t + U h_{t-1} + b) ,   g = tanh(W_g x_t + U_g h_{t-1} + b_g)
       c_t = f * c_{t-1} + i * g ,   h_t = o * tanh(c_t)
GRU    r, z = sigmoid(W x_t + U h_{t-1} + b) ,   n = tanh(W_n x_t + b_n + r * (U_n h_{t-1} + b_u))
       h_t = (1 - z) * n + z * h_{t-1}

Sources: Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000. Cho et al. 2014, arXiv:1406.1078.
Differs:
- The reset gate acts after the recurrent product, as in cuDNN and torch. Cho et al. reset the state before it.
- Two bias vectors per gate, as in torch and cuDNN. One is enough. `--bias` does not concern the gates.
- Initialisation is torch's: uniform in +- D^(-1/2) for all weights and biases. The forget gate's bias does not start
  at 1, as Gers et al. 2000 and Jozefowicz et al. 2015 advise.
- No peepholes, which Gers & Schmidhuber 2000 added to the LSTM.
- The papers stack the layers alone. Here each is in the residual block of the backbone: LayerNorm before it and an MLP
  after it. `--dim_ffn 0` removes the MLP. Dropout is on what a block adds, never between two steps.

The recurrence runs in float32 under autocast too, because a state rounded to bf16 at each step drifts. Cost per token
O(D^2), one token after the other. State: (B, D), for the LSTM twice, for any T.

    python benchmark.py --task parity --model lstm
"""

from __future__ import annotations

import warnings

import torch
from torch import nn

from src.models.backbone import build, max_len_of
from src.models.contract import ARModel, Mixer, State
from src.models.parts import at_least_float32
from src.ops import stacked


class _Recurrent(Mixer):
    """What both layers share. Subclasses name torch's module."""

    module: type[nn.RNNBase]

    def __init__(self, args):
        super().__init__()
        self.rnn = self.module(args.d_model, args.d_model, batch_first=True)

    def forward(self, x):
        return self._run(x, None)[0]

    def _run(self, x, start):
        """x (B, T, D), first state or None -> y (B, T, D) in x's dtype, last state in torch's layout (1, B, D)."""
        if stacked.inside():
            return self._run_stacked(x), None
        with torch.autocast(x.device.type, enabled=False):
            y, last = self.rnn(at_least_float32(x), start)
        return y.to(x.dtype), last

    def _run_stacked(self, x):
        """The outputs of `_run` from a zero state, for several models: torch's function once per model."""

        def run(x, *weights):
            zeros = x.new_zeros(1, len(x), x.shape[2], dtype=weights[0].dtype)
            start = (zeros, zeros) if self.module is nn.LSTM else zeros
            with torch.autocast(x.device.type, enabled=False), warnings.catch_warnings():
                # The weights of several models lie side by side, so cuDNN copies those of one together, and says so.
                warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous chunk")
                function = torch.lstm if self.module is nn.LSTM else torch.gru
                y = function(at_least_float32(x), start, weights, True, 1, 0.0, self.training, False, True)[0]
            return y.to(x.dtype)

        return stacked.each(run, x, *self._weights())

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
