"""The root mean square norm by torch's `rms_norm`, on any device."""

from __future__ import annotations

import torch.nn.functional as F


def run(x, weight, eps: float):
    """Arguments as in `rmsnorm`, already checked: (..., D) in x's dtype."""
    return F.rms_norm(x, x.shape[-1:], weight, eps)
