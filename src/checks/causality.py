"""Causality: what stands at t or later changes nothing before t, by three ways of looking.

Changed tokens show a leak in the logits themselves; shortened sequences catch layers that know the length (a division by T); gradients need one
pass only, so noise in the layer does not hide what they find. Eval and train mode both count: batch statistics look ahead in training alone.
"""

from __future__ import annotations

import torch

from src.checks.base import (
    NO_EMBEDDING,
    Result,
    Subject,
    at_embedding,
    check_logits,
    gap,
    judged,
    logits_of,
    ratio,
    skipped,
)

ONE_TOKEN = "the model ends at one token"
BORDERS = (16, 32, 64, 128, 256)  # chunk lengths of parallel forms
# Relative to the logits' spread. Both passes have the same shapes, so most layers differ by exactly 0; a convolution by FFT mixes all times and
# rounds at about 1e-6.
LEAK = 1e-5
GRADIENT_LEAK = 1e-5  # relative to the largest gradient of a past input; differences of cumulative sums leave 1e-7


def cuts(length: int, quick: bool) -> list[int]:
    """Times to cut at: the ends, and both sides of every chunk border."""
    near = (0,) if quick else (-1, 0, 1)
    return sorted({t for t in (1, length - 1, *(b + d for b in BORDERS for d in near)) if 0 < t < length})


def changed_tokens(subject: Subject):
    """Other tokens from t on move no logit before t."""
    if subject.longest < 2:
        yield skipped("changed tokens", ONE_TOKEN)
        return
    model = subject.model()
    lengths = (
        (subject.longest,)
        if subject.quick
        else sorted({min(64, subject.longest), min(129, subject.longest), subject.longest})
    )
    for mode in ("eval", "train"):
        name = "changed tokens" + (" in train mode" if mode == "train" else "")
        model.train(mode == "train")
        yield _changed_tokens(subject, model, lengths, name)


def _changed_tokens(subject: Subject, model, lengths, name: str) -> Result:
    worst, at, n = 0.0, "", 0
    for length in lengths:
        x, other = subject.tokens(subject.batch, length), subject.tokens(subject.batch, length, seed=2)
        want = logits_of(model, x)
        again = gap(logits_of(model, x), want)
        if again > LEAK:  # else noise would be taken for the future
            return skipped(
                name, f"the same tokens twice differ by {again:.2g}; see the checks of hidden state and repeatability"
            )
        for t in cuts(length, subject.quick):
            changed = torch.cat(
                [x[:, :t], (x[:, t:] + 1 + other[:, t:] % (subject.vocab_size - 1)) % subject.vocab_size], dim=1
            )
            leak = gap(logits_of(model, changed)[:, :t], want[:, :t], want)
            n += 1
            if leak > worst:
                worst, at = leak, f"; worst at t={t} of {length}"
    return judged(name, worst, LEAK, f"{n} cuts{at}")


def shorter_sequence(subject: Subject) -> Result:
    """The first t tokens alone give the logits that they give at the head of a longer sequence."""
    if subject.longest < 2:
        return skipped("shortened sequence", ONE_TOKEN)
    model, length = subject.model(), subject.longest
    x = subject.tokens(subject.batch, length)
    want = logits_of(model, x)
    again = gap(logits_of(model, x), want)
    if again > LEAK:
        return skipped(
            "shortened sequence",
            f"the same tokens twice differ by {again:.2g}; see the checks of hidden state and repeatability",
        )
    gaps = {t: gap(logits_of(model, x[:, :t]), want[:, :t], want) for t in cuts(length, subject.quick)}
    worst = max(gaps, key=gaps.get)
    return judged(
        "shortened sequence", gaps[worst], subject.tolerance, f"{len(gaps)} lengths; worst t={worst} of {length}"
    )


def gradient(subject: Subject) -> Result:
    """Logits before t have no gradient with respect to the embeddings from t on."""
    name = "gradient of later inputs"
    if subject.longest < 2:
        return skipped(name, ONE_TOKEN)
    model, length = (
        subject.model().train(),
        subject.longest,
    )  # train mode: cuDNN's recurrences have a backward pass there alone
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
    worst, at = 0.0, ""
    for t in cuts(length, quick=True):
        found = torch.autograd.grad((logits * weights)[:, :t].sum(), leaves, retain_graph=True, allow_unused=True)
        past, future = (
            max((_largest(g[:, part]) for g in found if g is not None), default=0.0)
            for part in (slice(t), slice(t, None))
        )
        leak = ratio(future, past)
        if leak > worst:
            worst, at = leak, f"; worst at t={t} of {length}"
    return judged(name, worst, GRADIENT_LEAK, f"{len(cuts(length, quick=True))} cuts, train mode{at}")


def _largest(values) -> float:
    """The largest absolute value; infinite where one is no number."""
    return values.abs().nan_to_num(float("inf")).max().item()
