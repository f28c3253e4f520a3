"""Which implementation of each op ran, noted by the calls themselves.

    with recording() as seen:                  # seen: {phase: {op: {implementation: None}}}
        with phase("training"):
            model(x)
    described(chosen, seen)                    # {op: {"backend": "numba (training) + eager (step)", "reason": ...}}

`choices` says before a run what `--backend auto` means, as far as flags and device decide it. An op may still take
another form for its tensors: because of a dtype, a state, a width or the kind of decay. So the record of a run comes
from here. An op notes each call; without `recording` a note does nothing.

Phases: training, evaluation (teacher forcing), decoding (a prompt), and step: one token of an op that has a form of its
own for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

PHASES = ("training", "evaluation", "decoding", "step")
STEP = "eager"  # the form for one token: plain torch, in the `__init__.py` of each op

Seen = dict[str, dict[str, dict[str, None]]]

_seen: Seen | None = None
_phase = "training"


def note(op: str, implementation: str, step: bool = False) -> None:
    """An op says which of its implementations computes this call.  step: the form for one token."""
    if _seen is not None:
        _seen.setdefault("step" if step else _phase, {}).setdefault(op, {})[implementation] = None


# A compiled function runs `note` while it is traced, in plain Python, and its graph holds no trace of it. This is all
# that `torch.compiler.assume_constant_result` does, but it imports torch's compiler, which takes each process two
# seconds.
note._dynamo_marked_constant = True


@contextlib.contextmanager
def recording() -> Iterator[Seen]:
    """Collect what the ops note inside the context. An outer recording does not see it."""
    global _seen
    before, _seen = _seen, {}
    try:
        yield _seen
    finally:
        _seen = before


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
    """Calls inside the context belong to this phase, one of PHASES."""
    global _phase
    before, _phase = _phase, name
    try:
        yield
    finally:
        _phase = before


def noted() -> dict[str, dict[str, list[str]]]:
    """What the present recording holds, JSON-able: {phase: {op: implementations}}. Empty without a recording."""
    return {name: {op: sorted(found) for op, found in ops.items()} for name, ops in sorted((_seen or {}).items())}


def restore(stored: dict[str, dict[str, Iterable[str]]]) -> None:
    """Add what an earlier process of the same run has noted."""
    if _seen is not None:
        for name, ops in stored.items():
            for op, found in ops.items():
                _seen.setdefault(name, {}).setdefault(op, {}).update(dict.fromkeys(found))


def described(chosen: dict[str, dict[str, str]], seen: Seen) -> dict[str, dict[str, str]]:
    """The choices with what ran: {op: {"backend", "reason"}}.

    One implementation in all phases has its bare name. Else each has its phases: "numba (training) + eager (step)".
    A phase that is not named ran as training did. Two implementations in one phase are joined: "eager+fla".
    chosen: of `choices`. An op that was not called keeps its choice. Where another implementation ran than was chosen,
    the reason names both.
    """
    return {
        op: _described(choice, {name: tuple(sorted(seen.get(name, {}).get(op, ()))) for name in PHASES})
        for op, choice in chosen.items()
    }


def sequences(by_phase: dict[str, Iterable[str]]) -> set[str]:
    """The implementations of all phases but the step."""
    return {name for phase_name, found in by_phase.items() if phase_name != "step" for name in found}


def _described(choice: dict[str, str], by_phase: dict[str, tuple[str, ...]]) -> dict[str, str]:
    parts: dict[tuple[str, ...], list[str]] = {}
    for name, found in by_phase.items():
        if found:
            parts.setdefault(found, []).append(name)
    if not parts:
        return choice
    words = ["+".join(found) for found in parts]
    if len(parts) > 1:
        labels = ["training" if "training" in names else ", ".join(names) for names in parts.values()]
        words = [f"{word} ({label})" for word, label in zip(words, labels, strict=True)]
    if sequences(by_phase) not in (set(), set(choice["backend"].split("+"))):
        reason = f"observed to run; chosen by flags and device: {choice['backend']} ({choice['reason']})"
    else:
        reason = choice["reason"]
    return {"backend": " + ".join(words), "reason": reason}
