"""Numerics: bf16 autocast stays near float32 at every position, and extreme inputs give finite values."""

from __future__ import annotations

import torch

from src.checks.base import (
    NO_EMBEDDING,
    NO_MIXER,
    Result,
    Subject,
    at_embedding,
    check_logits,
    judged,
    logits_of,
    measured,
    mixers,
    not_finite,
    ratio,
    skipped,
)

# Root mean square of the difference, divided by the standard deviation of the logits, in the worst quarter of the
# sequence. bf16 rounds at 2^-9 = 0.002. About twelve roundings in two blocks leave 0.003 to 0.004 in attention, LSTM,
# GRU and convolution. More than ten times that means that a state loses what it stores.
DRIFT = 0.05
BF16_DECODED = 620  # tokens: beyond 512, bf16 counts positions in steps of 4
JUDGED_SCALE, MEASURED_SCALE = 10, 100  # of the inputs of a layer alone; behind the norm of a block they are near 1


def _bf16(subject: Subject):
    return torch.autocast(subject.device.type, dtype=torch.bfloat16)


def _drift(got, want) -> float:
    """The root mean square difference in the worst quarter of T, divided by the standard deviation of `want`."""
    parts = zip(got.chunk(4, dim=1), want.chunk(4, dim=1), strict=True)
    spread = want.std(correction=0).item()
    return max(ratio((g - w).square().mean().sqrt().item(), spread) for g, w in parts)


def bf16_forward(subject: Subject) -> Result:
    """Logits under bf16 autocast against float32, for more than the 256 positions that bf16 counts exactly."""
    length = max(subject.long, subject.longest)
    model = subject.model_for(length)
    x = subject.tokens(1, min(length, model.max_len or length))
    want = logits_of(model, x)
    with _bf16(subject):
        got = logits_of(model, x)
    return judged(
        "bf16 forward",
        _drift(got, want),
        DRIFT,
        f"near float32 in the worst quarter of {x.shape[1]} tokens",
        f"logits in bf16 are far from those in float32 (worst quarter of {x.shape[1]} tokens)",
    )


def bf16_decoding(subject: Subject) -> Result:
    """Prefill and steps under bf16 autocast against a float32 forward."""
    from src.checks.decoding import decode

    length = min(BF16_DECODED, max(subject.long, subject.longest))
    model = subject.model_for(length)
    if model.cache_kind() == "replay":
        length = min(60, length)  # each token costs a pass
    x = subject.tokens(1, min(length, model.max_len or length))
    want = logits_of(model, x)
    with _bf16(subject):
        steps = min(20, x.shape[1] - 1)
        got = decode(model, x, [("prefill", x.shape[1] - steps), ("step", steps)])
    how = f"in a prefill of {x.shape[1] - steps} and {steps} steps"
    return judged(
        "bf16 decoding",
        _drift(got, want),
        DRIFT,
        f"near float32 {how}",
        f"logits in bf16 are far from those in float32 {how}",
    )


def bf16_gradients(subject: Subject) -> Result:
    """A training step under bf16 autocast gives finite gradients."""
    model, x = subject.model().train(), subject.tokens(2, min(129, subject.longest))
    with _bf16(subject):
        logits = model(x)
        check_logits(logits, x)
    logits.float().logsumexp(-1).mean().backward()
    count = not_finite(p.grad for p in model.parameters())
    return _finite("bf16 gradients", count, "gradients of a step in bf16")


def _finite(name: str, count: int, what: str) -> Result:
    """Pass where the count of values that are NaN or infinite is 0."""
    return judged(f"{name}, not finite", count, 0, f"all {what} are finite", f"some {what} are NaN or infinite")


def _push(subject: Subject, change):
    """How many logits and gradients are NaN or infinite with changed embeddings, and how many outputs were changed."""
    model, x = subject.model().train(), subject.tokens(2, min(129, subject.longest))
    with at_embedding(model, change) as changed:
        logits = model(x)
    check_logits(logits, x)
    logits.float().logsumexp(-1).mean().backward()
    return not_finite((logits, *(p.grad for p in model.parameters()))), len(changed)


def extreme_embeddings(subject: Subject):
    """The whole model with embeddings that are 100 times as large, and with embeddings that are all zero."""
    for name, change in (("embeddings x 100", lambda h: 100 * h), ("embeddings zero", lambda h: 0 * h)):
        count, applied = _push(subject, change)
        yield _finite(name, count, "logits and gradients") if applied else skipped(name, NO_EMBEDDING)


def extreme_inputs(subject: Subject):
    """Each layer alone, without the norm before it: normal inputs x 10 and zeros are judged, inputs x 100 are measured.

    Behind the norm of its block no layer sees inputs x 100, and exponential gates may overflow there.
    """
    model = subject.model().train()
    layers = mixers(model)
    shape = (2, min(129, subject.longest), subject.args.d_model)
    normal = torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(subject.device)
    for scale in (JUDGED_SCALE, 0, MEASURED_SCALE):
        name = f"layer inputs x {scale}" if scale else "layer inputs zero"
        if not layers:
            yield skipped(name, NO_MIXER)
            continue
        count = 0
        for layer in layers:
            leaf = (scale * normal).requires_grad_()
            y = layer(leaf)
            layer.zero_grad(set_to_none=True)
            (y.float() * normal).mean().backward()
            count += not_finite((y, leaf.grad, *(p.grad for p in layer.parameters())))
        result = _finite(name, count, "outputs and gradients")
        if scale == MEASURED_SCALE:
            result = measured(result.name, count, result.note)
        yield result


def one_repeated_token(subject: Subject) -> Result:
    """A sequence that repeats one token."""
    model = subject.model().train()
    x = torch.full((2, subject.longest), 3, device=subject.device)
    logits = model(x)
    check_logits(logits, x)
    logits.float().logsumexp(-1).mean().backward()
    count = not_finite((logits, *(p.grad for p in model.parameters())))
    return _finite("one repeated token", count, f"values for {subject.longest} equal tokens")
