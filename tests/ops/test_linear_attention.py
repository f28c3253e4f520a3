"""Linear attention: each backend and kind of decay against the float64 loop; state, step, adapters and the choice.

python -m pytest tests/ops/test_linear_attention.py            (-m gpu for flash-linear-attention's kernels)
"""

import functools
import sys
import types

import pytest
import torch
from op_checks import CPU_BACKENDS, LENGTHS, distance, gpu, numba_only, on_thread_counts, same_bytes, with_gradients

from src.ops import backends
from src.ops.linear_attention import automatic, chunked, fla, linear_attention, linear_attention_step, obstacle
from src.ops.linear_attention.reference import linear_attention_reference

SHAPES = {
    "none": lambda B, T, H, K: None,
    "fixed": lambda B, T, H, K: (H,),
    "scalar": lambda B, T, H, K: (B, T, H),
    "vector": lambda B, T, H, K: (B, T, H, K),
}
CASES = [
    (kind, strength)
    for kind in SHAPES
    for strength in ("weak", "mixed", "strong")
    if kind != "none" or strength == "weak"
]


def inputs(T, kind, strength="weak", dtype=torch.float32, B=2, H=3, K=8, V=5, G=None):
    """[q, k, v, state(, decay)] and gradients for the output and the last state. G: groups of heads, None for H."""
    g, G = torch.Generator().manual_seed(T), G or H
    q, k, v, state, *out = (
        torch.randn(s, generator=g)
        for s in ((B, T, G, K), (B, T, G, K), (B, T, H, V), (B, H, K, V), (B, T, H, V), (B, H, K, V))
    )
    tensors = [t.to(dtype) for t in (q, k, v)] + [state.to(dtype if dtype == torch.float64 else torch.float32)]
    if kind != "none":
        u = torch.rand(SHAPES[kind](B, T, H, K), generator=g)
        # mixed: mostly near 0, now and then down to -50
        decay = {"weak": -1e-4 * u, "mixed": -50 * u**8 - 1e-4, "strong": -50 * u}[strength]
        tensors.append(decay.to(tensors[3].dtype))
    return [t.requires_grad_() for t in tensors], out


def call(backend, scale=0.7):
    return lambda q, k, v, state, decay=None: linear_attention(q, k, v, decay, state, scale, backend)


def reference(q, k, v, state, decay=None):
    return linear_attention_reference(q, k, v, decay, state, 0.7)


@functools.cache
def expected(T, kind, strength):
    """The reference's results for `inputs`, computed once for all backends."""
    return with_gradients(reference, *inputs(T, kind, strength))


@pytest.mark.parametrize(("kind", "strength"), CASES, ids=lambda x: x)
@pytest.mark.parametrize("T", LENGTHS, ids=lambda t: f"T{t}")
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_outputs_gradients_and_state_agree_with_the_reference(backend, T, kind, strength):
    assert distance(with_gradients(call(backend), *inputs(T, kind, strength)), expected(T, kind, strength)) <= 1e-4


@pytest.mark.parametrize(("kind", "strength"), CASES, ids=lambda x: x)
@pytest.mark.parametrize("T", [1, 63, 65], ids=lambda t: f"T{t}")
def test_float64_agrees_with_the_reference(T, kind, strength):
    tensors, out = inputs(T, kind, strength, torch.float64)
    assert distance(with_gradients(call("auto"), tensors, out), with_gradients(reference, tensors, out)) <= 1e-9


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_a_batch_of_one_and_segments_of_time_agree_with_the_reference(backend, kind, monkeypatch):
    monkeypatch.setattr(chunked, "SEGMENT", 1)
    tensors, out = inputs(100, kind, "weak" if kind == "none" else "mixed", B=1)  # eager: 32 + 32 + 32 + 4 tokens
    assert distance(with_gradients(call(backend), tensors, out), with_gradients(reference, tensors, out)) <= 1e-4


@pytest.mark.parametrize("T", LENGTHS, ids=lambda t: f"T{t}")
@pytest.mark.parametrize("groups", [1, 2, 4], ids=lambda n: f"{n}of4")
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_heads_that_share_queries_and_keys_agree_with_the_reference(backend, kind, groups, T):
    strength = "weak" if kind == "none" else "mixed"
    tensors, out = inputs(T, kind, strength, H=4, G=groups)
    want = _expected_of_groups(T, kind, strength, groups)
    assert distance(with_gradients(call(backend), tensors, out), want) <= 1e-4


