"""Causal attention: each backend against the float64 reference, windows, and the choice between backends.

python -m pytest tests/ops/test_attention.py            (-m gpu for FlashAttention)
"""

import functools

import pytest
import torch
from op_checks import LENGTHS, distances, gpu, kept_bytes, with_gradients

from src.ops import backends
from src.ops.attention import COMPUTE, attention, choose_backend
from src.ops.attention.reference import attention_reference

SHAPES = [(t, t) for t in LENGTHS] + [(1, 7), (1, 64), (1, 257), (5, 64), (64, 65), (7, 257)]  # (queries, keys)
# A window of all keys takes the same path as none (test_window_of_all_keys_...), so only shorter ones are listed.
WINDOWS = [(shape, window) for shape in SHAPES for window in (1, 5, 64) if window < shape[1]]


def inputs(queries, keys, dtype=torch.float32, heads=2, size=8, scale=1.0):
    """[q, k, v] with batch 2, and a gradient for the output."""
    g = torch.Generator().manual_seed(1000 * queries + keys)
    q, k, v, out = (scale * torch.randn(2, heads, n, size, generator=g) for n in (queries, keys, keys, queries))
    return [t.to(dtype).requires_grad_() for t in (q, k, v)], out.to(dtype)


def some_bias(shape):
    return -torch.rand(2, *shape, generator=torch.Generator().manual_seed(3)) * 4


@functools.cache
def expected(shape, window, bias):
    """The reference's output and gradients for `inputs`, computed once for all backends."""
    tensors, g = inputs(*shape)
    b = some_bias(shape) if bias else None
    return with_gradients(lambda q, k, v: [attention_reference(q, k, v, b, window)], tensors, [g])


def agrees(backend, shape, window, bias):
    """Compare a backend with the reference: float32 sums of up to 257 terms of order 1, so 2e-5 absolute."""
    tensors, g = inputs(*shape)
    b = some_bias(shape) if bias else None
    got = with_gradients(lambda q, k, v: [attention(q, k, v, bias=b, window=window, backend=backend)], tensors, [g])
    for one, other in zip(got, expected(shape, window, bias), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"S{s[0]}-T{s[1]}")
@pytest.mark.parametrize("backend", COMPUTE)
def test_outputs_and_gradients_agree_with_the_reference(backend, shape, bias):
    agrees(backend, shape, 0, bias)


def with_shared_keys(kv_heads, shape, window, bias, backend):
    """(output and gradients of a backend, of the reference) for 4 heads of queries over `kv_heads` of keys."""
    (q, _, _), g = inputs(*shape, heads=4)
    (_, k, v), _ = inputs(*shape, heads=kv_heads)
    b = torch.cat(2 * [some_bias(shape)]) if bias else None
    got = with_gradients(lambda q, k, v: [attention(q, k, v, bias=b, window=window, backend=backend)], [q, k, v], [g])
    return got, with_gradients(lambda q, k, v: [attention_reference(q, k, v, b, window)], [q, k, v], [g])


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize(("shape", "window"), [((65, 65), 0), ((1, 64), 0), ((5, 64), 0), ((65, 65), 5), ((1, 64), 9)])
@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("backend", COMPUTE)
def test_shared_keys_agree_with_the_reference(backend, kv_heads, shape, window, bias):
    for one, other in zip(*with_shared_keys(kv_heads, shape, window, bias, backend), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=2e-5)


def test_reference_repeats_the_keys_of_neighbouring_heads():
    """Heads 0 and 1 read keys 0, heads 2 and 3 keys 1. Every second head instead is another function."""
    (q, _, _), _ = inputs(7, 7, heads=4)
    (_, k, v), _ = inputs(7, 7, heads=2)
    got = attention_reference(q, k, v)
    torch.testing.assert_close(got, attention_reference(q, k[:, [0, 0, 1, 1]], v[:, [0, 0, 1, 1]]))
    assert (got - attention_reference(q, k[:, [0, 1, 0, 1]], v[:, [0, 1, 0, 1]])).abs().max() > 1e-2


def test_shared_keys_are_not_copied_for_one_query():
    """Decoding reads the cache where it is: what a step allocates does not grow with the keys."""
    (q, _, _), _ = inputs(1, 1, heads=4)
    k = torch.randn(2, 1, 512, 8)
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as seen:
        attention(q, k, k)
    assert max(event.self_cpu_memory_usage for event in seen.key_averages()) < k.numel() * 4 / 2


def test_reference_is_a_masked_softmax():
    """The loops against one line of matrices, so that the definition is not only compared with itself."""
    (q, k, v), _ = inputs(5, 9, torch.float64)
    scores = (q @ k.transpose(2, 3)) / 8**0.5
    later = torch.arange(9) > torch.arange(4, 9)[:, None]
    want = scores.masked_fill(later, -torch.inf).softmax(-1) @ v
    torch.testing.assert_close(attention_reference(q, k, v), want)


def test_comparison_with_the_reference_sees_a_mask_that_is_off_by_one():
    (q, k, v), _ = inputs(7, 7)
    later = torch.ones(7, 7).triu(2) > 0  # sees one key too many
    leaky = (q @ k.transpose(2, 3) / 8**0.5).masked_fill(later, -torch.inf).softmax(-1) @ v
    assert (leaky.double() - attention_reference(q, k, v)).abs().max() > 1e-2


