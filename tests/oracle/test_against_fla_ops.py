"""Linear attention and the delta rule against the `naive` functions of flash-linear-attention.

    python -m pytest -m oracle tests/oracle/test_against_fla_ops.py

Each of our implementations gives the same outputs, final state and gradients as each of the package's loops and chunks
in plain torch. Their code runs in float64.
"""

import functools

import pytest
import torch
from op_checks import numba_only, with_gradients
from oracles import EXACT, LENGTHS, SINGLE, InFloat64, assert_agree, draw, largest_difference, package

from src.models.parts import fixed_log_decay
from src.ops.delta_rule import delta_rule, delta_rule_step
from src.ops.delta_rule.reference import delta_rule_reference
from src.ops.linear_attention import linear_attention, linear_attention_step
from src.ops.linear_attention.reference import linear_attention_reference

pytestmark = pytest.mark.oracle

B, H, K, V = 2, 3, 8, 5
SCALE = 0.7
lengths = pytest.mark.parametrize("T", LENGTHS, ids=lambda t: f"T{t}")


def stepped(step):
    """One token of an op after another, as a function of whole sequences. Its arguments come in the op's order."""

    def run(*tensors, state, decay=None):
        outputs = []
        for t in range(tensors[0].shape[1]):
            at = decay if decay is None or decay.dim() == 1 else decay[:, t]
            o, state = step(*(x[:, t] for x in tensors), at, state, SCALE)
            outputs.append(o)
        return torch.stack(outputs, dim=1), state

    return run


def implementations(op, step, reference):
    """(how we compute it, dtype, tolerance) of an op: a function (*tensors, state, decay) -> o, state."""

    def named(backend):
        return lambda *tensors, state, decay=None: op(*tensors, decay, state, SCALE, backend)

    return [
        pytest.param(
            lambda *tensors, state, decay=None: reference(*tensors, decay, state, SCALE),
            torch.float64,
            EXACT,
            id="reference",
        ),
        pytest.param(named("eager"), torch.float64, EXACT, id="eager-float64"),
        pytest.param(named("eager"), torch.float32, SINGLE, id="eager"),
        pytest.param(named("numba"), torch.float32, SINGLE, id="numba", marks=numba_only),
        pytest.param(stepped(step), torch.float64, EXACT, id="step"),
    ]


LINEAR = implementations(linear_attention, linear_attention_step, linear_attention_reference)
DELTA = implementations(delta_rule, delta_rule_step, delta_rule_reference)


def log_decay(*shape):
    """Mostly near 0, now and then down to -50: a memory that keeps, and one that is emptied."""
    return -50 * torch.rand(*shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64) ** 8 - 1e-4


def results(function, tensors):
    """The output, the final state, and the gradients of all tensors through both."""
    names, tensors = list(tensors), [t.detach().requires_grad_() for t in tensors.values()]
    found = with_gradients(
        lambda *given: function(**dict(zip(names, given, strict=True))),
        tensors,
        [draw(B, tensors[0].shape[1], H, V, seed=7), draw(B, H, K, V, seed=8)],
    )
    return dict(zip(["output", "final state", *names], found, strict=True))


def narrow(tensors, dtype):
    """float32 numbers in `dtype`: both sides get the same."""
    return {name: t.float().to(dtype) for name, t in tensors.items()}


# --- linear attention ------------------------------------------------------------------------------------------------

DECAYS = {
    "none": lambda T: {},
    "fixed": lambda T: {"decay": log_decay(H)},
    "retention": lambda T: {"decay": fixed_log_decay(H).double()},
    "scalar": lambda T: {"decay": log_decay(B, T, H)},
    "vector": lambda T: {"decay": log_decay(B, T, H, K)},
}


def linear_inputs(T, kind):
    q, k, v = draw(B, T, H, K, seed=1), draw(B, T, H, K, seed=2), draw(B, T, H, V, seed=3)
    return {"q": q, "k": k, "v": v, "state": draw(B, H, K, V, seed=5), **DECAYS[kind](T)}


