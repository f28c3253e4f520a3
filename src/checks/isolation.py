"""Isolation: a row's logits depend on that row alone; padding and earlier calls leave no trace."""

from __future__ import annotations

import torch

from src.checks.base import Result, Subject, gap, judged, logits_of

SAME = 1e-5  # relative to the spread: passes of the same shape, which differ by exactly 0 where no other row matters


def _length(subject: Subject) -> int:
    return min(65, subject.longest)


def other_rows(subject: Subject):
    """Changing the other rows of a batch changes nothing in the first; also in train mode, where statistics are taken over a batch."""
    x = subject.tokens(4, _length(subject))
    changed = torch.cat([x[:1], subject.tokens(3, _length(subject), seed=2)])
    for mode in ("eval", "train"):
        model = subject.model().train(mode == "train")
        want = logits_of(model, x)[:1]
        name = "other rows changed" + (" in train mode" if mode == "train" else "")
        yield judged(name, gap(logits_of(model, changed)[:1], want), SAME, "first row of 4")


def row_alone(subject: Subject) -> Result:
    """A row alone gives what it gives in a batch."""
    model, x = subject.model(), subject.tokens(4, _length(subject))
    want = logits_of(model, x)
    worst = max(gap(logits_of(model, x[i : i + 1]), want[i : i + 1]) for i in range(len(x)))
    return judged("row alone, or in a batch", worst, subject.tolerance, "each of 4 rows")


def padding(subject: Subject) -> Result:
    """Rows padded on the right to a common length, with their mask, give what each gives alone."""
    model, length = subject.model(), _length(subject)
    lengths = [length, length // 2 + 1, 3, 1]
    x = subject.tokens(len(lengths), length)
    mask = torch.arange(length, device=x.device) < torch.tensor(lengths, device=x.device)[:, None]
    x = torch.where(mask, x, 0)
    got, whole = logits_of(model, x, attn_mask=mask), logits_of(model, x)
    worst = max(gap(got[i : i + 1, :n], logits_of(model, x[i : i + 1, :n]), whole) for i, n in enumerate(lengths))
    return judged("padding", worst, subject.tolerance, f"lengths {', '.join(map(str, lengths))} in one batch")


def earlier_calls(subject: Subject):
    """The same tokens give the same logits whatever ran in between: other tokens, other shapes, a decoding; in train mode too."""
    length = _length(subject)
    x = subject.tokens(2, length)
    for mode in ("eval", "train"):
        model = subject.model().train(mode == "train")
        want, worst = logits_of(model, x), 0.0
        for batch, between in ((2, length), (3, 7), (1, 1)):
            logits_of(model, subject.tokens(batch, between, seed=3))
            worst = max(worst, gap(logits_of(model, x), want))
        if mode == "eval":
            _decode(model, subject.tokens(1, 6, seed=4))
            worst = max(worst, gap(logits_of(model, x), want))
        yield judged(
            "earlier calls" + (" in train mode" if mode == "train" else ""),
            worst,
            SAME,
            "other tokens, other shapes" + (", a decoding" if mode == "eval" else ""),
        )


def _decode(model, x):
    """Logits of ids x (B, T), a step each."""
    return _interleave(model, [x])[0]


def _interleave(model, streams):
    """Logits (B, T, C) of several streams of ids (B, T), decoded by turns of one token."""
    with torch.no_grad():
        states = [model.init_state(len(x), x.shape[1]) for x in streams]
        parts: list[list] = [[] for _ in streams]
        for t in range(max(x.shape[1] for x in streams)):
            for i, x in enumerate(streams):
                if t < x.shape[1]:
                    logits, states[i] = model.step(x[:, t], states[i])
                    parts[i].append(logits.double())
    return [torch.stack(p, dim=1) for p in parts]


def two_decodings(subject: Subject) -> Result:
    """Two decodings that take turns disturb each other in nothing: the state is all in what is passed."""
    model = subject.model()
    streams = [subject.tokens(2, 20, seed=5), subject.tokens(2, 20, seed=6)]
    got = _interleave(model, streams)
    worst = max(gap(g, logits_of(model, x)) for g, x in zip(got, streams, strict=True))
    return judged("two decodings by turns", worst, subject.tolerance, "20 tokens each, against forward")