@functools.cache
def _expected_of_groups(T, kind, strength, groups):
    return with_gradients(reference, *inputs(T, kind, strength, H=4, G=groups))


@pytest.mark.parametrize("wanted", ["output", "last state", "both"])
@pytest.mark.parametrize("T", [7, 33, 65], ids=lambda t: f"T{t}")
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_without_a_first_state_each_result_has_its_gradients(backend, kind, T, wanted):
    (q, k, v, _, *decay), out = inputs(T, kind, "mixed", H=4, G=2)
    chosen = {"output": slice(0, 1), "last state": slice(1, 2), "both": slice(0, 2)}[wanted]

    def results(run, tensors):
        return with_gradients(lambda q, k, v, *decay: run(q, k, v, None, *decay)[chosen], tensors, out[chosen])

    tensors = [q, k, v, *decay]
    assert distance(results(call(backend), tensors), results(reference, tensors)) <= 1e-4


@pytest.mark.parametrize("kind", SHAPES)
def test_reference_is_a_sum_over_earlier_tokens(kind):
    """The loop against the unrolled sum, so that the definition is not only compared with itself.

    o_i = scale (q_i exp(b_i) S_0 + sum_j q_i exp(b_i - b_j) k_j v_j)
    """
    (q, k, v, state, *decay), _ = inputs(9, kind, dtype=torch.float64)
    step = torch.zeros_like(q)
    if decay:
        step = decay[0] if kind == "vector" else decay[0].expand(2, 9, 3)[..., None].expand_as(q)
    b = (30_000 * step).cumsum(1)
    between = (b[:, :, None] - b[:, None]).exp() * torch.ones(9, 9).tril()[None, :, :, None, None]
    terms = torch.einsum("bihk,bijhk,bjhk,bjhv->bihv", q, between, k, v)
    want = 0.7 * (terms + torch.einsum("bihk,bhkv->bihv", q * b.exp(), state))
    o, _ = reference(q, k, v, state, *(30_000 * d for d in decay))
    torch.testing.assert_close(o, want)


def test_comparison_with_the_reference_sees_a_decay_that_acts_one_token_late():
    tensors, out = inputs(7, "scalar", "mixed")
    late = lambda q, k, v, state, decay: call("eager")(q, k, v, state, decay.roll(1, dims=1))  # noqa: E731
    assert distance(with_gradients(late, tensors, out), with_gradients(reference, tensors, out)) > 1e-2


