"""Causality: tokens from t on change no logit before t. Four checks look for it.

Changed tokens show a leak in the logits. Each row of a batch changes from a time t of its own, so one pass tries many
t. Shortened sequences find layers that know the length (a division by T). Gradients need one pass only, so they also
find a leak in a layer with random noise. Batch statistics see the future in train mode alone, so tokens are changed in
both modes, and gradients are taken in train mode. The pass under autocast finds a leak of one dtype.

A leak may begin anywhere. Therefore short sequences are cut at every t, and one long pass is cut at times that are
spread over it. The sequences of a run, and its batch, are tried as they are.
"""

from __future__ import annotations

import torch

from src.checks.base import (
    NO_EMBEDDING,
    RANDOM,
    Result,
    Subject,
    Unjudged,
    answered,
    at_embedding,
    check_logits,
    difference,
    judged,
    logits_of,
    ratio,
    skipped,
)
from src.storage.randomness import seed_all
from src.utils.precision import autocast

ONE_TOKEN = "the model takes one token only"
OTHER_ROWS = "a row changes with the other rows of the batch"
NOT_FINITE = "logits or gradients are NaN or infinite at {length:,} tokens"
BORDERS = (1024, 512, 256, 128, 64, 960, 1008, 1000, 32, 16)  # multiples of most chunk lengths of parallel forms
GOLDEN = 0.6180339887498949  # its multiples, modulo 1, fill an interval evenly
# Relative to the standard deviation of the logits. Both passes have one shape, so most layers differ by exactly 0.
# A convolution by FFT mixes all times and rounds at about 1e-6.
LEAK = 1e-5
GRADIENT_LEAK = 1e-5  # relative to the largest gradient of a past input. Differences of cumulative sums leave 1e-7
AUTOCAST_LEAK = 0.05  # a rounding of 1e-6 before a cast to bf16 becomes one of 2^-9 of the largest value
# Bounds of one pass. Attention without a kernel keeps rows x T x T numbers per head, the logits have rows x T x C.
AREA = 1 << 24  # rows x T x T
VALUES = 1 << 25  # rows x T x C
WORK = 4_000_000_000  # rows x T x parameters, less than a second of a CPU
FEW = 17  # rows of a pass over a sequence that is shorter than another one, which is cut at every t
PIECES = 3  # passes over a sequence that is too long to be cut at every t in one


