"""The delta rule: each backend, with and without decay, against the float64 loop; state, step, adapters, the choice.

python -m pytest tests/ops/test_delta_rule.py            (-m gpu for flash-linear-attention's kernels)
"""

import functools
import sys
import types

import pytest
import torch
from op_checks import CPU_BACKENDS, LENGTHS, distance, gpu, numba_only, on_thread_counts, same_bytes, with_gradients

from src.ops import backends
from src.ops.delta_rule import automatic, delta_rule, delta_rule_step, fla, obstacle
from src.ops.delta_rule.reference import delta_rule_reference
from src.ops.linear_attention import chunked

DECAYS = ("none", "weak", "mixed", "strong")
KEYS = ("random", "equal", "reflections", "equal reflections")  # reflections: beta just below 2


def inputs(T, decay="none", keys="random", dtype=torch.float32, B=2, H=3, K=8, V=5):
    """[q, k, v, beta, state(, decay)], keys of unit norm, and gradients for the output and the last state."""
    g = torch.Generator().manual_seed(T)
    q, k, v, state, *out = (
        torch.randn(s, generator=g)
        for s in ((B, T, H, K), (B, T, H, K), (B, T, H, V), (B, H, K, V), (B, T, H, V), (B, H, K, V))
    )
    k = k[:, :1].expand_as(k) if "equal" in keys else k
    k = k / k.norm(dim=-1, keepdim=True)
    beta = torch.full((B, T, H), 1.999) if "reflections" in keys else 2 * torch.rand(B, T, H, generator=g)
    wide = dtype if dtype == torch.float64 else torch.float32
    tensors = [t.to(dtype) for t in (q, k, v)] + [beta.to(wide), state.to(wide)]
    if decay != "none":
        u = torch.rand(B, T, H, generator=g).to(wide)
        tensors.append({"weak": -1e-4 * u, "mixed": -50 * u**8 - 1e-4, "strong": -50 * u}[decay])
    return [t.requires_grad_() for t in tensors], out


def call(backend, scale=0.7):
    return lambda q, k, v, beta, state, decay=None: delta_rule(q, k, v, beta, decay, state, scale, backend)


def reference(q, k, v, beta, state, decay=None):
    return delta_rule_reference(q, k, v, beta, decay, state, 0.7)


@functools.cache
def expected(T, decay, keys):
    """The reference's results for `inputs`, computed once for all backends."""
    return with_gradients(reference, *inputs(T, decay, keys))


@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("T", LENGTHS, ids=lambda t: f"T{t}")
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_outputs_gradients_and_state_agree_with_the_reference(backend, T, decay, keys):
    assert distance(with_gradients(call(backend), *inputs(T, decay, keys)), expected(T, decay, keys)) <= 1e-4


@pytest.mark.parametrize("keys", ["random", "equal reflections"])
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("T", [1, 63, 65], ids=lambda t: f"T{t}")
def test_float64_agrees_with_the_reference(T, decay, keys):
    tensors, out = inputs(T, decay, keys, torch.float64)
    assert distance(with_gradients(call("auto"), tensors, out), with_gradients(reference, tensors, out)) <= 1e-9


@pytest.mark.parametrize("decay", ["none", "mixed"])
def test_eager_segments_give_the_same_as_one_and_a_batch_of_one_too(decay, monkeypatch):
    monkeypatch.setattr(chunked, "SEGMENT", 1)
    tensors, out = inputs(100, decay, B=1)  # 32 + 32 + 32 + 4 tokens
    assert distance(with_gradients(call("eager"), tensors, out), with_gradients(reference, tensors, out)) <= 1e-4


def test_reference_returns_what_was_written_and_forgets_what_is_written_over():
    """beta 1 replaces what a key holds, and 2 reflects it. Two values for one key, and one for an orthogonal key."""
    k = torch.eye(4, dtype=torch.float64)[[0, 0, 1]].view(1, 3, 1, 4)
    v = torch.tensor([[3.0], [5.0], [7.0]], dtype=torch.float64).view(1, 3, 1, 1)
    q = torch.eye(4, dtype=torch.float64)[[0, 0, 0]].view(1, 3, 1, 4)
    o, state = delta_rule_reference(q, k, v, torch.ones(1, 3, 1))
    assert o.flatten().tolist() == [3, 5, 5]
    assert state.flatten().tolist() == [5, 7, 0, 0]
    decay = torch.tensor([0.0, 0.0, -torch.inf]).view(1, 3, 1)
    o, _ = delta_rule_reference(q, k, v, torch.full((1, 3, 1), 2.0), decay)
    assert o.flatten().tolist() == [6, 4, 0]  # 2 x 3; -6 + 2 x 5; all forgotten


