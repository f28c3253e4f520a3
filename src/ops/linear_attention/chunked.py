"""Linear attention in torch: chunks of C tokens as matrix products, and one recurrence of states from chunk to chunk.

README.md derives this form step by step. b_i is the sum of the log decays from the chunk's start up to token i:

    o_i   = sum_{j <= i} (q_i . exp(b_i - b_j) k_j) v_j + (q_i * exp(b_i)) S_start        times scale
    S_end = exp(b_C) S_start + sum_j (exp(b_C - b_j) k_j) v_j^T

`_Chunks` computes it where a head has at most one decay per token, which is a factor of the score q_i . k_j. Where each
key channel has its own decay, `_vector_scores` splits the chunk into halves (Yang et al. 2023, arXiv:2312.06635,
section 4, take blocks of a fixed size instead).

In the names below, `between` is exp(b_i - b_j), `since` is exp(b_i) (since the chunk's start), and `to_end` is
exp(b_C - b_j) (from after token j to the chunk's end). N is the number of chunks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from src.ops.precision import accumulation_dtype, no_autocast

CHUNK = 32  # the fastest of 16, 32, 64, 128, see README.md
# Numbers of q or v that a CPU takes at once: 2 MB, so that the next operation finds them in the cache, and memory is
# used again.
SEGMENT = 2**19


def run(q, k, v, decay, state, scale):
    """Compute (o, state) on any device. The arguments are those of `linear_attention`, already checked."""
    dtype, out_dtype = accumulation_dtype(q, k, v, decay, state), v.dtype
    state = start(q, v, state, dtype)
    o, state = in_segments(lambda *tensors: _segment(*tensors, scale, dtype), (q, k, v, decay), state)
    return o.to(out_dtype), state


def start(q, v, state, dtype):
    """The given state in `dtype`, or zeros."""
    return (
        q.new_zeros(q.shape[0], q.shape[2], q.shape[3], v.shape[3], dtype=dtype) if state is None else state.to(dtype)
    )


def in_segments(compute, tensors, state):
    """Call compute(*tensors, state) -> (o, state) for one segment of time after the other, and join the outputs.

    tensors: (B, T, ...), the first three are q, k and v. A tensor that is None or (H,) goes to every segment as it is.
    A short sequence, or one that is not on a CPU, is a single segment.
    """
    (B, T, H, K), V = tensors[0].shape, tensors[2].shape[3]
    size = max(SEGMENT // (B * H * max(K, V) * CHUNK), 1) * CHUNK if tensors[0].device.type == "cpu" else T
    if T <= size:
        return compute(*tensors, state)
    parts = [x.split(size, dim=1) if x is not None and x.dim() > 1 else [x] * -(-T // size) for x in tensors]
    outputs = []
    for part in zip(*parts, strict=True):
        o, state = compute(*part, state)
        outputs.append(o)
    return torch.cat(outputs, dim=1), state


def _segment(q, k, v, decay, state, scale, dtype):
    T, H = q.shape[1:3]
    C = chunk_size(T, CHUNK)
    q, k, v = (chunks(x.to(dtype), C) for x in (q, k, v))
    if decay is not None and decay.dim() == 4:
        scores, since, to_end = _vector_scores(q, k, chunks(decay.to(dtype), C))
        before, state = carry(since[..., -1, :, None].exp(), (k * to_end.exp()).mT @ v, state)
        o = scores @ v + (q * since.exp()) @ before
    else:
        fixed = decay is not None and decay.dim() == 1
        if decay is not None:
            decay = decay.expand(1, T, H) if fixed else decay
            decay = chunks(decay[..., None].to(dtype), C)[..., 0]  # (1 or B, H, N, C)
        o, state = _Chunks.apply(q, k, v, decay, state, fixed)
    return unchunk(o, T, scale), state


class _Chunks(torch.autograd.Function):
    """The chunked form for at most one decay per head and token.

    The backward pass is written out, because autograd would store and read four times as much.
    q, k: (B, H, N, C, K).  v: (B, H, N, C, V).  decay: None or (1 or B, H, N, C).  fixed: all tokens have the same one.
    """

    @staticmethod
    def forward(ctx, q, k, v, decay, state, fixed):
        shape = q.shape[:3]
        factors = () if decay is None else _factors(decay, fixed)
        scores = _masked(_product(q, k.mT), factors)
        writes = _product(_scaled(k, factors, 2).mT, v)
        before = torch.empty_like(writes)  # the state at the start of each chunk
        for n in range(shape[2]):
            before[:, :, n] = state
            state = writes[:, :, n] + (state if not factors else factors[1][:, :, n, -1:] * state)
        o = _product(scores, v, _scaled(q, factors, 1), before)
        ctx.save_for_backward(q, k, v, decay, scores, before, *factors)
        return o, state

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, do, dstate):
        with no_autocast(do):  # a backward pass called under autocast would round the operands
            return _Chunks.gradients(ctx, do, dstate)

    @staticmethod
    def gradients(ctx, do, dstate):
        q, k, v, decay, scores, before, *factors = ctx.saved_tensors
        do = do.contiguous()
        after = _product(_scaled(q, factors, 1).mT, do)  # becomes the gradient of the state after each chunk
        for n in range(q.shape[2] - 1, -1, -1):
            step = after[:, :, n] + (dstate if not factors else factors[1][:, :, n, -1:] * dstate)
            after[:, :, n] = dstate
            dstate = step
        dv = _product(scores.mT, do, _scaled(k, factors, 2), after)
        dscores = _product(do, v.mT)
        dq, dk = _product(do, before.mT), _product(v, after.mT)  # through the states only, so far
        ddecay = None
        if factors:
            dq, dk = dq.mul_(factors[1]), dk.mul_(factors[2])
            if ctx.needs_input_grad[3]:
                kept = factors[1][..., -1, 0] * (after * before).sum((-2, -1))
                ddecay = _decay_gradient(decay, dscores * scores, (dq * q).sum(-1), (dk * k).sum(-1), kept)
        dscores = _masked(dscores, factors)
        return _product(dscores, k, plus=dq), _product(dscores.mT, q, plus=dk), dv, ddecay, dstate, None


def _product(a, b, c=None, d=None, plus=None):
    """a @ b + c @ d + plus over all chunks; `plus` is overwritten."""
    flat = [x.flatten(0, 2) for x in (a, b, c, d, plus) if x is not None]
    if plus is not None:
        result = flat[2].baddbmm_(*flat[:2])
    else:
        result = torch.bmm(*flat[:2])
        result = result if c is None else result.baddbmm_(*flat[2:])
    return result.unflatten(0, a.shape[:3])


def _scaled(x, factors, which: int):
    return x if not factors else x * factors[which]


def _masked(scores, factors):
    """Scores times the decay between their two tokens, in place; 0 where the key comes after the query."""
    return scores.tril_() if not factors else scores.mul_(factors[0])


def _factors(decay, fixed: bool):
    """(between, since, to_end), see `scalar_decays`. With a fixed decay `between` is alike in all chunks: one copy."""
    between, since, to_end = scalar_decays(decay, decay.dtype)
    return (between[:, :, :1] if fixed else between), since, to_end


def _decay_gradient(decay, pairs, since, to_end, keep):
    """The gradient of the log decays, from gradients times values of what exp(sum of decays) scales.

    pairs: (B, H, N, C, C), scores; the decays j + 1 to i act on pair (i, j).  since: (B, H, N, C), queries; the decays
    up to i.  to_end: (B, H, N, C), keys; the decays after j.  keep: (B, H, N), the state; all decays of the chunk.
    """
    pairs = pairs.tril_(-1)
    up_to = pairs.sum(-1) - pairs.sum(-2) + since
    total = up_to.flip(-1).cumsum(-1).flip(-1) + F.pad(to_end.cumsum(-1)[..., :-1], (1, 0)) + keep[..., None]
    return total.sum_to_size(decay.shape)


def chunk_size(T: int, largest: int) -> int:
    """`largest`, or the smallest power of two that is at least T where that is less."""
    return min(largest, 1 << (T - 1).bit_length())


def chunks(x, C: int):
    """(B, T, H, X) -> (B, H, N, C, X): N chunks of C tokens. Zeros after the end write nothing and decay nothing."""
    T = x.shape[1]
    x = F.pad(x, (0, 0, 0, 0, 0, -T % C)) if T % C else x
    return x.unflatten(1, (-1, C)).permute(0, 3, 1, 2, 4).contiguous()


def unchunk(x, T: int, scale: float):
    """(B, H, N, C, X) -> (B, T, H, X), times scale."""
    x = x.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :T]
    return x.contiguous() if scale == 1 else x * scale


def scalar_decays(decay, dtype):
    """(between, since, to_end) from log decays (..., C), one number per token. All factors are at most 1.

    between: (..., C, C), exp(b_i - b_j), 0 for j > i.  since: (..., C, 1), exp(b_i), the token's own decay included.
    to_end: (..., C, 1), exp(b_C - b_j), from after the token to the chunk's end.
    """
    to_end = F.pad(decay[..., 1:], (0, 1)).to(dtype).flip(-1).cumsum(-1).flip(-1)
    return _Between.apply(decay, dtype), decay.to(dtype).cumsum(-1)[..., None].exp(), to_end[..., None].exp()


class _Between(torch.autograd.Function):
    """exp(sum of the log decays from j + 1 to i), (..., C, C), 0 for j > i.

    This is a difference of two sums, so the sums are float64: a decay of 1e-4 after decays that sum to -1e4 keeps its
    digits. The gradient leaves out the diagonal, which is 1 for any decay. Its part cancels in exact arithmetic only,
    and its rounding errors would be larger than the rest where decays are strong.
    """

    @staticmethod
    def forward(ctx, decay, dtype):
        b = decay.double().cumsum(-1)
        between = (b[..., :, None] - b[..., None, :]).to(dtype)
        between.exp_().tril_()  # above the diagonal exp may overflow; tril_ overwrites it
        ctx.save_for_backward(between)
        ctx.dtype = decay.dtype
        return between

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        (between,) = ctx.saved_tensors
        pairs = (gradient * between).tril_(-1)  # (..., i, j): each decay from j + 1 to i gets it
        return (pairs.sum(-1) - pairs.sum(-2)).flip(-1).cumsum(-1).flip(-1).to(ctx.dtype), None


def carry(keep, writes, state):
    """The states at the start of each chunk (B, H, N, K, V), and the last one: S_{n+1} = keep_n * S_n + writes_n.

    keep None stands for 1.
    """
    states = []
    keeps = [None] * writes.shape[2] if keep is None else keep.expand(-1, -1, writes.shape[2], -1, -1).unbind(2)
    for factor, write in zip(keeps, writes.unbind(2), strict=True):
        states.append(state)
        state = state + write if factor is None else torch.addcmul(write, factor, state)
    return torch.stack(states, dim=2), state


def _vector_scores(q, k, decay):
    """Scores under one decay per key channel: (scores, log since, log to_end).

    scores: (..., C, C), q_i . exp(sum of decay from j + 1 to i) k_j for j <= i, else 0.  log since, log to_end:
    (..., C, K), the sums of decay from the chunk's start up to a token, and from after it to the chunk's end.
    Blocks of h tokens are joined in pairs: h = 1, 2, 4, ..., C / 2.
    """
    C = q.shape[-2]
    scores = (q * k).sum(-1)[..., None, None]  # (..., C blocks, 1, 1)
    # Sums from the block's start up to a token, and from after it to the block's end.
    since, rest = decay, torch.zeros_like(decay)
    h = 1
    while h < C:
        (since1, since2), (rest1, rest2) = (x.unflatten(-2, (-1, 2, h)).unbind(-3) for x in (since, rest))
        before, after = (x.unflatten(-2, (-1, 2, h))[..., half, :, :] for x, half in ((k, 0), (q, 1)))
        across = (after * since2.exp()) @ (before * rest1.exp()).mT  # (..., blocks of 2h, h, h)
        first, second = scores.unflatten(-3, (-1, 2)).unbind(-3)
        scores = torch.cat([torch.cat([first, torch.zeros_like(first)], -1), torch.cat([across, second], -1)], -2)
        rest = torch.cat([rest1 + since2[..., -1:, :], rest2], -2).flatten(-3, -2)
        since = torch.cat([since1, since2 + since1[..., -1:, :]], -2).flatten(-3, -2)
        h *= 2
    return scores.squeeze(-3), since, rest
