"""The accuracy gate: nothing is timed before its outputs and gradients agree with a reference.

    found = compare(run, reference, inputs, exact, dtype)         # the largest difference of one computation
    verdict = check_op("selective_scan", "numba", device, "fp32") # every form of one backend that a model can use
    verdict = Gate(device, "fp32").check(backends)                # all ops of a model; each is checked once
    verdict.passed, verdict.worst, verdict.note

All commands that measure use `compare`, `relative` and `tolerance`. They differ in what they compare:

- `speed` and `profile` time whole models. So `check_op` runs every form of an op that a model may use: with and
  without decay, window, negative transitions, ... It runs them at one small size with an odd length.
- `kernels` times one form of one op at sizes that the user chooses, and kernels are specialised by size. So it
  compares with the reference at a small size, and with the plain form at each timed size (kernels/bench.py).

Inputs are first rounded to the dtype that is timed, then copied to float64. So the reference sees the same numbers.
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from src.measure.timing import sync_for

B, T, H, K, C, N, RANK = (
    2,
    65,
    2,
    16,
    16,
    16,
    2,
)  # T: odd, a chunk of 64 and one more
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# The largest allowed difference, relative to the reference's largest value. fp32: rounding of chunked sums; third-party
# kernels on CUDA multiply in TF32, which has 10 bits of mantissa. bf16 and fp16: rounding of outputs to 8 and 11 bits.
TOLERANCE = {("cpu", "fp32"): 1e-4, ("cuda", "fp32"): 5e-3, "bf16": 3e-2, "fp16": 4e-3}


@dataclass(frozen=True)
class Verdict:
    """What a gate found.

    passed: within the tolerance.  worst: the largest relative difference, None if nothing could be compared.
    note: one line.  first_seconds: duration of the longest forward and backward pass that was compared.
    """

    passed: bool
    worst: float | None
    note: str
    first_seconds: float = 0.0


@dataclass(frozen=True)
class Comparison:
    """difference: the largest relative one.  where: "output" or "gradient of NAME".  seconds: of the compared pass."""

    difference: float
    where: str
    seconds: float


def tolerance(device_type: str, precision: str) -> float:
    """The largest relative difference that is allowed on a device in a precision."""
    return TOLERANCE.get((device_type, precision), TOLERANCE.get(precision, 0.0))


def leaves(inputs: dict, device, dtype, float32: tuple[str, ...] = ()) -> dict:
    """Copies of the inputs on a device, which take part in gradients. float32: names that stay float32."""
    return {
        name: t.detach().to(device, torch.float32 if name in float32 else dtype).clone().requires_grad_()
        for name, t in inputs.items()
    }


def in_float64(inputs: dict) -> dict:
    """The same numbers for a reference: float64 on the CPU, which take part in gradients."""
    return {name: t.detach().cpu().double().requires_grad_() for name, t in inputs.items()}


def forward_and_backward(run, inputs: dict, gradient):
    """(output, gradients of all inputs) for this gradient of the output; None for an input that is not used."""
    out = run(**inputs)
    return out, torch.autograd.grad(out, list(inputs.values()), gradient, allow_unused=True)


def compare(run, reference, inputs: dict, exact: dict, dtype, seed: int = 1) -> Comparison:
    """The largest difference of run(**inputs) from reference(**exact), over the output and the gradients of all inputs.

    exact: `in_float64(inputs)` for a reference; `inputs` themselves for another form of the op.
    dtype: both sides get the same random gradient of the output, rounded to it.  Whatever `run` raises is raised.
    """
    device = next(iter(inputs.values())).device
    wanted = reference(**exact)
    gradient = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    wanted_gradients = torch.autograd.grad(wanted, list(exact.values()), gradient.to(wanted), allow_unused=True)
    sync, gradient = sync_for(device), gradient.to(device)
    sync()
    began = time.perf_counter()
    out, gradients = forward_and_backward(run, inputs, gradient)
    sync()
    seconds = time.perf_counter() - began
    found = {"output": relative(out, wanted)}
    for name, got, truth in zip(inputs, gradients, wanted_gradients, strict=True):
        if truth is not None:
            found[f"gradient of {name}"] = math.inf if got is None else relative(got, truth)
    where = max(found, key=found.__getitem__)
    return Comparison(found[where], where, seconds)


def relative(got, wanted) -> float:
    """The largest |got - wanted| over the largest |wanted|, in float64; inf for another shape, inf or NaN."""
    if got.shape != wanted.shape:
        return math.inf
    got, wanted = got.detach().double().cpu(), wanted.detach().double().cpu()
    difference = float((got - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30))
    return difference if math.isfinite(difference) else math.inf  # NaN becomes inf, so it wins max()


def check_op(op: str, backend: str, device, precision: str = "fp32", seed: int = 0) -> Verdict:
    """Compare a backend of an op with its reference. Never raises what the op raises: that is a failed verdict."""
    device, dtype = torch.device(device), DTYPES[precision]
    allowed = tolerance(device.type, precision)
    worst, where, seconds = 0.0, "nothing", 0.0
    try:
        for name, run, reference, inputs in cases(op, backend, seed):
            mine = leaves(inputs, device, dtype)
            found = compare(run, reference, mine, in_float64(mine), dtype)
            seconds = max(seconds, found.seconds)
            if found.difference > worst:
                worst, where = found.difference, f"{found.where} of {name}"
    except Exception as error:
        text = (str(error).splitlines() or [""])[0]
        return Verdict(False, None, f"gate: {op}={backend} raised {type(error).__name__}: {text}")
    note = f"gate: {op}={backend} differs from its reference by {worst:.1e} ({where}), allowed: {allowed:g}"
    return Verdict(worst <= allowed, worst, note, seconds)


class Gate:
    """The verdicts on one device in one precision; each backend of an op is checked once."""

    def __init__(self, device, precision: str):
        self.device, self.precision = torch.device(device), precision
        self._known: dict[tuple[str, str], Verdict] = {}

    def check(self, backends: dict) -> Verdict:
        """The verdict on all ops of a model: the first one that fails, or one that names them all.

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


