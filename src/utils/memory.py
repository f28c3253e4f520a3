"""Memory of a forward pass: the bytes that autograd keeps for the backward pass, and how a lack of memory shows.

    kept_bytes(lambda: model(x), model.parameters())

The cost check (src/checks/cost.py) and the memory panel (src/measure/speed/panels/memory.py) report these bytes. A peak
of memory is another quantity. On a CPU it needs a process of its own (src/measure/speed/panels/memory_of.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # benchmark.py imports this module before it knows whether a command needs torch
    import torch


def kept_bytes(forward: Callable[[], torch.Tensor], parameters: Iterable[torch.Tensor]) -> int:
    """Bytes of the storages that `forward()` saves for its backward pass. Those of `parameters` are not counted.

    A storage counts once. Tensors that a custom autograd Function keeps as its own attributes are not seen.
    """
    import torch

    own = {p.untyped_storage().data_ptr() for p in parameters}
    kept: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = forward()  # `out` keeps the graph alive, so that no address is used twice
    del out
    return sum(kept.values())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is a lack of memory: MemoryError, CUDA's error, or the RuntimeErrors of torch's CPU allocator."""
    words = ("out of memory", "can't allocate memory", "Storage size calculation overflowed")
    return isinstance(error, MemoryError) or any(text in str(error) for text in words)
