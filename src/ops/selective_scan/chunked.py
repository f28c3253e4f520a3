"""The selective scan in torch operations, for every device and for float64: segments of time, and inside a segment chunks side by side.

Inside a segment all chunks are stepped at once from a zero state, so a step is one large operation; the states at the chunk borders follow
from the chunks' last states and whole decays; and each state gets its share of the border state before it,

    h_t = local_t + P_t h_border ,   P_t = prod of a over the chunk's tokens up to t = exp(A cumsum(delta))

which is formed in log space: strong decays go to zero, and nothing overflows. With neg_eigen a may be negative, so P is multiplied up; |a| <= 1
keeps that harmless. The backward pass keeps the inputs alone: it forms the states at the segment borders again and lets autograd run
through one segment at a time. A segment has at least sqrt(T) tokens: memory is that of a segment's states and of one state a segment.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

SEGMENT_STATES = {
    "cpu": 1 << 18
}  # states (B x tokens x E x N) of a segment: 1 MiB of float32 an intermediate stays in the cache
LARGE_SEGMENT = 1 << 24  # on other devices, where few large operations count: 64 MiB of float32 an intermediate
STEP_STATES = 1 << 14  # states of one step above which a CPU gains nothing from several chunks side by side


def forward(u, delta, A, B, C, D, state, neg_eigen: bool):
    """y (B, T, E) and the last state (B, E, N), in the inputs' dtype; no gradient is recorded. D and state may be None."""
    with torch.no_grad():
        h = u.new_zeros(len(u), *A.shape) if state is None else state
        outputs = []
        for begin, end in _segments(u, A):
            y, h = _segment(u[:, begin:end], delta[:, begin:end], A, B[:, begin:end], C[:, begin:end], D, h, neg_eigen)
            outputs.append(y)
        return torch.cat(outputs, dim=1), h


def backward(dy, dlast, u, delta, A, B, C, D, state, neg_eigen: bool):
    """Gradients of u, delta, A, B, C, D (None without D) and the initial state, from those of y and of the last state (None: zeros)."""
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
        du[:, begin:end], ddelta[:, begin:end], dB[:, begin:end], dC[:, begin:end], part, dh, *skip = (
            torch.autograd.grad((y, last), inputs, (dy[:, begin:end], dh))
        )
        dA += part
        if skip:
            dD += skip[0]
    return du, ddelta, dA, dB, dC, dD, dh


def _segments(u, A):
    """[(begin, end)] of the segments of time, in order: long enough for the device, and for few borders."""
    (batch, T, _), (E, N) = u.shape, A.shape
    length = max(_root(T), SEGMENT_STATES.get(u.device.type, LARGE_SEGMENT) // (batch * E * N))
    return [(begin, min(T, begin + length)) for begin in range(0, T, length)]


def _starts(u, delta, A, B, C, state, neg_eigen):
    """The states (B, E, N) at the start of every segment."""
    with torch.no_grad():
        starts = [u.new_zeros(len(u), *A.shape) if state is None else state]
        for begin, end in _segments(u, A)[:-1]:
            starts.append(
                _segment(u[:, begin:end], delta[:, begin:end], A, B[:, begin:end], None, None, starts[-1], neg_eigen)[1]
            )
        return starts


def _segment(u, delta, A, B, C, D, h, neg_eigen):
    """y (B, S, E), None without C, and the last state of one segment of S tokens, differentiable."""
    batch, S, E = u.shape
    chunk = _chunk(S, batch * A.numel(), u.device.type)
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
    """Tokens of a chunk: all of S where a step is large enough to keep a CPU busy, else its root, which makes the fewest steps."""
    return S if device_type == "cpu" and step_states >= STEP_STATES else _root(S)


def _root(n: int) -> int:
    """The square root of n >= 1, rounded up."""
    return math.isqrt(n - 1) + 1


def _step(decays, added, h):
    """The states after every token: h -> decay * h + added. h None: zeros."""
    states = []
    for a, x in zip(decays, added, strict=True):
        h = x if h is None else torch.addcmul(x, a, h)
        states.append(h)
    return states


def _products(decays):
    products = [decays[0]]
    for a in decays[1:]:
        products.append(products[-1] * a)
    return products


def _borders(ends, totals, h):
    """The state before each chunk, (B, count, E, N), and after the last, from each chunk's own last state and whole decay."""
    states = []
    for end, total in zip(ends, totals, strict=True):
        states.append(h)
        h = torch.addcmul(end, total, h)
    return torch.stack(states, dim=1), h
