"""Numerics: bf16 autocast stays near float32 from the first token to the last, and extreme inputs give finite outputs and gradients."""

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
    mixers,
    skipped,
)

# Root mean square relative to the logits' spread, in the worst quarter of the sequence. bf16 rounds at 2^-9 = 0.002; the dozen or so roundings
# of two blocks leave 0.003 to 0.004 in attention, LSTM, GRU and convolution. Over ten times that is a state that loses what it is given.
DRIFT = 0.05


def _bf16(subject: Subject):
    return torch.autocast(subject.device.type, dtype=torch.bfloat16)


def _drift(got, want) -> float:
    """The largest root mean square difference of four quarters of T, by the spread."""
    parts = zip(got.chunk(4, dim=1), want.chunk(4, dim=1), strict=True)
    found = [(g - w).square().mean().sqrt().item() for g, w in parts]
    return max(found, key=lambda v: (v != v, v)) / want.std(correction=0).item()


def bf16_forward(subject: Subject) -> Result:
    """Logits under bf16 autocast against float32."""
    model, x = subject.model(), subject.tokens(2, min(256, subject.longest))
    want = logits_of(model, x)
    with _bf16(subject):
        got = logits_of(model, x)
    return judged("bf16 forward", _drift(got, want), DRIFT, f"worst quarter of {x.shape[1]} tokens")


def bf16_decoding(subject: Subject) -> Result:
    """Prefill and steps under bf16 autocast against a float32 forward."""
    from src.checks.decoding import decode

    model, x = subject.model(), subject.tokens(2, min(60, subject.longest))
    want = logits_of(model, x)
    with _bf16(subject):
        got = decode(model, x, [("prefill", x.shape[1] - 20), ("step", 20)])
    return judged("bf16 decoding", _drift(got, want), DRIFT, f"{x.shape[1] - 20} tokens of prefill, 20 steps")


def bf16_gradients(subject: Subject) -> Result:
    """A training step under bf16 autocast gives finite gradients."""
    model, x = subject.model().train(), subject.tokens(2, min(129, subject.longest))
    with _bf16(subject):
        logits = model(x)
        check_logits(logits, x)
    logits.float().logsumexp(-1).mean().backward()
    return judged(
        "bf16 gradients, not finite", _not_finite(p.grad for p in model.parameters()), 0, "values in all parameters"
    )


def _not_finite(tensors) -> int:
    return sum(int((~torch.isfinite(v)).sum()) for v in tensors if v is not None)


def _push(subject: Subject, change):
    """How many values are not finite in logits and gradients when the embeddings become change(embeddings), and how often it was applied."""
    model, x = subject.model().train(), subject.tokens(2, min(129, subject.longest))
    with at_embedding(model, change) as changed:
        logits = model(x)
    check_logits(logits, x)
    logits.float().logsumexp(-1).mean().backward()
    return _not_finite((logits, *(p.grad for p in model.parameters()))), len(changed)


def extreme_embeddings(subject: Subject):
    """Embeddings 100 times as large, and all zero, through the whole model."""
    for name, change in (("embeddings x 100", lambda h: 100 * h), ("embeddings zero", lambda h: 0 * h)):
        count, applied = _push(subject, change)
        yield (
            judged(name + ", not finite", count, 0, "logits and gradients") if applied else skipped(name, NO_EMBEDDING)
        )


def extreme_inputs(subject: Subject):
    """A layer by itself, without the norm before it: normal inputs x 100, and zeros."""
    model = subject.model().train()
    layers = mixers(model)
    shape = (2, min(129, subject.longest), subject.args.d_model)
    normal = torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(subject.device)
    for name, h in (("layer inputs x 100", 100 * normal), ("layer inputs zero", 0 * normal)):
        if not layers:
            yield skipped(name, NO_MIXER)
            continue
        count = 0
        for layer in layers:
            leaf = h.clone().requires_grad_()
            y = layer(leaf)
            layer.zero_grad(set_to_none=True)
            (y.float() * normal).mean().backward()
            count += _not_finite((y, leaf.grad, *(p.grad for p in layer.parameters())))
        yield judged(name + ", not finite", count, 0, "outputs and gradients")


def one_repeated_token(subject: Subject) -> Result:
    """The same token throughout."""
    model = subject.model().train()
    x = torch.full((2, subject.longest), 3, device=subject.device)
    logits = model(x)
    check_logits(logits, x)
    logits.float().logsumexp(-1).mean().backward()
    count = _not_finite((logits, *(p.grad for p in model.parameters())))
    return judged("one repeated token, not finite", count, 0, f"{subject.longest} times; logits and gradients")
