"""What the tests of the layers share: small inputs, changed parameters, and decoding compared with `forward`."""

import torch

from src.models import MODELS
from src.models.contract import ARModel

C = 11  # characters of the vocabulary
WHOLE = [name for name, entry in MODELS.items() if issubclass(entry.load(), ARModel)]  # without a block of the bench
IN_BACKBONE = [name for name in MODELS if name not in WHOLE]
LAYERS = [name for name in IN_BACKBONE if name != "hybrid"]


class NoTask:
    """A task without flags, enough for `resolve`."""

    Config = None


def tokens(batch, length, seed=1):
    """Random ids (batch, length)."""
    return torch.randint(0, C, (batch, length), generator=torch.Generator().manual_seed(seed))


def disturb(module, amount=0.3):
    """Move all parameters, so that zero biases, unit norms and gates near 1 hide nothing."""
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(amount * torch.randn(p.shape, generator=g))
    return module


def decoding_gap(part, x, *cuts):
    """The largest difference between `forward`, and prefills up to each cut with steps from there.

    part, x: a model and ids (B, T), or a layer and inputs (B, T, D). Each tuple of cuts decodes the sequence once.
    """
    length = x.shape[1]
    worst = 0.0
    with torch.no_grad():
        want = part(x)
        for ends in cuts:
            state, got, begin = part.init_state(len(x), length), [], 0
            for end in ends:
                y, state = part.prefill(x[:, begin:end], state)
                got.append(y)
                begin = end
            for t in range(begin, length):
                y, state = part.step(x[:, t], state)
                got.append(y[:, None])
            worst = max(worst, (torch.cat(got, dim=1) - want).abs().max().item())
    return worst


WHOLE_FILE = """
import torch
from torch import nn
from src.models.base import ARModel


class Whole(ARModel):
    def __init__(self, vocab_size, args):
        super().__init__()
        self.embed, self.head = nn.Embedding(vocab_size, args.d_model), nn.Linear(args.d_model, vocab_size)

    def forward(self, x, attn_mask=None):
        return self.head(self.embed(x).cumsum(1))
"""  # a whole model of a user's own
