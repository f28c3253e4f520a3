"""The adapters to GPU packages call the packages' own functions, without a GPU.

    python -m pytest -m oracle tests/oracle/test_adapters.py

The real function runs, with its checks, down to the autograd function that launches kernels. A `naive` or `_ref`
function of the package computes in place of that one, from the arguments that it was given. So a renamed argument, a
missing one, another layout or a refused dtype fails here. What a kernel does with them is a test for a GPU (`-m gpu`).
"""

import inspect

import pytest
import torch
from op_checks import distance, with_gradients
from oracles import draw, package

from src.ops.attention import flash_attn
from src.ops.attention.reference import attention_reference
from src.ops.causal_conv import causal_conv1d
from src.ops.causal_conv.reference import causal_conv_reference
from src.ops.delta_rule import fla as delta_rule_fla
from src.ops.delta_rule.reference import delta_rule_reference
from src.ops.linear_attention import fla as linear_fla
from src.ops.linear_attention.reference import linear_attention_reference
from src.ops.selective_scan import mamba_ssm
from src.ops.selective_scan.reference import selective_scan_reference

pytestmark = pytest.mark.oracle

B, H, K, V = 2, 3, 8, 5
LIMITS = {torch.float32: 1e-5, torch.bfloat16: 3e-2}  # bf16 keeps 8 bits of each output, and gradients sum them
dtypes = pytest.mark.parametrize("dtype", LIMITS, ids=lambda d: str(d).removeprefix("torch."))


def bound(function, args, kwargs) -> dict:
    """The arguments of a call by name. TypeError for one that is missing or unknown, also where `**kwargs` takes it."""
    signature = inspect.signature(function)
    given = signature.bind(*args, **kwargs)
    spare = [n for n, p in signature.parameters.items() if p.kind is p.VAR_KEYWORD and given.arguments.get(n)]
    if spare:
        raise TypeError(f"{function.__name__} does not name {sorted(given.arguments[spare[0]])}")
    given.apply_defaults()
    return given.arguments


class Launch:
    """Takes the place of an autograd function: the same call, computed in torch."""

    def __init__(self, real, compute):
        self.real, self.compute = real, compute

    def apply(self, *args):
        given = bound(self.real.forward, (None, *args), {})
        return self.compute(**{name: value for name, value in given.items() if name != "ctx"})


@pytest.fixture
def watch(monkeypatch):
    """watch(module, function, place of the autograd function, its name, what computes): a log of bound calls."""
    log = []

    def install(module, name, place, launcher, compute):
        module, place = package(module), package(place)
        real = getattr(module, name)

        def recorded(*args, **kwargs):
            given = bound(real, args, kwargs)
            log.append((name, {n: v for n, v in given.items() if v is not None}))
            return real(*args, **kwargs)

        if not isinstance(getattr(place, launcher), Launch):
            monkeypatch.setattr(place, launcher, Launch(getattr(place, launcher), compute))
        monkeypatch.setattr(module, name, recorded)
        return log

    return install


def leaves(dtype, **shapes):
    return {n: draw(*s, seed=i).to(dtype).requires_grad_() for i, (n, s) in enumerate(shapes.items(), 1)}


def compare(run, reference, tensors, limit, *out):
    """Results and gradients of an adapter, called on the tensors by name, against those of our reference."""
    names = list(tensors)

    def call(function):
        return with_gradients(lambda *t: function(**dict(zip(names, t, strict=True))), list(tensors.values()), out)

    assert distance(call(run), call(reference)) <= limit


# --- flash-linear-attention ------------------------------------------------------------------------------------------


def unused(given):
    """The remaining arguments of a launch ask for nothing."""
    assert all(value in (None, False) for name, value in given.items() if name != "chunk_size"), given


def linear_kernel(q, k, v, scale, initial_state, output_final_state, g=None, g_gamma=None, gk=None, **others):
    unused(others)
    vector = gk if gk is not None else g if g is not None and g.dim() == 4 else None
    dtype, q, k, v = q.dtype, q.float() * scale, k.float(), v.float()
    if vector is not None:
        naive = package("fla.ops.gla.naive").naive_recurrent_gla
        o, state = naive(q * K**0.5, k, v, vector, initial_state, output_final_state)
    else:
        decay = next((d for d in (g, g_gamma) if d is not None), q.new_zeros(()))
        naive = package("fla.ops.simple_gla.naive").naive_recurrent_simple_gla
        o, state = naive(q, k, v, decay.expand(q.shape[:3]), 1.0, initial_state, output_final_state)
    return o.to(dtype), state


