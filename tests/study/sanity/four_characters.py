"""A layer that sees four characters: this one and the three before it. Whatever needs more, it must fail.

    y_t = W_o silu(W [x_{t-3}, x_{t-2}, x_{t-1}, x_t])

Two such layers see seven characters. State: the last three inputs, (B, 3, D).
"""

import torch
import torch.nn.functional as F
from torch import nn

from src.models.base import Mixer

SEEN = 4  # characters


class FourCharacters(Mixer):
    """A linear map of the last four inputs, and one back to the width."""

    def __init__(self, args):
        super().__init__()
        self.inner = nn.Linear(SEEN * args.d_model, args.d_model)
        self.out = nn.Linear(args.d_model, args.d_model)

    def forward(self, x):
        """x (B, T, D) -> y (B, T, D)."""
        before = F.pad(x, (0, 0, SEEN - 1, 0))
        seen = torch.cat([before[:, i : i + x.shape[1]] for i in range(SEEN)], dim=-1)  # (B, T, 4 D)
        return self.out(F.silu(self.inner(seen)))

    def init_state(self, batch_size: int, max_len: int):
        """Zeros, as before the first character."""
        weight = self.out.weight
        return (weight.new_zeros(batch_size, SEEN - 1, weight.shape[0]),)

    def step(self, x, state):
        """x (B, D), state -> y (B, D), state."""
        seen = torch.cat([state[0], x[:, None]], dim=1)  # (B, 4, D)
        return self.out(F.silu(self.inner(seen.flatten(1)))), (seen[:, 1:],)
