"""Isolation: the logits of a row depend on that row alone. Padding and earlier calls change nothing."""

from __future__ import annotations

import torch

from src.checks.base import Result, Subject, difference, judged, logits_of

# Relative to the standard deviation of the logits. Two passes of one shape differ by exactly 0 where no other row
# matters.
SAME = 1e-5


def _length(subject: Subject) -> int:
    return min(65, subject.longest)


def other_rows(subject: Subject):
    """Other rows of a batch change nothing in the first row. In train mode batch statistics would mix the rows."""
    x = subject.tokens(4, _length(subject))
    changed = torch.cat([x[:1], subject.tokens(3, _length(subject), seed=2)])
    for mode in ("eval", "train"):
        model = subject.model().train(mode == "train")
        want = logits_of(model, x)[:1]
        name = "other rows changed" + (" in train mode" if mode == "train" else "")
        yield judged(
            name,
            difference(logits_of(model, changed)[:1], want),
            SAME,
            "row 1 did not change when the other 3 rows did",
            "the logits of row 1 changed when the other 3 rows changed",
        )


def row_alone(subject: Subject) -> Result:
    """A row gives the same logits alone as in a batch."""
    model, x = subject.model(), subject.tokens(4, _length(subject))
    want = logits_of(model, x)
    worst = max(difference(logits_of(model, x[i : i + 1]), want[i : i + 1]) for i in range(len(x)))
    return judged(
        "row alone, or in a batch",
        worst,
        subject.tolerance,
        "4 rows gave the same logits alone as in the batch",
        "a row gave other logits alone than in a batch of 4",
    )


def padding(subject: Subject) -> Result:
    """Rows that are padded on the right, with their mask, give the same logits as each row alone."""
    model, length = subject.model(), _length(subject)
    lengths = [length, length // 2 + 1, 3, 1]
    x = subject.tokens(len(lengths), length)
    mask = torch.arange(length, device=x.device) < torch.tensor(lengths, device=x.device)[:, None]
    x = torch.where(mask, x, 0)
    got, whole = logits_of(model, x, attn_mask=mask), logits_of(model, x)
    worst = max(
        difference(got[i : i + 1, :n], logits_of(model, x[i : i + 1, :n]), whole) for i, n in enumerate(lengths)
    )
    return judged(
        "padding",
        worst,
        subject.tolerance,
        "padded rows gave the same logits as each alone",
        f"a padded row gave other logits than alone, in a batch of rows of {', '.join(map(str, lengths))} tokens",
    )


def earlier_calls(subject: Subject):
    """The same tokens give the same logits after other calls, and in eval mode also after a decoding."""
    length = _length(subject)
    x = subject.tokens(2, length)
    for mode in ("eval", "train"):
        model = subject.model().train(mode == "train")
        want, worst = logits_of(model, x), 0.0
        for batch, between in ((2, length), (3, 7), (1, 1)):
            logits_of(model, subject.tokens(batch, between, seed=3))
            worst = max(worst, difference(logits_of(model, x), want))
        if mode == "eval":
            _decode(model, subject.tokens(1, 6, seed=4))
            worst = max(worst, difference(logits_of(model, x), want))
        calls = "other calls" + (" and a decoding" if mode == "eval" else "")
        yield judged(
            "earlier calls" + (" in train mode" if mode == "train" else ""),
            worst,
            SAME,
            f"no change after {calls}",
            f"logits of the same tokens changed after {calls}",
        )


def _decode(model, x):
    """Logits of ids x (B, T), one step per token."""
    return _interleave(model, [x])[0]


def _interleave(model, streams):
    """Logits (B, T, C) of several streams of ids (B, T), whose steps alternate."""
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
    """Two decodings whose steps alternate do not disturb each other, so nothing is stored outside the state."""
    model = subject.model()
    streams = [subject.tokens(2, 20, seed=5), subject.tokens(2, 20, seed=6)]
    got = _interleave(model, streams)
    worst = max(difference(g, logits_of(model, x)) for g, x in zip(got, streams, strict=True))
    return judged(
        "two decodings by turns",
        worst,
        subject.tolerance,
        "two decodings whose steps alternate equal forward",
        "two decodings whose steps alternate gave other logits than forward",
    )
