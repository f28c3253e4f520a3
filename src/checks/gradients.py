"""Gradients: they are the derivatives of the function, all are finite, and no parameter has only zeros."""

from __future__ import annotations

import contextlib
import math

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from src.checks.base import NOISE, Result, Subject, at_embedding, check_logits, judged, measured, names, ratio, skipped
from src.flags.fields import UserError
from src.ops.precision import HALF, as_real
from src.storage.randomness import seed_all

T = 70  # tokens: more than a chunk of 64
WIDTH = 8
# Central differences with a step h have an error of order h^2, which two steps cancel (Richardson), and one of rounding
# / h. float64, h = 1e-6: 1e-8 in the layers here. A ReLU whose kink lies within a step adds about h. float32, h = 3e-3
# of the tensor's norm: 0.001 to 0.01. A factor or a term that a backward pass lacks gives 0.1 or more.
STEP = {torch.float64: 1e-6, torch.float32: 3e-3}
TOLERANCE = {torch.float64: 1e-5, torch.float32: 3e-2}
# Of a tensor's gradient in float32 against float64: 1e-6 in most layers, 1e-4 where a layer divides by a small number.
ROUNDING = 1e-3
HALF_ROUNDING = 0.1  # the same where a layer computes in bf16, which rounds each value by up to 0.4 %
# Batches (rows, tokens) of each seed of the weights, until every parameter got a gradient. An expert may wait long.
BATCHES = (((2, 17), (2, 64), (2, 200), *((8, 100),) * 4), *(((8, 100),) * 2,) * 24)


class _Function:
    """The sum of the logits times fixed random weights, as a function of all parameters and, where possible, the
    embeddings.

    In float64 bf16 and fp16 are float64 as well, so a layer with a projection in bf16 is judged without its rounding.
    shift: zeros that are added to the embeddings, so that they can be differentiated (None where the model has none).
    """

    def __init__(self, subject: Subject, dtype, rows: int = 2, length: int = T):
        """length: tokens, or fewer where the model has a shorter position table."""
        sizes = {"dtype": dtype, "max_len": max(length, subject.longest)}
        sizes |= {"context_len": length} if getattr(subject.args, "context_len", length) < length else {}
        try:
            self.model = subject.model(**sizes, d_model=WIDTH).train()
        except UserError:  # the layer refuses this width
            self.model = subject.model(**sizes).train()
        self.raised = dtype is torch.float64
        if self.raised:
            self.model._apply(lambda t: t.to(dtype) if t.dtype in HALF else t)
        self.x = subject.tokens(rows, min(length, self.model.max_len or length))
        self.weights = torch.randn(
            *self.x.shape, subject.vocab_size, generator=torch.Generator().manual_seed(4), dtype=torch.float64
        ).to(subject.device)
        self.shift = None
        self.input_norm = 0.0
        self()  # the first call sets shift

    def __call__(self):
        seed_all(0)
        raising = _Raised() if self.raised else contextlib.nullcontext()
        with raising, at_embedding(self.model, self._shifted) as outputs:
            logits = self.model(self.x)
        check_logits(logits, self.x)
        if self.shift is None and outputs and outputs[0].shape[:2] == self.x.shape:
            self.shift = torch.zeros_like(outputs[0]).requires_grad_()
            self.input_norm = outputs[0].detach().norm().item()
        self.dtype = logits.dtype
        return (logits.double() * self.weights).sum()

    def _shifted(self, h):
        return h if self.shift is None or h.shape != self.shift.shape else h + self.shift

    def _leaves(self) -> dict:
        inputs = {} if self.shift is None else {"the embeddings": self.shift}
        return {**inputs, **{n: p for n, p in self.model.named_parameters() if p.requires_grad}}

    def variables(self) -> dict:
        """{name: tensor} of all that it is differentiated by. A complex one is its real and imaginary parts."""
        return {name: as_real(p.detach()) for name, p in self._leaves().items()}

    def gradients(self) -> list:
        """One gradient per variable. It is zero where the variable is not in the graph.

        torch's gradient of a complex tensor has the derivatives by the real and the imaginary part as its two parts.
        """
        leaves = list(self._leaves().values())
        found = torch.autograd.grad(self(), leaves, allow_unused=True)
        return [as_real(torch.zeros_like(p) if g is None else g) for p, g in zip(leaves, found, strict=True)]

    def size(self, name: str) -> float:
        """The norm of a variable's values."""
        return self.input_norm if name == "the embeddings" else self.variables()[name].double().norm().item()

    def derivative(self, moves, h: float) -> float:
        """The derivative along a direction, from central differences with steps h and 2h."""
        return (4 * self.difference(moves, h) - self.difference(moves, 2 * h)) / 3

    def difference(self, moves, h: float) -> float:
        """The central difference along a direction, with step h.  moves: the direction, as (variable, its part)."""
        starts = [tensor.clone() for tensor, _ in moves]
        found = []
        with torch.no_grad():
            for step in (h, -h):
                for (tensor, direction), start in zip(moves, starts, strict=True):
                    tensor.copy_(start + step * direction)
                found.append(self().item())
            for (tensor, _), start in zip(moves, starts, strict=True):
                tensor.copy_(start)
        return (found[0] - found[1]) / (2 * h)