def cases(op: str, backend: str, seed: int = 0) -> Iterator[tuple[str, Callable, Callable, dict]]:
    """(name, run(**inputs), reference(**inputs), inputs) of each form of an op; inputs are float32."""
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
    decays = {
        "no decay": None,
        "a decay per head": (H,),
        "a decay per step": (B, T, H),
        "a decay per channel": (B, T, H, K),
    }
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


def _rmsnorm(module, reference, backend, rng):
    inputs = {"x": torch.randn(B, T, C, generator=rng), "weight": 1 + 0.1 * torch.randn(C, generator=rng)}
    for name, names in {"weighted": ("x", "weight"), "plain": ("x",)}.items():
        yield (
            name,
            lambda **x: module.rmsnorm(**x, backend=backend),
            reference.rmsnorm_reference,
            {key: inputs[key] for key in names},
        )


def _swiglu(module, reference, backend, rng):
    inputs = {name: torch.randn(B, T, C, generator=rng) for name in ("gate", "up")}
    yield "product", lambda **x: module.swiglu(**x, backend=backend), reference.swiglu_reference, inputs


def _rope(module, reference, backend, rng):
    inputs = {"x": torch.randn(B, T, H, K, generator=rng)}
    angle = torch.rand(T, K // 2, generator=rng) * 6

    def rotate(x, layout):
        return module.rope(x, angle.cos().to(x.device), angle.sin().to(x.device), layout, backend)

    for layout in module.LAYOUTS:
        yield (
            layout,
            lambda x, o=layout: rotate(x, o),
            lambda x, o=layout: reference.rope_reference(x, angle.cos(), angle.sin(), o),
            inputs,
        )


def _softmax(module, reference, backend, rng):
    x = torch.randn(B * T, C, generator=rng)
    target = torch.randint(0, C, (B * T,), generator=rng)
    yield "softmax", lambda x: module.softmax(x, backend), reference.softmax_reference, {"x": x}
    for smoothing in (0.0, 0.1):
        yield (
            f"cross-entropy with smoothing {smoothing}",
            lambda logits, s=smoothing: module.cross_entropy(logits, target.to(logits.device), s, backend=backend),
            lambda logits, s=smoothing: reference.cross_entropy_reference(logits, target, s),
            {"logits": x},
        )


def _linear(module, reference, backend, rng):
    inputs = {
        "x": torch.randn(B, T, C, generator=rng),
        "weight": torch.randn(K + 1, C, generator=rng) * C**-0.5,
        "bias": torch.randn(K + 1, generator=rng),
    }
    yield "map", lambda **x: module.linear(**x, backend=backend), reference.linear_reference, inputs


CASES = {
    "attention": _attention,
    "selective_scan": _selective_scan,
    "linear_attention": _linear_attention,
    "delta_rule": _delta_rule,
    "causal_conv": _causal_conv,
    "rmsnorm": _rmsnorm,
    "swiglu": _swiglu,
    "rope": _rope,
    "softmax": _softmax,
    "linear": _linear,
}
