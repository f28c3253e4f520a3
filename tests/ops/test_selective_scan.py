"""The selective scan: each backend against the float64 recurrence; state, memory, adapter, and the choice.

python -m pytest tests/ops/test_selective_scan.py            (-m gpu for the published kernel)
"""

import functools
import importlib.util
import sys
import types

import pytest
import torch
from op_checks import (
    CPU_BACKENDS,
    LENGTHS,
    distance,
    distances,
    gpu,
    kept_bytes,
    numba_only,
    on_thread_counts,
    same_bytes,
    with_gradients,
)

from src.ops.selective_scan import automatic, chunked, mamba_ssm, projected_scan, selective_scan_step
from src.ops.selective_scan import selective_scan as scan
from src.ops.selective_scan.reference import selective_scan_reference

DECAYS = {"weak": 0.01, "mixed": 1.0, "strong": 100.0}  # scale of delta A: from nearly 1 to exp(-300)
NAMES = ("u", "delta", "A", "B", "C", "D", "state")
BACKENDS = ["eager side by side", *CPU_BACKENDS]
EAGER = ["eager", "eager side by side"]


def inputs(T, decay="mixed", batch=2, E=10, N=3, dtype=torch.float32, seed=0):
    """u, delta, A, B, C, D and a state, and gradients for y and for the last state."""
    g = torch.Generator().manual_seed(1000 * T + seed)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    scale = DECAYS[decay] ** 0.5
    tensors = [
        draw(batch, T, E),
        scale * draw(batch, T, E).abs(),
        -scale * draw(E, N).abs(),
        draw(batch, T, N),
        draw(batch, T, N),
        draw(E),
        draw(batch, E, N),
    ]
    return [t.requires_grad_() for t in tensors], (draw(batch, T, E), draw(batch, E, N))


@functools.cache
def expected(T, decay, neg_eigen, dtype=torch.float32):
    """The reference's results for `inputs`, computed once for all backends."""
    return with_gradients(lambda *t: selective_scan_reference(*t, neg_eigen), *inputs(T, decay, dtype=dtype))


@pytest.fixture
def backend(request, monkeypatch):
    """A backend's name. "eager side by side" has several segments, and chunks side by side, as on a GPU."""
    if request.param == "eager side by side":
        monkeypatch.setattr(chunked, "STEP_STATES", 1 << 30)
        monkeypatch.setattr(chunked, "SEGMENT_STATES", {"cpu": 1})  # segments of sqrt(T) tokens
        return "eager"
    return request.param


@pytest.mark.parametrize("neg_eigen", [False, True], ids=["plain", "negative"])
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("T", LENGTHS, ids=lambda t: f"T{t}")
@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_outputs_gradients_and_state_agree_with_the_reference(backend, T, decay, neg_eigen):
    got = with_gradients(lambda *t: scan(*t, neg_eigen, backend), *inputs(T, decay))
    want = expected(T, decay, neg_eigen)
    assert distance(got, want) <= 1e-4, distances(got, want)


@pytest.mark.parametrize("neg_eigen", [False, True], ids=["plain", "negative"])
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("T", [1, 65, 257], ids=lambda t: f"T{t}")
@pytest.mark.parametrize("backend", EAGER, indirect=True)
def test_float64_agrees_to_nine_digits(backend, T, decay, neg_eigen):
    got = with_gradients(lambda *t: scan(*t, neg_eigen, backend), *inputs(T, decay, dtype=torch.float64))
    want = expected(T, decay, neg_eigen, torch.float64)
    assert distance(got, want) <= 1e-9, distances(got, want)


@pytest.mark.parametrize(
    "shape", [(1, 64, 16), (3, 70, 5), (2, 1, 1), (1, 130, 17)], ids=lambda s: f"B{s[0]}-E{s[1]}-N{s[2]}"
)
@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_sizes_that_do_not_fill_the_vectors_agree_too(backend, shape):
    batch, E, N = shape
    tensors, out = inputs(33, batch=batch, E=E, N=N)
    got = with_gradients(lambda *t: scan(*t, False, backend), tensors, out)
    want = with_gradients(selective_scan_reference, tensors, out)
    assert distance(got, want) <= 1e-4, distances(got, want)