def delta_kernel(q, k, v, beta, scale, initial_state, output_final_state, g=None, **others):
    unused(others)
    dtype, g = q.dtype, q.new_zeros(q.shape[:3]) if g is None else g
    naive = package("fla.ops.gated_delta_rule.naive").naive_recurrent_gated_delta_rule
    o, state = naive(q.float(), k, v, beta, g, scale, initial_state, output_final_state)
    return o.to(dtype), state


def delta_kernel_without_gradient(**given):
    return tuple(t.detach() for t in delta_kernel(**given))


@pytest.fixture
def fla_log(watch):
    for module, kind in (("simple_gla", "chunk"), ("gla", "chunk")):
        launcher = {"simple_gla": "ChunkSimpleGLAFunction", "gla": "ChunkGLAFunction"}[module]
        watch(f"fla.ops.{module}", f"{kind}_{module}", f"fla.ops.{module}.chunk", launcher, linear_kernel)
        common = "fla.ops.common.fused_recurrent", "FusedRecurrentFunction"
        watch(f"fla.ops.{module}", f"fused_recurrent_{module}", *common, linear_kernel)
    for module, launcher, step in (
        ("delta_rule", "ChunkDeltaRuleFunction", delta_kernel),
        ("gated_delta_rule", "ChunkGatedDeltaRuleFunction", delta_kernel_without_gradient),
    ):
        place = f"fla.ops.{module}"
        watch(place, f"chunk_{module}", f"{place}.chunk", launcher, delta_kernel)
        log = watch(place, f"fused_recurrent_{module}", f"{place}.fused_recurrent", "FusedRecurrentFunction", step)
    return log


def log_decay(kind, T):
    shape = {"fixed": (H,), "scalar": (B, T, H), "vector": (B, T, H, K)}[kind]
    return -torch.rand(shape, generator=torch.Generator().manual_seed(4))


LINEAR_CALLS = {
    ("none", 7): ("fused_recurrent_simple_gla", None),
    ("none", 65): ("chunk_simple_gla", None),
    ("fixed", 7): ("fused_recurrent_simple_gla", "g"),
    ("fixed", 65): ("chunk_simple_gla", "g"),
    ("scalar", 7): ("fused_recurrent_simple_gla", "g"),
    ("scalar", 65): ("chunk_simple_gla", "g"),
    ("vector", 7): ("fused_recurrent_gla", "gk"),
    ("vector", 65): ("chunk_gla", "g"),
}


@dtypes
@pytest.mark.parametrize("start", ["empty", "given"])
@pytest.mark.parametrize(("kind", "T"), LINEAR_CALLS, ids=str)
def test_linear_attention_calls_the_package_as_it_is(fla_log, kind, T, start, dtype):
    tensors = leaves(dtype, q=(B, T, H, K), k=(B, T, H, K), v=(B, T, H, V))
    if kind != "none":
        tensors["decay"] = log_decay(kind, T).requires_grad_()
    if start == "given":
        tensors |= leaves(torch.float32, state=(B, H, K, V))
    absent = dict.fromkeys({"decay", "state"} - tensors.keys())
    compare(
        lambda **given: linear_fla.run(**given, **absent, scale=0.7),
        lambda **given: linear_attention_reference(**given, **absent, scale=0.7),
        tensors,
        LIMITS[dtype],
        draw(B, T, H, V, seed=8),
        draw(B, H, K, V, seed=9),
    )
    ((name, given),) = fla_log
    assert (name, {"g", "gk", "gv", "g_gamma"} & given.keys()) == (
        LINEAR_CALLS[kind, T][0],
        {LINEAR_CALLS[kind, T][1]} - {None},
    )


@pytest.mark.parametrize("T", [7, 65])
def test_a_fixed_decay_without_a_gradient_goes_to_the_package_s_own_argument(fla_log, T):
    q, k, v = (t.detach() for t in leaves(torch.float32, q=(B, T, H, K), k=(B, T, H, K), v=(B, T, H, V)).values())
    got = linear_fla.run(q, k, v, log_decay("fixed", T), None, 1.0)
    want = linear_attention_reference(q, k, v, log_decay("fixed", T))
    assert distance(got, want) <= 1e-5
    assert "g_gamma" in fla_log[0][1]


