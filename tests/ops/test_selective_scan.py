"""The selective scan: every form against the float64 recurrence, its state, its memory, its kernels' conventions and the choice between them.

python -m pytest tests/ops/test_selective_scan.py            (-m gpu for the published kernel)
"""

import importlib.util
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from conftest import ROOT

from src.ops import backends, selective_scan
from src.ops.selective_scan import FORMS, automatic, chunked, mamba_ssm, projected_scan, selective_scan_step
from src.ops.selective_scan import selective_scan as scan
from src.ops.selective_scan.reference import selective_scan_reference

LENGTHS = (1, 7, 63, 64, 65, 257)
DECAYS = {"weak": 0.01, "mixed": 1.0, "strong": 100.0}  # scale of delta A: from nearly 1 to exp(-300)
NAMES = ("u", "delta", "A", "B", "C", "D", "state")
numba_only = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")
CPU_FORMS = ["eager", "eager side by side", pytest.param("numba", marks=numba_only)]
GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(importlib.util.find_spec("mamba_ssm") is None, reason="mamba_ssm is not installed"),
]


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


def with_gradients(function, tensors, out_gradients):
    """y, the last state and the gradients of all inputs through both, as float64."""
    y, last = function(*tensors)
    gradients = torch.autograd.grad(
        (y, last), tensors, [g.to(t.dtype) for g, t in zip(out_gradients, (y, last), strict=True)]
    )
    return dict(zip(("y", "last", *NAMES), (t.detach().double() for t in (y, last, *gradients)), strict=True))


def distances(got, want):
    """{name: largest absolute difference over the largest absolute value}."""
    return {
        name: ((got[name] - want[name]).abs().max() / want[name].abs().max().clamp(min=1e-30)).item() for name in want
    }


@pytest.fixture
def backend(request, monkeypatch):
    """A backend's name. "eager side by side" has chunks side by side and several segments at these sizes, as a GPU and long sequences do."""
    if request.param == "eager side by side":
        monkeypatch.setattr(chunked, "STEP_STATES", 1 << 30)
        monkeypatch.setattr(chunked, "SEGMENT_STATES", {"cpu": 1})  # segments of sqrt(T) tokens
        return "eager"
    return request.param


@pytest.mark.parametrize("neg_eigen", [False, True], ids=["plain", "negative"])
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("T", LENGTHS, ids=lambda t: f"T{t}")
@pytest.mark.parametrize("backend", CPU_FORMS, indirect=True)
def test_outputs_gradients_and_state_agree_with_the_reference(backend, T, decay, neg_eigen):
    tensors, out = inputs(T, decay)
    got = with_gradients(lambda *t: scan(*t, neg_eigen, backend), tensors, out)
    want = with_gradients(lambda *t: selective_scan_reference(*t, neg_eigen), tensors, out)
    assert max(distances(got, want).values()) <= 1e-4, distances(got, want)


@pytest.mark.parametrize("neg_eigen", [False, True], ids=["plain", "negative"])
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("T", [1, 65, 257], ids=lambda t: f"T{t}")
@pytest.mark.parametrize("backend", CPU_FORMS[:2], indirect=True)
def test_float64_agrees_to_nine_digits(backend, T, decay, neg_eigen):
    tensors, out = inputs(T, decay, dtype=torch.float64)
    got = with_gradients(lambda *t: scan(*t, neg_eigen, backend), tensors, out)
    want = with_gradients(lambda *t: selective_scan_reference(*t, neg_eigen), tensors, out)
    assert max(distances(got, want).values()) <= 1e-9, distances(got, want)


@pytest.mark.parametrize(
    "shape", [(1, 64, 16), (3, 70, 5), (2, 1, 1), (1, 130, 17)], ids=lambda s: f"B{s[0]}-E{s[1]}-N{s[2]}"
)
@pytest.mark.parametrize("backend", CPU_FORMS, indirect=True)
def test_sizes_that_do_not_fill_the_vectors_agree_too(backend, shape):
    batch, E, N = shape
    tensors, out = inputs(33, batch=batch, E=E, N=N)
    got = with_gradients(lambda *t: scan(*t, False, backend), tensors, out)
    want = with_gradients(selective_scan_reference, tensors, out)
    assert max(distances(got, want).values()) <= 1e-4, distances(got, want)


