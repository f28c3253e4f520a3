"""Linear attention in torch: chunks of C tokens as matrix products, and one recurrence of states from chunk to chunk.

README.md derives this form step by step. b_i is the sum of the log decays from the chunk's start up to token i:

    o_i   = sum_{j <= i} (q_i . exp(b_i - b_j) k_j) v_j + exp(b_i) q_i S_start        times scale
    S_end = exp(b_C) S_start + sum_j exp(b_C - b_j) k_j v_j^T

`_Chunks` computes it where a head has at most one decay per token, which is a factor of the score q_i . k_j. Where each
key channel has its own decay, `_vector_scores` splits the chunk into halves (Yang et al. 2023, arXiv:2312.06635,
section 4, take blocks of a fixed size instead).

In the names below, `between` is exp(b_i - b_j), `since` is exp(b_i) (since the chunk's start), and `to_end` is
exp(b_C - b_j) (from after token j to the chunk's end). N is the number of chunks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from src.ops.linear_attention.heads import apart, beside, per_head
from src.ops.precision import accumulation_dtype, no_autocast

CHUNK = 32  # the fastest of 16, 32, 64, 128, see README.md
# Numbers of q or v that a CPU takes at once: 2 MB, so that the next operation finds them in the cache, and memory is
# used again.
SEGMENT = 2**19


def run(q, k, v, decay, state, scale):
    """Compute (o, state) on any device. The arguments are those of `linear_attention`, already checked."""
    dtype, out_dtype = accumulation_dtype(q, k, v, decay, state), v.dtype
    segment = _segment
    if decay is not None and decay.dim() == 4:
        segment, q, k = _vector_segment, per_head(q, v), per_head(k, v)
        state = start(q, v, state, dtype)
    elif state is not None:
        state = state.to(dtype)
    o, state = in_segments(lambda *tensors: segment(*tensors, scale, dtype), (q, k, v, decay), state)
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
    (B, T, G, K), (H, V) = tensors[0].shape, tensors[2].shape[2:]
    size = max(SEGMENT // (B * max(G * K, H * V) * CHUNK), 1) * CHUNK if tensors[0].device.type == "cpu" else T
    if T <= size:
        return compute(*tensors, state)
    parts = [x.split(size, dim=1) if x is not None and x.dim() > 1 else [x] * -(-T // size) for x in tensors]
    outputs = []
    for part in zip(*parts, strict=True):
        o, state = compute(*part, state)
        outputs.append(o)
    return torch.cat(outputs, dim=1), state


def _vector_segment(q, k, v, decay, state, scale, dtype):
    T = q.shape[1]
    C = chunk_size(T, CHUNK)
    q, k, v, decay = (chunks(x.to(dtype), C) for x in (q, k, v, decay))
    scores, since, to_end = _vector_scores(q, k, decay)
    before, state = carry(since[..., -1, :, None].exp(), (k * to_end.exp()).mT @ v, state)
    return unchunk(scores @ v + (q * since.exp()) @ before, T, scale), state


def _segment(q, k, v, decay, state, scale, dtype):
    T, H = v.shape[1:3]
    C = -(-T // max(round(T / CHUNK), 1))  # near CHUNK, so that no token or few are filled up
    q, k, v = (chunks(x.to(dtype), C) for x in (q, k, v))
    fixed = decay is not None and decay.dim() == 1
    if decay is not None:
        decay = decay.expand(1, T, H) if fixed else decay
        decay = chunks(decay[..., None].to(dtype), C)[..., 0]  # (1 or B, H, N, C)
    o, state = _Chunks.apply(q, k, v, decay, state, fixed)
    return unchunk(o, T, scale), state


class _Chunks(torch.autograd.Function):
    """The chunked form for at most one decay per head and token.

    The backward pass is written out, because autograd would store and read four times as much. The heads of a group
    share queries and keys. A product with those is made once per group, with the values of its heads side by side (see
    `beside`). That is why decays scale values and outputs here, never queries and keys.

    q, k: (B, G, N, C, K).  v: (B, H, N, C, V), H a multiple of G.  decay: None or (1 or B, H, N, C).
    state: (B, H, K, V), or None for zeros.  fixed: all tokens have the same decay.
    """

    @staticmethod
    def forward(ctx, q, k, v, decay, state, fixed):
        ctx.set_materialize_grads(False)
        G, H = q.shape[1], v.shape[1]
        factors = () if decay is None else _factors(decay, fixed)
        scores = _decayed(_product(q, k.mT), factors, H)
        writes = _product(k.mT, beside(_scaled(v, factors, 2), G))
        before = read = None
        if state is None and q.shape[2] == 1:  # the only chunk, and nothing was written before it
            state = writes[:, :, 0]
        else:
            state = None if state is None else beside(state, G)
            before, state = _carried(writes, state, _kept(factors, v, G), range(q.shape[2]))
            read = _scaled(apart(_product(q, before), H), factors, 1)
        o, read = _product(scores, v, read, ctx.needs_input_grad[3]), read if ctx.needs_input_grad[3] else None
        ctx.save_for_backward(q, k, v, decay, scores, before, read, *factors)
        return o, apart(state, H)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, do, dstate):
        with no_autocast(ctx.saved_tensors[0]):  # a backward pass called under autocast would round the operands
            return _Chunks.gradients(ctx, do, dstate)

    @staticmethod
    def gradients(ctx, do, dstate):
        q, k, v, decay, scores, before, read, *factors = ctx.saved_tensors
        G, H, N = q.shape[1], v.shape[1], q.shape[2]
        do = torch.zeros_like(v) if do is None else do.contiguous()
        dstate = None if dstate is None else beside(dstate, G)
        dscores, of_decay = _product(do, v.mT), ctx.needs_input_grad[3]
        dq = dk = ddecay = written = None
        after = None if dstate is None else dstate[:, :, None]  # the gradient of the state after each chunk
        if before is not None:
            reads = beside(_scaled(do, factors, 1), G)
            dq = _product(reads, before.mT)
            after, dstate = _carried(_product(q.mT, reads), dstate, _kept(factors, v, G), range(N - 1, -1, -1))
        if after is not None:
            written = _scaled(apart(_product(k, after), H), factors, 2)
            dk = _product(beside(_scaled(v, factors, 2), G), after.mT)
        dv = _product(scores.mT, do, written, of_decay)
        if of_decay:
            kept = None
            if before is not None:
                kept = factors[1][..., -1, 0] * apart((after * before).sum(-2, keepdim=True), H).sum((-2, -1))
            ddecay = _decay_gradient(decay, dscores * scores, _dot(do, read), _dot(v, written), kept)
        dscores = _decayed(dscores, factors).unflatten(1, (G, -1)).sum(2)
        dq, dk = _product(dscores, k, plus=dq), _product(dscores.mT, q, plus=dk)
        return dq, dk, dv, ddecay, apart(dstate, H) if ctx.needs_input_grad[4] else None, None


def _carried(steps, x, kept, order):
    """Compute x = kept_n x + steps_n for the chunks n in this order, from x (None: zeros) on.

    steps: (B, G, N, K, R V); in its place the x before each step.  kept: None for 1, or (1 or B, G, N, 1, R V).
    Returns (the x before each step, the last x).
    """
    x = torch.zeros_like(steps[:, :, 0]) if x is None else x
    for n in order:
        step = steps[:, :, n]
        after = step + x if kept is None else torch.addcmul(step, kept[:, :, n], x)
        step.copy_(x)
        x = after
    return steps, x


def _kept(factors, v, groups: int):
    """How much a chunk keeps of the state before it, (1 or B, G, N, 1, R V); None where it keeps all."""
    return beside(factors[1][..., -1:, :].expand(-1, -1, -1, -1, v.shape[-1]), groups) if factors else None


def _product(a, b, plus=None, keep: bool = False):
    """a @ b + plus over all chunks. `plus` is overwritten unless it is to be kept."""
    shape, a, b = a.shape[:3], a.flatten(0, 2), b.flatten(0, 2)
    if plus is None:
        result = torch.bmm(a, b)
    else:
        result = (plus.clone() if keep else plus).flatten(0, 2).baddbmm_(a, b)
    return result.unflatten(0, shape)


def _scaled(x, factors, which: int):
    return x if not factors else x * factors[which]


def _dot(a, b):
    """The sums over channels of a * b, or None where b is."""
    return None if b is None else (a * b).sum(-1)


def _decayed(scores, factors, heads: int = 0):
    """Scores of queries and keys, times the decay between their two tokens; 0 where the key comes after the query.

    scores: (B, H, N, C, C), overwritten; or (B, G, N, C, C), from which those of all `heads` are made.
    """
    if heads > scores.shape[1]:
        scores = scores.repeat_interleave(heads // scores.shape[1], dim=1)
    return scores.mul_(factors[0]) if factors else scores.tril_()


def _factors(decay, fixed: bool):
    """(between, since, to_end), see `scalar_decays`. With a fixed decay `between` is alike in all chunks: one copy."""
    between, since, to_end = scalar_decays(decay, decay.dtype)
    return (between[:, :, :1] if fixed else between), since, to_end


def _decay_gradient(decay, pairs, since, to_end, keep):
    """The gradient of the log decays, from gradients times values of what exp(sum of decays) scales.

    pairs: (B, H, N, C, C), scores; the decays j + 1 to i act on pair (i, j).  since: (B, H, N, C), what is read of
    earlier chunks; the decays up to i.  to_end: (B, H, N, C), what later chunks read; the decays after j.
    keep: (B, H, N), the state; all decays of the chunk. The last three are None where no other chunk takes part.
    """
    pairs = pairs.tril_(-1)
    up_to = pairs.sum(-1) - pairs.sum(-2)
    if since is not None:
        up_to += since
    total = up_to.flip(-1).cumsum(-1).flip(-1)
    if to_end is not None:
        total += F.pad(to_end.cumsum(-1)[..., :-1], (1, 0))
    if keep is not None:
        total += keep[..., None]
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
