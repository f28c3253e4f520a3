"""Gradients: they are those of the function, every parameter gets a finite one, and none is dead."""

from __future__ import annotations

import math

import torch

from src.checks.base import Result, Subject, at_embedding, check_logits, judged, ratio, skipped
from src.flags.fields import UserError

T = 70  # beyond a chunk of 64
WIDTH = 8
# With a step h central differences are off by h^2 terms, which two steps cancel (Richardson), and by rounding / h. float64, h = 1e-6: 1e-8 in the
# layers here, by rounding; a ReLU whose kink lies within a step adds its share of the elements, about h.  float32, h = 3e-3 of the tensor's norm:
# 0.001 to 0.01. A factor or a term that a backward pass lacks shows as tenths.
STEP = {torch.float64: 1e-6, torch.float32: 3e-3}
TOLERANCE = {torch.float64: 1e-5, torch.float32: 3e-2}
ROUNDING = 1e-3  # of a tensor's gradient in float32 against float64: 1e-6 where it is well conditioned, 1e-4 where a small number divides


class _Function:
    """A scalar of the model: the logits under fixed random weights, as a function of the embeddings (or none) and all parameters."""

    def __init__(self, subject: Subject, dtype):
        try:
            self.model = subject.model(dtype=dtype, d_model=WIDTH).train()
        except UserError:  # a layer may refuse a width
            self.model = subject.model(dtype=dtype).train()
        self.x = subject.tokens(2, min(T, subject.longest))
        self.weights = torch.randn(
            2, self.x.shape[1], subject.vocab_size, generator=torch.Generator().manual_seed(4), dtype=torch.float64
        ).to(subject.device)
        self.shift = None  # added to the embeddings, so that they are differentiated as a real-valued input
        self.input_norm = 0.0
        self()  # finds the embeddings

    def __call__(self):
        torch.manual_seed(0)
        with at_embedding(self.model, self._shifted) as outputs:
            logits = self.model(self.x)
        check_logits(logits, self.x)
        if self.shift is None and outputs and outputs[0].shape[:2] == self.x.shape:
            self.shift, self.input_norm = (
                torch.zeros_like(outputs[0]).requires_grad_(),
                outputs[0].detach().norm().item(),
            )
        self.dtype = logits.dtype
        return (logits.double() * self.weights).sum()

    def _shifted(self, h):
        return h if self.shift is None or h.shape != self.shift.shape else h + self.shift

    def places(self) -> dict:
        """{name: tensor} of what it is differentiated by."""
        inputs = {} if self.shift is None else {"the embeddings": self.shift}
        return {**inputs, **{n: p for n, p in self.model.named_parameters() if p.requires_grad}}

    def gradients(self) -> list:
        """One tensor for each of `places`, zeros where it is not in the graph."""
        places = list(self.places().values())
        found = torch.autograd.grad(self(), places, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(places, found, strict=True)]

    def derivative(self, tensor, direction, h: float) -> float:
        """Along a direction, from central differences with steps h and 2h."""
        return (4 * self.along(tensor, direction, h) - self.along(tensor, direction, 2 * h)) / 3

    def along(self, tensor, direction, h: float) -> float:
        """Central difference along a direction."""
        with torch.no_grad():
            start = tensor.clone()
            tensor.copy_(start + h * direction)
            up = self().item()
            tensor.copy_(start - h * direction)
            down = self().item()
            tensor.copy_(start)
        return (up - down) / (2 * h)


def _floor(grads) -> float:
    """What a derivative is compared with when it is smaller: below this share of the largest it is mostly rounding."""
    return 1e-2 * max(g.norm().item() for g in grads)