@numba_only
def test_more_states_than_a_chunk_of_the_backward_pass_holds_agree_too():
    tensors, out = inputs(21, batch=1, E=3, N=300)
    got = with_gradients(lambda *t: scan(*t, False, "numba"), tensors, out)
    want = with_gradients(selective_scan_reference, tensors, out)
    assert distance(got, want) <= 1e-4, distances(got, want)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_bf16_inputs_cost_at_most_twice_their_own_rounding(backend, decay):
    """Against the exact recurrence of the rounded inputs, with its results rounded once."""
    exact, out = inputs(65, decay, dtype=torch.float64)
    tensors = [t.detach().bfloat16().requires_grad_() for t in exact]
    tensors[6] = exact[6].detach().float().requires_grad_()
    want = with_gradients(selective_scan_reference, exact, out)
    rounded = with_gradients(
        selective_scan_reference, [t.detach().double().requires_grad_() for t in tensors], [out[0].bfloat16(), out[1]]
    )
    float32 = (1, 8)  # the last state, and the gradient of the first one
    rounded = [value if i in float32 else value.bfloat16().double() for i, value in enumerate(rounded)]
    got = with_gradients(lambda *t: scan(*t, False, backend), tensors, out)
    limit, error = distances(rounded, want), distances(got, want)
    assert all(e <= 2 * own + 1e-4 for e, own in zip(error, limit, strict=True)), (error, limit)
    y, last = scan(*tensors, False, backend)
    assert (y.dtype, last.dtype) == (torch.bfloat16, torch.float32)


def test_reference_is_the_sum_over_the_past_written_out():
    """y_2 from three inputs and a state, so that the definition is not only compared with itself."""
    (u, delta, A, B, C, D, state), _ = inputs(3, dtype=torch.float64)
    d = delta[..., None]
    h = state * torch.exp(A * d.sum(1))
    for s in range(3):
        h = h + torch.exp(A * d[:, s + 1 :].sum(1)) * (delta[:, s] * u[:, s])[..., None] * B[:, s, None]
    y, last = selective_scan_reference(u, delta, A, B, C, D, state)
    torch.testing.assert_close(last, h)
    torch.testing.assert_close(y[:, 2], (h * C[:, 2, None]).sum(-1) + D * u[:, 2])


def test_negative_transitions_reach_minus_one():
    """A step far above 1 / |A| makes a = -1. The state changes its sign with every token; a = exp(delta A) cannot."""
    E = torch.ones(1, 4, 1)
    y, last = scan(0 * E, 50 * E, -torch.ones(1, 1), E, E, None, torch.ones(1, 1, 1), neg_eigen=True)
    torch.testing.assert_close(y.flatten(), torch.tensor([-1.0, 1.0, -1.0, 1.0]))
    assert last.item() == pytest.approx(1.0)


def test_comparison_sees_a_decay_that_is_late_by_one_token():
    tensors, out = inputs(7)
    late = [tensors[0], tensors[1].roll(1, dims=1).detach().requires_grad_(), *tensors[2:]]
    got, want = (with_gradients(selective_scan_reference, given, out) for given in (late, tensors))
    assert distance(got, want) > 1e-2


