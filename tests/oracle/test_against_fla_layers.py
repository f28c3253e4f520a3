"""GLA, DeltaNet, Gated DeltaNet and linear attention against flash-linear-attention's layers with the same weights.

    python -m pytest -m oracle tests/oracle/test_against_fla_layers.py

The package's layers run on a CPU: a `naive` or `_ref` function of the package, or its formula in torch, takes the place
of each Triton kernel. Their code runs in float64.
"""

import inspect

import pytest
import torch
import torch.nn.functional as F
from oracles import EXACT, InFloat64, assert_agree, draw, largest_difference, outputs_and_gradients, package
from small_models import NoTask, disturb

from src.flags.run_flags import resolve
from src.models.backbone import resolve_auto
from src.models.deltanet import DeltaNet, GatedDeltaNet
from src.models.gla import GLA
from src.models.linear_attention import LinearAttention

pytestmark = pytest.mark.oracle

D, H = 16, 2
LENGTHS = (2, 7, 65, 257)  # with one token a normalised layer returns v, and queries and keys have no gradient
CASES = {
    "gla": (GLA, {}),
    "gla, short_conv 4": (GLA, {"short_conv": 4}),
    "deltanet": (DeltaNet, {}),
    "deltanet, neg_eigen": (DeltaNet, {"neg_eigen": True}),
    "deltanet, no convolution": (DeltaNet, {"short_conv": 0}),
    "gated_deltanet": (GatedDeltaNet, {}),
    "gated_deltanet, neg_eigen": (GatedDeltaNet, {"neg_eigen": True}),
    "linear_attention, elu": (LinearAttention, {"bias": False}),
    "linear_attention, relu": (LinearAttention, {"bias": False, "feature_map": "relu"}),
    "linear_attention, identity": (LinearAttention, {"bias": False, "feature_map": "identity"}),
}
# The package adds 1e-10 to the sum that normalises, after a scale of K^-1/2. Katharopoulos et al.'s release and ours
# add 1e-6. The tests give ours the package's number.
NORMALISER_EPS = 1e-10 * (D // H) ** 0.5
cases = pytest.mark.parametrize("name", CASES)


# --- the kernels in plain torch --------------------------------------------------------------------------------------


def unit(x):
    eps = inspect.signature(package("fla.modules.norm.l2norm").l2norm_fwd).parameters["eps"].default
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + eps)


def gla(q, k, v, g=None, gk=None, initial_state=None, output_final_state=False, state_v_first=False, cu_seqlens=None):
    assert cu_seqlens is None
    start = flipped(initial_state, state_v_first)
    naive = package("fla.ops.gla.naive").naive_recurrent_gla
    o, state = naive(q, k, v, g if gk is None else gk, start, output_final_state)
    return o, flipped(state, state_v_first)


def delta(q, k, v, beta, initial_state=None, output_final_state=False, cu_seqlens=None, use_qk_l2norm_in_kernel=False):
    assert cu_seqlens is None
    q, k = (unit(q), unit(k)) if use_qk_l2norm_in_kernel else (q, k)
    naive = package("fla.ops.delta_rule.naive").delta_rule_recurrence
    o, state = naive(*(x.transpose(1, 2) for x in (q, k, v, beta)), initial_state, output_final_state)
    return o.transpose(1, 2), state


def gated_delta(q, k, v, g, beta, A_log, dt_bias, initial_state, output_final_state, cu_seqlens, **switches):
    assert cu_seqlens is None
    negative, state_v_first = switches.pop("allow_neg_eigval"), switches.pop("state_v_first")
    names = ("use_qk_l2norm_in_kernel", "use_beta_sigmoid_in_kernel", "use_gate_in_kernel")
    assert switches == dict.fromkeys(names, True)
    g = package("fla.ops.gated_delta_rule.gate").naive_gdn_gate(g, A_log, dt_bias)
    beta = beta.sigmoid() * (2 if negative else 1)
    start = flipped(initial_state, state_v_first)
    naive = package("fla.ops.gated_delta_rule.naive").naive_recurrent_gated_delta_rule
    o, state = naive(unit(q), unit(k), v, beta, g, None, start, output_final_state)
    return o, flipped(state, state_v_first)


def flipped(state, state_v_first):
    return state if state is None or not state_v_first else state.transpose(-1, -2)


