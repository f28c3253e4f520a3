"""Shapes: odd lengths, small sizes and a batch of one work, and sequences longer than trained stay finite."""

from __future__ import annotations

import math

import torch

from src.checks.base import Result, Subject, check_logits, difference, judged, logits_of, skipped
from src.flags.fields import UserError

LENGTHS = (1, 2, 3, 7, 15, 17, 31, 33, 53, 63, 65, 105, 127, 213)
NOT_FINITE = "logits or gradients are NaN or infinite"


def _broken(model, x) -> int:
    """How many logits and gradients of one training step are NaN or infinite."""
    model.train()
    logits = model(x)
    check_logits(logits, x)
    model.zero_grad(set_to_none=True)
    logits.float().square().mean().backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    return sum(int((~torch.isfinite(v)).sum()) for v in (logits, *grads))


def odd_lengths(subject: Subject) -> Result:
    """One token, lengths that are no multiple of a chunk, and a long one: logits and gradients are finite."""
    model = subject.model()
    lengths = [n for n in LENGTHS if n <= subject.longest]
    counts = {n: _broken(model, subject.tokens(2, n)) for n in lengths}
    for n in sorted({subject.long, *subject.run_lengths} - {0}):
        model = subject.model_for(n)
        n = min(n, model.max_len or n)
        counts[n] = _broken(model, subject.tokens(2, n))
    lengths = sorted(counts)
    bad = [n for n in lengths if counts[n]]
    return judged(
        "one token, odd lengths",
        sum(counts.values()),
        0,
        f"finite at {len(lengths)} lengths from {lengths[0]} to {lengths[-1]} tokens",
        f"{NOT_FINITE} at T = {', '.join(map(str, bad))}",
    )


def _decoded(subject: Subject, name: str, model, x, steps: int) -> Result:
    """A training step is finite, and a prefill with some steps after it equals forward."""
    from src.checks.decoding import decode

    found = difference(decode(model, x, [("prefill", x.shape[1] - steps), ("step", steps)]), logits_of(model, x))
    broken = _broken(model, x)
    return judged(
        name,
        math.nan if broken else found,
        subject.tolerance,
        "finite, and steps equal forward",
        NOT_FINITE if broken else "steps gave other logits than forward",
    )


def _sized(subject: Subject, name: str, **changes) -> Result:
    """The model at another size, or a skipped result where the layer refuses that size."""
    try:
        model = subject.model(**changes)
    except UserError as error:
        return skipped(name, f"the layer refused: {error}")
    return _decoded(subject, name, model, subject.tokens(2, 21), steps=4)


def width_8(subject: Subject) -> Result:
    """A width of 8."""
    return _sized(subject, "width 8", d_model=8)


def one_head(subject: Subject) -> Result:
    """A single head."""
    return _sized(subject, "one head", n_head=1)


def batch_1(subject: Subject) -> Result:
    """A batch of one row."""
    return _decoded(subject, "batch of one", subject.model(), subject.tokens(1, min(40, subject.longest)), steps=8)


def longer_than_trained(subject: Subject) -> Result:
    """On eight times the length it was built for, the model is finite and its first logits stay the same."""
    name, trained = "longer than trained", 32
    model = subject.model(max_len=trained, **({"context_len": trained} if hasattr(subject.args, "context_len") else {}))
    if model.max_len is not None:
        return skipped(
            name, f"the model has a position table of {model.max_len} tokens, so longer sequences are undefined"
        )
    x = subject.tokens(1, 8 * trained)
    want, got = logits_of(model, x[:, :trained]), logits_of(model, x)
    finite = bool(torch.isfinite(got).all())
    return judged(
        name,
        difference(got[:, :trained], want) if finite else math.nan,
        subject.tolerance,
        f"built for {trained} tokens, finite on {8 * trained}",
        f"the first {trained} tokens gave other logits within {8 * trained} tokens than alone"
        if finite
        else f"built for {trained} tokens, the model gave NaN or infinite logits on {8 * trained}",
    )