@pytest.mark.parametrize("keys", [64, 1024])
@pytest.mark.parametrize("backend", COMPUTE)
def test_large_scores_keep_their_precision_under_bf16_autocast(backend, keys):
    """Scores of up to 60, rounded to bf16, would have errors of up to 1/8.

    The rounding of weights and of the output remains, at most a quarter of that error. 64 and 1,024 keys are the two
    sides of the switch to torch's bf16 kernel.
    """
    (q, k, v), _ = inputs(64, keys, torch.bfloat16, scale=3.0)
    want = attention_reference(q, k, v).detach()
    later = torch.ones(64, keys).triu(keys - 63) > 0
    with torch.no_grad():
        rounded = (q @ k.transpose(2, 3) / 8**0.5).float().masked_fill(later, -torch.inf).softmax(-1).bfloat16() @ v
        with torch.autocast("cpu", torch.bfloat16):
            got = attention(q, k, v, backend=backend)
    assert got.dtype == torch.bfloat16
    assert (got.double() - want).norm() < 0.25 * (rounded.double() - want).norm()


@pytest.mark.parametrize("backend", COMPUTE)
def test_dropout_acts_in_training_only_and_keeps_the_mean(backend):
    (q, k, _), _ = inputs(64, 64)
    v = torch.ones(2, 2, 64, 8)
    torch.manual_seed(0)
    dropped = attention(q, k, v, dropout_p=0.5, backend=backend)
    assert dropped.std() > 0.05
    # 256 rows, each the sum of up to 64 weights: 0.05 is more than three standard errors.
    assert abs(dropped.mean().item() - 1) < 0.05
    torch.testing.assert_close(attention(q, k, v, dropout_p=0.5, training=False, backend=backend), v)


def test_every_backend_has_a_function():
    assert {*COMPUTE, "flash_attn"} == set(backends.OPS["attention"])


def test_wrong_shapes_and_unknown_backend_are_value_errors():
    (q, k, v), _ = inputs(3, 5)
    with pytest.raises(ValueError, match="0 < S <= T"):
        attention(k, q, q)
    with pytest.raises(ValueError, match="allowed: q"):
        attention(q, k, v[:, :, :4])
    with pytest.raises(ValueError, match="H_kv a divisor of H"):
        attention(q, *(torch.cat([x, x[:, :1]], dim=1) for x in (k, v)))
    with pytest.raises(ValueError, match="allowed: auto, flash_attn, sdpa, explicit"):
        attention(q, k, v, backend="flash")


def test_choice_has_a_reason_and_follows_device_and_dropout():
    assert choose_backend("cpu", 64)[0] == "sdpa"
    assert choose_backend("cpu", 64, dropout_p=0.1)[0] == "explicit"
    assert choose_backend("cuda", 64, dropout_p=0.1)[0] == "sdpa"
    assert all(len(choose_backend(d, 64, dropout_p=p)[1]) > 20 for d in ("cpu", "cuda") for p in (0, 0.1))


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize(("shape", "window"), WINDOWS, ids=[f"S{s}-T{t}-W{w}" for (s, t), w in WINDOWS])
@pytest.mark.parametrize("backend", COMPUTE)
def test_window_agrees_with_the_reference(backend, shape, window, bias):
    """Each path: one query, blocks of a window (257 keys, windows 5 and 64), one mask."""
    agrees(backend, shape, window, bias)


def test_window_of_all_keys_is_plain_attention_and_a_shorter_one_is_not():
    (q, k, v), _ = inputs(9, 9)
    torch.testing.assert_close(attention(q, k, v, window=9), attention(q, k, v))
    assert (attention(q, k, v, window=8) - attention(q, k, v)).abs().max() > 1e-3
    with pytest.raises(ValueError, match="window: got -1"):
        attention(q, k, v, window=-1)


def test_memory_of_a_short_window_grows_with_the_window_not_with_the_square_of_the_length():
    def kept(T, window):
        (q, k, v), _ = inputs(T, T)
        return kept_bytes(lambda: attention(q, k, v, window=window, backend="explicit"))

    assert kept(512, 16) < 2.3 * kept(256, 16)
    assert kept(512, 512) > 3.3 * kept(256, 256)  # without a window it does: the measurement can tell


def test_flash_attn_refuses_what_its_kernels_cannot_do():
    (q, k, v), _ = inputs(4, 4, torch.bfloat16)
    with pytest.raises(RuntimeError, match="needs fp16 or bf16 on a CUDA device"):
        attention(q, k, v, backend="flash_attn")


@pytest.mark.parametrize("window", [0, 5])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"S{s[0]}-T{s[1]}")
@pytest.mark.parametrize("backend", [pytest.param("flash_attn", marks=gpu("flash_attn"))])
def test_flash_attn_is_as_near_to_the_reference_as_plain_bf16(backend, shape, window):
    """Its error is at most twice that of explicit products with float32 scores and bf16 inputs."""
    tensors, g = inputs(*shape, torch.bfloat16)
    want = with_gradients(lambda q, k, v: [attention_reference(q, k, v, None, window)], tensors, [g])
    on_device = [t.detach().cuda().requires_grad_() for t in tensors]

    def errors(backend):
        got = with_gradients(
            lambda q, k, v: [attention(q, k, v, window=window, backend=backend)], on_device, [g.cuda()]
        )
        return distances([t.cpu() for t in got], want)

    assert all(e <= 2 * plain + 1e-3 for e, plain in zip(errors(backend), errors("explicit"), strict=True))