@numba_only
def test_more_states_than_a_chunk_of_the_backward_pass_holds_agree_too():
    tensors, out = inputs(21, batch=1, E=3, N=300)
    got = with_gradients(lambda *t: scan(*t, False, "numba"), tensors, out)
    want = with_gradients(selective_scan_reference, tensors, out)
    assert max(distances(got, want).values()) <= 1e-4, distances(got, want)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("backend", CPU_FORMS, indirect=True)
def test_bf16_inputs_cost_at_most_twice_their_own_rounding(backend, decay):
    """The rounding: the exact recurrence of rounded inputs, its results rounded once, against that of the inputs before."""
    exact, out = inputs(65, decay, dtype=torch.float64)
    tensors = [t.detach().bfloat16().requires_grad_() for t in exact]
    tensors[6] = exact[6].detach().float().requires_grad_()
    want = with_gradients(selective_scan_reference, exact, out)
    rounded = with_gradients(
        selective_scan_reference, [t.detach().double().requires_grad_() for t in tensors], [out[0].bfloat16(), out[1]]
    )
    rounded = {
        name: value if name in ("last", "state") else value.bfloat16().double() for name, value in rounded.items()
    }
    got = with_gradients(lambda *t: scan(*t, False, backend), tensors, out)
    limit, error = distances(rounded, want), distances(got, want)
    assert all(error[name] <= 2 * limit[name] + 1e-4 for name in want), (error, limit)
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
    """A step far above 1 / |A| makes a = -1: the state changes its sign with every token, which a = exp(delta A) cannot do."""
    E = torch.ones(1, 4, 1)
    y, last = scan(0 * E, 50 * E, -torch.ones(1, 1), E, E, None, torch.ones(1, 1, 1), neg_eigen=True)
    torch.testing.assert_close(y.flatten(), torch.tensor([-1.0, 1.0, -1.0, 1.0]))
    assert last.item() == pytest.approx(1.0)


def test_comparison_sees_a_decay_that_is_late_by_one_token():
    tensors, out = inputs(7)
    late = [tensors[0], tensors[1].roll(1, dims=1).detach().requires_grad_(), *tensors[2:]]
    got, want = (
        with_gradients(selective_scan_reference, late, out),
        with_gradients(selective_scan_reference, tensors, out),
    )
    assert max(distances(got, want).values()) > 1e-2


@pytest.mark.parametrize("neg_eigen", [False, True], ids=["plain", "negative"])
@pytest.mark.parametrize("start", ["empty", "given"])
@pytest.mark.parametrize("backend", CPU_FORMS, indirect=True)
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
@pytest.mark.parametrize("backend", CPU_FORMS, indirect=True)
def test_extreme_steps_give_finite_outputs_and_gradients(backend, neg_eigen):
    tensors, out = inputs(65)
    tensors[1] = torch.cat([torch.full((2, 30, 10), 1e4), torch.zeros(2, 35, 10)], dim=1).requires_grad_()
    got = with_gradients(lambda *t: scan(*t, neg_eigen, backend), tensors, out)
    assert all(value.isfinite().all() for value in got.values())


@pytest.mark.parametrize("backend", CPU_FORMS, indirect=True)
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
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(with_gradients(lambda *t: scan(*t, False, "numba"), tensors, out))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(results[0][name], other[name]) for other in results[1:] for name in other)


@numba_only
def test_exponential_is_exact_to_two_units_in_the_last_place():
    from src.ops import lanes

    @lanes.compiled(lanes.EXACT)
    def fill(x, y):
        for i in range(len(x)):
            y[i] = lanes.exp(x[i])

    x = np.linspace(-87, 88, 100_003).astype(np.float32)
    y = np.empty_like(x)
    fill(x, y)
    want = np.exp(x.astype(np.float64))
    unit = 2.0 ** (
        np.floor(np.log2(want)) - 23
    )  # of the last place; np.spacing would be a subnormal number, which may read as 0
    assert np.max(np.abs(y - want) / unit) < 2
    x = np.array([np.nan, -np.inf, -1e30, 0.0] * 8, dtype=np.float32)
    y = np.empty_like(x)
    fill(x, y)
    assert np.isnan(y[0])
    assert np.all(y[1:3] < 2e-38)
    assert y[3] == 1


