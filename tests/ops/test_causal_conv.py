"""The causal convolution: each backend against the float64 loop; state, memory, adapter, and the choice.

python -m pytest tests/ops/test_causal_conv.py            (-m gpu for the published kernel)
"""

import functools
import importlib.util
import sys
import types

import pytest
import torch
import torch.nn.functional as F
from op_checks import (
    CPU_BACKENDS,
    LENGTHS,
    distance,
    gpu,
    kept_bytes,
    numba_only,
    on_thread_counts,
    same_bytes,
    with_gradients,
)

from src.ops.causal_conv import automatic, causal_conv, causal_conv1d, causal_conv_step
from src.ops.causal_conv.reference import causal_conv_reference

WIDTHS = (1, 2, 4, 5)


def inputs(T, K, dtype=torch.float32, batch=2, D=7):
    """x, weight, bias and state, and gradients for y and for the last state."""
    g = torch.Generator().manual_seed(100 * T + K)
    shapes = ((batch, T, D), (D, K), (D,), (batch, K - 1, D), (batch, T, D), (batch, K - 1, D))
    x, weight, bias, state, *out = (torch.randn(shape, generator=g, dtype=torch.float64).to(dtype) for shape in shapes)
    return [t.requires_grad_() for t in (x, weight, bias, state)], out


@functools.cache
def expected(T, K, activation):
    """The reference's results for `inputs`, computed once for all backends."""
    return with_gradients(lambda *t: causal_conv_reference(*t, activation), *inputs(T, K))


@pytest.mark.parametrize("activation", [None, "silu"], ids=["plain", "silu"])
@pytest.mark.parametrize("K", WIDTHS, ids=lambda k: f"K{k}")
@pytest.mark.parametrize("T", LENGTHS, ids=lambda t: f"T{t}")
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_outputs_gradients_and_state_agree_with_the_reference(backend, T, K, activation):
    got = with_gradients(lambda *t: causal_conv(*t, activation, backend), *inputs(T, K))
    assert distance(got, expected(T, K, activation)) <= 1e-4


@pytest.mark.parametrize("K", WIDTHS, ids=lambda k: f"K{k}")
@pytest.mark.parametrize("T", [1, 7, 65], ids=lambda t: f"T{t}")
def test_float64_agrees_to_nine_digits(T, K):
    tensors, out = inputs(T, K, torch.float64)
    got = with_gradients(lambda *t: causal_conv(*t, "silu"), tensors, out)
    assert distance(got, with_gradients(lambda *t: causal_conv_reference(*t, "silu"), tensors, out)) <= 1e-9


@pytest.mark.parametrize("layout", ["slice of a wider tensor", "channels before time"])
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_other_layouts_in_memory_and_missing_bias_and_state_agree_too(backend, layout):
    (x, weight, *_), out = inputs(9, 4)
    if layout == "slice of a wider tensor":
        x = torch.cat([torch.ones(2, 9, 3), x, torch.ones(2, 9, 5)], dim=2)[..., 3:10]
    else:
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    x = x.detach().requires_grad_()
    got = with_gradients(lambda x, w: causal_conv(x, w, None, None, "silu", backend), [x, weight], out)
    want = with_gradients(lambda x, w: causal_conv_reference(x, w, None, None, "silu"), [x, weight], out)
    assert distance(got, want) <= 1e-4


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_bf16_inputs_cost_at_most_twice_their_own_rounding(backend):
    """Against exact sums of the rounded x, rounded once. Parameters and state stay float32."""
    exact, out = inputs(65, 4, torch.float64)
    x = exact[0].detach().bfloat16().requires_grad_()
    tensors = [x, *(t.detach().float().requires_grad_() for t in exact[1:])]
    want = with_gradients(lambda *t: causal_conv_reference(*t, "silu"), exact, out)
    rounded = with_gradients(
        lambda *t: causal_conv_reference(*t, "silu"),
        [x.detach().double().requires_grad_(), *exact[1:]],
        [out[0].bfloat16(), out[1]],
    )
    for i in (0, 2):  # y and the gradient of x
        rounded[i] = rounded[i].bfloat16().double()
    got = with_gradients(lambda *t: causal_conv(*t, "silu", backend), tensors, out)
    for one, limit, true in zip(got, rounded, want, strict=True):
        assert (one - true).abs().max() <= 2 * (limit - true).abs().max() + 1e-5
    y, last = causal_conv(*tensors, "silu", backend)
    assert (y.dtype, last.dtype) == (torch.bfloat16, torch.float32)


def test_reference_is_torch_s_own_convolution():
    (x, weight, bias, _), _ = inputs(9, 4, torch.float64)
    want = F.conv1d(x.transpose(1, 2), weight[:, None], bias, padding=3, groups=7)[..., :9].transpose(1, 2)
    torch.testing.assert_close(causal_conv_reference(x, weight, bias, None, None)[0], want)
    torch.testing.assert_close(causal_conv_reference(x, weight, bias, None, "silu")[0], F.silu(want))


def test_comparison_sees_a_convolution_that_is_late_by_one_token():
    tensors, out = inputs(7, 4)
    late = [tensors[0].roll(1, dims=1).detach().requires_grad_(), *tensors[1:]]
    got, want = (with_gradients(causal_conv_reference, given, out) for given in (late, tensors))
    assert distance(got, want) > 1e-2


