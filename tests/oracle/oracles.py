"""What the tests against other packages share: loading a package without a GPU, float64 inside it, results to compare.

A package is imported when a test asks for it, never while tests are collected.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types

import pytest
import torch
from torch.overrides import TorchFunctionMode

LENGTHS = (1, 7, 63, 64, 65, 257)  # around the chunks of 64 tokens that the packages use, and those of 32 here
# Of the largest entry of each result. The packages' code runs in float64, so what remains is the rounding of ours.
EXACT = 1e-9
SINGLE = 1e-4  # float32 sums over up to 257 tokens

# package: what its import needs, but a machine without CUDA lacks, or none of the code that runs here uses
PLACEHOLDERS = {
    "mamba_ssm": ("selective_scan_cuda",),
    "causal_conv1d": ("causal_conv1d_cuda",),
    "flash_attn": ("flash_attn_2_cuda",),
    "torchscale": ("fairscale", "fairscale.nn", "timm", "timm.models", "timm.models.layers"),
}


class Placeholder(types.ModuleType):
    """A module in which every name is a function that fails when it is called."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def fail(*_, **__):
            raise RuntimeError(f"a test called {self.__name__}.{name}, which is a placeholder")

        return fail


def package(name: str):
    """A module of another package, or a skip that says what is not installed."""
    root = name.partition(".")[0]
    if importlib.util.find_spec(root) is None:
        pytest.skip(f"{root} is not installed; CONTRIBUTING.md says how to install it without a GPU")
    needed = PLACEHOLDERS.get(root, ())
    absent = [
        n for n in needed if n.partition(".")[0] not in sys.modules and not importlib.util.find_spec(n.split(".")[0])
    ]
    sys.modules.update({n: Placeholder(n) for n in absent})
    try:
        return importlib.import_module(name)
    finally:
        for n in absent:
            del sys.modules[n]


class InFloat64(TorchFunctionMode):
    """Code that asks for float32 gets float64, so that a reference with `.float()` in it rounds nothing."""

    def __torch_function__(self, func, _types, args=(), kwargs=None):
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        return func(*map(_wide, args), **{name: _wide(value) for name, value in (kwargs or {}).items()})


def _wide(value):
    return torch.float64 if value is torch.float32 else value


def draw(*shape, seed=1):
    """Normal numbers, float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def outputs_and_gradients(layer, x, run=None) -> dict[str, torch.Tensor]:
    """The output of a layer, and the gradients of one weighted sum of it: "output", "input", and a name per parameter.

    run: what to call in place of the layer.
    """
    x = x.detach().requires_grad_()
    y = (run or layer)(x)
    named = dict(layer.named_parameters())
    gradients = torch.autograd.grad((y * draw(*y.shape, seed=9)).sum(), [x, *named.values()])
    return {"output": y.detach(), **dict(zip(["input", *named], gradients, strict=True))}


def assert_agree(got: dict, want: dict, limit: float) -> None:
    """AssertionError, with the name, unless each result is within `limit` of the largest entry of the wanted one."""
    error, name = largest_difference(got, want)
    assert error <= limit, f"{name} differs by {error:.1e} of its largest entry, allowed: {limit:.0e}"


def largest_difference(got: dict, want: dict) -> tuple[float, str]:
    """(distance, name) of the result that differs most: the largest difference over the largest entry. NaN counts most.

    Raises AssertionError where names or shapes differ.
    """
    assert got.keys() == want.keys(), f"{sorted(got.keys() ^ want.keys())} on one side only"
    worst = []
    for name, a in got.items():
        b = want[name]
        assert a.shape == b.shape, f"{name}: {tuple(a.shape)} here, {tuple(b.shape)} there"
        error = (a.double() - b.double()).abs().max() / b.abs().max().clamp(min=1e-30)
        worst.append((float(error.nan_to_num(nan=float("inf"))), name))
    return max(worst)