def test_comparison_with_the_reference_sees_a_query_that_reads_before_the_write():
    tensors, out = inputs(7)
    early = lambda q, k, v, beta, state: call("eager")(q.roll(-1, dims=1), k, v, beta, state)  # noqa: E731
    assert distance(with_gradients(early, tensors, out), with_gradients(reference, tensors, out)) > 1e-2


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_five_hundred_reflections_of_one_key_stay_exact(backend):
    """beta 2 and one key: the system of a chunk has entries of 2 below the diagonal, and nothing is forgotten."""
    (q, k, v, _, state), _ = inputs(512, keys="equal", B=1, H=2)
    beta = torch.full((1, 512, 2), 2.0)
    with torch.no_grad():
        got, want = (
            delta_rule(q, k, v, beta, None, state, None, backend),
            delta_rule_reference(q, k, v, beta, None, state),
        )
    assert distance([t.double() for t in got], want) <= 1e-4


@pytest.mark.parametrize("decay", ["none", "mixed"])
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_two_parts_with_the_state_between_are_the_whole(backend, decay):
    tensors, _ = inputs(70, decay)
    (q, k, v, beta, state), decays = tensors[:5], tensors[5:]
    with torch.no_grad():
        whole, last = call(backend)(q, k, v, beta, state, *decays)
        first, middle = call(backend)(*(t[:, :37] for t in (q, k, v, beta)), state, *(d[:, :37] for d in decays))
        second, end = call(backend)(*(t[:, 37:] for t in (q, k, v, beta)), middle, *(d[:, 37:] for d in decays))
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(end, last, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("decay", ["none", "mixed"])
def test_steps_agree_with_the_chunked_form_and_write_into_the_state(decay):
    tensors, _ = inputs(33, decay)
    (q, k, v, beta, state), decays = tensors[:5], tensors[5:]
    with torch.no_grad():
        want, last = call("eager")(q, k, v, beta, state, *decays)
        memory = given = state.clone()
        outputs = []
        for t in range(33):
            o, memory = delta_rule_step(
                q[:, t], k[:, t], v[:, t], beta[:, t], decays[0][:, t] if decays else None, memory, 0.7
            )
            outputs.append(o)
    torch.testing.assert_close(torch.stack(outputs, dim=1), want, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(memory, last, atol=1e-5, rtol=1e-5)
    assert memory is given


@pytest.mark.parametrize("start", ["empty", "given"])
def test_step_that_records_a_gradient_leaves_its_state_alone(start):
    (q, k, v, beta, state, decay), out = inputs(1, "mixed")
    tensors = [q, k, v, beta, decay] + ([state] if start == "given" else [])
    before = state.detach().clone()

    def step(q, k, v, beta, decay, state=None):
        o, last = delta_rule_step(q[:, 0], k[:, 0], v[:, 0], beta[:, 0], decay[:, 0], state, 0.7)
        return o[:, None], last

    got = with_gradients(step, tensors, out)
    want = with_gradients(lambda *t: delta_rule_reference(*t[:5], *(t[5:] or [None]), 0.7), tensors, out)
    assert distance(got, want) <= 1e-5
    torch.testing.assert_close(state.detach(), before, atol=0, rtol=0)


def test_step_without_a_state_starts_from_zeros():
    (q, k, v, beta, _, decay), _ = inputs(1, "mixed")
    with torch.no_grad():
        want = delta_rule_reference(q, k, v, beta, decay, None, 0.7)
        for now in (None, decay[:, 0]):  # zeros do not decay
            o, last = delta_rule_step(q[:, 0], k[:, 0], v[:, 0], beta[:, 0], now, None, 0.7)
            assert distance([o[:, None].double(), last.double()], want) <= 1e-5


@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize("decay", ["none", "mixed"])
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_bf16_inputs_cost_no_more_than_their_own_rounding(backend, decay, autocast):
    """Against the loop on the same bf16 inputs with a float32 state: at most twice its error, the rounding to bf16."""
    tensors, out = inputs(65, decay, dtype=torch.bfloat16)
    want = with_gradients(reference, tensors, out)

    def plain(*tensors):
        o, last = reference(*tensors)
        return o.bfloat16(), last.float()

    def ours(*tensors):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return call(backend)(*tensors)

    own = [distance([a], [b]) for a, b in zip(with_gradients(plain, tensors, out), want, strict=True)]
    got = with_gradients(ours, tensors, out)
    assert all(distance([a], [b]) <= 2 * error + 1e-5 for a, b, error in zip(got, want, own, strict=True))


@numba_only
def test_numba_gives_the_same_bytes_on_any_number_of_threads():
    tensors, out = inputs(100, "mixed")
    assert same_bytes(on_thread_counts(lambda: with_gradients(call("numba"), tensors, out)))


def stand_in(log, name, gated, recurrent):
    """What the adapter takes a function of the package to be; tests/oracle/test_adapters.py calls the real one.

    (B, T, H, .) tensors; g is the log decay; the scale is positive, and K^-1/2 unless given; the final state only on
    request, in float32. chunk_delta_rule takes no float32, and the gated step has no gradient.
    """

    def function(
        q, k, v, beta, scale=None, initial_state=None, output_final_state=False, use_qk_l2norm_in_kernel=False, **given
    ):
        assert set(given) == ({"g"} if gated else set())
        assert q.dtype == k.dtype == v.dtype
        assert gated or recurrent or q.dtype != torch.float32
        assert scale is None or scale > 0
        assert not use_qk_l2norm_in_kernel
        log.append(name)
        o, state = delta_rule_reference(
            q, k, v, beta, given.get("g"), initial_state, q.shape[-1] ** -0.5 if scale is None else scale
        )
        if gated and recurrent:
            o, state = o.detach(), state.detach()
        return o.to(v.dtype), state.float() if output_final_state else None

    return function


@pytest.mark.parametrize(
    ("decay", "T", "dtype", "recorded", "used"),
    [
        ("none", 7, torch.float32, True, "fused_recurrent_delta_rule"),
        ("none", 65, torch.float32, True, "fused_recurrent_delta_rule"),
        ("none", 65, torch.bfloat16, True, "chunk_delta_rule"),
        ("mixed", 7, torch.float32, True, "chunk_gated_delta_rule"),
        ("mixed", 65, torch.bfloat16, True, "chunk_gated_delta_rule"),
        ("mixed", 7, torch.float32, False, "fused_recurrent_gated_delta_rule"),
    ],
    ids=lambda x: str(x).removeprefix("torch."),
)
def test_fla_adapter_chooses_by_length_decay_and_precision_and_returns_what_the_function_gives(
    decay, T, dtype, recorded, used, monkeypatch
):
    log = []
    package = types.ModuleType("fla.ops")
    for name, gated in (("delta_rule", False), ("gated_delta_rule", True)):
        module = types.ModuleType(name)
        for form in ("chunk", "fused_recurrent"):
            setattr(module, f"{form}_{name}", stand_in(log, f"{form}_{name}", gated, form == "fused_recurrent"))
        setattr(package, name, module)
    monkeypatch.setitem(sys.modules, "fla", types.ModuleType("fla"))
    monkeypatch.setitem(sys.modules, "fla.ops", package)
    tensors, out = inputs(T, decay, dtype=dtype)
    adapter = lambda q, k, v, beta, state, decay=None: fla.run(q, k, v, beta, decay, state, -0.7)  # noqa: E731

    def opposite(q, k, v, beta, state, decay=None):
        return delta_rule_reference(q, k, v, beta, decay, state, -0.7)

    if recorded:
        got, want = with_gradients(adapter, tensors, out), with_gradients(opposite, tensors, out)
    else:
        with torch.no_grad():
            got, want = [t.double() for t in adapter(*tensors)], opposite(*tensors)
    assert distance(got, want) <= (1e-5 if dtype == torch.float32 else 2e-2)
    assert log == [used]


@pytest.mark.parametrize("T", [7, 65, 257], ids=lambda t: f"T{t}")
@pytest.mark.parametrize("decay", [pytest.param(d, marks=gpu("fla")) for d in ("none", "mixed")])
def test_fla_agrees_with_the_reference_in_bf16(decay, T):
    tensors, out = inputs(T, decay, dtype=torch.bfloat16, K=32, V=32)
    if why := obstacle("fla", "" if decay == "none" else "gated"):
        pytest.skip(why)
    want = with_gradients(reference, tensors, out)
    got = with_gradients(call("fla"), [t.detach().cuda().requires_grad_() for t in tensors], [g.cuda() for g in out])
    assert distance([t.cpu() for t in got], want) <= 3e-2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"k": (2, 5, 3, 7)}, "q, k, v: got"),
        ({"beta": (2, 5)}, r"beta: got \(2, 5\), allowed: \(2, 5, 3\)"),
        ({"decay": (2, 5, 3, 8)}, "decay: got"),
        ({"state": (2, 3, 5, 8)}, r"state: got .* = \(2, 3, 8, 5\)"),
        ({"v": (2, 5, 3, 0)}, "empty"),
    ],
)
def test_wrong_shapes_are_value_errors(change, told):
    shapes = {"q": (2, 5, 3, 8), "k": (2, 5, 3, 8), "v": (2, 5, 3, 5), "beta": (2, 5, 3)} | change
    with pytest.raises(ValueError, match=told):
        delta_rule(**{name: torch.zeros(shape) for name, shape in shapes.items()})


def test_choice_follows_the_device_and_what_is_installed(monkeypatch):
    usable = {"cpu": ("eager", "numba"), "cuda": ("eager", "fla")}
    monkeypatch.setattr(backends, "usable", lambda op, device_type: usable[device_type])
    run = types.SimpleNamespace
    assert automatic("cpu")[0] == "numba"
    assert automatic("cuda", run(precision="bf16"))[0] == "fla"
    assert automatic("cuda", run(precision="fp32"))[0] == "eager"
    usable["cpu"] = ("eager",)
    assert automatic("cpu")[0] == "eager"
    assert all(len(automatic(d, a)[1]) > 20 for d in usable for a in (None, run(precision="fp32")))