DELTA_CALLS = {
    ("none", 7, torch.float32, True): "fused_recurrent_delta_rule",
    ("none", 65, torch.float32, True): "fused_recurrent_delta_rule",
    ("none", 7, torch.bfloat16, True): "fused_recurrent_delta_rule",
    ("none", 65, torch.bfloat16, True): "chunk_delta_rule",
    ("scalar", 7, torch.float32, True): "chunk_gated_delta_rule",
    ("scalar", 65, torch.float32, True): "chunk_gated_delta_rule",
    ("scalar", 65, torch.bfloat16, True): "chunk_gated_delta_rule",
    ("scalar", 7, torch.float32, False): "fused_recurrent_gated_delta_rule",
    ("scalar", 7, torch.bfloat16, False): "fused_recurrent_gated_delta_rule",
}


@pytest.mark.parametrize("start", ["empty", "given"])
@pytest.mark.parametrize(("kind", "T", "dtype", "recorded"), DELTA_CALLS, ids=lambda x: str(x).removeprefix("torch."))
def test_delta_rule_calls_the_package_as_it_is(fla_log, kind, T, dtype, recorded, start):
    """A negative scale too: the package's recurrent form refuses one."""
    tensors = leaves(dtype, q=(B, T, H, K), k=(B, T, H, K), v=(B, T, H, V))
    tensors["k"] = torch.nn.functional.normalize(tensors["k"].detach(), dim=-1).requires_grad_()
    tensors["beta"] = (2 * torch.rand(B, T, H, generator=torch.Generator().manual_seed(6))).requires_grad_()
    if kind != "none":
        tensors["decay"] = log_decay(kind, T).requires_grad_()
    if start == "given":
        tensors |= leaves(torch.float32, state=(B, H, K, V))
    absent = dict.fromkeys({"decay", "state"} - tensors.keys())
    run = lambda **given: delta_rule_fla.run(**given, **absent, scale=-0.7)  # noqa: E731
    reference = lambda **given: delta_rule_reference(**given, **absent, scale=-0.7)  # noqa: E731
    if recorded:
        compare(run, reference, tensors, LIMITS[dtype], draw(B, T, H, V, seed=8), draw(B, H, K, V, seed=9))
    else:
        with torch.no_grad():
            assert distance([t.double() for t in run(**tensors)], reference(**tensors)) <= LIMITS[dtype]
    assert [name for name, _ in fla_log] == [DELTA_CALLS[kind, T, dtype, recorded]]


def test_the_package_refuses_what_its_adapter_avoids(fla_log):
    """The reasons for the table in the adapter: they are still true."""
    ops = package("fla.ops.delta_rule")
    q = torch.ones(1, 65, 1, 8)
    with pytest.raises(AssertionError, match="does not support float32"):
        ops.chunk_delta_rule(q=q, k=q, v=q, beta=q[..., 0])
    with pytest.raises(AssertionError, match="positive"):
        ops.fused_recurrent_delta_rule(q=q, k=q, v=q, beta=q[..., 0], scale=-1.0)
    step = package("fla.ops.gated_delta_rule.fused_recurrent").FusedRecurrentFunction.real
    with pytest.raises(NotImplementedError):
        step.backward(None, q, q)


# --- mamba-ssm, causal-conv1d, flash-attn ----------------------------------------------------------------------------


@dtypes
@pytest.mark.parametrize("skip", [True, False], ids=["D", "no D"])
def test_selective_scan_calls_the_package_as_it_is(watch, skip, dtype):
    """The package's last state has no gradient."""
    interface = "mamba_ssm.ops.selective_scan_interface"

    def compute(return_last_state, **given):
        assert all(given[n].stride(-1) == 1 for n in ("u", "delta", "B", "C"))
        y, last = package(interface).selective_scan_ref(**given, return_last_state=True)
        return (y, last.detach()) if return_last_state else y

    log = watch(interface, "selective_scan_fn", interface, "SelectiveScanFn", compute)
    T, E, N = 9, 6, 4
    u, B_, C = (t.to(dtype) for t in (draw(B, T, E), draw(B, T, N, seed=3), draw(B, T, N, seed=4)))
    delta, A = draw(B, T, E, seed=2).exp().float(), -draw(E, N, seed=5).exp().float()
    given = [u, delta.to(dtype), A, B_, C, draw(E, seed=6).float() if skip else None]
    y, last = mamba_ssm.forward(*given, None, False)
    dy = draw(B, T, E, seed=7).to(dtype)
    gradients = mamba_ssm.backward(dy, None, *given, None, False)
    tensors = [t.requires_grad_() for t in given if t is not None]
    want, state = selective_scan_reference(*tensors)
    wanted = torch.autograd.grad(want, tensors, dy.double())
    got = [t.double() for t in (y, last, *gradients) if t is not None]
    assert distance(got, [t.double() for t in (want, state, *wanted)]) <= LIMITS[dtype]
    assert [name for name, _ in log] == ["selective_scan_fn"] * 2


