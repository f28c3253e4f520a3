"""Isolation: the logits of a row depend on that row alone. Padding and earlier calls change nothing."""

from __future__ import annotations

import torch

from src.checks.base import RANDOM, ROWS, Result, Subject, difference, judged, logits_of, unjudged
from src.storage.randomness import seed_all

# Relative to the standard deviation of the logits. Two passes of one shape differ by exactly 0 where no other row
# matters.
SAME = 1e-5


def _length(subject: Subject) -> int:
    return min(65, subject.longest)


def _batches(subject: Subject) -> list[int]:
    """Rows of the batches that are tried: few, many, and those of the run."""
    return [max(ROWS, subject.run_batch)] if subject.quick else sorted({4, ROWS, subject.run_batch} - {0, 1})


def other_rows(subject: Subject):
    """Other rows of a batch change nothing in the rows that stay. In train mode batch statistics would mix them."""
    for mode in ("eval", "train"):
        model = subject.model().train(mode == "train")
        name = "other rows changed" + (" in train mode" if mode == "train" else "")
        yield _other_rows(subject, name, _length(subject), lambda x, model=model: logits_of(model, x))


def other_rows_decoded(subject: Subject) -> Result:
    """Other rows of a batch change nothing in the rows that stay, while a prompt is read and tokens are decoded."""
    from src.checks.decoding import decode

    model, length = subject.model(), min(9, subject.longest)
    plan = [("prefill", length // 2), ("step", length - length // 2)] if length > 1 else [("step", 1)]

    def decoded(x):
        seed_all(0)
        return decode(model, x, plan)

    return _other_rows(subject, "other rows changed in decoding", length, decoded)


def _other_rows(subject: Subject, name: str, length: int, logits) -> Result:
    """Compare the rows that stay.  logits: ids (B, T) -> (B, T, C), with one seed at every call.

    Which rows stay is random, so that a layer that reads a neighbour at any distance is caught.
    """
    worst, at = 0.0, 0
    for batch in _batches(subject):
        x, other = subject.tokens(batch, length), subject.tokens(batch, length, seed=2)
        stays = torch.randperm(batch, generator=torch.Generator().manual_seed(batch)) < max(1, batch // 3)
        stays = stays.to(x.device)
        want, got = logits(x)[stays], logits(torch.where(stays[:, None], x, other))[stays]
        found = difference(got, want)
        if found > SAME and (noise := difference(logits(x)[stays], want)) > SAME:
            return unjudged(name, RANDOM.format(by=noise))
        if found > worst:
            worst, at = found, batch
    return judged(
        name,
        worst,
        SAME,
        f"no change by other rows, batches of {', '.join(map(str, _batches(subject)))}",
        f"rows changed when other rows of a batch of {at} changed",
    )


def row_alone(subject: Subject) -> Result:
    """A row gives the same logits alone as in a batch."""
    model, worst, at = subject.model(), 0.0, 0
    for batch in _batches(subject):
        x = subject.tokens(batch, _length(subject))
        want = logits_of(model, x)
        rows = sorted({0, 1, batch // 2, batch - 1})
        found = max(difference(logits_of(model, x[i : i + 1]), want[i : i + 1]) for i in rows)
        if found > worst:
            worst, at = found, batch
    return judged(
        "row alone, or in a batch",
        worst,
        subject.tolerance,
        f"the same alone as in batches of {', '.join(map(str, _batches(subject)))}",
        f"a row gave other logits alone than in a batch of {at}",
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
