"""What a decoding state holds: every tensor and array that can be reached from it.

    state_bytes(state)                # bytes of the live state, measured
    state_after(model, tokens)        # the state of one sequence after so many tokens

A state should be a nested tuple of tensors and whole numbers. Lists, dicts, sets, deques, named tuples, dataclasses and
other objects with attributes are followed too, and so are NumPy arrays. What Python cannot look into, such as a
generator, a function or an open file, could hide memory. It is refused with an `OpaqueState`, because a state of
unknown size must not count as 0 bytes.

A cache that a layer keeps on itself, outside of the state, is not seen here. The checks of isolation find it.
"""

from __future__ import annotations

import array
import enum
import types
from collections import deque
from collections.abc import Iterable

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor

from src.flags.fields import UserError

CONTAINERS = (dict, list, tuple, set, frozenset, deque)
NUMBERS = (bool, int, float, complex, np.generic)
NUMBER_BYTES = 8
# Plain values that hold no memory worth counting, or that all states of a program share.
PLAIN = (*NUMBERS, type(None), type(...), type, slice, range, enum.Enum, np.dtype)
PLAIN += (torch.dtype, torch.device, torch.layout, torch.memory_format)
COUNTERS = 16  # so many numbers or characters in one place are counters and names. More of them are data, and count
HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE, as in copyreg


class OpaqueState(TypeError):
    """A decoding state holds something whose memory cannot be counted."""


def state_bytes(state) -> int:
    """Bytes held by a live state: measured, never declared. Memory that several views share counts once.

    Plain numbers in one container count NUMBER_BYTES each where there are more than COUNTERS of them.
    Raises OpaqueState for what cannot be counted.
    """
    found: dict[tuple, int] = {}
    seen, kept = set(), []  # `kept` keeps temporary objects alive, so that no address is used twice
    waiting = [("state", state)]
    while waiting:
        place, part = waiting.pop()
        if isinstance(part, PLAIN) or type(part) is object or id(part) in seen:
            continue
        seen.add(id(part))
        kept.append(part)
        size, inner = _look_into(place, part)
        found.update(size)
        waiting += inner
    return sum(found.values())


def refuse_opaque(model) -> None:
    """UserError for a model whose decoding state cannot be counted. What else is wrong with decoding is not judged."""
    try:
        state_bytes(state_after(model, 2))
    except OpaqueState as error:
        raise UserError(f"--model: {error}") from error
    except Exception:  # the checks report it, and a run that cannot decode still has scores
        return


def state_after(model, tokens: int):
    """The live decoding state of one sequence after `tokens` tokens, from `init_state(1, tokens)`."""
    training = model.training
    weight = next(model.parameters(), None)
    x = torch.ones(1, tokens, dtype=torch.long, device=None if weight is None else weight.device)
    try:
        with torch.no_grad():
            _, state = model.eval().prefill(x, model.init_state(1, tokens))
    finally:
        model.train(training)
    return state


def _look_into(place: str, part) -> tuple[dict[tuple, int], list[tuple[str, object]]]:
    """({memory: its bytes}, [(place, part) of what it holds]) of one object. `place` names it in the error line."""
    if isinstance(part, torch.Tensor):
        return _tensor(place, part)
    if isinstance(part, np.ndarray):
        whole = part
        while isinstance(whole.base, np.ndarray):
            whole = whole.base
        items = [(f"{place}[{i}]", item) for i, item in enumerate(part.flat)] if part.dtype.hasobject else []
        return {("array", id(whole)): whole.nbytes}, items
    if isinstance(part, (str, bytes, bytearray, memoryview, array.array)):
        size = part.nbytes if isinstance(part, memoryview) else len(part) * getattr(part, "itemsize", 1)
        return ({("text", id(part)): size} if size > COUNTERS else {}), []
    native = _native_type(type(part))
    if issubclass(native, CONTAINERS):
        items = _items(place, part)
        numbers = sum(isinstance(item, NUMBERS) for _, item in items)
        return (
            {("numbers", id(part)): numbers * NUMBER_BYTES} if numbers > COUNTERS else {},
            items + _attributes(place, part),
        )
    if native not in (object, types.SimpleNamespace):
        raise OpaqueState(
            f"the decoding state holds a {type(part).__name__} ({place}), whose memory cannot be counted, allowed: "
            "tensors, arrays, numbers, text, and tuples, lists, dicts or objects of these"
        )
    return {}, _attributes(place, part)


def _tensor(place: str, tensor: torch.Tensor) -> tuple[dict[tuple, int], list[tuple[str, object]]]:
    """The same for a tensor. One that is made of others (sparse, a subclass) counts with these."""
    is_fake = isinstance(tensor, FakeTensor)  # it has no memory, and its attributes are torch's own
    if hasattr(tensor, "__tensor_flatten__") and not is_fake:
        return {}, [(f"{place}.{name}", getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0]]
    if tensor.layout is torch.sparse_coo:
        return {}, [(place, tensor._indices()), (place, tensor._values())]
    try:
        storage = tensor.untyped_storage()
        return {("tensor", storage._cdata): storage.nbytes()}, [] if is_fake else list(_named(place, vars(tensor)))
    except (NotImplementedError, RuntimeError) as error:
        raise OpaqueState(
            f"the decoding state holds a tensor of layout {tensor.layout} ({place}), whose memory cannot be counted, "
            "allowed: dense tensors"
        ) from error


def _items(place: str, part) -> list[tuple[str, object]]:
    """The items of a container, read past any method that its class defines."""
    if isinstance(part, dict):
        keys = [(f"{place} key", key) for key in dict.keys(part) if not isinstance(key, (str, int))]
        return [*keys, *((f"{place}[{key!r:.40}]", value) for key, value in dict.items(part))]
    kind = next(kind for kind in CONTAINERS if isinstance(part, kind))
    return [(f"{place}[{i}]", item) for i, item in enumerate(kind.__iter__(part))]


def _attributes(place: str, part) -> list[tuple[str, object]]:
    """The attributes of an object: those of its __dict__, and its slots."""
    found = list(_named(place, getattr(part, "__dict__", {})))
    for owner in type(part).__mro__:
        for name, slot in vars(owner).items():
            if isinstance(slot, types.MemberDescriptorType):
                try:
                    found.append((f"{place}.{name}", slot.__get__(part)))
                except AttributeError:  # a slot that was never set
                    continue
    return found


def _named(place: str, values: dict) -> Iterable[tuple[str, object]]:
    return ((f"{place}.{name}", value) for name, value in values.items())


def _native_type(cls: type) -> type:
    """The nearest class that is written in C: `object` for a class that is written in Python alone.

    A class is written in C if it is static, or if its constructor is a built-in function of its own.
    """
    for owner in cls.__mro__:
        new = owner.__dict__.get("__new__")
        own_new = isinstance(new, types.BuiltinFunctionType) and getattr(new, "__self__", None) is owner
        if own_new or not owner.__flags__ & HEAP_TYPE:
            return owner
    return object