def _worst(f: _Function, dtype):
    """(largest relative error of a derivative against differences, the tensor that has it, number of tensors).

    The direction of each tensor is half its own gradient and half random: the first makes the derivative large, the second sees the rest.
    """
    places, grads = f.places(), f.gradients()
    floor = _floor(grads)
    generator = torch.Generator().manual_seed(5)
    worst, where = 0.0, ""
    for (name, p), g in zip(places.items(), grads, strict=True):
        direction = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p)
        if g.norm() > 0:
            toward = 1.0 if (direction * g).sum() >= 0 else -1.0  # else the two halves of a single number might cancel
            direction = toward * direction / direction.norm() + g / g.norm()
        direction = direction / direction.norm()
        size = f.input_norm if p is f.shift else p.detach().norm().item()
        h = STEP[dtype] * (1.0 if dtype is torch.float64 else max(size, 0.1))
        numeric, exact = f.derivative(p, direction, h), (g * direction).sum().item()
        error = ratio(abs(numeric - exact), max(abs(numeric), abs(exact), floor))
        if error > worst:
            worst, where = error, name
    return worst, where, len(places)


def _in_float64(subject: Subject):
    """(the function in float64, "") where float64 flows all the way, else (None, why not).

    It does where a change of 1e-9 moves the result by a thousandth of what 1e-6 does; float32 anywhere between would round it away.
    """
    try:
        f = _Function(subject, torch.float64)
    except (RuntimeError, ValueError, TypeError) as error:  # two dtypes met, in torch's words or the layer's
        if not any(word in str(error).lower() for word in ("dtype", "scalar type", "double", "float64")):
            raise
        return None, f"float64 does not run here ({str(error).splitlines()[0][:60]})"
    place = next(iter(f.places().values()))
    direction = torch.randn(place.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64).to(place)
    big, small = f.along(place, direction, 1e-6), f.along(place, direction, 1e-9)
    flows = f.dtype is torch.float64 and math.isclose(big, small, rel_tol=1e-2)
    return (f, "") if flows else (None, "float64 is rounded to float32 on the way")


def differences_float64(subject: Subject) -> Result:
    """Gradients against central differences in float64: the mathematics of the backward pass."""
    f, why = _in_float64(subject)
    if f is None:
        return skipped("gradients, float64", f"{why}; see float32")
    worst, where, n = _worst(f, torch.float64)
    return judged(
        "gradients, float64", worst, TOLERANCE[torch.float64], f"central differences, {n} tensors; worst: {where}"
    )


def float32(subject: Subject) -> Result:
    """The gradients that training uses against those in float64; against central differences where float64 does not flow."""
    f, exact = _Function(subject, torch.float32), _in_float64(subject)[0]
    if exact is None:
        worst, where, n = _worst(f, torch.float32)
        return judged(
            "gradients, float32", worst, TOLERANCE[torch.float32], f"central differences, {n} tensors; worst: {where}"
        )
    wanted = exact.gradients()
    floor = _floor(wanted)
    errors = {
        name: ratio((g.double() - w).norm().item(), max(w.norm().item(), floor))
        for name, g, w in zip(f.places(), f.gradients(), wanted, strict=True)
    }
    worst = max(errors, key=errors.get)
    return judged(
        "gradients, float32", errors[worst], ROUNDING, f"against float64, {len(errors)} tensors; worst: {worst}"
    )


def every_parameter(subject: Subject):
    """Over several batches every parameter gets a finite gradient, and none only zeros."""
    model = subject.model().train()
    largest = {name: 0.0 for name, p in model.named_parameters() if p.requires_grad}
    missing, broken = set(largest), set()
    for seed in range(3):
        x = subject.tokens(2, min((17, 64, 200)[seed], subject.longest), seed=seed)
        model.zero_grad(set_to_none=True)
        logits = model(x)
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), x[:, 1:].flatten()).backward()
        for name, p in model.named_parameters():
            if p.grad is not None:
                missing.discard(name)
                largest[name] = max(largest[name], p.grad.abs().max().item())
                broken |= set() if torch.isfinite(p.grad).all() else {name}
    dead = [name for name, size in largest.items() if size == 0]
    yield judged(
        "parameters with a gradient not finite", len(broken), 0, _names(broken) or f"of {len(largest)}, 3 batches"
    )
    note = (
        _names(dead) + (" (not in the graph)" if set(dead) & missing else "")
        if dead
        else f"of {len(largest)}, 3 batches"
    )
    yield judged("parameters without a gradient", len(dead), 0, note)


def _names(found) -> str:
    found = sorted(found)
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
