"""What the tests of all ops share: lengths, backends, gradients, and the distance from a float64 reference."""

import importlib.util

import pytest
import torch

# Chunks hold 32 tokens: one token, less than a chunk, nearly two chunks, two, one token more, and eight chunks and one.
LENGTHS = (1, 7, 63, 64, 65, 257)
numba_only = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")
CPU_BACKENDS = ["eager", pytest.param("numba", marks=numba_only)]


def gpu(package: str) -> list:
    """The marks of a test that needs a CUDA device and a package."""
    return [
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
        pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed"),
    ]


def with_gradients(function, tensors, out_gradients):
    """[*results, *gradients of all tensors through all results], as float64; a tensor without a gradient gets zeros."""
    results = function(*tensors)
    used = [(r, g.to(r.dtype)) for r, g in zip(results, out_gradients, strict=True) if r.numel()]
    gradients = torch.autograd.grad([r for r, _ in used], tensors, [g for _, g in used], allow_unused=True)
    gradients = [torch.zeros_like(t) if g is None else g for g, t in zip(gradients, tensors, strict=True)]
    return [t.detach().double() for t in (*results, *gradients)]


def distances(got, want) -> list[float]:
    """The largest absolute difference over the largest absolute value of each result; infinite where there is a NaN."""
    errors = []
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
        error = (a - b).abs().max() / b.abs().max().clamp(min=1e-30) if b.numel() else torch.zeros(())
        errors.append(float(error.nan_to_num(nan=float("inf"))))
    return errors


def distance(got, want) -> float:
    """The largest of `distances`."""
    return max(distances(got, want))


def kept_bytes(function, apart=()) -> int:
    """Bytes of the unique storages that a function's result keeps for the backward pass, without those of `apart`."""
    own, storages = {t.untyped_storage().data_ptr() for t in apart}, {}

    def pack(t):
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        result = function()
    assert result is not None  # keeps the storages alive until here, so that no address is used twice
    return sum(size for place, size in storages.items() if place not in own)


def on_thread_counts(function, counts=(1, 2, 3)) -> list:
    """The results of a function on each number of torch threads."""
    threads = torch.get_num_threads()
    try:
        results = []
        for n in counts:
            torch.set_num_threads(n)
            results.append(function())
    finally:
        torch.set_num_threads(threads)
    return results


def same_bytes(results) -> bool:
    """Whether all lists of tensors are equal, bit by bit."""
    return all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))
