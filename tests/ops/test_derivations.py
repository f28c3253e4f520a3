"""The derivations in the READMEs of the ops: each formula, evaluated as it is written there, against the reference.

python -m pytest tests/ops/test_derivations.py
"""

import pytest
import torch

from src.ops.delta_rule.reference import delta_rule_reference
from src.ops.linear_attention.reference import linear_attention_reference
from src.ops.selective_scan.reference import selective_scan_reference

C, K, V, SCALE = 9, 4, 3, 0.7  # one chunk, one head


@pytest.fixture
def chunk():
    """q, k, v, decay, beta, S_start of one chunk, in float64; keys have unit norm."""
    g = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=g, dtype=torch.float64)

    k = draw(C, K)
    return draw(C, K), k / k.norm(dim=-1, keepdim=True), draw(C, V), -draw(C).abs(), 2 * draw(C).sigmoid(), draw(K, V)


def cumulative(decay):
    """between (C, C), since and to_end (C, 1) from step 2 of src/ops/linear_attention/README.md."""
    b = decay.cumsum(0)
    return (b[:, None] - b[None]).exp().tril(), b.exp()[:, None], (b[-1] - b).exp()[:, None]


def batched(*tensors):
    """(C, ...) -> (1, C, 1, ...), as the references take them."""
    return [t[None, :, None] for t in tensors]


def test_linear_attention_steps_3_and_4(chunk):
    q, k, v, decay, _, S_start = chunk
    between, since, to_end = cumulative(decay)
    scores, writes, read = (q @ k.T) * between, k.T @ (to_end * v), since * (q @ S_start)
    o, S_end = linear_attention_reference(*batched(q, k, v, decay), S_start[None, None], SCALE)
    torch.testing.assert_close(SCALE * (scores @ v + read), o[0, :, 0])
    torch.testing.assert_close(since[-1] * S_start + writes, S_end[0, 0])


def test_linear_attention_step_6(chunk):
    q, k, v, decay, _, S_start = chunk
    do, dS_end = v.flip(0), S_start.flip(0)
    leaves = [t.clone().requires_grad_() for t in (q, k, v, decay, S_start)]
    o, S_end = linear_attention_reference(*batched(*leaves[:4]), leaves[4][None, None], SCALE)
    want = torch.autograd.grad((o, S_end), leaves, (do[None, :, None], dS_end[None, None]))
    do = SCALE * do
    between, since, to_end = cumulative(decay)
    scores, dscores = (q @ k.T) * between, do @ v.T
    read, written = since * (q @ S_start), to_end * (k @ dS_end)
    dq = (dscores * between) @ k + (since * do) @ S_start.T
    dk = (dscores * between).T @ q + (to_end * v) @ dS_end.T
    dv = scores.T @ do + written
    dS_start = since[-1] * dS_end + q.T @ (since * do)
    ddecay = torch.stack([
        (dscores * scores)[n:, :n].sum() + (do * read)[n:].sum() + (v * written)[:n].sum()
        + since[-1, 0] * (S_start * dS_end).sum()
        for n in range(C)
    ])  # fmt: skip
    for got, expected in zip((dq, dk, dv, ddecay, dS_start), want, strict=True):
        torch.testing.assert_close(got, expected)


def test_delta_rule_steps_3_to_6(chunk):
    q, k, v, decay, beta, S_start = chunk
    between, since, to_end = cumulative(decay)
    q_in, k_in, k_out, scores = q * since, k * since, k * to_end, (q @ k.T) * between
    A = (beta[:, None] * ((k @ k.T) * between)).tril(-1)
    inverse = torch.linalg.inv(torch.eye(C) + A)
    U, W = inverse @ (beta[:, None] * v), inverse @ (beta[:, None] * k_in)
    o, S_end = delta_rule_reference(*batched(q, k, v, beta, decay), S_start[None, None], SCALE)
    torch.testing.assert_close(SCALE * (q_in @ S_start + scores @ (U - W @ S_start)), o[0, :, 0])
    transition, write = since[-1] * torch.eye(K) - k_out.T @ W, k_out.T @ U
    torch.testing.assert_close(transition @ S_start + write, S_end[0, 0])


def test_delta_rule_step_4_the_product_of_reflections_is_the_wy_form(chunk):
    _, k, _, _, beta, _ = chunk
    W = torch.linalg.inv(torch.eye(C) + (beta[:, None] * (k @ k.T)).tril(-1)) @ (beta[:, None] * k)
    product = torch.eye(K, dtype=torch.float64)
    for j in range(C):
        product = (torch.eye(K) - beta[j] * k[j, :, None] * k[j]) @ product
    torch.testing.assert_close(torch.eye(K) - k.T @ W, product)


def test_selective_scan_steps_2_to_6(chunk):
    """Two channels with three states each: the border state's share is P_t = exp(A (delta_1 + ... + delta_t))."""
    q, k, v, decay, beta, S_start = chunk
    u, delta, A, D = q[:, :2], beta[:, None] * k[:, :2].abs(), -S_start[:2].abs(), decay[:2]
    B, C_t, border = v, v.flip(0), S_start[2:]
    h, local = torch.zeros(2, V), []
    for t in range(C):
        h = (delta[t, :, None] * A).exp() * h + (delta[t] * u[t])[:, None] * B[t]
        local.append(h)
    P = (delta.cumsum(0)[..., None] * A).exp()
    states = torch.stack(local) + P * border
    y, last = selective_scan_reference(*(t[None] for t in (u, delta)), A, B[None], C_t[None], D, border[None])
    torch.testing.assert_close(states[-1], last[0])
    torch.testing.assert_close((states * C_t[:, None]).sum(-1) + D * u, y[0])


def test_attention_step_2_the_softmax_over_blocks_of_keys():
    g = torch.Generator().manual_seed(0)
    scores, v = (torch.randn(shape, generator=g, dtype=torch.float64) for shape in ((12,), (12, 3)))
    m, total, o = torch.tensor(-torch.inf), 0.0, torch.zeros(3)
    for s, values in zip(scores.split(4), v.split(4), strict=True):
        m_new = torch.maximum(m, s.max())
        total = (m - m_new).exp() * total + (s - m_new).exp().sum()
        o = (m - m_new).exp() * o + (s - m_new).exp() @ values
        m = m_new
    torch.testing.assert_close(o / total, scores.softmax(0) @ v)