def linear(q, k, v, initial_state=None, output_final_state=False, normalize=True, cu_seqlens=None):
    naive = package("fla.ops.linear_attn.naive").naive_recurrent_linear_attn
    return naive(q, k, v, None, initial_state, output_final_state, normalize)


def convolution(x, weight, bias, activation, initial_state=None, output_final_state=False, backend=None, **others):
    """x (B, T, D), weight (D, W) -> y, and the last W inputs (B, D, W)."""
    assert not any(value is not None for value in others.values())
    x, width = x.transpose(1, 2), weight.shape[1]
    past = x.new_zeros(*x.shape[:2], width) if initial_state is None else initial_state
    x = torch.cat([past, x], dim=-1)
    y = F.conv1d(x[..., 1:], weight[:, None], bias, groups=len(weight)).transpose(1, 2)
    return F.silu(y) if activation else y, x[..., -width:] if output_final_state else None


def norm(x, weight, bias, residual, eps, prenorm, residual_in_fp32):
    assert residual is None
    return package("fla.modules.norm.layernorm").rms_norm_ref(x, weight, bias, eps=eps)


def gated_norm(x, g, weight, bias, activation, residual, prenorm, residual_in_fp32, eps):
    assert residual is None
    assert activation in ("swish", "silu")
    return package("fla.modules.norm.layernorm_gated").rms_norm_ref(x, weight, bias, z=g, eps=eps)


@pytest.fixture
def layers(monkeypatch):
    """The package's layers by the name of our class, without kernels."""
    replaced = {
        "fla.layers.gla": {"chunk_gla": gla, "fused_recurrent_gla": gla},
        "fla.layers.delta_net": {"chunk_delta_rule": delta, "fused_recurrent_delta_rule": delta},
        "fla.layers.gated_deltanet": {"chunk_gated_delta_rule": gated_delta, "causal_conv1d": convolution},
        "fla.layers.linear_attn": {
            "chunk_linear_attn": linear,
            "fused_recurrent_linear_attn": linear,
            "elu_p1": lambda x: F.elu(x) + 1,
        },
        "fla.modules.causal_conv1d.ops": {"causal_conv1d": convolution},
        "fla.modules.norm.layernorm": {"rms_norm": norm},
        "fla.modules.norm.fused_norm_gate": {"rms_norm_gated": gated_norm},
    }
    for module, functions in replaced.items():
        for name, function in functions.items():
            monkeypatch.setattr(package(module), name, function)
    monkeypatch.setattr("src.models.linear_attention.EPS", NORMALISER_EPS)
    names = {GLA: "GatedLinearAttention", DeltaNet: "DeltaNet", GatedDeltaNet: "GatedDeltaNet"}
    names[LinearAttention] = "LinearAttention"
    return {ours: getattr(package("fla.layers"), name) for ours, name in names.items()}


# --- one layer of each, with the same weights ------------------------------------------------------------------------


def pair(layers, name):
    """(our layer, the package's with the same weights), float64; our parameters away from their start."""
    kind, given = CASES[name]
    args = resolve_auto(kind, resolve(NoTask, kind, d_model=D, n_head=H, backend="eager", **given))
    torch.manual_seed(0)
    ours = disturb(kind(args)).double()
    sizes = {"hidden_size": D, "num_heads": H, "layer_idx": 0}
    if kind is LinearAttention:
        identity = args.feature_map == "identity"
        norms = {"output_norm": "rmsnorm" if identity else "identity", "do_feature_map_norm": not identity}
        sizes |= {"feature_map": args.feature_map, **norms}
    else:
        sizes |= {"use_short_conv": args.short_conv > 0, "conv_size": args.short_conv or 4}
    if kind is GatedDeltaNet:
        sizes |= {"head_dim": ours.memory[1], "expand_v": 2}
    if kind in (DeltaNet, GatedDeltaNet):
        sizes |= {"allow_neg_eigval": args.neg_eigen}
    theirs = layers[kind](**sizes).double()
    theirs.load_state_dict(translated(ours, ours.state_dict()))
    return ours, theirs


