"""AdamW with less Python per step, and clipping that leaves small gradients alone.

    optimizer = AdamW(groups, lr=1e-3, fused=True)
    norm = clip_gradients(parameters, 1.0)

Both compute what torch's own do, number for number. torch's `step` sorts parameters and their state into lists before
each call of its fused kernel, and its clipping multiplies every gradient even by 1. For a small model on a CPU that
takes longer than the arithmetic.

Optimizers of torch also load `torch._dynamo`, the compiler behind torch.compile, when they are made, because their
methods keep the compiler out of themselves. It takes a second, and a run that compiles nothing has no use for it. Here
the same methods are called without that wrapper. A compiled model is not affected: no optimizer is compiled here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


def _bare(method):
    """A method of torch's without its outer wrapper. Without a wrapper it is the method itself."""
    return getattr(method, "__wrapped__", method)


class _BareAdamW(torch.optim.AdamW):
    """torch.optim.AdamW without the compiler: the same numbers, state and checkpoints."""

    add_param_group = _bare(torch.optim.AdamW.add_param_group)
    zero_grad = _bare(torch.optim.AdamW.zero_grad)
    state_dict = _bare(torch.optim.AdamW.state_dict)
    load_state_dict = _bare(torch.optim.AdamW.load_state_dict)
    step = torch.no_grad()(_bare(torch.optim.AdamW.step))


class AdamW(_BareAdamW):
    """torch's AdamW. Under `fused` on a CPU, the lists of its kernel are kept from one step to the next."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._lists: list[tuple] | None = None

    def __setstate__(self, state) -> None:
        """Loading a state and copying come here: the lists then are of another state."""
        super().__setstate__(state)
        self._lists = None

    def add_param_group(self, param_group) -> None:
        self._lists = None
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure=None):
        """One step. Parameters without a gradient are left out, as torch does."""
        if closure is not None or not self._is_plain():
            return super().step(closure)
        if self._lists is None and not self._make_lists():
            return super().step()  # which also makes the state before the first step
        for group, (parameters, means, squares, steps) in zip(self.param_groups, self._lists, strict=True):
            beta1, beta2 = group["betas"]
            torch._foreach_add_(steps, 1)
            torch._fused_adamw_(
                parameters,
                [p.grad for p in parameters],
                means,
                squares,
                [],
                steps,
                amsgrad=False,
                lr=group["lr"],
                beta1=beta1,
                beta2=beta2,
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )
        return None

    def _is_plain(self) -> bool:
        """Whether every parameter has a gradient in its own dtype, and the kernel needs nothing else."""
        return all(
            group["fused"]
            and not (group["amsgrad"] or group["maximize"])
            and isinstance(group["lr"], float)
            and all(p.grad is not None and p.device.type == "cpu" and not p.grad.is_sparse for p in group["params"])
            for group in self.param_groups
        ) and not (hasattr(self, "grad_scale") or hasattr(self, "found_inf"))

    def _make_lists(self) -> bool:
        """Keep parameters, moments and counts of each group. Returns whether they are there and of one dtype."""
        lists = []
        for group in self.param_groups:
            states = [self.state.get(p) for p in group["params"]]
            if not all(states) or len({p.dtype for p in group["params"]}) > 1:
                return False
            lists.append((group["params"], *([s[name] for s in states] for name in ("exp_avg", "exp_avg_sq", "step"))))
        self._lists = lists
        return True


def clip_gradients(parameters: Sequence[torch.nn.Parameter], most: float) -> torch.Tensor:
    """Scale gradients down to a total norm of `most` (inf: only measure), and return the norm before, a scalar.

    parameters: all have a gradient. A factor of 1 is not multiplied. To know it, the norm is read, which is free on a
    CPU. On a GPU that would wait for the device, so there the gradients are always multiplied.
    """
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
    small = norm.device.type == "cpu" and most / (norm.item() + 1e-6) >= 1.001  # the margin is for rounding
    if most < math.inf and not small:
        torch.nn.utils.clip_grads_with_norm_(parameters, most, norm)
    return norm
