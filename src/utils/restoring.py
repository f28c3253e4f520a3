"""Whether the payload of a checkpoint fits the run that goes on from it. A right digest does not show that.

    head_problem(payload)                             # what every checkpoint has: model, args, vocab, step
    weights_problem(payload["model"], model.state_dict())
    state_problem(payload, fresh)                     # optimiser, schedule, scaler, progress, random states

Each returns what is wrong, as the end of a sentence, and "" where nothing is. torch itself would take a tensor of
another dtype, and notices a moment of another shape only in the next step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch.nn.parameter import UninitializedTensorMixin

COUNTS = ("step", "epoch", "batch", "chars_seen", "examples_seen", "at_goal")
STEPS = ("best_step", "diverged_at", "stopped_at", "solved_at")
MOMENTS = ("exp_avg", "exp_avg_sq")
OTHER_TORCH = ("verbose", "_is_initial", "_get_lr_called_within_step")  # keys of a schedule that came and went


def head_problem(payload: Mapping) -> str:
    """What is wrong with the parts that every checkpoint has."""
    for name, kind, words in (("model", dict, "tensors by name"), ("args", dict, "flags by name")):
        if not isinstance(payload[name], kind):
            return f"{name}: got {type(payload[name]).__name__}, allowed: {words}"
    vocab = payload["vocab"]
    if isinstance(vocab, list) and not (all(isinstance(t, str) for t in vocab) and len(set(vocab)) == len(vocab)):
        return "vocab: allowed: different texts"
    if not isinstance(vocab, (list, dict)):
        return f"vocab: got {type(vocab).__name__}, allowed: a list of texts"
    if isinstance(vocab, dict) and vocab.get("kind") == "bpe" and not isinstance(vocab.get("tokenizer"), str):
        return "vocab: allowed: the text of a tokenizer.json"
    if not _is_count(payload.get("step")):
        return f"step: got {payload.get('step')!r:.40}, allowed: a whole number >= 0"
    return ""


def weights_problem(stored: Mapping, wanted: Mapping) -> str:
    """How stored weights differ from those of a model: names, shapes and dtypes."""
    if missing := [name for name in wanted if name not in stored]:
        return f"'{missing[0]}' is missing"
    if unknown := [name for name in stored if name not in wanted]:
        return f"there is no '{unknown[0]}' in it"
    for name, tensor in wanted.items():
        if isinstance(tensor, UninitializedTensorMixin):
            continue  # a lazy layer takes the shape of what it loads
        if not isinstance(tensor, torch.Tensor):
            if type(stored[name]) is not type(tensor):
                return f"'{name}' is {_kind(stored[name])}, must be {_kind(tensor)}"
        elif problem := _tensor_problem(stored[name], tensor.shape, tensor.dtype):
            return f"'{name}' {problem}"
    return ""


def state_problem(payload: Mapping, fresh: Mapping, parameters: Iterable[torch.Tensor]) -> str:
    """What is wrong with the parts of a payload that a training goes on with.

    fresh: the same parts of a training that has not begun: optimizer, scheduler, scaler, progress.
    parameters: those of the optimiser, in its order.
    """
    for name in (*fresh, "random"):
        if name not in payload:
            return f"{name} is missing"
    return (
        _optimiser_problem(payload["optimizer"], fresh["optimizer"], list(parameters))
        or _schedule_problem(payload["scheduler"], fresh["scheduler"], payload["step"])
        or _alike_problem("scaler", payload["scaler"], fresh["scaler"])
        or _progress_problem(payload["progress"], fresh["progress"], payload["step"])
        or _random_problem(payload["random"])
        or _ran_problem(payload.get("ran", {}))
    )


def _optimiser_problem(stored, fresh: Mapping, parameters: list[torch.Tensor]) -> str:
    if not isinstance(stored, dict) or stored.keys() != fresh.keys() or not isinstance(stored["state"], dict):
        return "the optimiser has other parts"
    groups, wanted = stored["param_groups"], fresh["param_groups"]
    if not isinstance(groups, list) or len(groups) != len(wanted) or not all(isinstance(g, dict) for g in groups):
        return "the optimiser has other groups of parameters"
    for group, new in zip(groups, wanted, strict=True):
        for name, value in new.items():
            # A younger torch has more settings; those that are there must have the type of today's.
            if name in group and not _same_type(group[name], value):
                return f"the optimiser's {name} is {_kind(group[name])}"
        if group.get("params") != new["params"] or not group.keys() <= new.keys() | {"decoupled_weight_decay"}:
            return "the optimiser has other groups of parameters"
    for index, moments in stored["state"].items():
        if not isinstance(index, int) or not 0 <= index < len(parameters) or not isinstance(moments, dict):
            return f"the optimiser has a state of {index!r:.40}"
        like = parameters[index]
        if moments.keys() != {"step", *MOMENTS} or _tensor_problem(moments["step"], (), torch.float32):
            return f"the optimiser's state of parameter {index} has other parts"
        for name in MOMENTS:
            if problem := _tensor_problem(moments[name], like.shape, like.dtype):
                return f"{name} of parameter {index} {problem}"
    return ""


def _schedule_problem(stored, fresh: Mapping, step: int) -> str:
    if not isinstance(stored, dict) or not stored.keys() - set(OTHER_TORCH) <= fresh.keys():
        return "the schedule has other parts"
    if stored.get("last_epoch") != step:
        return f"the schedule is at step {stored.get('last_epoch')!r:.40}, not at {step}"
    return _alike_problem("the schedule", {k: v for k, v in stored.items() if k in fresh}, fresh, whole=False)


def _alike_problem(what: str, stored, fresh: Mapping, whole: bool = True) -> str:
    """Whether a state has the names and types of a fresh one. whole: it must have all of its names."""
    if not isinstance(stored, dict) or (whole and stored.keys() != fresh.keys()):
        return f"{what} has other parts"
    for name, value in stored.items():
        if not _same_type(value, fresh[name]):
            return f"{name} of {what} is {_kind(value)}"
    return ""


def _progress_problem(stored, fresh: Mapping, step: int) -> str:
    """fresh: {field: default} of Progress. A checkpoint of an older version lacks the later fields."""
    if not isinstance(stored, dict) or not stored.keys() <= fresh.keys():
        return "the progress has other parts"
    for name, value in stored.items():
        if name in COUNTS or (name in STEPS and value is not None):
            fits = _is_count(value)
        elif name in STEPS:
            fits = True
        elif name == "best_val":
            fits = value is None or _is_finite(value)
        elif name == "seconds":
            fits = _is_finite(value) and value >= 0
        elif name == "output_ratios":
            fits = value is None or isinstance(value, dict)
        else:
            fits = isinstance(value, dict) and all(isinstance(text, str) for pair in value.items() for text in pair)
        if not fits:
            return f"{name} of the progress is {value!r:.40}"
    if stored.get("step") != step:
        return f"the progress is at step {stored.get('step')!r:.40}, not at {step}"
    if (stored.get("best_val") is None) != (stored.get("best_step") is None):
        return "the progress has a best step without its loss"
    return ""


def _random_problem(stored) -> str:
    """The states are one per process. A checkpoint of an older version has that of one alone."""
    states = [stored] if isinstance(stored, dict) else stored
    if not isinstance(states, list) or not states:
        return "the random states are missing"
    for state in states:
        if not isinstance(state, dict) or not {"torch", "cuda"} <= state.keys() or not isinstance(state["cuda"], list):
            return "a random state has other parts"
        for tensor in (state["torch"], *state["cuda"]):
            if not isinstance(tensor, torch.Tensor) or tensor.dtype != torch.uint8 or tensor.ndim != 1:
                return "a random state is no list of bytes"
        if not _is_usable(state):
            return "a random state is not one that a generator can take"
    return ""


def _is_usable(state: Mapping) -> bool:
    """Whether generators of one's own take the states; the global ones are not touched."""
    import random

    import numpy as np

    try:
        torch.Generator().set_state(state["torch"].cpu())
        if "python" in state:
            random.Random().setstate(state["python"])
            np.random.RandomState().set_state(state["numpy"])
    except Exception:  # each generator has errors of its own
        return False
    return True


