"""Shapes: every length, width, head count and batch size works; what is longer than trained stays finite."""

from __future__ import annotations

import torch

from src.checks.base import Result, Subject, check_logits, gap, judged, logits_of, skipped
from src.flags.fields import UserError

LENGTHS = (1, 2, 3, 7, 15, 17, 31, 33, 63, 65, 127)


def _broken(model, x) -> int:
    """How many logits and gradients of one training step are not finite."""
    model.train()
    logits = model(x)
    check_logits(logits, x)
    model.zero_grad(set_to_none=True)
    logits.float().square().mean().backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    return sum(int((~torch.isfinite(v)).sum()) for v in (logits, *grads))


def odd_lengths(subject: Subject) -> Result:
    """One token, and lengths that no chunk divides: shapes are right, logits and gradients finite."""
    model = subject.model()
    lengths = [n for n in LENGTHS if n <= subject.longest]
    counts = {n: _broken(model, subject.tokens(2, n)) for n in lengths}
    bad = [str(n) for n, count in counts.items() if count]
    return judged(
        "one token, odd lengths",
        sum(counts.values()),
        0,
        "not finite at T = " + ", ".join(bad) if bad else f"T = {', '.join(map(str, lengths))}",
    )


def _sized(subject: Subject, name: str, **changes) -> Result:
    """The model at another size: forward, backward, and steps that agree with forward."""
    from src.checks.decoding import decode

    try:
        model = subject.model(**changes)
    except UserError as error:  # a layer may refuse a size, in words
        return skipped(name, f"refused: {error}")
    x = subject.tokens(2, 21)
    found = gap(decode(model, x, [("prefill", 17), ("step", 4)]), logits_of(model, x))
    return judged(
        name, float("nan") if _broken(model, x) else found, subject.tolerance, "finite, and steps equal forward"
    )


def width_8(subject: Subject) -> Result:
    """Eight channels."""
    return _sized(subject, "width 8", d_model=8)


def one_head(subject: Subject) -> Result:
    """A single head."""
    return _sized(subject, "one head", n_head=1)


def batch_1(subject: Subject) -> Result:
    """A batch of one row, decoded."""
    from src.checks.decoding import decode

    model, x = subject.model(), subject.tokens(1, min(40, subject.longest))
    half = x.shape[1] - 8
    found = gap(decode(model, x, [("prefill", half), ("step", 8)]), logits_of(model, x))
    return judged(
        "batch of one",
        float("nan") if _broken(model, x) else found,
        subject.tolerance,
        "finite, and steps equal forward",
    )


def longer_than_trained(subject: Subject) -> Result:
    """Eight times the length that the model was built for: finite, and the head of the sequence as before."""
    trained = 32
    model = subject.model(max_len=trained, **({"context_len": trained} if hasattr(subject.args, "context_len") else {}))
    if model.max_len is not None:
        return skipped("longer than trained", f"undefined beyond its position table of {model.max_len} tokens")
    x = subject.tokens(1, 8 * trained)
    want, got = logits_of(model, x[:, :trained]), logits_of(model, x)
    value = gap(got[:, :trained], want) if torch.isfinite(got).all() else float("nan")
    return judged("longer than trained", value, subject.tolerance, f"built for {trained} tokens, run on {8 * trained}")
