"""Ops that are called for several models at once, inside `torch.vmap`.

    with stacked.calls():                          # src/utils/stack.py, around the vmap over models
        losses = torch.vmap(loss_of)(weights, x)

vmap knows torch's own operations. It does not know a compiled kernel, nor an op with a backward pass of its own. Such
an op asks `inside()` and then calls itself through one of these, on plain tensors that autograd sees as usual:

    folded(op, *tensors)        one call: the axis of the models becomes a part of the batch axis
    widened(op, x, *others)     one call: it becomes a part of the channels, for an op that treats each channel alone
    each(op, *tensors)          one call per model, for an op with weights that a batch cannot have

None stands for a tensor that is not there. An op returns one tensor or a tuple of tensors. k models below.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

_inside = False


def inside() -> bool:
    """Whether the call is made for several models, under vmap."""
    return _inside


@contextlib.contextmanager
def calls(wanted: bool = True) -> Iterator[None]:
    """Calls inside the context are made for several models (or, inside of a rule, for plain tensors again)."""
    global _inside
    before, _inside = _inside, wanted
    try:
        yield
    finally:
        _inside = before


def folded(op: Callable, *tensors):
    """Call `op` once, with k B rows in place of B.

    tensors: their first axis is the batch, B rows. A tensor of one axis is a constant that all models share.
    """

    def run(k: int, *given):
        rows = [
            t if t is None or (not of_models and t.dim() == 1) else _spread(t, of_models, k) for t, of_models in given
        ]
        return _each_output(
            op(*(t if t is None or t.dim() == 1 else t.flatten(0, 1) for t in rows)), lambda t: t.unflatten(0, (k, -1))
        )

    return _Rule.apply(run, *tensors)


def widened(op: Callable, x, *others):
    """Call `op` once, with k D channels in place of D.

    x: (B, T, D).  others: (B, T', D) as x, or with the channels first: (D,) and (D, K).
    op returns tensors of three axes, with the channels last.
    """

    def run(k: int, *given):
        wide = [None if t is None else _widen(_spread(t, of_models, k)) for t, of_models in given]
        return _each_output(op(*wide), lambda t: t.unflatten(-1, (k, -1)).movedim(-2, 0))

    return _Rule.apply(run, x, *others)


def each(op: Callable, *tensors):
    """Call `op` for one model after the other."""

    def run(k: int, *given):
        found = [op(*(t[i] if of_models else t for t, of_models in given)) for i in range(k)]
        if isinstance(found[0], torch.Tensor):
            return torch.stack(found)
        return tuple(torch.stack(parts) for parts in zip(*found, strict=True))

    return _Rule.apply(run, *tensors)


def _spread(t, of_models: bool, k: int):
    """The tensor with the models' axis in front; one that all models share is repeated, without a copy."""
    return t if of_models else t.expand(k, *t.shape)


def _widen(t):
    """(k, B, T, D) -> (B, T, k D), (k, D) -> (k D,), (k, D, K) -> (k D, K)."""
    return t.movedim(0, 2).flatten(2) if t.dim() == 4 else t.flatten(0, 1)


def _each_output(found, change: Callable):
    return change(found) if isinstance(found, torch.Tensor) else tuple(map(change, found))


class _Rule(torch.autograd.Function):
    """Hands a call under vmap to `run(k, (tensor, has the models' axis), ...)`.

    Inside of `vmap` torch gives the tensors as they lie below it. What is computed there is recorded by autograd, so
    this function has no forward and no backward pass of its own.
    """

    generate_vmap_rule = False

    @staticmethod
    def forward(run, *tensors):
        raise RuntimeError("a stacked op was called outside of vmap; call it inside `stacked.calls()` under torch.vmap")

    @staticmethod
    def setup_context(ctx, inputs, output):
        raise RuntimeError("a stacked op has no context of its own")

    @staticmethod
    def vmap(info, in_dims, run, *tensors):
        given = [
            (t if dim is None else t.movedim(dim, 0), dim is not None)
            for t, dim in zip(tensors, in_dims[1:], strict=True)
        ]
        with calls(False):
            found = run(info.batch_size, *given)
        return found, 0 if isinstance(found, torch.Tensor) else (0,) * len(found)
