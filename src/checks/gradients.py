"""Gradients: they are the derivatives of the function, all are finite, and no parameter has only zeros."""

from __future__ import annotations

import math

import torch

from src.checks.base import Result, Subject, at_embedding, check_logits, judged, names, ratio, skipped
from src.flags.fields import UserError

T = 70  # tokens: more than a chunk of 64
WIDTH = 8
# Central differences with a step h have an error of order h^2, which two steps cancel (Richardson), and one of rounding
# / h. float64, h = 1e-6: 1e-8 in the layers here. A ReLU whose kink lies within a step adds about h. float32, h = 3e-3
# of the tensor's norm: 0.001 to 0.01. A factor or a term that a backward pass lacks gives 0.1 or more.
STEP = {torch.float64: 1e-6, torch.float32: 3e-3}
TOLERANCE = {torch.float64: 1e-5, torch.float32: 3e-2}
# Of a tensor's gradient in float32 against float64: 1e-6 in most layers, 1e-4 where a layer divides by a small number.
ROUNDING = 1e-3


class _Function:
    """The sum of the logits times fixed random weights, as a function of all parameters and, where possible, the
    embeddings.

    shift: zeros that are added to the embeddings, so that they can be differentiated (None where the model has none).
    """

    def __init__(self, subject: Subject, dtype):
        try:
            self.model = subject.model(dtype=dtype, d_model=WIDTH).train()
        except UserError:  # the layer refuses this width
            self.model = subject.model(dtype=dtype).train()
        self.x = subject.tokens(2, min(T, subject.longest))
        self.weights = torch.randn(
            2, self.x.shape[1], subject.vocab_size, generator=torch.Generator().manual_seed(4), dtype=torch.float64
        ).to(subject.device)
        self.shift = None
        self.input_norm = 0.0
        self()  # the first call sets shift

    def __call__(self):
        torch.manual_seed(0)
        with at_embedding(self.model, self._shifted) as outputs:
            logits = self.model(self.x)
        check_logits(logits, self.x)
        if self.shift is None and outputs and outputs[0].shape[:2] == self.x.shape:
            self.shift = torch.zeros_like(outputs[0]).requires_grad_()
            self.input_norm = outputs[0].detach().norm().item()
        self.dtype = logits.dtype
        return (logits.double() * self.weights).sum()

    def _shifted(self, h):
        return h if self.shift is None or h.shape != self.shift.shape else h + self.shift

    def variables(self) -> dict:
        """{name: tensor} of all that it is differentiated by."""
        inputs = {} if self.shift is None else {"the embeddings": self.shift}
        return {**inputs, **{n: p for n, p in self.model.named_parameters() if p.requires_grad}}

    def gradients(self) -> list:
        """One gradient per variable. It is zero where the variable is not in the graph."""
        variables = list(self.variables().values())
        found = torch.autograd.grad(self(), variables, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(variables, found, strict=True)]

    def derivative(self, tensor, direction, h: float) -> float:
        """The derivative along a direction, from central differences with steps h and 2h."""
        return (4 * self.difference(tensor, direction, h) - self.difference(tensor, direction, 2 * h)) / 3

    def difference(self, tensor, direction, h: float) -> float:
        """The central difference along a direction, with step h."""
        with torch.no_grad():
            start = tensor.clone()
            tensor.copy_(start + h * direction)
            up = self().item()
            tensor.copy_(start - h * direction)
            down = self().item()
            tensor.copy_(start)
        return (up - down) / (2 * h)


def _least_scale(grads) -> float:
    """The least number that an error is divided by. A derivative below 1 % of the largest one is mostly rounding."""
    return 1e-2 * max(g.norm().item() for g in grads)


def _worst(f: _Function, dtype):
    """(largest relative error of a derivative against central differences, the tensor that has it, number of tensors).

    The direction for each tensor is half its gradient and half random. The gradient makes the derivative large, and the
    random half finds an error in any element.
    """
    variables, grads = f.variables(), f.gradients()
    least = _least_scale(grads)
    generator = torch.Generator().manual_seed(5)
    worst, where = 0.0, ""
    for (name, p), g in zip(variables.items(), grads, strict=True):
        direction = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p)
        if g.norm() > 0:
            toward = 1.0 if (direction * g).sum() >= 0 else -1.0  # so that the halves cannot cancel
            direction = toward * direction / direction.norm() + g / g.norm()
        direction = direction / direction.norm()
        size = f.input_norm if p is f.shift else p.detach().norm().item()
        h = STEP[dtype] * (1.0 if dtype is torch.float64 else max(size, 0.1))
        numeric, exact = f.derivative(p, direction, h), (g * direction).sum().item()
        error = ratio(abs(numeric - exact), max(abs(numeric), abs(exact), least))
        if error > worst:
            worst, where = error, name
    return worst, where, len(variables)


def _in_float64(subject: Subject):
    """(the function in float64, "") where every operation runs in float64, else (None, why not).

    A change of 1e-9 must have a thousandth of the effect of 1e-6. An operation in float32 would round it away.
    """
    try:
        f = _Function(subject, torch.float64)
    except (RuntimeError, ValueError, TypeError) as error:  # raised by torch or by the layer
        if not any(word in str(error).lower() for word in ("dtype", "scalar type", "double", "float64")):
            raise
        return None, f"the model does not run in float64 ({str(error).splitlines()[0][:60]})"
    first = next(iter(f.variables().values()))
    direction = torch.randn(first.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64).to(first)
    big, small = f.difference(first, direction, 1e-6), f.difference(first, direction, 1e-9)
    kept = f.dtype is torch.float64 and math.isclose(big, small, rel_tol=1e-2)
    return (f, "") if kept else (None, "the model rounds float64 to float32")


def differences_float64(subject: Subject) -> Result:
    """Gradients against central differences, in float64."""
    f, why = _in_float64(subject)
    if f is None:
        return skipped("gradients, float64", f"{why}, so only the next row judges it")
    return _against_differences("gradients, float64", f, torch.float64)


def _against_differences(name: str, f: _Function, dtype) -> Result:
    worst, where, n = _worst(f, dtype)
    return judged(
        name,
        worst,
        TOLERANCE[dtype],
        f"{n} tensors agree with central differences",
        f"the gradient of {where} differs from central differences",
    )


def float32(subject: Subject) -> Result:
    """Gradients in float32 against those in float64, or against central differences without a float64 form."""
    f, exact = _Function(subject, torch.float32), _in_float64(subject)[0]
    if exact is None:
        return _against_differences("gradients, float32", f, torch.float32)
    wanted = exact.gradients()
    least = _least_scale(wanted)
    errors = {
        name: ratio((g.double() - w).norm().item(), max(w.norm().item(), least))
        for name, g, w in zip(f.variables(), f.gradients(), wanted, strict=True)
    }
    worst = max(errors, key=errors.get)
    return judged(
        "gradients, float32",
        errors[worst],
        ROUNDING,
        f"{len(errors)} tensors agree with float64",
        f"the gradient of {worst} differs from that in float64",
    )


def every_parameter(subject: Subject):
    """In three batches every gradient is finite, and every parameter gets a gradient that is not zero."""
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
        "parameters with a gradient not finite",
        len(broken),
        0,
        f"all finite for {len(largest)} parameters in 3 batches",
        f"the gradient was NaN or infinite for {names(broken)}",
    )
    outside = f" (not part of the graph: {names(missing)})" if missing else ""
    yield judged(
        "parameters without a gradient",
        len(dead),
        0,
        f"each of {len(largest)} parameters got one in 3 batches",
        f"the gradient was zero in all 3 batches for {names(dead)}{outside}",
    )
