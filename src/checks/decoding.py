"""Decoding: `prefill` and `step` give, at every position, the logits of one `forward` over the whole sequence."""

from __future__ import annotations

import torch

from src.checks.base import Result, Subject, gap, judged, logits_of, measured, skipped

STEPS = 12  # tokens after a prefill
REPLAYED = 40  # positions that a replay decodes one by one: each costs a forward pass


def cache(subject: Subject) -> Result:
    """How a token is decoded."""
    kind = subject.model().cache_kind()
    note = "the whole prefix runs again for every token" if kind == "replay" else "the layer's own step"
    return measured("cache", kind, note, limit="own")


def decode(model, x, plan, room: int = 0):
    """Logits (B, T, C) of ids x (B, T), decoded after a plan of ("prefill", tokens) and ("step", tokens); room: tokens beyond T that
    the state must have place for."""
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
    """The largest gap over several plans, of those that are not too long."""
    plans = [plan for plan in plans if sum(n for _, n in plan) + room <= subject.longest]
    if not plans:
        return skipped(name, f"the model ends at {subject.longest} tokens")
    worst, at = 0.0, ""
    for plan in plans:
        length = sum(n for _, n in plan)
        x = subject.tokens(subject.batch, length, seed=length)
        want, got = logits_of(model, x), decode(model, x, plan, room)
        if got.shape != want.shape:
            raise ValueError(
                f"prefill and step return {tuple(got.shape)} in all, allowed: {tuple(want.shape)} as forward"
            )
        found = gap(got, want)
        if found > worst:
            first = int((got - want).abs().amax(dim=(0, 2)).argmax())
            worst, at = found, f"; worst at position {first} of {length}"
    replay = "replay: " if model.cache_kind() == "replay" else ""
    return judged(name, worst, subject.tolerance, f"{replay}{len(plans)} {'way' if len(plans) == 1 else 'ways'}{at}")


def steps_from_empty(subject: Subject) -> Result:
    """Token by token from the initial state, past every growth of a cache."""
    model = subject.model()
    n = REPLAYED if model.cache_kind() == "replay" else subject.longest
    n = STEPS if subject.quick and model.cache_kind() == "replay" else n
    return _judge(subject, model, "steps from an empty state", [[("step", min(n, subject.longest))]])


def steps_after_prefill(subject: Subject) -> Result:
    """A prompt in one piece, then token by token."""
    cuts = (33,) if subject.quick else (1, 5, 16, 63, 64, 65, 128, 257)
    steps = 4 if subject.quick else STEPS
    plans = [[("prefill", cut), ("step", steps)] for cut in cuts]
    return _judge(subject, subject.model(), "steps after a prefill", plans)


def prefill_into_state(subject: Subject) -> Result:
    """Pieces of several tokens into a state that holds some already, with steps between; a state with room to spare."""
    plans = [[("step", 3), ("prefill", 30), ("step", 2), ("prefill", 1), ("step", 2)]]
    if not subject.quick:
        plans += [
            [("prefill", 7), ("prefill", 64), ("step", 3), ("prefill", 65), ("step", 3)],
            [("prefill", 64), ("prefill", 64), ("step", 2)],
        ]
    return _judge(subject, subject.model(), "prefill into a used state", plans, room=9)