def _least_scale(grads) -> float:
    """The least number that an error is divided by. A derivative below 1 % of the largest one is mostly rounding."""
    return 1e-2 * max(g.norm().item() for g in grads)


def _direction(p, g, generator):
    """A direction of norm 1 for a tensor: half its gradient and half random.

    The gradient makes the derivative large, and the random half finds an error in any element.
    """
    direction = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(g)
    if g.norm() > 0:
        toward = 1.0 if (direction * g).sum() >= 0 else -1.0  # so that the halves cannot cancel
        direction = toward * direction / direction.norm() + g / g.norm()
    return direction / direction.norm()


def _worst(f: _Function, dtype):
    """(largest relative error of a derivative against central differences, its tensor, number of tensors)."""
    variables, grads = f.variables(), [g.double() for g in f.gradients()]
    least = _least_scale(grads)
    generator = torch.Generator().manual_seed(5)
    worst, where = 0.0, ""
    for (name, p), g in zip(variables.items(), grads, strict=True):
        direction = _direction(p, g, generator)
        h = STEP[dtype] * (1.0 if dtype is torch.float64 else max(f.size(name), 0.1))
        numeric, exact = f.derivative([(p, direction)], h), (g * direction).sum().item()
        error = ratio(abs(numeric - exact), max(abs(numeric), abs(exact), least))
        if error > worst:
            worst, where = error, name
    return worst, where, len(variables)


def _worst_of_all(f: _Function, dtype):
    """Like `_worst` with few passes: the embeddings along one direction, and all parameters together along another."""
    variables, grads = f.variables(), [g.double() for g in f.gradients()]
    generator = torch.Generator().manual_seed(5)
    parts = [(n, p, g, _direction(p, g, generator)) for (n, p), g in zip(variables.items(), grads, strict=True)]
    inputs = [part for part in parts if part[0] == "the embeddings"]
    worst, where = 0.0, ""
    for what, group in (("the embeddings", inputs), ("all parameters", parts[len(inputs) :])):
        if not group:
            continue
        sizes = [1.0 if dtype is torch.float64 else max(f.size(name), 0.1) for name, *_ in group]
        moves = [(p, size * d) for (_, p, _, d), size in zip(group, sizes, strict=True)]
        exact = sum((g * d).sum().item() for (_, _, g, _), (_, d) in zip(group, moves, strict=True))
        numeric = f.derivative(moves, STEP[dtype])
        error = ratio(abs(numeric - exact), max(abs(numeric), abs(exact), 1e-12))
        if error > worst:
            worst, where = error, what
    return worst, where, len(variables)