@pytest.mark.parametrize("kind", ["scalar", "vector"])
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_decays_that_sum_below_minus_ten_thousand_leave_later_weak_ones_exact(backend, kind):
    """300 steps of -50, then 20 of -1e-4: what was written since must decay by 1 - 1e-4 per step, to float32."""
    (q, k, v, state, decay), _ = inputs(320, kind)
    decay = torch.cat([torch.full_like(decay[:, :300], -50), torch.full_like(decay[:, 300:], -1e-4)], dim=1)
    with torch.no_grad():
        got, want = (
            linear_attention(q, k, v, decay, state, backend=backend),
            linear_attention_reference(q, k, v, decay, state),
        )
    assert all(t.isfinite().all() for t in got)
    assert distance([got[0][:, 300:].double(), got[1].double()], [want[0][:, 300:], want[1]]) <= 2e-6


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_two_halves_with_the_state_between_are_the_whole(backend, kind):
    (q, k, v, state, *decay), _ = inputs(70, kind, "mixed")
    parts = [[d if d.dim() == 1 else d[:, cut] for d in decay] for cut in (slice(0, 37), slice(37, 70))]
    with torch.no_grad():
        whole, last = call(backend)(q, k, v, state, *decay)
        first, middle = call(backend)(q[:, :37], k[:, :37], v[:, :37], state, *parts[0])
        second, end = call(backend)(q[:, 37:], k[:, 37:], v[:, 37:], middle, *parts[1])
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(end, last, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("groups", [1, 4])
def test_steps_agree_with_the_chunked_form_and_write_into_the_state(groups, kind):
    (q, k, v, state, *decay), _ = inputs(33, kind, "mixed", H=4, G=groups)
    with torch.no_grad():
        want, last = call("eager")(q, k, v, state, *decay)
        memory = given = state.clone()
        outputs = []
        for t in range(33):
            now = None if not decay else decay[0] if kind == "fixed" else decay[0][:, t]
            o, memory = linear_attention_step(q[:, t], k[:, t], v[:, t], now, memory, 0.7)
            outputs.append(o)
    torch.testing.assert_close(torch.stack(outputs, dim=1), want, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(memory, last, atol=1e-5, rtol=1e-5)
    assert memory is given


def test_step_that_records_a_gradient_leaves_its_state_alone():
    (q, k, v, state, decay), out = inputs(1, "vector", "mixed")
    before = state.detach().clone()

    def step(q, k, v, state, decay):
        return linear_attention_step(q[:, 0], k[:, 0], v[:, 0], decay[:, 0], state, 0.7)

    got = with_gradients(step, [q, k, v, state, decay], [out[0][:, 0], out[1]])
    want = with_gradients(reference, [q, k, v, state, decay], out)
    assert distance([got[0][:, None], *got[1:]], want) <= 1e-5
    torch.testing.assert_close(state.detach(), before, atol=0, rtol=0)


@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_bf16_inputs_cost_no_more_than_their_own_rounding(backend, kind, autocast):
    """Against the loop on the same bf16 inputs with a float32 state: at most twice its error, the rounding to bf16."""
    tensors, out = inputs(65, kind, "mixed", torch.bfloat16)
    want = with_gradients(reference, tensors, out)

    def plain(q, k, v, state, decay=None):
        o, last = linear_attention_reference(q, k, v, decay, state, 0.7)
        return o.bfloat16(), last.float()

    def ours(*tensors):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return call(backend)(*tensors)

    got = with_gradients(ours, tensors, out)
    own = [distance([a], [b]) for a, b in zip(with_gradients(plain, tensors, out), want, strict=True)]
    assert all(distance([a], [b]) <= 2 * error + 1e-5 for a, b, error in zip(got, want, own, strict=True))


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_views_of_one_projection_and_one_head_of_size_one_are_taken(backend, kind):
    g = torch.Generator().manual_seed(5)
    packed = torch.randn(2, 40, 3, 24, generator=g)
    q, k, v = packed.split(8, dim=-1)
    decay = None if kind == "none" else -torch.rand(SHAPES[kind](2, 40, 3, 8), generator=g)
    o, state = linear_attention(q, k, v, decay, backend=backend)
    assert distance([o.double(), state.double()], linear_attention_reference(q, k, v, decay)) <= 1e-5
    one = torch.randn(1, 3, 1, 1, generator=g)
    o, _ = linear_attention(
        one,
        one,
        one,
        None if kind == "none" else -torch.rand(SHAPES[kind](1, 3, 1, 1), generator=g) * 0,
        backend=backend,
    )
    torch.testing.assert_close(o, one * (one * one).cumsum(1))


@numba_only
def test_numba_gives_the_same_bytes_on_any_number_of_threads():
    tensors, out = inputs(100, "vector", "mixed")
    assert same_bytes(on_thread_counts(lambda: with_gradients(call("numba"), tensors, out)))


def stand_in(log, name, wants):
    """What the adapter takes a function of the package to be; tests/oracle/test_adapters.py calls the real one.

    (B, T, H, .) tensors; `wants` names the log decay, of which g_gamma is (H,); scale K^-1/2 unless given; the final
    state only on request, in float32.
    """

    def function(q, k, v, scale=None, initial_state=None, output_final_state=False, **given):
        assert set(given) <= wants, f"{name} has no {set(given) - wants}"
        assert q.dtype == k.dtype == v.dtype
        assert initial_state is None or initial_state.dtype == torch.float32
        log.append((name, *given))
        o, state = linear_attention_reference(
            q, k, v, *given.values(), state=initial_state, scale=q.shape[-1] ** -0.5 if scale is None else scale
        )
        return o.to(v.dtype), state.float() if output_final_state else None

    return function


@pytest.mark.parametrize(
    ("kind", "T", "used"),
    [
        ("none", 7, ("fused_recurrent_simple_gla",)),
        ("none", 65, ("chunk_simple_gla",)),
        ("fixed", 65, ("chunk_simple_gla", "g")),
        ("scalar", 7, ("fused_recurrent_simple_gla", "g")),
        ("scalar", 65, ("chunk_simple_gla", "g")),
        ("vector", 7, ("fused_recurrent_gla", "gk")),
        ("vector", 65, ("chunk_gla", "g")),
    ],
    ids=str,
)
def test_fla_adapter_chooses_by_length_and_decay_and_returns_what_the_function_gives(kind, T, used, monkeypatch):
    log = []
    simple, vector = types.ModuleType("simple_gla"), types.ModuleType("gla")
    for form in ("chunk", "fused_recurrent"):
        setattr(simple, f"{form}_simple_gla", stand_in(log, f"{form}_simple_gla", {"g", "g_gamma"}))
    vector.chunk_gla, vector.fused_recurrent_gla = (
        stand_in(log, "chunk_gla", {"g"}),
        stand_in(log, "fused_recurrent_gla", {"gk", "gv"}),
    )
    package = types.ModuleType("fla.ops")
    package.simple_gla, package.gla = simple, vector
    monkeypatch.setitem(sys.modules, "fla", types.ModuleType("fla"))
    monkeypatch.setitem(sys.modules, "fla.ops", package)
    tensors, out = inputs(T, kind, "mixed")
    got = with_gradients(lambda q, k, v, state, decay=None: fla.run(q, k, v, decay, state, 0.7), tensors, out)
    assert distance(got, with_gradients(reference, tensors, out)) <= 1e-5
    assert log == [used]
    if kind == "fixed":  # no gradient wanted: the function's own argument for it
        fla.run(*(t.detach() for t in (*tensors[:3], tensors[4], tensors[3])), 1.0)
        assert log[-1] == ("chunk_simple_gla", "g_gamma")


@pytest.mark.parametrize("T", [7, 65, 257], ids=lambda t: f"T{t}")
@pytest.mark.parametrize("kind", [pytest.param(kind, marks=gpu("fla")) for kind in SHAPES])
def test_fla_agrees_with_the_reference_in_bf16(kind, T):
    tensors, out = inputs(T, kind, "mixed", torch.bfloat16, K=32, V=32)
    if why := obstacle("fla", "scalar" if kind == "fixed" else kind):  # the gradient of a fixed decay is wanted here
        pytest.skip(why)
    want = with_gradients(reference, tensors, out)
    on_gpu = [t.detach().cuda().requires_grad_() for t in tensors]
    got = with_gradients(call("fla"), on_gpu, [g.cuda() for g in out])
    assert distance([t.cpu() for t in got], want) <= 3e-2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"k": (2, 5, 3, 7)}, "q, k, v: got"),
        ({"v": (2, 5, 2, 5)}, "fewer heads, a divisor of H"),
        ({"v": (2, 5, 4, 5)}, "fewer heads, a divisor of H"),
        ({"decay": (2, 5)}, r"decay: got \(2, 5\), allowed: None, \(3,\)"),
        ({"decay": (3, 8)}, "decay: got"),
        ({"state": (2, 3, 5, 8)}, r"state: got .* = \(2, 3, 8, 5\)"),
        ({"q": (2, 0, 3, 8), "k": (2, 0, 3, 8), "v": (2, 0, 3, 5)}, "empty"),
    ],
)
def test_wrong_shapes_are_value_errors(change, told):
    shapes = {"q": (2, 5, 3, 8), "k": (2, 5, 3, 8), "v": (2, 5, 3, 5)} | change
    with pytest.raises(ValueError, match=told):
        linear_attention(**{name: torch.zeros(shape) for name, shape in shapes.items()})


def test_choice_follows_the_device_the_decay_and_what_is_installed(monkeypatch):
    usable = {"cpu": ("eager", "numba"), "cuda": ("eager", "fla")}
    monkeypatch.setattr(backends, "usable", lambda op, device_type: usable[device_type])
    run = types.SimpleNamespace
    assert automatic("cpu", run(decay="vector"))[0] == "numba"
    assert automatic("cpu", run(decay="scalar"))[0] == "eager"
    assert automatic("cpu", None, "vector")[0] == "numba"
    assert automatic("cuda", run(precision="bf16"))[0] == "fla"
    assert automatic("cuda", run(precision="fp32"))[0] == "eager"
    usable["cpu"] = ("eager",)
    assert automatic("cpu", run(decay="vector"))[0] == "eager"
    assert all(len(automatic(d, a)[1]) > 20 for d in usable for a in (None, run(decay="vector"), run(precision="fp32")))
