"""The selective scan by the CUDA kernel of mamba-ssm (`selective_scan_fn`).

Its layout has time last: (B, E, T) for u and delta, (B, N, T) for B and C. The kernel starts from a zero state, has no
negative transitions, and returns the last state without a gradient. Its own autograd function keeps states, so
`backward` runs it again on the inputs. This costs one more forward pass, and the memory does not grow with N. The
package's own fused layer does the same for the convolution and the steps.
"""

from __future__ import annotations

import torch

from src.ops.selective_scan.steps import from_raw_steps, gradients_of_raw_steps
from src.ops.vjp import vjp


@from_raw_steps
def forward(u, delta, A, B, C, D, state, neg_eigen: bool):
    """y (B, T, E) and the last state (B, E, N), float32, without recording a gradient. D may be None.

    Raises RuntimeError when there is an initial state or `neg_eigen`.
    """
    _refuse(state, neg_eigen)
    with torch.no_grad():
        y, last = _kernel(u, delta, A, B, C, D)
        return y, last.float().contiguous()


@gradients_of_raw_steps
def backward(dy, dlast, u, delta, A, B, C, D, state, neg_eigen: bool):
    """From the gradient of y: those of u, delta, A, B, C, D (None without D), and None for the initial state.

    Raises RuntimeError when there is an initial state, `neg_eigen`, or a gradient of the last state.
    """
    _refuse(state, neg_eigen)
    if dlast is not None:
        raise RuntimeError(
            "backend 'mamba_ssm' of selective_scan has no gradient through the returned state; take eager"
        )
    inputs = [t.detach().requires_grad_() for t in (u, delta, A, B, C, D) if t is not None]
    with torch.enable_grad():
        y, _ = _kernel(*inputs, *(() if D is not None else (None,)))
    gradients = vjp((y,), inputs, (dy,))
    return (*gradients, *(() if D is not None else (None,)), None)


def _kernel(u, delta, A, B, C, D):
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    u, delta, B, C = (t.transpose(1, 2).contiguous() for t in (u, delta, B, C))  # time last and contiguous
    y, last = selective_scan_fn(u, delta, A.contiguous(), B, C, D, return_last_state=True)
    return y.transpose(1, 2), last


def _refuse(state, neg_eigen) -> None:
    if neg_eigen or state is not None:
        lacking = "neg_eigen" if neg_eigen else "initial state"
        raise RuntimeError(f"backend 'mamba_ssm' of selective_scan has no {lacking}; take eager, or auto")