class _Raised(TorchFunctionMode):
    """Conversions to bf16 and fp16 give float64."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.Tensor.bfloat16, torch.Tensor.half):
            return args[0].double()
        raised = [torch.float64 if isinstance(a, torch.dtype) and a in HALF else a for a in args]
        named = {k: torch.float64 if isinstance(a, torch.dtype) and a in HALF else a for k, a in (kwargs or {}).items()}
        return func(*raised, **named)


class _Halves(TorchDispatchMode):
    """Notes whether an operation gives a result in half precision."""

    found = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        parts = result if isinstance(result, (tuple, list)) else (result,)
        self.found |= any(isinstance(t, torch.Tensor) and t.dtype in HALF for t in parts)
        return result


def _uses_half(f: _Function) -> bool:
    """Whether a pass computes in bf16 or fp16 anywhere, as a layer with weights in bf16 does."""
    with torch.no_grad(), _Halves() as mode:
        f()
    return mode.found


def _in_float64(subject: Subject, **sizes):
    """(the function in float64, "") where every operation runs in float64, else (None, why not).

    A change of 1e-9 must have a thousandth of the effect of 1e-6. An operation in float32 would round it away.
    """
    try:
        f = _Function(subject, torch.float64, **sizes)
    except (RuntimeError, ValueError, TypeError) as error:  # raised by torch or by the layer
        if not any(word in str(error).lower() for word in ("dtype", "scalar type", "double", "float64")):
            raise
        return None, f"the model does not run in float64 ({str(error).splitlines()[0][:60]})"
    if _uses_half(f):
        return None, "the model rounds to half precision"
    first = next(iter(f.variables().values()))
    direction = torch.randn(first.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64).to(first)
    big, small = f.difference([(first, direction)], 1e-6), f.difference([(first, direction)], 1e-9)
    kept = f.dtype is torch.float64 and math.isclose(big, small, rel_tol=1e-2)
    return (f, "") if kept else (None, "the model rounds float64 to float32")


def differences_float64(subject: Subject) -> Result:
    """Gradients against central differences, in float64."""
    f, why = _in_float64(subject)
    if f is None:
        return skipped("gradients, float64", f"{why}; see the next row")
    return _against_differences("gradients, float64", subject, f, torch.float64)


def long_sequence(subject: Subject) -> Result:
    """Gradients of a long sequence against central differences: nothing is detached between chunks."""
    sizes = {"rows": 1, "length": max(subject.long, subject.longest)}
    f, _ = _in_float64(subject, **sizes)
    if f is not None:
        return _against_differences("gradients, long sequence", subject, f, torch.float64, _worst_of_all)
    f = _Function(subject, torch.float32, **sizes)
    return _against_differences("gradients, long sequence", subject, f, torch.float32, _worst_of_all)


def _against_differences(name: str, subject: Subject, f: _Function, dtype, find=_worst) -> Result:
    if dtype is torch.float32 and _uses_half(f):
        return skipped(name, "the model rounds to half precision, which is too coarse for central differences")
    worst, where, n = find(f, dtype)
    declared = [cls.__name__ for cls in subject.classes if getattr(cls, "surrogate_gradient", False)]
    if declared:
        note = f"not judged: {names(declared)} declares surrogate_gradient = True; {where} differs most"
        return measured(name, worst, note)
    return judged(
        name,
        worst,
        TOLERANCE[dtype],
        f"{n} tensors agree with differences at {f.x.shape[1]:,} tokens",
        f"the gradient of {where} differs from central differences at {f.x.shape[1]:,} tokens",
    )


def float32(subject: Subject) -> Result:
    """Gradients in float32 against those in float64, or against central differences without a float64 form."""
    f, exact = _Function(subject, torch.float32), _in_float64(subject)[0]
    if exact is None:
        return _against_differences("gradients, float32", subject, f, torch.float32)
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
        HALF_ROUNDING if _uses_half(f) else ROUNDING,
        f"{len(errors)} tensors agree with float64",
        f"the gradient of {worst} differs from that in float64",
    )


def every_parameter(subject: Subject):
    """In several batches every gradient is finite, and every parameter gets a gradient that is not zero.

    The first three batches are always tried. The further ones, other seeds of the weights, and noise on them, are for
    parameters that got none yet, such as those of an expert that no token chose.
    """
    largest: dict[str, float] = {}
    missing, broken, n = set(), set(), 0
    for seed, batches in enumerate(BATCHES):
        if n >= 3 and all(largest.values()):
            break
        model = subject.model(seed=subject.seed + seed).train()
        if not seed:
            largest = {name: 0.0 for name, p in model.named_parameters() if p.requires_grad}
            missing = set(largest)
        else:
            _shake(model, seed)
        for rows, length in batches:
            if n >= 3 and all(largest.values()):
                break
            n += 1
            _train_once(model, subject.tokens(rows, min(length, subject.longest), seed=n))
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
        f"all finite for {len(largest)} parameters in {n} batches",
        f"the gradient was NaN or infinite for {names(broken)}",
    )
    outside = f" (not part of the graph: {names(missing)})" if missing else ""
    yield judged(
        "parameters without a gradient",
        len(dead),
        0,
        f"each of {len(largest)} parameters got one in {n} batches",
        f"the gradient was zero in all {n} batches for {names(dead)}{outside}",
    )


def _shake(model, seed: int) -> None:
    """Add noise to every trained parameter, up to 3 times as large as its values, so that a router chooses others."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad and p.numel():
                values = as_real(p)
                size = (1 + seed % 3) * (values.float().square().mean().sqrt().item() + NOISE)
                values += size * torch.randn(values.shape, generator=generator).to(values)


def _train_once(model, x) -> None:
    """New gradients of the mean cross-entropy of each next token."""
    model.zero_grad(set_to_none=True)
    logits = model(x)
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), x[:, 1:].flatten()).backward()
