"""Several models of one architecture as one: the same layer of all of them is one operation, under torch.vmap.

    stack = Stack(models, args, device)
    losses, norms = stack.gradients(batches)      # a batch per model; one number per model
    stack.keep(rows)                              # the other models leave, with the weights that they have
    lr = stack.update()                           # clips each model's gradient on its own, and takes a step
    stack.weights(row), stack.optimizer_state(row, state_dict)

A small model is launch-bound on a GPU: the device waits for Python, and k models at once take little longer than one.
Each model computes what it would compute alone, up to the rounding of sums.

All weights of a model are one row of a matrix per weight-decay group, (models, weights). So a norm, the clipping and
AdamW are a few operations, and the moments of a model are a row too.

k models, B batch, T time, P weights of a group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from dataset.common import IGNORE, Batch
from dataset.tokenizer import PAD
from src.flags.fields import UserError
from src.flags.run_flags import RunFlags
from src.models.contract import ARModel
from src.ops import stacked
from src.ops.softmax import cross_entropy
from src.utils.precision import autocast
from src.utils.training import adamw, make_scheduler, weight_decay_groups

# Tokens that take as long as the launches of one more call. Batches of unlike lengths are padded to the largest one, or
# computed in several calls, whichever is estimated to take less.
LAUNCH_TOKENS = {"cpu": 1_000}
LAUNCH_TOKENS_ELSEWHERE = 100_000
MOMENTS = ("exp_avg", "exp_avg_sq")
EPSILON = 1e-6  # added to a norm before the division, as in torch's clip_grad_norm_


class Stack:
    """The weights, gradients and moments of k models, one row per model."""

    def __init__(self, models: Sequence[ARModel], args: RunFlags, device: torch.device, steps: int):
        """models: of one class and one size. They are read here, and not changed.  steps: of the whole training.

        Raises UserError for a model that cannot be one of several.
        """
        check_models(models)
        self.args, self.device = args, device
        self.scored = _Scored(models[0], args.label_smoothing)
        self.padded = not args.allow_noncausal  # a layer that sees the future sees padding too
        tensors = [dict(_Scored(model, 0.0).named_parameters()) for model in models]
        names = {id(p): name for name, p in self.scored.named_parameters()}
        found = weight_decay_groups(models[0], args)
        self.groups = [_Rows([names[id(p)] for p in group["params"]], tensors) for group in found]
        settings = [{**group, "params": [rows.matrix]} for group, rows in zip(found, self.groups, strict=True)]
        self.optimizer = adamw(settings, args, device)
        self.scheduler = make_scheduler(self.optimizer, args, steps)
        trained = set(names_of(self.groups))
        self.own = _constants([_Scored(model, 0.0) for model in models], trained)
        self.places = _places(self.scored, [*names_of(self.groups), *self.own])

    def __len__(self) -> int:
        return len(self.groups[0].matrix)

    def gradients(self, batches: Sequence[Batch]) -> tuple[list[float], list[float]]:
        """(loss, norm of the gradient) of each model on its own batch, from one transfer.

        The loss is in nats per trained character, without label smoothing. `update` uses the gradients.
        """
        calls = together([tuple(b.x.shape) for b in batches], self._launch(), self.padded)
        if len(calls) == 1:
            losses = self._backward(None, joined(batches))
        else:
            losses = torch.zeros(len(self), device=self.device)
            for rows in self.groups:
                rows.gradient = torch.empty_like(rows.matrix)
            for call in calls:
                members = torch.tensor(call, device=self.device)
                losses[members] = self._backward(members, joined([batches[i] for i in call])).to(losses.dtype)
        norms = [torch.linalg.vector_norm(rows.gradient, dim=1) for rows in self.groups]
        self.norms = torch.linalg.vector_norm(torch.stack(norms), dim=0)
        return tuple(torch.stack([losses, self.norms.to(losses.dtype)]).tolist())

    def update(self) -> float:
        """One step of AdamW for every model, after the clipping of each one's gradient. Returns the learning rate."""
        factor = (self.args.grad_clip / (self.norms + EPSILON)).clamp(max=1.0) if self.args.grad_clip else None
        for rows in self.groups:
            rows.matrix.grad = rows.gradient if factor is None else rows.gradient.mul_(factor[:, None])
        lr = self.optimizer.param_groups[0]["lr"]
        self.optimizer.step()
        self.scheduler.step()
        return lr

    def keep(self, members: Sequence[int]) -> None:
        """Go on with these rows alone."""
        chosen = torch.tensor(list(members), device=self.device)
        for rows, group in zip(self.groups, self.optimizer.param_groups, strict=True):
            state = self.optimizer.state.pop(rows.matrix, {})
            rows.matrix, rows.gradient = rows.matrix.detach()[chosen].requires_grad_(), rows.gradient[chosen]
            group["params"] = [rows.matrix]
            if state:
                self.optimizer.state[rows.matrix] = {
                    name: value[chosen] if name in MOMENTS else value for name, value in state.items()
                }
        self.norms = self.norms[chosen]
        self.own = {name: values[chosen] for name, values in self.own.items()}

    def weights(self, row: int) -> dict[str, torch.Tensor]:
        """{name: the trained weight} of one model, as views."""
        return {
            name.removeprefix("model."): value
            for rows in self.groups
            for name, value in rows.parts(rows.matrix.detach()[row]).items()
        }

    def optimizer_state(self, row: int, like: dict) -> dict:
        """The state of an AdamW that has trained one model alone.  like: the `state_dict` of such a one, still new."""
        state, index = {}, 0
        for rows in self.groups:
            kept = self.optimizer.state.get(rows.matrix, {})
            moments = {name: list(rows.parts(kept[name][row]).values()) for name in MOMENTS if name in kept}
            for i in range(len(rows.names)):
                if kept:
                    state[index] = {"step": kept["step"].clone(), **{name: moments[name][i] for name in MOMENTS}}
                index += 1
        groups = [
            {**group, **{k: v for k, v in mine.items() if k != "params"}}
            for group, mine in zip(like["param_groups"], self.optimizer.param_groups, strict=True)
        ]
        return {"state": state, "param_groups": groups}

    def _launch(self) -> int:
        return LAUNCH_TOKENS.get(self.device.type, LAUNCH_TOKENS_ELSEWHERE)

    def _backward(self, members: torch.Tensor | None, inputs: Sequence[torch.Tensor | None]) -> torch.Tensor:
        """The losses (n,) of these models on their inputs. Their gradients go into the rows of the groups.

        members: (n,) rows, None for all of them.
        """
        inputs = [None if t is None else t.to(self.device, non_blocking=True) for t in inputs]
        leaves: dict[str, torch.Tensor] = {}
        for rows in self.groups:
            matrix = rows.matrix.detach() if members is None else rows.matrix.detach()[members]
            leaves |= {name: part.requires_grad_() for name, part in rows.parts(matrix).items()}
        own = {name: values if members is None else values[members] for name, values in self.own.items()}
        losses, shown = self._losses({**leaves, **own}, inputs)
        found = torch.autograd.grad(losses.sum(), list(leaves.values()), allow_unused=True)
        gradients = dict(zip(leaves, found, strict=True))
        for rows in self.groups:
            # As among the ranks of `torchrun`, a missing gradient counts as zero.
            parts = [torch.zeros_like(leaves[n]) if gradients[n] is None else gradients[n] for n in rows.names]
            flat = torch.cat([part.reshape(len(part), -1) for part in parts], dim=1)
            if members is None:
                rows.gradient = flat
            else:
                rows.gradient[members] = flat
        return shown.detach()

    def _losses(self, values: dict[str, torch.Tensor], inputs: Sequence[torch.Tensor | None]):
        """(losses, the same without label smoothing), (n,) each."""

        def loss_of(values, *inputs):
            for (store, key, _), value in zip(self.places, values, strict=True):
                store[key] = value
            return self.scored(*inputs)

        # In a list with the order of the places: torch.func.functional_call looks for every name in every step.
        given = [values[name] for _, _, name in self.places]
        before = [store[key] for store, key, _ in self.places]
        in_dims = (0, *(None if t is None else 0 for t in inputs))
        try:
            with stacked.calls(), autocast(self.device, self.args.precision):
                return torch.vmap(loss_of, in_dims=in_dims, randomness="error")(given, *inputs)
        finally:
            for (store, key, _), value in zip(self.places, before, strict=True):
                store[key] = value


