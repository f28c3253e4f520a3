"""Drawing the next token from logits: temperature, top-k (Fan et al. 2018), top-p (Holtzman et al. 2020).

`ARModel.generate` (src/models/contract.py) is what uses it.
"""

from __future__ import annotations

import math

import torch

ZERO = 1e-30  # of temperatures: float32 logits that differ at all are then so far apart that the largest always wins


def check_sampling(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raise ValueError for a setting of `generate` outside its range."""
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"temperature: got {temperature}, allowed: a finite number >= 0 (0 is greedy)")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k: got {top_k}, allowed: >= 1")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p: got {top_p}, allowed: above 0, at most 1")


def sample(logits, temperature: float, top_k: int | None, top_p: float | None, generator=None):
    """Draw ids (B,) from logits (B, C).  temperature: 0 is greedy.  top_k, top_p: None is off."""
    if temperature < ZERO:
        return logits.argmax(dim=-1)
    logits = logits.float()
    logits = (logits - logits.max(dim=-1, keepdim=True).values) / temperature  # the largest is 0, so none becomes inf
    if top_k is not None and top_k < logits.shape[-1]:
        kth = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -math.inf)
    if top_p is not None and top_p < 1:
        ranked, order = logits.sort(dim=-1, descending=True)
        probability = ranked.softmax(dim=-1)
        outside = probability.cumsum(dim=-1) - probability >= top_p
        outside[:, 0] = False  # the likeliest always stays, also where float32 makes top_p 0
        logits = logits.masked_fill(outside.scatter(1, order, outside), -math.inf)
    return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)[:, 0]
