"""The selective scan in torch, for every device and for float64: segments of time, and in each chunks side by side.

README.md derives this form step by step. Inside a segment all chunks are stepped at once from a zero state, so that one
step is one large operation. The states at the chunk borders follow from the chunks' last states and whole decays. Each
state then gets its share of the border state before it:

    h_t = local_t + P_t h_border ,   P_t = product of a over the chunk's tokens up to t = exp(A cumsum(delta))

With neg_eigen a may be negative, so P is multiplied up instead.

The backward pass keeps the inputs alone. It computes the states at the segment borders again, and lets autograd run
through one segment at a time. A segment has at least sqrt(T) tokens. The memory is the states of one segment, and one
state per segment.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from src.ops.selective_scan.steps import from_raw_steps, gradients_of_raw_steps
from src.ops.vjp import vjp

# States (B x tokens x E x N) of a segment on a CPU: an intermediate tensor has 1 MiB of float32 and stays in the cache.
SEGMENT_STATES = {"cpu": 1 << 18}
LARGE_SEGMENT = 1 << 24  # on other devices, where few large operations are faster: 64 MiB per intermediate tensor
STEP_STATES = 1 << 14  # states of one step above which a CPU is not faster with several chunks side by side


@from_raw_steps
def forward(u, delta, A, B, C, D, state, neg_eigen: bool):
    """y (B, T, E) and the last state (B, E, N), in the inputs' dtype, without recording a gradient.

    D and state may be None. Rows of several models may have an A and a D each: (B, 1, 1, E, N) and (B, 1, E).
    """
    with torch.no_grad():
        h = u.new_zeros(len(u), *A.shape[-2:]) if state is None else state
        outputs = []
        for begin, end in _segments(u, A):
            y, h = _segment(u[:, begin:end], delta[:, begin:end], A, B[:, begin:end], C[:, begin:end], D, h, neg_eigen)
            outputs.append(y)
        return torch.cat(outputs, dim=1), h


@gradients_of_raw_steps
def backward(dy, dlast, u, delta, A, B, C, D, state, neg_eigen: bool):
    """From the gradients of y and of the last state (None: zeros): those of u, delta, A, B, C, D and the initial state.

    The gradient of D is None where D is.
    """
    starts = _starts(u, delta, A, B, C, state, neg_eigen)
    dh = torch.zeros_like(starts[0]) if dlast is None else dlast
    du, ddelta, dB, dC = (torch.empty_like(t) for t in (u, delta, B, C))
    dA, dD = torch.zeros_like(A), None if D is None else torch.zeros_like(D)
    for begin, end in reversed(_segments(u, A)):
        inputs = [t[:, begin:end] for t in (u, delta, B, C)] + [A, starts.pop()] + ([] if D is None else [D])
        inputs = [t.detach().requires_grad_() for t in inputs]
        with torch.enable_grad():
            a, b, c, d, rate, h, *skip = inputs
            y, last = _segment(a, b, rate, c, d, skip[0] if skip else None, h, neg_eigen)
        du[:, begin:end], ddelta[:, begin:end], dB[:, begin:end], dC[:, begin:end], part, dh, *skip = vjp(
            (y, last), inputs, (dy[:, begin:end], dh)
        )
        dA += part
        if skip:
            dD += skip[0]
    return du, ddelta, dA, dB, dC, dD, dh


def _segments(u, A):
    """[(begin, end)] of the segments of time, in order, long enough for the device and for few borders."""
    (batch, T, _), (E, N) = u.shape, A.shape[-2:]
    length = max(_root(T), SEGMENT_STATES.get(u.device.type, LARGE_SEGMENT) // (batch * E * N))
    return [(begin, min(T, begin + length)) for begin in range(0, T, length)]


def _starts(u, delta, A, B, C, state, neg_eigen):
    """The states (B, E, N) at the start of every segment."""
    with torch.no_grad():
        starts = [u.new_zeros(len(u), *A.shape[-2:]) if state is None else state]
        for begin, end in _segments(u, A)[:-1]:
            starts.append(
                _segment(u[:, begin:end], delta[:, begin:end], A, B[:, begin:end], None, None, starts[-1], neg_eigen)[1]
            )
        return starts


def _segment(u, delta, A, B, C, D, h, neg_eigen):
    """One segment of S tokens: y (B, S, E), None without C, and the last state (B, E, N). Differentiable."""
    batch, S, E = u.shape
    chunk = _chunk(S, batch * A.shape[-2] * A.shape[-1], u.device.type)
    count = -(-S // chunk)
    spare = count * chunk - S  # tokens with delta = 0 at the end: a = 1 and no input, so they change no state

    def split(t):
        return F.pad(t, (0, 0, 0, spare)).view(batch, count, chunk, -1)

    d = split(delta)
    decay = torch.exp(d[..., None] * A)  # (B, count, chunk, E, N)
    if neg_eigen:
        decay = 2 * decay - 1
    added = split(delta * u)[..., None] * split(B)[..., None, :]
    decays = decay.unbind(2)
    local = _step(decays, added.unbind(2), h[:, None] if count == 1 else None)
    if count == 1:
        states, last = torch.stack(local, dim=2), local[-1][:, 0]
    else:
        total = torch.stack(_products(decays), dim=2) if neg_eigen else torch.exp(d.cumsum(2)[..., None] * A)
        borders, last = _borders(local[-1].unbind(1), total[:, :, -1].unbind(1), h)
        states = torch.stack(local, dim=2) + total * borders[:, :, None]
    if C is None:
        return None, last
    y = (states @ split(C)[..., None]).view(batch, count * chunk, E)[:, :S]
    return y if D is None else y + D * u, last


def _chunk(S: int, step_states: int, device_type: str) -> int:
    """Tokens of a chunk: all S where one step keeps a CPU busy, else the root of S, which makes the fewest steps."""
    return S if device_type == "cpu" and step_states >= STEP_STATES else _root(S)


def _root(n: int) -> int:
    """The square root of n >= 1, rounded up."""
    return math.isqrt(n - 1) + 1


def _step(decays, added, h):
    """The state after each token: h -> decay * h + added. h None stands for zeros."""
    states = []
    for a, x in zip(decays, added, strict=True):
        h = x if h is None else torch.addcmul(x, a, h)
        states.append(h)
    return states


def _products(decays):
    """The product of the decays up to each token."""
    products = [decays[0]]
    for a in decays[1:]:
        products.append(products[-1] * a)
    return products


def _borders(ends, totals, h):
    """The state before each chunk (B, count, E, N), and the state after the last one.

    ends: each chunk's last state from a zero start.  totals: each chunk's whole decay.
    """
    states = []
    for end, total in zip(ends, totals, strict=True):
        states.append(h)
        h = torch.addcmul(end, total, h)
    return torch.stack(states, dim=1), h