@pytest.mark.parametrize("neg_eigen", [False, True], ids=["plain", "negative"])
@pytest.mark.parametrize("start", ["empty", "given"])
@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_steps_and_parts_give_what_one_pass_gives(backend, start, neg_eigen):
    (u, delta, A, B, C, D, state), _ = inputs(65)
    state = state if start == "given" else None
    with torch.no_grad():
        y, last = scan(u, delta, A, B, C, D, state, neg_eigen, backend)
        parts, h = [], state
        for begin, end in ((0, 1), (1, 40), (40, 65)):
            part, h = scan(
                *(t[:, begin:end] for t in (u, delta)), A, *(t[:, begin:end] for t in (B, C)), D, h, neg_eigen, backend
            )
            parts.append(part)
        steps, s = [], state
        for t in range(65):
            one, s = selective_scan_step(u[:, t], delta[:, t], A, B[:, t], C[:, t], D, s, neg_eigen)
            steps.append(one)
    for got, final in ((torch.cat(parts, 1), h), (torch.stack(steps, 1), s)):
        torch.testing.assert_close(got, y, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(final, last, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("neg_eigen", [False, True], ids=["plain", "negative"])
@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_extreme_steps_give_finite_outputs_and_gradients(backend, neg_eigen):
    tensors, out = inputs(65)
    tensors[1] = torch.cat([torch.full((2, 30, 10), 1e4), torch.zeros(2, 35, 10)], dim=1).requires_grad_()
    got = with_gradients(lambda *t: scan(*t, neg_eigen, backend), tensors, out)
    assert all(value.isfinite().all() for value in got)


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_a_rate_that_is_not_a_number_shows_in_the_output(backend):
    """A clamp inside the exponential once could hide a run that has diverged."""
    (u, delta, A, B, C, D, state), _ = inputs(7)
    A = A.detach().clone()
    A[4, 1] = torch.nan
    y, last = scan(u, delta, A, B, C, D, state, False, backend)
    assert y[:, :, 4].isnan().all()
    assert last[:, 4, 1].isnan().all()
    assert y[:, :, :4].isfinite().all()


@numba_only
def test_results_do_not_depend_on_the_number_of_threads():
    tensors, out = inputs(64, batch=5, E=70)
    assert same_bytes(on_thread_counts(lambda: with_gradients(lambda *t: scan(*t, False, "numba"), tensors, out)))


def projections(N, E=10, R=2, seed=5):
    """x_proj, dt_proj, dt_bias, A_log, D."""
    g = torch.Generator().manual_seed(seed)
    shapes = ((R + 2 * N, E), (E, R), (E,), (E, N), (E,))
    return [(0.5 * torch.randn(*shape, generator=g)).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_projected_scan_is_the_scan_of_its_projections(backend):
    """Outputs, state and all gradients, with and without a state."""
    weights = projections(3)
    for state in (None, inputs(33)[0][6]):
        u, out = inputs(33)[0][0], inputs(33)[1]
        leaves = [u, *weights] + ([] if state is None else [state])

        def composed(u, x_proj, dt_proj, dt_bias, A_log, D, state=None):
            step, B, C = (u.double() @ x_proj.double().T).split([2, 3, 3], dim=-1)
            delta = torch.nn.functional.softplus(step @ dt_proj.double().T + dt_bias)
            return selective_scan_reference(u, delta, -A_log.double().exp(), B, C, D, state)

        got = with_gradients(lambda *t: projected_scan(*t, backend=backend), leaves, out)
        assert distance(got, with_gradients(composed, leaves, out)) <= 1e-4


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_bytes_kept_by_the_projected_scan_do_not_grow_with_the_states(backend):
    def kept(N):
        u, weights = inputs(64)[0][0], projections(N)
        return kept_bytes(lambda: projected_scan(u, *weights, backend=backend), weights)

    assert kept(4) == kept(64) == 4 * 2 * 64 * 10  # u alone


def test_measure_of_kept_bytes_sees_the_states_of_an_autograd_loop():
    def kept(N):
        tensors, _ = inputs(16, N=N)
        return kept_bytes(lambda: selective_scan_reference(*tensors))

    assert kept(16) > 3 * kept(4)


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_bf16_autocast_rounds_the_projections_and_nothing_after_them(backend):
    """The two products are in bf16, as in plain torch; delta, states and sums are in float32.

    The weights get their gradients also when autocast has cast them before.
    """
    u, weights = inputs(33)[0][0].detach().bfloat16().requires_grad_(), projections(3)
    with torch.autocast("cpu", torch.bfloat16):
        y, last = projected_scan(u, *weights, backend=backend)
        again = torch.nn.functional.linear(u, weights[0])
        step, B, C = again.split([2, 3, 3], dim=-1)
        raw = torch.nn.functional.linear(step, weights[1])
    delta = torch.nn.functional.softplus(raw.float() + weights[2])
    want, want_last = selective_scan_reference(u, delta, -weights[3].double().exp(), B, C, weights[4])
    assert (y.dtype, last.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(last.double(), want_last, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(y.double(), want, atol=1e-2, rtol=1e-2)  # y is rounded once, to 8 bits
    got = torch.autograd.grad(last.sum(), [u, *weights[:4]], retain_graph=True)
    expected = torch.autograd.grad(want_last.sum(), [u, *weights[:4]], retain_graph=True)
    for one, other in zip(got, expected, strict=True):
        assert (one.double() - other.double()).abs().max() <= 2e-2 * other.abs().max()
    assert torch.autograd.grad(again.float().sum(), weights[0])[0].abs().sum() > 0


def stand_in(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False):
    """What the adapter takes mamba_ssm's selective_scan_fn to be; tests/oracle/test_adapters.py calls the real one.

    u, delta: (B, E, T).  B, C: (B, N, T). The start is zero.
    """
    assert z is None
    assert delta_bias is None
    assert not delta_softplus
    assert all(t.is_contiguous() for t in (u, delta, A, B, C))
    assert B.shape == (u.shape[0], A.shape[1], u.shape[2])
    y, last = selective_scan_reference(
        *(t.transpose(1, 2) for t in (u, delta)), A, *(t.transpose(1, 2) for t in (B, C)), D, dtype=u.dtype
    )
    return (y.transpose(1, 2), last) if return_last_state else y.transpose(1, 2)


@pytest.mark.parametrize("skip", [True, False], ids=["D", "no D"])
def test_cuda_adapter_puts_time_last_and_back(monkeypatch, skip):
    module = types.ModuleType("mamba_ssm.ops.selective_scan_interface")
    module.selective_scan_fn = stand_in
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    (*tensors, _), (dy, _) = inputs(9)
    tensors = tensors if skip else tensors[:5]
    want, last = selective_scan_reference(*tensors)
    gradients = torch.autograd.grad(want, tensors, dy.double())
    plain = [t.detach() for t in tensors] + ([] if skip else [None])
    y, end = mamba_ssm.forward(*plain, None, False)
    torch.testing.assert_close(y.double(), want, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(end.double(), last, atol=1e-5, rtol=1e-5)
    *got, dstate, dbias = mamba_ssm.backward(dy, None, *plain, None, False)
    assert dstate is None
    assert dbias is None
    assert len(got) == 6
    for one, other in zip(got, gradients, strict=False):
        torch.testing.assert_close(one.double(), other.double(), atol=1e-4, rtol=1e-4)
    with pytest.raises(RuntimeError, match="no gradient through the returned state"):
        mamba_ssm.backward(dy, end, *plain, None, False)


def test_published_kernel_refuses_what_it_does_not_have():
    tensors, (dy, _) = inputs(3)
    with pytest.raises(RuntimeError, match="no initial state; take eager"):
        mamba_ssm.forward(*tensors, False)
    with pytest.raises(RuntimeError, match="no neg_eigen"):
        mamba_ssm.backward(dy, None, *tensors[:6], None, True)


@pytest.mark.parametrize("T", [1, 65, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", [pytest.param("mamba_ssm", marks=gpu("mamba_ssm"))])
def test_published_kernel_agrees_with_the_reference(name, dtype, T):
    (*tensors, _), (dy, _) = inputs(T, E=64, N=16)
    want, last = selective_scan_reference(*tensors)
    gradients = torch.autograd.grad(want, tensors, dy.double())
    there = [t.detach().to("cuda", dtype).requires_grad_() for t in tensors]
    y, end = scan(*there, backend=name)
    got = torch.autograd.grad(y, there, dy.to("cuda", dtype))
    limit = 1e-4 if dtype == torch.float32 else 3e-2
    for one, other in zip((y, end, *got), (want, last, *gradients), strict=True):
        assert (one.double().cpu() - other).abs().max() <= limit * other.abs().max()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("neg_eigen", [False, True], ids=["plain", "negative"])
def test_eager_on_a_gpu_agrees_with_the_reference(neg_eigen):
    tensors, out = inputs(257)
    want = with_gradients(lambda *t: selective_scan_reference(*t, neg_eigen), tensors, out)
    there = [t.detach().cuda().requires_grad_() for t in tensors]
    got = with_gradients(lambda *t: scan(*t, neg_eigen, "eager"), there, [g.cuda() for g in out])
    assert distance([t.cpu() for t in got], want) <= 1e-4


def hide(monkeypatch, *names):
    """Let find_spec find none of these packages."""
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in names else real(name, *rest))


def test_automatic_choice_has_a_reason_and_follows_what_is_installed(monkeypatch):
    hide(monkeypatch, "numba", "mamba_ssm")
    name, reason = automatic("cpu")
    assert name == "eager"
    assert "not installed: numba" in reason
    assert automatic("cuda")[0] == "eager"
    assert "not installed: mamba_ssm" in automatic("cuda")[1]
    tensors, _ = inputs(7)
    monkeypatch.setattr(chunked, "forward", lambda *given: pytest.fail("reached"))  # what "auto" takes without numba
    with pytest.raises(pytest.fail.Exception, match="reached"):
        scan(*tensors)


def test_automatic_choice_on_cuda_leaves_negative_transitions_to_torch(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: object() if name == "mamba_ssm" else real(name, *rest)
    )
    assert automatic("cuda")[0] == "mamba_ssm"
    assert automatic("cuda", types.SimpleNamespace(neg_eigen=True)) == (
        "eager",
        "mamba_ssm's kernel has no negative transitions (--neg_eigen)",
    )


@numba_only
def test_automatic_choice_takes_numba_on_a_cpu_and_eager_for_float64():
    assert automatic("cpu")[0] == "numba"
    tensors, _ = inputs(7, dtype=torch.float64)
    torch.testing.assert_close(scan(*tensors)[0], selective_scan_reference(*tensors)[0], atol=1e-12, rtol=1e-12)
    with pytest.raises(RuntimeError, match="computes in float32, got float64"):
        scan(*tensors, backend="numba")


@pytest.mark.parametrize(
    ("name", "shape", "told"),
    [
        ("u", (2, 3), "allowed: u and delta"),
        ("delta", (2, 3, 9), "allowed: u and delta"),
        ("A", (9, 3), "allowed: u and delta"),
        ("B", (2, 3, 4), "B and C"),
        ("C", (2, 4, 3), "B and C"),
        ("D", (3,), "allowed: .10,. or None"),
        ("state", (2, 3, 10), "allowed: .2, 10, 3. or None"),
    ],
)
def test_wrong_shapes_are_value_errors_that_say_what_is_allowed(name, shape, told):
    tensors = dict(zip(NAMES, inputs(3)[0], strict=True))
    tensors[name] = torch.ones(shape)
    with pytest.raises(ValueError, match=told):
        scan(**tensors)


def test_wrong_projections_are_value_errors():
    u, weights = inputs(3)[0][0], projections(3)
    with pytest.raises(ValueError, match="x_proj"):
        projected_scan(u, weights[0][:-1], *weights[1:])
    with pytest.raises(ValueError, match="dt_bias"):
        projected_scan(u, *weights[:2], weights[2][:-1], *weights[3:])
    with pytest.raises(ValueError, match="one token"):
        selective_scan_step(*inputs(3)[0])