def translated(ours, tensors):
    """Our parameters, or their gradients, under the package's names and in its shapes. Other entries stay."""
    heads, keys, values = ours.memory
    values -= isinstance(ours, LinearAttention) and ours.norm is None  # the column that sums the features
    sizes = dict(zip("qkvg", (heads * keys, heads * keys, heads * values, heads * values), strict=True))
    gated_norms = isinstance(ours, GLA)
    simple = {"out.weight": "o_proj.weight", "beta.weight": "b_proj.weight", "alpha.weight": "a_proj.weight"}
    simple |= {"gate.weight": "g_proj.weight", "gate.0.weight": "gk_proj.0.weight", "gate.1.weight": "gk_proj.1.weight"}
    simple |= {"gate.1.bias": "gk_proj.1.bias"}
    simple["norm.weight"] = "g_norm_swish_gate.weight" if gated_norms else "o_norm.weight"
    if isinstance(ours, LinearAttention):
        simple["norm.weight"] = "norm.weight"
    result = {}
    for name, tensor in tensors.items():
        if name in ("qkv.weight", "qkvg.weight", "conv.weight"):
            parts = list(sizes)[: 4 if name == "qkvg.weight" else 3]
            for part, rows in zip(parts, tensor.split([sizes[p] for p in parts]), strict=True):
                if name == "conv.weight":
                    result[f"{part}_conv1d.weight"] = rows[:, None]
                else:
                    result[f"{part}_proj.weight"] = rows
        else:
            result[simple.get(name, name)] = tensor
    return result


@pytest.mark.parametrize("T", LENGTHS, ids=lambda t: f"T{t}")
@cases
def test_layer_is_the_package_s_in_output_and_all_gradients(layers, name, T):
    ours, theirs = pair(layers, name)
    x = draw(2, T, D)
    with InFloat64():
        want = outputs_and_gradients(theirs, x, lambda x: theirs(x)[0])
    assert_agree(translated(ours, outputs_and_gradients(ours, x)), want, EXACT)


@pytest.mark.parametrize("T", [1, 2, 7, 65], ids=lambda t: f"T{t}")
@cases
def test_layer_keeps_the_package_s_state_and_decodes_as_it_does(layers, name, T):
    """T tokens at once, then two one by one. The package keeps one more input of the convolution than is needed."""
    ours, theirs = pair(layers, name)
    x = draw(2, T + 2, D)
    cache = package("fla.models.utils").Cache()
    state = ours.init_state(2, T + 2)
    for begin, end in ((0, T), (T, T + 1), (T + 1, T + 2)):
        with InFloat64():
            want, _, cache = theirs(x[:, begin:end], past_key_values=cache, use_cache=True)
        got, state = ours.prefill(x[:, :T], state) if end == T else ours.step(x[:, begin], state)
        got = got if got.dim() == 3 else got[:, None]
        assert_agree({"output": got, **our_state(ours, state)}, {"output": want, **their_state(ours, cache[0])}, EXACT)


def our_state(ours, state):
    memory, *window = state
    if isinstance(ours, LinearAttention) and ours.norm is None:
        return {"memory": memory[..., :-1], "sum of keys": memory[..., -1]}
    return {"memory": memory, **({"window": window[0]} if window else {})}


def their_state(ours, cached):
    memory, windows = cached["recurrent_state"], cached["conv_state"]
    if isinstance(memory, tuple):
        return {"memory": memory[0], "sum of keys": memory[1][:, 0]}
    memory = memory.transpose(-1, -2) if isinstance(ours, (GLA, GatedDeltaNet)) else memory
    return {"memory": memory, **({"window": torch.cat(windows, 1)[..., 1:].transpose(1, 2)} if windows else {})}


WRONG = {
    "gla": ("src.models.gla.log_gate", lambda x: F.logsigmoid(x) / 15),
    "deltanet": (
        "src.models.deltanet.l2_normalize",
        lambda x: x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-2),
    ),
    "gated_deltanet": ("src.models.deltanet.gated", lambda o, g, backend: o.flatten(-2) * g.sigmoid()),
    "linear_attention, elu": ("src.models.linear_attention.EPS", -0.1),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_package_notices_a_layer_that_is_wrong(layers, monkeypatch, name):
    """One planted mistake per layer: another constant, or a sigmoid for SiLU."""
    monkeypatch.setattr(*WRONG[name])
    ours, theirs = pair(layers, name)
    x = draw(2, 7, D)
    with InFloat64():
        want = outputs_and_gradients(theirs, x, lambda x: theirs(x)[0])
    assert largest_difference(translated(ours, outputs_and_gradients(ours, x)), want)[0] > 2e-3
