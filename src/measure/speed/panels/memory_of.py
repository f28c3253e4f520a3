"""Peak memory of a call, by device.

On CUDA it is the allocator's count. On a CPU it is the resident set of a separate process (src/measure/child.py).
"""

from __future__ import annotations

from src.measure import child


def peak_above(action, device) -> int:
    """Bytes by which memory rose while `action()` ran. On a CPU, call it in a child of src/measure/child.py."""
    if device.type != "cuda":
        return child.peak_of(action)[0]
    import torch

    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    action()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def device_type_of(subject) -> str:
    """'cpu' or 'cuda'."""
    return subject.args.device.partition(":")[0]


def includes(device_type: str) -> str:
    """What a peak includes, for the note of its row."""
    return "torch's CUDA allocator" if device_type == "cuda" else child.INCLUDES


def nbytes(tensors) -> int:
    """Bytes of tensors; a storage that several of them share counts once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())
