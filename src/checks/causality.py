"""Causality: tokens from t on change no logit before t. Three checks look for it in three ways.

Changed tokens show a leak in the logits. Shortened sequences find layers that know the length (a division by T).
Gradients need one pass only, so they also find a leak in a layer with random noise. Batch statistics see the future in
train mode alone, so tokens are changed in both modes, and gradients are taken in train mode.
"""

from __future__ import annotations

import torch

from src.checks.base import (
    NO_EMBEDDING,
    Result,
    Subject,
    at_embedding,
    check_logits,
    difference,
    judged,
    logits_of,
    ratio,
    skipped,
)

ONE_TOKEN = "the model takes one token only"
BORDERS = (16, 32, 64, 128, 256)  # chunk lengths of parallel forms
# Relative to the standard deviation of the logits. Both passes have one shape, so most layers differ by exactly 0.
# A convolution by FFT mixes all times and rounds at about 1e-6.
LEAK = 1e-5
GRADIENT_LEAK = 1e-5  # relative to the largest gradient of a past input. Differences of cumulative sums leave 1e-7


def cuts(length: int, quick: bool) -> list[int]:
    """The times t at which a sequence is cut: its ends, and both sides of every chunk border."""
    near = (0,) if quick else (-1, 0, 1)
    return sorted({t for t in (1, length - 1, *(b + d for b in BORDERS for d in near)) if 0 < t < length})


def changed_tokens(subject: Subject):
    """Other tokens from t on change no logit before t, in eval and in train mode."""
    if subject.longest < 2:
        yield skipped("changed tokens", ONE_TOKEN)
        return
    model = subject.model()
    lengths = {subject.longest} if subject.quick else {min(n, subject.longest) for n in (64, 129, subject.longest)}
    for mode in ("eval", "train"):
        name = "changed tokens" + (" in train mode" if mode == "train" else "")
        model.train(mode == "train")
        yield _changed_tokens(subject, model, sorted(lengths), name)


def _changed_tokens(subject: Subject, model, lengths, name: str) -> Result:
    worst, at, n = 0.0, "", 0
    for length in lengths:
        x, other = subject.tokens(subject.batch, length), subject.tokens(subject.batch, length, seed=2)
        want = logits_of(model, x)
        if noise := _noise(model, x, want):
            return skipped(name, noise)
        changed = (x + 1 + other % (subject.vocab_size - 1)) % subject.vocab_size  # differs from x everywhere
        for t in cuts(length, subject.quick):
            got = logits_of(model, torch.cat([x[:, :t], changed[:, t:]], dim=1))
            leak = difference(got[:, :t], want[:, :t], want)
            n += 1
            if leak > worst:
                worst, at = leak, f", most at t = {t} of {length}"
    return judged(
        name,
        worst,
        LEAK,
        f"no logit before t changed, for {n} values of t",
        f"logits before t changed when tokens from t on changed{at}",
    )


def _noise(model, x, want) -> str:
    """Why a leak could not be told from noise; empty where two passes over the same tokens agree."""
    again = difference(logits_of(model, x), want)
    return f"the same tokens twice differ by {again:.2g}, so a leak cannot be told from noise" if again > LEAK else ""


def shorter_sequence(subject: Subject) -> Result:
    """The first t tokens give the same logits alone as at the start of a longer sequence."""
    name = "shortened sequence"
    if subject.longest < 2:
        return skipped(name, ONE_TOKEN)
    model, length = subject.model(), subject.longest
    x = subject.tokens(subject.batch, length)
    want = logits_of(model, x)
    if noise := _noise(model, x, want):
        return skipped(name, noise)
    found = {t: difference(logits_of(model, x[:, :t]), want[:, :t], want) for t in cuts(length, subject.quick)}
    worst = max(found, key=found.get)
    return judged(
        name,
        found[worst],
        subject.tolerance,
        f"the first t tokens alone agree, for {len(found)} values of t",
        f"the first {worst} tokens gave other logits alone than within {length} tokens",
    )


def gradient(subject: Subject) -> Result:
    """Logits before t have no gradient with respect to the embeddings from t on."""
    name = "gradient of later inputs"
    if subject.longest < 2:
        return skipped(name, ONE_TOKEN)
    # Train mode, because cuDNN's recurrences have no backward pass in eval mode.
    model, length = subject.model().train(), subject.longest
    x = subject.tokens(subject.batch, length)
    model.requires_grad_(False)
    with at_embedding(model, lambda h: h.detach().requires_grad_()) as leaves:
        torch.manual_seed(0)
        logits = model(x)
    check_logits(logits, x)
    leaves = [h for h in leaves if h.shape[:2] == x.shape]
    if not leaves:
        return skipped(name, NO_EMBEDDING)
    if not logits.requires_grad:
        return skipped(name, "no gradient flows from the logits to the embeddings")
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3)).to(logits)
    leaks = {t: _gradient_leak((logits * weights)[:, :t].sum(), leaves, t) for t in cuts(length, quick=True)}
    worst = max(leaks, key=leaks.get)
    return judged(
        name,
        leaks[worst],
        GRADIENT_LEAK,
        f"no gradient to inputs from t on, {len(leaks)} values of t",
        f"logits before t have a gradient to inputs from t on, most at t = {worst} of {length} in train mode",
    )


def _gradient_leak(value, leaves, t: int) -> float:
    """The largest gradient of a value to inputs from t on, divided by the largest to inputs before t."""
    found = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
    past, future = (
        max((_largest(g[:, part]) for g in found if g is not None), default=0.0) for part in (slice(t), slice(t, None))
    )
    return ratio(future, past)


def _largest(values) -> float:
    """The largest absolute value. NaN becomes inf, so it wins max()."""
    return values.abs().nan_to_num(float("inf")).max().item()