@pytest.mark.parametrize("start", ["empty", "given"])
@pytest.mark.parametrize("K", WIDTHS, ids=lambda k: f"K{k}")
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_steps_and_parts_give_what_one_pass_gives(backend, K, start):
    (x, weight, bias, state), _ = inputs(12, K)
    state = state if start == "given" else None
    with torch.no_grad():
        y, last = causal_conv(x, weight, bias, state, "silu", backend)
        parts, s = [], state
        for begin, end in ((0, 1), (1, 3), (3, 12)):
            part, s = causal_conv(x[:, begin:end], weight, bias, s, "silu", backend)
            parts.append(part)
        steps, h = [], state
        for t in range(12):
            one, h = causal_conv_step(x[:, t], weight, bias, h, "silu")
            steps.append(one)
    for got, final in ((torch.cat(parts, 1), s), (torch.stack(steps, 1), h)):
        torch.testing.assert_close(got, y, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(final, last)


def test_state_holds_its_own_rows_and_nothing_else():
    (x, weight, bias, state), _ = inputs(64, 4)
    with torch.no_grad():
        for _, new in (causal_conv(x, weight, bias, state), causal_conv_step(x[:, 0], weight, bias, state)):
            assert new.untyped_storage().nbytes() == 2 * 3 * 7 * 4
    assert causal_conv(x, weight[:, :1], bias)[1].shape == (2, 0, 7)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_kept_for_the_backward_pass_are_x_the_state_and_the_parameters(backend):
    tensors, _ = inputs(64, 4)
    kept = kept_bytes(lambda: causal_conv(*tensors, "silu", backend))
    assert kept == 4 * (2 * 64 * 7 + 7 * 4 + 7 + 2 * 3 * 7)


@numba_only
def test_results_do_not_depend_on_the_number_of_threads():
    tensors, out = inputs(33, 4, batch=5)
    assert same_bytes(
        on_thread_counts(lambda: with_gradients(lambda *t: causal_conv(*t, "silu", "numba"), tensors, out))
    )


def stand_in(x, weight, bias=None, activation=None):
    """What the adapter takes causal_conv1d_fn to be: x (B, D, T), weight (D, K), a zero start.

    tests/oracle/test_adapters.py calls the real one.
    """
    assert x.is_contiguous()
    assert weight.is_contiguous()
    assert activation in (None, "silu", "swish")
    (D, K), bias = weight.shape, None if bias is None else bias.to(x.dtype)
    y = F.conv1d(x, weight.to(x.dtype)[:, None], bias, padding=K - 1, groups=D)[..., : x.shape[2]]
    return F.silu(y) if activation else y


@pytest.mark.parametrize("start", ["empty", "given"])
def test_cuda_adapter_puts_time_last_and_the_state_in_front(monkeypatch, start):
    module = types.ModuleType("causal_conv1d")
    module.causal_conv1d_fn = stand_in
    monkeypatch.setitem(sys.modules, "causal_conv1d", module)
    tensors, (dy, _) = inputs(9, 4)
    tensors = tensors[:3] if start == "empty" else tensors
    given = [*tensors, None][:4]
    results = []
    for y in (causal_conv1d.run(*given, "silu"), causal_conv_reference(*given, "silu")[0]):
        results.append([y, *torch.autograd.grad(y, tensors, dy.to(y.dtype))])
    assert distance(*([t.detach().double() for t in r] for r in results)) <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("backend", [pytest.param("causal_conv1d", marks=gpu("causal_conv1d"))])
def test_published_kernel_agrees_with_the_reference(backend, dtype):
    for K in (2, 3, 4):
        tensors, out = inputs(65, K, D=10)
        want = with_gradients(lambda *t: causal_conv_reference(*t, "silu"), tensors, out)
        there = [
            tensors[0].detach().to("cuda", dtype).requires_grad_(),
            *(t.detach().cuda().requires_grad_() for t in tensors[1:]),
        ]
        got = with_gradients(lambda *t: causal_conv(*t, "silu", backend), there, [g.cuda() for g in out])
        assert distance([t.cpu() for t in got], want) <= (1e-4 if dtype == torch.float32 else 3e-2)


def test_automatic_choice_has_a_reason_and_follows_device_width_and_packages(monkeypatch):
    real, found = importlib.util.find_spec, {"numba": None, "causal_conv1d": object()}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: found[name] if name in found else real(name, *rest)
    )
    assert automatic("cpu") == ("eager", "shifted sums in torch; not installed: numba")
    assert automatic("cuda")[0] == "causal_conv1d"
    assert automatic("cuda", types.SimpleNamespace(d_conv=7)) == ("eager", "causal_conv1d has widths 2 to 4, not 7")
    assert automatic("cuda", types.SimpleNamespace(d_conv=7, short_conv=3))[0] == "causal_conv1d"
    assert automatic("cuda", types.SimpleNamespace(short_conv=1))[0] == "eager"
    (x, weight, *_), _ = inputs(3, 4)
    assert causal_conv(x, weight)[0].grad_fn.name() == "_ShiftedSumsBackward"


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("x", torch.ones(2, 7), "allowed: x"),
        ("x", torch.ones(2, 0, 7), "T >= 1"),
        ("weight", torch.ones(6, 4), "weight .D, K."),
        ("bias", torch.ones(6), "or None"),
        ("state", torch.ones(2, 4, 7), "allowed: .2, 3, 7. or None"),
        ("activation", "relu", "allowed: None, 'silu'"),
    ],
)
def test_wrong_arguments_are_value_errors_that_say_what_is_allowed(name, value, told):
    given = {**dict(zip(("x", "weight", "bias", "state"), inputs(3, 4)[0], strict=True)), name: value}
    with pytest.raises(ValueError, match=told):
        causal_conv(**given)
    with pytest.raises(ValueError, match="one token"):
        causal_conv_step(torch.ones(2, 3, 7), given["weight"])
