"""What describes an op that is measured: its shape, its cost in operations and bytes, its implementations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from src.ops.backends import Backend

CONV_WIDTH = 4
EPS = 1e-5  # of rmsnorm
PASSES = ("forward", "both")
TORCH = Backend("torch alone", "")


@dataclass(frozen=True)
class Shape:
    """B rows of T tokens.  width: channels (E, D).  heads, head_dim: H and K.  state: N."""

    B: int
    T: int
    width: int = 256
    heads: int = 4
    head_dim: int = 64
    state: int = 16


@dataclass(frozen=True)
class Cost:
    """operations, bytes: counted as src/measure/kernels/subjects.py says."""

    operations: int
    bytes: int


@dataclass(frozen=True)
class Implementation:
    """One way to compute a subject.

    run(**inputs) -> output.  backend: what it needs; by default torch alone.  compiled: run by torch.compile.
    """

    run: Callable
    summary: str
    backend: Backend = TORCH
    half_only: bool = False
    compiled: bool = False

    def obstacle(self, device_type: str, precision: str) -> str:
        """Why it cannot run on this device in this precision, in one line; empty if it can."""
        reasons = []
        if not self.backend.runs_on(device_type):
            reasons.append(f"needs a {self.backend.device.upper()} device, this is {device_type}")
        if self.backend.missing():
            reasons.append(f"not installed: {', '.join(self.backend.missing())}")
        if self.half_only and precision == "fp32":
            reasons.append("computes in bf16 or fp16 only; give --precision bf16")
        return "; ".join(reasons)


@dataclass(frozen=True)
class Subject:
    """An op that is measured.

    draw(shape, randn, rand) -> {name: float32 tensor}; randn and rand draw on the CPU.
    reference(**inputs) -> the output in float64, differentiable.
    forward(shape), backward(shape) -> (operations, numbers that are read or written).
    plain: the form that the others are compared with at the measured shape.
    dims: the fields of Shape that it depends on, apart from B and T.
    float32_inputs: inputs that stay float32 in every precision.
    """

    name: str
    draw: Callable
    reference: Callable
    forward: Callable
    backward: Callable
    forms: dict[str, Implementation]
    plain: str
    dims: tuple[str, ...]
    formula: str
    float32_inputs: tuple[str, ...] = field(default=())

    def inputs(self, shape: Shape, seed: int):
        """Random inputs, determined by shape and seed; float32 on the CPU."""
        import torch

        generator = torch.Generator().manual_seed(seed)

        def randn(*size):
            return torch.randn(*size, generator=generator)

        def rand(*size):
            return torch.rand(*size, generator=generator)

        return self.draw(shape, randn, rand)

    def cost(self, shape: Shape, element_bytes: int, which: str) -> Cost:
        """Operations and bytes of `which`, "forward" or "both". element_bytes: of one input or output number."""
        if which not in PASSES:
            raise ValueError(f"which: got '{which}', allowed: {', '.join(PASSES)}")
        parts = [self.forward(shape)] + ([self.backward(shape)] if which == "both" else [])
        return Cost(sum(operations for operations, _ in parts), element_bytes * sum(numbers for _, numbers in parts))