@dtypes
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("start", ["empty", "given"])
def test_causal_conv_calls_the_package_as_it_is(watch, start, activation, dtype):
    interface = package("causal_conv1d.causal_conv1d_interface")

    def compute(x, weight, bias, **given):
        return interface.causal_conv1d_ref(x, weight, bias, **given)

    log = watch("causal_conv1d", "causal_conv1d_fn", interface.__name__, "CausalConv1dFn", compute)
    T, D, width = 9, 6, 4
    tensors = leaves(dtype, x=(B, T, D)) | leaves(torch.float32, weight=(D, width), bias=(D,))
    if start == "given":
        tensors |= leaves(torch.float32, state=(B, width - 1, D))
    absent = dict.fromkeys({"state"} - tensors.keys())
    compare(
        lambda **given: [causal_conv1d.run(**given, **absent, activation=activation)],
        lambda **given: causal_conv_reference(**given, activation=activation)[:1],
        tensors,
        LIMITS[dtype],
        draw(B, T, D, seed=8),
    )
    assert [name for name, _ in log] == ["causal_conv1d_fn"]


@pytest.mark.parametrize(("S", "T", "window"), [(9, 9, 0), (9, 9, 4), (1, 9, 0), (3, 9, 4)])
def test_attention_calls_the_package_as_it_is(watch, monkeypatch, S, T, window):
    """The package has no reference of its own: this one follows the docstring of `flash_attn_func`."""
    monkeypatch.setattr(flash_attn, "_refuse", lambda q, bias: None)  # the tensors are on a CPU

    def compute(q, k, v, dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes, **switches):
        assert (dropout_p, softcap, alibi_slopes, causal) == (0.0, 0.0, None, True)
        assert switches == {"deterministic": False, "return_softmax": False, "is_grad_enabled": True}
        at = torch.arange(S)[:, None] + T - S
        distance_back = at - torch.arange(T)
        seen = (distance_back >= 0) & ((window_size[0] < 0) | (distance_back <= window_size[0]))
        scores = torch.einsum("bshk,bthk->bhst", q.float(), k.float()) * (softmax_scale or q.shape[-1] ** -0.5)
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        return torch.einsum("bhst,bthk->bshk", weights, v.float()).to(q.dtype)

    interface = "flash_attn.flash_attn_interface"
    log = watch("flash_attn", "flash_attn_func", interface, "FlashAttnFunc", compute)
    compare(
        lambda **given: [flash_attn.run(**given, bias=None, window=window, dropout_p=0.0)],
        lambda **given: [attention_reference(**given, window=window)],
        leaves(torch.bfloat16, q=(B, H, S, K), k=(B, H, T, K), v=(B, H, T, K)),
        LIMITS[torch.bfloat16],
        draw(B, H, S, K, seed=8),
    )
    assert [name for name, _ in log] == ["flash_attn_func"]


# --- the tests can fail ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [{"g_gama": None}, {"gate": 1}, {"initial_states": None}])
def test_an_argument_that_the_package_does_not_have_is_noticed(fla_log, wrong):
    """chunk_simple_gla takes any keyword and ignores most: its signature alone would let these pass."""
    q = torch.ones(1, 65, 1, 8)
    ops = package("fla.ops.simple_gla")
    with pytest.raises(TypeError, match=rf"does not name \['{next(iter(wrong))}'\]"):
        ops.chunk_simple_gla(q=q, k=q, v=q, **wrong)


def test_a_missing_argument_is_noticed(fla_log):
    q = torch.ones(1, 65, 1, 8)
    with pytest.raises(TypeError, match="missing a required argument: 'g'"):
        package("fla.ops.gla").chunk_gla(q, q, q)