class _Rows:
    """The weights of one weight-decay group: a matrix (k, P), and where in a row each weight lies."""

    def __init__(self, names: list[str], tensors: Sequence[dict[str, torch.Tensor]]):
        self.names, self.shapes = names, [tensors[0][name].shape for name in names]
        self.sizes = [shape.numel() for shape in self.shapes]
        rows = [torch.cat([own[name].detach().flatten() for name in names]) for own in tensors]
        self.matrix = torch.stack(rows).requires_grad_()
        self.gradient = torch.zeros_like(self.matrix)

    def parts(self, matrix: torch.Tensor) -> dict[str, torch.Tensor]:
        """{name: the weight} as views of one row (P,), or of several (n, P)."""
        pieces = matrix.split(self.sizes, dim=-1)
        return {
            name: piece.unflatten(-1, shape) if shape else piece.squeeze(-1)
            for name, shape, piece in zip(self.names, self.shapes, pieces, strict=True)
        }


class _Scored(nn.Module):
    """A model and its loss as one module, for `functional_call`."""

    def __init__(self, model: ARModel, smoothing: float):
        super().__init__()
        self.model, self.smoothing = model, smoothing

    def forward(self, x, index, target):
        """(loss, loss without label smoothing) of ids x (B, T).  index, target: (n,), flat positions and their targets.

        index None: all positions. A target IGNORE does not count.
        """
        logits = self.model.logits_at(x, index)
        shown = cross_entropy(logits, target, backend=self.model.loss_backend)
        if not self.smoothing:
            return shown, shown
        return cross_entropy(logits, target, self.smoothing, backend=self.model.loss_backend), shown


