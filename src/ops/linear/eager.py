"""A linear map by torch's own matrix product, on any device."""

from __future__ import annotations

import torch.nn.functional as F


def run(x, weight, bias):
    """Arguments as in `linear`, already checked: (..., O)."""
    return F.linear(x, weight, bias)
