"""Caching: what a layer keeps from one call does not spoil a later one, when the parameters have moved.

A run trains, validates, validates at longer lengths, and trains on. A layer may keep something between its calls, such
as a table of cosines that is made again for a longer sequence. It must not keep what depends on its parameters: a value
computed without gradients has none to give, and it is out of date after the next step.
"""

from __future__ import annotations

import copy

import torch

from src.checks.base import Result, Subject, difference, judged, logits_of, skipped

SHORT, LONG = 9, 33  # tokens; the longer one asks for a longer table
STEP = 0.1  # how far the largest entry of a parameter moves between two training passes


def training_after_inference(subject: Subject) -> Result:
    """Inference, longer inference, a training pass, and all of it again after the parameters have moved.

    Logits and gradients must be those of a model that was not called before. The value is the largest difference,
    relative to the standard deviation of the logits, or of all gradients.
    """
    name = "training after inference"
    model, long = subject.model(), min(LONG, subject.longest)
    fresh, moved = copy.deepcopy(model), copy.deepcopy(model)
    x, more = subject.tokens(subject.batch, min(SHORT, long)), subject.tokens(subject.batch, long)
    want = [_gradients(fresh, x)]
    if not want[0].numel() or difference(_gradients(fresh, x), want[0]) > subject.tolerance:
        return skipped(name, "there are no gradients, or they differ from call to call")
    _move(moved, fresh)
    want += [logits_of(moved.eval(), more), _gradients(moved, x)]
    got = []
    for _ in range(2):
        logits_of(model.eval(), x)
        got += [logits_of(model, more), _gradients(model, x)]
        _move(model, fresh)
    worst = max(map(difference, got[1:], want))  # all but the first logits, which no parameter has moved before
    return judged(
        name,
        worst,
        subject.tolerance,
        "after inference the model trains as a new one does",
        "after inference or a change of the parameters the model computes otherwise than one that was not called "
        "before: something that depends on the parameters is kept between calls",
    )


def _gradients(model, x):
    """All gradients of one training pass, one after the other: (number of parameters,) in float64. None counts as 0."""
    model.train().zero_grad()
    torch.manual_seed(0)
    model(x).float().logsumexp(-1).sum().backward()
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters() if p.requires_grad]
    parts = [torch.view_as_real(g) if g.is_complex() else g for g in (g.to_dense().detach() for g in found)]
    return torch.cat([g.flatten().double() for g in parts]) if parts else x.new_zeros(0)


def _move(model, other) -> None:
    """Move each parameter against the gradient of the same parameter of `other`."""
    with torch.no_grad():
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            if q.grad is not None:
                g = q.grad.to_dense()
                p -= STEP * g / g.abs().max().clamp_min(1e-30)
