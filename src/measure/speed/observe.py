"""Which form of each op really runs: looked at, not assumed, so that no number is filed under a kernel that did not give it.

    with watching() as seen:        # seen: {op: {backend, ...}}
        model(x)
    subject = as_it_runs(subject, device)

`src.ops.backends.choices` tells what `auto` means for a run as far as flags and device decide it; an op may still take another form for its tensors
(their dtype, a state, a decay for every channel). Every op package has one function `_choose` that gives the file which computes, attention the
table COMPUTE; both are watched while the model runs forward and backward and reads a prompt. One token at a time, ops have one form only, plain torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib

import torch

from src.measure.speed.subjects import VOCABULARY, Subject
from src.ops.backends import OPS
from src.utils.precision import autocast

TOKENS = 65  # odd, and more than a chunk


@contextlib.contextmanager
def watching():
    """{op: the backends that computed it}, filled while the context lasts."""
    seen: dict[str, set[str]] = {}
    with contextlib.ExitStack() as undo:
        for op in OPS:
            module = importlib.import_module(f"src.ops.{op}")
            (_watch_choice if hasattr(module, "_choose") else _watch_table)(module, seen.setdefault(op, set()), undo)
        yield seen


def _replace(module, name: str, value, undo) -> None:
    undo.callback(setattr, module, name, getattr(module, name))
    setattr(module, name, value)


def _watch_choice(module, seen: set, undo) -> None:
    choose = module._choose

    def watched(*args, **kwargs):
        found = choose(*args, **kwargs)
        file = found.__name__.rpartition(".")[2]
        seen.add(next(name for name, b in OPS[module.__name__.rpartition(".")[2]].items() if b.file == file))
        return found

    _replace(module, "_choose", watched, undo)


def _watch_table(module, seen: set, undo) -> None:
    """attention: a table of functions, and FlashAttention beside it."""

    def noting(name, compute):
        def watched(*args, **kwargs):
            seen.add(name)
            return compute(*args, **kwargs)

        return watched

    _replace(module, "COMPUTE", {name: noting(name, compute) for name, compute in module.COMPUTE.items()}, undo)
    _replace(module, "_flash_attn", noting("flash_attn", module._flash_attn), undo)


def as_it_runs(subject: Subject, device) -> Subject:
    """The subject with the backends that its ops take here, in training and in reading a prompt; where that is not what was chosen, the reason says so.

    An op that takes two forms has both names, joined by "+". What the model raises comes through.
    """
    if not subject.backends:
        return subject
    model = subject.build(device)
    tokens = min(TOKENS, model.max_len or TOKENS)
    ids = torch.randint(0, VOCABULARY, (2, tokens), generator=torch.Generator().manual_seed(0)).to(device)
    with watching() as seen, autocast(device, subject.args.precision):
        model(ids).float().logsumexp(-1).sum().backward()
        with torch.inference_mode():
            model.eval().prefill(ids[:, :-1], model.init_state(2, tokens))
    return dataclasses.replace(
        subject, backends={op: _settled(choice, seen[op]) for op, choice in subject.backends.items()}
    )


def _settled(choice: dict, seen: set) -> dict:
    if not seen or seen == {choice["backend"]}:
        return choice
    return {
        "backend": "+".join(sorted(seen)),
        "reason": f"seen to run here; chosen for a run of its kind: {choice['backend']} ({choice['reason']})",
    }
