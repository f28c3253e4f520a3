"""Before a timing: does the op, in the backend that will be timed, compute what its reference says?

    verdict = check_op("selective_scan", "numba", device, "fp32")
    verdict.passed, verdict.worst, verdict.note

Every form of the op that a model can use (with and without decay, window, negative transitions, ...) runs on small random inputs of an odd length; outputs and
gradients are compared with reference.py, in float64 on the CPU. The difference of two tensors is the largest one, relative to the
reference's largest value. In bf16 and fp16 the inputs are rounded first, so that the reference sees the same numbers.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

B, T, H, K, C, N, RANK = 2, 65, 2, 16, 16, 16, 2  # T odd and one beyond a chunk of 64; sizes that GPU kernels take
# fp32: rounding of chunked sums. On CUDA third-party kernels multiply in TF32, whose mantissa has 10 bits. bf16 has 8, fp16 11.
TOLERANCE = {("cpu", "fp32"): 1e-4, ("cuda", "fp32"): 5e-3}
HALF_TOLERANCE = 4e-2
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Verdict:
    """passed: within the tolerance.  worst: the largest relative difference, None where nothing could be run.  note: one line."""

    passed: bool
    worst: float | None
    note: str


def check_op(op: str, backend: str, device, precision: str = "fp32", seed: int = 0) -> Verdict:
    """Compare a backend of an op with its reference. Never raises for what the op raises: that is a failed verdict."""
    device = torch.device(device)
    tolerance = TOLERANCE.get((device.type, precision), HALF_TOLERANCE)
    worst, where = 0.0, "nothing"
    try:
        for name, run, reference, inputs in cases(op, backend, seed):
            for part, difference in _differences(run, reference, inputs, device, DTYPES[precision]):
                if not difference <= worst:  # also where it is not a number
                    worst, where = difference, f"{part} of {name}"
    except Exception as error:
        text = (str(error).splitlines() or [""])[0]
        return Verdict(False, None, f"gate: {op}={backend} raised {type(error).__name__}: {text}")
    passed = worst <= tolerance
    return Verdict(
        passed,
        worst,
        f"gate: {op}={backend} differs from its reference by {worst:.1e} ({where}), allowed: {tolerance:g}",
    )


class Gate:
    """The verdicts on one device in one precision; each op and backend is looked at once."""

    def __init__(self, device, precision: str):
        self.device, self.precision = torch.device(device), precision
        self._known: dict[tuple[str, str], Verdict] = {}

    def check(self, backends: dict) -> Verdict:
        """The verdict over all ops of a model: the first that fails, or one that names them all.

        backends: {op: {"backend", "reason"}}; a backend may be several, joined by "+".
        """
        notes = []
        for key in ((op, name) for op, choice in backends.items() for name in choice["backend"].split("+")):
            if key not in self._known:
                self._known[key] = check_op(*key, self.device, self.precision)
            verdict = self._known[key]
            if not verdict.passed:
                return verdict
            notes.append(f"{'='.join(key)} {verdict.worst:.0e}")
        return Verdict(True, None, f"gate passed: {', '.join(notes)}" if notes else "gate: no op of src/ops to compare")


def _differences(run, reference, inputs: dict, device, dtype) -> Iterator[tuple[str, float]]:
    """(what, relative difference) of every output and gradient."""
    rounded = {k: v.to(dtype).double() for k, v in inputs.items()}
    mine = {k: v.to(dtype).to(device).requires_grad_() for k, v in rounded.items()}
    truth = {k: v.clone().requires_grad_() for k, v in rounded.items()}
    got, wanted = run(**mine), reference(**truth)
    weight = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (got.double() * weight.to(device)).sum().backward()
    (wanted * weight).sum().backward()
    yield "output", relative(got.detach().cpu().double(), wanted.detach())
    for name, leaf in truth.items():
        if leaf.grad is not None:
            gradient = mine[name].grad
            yield (
                f"gradient of {name}",
                float("inf") if gradient is None else relative(gradient.cpu().double(), leaf.grad),
            )


def relative(got, wanted) -> float:
    """The largest difference over the largest value of `wanted`; infinite for another shape, or where something is not a number."""
    if got.shape != wanted.shape or not bool(torch.isfinite(got).all()):
        return float("inf")
    return float((got - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))


def cases(op: str, backend: str, seed: int = 0) -> Iterator[tuple[str, Callable, Callable, dict]]:
    """(name, run(**inputs), reference(**inputs), inputs): the forms of an op, by keyword; float32 inputs from an explicit generator."""
    if op not in CASES:
        raise ValueError(f"op: got '{op}', allowed: {', '.join(CASES)}")
    module, reference = importlib.import_module(f"src.ops.{op}"), importlib.import_module(f"src.ops.{op}.reference")
    yield from CASES[op](module, reference, backend, torch.Generator().manual_seed(seed))


def _attention(module, reference, backend, rng):
    qkv = {name: torch.randn(B, H, T, K, generator=rng) for name in "qkv"}
    forms = {"causal": {}, "window": {"window": 16}}
    for name, options in forms.items():
        yield (
            name,
            lambda q, k, v, o=options: module.attention(q, k, v, backend=backend, **o),
            lambda q, k, v, o=options: reference.attention_reference(q, k, v, **o),
            qkv,
        )


def _selective_scan(module, reference, backend, rng):
    inputs = {
        "u": torch.randn(B, T, C, generator=rng),
        "delta": F.softplus(torch.randn(B, T, C, generator=rng) - 2),
        "A": -torch.rand(C, N, generator=rng) * 4 - 0.1,
        "B": torch.randn(B, T, N, generator=rng),
        "C": torch.randn(B, T, N, generator=rng),
        "D": torch.randn(C, generator=rng),
    }
    for negative in (False,) if backend == "mamba_ssm" else (False, True):
        yield (
            "negative transitions" if negative else "scan",
            lambda n=negative, **x: module.selective_scan(**x, neg_eigen=n, backend=backend)[0],
            lambda n=negative, **x: reference.selective_scan_reference(**x, neg_eigen=n)[0],
            inputs,
        )
    projected = {
        "u": inputs["u"],
        "x_proj": torch.randn(RANK + 2 * N, C, generator=rng) * C**-0.5,
        "dt_proj": torch.randn(C, RANK, generator=rng) * RANK**-0.5,
        "dt_bias": torch.randn(C, generator=rng) - 2,
        "A_log": torch.rand(C, N, generator=rng),
        "D": inputs["D"],
    }

    def by_hand(u, x_proj, dt_proj, dt_bias, A_log, D):
        step, inward, outward = F.linear(u, x_proj).split([RANK, N, N], dim=-1)
        delta = F.softplus(F.linear(step, dt_proj) + dt_bias)
        return reference.selective_scan_reference(u, delta, -torch.exp(A_log), inward, outward, D)[0]

    yield "projected scan", lambda **x: module.projected_scan(**x, backend=backend)[0], by_hand, projected


def _linear_attention(module, reference, backend, rng):
    qkv = {name: torch.randn(B, T, H, K, generator=rng) for name in "qkv"}
    decays = {"no decay": None, "a decay a head": (H,), "a decay a step": (B, T, H), "a decay a channel": (B, T, H, K)}
    for name, shape in decays.items():
        inputs = qkv if shape is None else {**qkv, "decay": F.logsigmoid(torch.randn(shape, generator=rng) + 2)}
        yield (
            name,
            lambda **x: module.linear_attention(**x, scale=K**-0.5, backend=backend)[0],
            lambda **x: reference.linear_attention_reference(**x, scale=K**-0.5)[0],
            inputs,
        )


def _delta_rule(module, reference, backend, rng):
    inputs = {name: torch.randn(B, T, H, K, generator=rng) for name in "qkv"}
    inputs = {**inputs, "k": F.normalize(inputs["k"], dim=-1), "beta": torch.rand(B, T, H, generator=rng)}
    for name, more in {
        "no decay": {},
        "decay": {"decay": F.logsigmoid(torch.randn(B, T, H, generator=rng) + 2)},
    }.items():
        yield (
            name,
            lambda **x: module.delta_rule(**x, scale=K**-0.5, backend=backend)[0],
            lambda **x: reference.delta_rule_reference(**x, scale=K**-0.5)[0],
            {**inputs, **more},
        )


def _causal_conv(module, reference, backend, rng):
    inputs = {
        "x": torch.randn(B, T, C, generator=rng),
        "weight": torch.randn(C, 4, generator=rng),
        "bias": torch.randn(C, generator=rng),
    }
    for activation in (None, "silu"):
        yield (
            activation or "linear",
            lambda a=activation, **x: module.causal_conv(**x, activation=a, backend=backend)[0],
            lambda a=activation, **x: reference.causal_conv_reference(**x, activation=a)[0],
            inputs,
        )


CASES = {
    "attention": _attention,
    "selective_scan": _selective_scan,
    "linear_attention": _linear_attention,
    "delta_rule": _delta_rule,
    "causal_conv": _causal_conv,
}