def cuts(length: int, most: int, turn: int = 0) -> list[int]:
    """At most `most` times t at which a sequence is cut. Another turn gives others.

    All times come in one order: the end, both sides of chunk borders, then times spread evenly over the sequence.
    """
    if length - 1 <= most:
        return list(range(1, length))
    first = (length - 1, length // 2 + 1, length // 3, *(b + d for b in BORDERS for d in (1, 0)))
    spread = (1 + int((k * GOLDEN) % 1 * (length - 1)) for k in range(1, 2 * length))
    order = list(dict.fromkeys(t for t in (*first, *spread) if 0 < t < length))
    return sorted(order[(turn * most + i) % len(order)] for i in range(most))


def rows_for(subject: Subject, model, length: int, area: int = AREA) -> int:
    """Rows of a pass over sequences of this length: as many as tokens, or as many as the bounds allow.

    What the run itself needs for a batch is always allowed.
    """
    weights = sum(p.numel() for p in model.parameters())
    tokens = min(WORK // max(1, weights), VALUES // subject.vocab_size)
    if subject.run_lengths:
        tokens = max(tokens, subject.run_batch * subject.run_lengths[0])
    area = area // 3 if subject.quick else area
    wanted = length if length >= subject.longest or length in subject.run_lengths else FEW
    return max(3, min(wanted, area // length**2, tokens // length))


def lengths_of(subject: Subject) -> list[int]:
    """The lengths that are tried: usual ones, those of the run, and a long one that no usual size divides."""
    usual = {subject.longest} if subject.quick else {min(n, subject.longest) for n in (64, 129, subject.longest)}
    found = sorted(usual | set(subject.run_lengths))
    return found if found[-1] >= subject.long - 17 else [*found, subject.long]


def _fitting(model, length: int) -> int:
    """This length, or that of the model's position table where it ends earlier."""
    return min(length, model.max_len or length)


def changed_tokens(subject: Subject):
    """Other tokens from t on change no logit before t, in eval and in train mode."""
    for mode in ("eval", "train"):
        name = "changed tokens" + (" in train mode" if mode == "train" else "")
        lengths = lengths_of(subject)
        if mode == "train" and subject.quick:  # gradients are taken in train mode at all of them
            lengths = list(subject.run_lengths[:1]) or [subject.longest]
        yield _changed_tokens(subject, name, mode == "train", lengths, LEAK)


def under_autocast(subject: Subject):
    """Other tokens from t on change no logit before t in the precision of the run."""
    if subject.quick and subject.precision == "fp32":
        return
    length = (*subject.run_lengths, min(129, subject.longest))[0]
    with autocast(subject.device, subject.precision):
        yield _changed_tokens(subject, "changed tokens under autocast", True, [length], AUTOCAST_LEAK)


def _changed_tokens(subject: Subject, name: str, training: bool, lengths: list[int], tolerance: float) -> Result:
    if subject.longest < 2:
        return skipped(name, ONE_TOKEN)

    def search() -> Result:
        worst, at, n, notes = 0.0, "", 0, []
        for length in lengths:
            with subject.excused(length, notes):
                for leak, t, count in _leaks(subject, training, length, tolerance):
                    n += count
                    if leak > worst:
                        worst, at = leak, f", most at t = {t:,} of {length:,}"
        return judged(
            name,
            worst,
            tolerance,
            f"no logit before t changed, for {n:,} values of t{''.join(notes)}",
            f"logits before t changed when tokens from t on changed{at}",
        )

    return answered(name, search)


def _leaks(subject: Subject, training: bool, length: int, tolerance: float):
    """(leak, the t of the largest, number of t) of each pass over sequences of this length."""
    model = subject.model_for(length).train(training)
    length = _fitting(model, length)
    rows = rows_for(subject, model, length)
    whole = training and subject.run_batch > 1 and length == (*subject.run_lengths, subject.longest)[0]
    rows = subject.run_batch if whole else rows
    pieces = 1 if subject.quick or rows >= length else PIECES
    for turn in range(pieces):
        times = cuts(length, rows - 1, turn + PIECES * training)
        filled = (times * rows)[: rows - 1] if whole else times  # the batch of the run has all its rows
        yield (*_leak(subject, model, length, filled, tolerance), len(times))


def _leak(subject: Subject, model, length: int, times: list[int], tolerance: float) -> tuple[float, int]:
    """(the largest change of a logit before its row's cut, that cut). The first row is not cut.

    Raises Unjudged where the change may have another reason than a leak.
    """
    x, other = subject.tokens(1, length), subject.tokens(1, length, seed=2)
    changed = (x + 1 + other % (subject.vocab_size - 1)) % subject.vocab_size  # differs from x everywhere
    times = [length, *times]
    before = torch.arange(length, device=x.device) < torch.tensor(times, device=x.device)[:, None]
    same, cut = x.expand(len(times), -1), torch.where(before, x, changed)

    def logits(ids):
        found = logits_of(model, ids, seed=length)
        if not bool(torch.isfinite(found).all()):
            raise Unjudged(NOT_FINITE.format(length=length))
        return found

    def largest(got, want) -> tuple[float, int]:
        found = (got - want).abs().amax(dim=2).masked_fill(~before, 0).amax(dim=1)
        row = int(found.argmax())
        return ratio(found[row].item(), got.std(correction=0).item()), times[row]

    two = logits(cut)
    leak, t = largest(two, two[:1])
    if leak <= tolerance and not model.training:  # in train mode batch statistics change all rows alike
        return leak, t
    one = logits(same)
    leak, t = largest(two, one)
    if leak <= tolerance:
        return leak, t
    if (noise := difference(logits(same), one)) > tolerance:
        leak, t = largest(two, two[:1])  # noise of a whole pass is the same in all of its rows
        if difference(one, one[:1]) > tolerance or leak <= tolerance:
            raise Unjudged(RANDOM.format(by=noise))
        return leak, t
    t = t if t < length else times[1]
    alike = torch.cat([x[:, :t], changed[:, t:]], dim=1).expand(len(times), -1)  # all rows change at one time
    leak = difference(logits(alike)[:, :t], one[:, :t], one)
    if leak <= tolerance:
        raise Unjudged(OTHER_ROWS)
    return leak, t


def shorter_sequence(subject: Subject) -> Result:
    """The first t tokens give the same logits alone as at the start of a longer sequence."""
    name = "shortened sequence"
    if subject.longest < 2:
        return skipped(name, ONE_TOKEN)

    def search() -> Result:
        worst, at, n, notes = 0.0, "", 0, []
        for length in lengths_of(subject):
            with subject.excused(length, notes):
                found = _shortened(subject, length)
                n += len(found)
                t = max(found, key=found.get)
                if found[t] > worst:
                    worst, at = found[t], f"{t:,} tokens gave other logits alone than within {length:,} tokens"
        note = f"the first t tokens alone agree, for {n} values of t{''.join(notes)}"
        return judged(name, worst, subject.tolerance, note, f"the first {at}")

    return answered(name, search)


def _shortened(subject: Subject, length: int) -> dict[int, float]:
    """{t: the largest difference of the first t tokens alone}.  Raises Unjudged for NaN and for random logits."""
    model = subject.model_for(length)
    length = _fitting(model, length)
    x = subject.tokens(subject.batch, length)
    want = logits_of(model, x)
    if not bool(torch.isfinite(want).all()):
        raise Unjudged(NOT_FINITE.format(length=length))
    times = sorted({1, *cuts(length, 3 if subject.quick else 12)})
    found = {t: difference(logits_of(model, x[:, :t]), want[:, :t], want) for t in times}
    if max(found.values()) > subject.tolerance and (noise := difference(logits_of(model, x, seed=1), want)) > LEAK:
        raise Unjudged(RANDOM.format(by=noise))
    return found


def gradient(subject: Subject) -> Result:
    """Logits before t have no gradient with respect to the embeddings from t on."""
    name = "gradient of later inputs"
    if subject.longest < 2:
        return skipped(name, ONE_TOKEN)

    def search() -> Result:
        worst, at, n, notes = 0.0, "", 0, []
        for length in lengths_of(subject):
            with subject.excused(length, notes):
                found = _gradient_leak(subject, length)
                if isinstance(found, str):
                    return skipped(name, found)
                n += found[2]
                if found[0] > worst:
                    worst, at = found[0], f"most at t = {found[1]:,} of {length:,} in train mode"
        return judged(
            name,
            worst,
            GRADIENT_LEAK,
            f"no gradient to inputs from t on, {n:,} values of t{''.join(notes)}",
            f"logits before t have a gradient to inputs from t on, {at}",
        )

    return answered(name, search)


def _gradient_leak(subject: Subject, length: int) -> tuple[float, int, int] | str:
    """(largest gradient to an input from t on, over the largest to an input before t; that t; how many t were tried).

    Each row has a t of its own.  Text: why nothing can be said.
    """
    # Train mode, because cuDNN's recurrences have no backward pass in eval mode.
    model = subject.model_for(length).train()
    length = _fitting(model, length)
    rows = rows_for(subject, model, length, AREA // 2)
    times = cuts(length, (min(rows, FEW) if subject.quick else rows) - 1, turn=2 * PIECES + 1)
    x = subject.tokens(len(times), length)
    model.requires_grad_(False)
    with at_embedding(model, lambda h: h.detach().requires_grad_()) as leaves:
        seed_all(length)
        logits = model(x)
    check_logits(logits, x)
    leaves = [h for h in leaves if h.shape[:2] == x.shape]
    if not leaves:
        return NO_EMBEDDING
    if not logits.requires_grad:
        return "no gradient flows from the logits to the embeddings"
    weighted = logits * torch.randn(logits.shape, generator=torch.Generator().manual_seed(3)).to(logits)

    def search(times: list[int]) -> tuple[float, int]:
        before = torch.arange(length, device=x.device) < torch.tensor(times, device=x.device)[:, None]
        found = torch.autograd.grad(weighted[before].sum(), leaves, retain_graph=True, allow_unused=True)
        sizes = torch.stack([g.flatten(2).abs().amax(dim=2) for g in found if g is not None]).amax(dim=0)
        if not bool(torch.isfinite(sizes).all()):
            raise Unjudged(NOT_FINITE.format(length=length))
        future = sizes.masked_fill(before, 0).amax(dim=1)
        row = int(future.argmax())
        return ratio(future[row].item(), sizes[before].max().item()), times[row]

    leak, t = search(times)
    if leak > GRADIENT_LEAK:
        leak, t = search([t] * len(times))
        if leak <= GRADIENT_LEAK:
            raise Unjudged(OTHER_ROWS)
    return leak, t, len(times)