def check_models(models: Sequence[ARModel]) -> None:
    """UserError for models that cannot be trained as one: of another size each, with complex weights, a loss of their
    own, or weights that do not exist yet."""
    name = type(models[0]).__name__
    if type(models[0]).loss_fn is not ARModel.loss_fn:
        raise UserError(f"--seeds_at_once: {name} has a loss_fn of its own, allowed: the loss of ARModel; leave it out")
    shapes = [[(n, getattr(p, "shape", None), p.dtype) for n, p in model.named_parameters()] for model in models]
    if any(found != shapes[0] for found in shapes):
        raise UserError(f"--seeds_at_once: the weights of {name} have other shapes for another seed; leave it out")
    for weight, p in models[0].named_parameters():
        if isinstance(p, nn.parameter.UninitializedTensorMixin) or not p.is_floating_point():
            raise UserError(
                f"--seeds_at_once: the weight {weight} of {name} is lazy or not real, allowed: real numbers"
            )


def together(shapes: Sequence[tuple[int, int]], launch: int, padded: bool = True) -> list[list[int]]:
    """Which batches are computed in one call: a list of their numbers per call.

    shapes: (B, T) of each batch.  launch: tokens that take as long as the launches of a call.  padded: whether batches
    of unlike shapes may share a call. The estimate of a call is launch + n max(B) max(T). Batches are ordered by T, and
    cut into calls so that the sum of the estimates is the smallest.
    """
    order = sorted(range(len(shapes)), key=lambda i: (shapes[i][1], shapes[i][0]))
    best: list[tuple[float, int]] = [(0, 0)]  # (estimate, start of the last call) of the first i batches
    for end in range(1, len(order) + 1):
        found = []
        for start in range(end):
            sizes = [shapes[i] for i in order[start:end]]
            if padded or len(set(sizes)) == 1:
                tokens = len(sizes) * max(b for b, _ in sizes) * max(t for _, t in sizes)
                found.append((best[start][0] + launch + tokens, start))
        best.append(min(found))
    calls, end = [], len(order)
    while end:
        start = best[end][1]
        calls.append(sorted(order[start:end]))
        end = start
    return calls[::-1]


def joined(batches: Sequence[Batch]) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """(x, index, target) of several batches, as wide and as long as the largest one.

    x: (k, B, T).  index: (k, n) flat positions that are trained, None for all.  target: (k, n), IGNORE where a batch
    has fewer than n.
    """
    k, B, T = len(batches), max(len(b) for b in batches), max(b.x.shape[1] for b in batches)
    x = torch.full((k, B, T), PAD, dtype=torch.int64)
    for i, batch in enumerate(batches):
        x[i, : len(batch), : batch.x.shape[1]] = batch.x
    if all(b.index is None and b.x.shape == (B, T) for b in batches):
        return x, None, torch.stack([b.y.flatten() for b in batches])
    n = max(b.n_trained for b in batches)
    index, target = torch.zeros(k, n, dtype=torch.int64), torch.full((k, n), IGNORE, dtype=torch.int64)
    for i, batch in enumerate(batches):
        flat = torch.arange(batch.y.numel()) if batch.index is None else batch.index
        width = batch.x.shape[1]
        index[i, : len(flat)] = flat // width * T + flat % width
        target[i, : len(flat)] = batch.y.flatten()[flat]
    return x, index, target


def names_of(groups: Sequence[_Rows]) -> list[str]:
    """The names of all trained weights."""
    return [name for rows in groups for name in rows.names]


def _places(module: nn.Module, names: Sequence[str]) -> list[tuple[dict, str, str]]:
    """(store, key, name) of each tensor of these names. One that is tied has several places."""
    wanted, known = set(names), {id(t): n for n, t in (*module.named_parameters(), *module.named_buffers())}
    found = []
    for part in module.modules():
        for store in (part._parameters, part._buffers):
            found += [
                (store, key, known[id(t)]) for key, t in store.items() if t is not None and known[id(t)] in wanted
            ]
    return found


def _constants(modules: Sequence[nn.Module], trained: set[str]) -> dict[str, torch.Tensor]:
    """{name: (k, ...)} of the buffers and untrained weights that differ between the models.

    Those that are equal, such as the decays of a RetNet, stay in the first model, which computes for all.
    """
    found = [{n: t for n, t in (*m.named_buffers(), *m.named_parameters()) if n not in trained} for m in modules]
    own = {}
    for name, first in found[0].items():
        values = [tensors[name].detach() for tensors in found]
        if not all(torch.equal(first, value) for value in values[1:]):
            own[name] = torch.stack(values)
    return own


def problem_of(loss: float, norm: float) -> str:
    """Why a model has diverged, as `train_step` says it; empty where it has not."""
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    return "" if math.isfinite(norm) else f"the norm of the gradient is {norm}"