def _ran_problem(stored) -> str:
    if isinstance(stored, dict) and all(
        isinstance(name, str) and isinstance(ops, dict) and all(isinstance(found, list) for found in ops.values())
        for name, ops in stored.items()
    ):
        return ""
    return "what ran is not noted by phase and op"


def _tensor_problem(stored, shape, dtype: torch.dtype) -> str:
    if not isinstance(stored, torch.Tensor):
        return f"is {_kind(stored)}, must be a tensor"
    if stored.shape != torch.Size(shape) or stored.dtype != dtype:
        return f"is {_kind(stored)}, must be {dtype} {tuple(shape)}"
    return ""


def _same_type(value, wanted) -> bool:
    """Whether a value may stand in the place of another: lists item by item, numbers finite, None for None."""
    if isinstance(wanted, (list, tuple)):
        if not isinstance(value, (list, tuple)) or len(value) != len(wanted):
            return False
        return all(_same_type(v, w) for v, w in zip(value, wanted, strict=True))
    if isinstance(wanted, bool) or isinstance(value, bool) or wanted is None:
        return type(value) is type(wanted)
    if isinstance(wanted, (int, float)):
        return _is_finite(value)
    return type(value) is type(wanted)


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_finite(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf


def _kind(value) -> str:
    """A value in words: 'torch.float32 (3, 4)', 'a str'."""
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    return f"a {type(value).__name__}"