def naive_linear(q, k, v, state):
    ops = package("fla.ops.linear_attn.naive")
    return ops.naive_recurrent_linear_attn(q, k, v, SCALE, state, output_final_state=True)


def naive_simple(name):
    def run(q, k, v, state, decay=None):
        ops = package("fla.ops.simple_gla.naive")
        g = q.new_zeros(q.shape[:3]) if decay is None else decay.expand(q.shape[:3])  # (H,) and (B, T, H)
        return getattr(ops, name)(q, k, v, g, scale=SCALE, initial_state=state, output_final_state=True)

    return run


def naive_vector(q, k, v, state, decay):
    ops = package("fla.ops.gla.naive")  # it has no scale but K^-1/2
    return ops.naive_recurrent_gla(q * SCALE * K**0.5, k, v, decay, state, output_final_state=True)


RECURRENT, CHUNKED = naive_simple("naive_recurrent_simple_gla"), naive_simple("naive_chunk_simple_gla")
LINEAR_ORACLES = {
    ("none", "linear_attn"): naive_linear,
    ("none", "recurrent_simple_gla"): RECURRENT,
    ("fixed", "recurrent_simple_gla"): RECURRENT,
    ("fixed", "chunk_simple_gla"): CHUNKED,
    ("retention", "recurrent_simple_gla"): RECURRENT,
    ("scalar", "recurrent_simple_gla"): RECURRENT,
    ("scalar", "chunk_simple_gla"): CHUNKED,
    ("vector", "recurrent_gla"): naive_vector,
}


@functools.cache
def linear_truth(kind, name, T):
    given = narrow(linear_inputs(T, kind), torch.float64)
    with InFloat64():
        return results(LINEAR_ORACLES[kind, name], given)


@lengths
@pytest.mark.parametrize(("kind", "name"), LINEAR_ORACLES, ids=lambda x: x)
@pytest.mark.parametrize(("ours", "dtype", "limit"), LINEAR)
def test_linear_attention_is_the_package_s_in_output_state_and_gradients(ours, dtype, limit, kind, name, T):
    want = linear_truth(kind, name, T)
    call = lambda q, k, v, state, decay=None: ours(q, k, v, state=state, decay=decay)  # noqa: E731
    assert_agree(results(call, narrow(linear_inputs(T, kind), dtype)), want, limit)


@lengths
def test_retention_is_the_package_s_with_the_decays_of_retnet(T):
    """`naive_retention` makes its decays itself, in float32, and starts empty."""
    ops = package("fla.ops.retention.naive")
    q, k, v = (linear_inputs(T, "none")[name] for name in "qkv")
    with InFloat64():
        want = ops.naive_retention(*(t.transpose(1, 2) for t in (q, k, v))).transpose(1, 2)
    decay = torch.log1p(-torch.exp2(-5.0 - torch.arange(H, dtype=torch.float64)))
    torch.testing.assert_close(fixed_log_decay(H).double(), decay, atol=1e-8, rtol=1e-6)
    got, _ = linear_attention(q, k, v, decay, scale=K**-0.5)
    assert_agree({"output": got}, {"output": want}, EXACT)


# --- the delta rule --------------------------------------------------------------------------------------------------

KEYS = ("random", "reflections")  # equal keys with a beta just below 2: what --neg_eigen allows


