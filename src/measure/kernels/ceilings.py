"""The limits of this machine for the roofline: bytes per second of a copy, operations per second of a matrix product.

    samples = measure_ceilings(device, "fp32", limits)
    ceilings = ceilings_of(rows)                 # from the rows of a record; None if they were not measured
    ceilings.roof(intensity)                     # operations per second, at so many operations per byte

The roofline is that of Williams, Waterman & Patterson 2009, CACM 52(4). A machine that moves W bytes per second and
computes P operations per second reaches at most min(P, I W) at I operations per byte. Both limits are medians measured
here, in the same dtype and with the same threads. The copy is between two buffers larger than the caches; its bytes are
those read and those written. The matrix product is square. Data that fits into a cache can exceed the first limit, and
an op that is not a matrix product cannot reach the second.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from src.measure import timing


@dataclass(frozen=True)
class Ceilings:
    """What the machine can do: bytes per second of a copy, operations per second of a matrix product."""

    bytes_per_s: float
    operations_per_s: float

    def roof(self, intensity: float) -> float:
        """The most operations per second, at `intensity` operations per byte."""
        return min(self.operations_per_s, intensity * self.bytes_per_s)


def ceilings_of(rows) -> Ceilings | None:
    """The ceilings among rows of a record; None if they were not measured."""
    values = {row["metric"]: row["value"] for row in rows if row["panel"] == "roofline" and row["status"] == "ok"}
    if not {"copy_gb_per_s", "matmul_gflop_per_s"} <= values.keys():
        return None
    return Ceilings(1e9 * values["copy_gb_per_s"], 1e9 * values["matmul_gflop_per_s"])


def measure_ceilings(device, dtype, limits, copy_mib: int = 0, size: int = 0, clock=time.perf_counter) -> dict:
    """{"copy": (Sample, bytes), "matrix product": (Sample, operations)} of one call each.

    copy_mib: of one buffer.  size: of the square matrices.  0 means large enough for the device.
    """
    import torch

    is_cuda = device.type == "cuda"
    numbers = (copy_mib or (1024 if is_cuda else 128)) * 2**20 // dtype.itemsize
    size = size or (8192 if is_cuda else 1536)
    source = torch.ones(numbers, dtype=dtype, device=device)
    target = torch.empty(numbers, dtype=dtype, device=device)
    a, b = (torch.randn(size, size, generator=torch.Generator().manual_seed(seed)).to(device, dtype) for seed in (0, 1))
    out = torch.empty_like(a)
    sync = timing.sync_for(device)
    cells = {
        "copy": timing.Cell(lambda: target.copy_(source), limits, sync, clock=clock),
        "matrix product": timing.Cell(lambda: torch.mm(a, b, out=out), limits, sync, clock=clock),
    }
    work = {"copy": 2 * source.nbytes, "matrix product": 2 * size**3}
    found = {}
    for name, outcome in timing.interleave(cells):
        if isinstance(outcome, Exception):
            raise outcome
        found[name] = (outcome, work[name])
    return found
