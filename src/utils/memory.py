"""What autograd keeps: bytes that a forward pass saves for its backward pass.

    kept_bytes(lambda: model(x), model.parameters())

The admission gate (src/checks/cost.py) and the efficiency panel (src/measure/speed/panels/memory.py) both report it. Peaks of memory are elsewhere: they
depend on the device and, on a CPU, need a process of their own (src/measure/speed/panels/memory_of.py).
"""

from __future__ import annotations


def kept_bytes(forward, parameters) -> int:
    """Bytes of the storages that `forward()` saves for its backward pass, each once, those of `parameters` apart.

    What a layer stores beside autograd's own list (attributes of a custom Function) does not show.
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
        out = forward()  # the graph lives to the end, so that no address is used twice
    del out
    return sum(kept.values())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is a lack of memory: MemoryError, CUDA's own error, or the RuntimeError of torch's CPU allocator."""
    text = str(error)
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text