def delta_inputs(T, keys, gated):
    q, k, v = draw(B, T, H, K, seed=1), draw(B, T, H, K, seed=2), draw(B, T, H, V, seed=3)
    k = k[:, :1].expand_as(k) if keys == "reflections" else k
    beta = torch.rand(B, T, H, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    beta = 1.999 + 0 * beta if keys == "reflections" else beta
    tensors = {"q": q, "k": k / k.norm(dim=-1, keepdim=True), "v": v, "beta": beta, "state": draw(B, H, K, V, seed=5)}
    return {**tensors, "decay": log_decay(B, T, H)} if gated else tensors


def naive_delta(q, k, v, beta, state):
    ops = package("fla.ops.delta_rule.naive")  # heads before time, and no scale but K^-1/2
    heads_first = (x.transpose(1, 2) for x in (q * SCALE * K**0.5, k, v, beta))
    o, state = ops.delta_rule_recurrence(*heads_first, state, output_final_state=True)
    return o.transpose(1, 2), state


def naive_gated(name):
    def run(q, k, v, beta, state, decay):
        function = getattr(package("fla.ops.gated_delta_rule.naive"), name)
        return function(q=q, k=k, v=v, beta=beta, g=decay, scale=SCALE, initial_state=state, output_final_state=True)

    return run


DELTA_ORACLES = {
    ("plain", "recurrence"): naive_delta,
    ("gated", "recurrent"): naive_gated("naive_recurrent_gated_delta_rule"),
    ("gated", "chunk"): naive_gated("naive_chunk_gated_delta_rule"),
}


@functools.cache
def delta_truth(kind, name, keys, T):
    given = narrow(delta_inputs(T, keys, kind == "gated"), torch.float64)
    with InFloat64():
        return results(DELTA_ORACLES[kind, name], given)


@lengths
@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize(("kind", "name"), DELTA_ORACLES, ids=lambda x: x)
@pytest.mark.parametrize(("ours", "dtype", "limit"), DELTA)
def test_delta_rule_is_the_package_s_in_output_state_and_gradients(ours, dtype, limit, kind, name, keys, T):
    want = delta_truth(kind, name, keys, T)
    call = lambda q, k, v, beta, state, decay=None: ours(q, k, v, beta, state=state, decay=decay)  # noqa: E731
    assert_agree(results(call, narrow(delta_inputs(T, keys, kind == "gated"), dtype)), want, limit)


@pytest.mark.parametrize("keys", KEYS)
def test_delta_rule_is_the_package_s_chunk_form(keys):
    """`delta_rule_chunkwise` starts empty and takes whole chunks of 32 tokens only."""
    ops = package("fla.ops.delta_rule.naive")
    given = {name: t for name, t in delta_inputs(64, keys, False).items() if name != "state"}

    def theirs(q, k, v, beta):
        o, state = ops.delta_rule_chunkwise(*(x.transpose(1, 2) for x in (q, k, v, beta)))
        return o.transpose(1, 2), state

    with InFloat64():
        want = results(theirs, given)
    assert_agree(results(functools.partial(delta_rule, scale=K**-0.5), given), want, EXACT)


# --- the tests can fail ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("scalar", {"decay": -1.0}),
        ("vector", {"decay": 0.99}),
        ("none", {"k": -1.0}),
        ("fixed", {"state": 0.0}),
    ],
)
def test_the_package_notices_a_linear_attention_that_is_wrong(kind, change):
    """Each change is one that a wrong sign or a forgotten argument would make."""
    name = next(name for k, name in LINEAR_ORACLES if k == kind)

    def wrong(q, k, v, state, decay=None):
        given = {"q": q, "k": k, "v": v, "decay": decay, "state": state}
        given |= {name: given[name] * factor for name, factor in change.items()}
        return linear_attention(**given, scale=SCALE, backend="eager")

    given = narrow(linear_inputs(7, kind), torch.float64)
    given |= {"decay": given["decay"].clamp(min=-1)} if kind != "none" else {}
    with InFloat64():
        want = results(LINEAR_ORACLES[kind, name], given)
    assert largest_difference(results(wrong, given), want)[0] > 1e-3


@pytest.mark.parametrize("change", [{"k": 1.01}, {"beta": -1.0}, {"decay": 0.99}])
def test_the_package_notices_a_delta_rule_that_is_wrong(change):
    def wrong(**given):
        return delta_rule(**{name: t * change.get(name, 1.0) for name, t in given.items()}, scale=SCALE)

    want = delta_truth("gated", "recurrent", "random", 7)
    assert largest_difference(results(wrong, narrow(delta_inputs(7, "random", True), torch.float64)), want)[0] > 1e-3