@numba_only
def test_kernels_compile_where_no_folder_can_hold_their_code(monkeypatch):
    import numba

    from src.ops import lanes

    real = numba.njit

    def without_cache(*arguments, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return real(*arguments, **options)

    monkeypatch.setattr(numba, "njit", without_cache)

    @lanes.compiled(lanes.EXACT)
    def twice(x):
        return x + x

    assert twice(np.float32(3)) == 6


def kept_bytes(function, parameters):
    """Bytes of unique storages kept for the backward pass, parameters apart."""
    own = {p.untyped_storage().data_ptr() for p in parameters}
    storages = {}

    def pack(t):
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        result = function()
    assert result is not None
    return sum(size for place, size in storages.items() if place not in own)


def projections(N, E=10, R=2, seed=5):
    """x_proj, dt_proj, dt_bias, A_log, D."""
    g = torch.Generator().manual_seed(seed)
    shapes = ((R + 2 * N, E), (E, R), (E,), (E, N), (E,))
    return [(0.5 * torch.randn(*shape, generator=g)).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("backend", CPU_FORMS, indirect=True)
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

        results = []
        for function in (
            lambda *t: projected_scan(*t, **({"state": None} if len(t) == 6 else {}), backend=backend),
            composed,
        ):
            y, last = function(*leaves)
            results.append([y, last, *torch.autograd.grad((y, last), leaves, [out[0].to(y.dtype), out[1].to(y.dtype)])])
        for got, want in zip(*results, strict=True):
            assert (got - want).abs().max() <= 1e-4 * want.abs().max()


@pytest.mark.parametrize("backend", CPU_FORMS, indirect=True)
def test_bytes_kept_by_the_projected_scan_do_not_grow_with_the_states(backend):
    def kept(N):
        u, weights = inputs(64)[0][0], projections(N)
        return kept_bytes(lambda: projected_scan(u, *weights, backend=backend), weights)

    assert kept(4) == kept(64) == 4 * 2 * 64 * 10  # u alone


def test_measure_of_kept_bytes_sees_the_states_of_an_autograd_loop():
    def kept(N):
        tensors, _ = inputs(16, N=N)
        return kept_bytes(lambda: selective_scan_reference(*tensors), ())

    assert kept(16) > 3 * kept(4)


@pytest.mark.parametrize("backend", CPU_FORMS, indirect=True)
def test_bf16_autocast_rounds_the_projections_and_nothing_after_them(backend):
    """The two products in bf16, as plain torch does them; delta, states and sums as in float32. The weights get their gradients also when
    autocast holds casts of them."""
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
    """A stand-in for mamba_ssm's selective_scan_fn, from its documented semantics: u, delta (B, E, T), B, C (B, N, T), a zero start."""
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
def test_cuda_adapter_keeps_the_package_s_layout(monkeypatch, skip):
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
    *got, dstate = mamba_ssm.backward(dy, None, *plain, None, False)
    assert dstate is None
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
@pytest.mark.parametrize("form", [pytest.param("mamba_ssm", marks=GPU)])
def test_published_kernel_agrees_with_the_reference(form, dtype, T):
    (*tensors, _), (dy, _) = inputs(T, E=64, N=16)
    want, last = selective_scan_reference(*tensors)
    gradients = torch.autograd.grad(want, tensors, dy.double())
    there = [t.detach().to("cuda", dtype).requires_grad_() for t in tensors]
    y, end = scan(*there, backend=form)
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
    assert max(distances({k: v.cpu() for k, v in got.items()}, want).values()) <= 1e-4


def test_every_backend_has_a_form():
    assert set(FORMS) == set(backends.OPS["selective_scan"])


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
    monkeypatch.setattr(
        chunked, "forward", lambda *given: pytest.fail("reached")
    )  # the form that "auto" takes without numba
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


def test_unknown_backend_and_one_that_cannot_run_are_errors_of_one_line():
    tensors, _ = inputs(3)
    with pytest.raises(ValueError, match="got 'fast', allowed: auto, eager, numba, mamba_ssm"):
        scan(*tensors, backend="fast")
    with pytest.raises(RuntimeError, match=r"needs mamba_ssm and a cuda device; u is on cpu; usable here: eager"):
        scan(*tensors, backend="mamba_ssm")


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


def test_numba_is_not_loaded_before_it_is_used():
    code = (
        "import sys, src.models.mamba, src.ops.selective_scan, src.ops.causal_conv; assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert selective_scan.FORMS["numba"] == "compiled"
