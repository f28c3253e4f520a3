"""Which backend of each op really runs. It is observed, not assumed, so that no time is stored under another backend.

    subject = as_it_runs(subject, device)

The ops note each call (src/ops/ran.py) while the model runs forward and backward, reads a prompt and decodes a token.
"""

from __future__ import annotations

import dataclasses

import torch

from src.measure.speed.subjects import VOCABULARY, Subject
from src.models.contract import ARModel
from src.ops.ran import Seen, phase, recording, sequences
from src.utils.precision import autocast

TOKENS = 65  # odd, and more than one chunk


def as_it_runs(subject: Subject, device) -> Subject:
    """The subject with the backends that its ops use here (see `observed`)."""
    if not subject.backends:
        return subject
    found = observed(subject.build(device), subject.backends, device, subject.args.precision, VOCABULARY)
    return dataclasses.replace(subject, backends=found)


def observed(model: ARModel, backends: dict, device, precision: str, vocabulary: int) -> dict:
    """The chosen backends, {op: {"backend", "reason"}}, with those that ran in training and in reading a prompt.

    If an op does not use the chosen backend, the reason says so. An op that uses two has both names, joined by "+". The
    key "step" names the form for one token, where the op has one of its own. The model keeps its gradients and ends in
    evaluation mode.
    vocabulary: ids below this number are its tokens.  Raises what the model raises.
    """
    tokens = min(TOKENS, model.max_len or TOKENS)
    ids = torch.randint(0, vocabulary, (2, tokens), generator=torch.Generator().manual_seed(0)).to(device)
    with recording() as seen, autocast(device, precision):
        model(ids).float().logsumexp(-1).sum().backward()
        with torch.no_grad(), phase("decoding"):
            _, state = model.eval().prefill(ids[:, :-1], model.init_state(2, tokens))
            model.step(ids[:, -1], state)
    return {op: _observed(op, choice, seen) for op, choice in backends.items()}


def _observed(op: str, choice: dict, seen: Seen) -> dict:
    by_phase = {name: ops.get(op, {}) for name, ops in seen.items()}
    found, step = sequences(by_phase), "+".join(by_phase.get("step", ()))
    own_step = {"step": step} if step else {}
    if not found or found == {choice["backend"]}:
        return {**choice, **own_step}
    return {
        "backend": "+".join(sorted(found)),
        "reason": f"observed to run here; chosen by flags and device: {choice['backend']} ({choice['reason']})",
        **own_step,
    }
