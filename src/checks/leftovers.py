"""Leftovers: a layer holds as much after many calls as after a few. A list that grows with every call fills the memory.

Counted are the attributes of all modules, those of their classes, and the containers at the top of the file that
defines a layer. What a layer keeps per length is no growth, because each call here has the same length.
"""

from __future__ import annotations

import collections
import inspect
import itertools
import sys
from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from src.checks.base import Result, Subject, judged, names

WARM, CALLS = 2, 3  # calls that may fill a cache, and calls after each of which everything is counted
ITEM = 8  # bytes of a reference
CONTAINERS = (dict, list, tuple, set, frozenset, collections.deque)


def growth(subject: Subject) -> Result:
    """Bytes that each further call adds. A call is a forward pass, a short decoding and a backward pass."""
    model, x = subject.model(), subject.tokens(subject.batch, min(33, subject.longest))
    counts = []
    for i in range(WARM + CALLS):
        _call(model, x)
        if i >= WARM - 1:
            counts.append(held(model, subject.classes))
    steps = [
        {place: after[place] - before.get(place, 0) for place in after} for before, after in itertools.pairwise(counts)
    ]
    grown = [place for place in counts[-1] if all(step.get(place, 0) > 0 for step in steps)]
    return judged(
        "bytes that each call adds",
        max((min(step[place] for step in steps) for place in grown), default=0),
        0,
        "the layer holds as much after 5 calls as after 2",
        f"grows with every call: {names(grown)}",
    )


def _call(model, x) -> None:
    with torch.no_grad():
        model.eval()(x)
        state = model.init_state(len(x), x.shape[1])
        if x.shape[1] > 1:
            _, state = model.prefill(x[:, :-1], state)
        model.step(x[:, -1], state)
    model.train()(x).float().logsumexp(-1).mean().backward()
    model.zero_grad(set_to_none=True)


def held(model, classes: Iterable[type]) -> dict[str, int]:
    """{place: bytes} of what the modules of a model, their classes and the files of `classes` hold."""
    found = {}
    for module_name, module in model.named_modules():
        for name, value in vars(module).items():
            if name not in ("_parameters", "_modules"):
                found[f"{module_name or 'the model'}.{name}"] = size_of(value)
    own = {c for m in model.modules() for c in type(m).__mro__ if not c.__module__.startswith(("torch", "builtins"))}
    for cls in own:
        found |= {f"{cls.__name__}.{name}": size_of(value) for name, value in vars(cls).items() if _may_grow(value)}
    for module in {cls.__module__ for cls in classes} & set(sys.modules):
        top = vars(sys.modules[module])
        found |= {f"{name} of the file": size_of(value) for name, value in top.items() if _may_grow(value)}
    return found


def _may_grow(value) -> bool:
    return isinstance(value, (*CONTAINERS, torch.Tensor, np.ndarray)) or hasattr(value, "cache_info")


def size_of(value) -> int:
    """Bytes of tensors, arrays and text that are reachable from a value, and of the references to them.

    An object counts once. A deque with a bound counts for nothing, because it cannot grow beyond it.
    """
    total, seen, waiting = 0, set(), [value]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        total += _own_size(one)
        waiting += _parts(one)
    return total


def _own_size(value) -> int:
    if isinstance(value, torch.Tensor):
        return 0 if nn.parameter.is_lazy(value) else value.numel() * value.element_size()
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, (str, bytes, bytearray)):
        return len(value)
    if hasattr(value, "cache_info"):  # of functools.lru_cache
        return ITEM * value.cache_info().currsize
    return ITEM * len(value) if isinstance(value, CONTAINERS) and not _bounded(value) else 0


def _parts(value) -> list:
    """What a value refers to, apart from classes, functions, modules of Python, and numbers."""
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, CONTAINERS):
        return [] if _bounded(value) else list(value)
    opaque = (torch.Tensor, np.ndarray, type, str, bytes, bytearray)
    if isinstance(value, opaque) or inspect.isroutine(value) or inspect.ismodule(value):
        return []
    return [getattr(value, "__dict__", None) or ()]


def _bounded(value) -> bool:
    return isinstance(value, collections.deque) and value.maxlen is not None
