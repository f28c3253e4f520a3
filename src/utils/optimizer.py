"""AdamW without `torch._dynamo`, the compiler behind torch.compile.

Optimizers of torch load that package when they are made, because their methods keep the compiler out of themselves.
It takes a second, and a run that compiles nothing has no use for it. Here the same methods are called without that
wrapper. A compiled model is not affected: the bench never compiles an optimizer.
"""

from __future__ import annotations

import torch


def _bare(method):
    """A method of torch's without its outer wrapper. Without a wrapper it is the method itself."""
    return getattr(method, "__wrapped__", method)


class AdamW(torch.optim.AdamW):
    """torch.optim.AdamW: the same numbers, state and checkpoints."""

    add_param_group = _bare(torch.optim.AdamW.add_param_group)
    zero_grad = _bare(torch.optim.AdamW.zero_grad)
    state_dict = _bare(torch.optim.AdamW.state_dict)
    load_state_dict = _bare(torch.optim.AdamW.load_state_dict)
    step = torch.no_grad()(_bare(torch.optim.AdamW.step))
