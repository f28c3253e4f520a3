"""Decoding: at every position `prefill` and `step` give the same logits as one `forward` over the whole sequence."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from src.checks.base import Result, Subject, difference, judged, logits_of, measured, mixers, skipped
from src.models.contract import Mixer

STEPS = 12  # tokens after a prefill
REPLAYED = 40  # tokens decoded one by one under replay, where each token costs a forward pass
# A prompt of more than 256 tokens, then pieces that end beyond 512 and beyond 1,024, with a few steps after each.
PIECES = (("prefill", 300), ("step", 3), ("prefill", 230), ("step", 3), ("prefill", 500), ("step", 5))
QUICK_SECONDS = 0.5  # of CPU time that the steps from an empty state may take in the quick form


def cache(subject: Subject) -> Result:
    """How a token is decoded: by the layer's own step, or by a replay of the whole prefix."""
    kind = subject.model().cache_kind()
    note = (
        "each new token runs forward on the whole prefix" if kind == "replay" else "the layer decodes with its own step"
    )
    return measured("cache", kind, note, limit="own")


def decode(model, x, plan, room: int = 0):
    """Logits (B, T, C) of ids x (B, T), decoded by a plan of ("prefill", tokens) and ("step", tokens).

    room: tokens after T for which the state must have space.
    """
    parts, at = [], 0
    with torch.no_grad():
        state = model.init_state(len(x), x.shape[1] + room)
        for kind, n in plan:
            for size in (n,) if kind == "prefill" else (1,) * n:
                if kind == "prefill":
                    logits, state = model.prefill(x[:, at : at + size], state)
                else:
                    logits, state = model.step(x[:, at], state)
                    logits = logits[:, None]
                parts.append(logits.double())
                at += size
    return torch.cat(parts, dim=1)


def _judge(subject: Subject, model, name: str, plans, room: int = 0) -> Result:
    """The largest difference from forward over several plans. Plans that are too long for the model are left out."""
    plans = [plan for plan in plans if sum(n for _, n in plan) + room <= subject.longest]
    if not plans:
        return skipped(name, f"the model takes {subject.longest} tokens at most")
    worst, at = 0.0, ""
    for plan in plans:
        length = sum(n for _, n in plan)
        x = subject.tokens(subject.batch, length, seed=length)
        want, got = logits_of(model, x), decode(model, x, plan, room)
        if got.shape != want.shape:
            raise ValueError(
                f"prefill and step returned logits {tuple(got.shape)}, allowed: {tuple(want.shape)} as from forward"
            )
        found = difference(got, want)
        if found > worst:
            first = int((got - want).abs().amax(dim=(0, 2)).argmax())
            worst, at = found, f", most at position {first} of {length}"
    how = "replay" if model.cache_kind() == "replay" else "decoding"
    ways = "" if len(plans) == 1 else f", {len(plans)} ways to cut the tokens"
    return judged(
        name,
        worst,
        subject.tolerance,
        f"{how} equals forward{ways}",
        f"{how} gave other logits than forward{at}",
    )


def steps_from_empty(subject: Subject) -> Result:
    """One token after the other from the initial state, for longer than any cache goes without growing."""
    model = subject.model()
    n = REPLAYED if model.cache_kind() == "replay" else subject.longest
    n = STEPS if subject.quick and model.cache_kind() == "replay" else n
    return _judge(subject, model, "steps from an empty state", [[("step", min(n, subject.longest))]])


def steps_after_prefill(subject: Subject) -> Result:
    """A prompt in one call, then one token after the other."""
    cuts = (33,) if subject.quick else (1, 5, 16, 63, 64, 65, 128, 257)
    steps = 4 if subject.quick else STEPS
    plans = [[("prefill", cut), ("step", steps)] for cut in cuts]
    return _judge(subject, subject.model(), "steps after a prefill", plans)


def prefill_into_state(subject: Subject) -> Result:
    """Several prefills into a state that already holds tokens, with steps between them, and space left in the state."""
    plans = [[("step", 3), ("prefill", 30), ("step", 2), ("prefill", 1), ("step", 2)]]
    if not subject.quick:
        plans += [
            [("prefill", 7), ("prefill", 64), ("step", 3), ("prefill", 65), ("step", 3)],
            [("prefill", 64), ("prefill", 64), ("step", 2)],
        ]
    return _judge(subject, subject.model(), "prefill into a used state", plans, room=9)


def long_steps(subject: Subject, clock: Callable[[], float] = time.process_time):
    """Own steps from an empty state, for more tokens than a ring buffer of 512 or 1,024 holds.

    The quick form ends after QUICK_SECONDS of CPU time. Under replay there is no row: every token would cost a pass.
    """
    name, notes = "steps from an empty state, long", []
    model, length = _long(subject)
    if length is None:
        return
    result = None
    with subject.excused(length, notes):
        x = subject.tokens(1, length)
        got = _steps(model, x, clock, QUICK_SECONDS if subject.quick else float("inf"))
        result = _long_result(name, subject, model, x[:, : got.shape[1]], got)
    yield result or skipped(name, notes[0].removeprefix("; "))


def long_prefills(subject: Subject):
    """Prompts of hundreds of tokens, each read into the state that the one before left, with steps between them.

    A layer without a `prefill` of its own has no row, because its prefill is a loop over the steps of `long_steps`.
    """
    name, notes = "prefill into a used state, long", []
    model, length = _long(subject)
    if length is None or any(type(layer).prefill is Mixer.prefill for layer in mixers(model)):
        return
    plan = _cut(PIECES, length)
    result = None
    with subject.excused(length, notes):
        x = subject.tokens(1, sum(n for _, n in plan))
        result = _long_result(name, subject, model, x, decode(model, x, plan))
    yield result or skipped(name, notes[0].removeprefix("; "))


def _long(subject: Subject):
    """(model, tokens of a long decoding), or (model, None) under replay and where the model takes no more tokens."""
    model = subject.model_for(max(subject.long, subject.longest))
    length = min(subject.long, model.max_len or subject.long)
    return model, length if length > subject.longest and model.cache_kind() == "own" else None


def _cut(plan, length: int):
    """The plan, without what exceeds this many tokens."""
    kept, left = [], length
    for kind, n in plan:
        if left:
            kept.append((kind, min(n, left)))
        left -= min(n, left)
    return kept


def _steps(model, x, clock: Callable[[], float], seconds: float):
    """Logits (B, n, C) of the first n ids x (B, T), one step each, as many as this time allows."""
    began, parts = clock(), []
    with torch.no_grad():
        state = model.init_state(len(x), x.shape[1])
        for t in range(x.shape[1]):
            logits, state = model.step(x[:, t], state)
            parts.append(logits.double())
            if clock() - began > seconds:
                break
    return torch.stack(parts, dim=1)


def _long_result(name: str, subject: Subject, model, x, got) -> Result:
    """The difference of decoded logits from those of one forward pass."""
    want = logits_of(model, x)
    off = (got - want).abs().amax(dim=(0, 2)) > subject.tolerance * want.std(correction=0)
    first = int(off.int().argmax()) if bool(off.any()) else 0
    return judged(
        name,
        difference(got, want),
        subject.tolerance,
        f"equal to forward for {x.shape[1]:,} tokens",
        f"decoding gave other logits than forward, first at position {first:,} of {x.shape[1]:,}",
    )
