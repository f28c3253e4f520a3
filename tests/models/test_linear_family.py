"""The linear-attention family against its papers: a float64 loop over time per layer, which shares no code with it.

python -m pytest tests/models/test_linear_family.py
"""

import math

import pytest
import torch
import torch.nn.functional as F
from small_models import C, NoTask, decoding_gap, disturb, tokens

from src.flags.fields import UserError
from src.flags.run_flags import resolve
from src.models import deltanet, linear_attention
from src.models import parts as model_parts
from src.models.backbone import build, hidden_width, resolve_auto
from src.models.deltanet import DeltaNet, GatedDeltaNet
from src.models.gla import GLA
from src.models.linear_attention import FEATURES, LinearAttention
from src.models.parts import apply_rotary
from src.models.retnet import RetNet, angle_rates
from src.models.state import state_bytes

D, H = 12, 2
DECAYS = ("none", "fixed", "scalar", "vector")
MAPS = tuple(FEATURES)


def arguments(layer, **given):
    small = {"feature_dim": 3} if layer is LinearAttention else {}
    return resolve(NoTask, layer, **{"d_model": D, "n_layer": 2, "n_head": H, **small, **given})


def make(layer, seed=0, **given):
    torch.manual_seed(seed)
    return build(layer, C, arguments(layer, **given), 80).eval()


def one_layer(layer, **given):
    return disturb(make(layer, **given).blocks[0].mixer)


def inputs(length, batch=2, seed=3, width=D):
    return torch.randn(batch, length, width, generator=torch.Generator().manual_seed(seed))


# --- the papers, one sequence at a time: x (T, D) float64 -> y (T, D) ------------------------------------------------


def silu(x):
    return x / (1 + torch.exp(-x))


def sigmoid(x):
    return 1 / (1 + torch.exp(-x))


def rms(x, weight):
    return x / (x.pow(2).mean() + 1e-5).sqrt() * weight


def convolved(x, weight, activate):
    """x (T, channels), weight (channels, width): one kernel per channel, zeros before the first token."""
    width = weight.shape[1]
    rows = []
    for t in range(len(x)):
        row = sum(weight[:, i] * x[t - width + 1 + i] for i in range(width) if t - width + 1 + i >= 0)
        rows.append(silu(row) if activate else row)
    return torch.stack(rows)


def heads(x, size):
    """(T, H size) -> (T, H, size)."""
    return x.reshape(len(x), -1, size)


def parts(p, x, name, sizes):
    """The projection `name` of x, split into these sizes."""
    y = x @ p[name + ".weight"].T
    y = y + p[name + ".bias"] if name + ".bias" in p else y
    return y.split(list(sizes), dim=-1)


def features_of(x, kind):
    if kind == "elu":
        return torch.where(x > 0, x + 1, torch.exp(x))
    if kind == "relu":
        return torch.where(x > 0, x, torch.zeros_like(x))
    if kind == "identity":
        return x
    n = len(x)
    second = [x[i] * x[j] / math.sqrt(2 * n) for i in range(n) for j in range(n)]
    return torch.stack([torch.ones((), dtype=x.dtype), *(x / n**0.25), *second])


def linear_attention_paper(p, x, args):
    size, taylor = D // H, args.feature_map == "taylor"
    key = args.feature_dim if taylor else size
    q, k, v = parts(p, x, "qkv", (H * key, H * key, H * size))
    if "conv.weight" in p:
        q, k, v = convolved(torch.cat([q, k, v], dim=-1), p["conv.weight"], False).split(
            [H * key, H * key, H * size], dim=-1
        )
    q, k, v = heads(q, key), heads(k, key), heads(v, size)
    n = 1 + key + key * key if taylor else key
    out = []
    S, z = torch.zeros(H, n, size, dtype=x.dtype), torch.zeros(H, n, dtype=x.dtype)
    for t in range(len(x)):
        row = []
        for h in range(H):
            a = decay_of(p, x[t], args.decay, h, n)
            phi_q, phi_k = features_of(q[t, h], args.feature_map), features_of(k[t, h], args.feature_map)
            S[h] = a[:, None] * S[h] + torch.outer(phi_k, v[t, h])
            z[h] = a * z[h] + phi_k
            if args.feature_map == "identity":
                row.append(rms(phi_q @ S[h] / math.sqrt(key), p["norm.weight"]))
            else:
                row.append(phi_q @ S[h] / (phi_q @ z[h] + 1e-6))
        out.append(torch.cat(row))
    return torch.stack(out) @ p["out.weight"].T + p["out.bias"]


def decay_of(p, x, kind, h, n):
    """The factors (n,) of head h at input x (D,)."""
    if kind == "none":
        return torch.ones(n, dtype=x.dtype)
    if kind == "fixed":
        return torch.full((n,), 1 - 2.0 ** (-5 - h), dtype=x.dtype)
    if kind == "scalar":
        gate = x @ p["gate.weight"].T + p["gate.bias"]
        return sigmoid(gate[h]) ** (1 / 16) * torch.ones(n, dtype=x.dtype)
    gate = x @ p["gate.0.weight"].T @ p["gate.1.weight"].T + p["gate.1.bias"]
    return sigmoid(gate[h * n : (h + 1) * n]) ** (1 / 16)


def gla_paper(p, x, args):
    K, V = D // 2 // H, D // H
    q, k, v, g = parts(p, x, "qkvg", (H * K, H * K, H * V, H * V))
    if "conv.weight" in p:
        q, k, v = convolved(torch.cat([q, k, v], dim=-1), p["conv.weight"], True).split([H * K, H * K, H * V], dim=-1)
    q, k, v = heads(q, K), heads(k, K), heads(v, V)
    S, out = torch.zeros(H, K, V, dtype=x.dtype), []
    for t in range(len(x)):
        row = []
        for h in range(H):
            a = decay_of(p, x[t], "vector", h, K)
            S[h] = torch.diag(a) @ S[h] + torch.outer(k[t, h], v[t, h])
            row.append(rms(q[t, h] @ S[h] / math.sqrt(K), p["norm.weight"]))
        out.append(torch.cat(row) * silu(g[t]))
    return torch.stack(out) @ p["out.weight"].T


def delta_paper(p, x, args, K, V, gated):
    q, k, v = parts(p, x, "qkv", (H * K, H * K, H * V))
    joint = torch.cat([q, k, v], dim=-1)
    joint = convolved(joint, p["conv.weight"], True) if "conv.weight" in p else silu(joint)
    q, k, v = joint.split([H * K, H * K, H * V], dim=-1)
    q, k, v = heads(q, K), heads(k, K), heads(v, V)
    S, eye, out = torch.zeros(H, K, V, dtype=x.dtype), torch.eye(K, dtype=x.dtype), []
    for t in range(len(x)):
        beta = sigmoid(p["beta.weight"] @ x[t]) * (2 if args.neg_eigen else 1)
        alpha = torch.ones(H, dtype=x.dtype)
        if gated:
            alpha = torch.exp(-torch.exp(p["A_log"]) * torch.log1p(torch.exp(p["alpha.weight"] @ x[t] + p["dt_bias"])))
        row = []
        for h in range(H):
            key, query = (u / (u @ u + 1e-6).sqrt() for u in (k[t, h], q[t, h]))
            S[h] = alpha[h] * (eye - beta[h] * torch.outer(key, key)) @ S[h] + beta[h] * torch.outer(key, v[t, h])
            row.append(rms(query @ S[h] / math.sqrt(K), p["norm.weight"]))
        y = torch.cat(row)
        out.append(y * silu(p["gate.weight"] @ x[t]) if gated else y)
    return torch.stack(out) @ p["out.weight"].T


def deltanet_paper(p, x, args):
    return delta_paper(p, x, args, D // H, D // H, gated=False)


def gated_deltanet_paper(p, x, args):
    return delta_paper(p, x, args, math.ceil(0.75 * D / H), math.ceil(1.5 * D / H), gated=True)


def retnet_paper(p, x, args):
    K, V = D // H, 2 * D // H
    q, k, v, g = parts(p, x, "qkvg", (H * K, H * K, H * V, H * V))
    if "conv.weight" in p:
        q, k, v = convolved(torch.cat([q, k, v], dim=-1), p["conv.weight"], True).split([H * K, H * K, H * V], dim=-1)
    q, k, v = heads(q, K), heads(k, K), heads(v, V)
    S, out = torch.zeros(H, K, V, dtype=x.dtype), []
    for t in range(len(x)):
        rotation = torch.zeros(K, K, dtype=x.dtype)
        for i in range(K // 2):
            angle = t * 10_000.0 ** (-i / (K / 2 - 1))
            rotation[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = torch.tensor(
                [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
            )
        row = []
        for h in range(H):
            S[h] = (1 - 2.0 ** (-5 - h)) * S[h] + torch.outer(rotation @ k[t, h] / math.sqrt(K), v[t, h])
            o = (rotation @ q[t, h]) @ S[h]
            o = o - o.mean()
            row.append(o / (o.pow(2).mean() + 1e-6).sqrt())
        out.append(torch.cat(row) * silu(g[t]))
    return torch.stack(out) @ p["out.weight"].T


CASES = {
    **{
        f"linear-{m}-{d}": (LinearAttention, linear_attention_paper, {"feature_map": m, "decay": d})
        for m in MAPS
        for d in DECAYS
    },
    "linear-conv": (LinearAttention, linear_attention_paper, {"short_conv": 3}),
    "gla": (GLA, gla_paper, {}),
    "gla-conv": (GLA, gla_paper, {"short_conv": 4}),
    "deltanet": (DeltaNet, deltanet_paper, {}),
    "deltanet-neg": (DeltaNet, deltanet_paper, {"neg_eigen": True}),
    "deltanet-no-conv": (DeltaNet, deltanet_paper, {"short_conv": 0}),
    "gated_deltanet": (GatedDeltaNet, gated_deltanet_paper, {}),
    "gated_deltanet-neg": (GatedDeltaNet, gated_deltanet_paper, {"neg_eigen": True}),
    "gated_deltanet-no-conv": (GatedDeltaNet, gated_deltanet_paper, {"short_conv": 0}),
    "retnet": (RetNet, retnet_paper, {}),
    "retnet-conv": (RetNet, retnet_paper, {"short_conv": 2}),
}
LAYERS = {
    "linear": LinearAttention,
    "gla": GLA,
    "deltanet": DeltaNet,
    "gated_deltanet": GatedDeltaNet,
    "retnet": RetNet,
}


def gap(case, length, dtype=torch.float32):
    """Largest difference between the layer and its paper, relative to the largest output."""
    layer, paper, given = CASES[case]
    args = resolve_auto(layer, arguments(layer, **given))
    mixer = one_layer(layer, **given).to(dtype)
    p = {name: value.detach().double() for name, value in mixer.state_dict().items()}
    x = inputs(length)
    with torch.no_grad():
        got = mixer(x.to(dtype))
    want = torch.stack([paper(p, row.double(), args) for row in x])
    assert got.dtype == dtype
    return ((got - want).abs().max() / want.abs().max()).item()


@pytest.mark.parametrize("length", [1, 7, 67])
@pytest.mark.parametrize("case", CASES)
def test_layer_equals_its_paper_step_by_step(case, length):
    """float32 against float64 over at most 67 tokens, more than one chunk of 64."""
    assert gap(case, length) <= 1e-4


@pytest.mark.parametrize("case", ["linear-elu-vector", "linear-identity-scalar", "gla", "deltanet", "gated_deltanet"])
def test_float64_stays_float64_inside_the_layer(case):
    """One float32 operation would leave 1e-7. Fixed decays are float32 constants, so their cases are not listed."""
    assert gap(case, 9, torch.float64) <= 1e-12


@pytest.mark.parametrize("case", ["linear-elu-fixed", "linear-relu-scalar", "linear-identity-vector", "gla", "retnet"])
def test_comparison_with_the_paper_catches_a_decay_of_the_wrong_sign(case, monkeypatch):
    right = model_parts.linear_attention
    monkeypatch.setattr(model_parts, "linear_attention", lambda q, k, v, decay, *rest: right(q, k, v, -decay, *rest))
    assert gap(case, 67) > 1e-2


@pytest.mark.parametrize(
    ("case", "wrong"),
    [("deltanet", lambda beta, decay: (beta / 2, decay)), ("gated_deltanet", lambda beta, decay: (beta, -decay))],
)
def test_comparison_with_the_paper_catches_a_wrong_gate_of_the_delta_rule(case, wrong, monkeypatch):
    right = deltanet.delta_rule
    monkeypatch.setattr(
        deltanet, "delta_rule", lambda q, k, v, beta, decay, *rest: right(q, k, v, *wrong(beta, decay), *rest)
    )
    assert gap(case, 67) > 1e-2


# --- decoding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [c for c in CASES if "linear" not in c or c.endswith(("conv", "vector", "fixed"))])
def test_steps_and_prefills_give_what_forward_gives(case):
    """All steps, one prefill, and prefills from a used state.

    Logits are near 1. 5e-5 allows float32 sums in another order: 2.5e-5 measured, 2e-14 in float64.
    """
    layer, _, given = CASES[case]
    assert decoding_gap(disturb(make(layer, **given)), tokens(2, 71), (), (5,), (1, 2, 69)) <= 5e-5


@pytest.mark.parametrize("name", LAYERS)
def test_decoding_test_fails_for_a_state_that_is_forgotten(name):
    model = disturb(make(LAYERS[name]))
    mixer = model.blocks[0].mixer
    right = mixer.step
    mixer.step = lambda x, state: (right(x, state)[0], mixer.init_state(len(x), 0))
    assert decoding_gap(model, tokens(2, 71), (5,)) > 1e-3


SIZES = {  # numbers in the state of one sequence at d_model 32 and 4 heads: memory, and the last three q, k, v
    ("linear", ()): 4 * 8 * (8 + 1),
    ("linear", (("feature_map", "taylor"), ("decay", "vector"))): 4 * (1 + 3 + 9) * (8 + 1),
    ("linear", (("feature_map", "identity"),)): 4 * 8 * 8,
    ("gla", ()): 4 * 4 * 8,
    ("gla", (("short_conv", 4),)): 4 * 4 * 8 + 3 * 4 * (4 + 4 + 8),
    ("deltanet", ()): 4 * 8 * 8 + 3 * 4 * (8 + 8 + 8),
    ("deltanet", (("short_conv", 0),)): 4 * 8 * 8,
    ("gated_deltanet", ()): 4 * 6 * 12 + 3 * 4 * (6 + 6 + 12),
    ("retnet", ()): 4 * 8 * 16,
}


@pytest.mark.parametrize(("name", "given"), SIZES)
def test_decoding_state_has_the_bytes_of_the_formula_at_every_position(name, given):
    model = make(LAYERS[name], d_model=32, n_head=4, **dict(given))
    want = 2 * 3 * 4 * SIZES[name, given]  # 2 blocks, 3 sequences, float32
    x, state = tokens(3, 40), model.init_state(3, 40)
    assert state_bytes(state) == want
    with torch.no_grad():
        _, state = model.prefill(x[:, :2], state)
        assert state_bytes(state) == want
        for t in range(2, 40):
            _, state = model.step(x[:, t], state)
    assert state_bytes(state) == want


# --- sizes, flags, initialisation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_head", [1, pytest.param(2, marks=pytest.mark.slow), 4])
@pytest.mark.parametrize("name", LAYERS)
def test_width_8_works_with_any_head_count_and_every_parameter_learns(name, n_head):
    model = disturb(make(LAYERS[name], d_model=8, n_head=n_head)).train()
    model(tokens(2, 13)).square().mean().backward()
    for parameter, p in model.named_parameters():
        assert p.grad is not None, parameter
        assert 0 < p.grad.abs().max() < math.inf, parameter


@pytest.mark.parametrize("name", LAYERS)
def test_heads_that_do_not_fit_are_a_user_error_that_names_the_flag(name):
    with pytest.raises(UserError, match="--n_head: got 3, allowed: a divisor of --d_model 8"):
        make(LAYERS[name], d_model=8, n_head=3)


def test_retention_needs_pairs_of_key_channels():
    with pytest.raises(UserError, match="--n_head: got 4, which gives heads of 3 key channels"):
        make(RetNet, d_model=12, n_head=4)


def test_published_widths_and_their_flags():
    """Keys and values of one head at d_model 64 and 4 heads."""
    sizes = {GLA: (8, 16), DeltaNet: (16, 16), GatedDeltaNet: (12, 24), RetNet: (16, 32)}
    for layer, (K, V) in sizes.items():
        assert make(layer, d_model=64, n_head=4).blocks[0].mixer.memory == (4, K, V)
        assert make(layer, d_model=64, n_head=4, expand_k=0.5, expand_v=0.3).blocks[0].mixer.memory == (4, 8, 5)
    assert make(GatedDeltaNet, d_model=8, n_head=4).blocks[0].mixer.memory == (4, 2, 3)


@pytest.mark.parametrize(
    ("name", "norm", "mlp", "ffn", "conv"),
    [
        ("linear", "layer", "gelu", 4, 0),
        ("gla", "rms", "swiglu", 4, 0),
        ("deltanet", "rms", "swiglu", 4, 4),
        ("gated_deltanet", "rms", "swiglu", 4, 4),
        ("retnet", "layer", "gelu", 2, 0),
    ],
)
def test_auto_means_the_published_block(name, norm, mlp, ffn, conv):
    layer = LAYERS[name]
    got = resolve_auto(layer, arguments(layer))
    assert (got.norm, got.mlp, got.dim_ffn, got.short_conv) == (norm, mlp, hidden_width(mlp, ffn * D), conv)


@pytest.mark.parametrize("name", LAYERS)
def test_one_seed_gives_one_initialisation(name):
    first, second, other = (make(LAYERS[name], seed=s).state_dict() for s in (3, 3, 4))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first if "mixer" in key)


def test_initial_weights_are_xavier_of_the_separate_maps():
    """Uniform in +- 2^-2.5 sqrt(6 / (in + out)), where out is the size of q, k, v or g and not of the fused map."""

    def bound(out, gain=2**-2.5):
        return gain * math.sqrt(6 / (64 + out))

    gla, ret = (make(layer, d_model=64, n_head=4).blocks[0].mixer for layer in (GLA, RetNet))
    for weight, sizes in (
        (gla.qkvg.weight, (32, 32, 64, 64)),
        (ret.qkvg.weight, (64, 64, 128, 128)),
    ):
        for part, size in zip(weight.split(list(sizes)), sizes, strict=True):
            assert 0.97 * bound(size) < part.abs().max() <= bound(size)
    assert 0.97 * bound(64) < gla.out.weight.abs().max() <= bound(64)
    assert 0.97 * bound(128, 1.0) < ret.out.weight.abs().max() <= bound(128, 1.0)
    assert gla.gate[1].bias.abs().max() == 0


def test_initial_gates_of_gated_deltanet_lie_in_the_published_ranges():
    mixer = make(GatedDeltaNet, d_model=512, n_head=512).blocks[0].mixer
    A, dt = mixer.A_log.exp(), F.softplus(mixer.dt_bias)
    assert 0 < A.min() < 1
    assert 15 < A.max() <= 16
    assert 0.00099 < dt.min() < 0.002
    assert 0.05 < dt.max() < 0.101
    assert abs(dt.log().mean() - math.log(0.01)) < 0.2  # log-uniform
    assert all(p._no_weight_decay and p.dtype == torch.float32 for p in (mixer.A_log, mixer.dt_bias))


@pytest.mark.parametrize("n_head", [1, 4, 30])
def test_fixed_decays_are_those_of_the_paper(n_head):
    want = torch.tensor([math.log1p(-(2.0 ** (-5 - h))) for h in range(n_head)])
    torch.testing.assert_close(model_parts.fixed_log_decay(n_head), want, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bias", [True, False])
def test_bias_flag_changes_the_bare_block_only(bias):
    bare, gla = (make(layer, bias=bias).blocks[0].mixer for layer in (LinearAttention, GLA))
    assert (bare.qkv.bias is not None) == (bare.out.bias is not None) == bias
    assert [linear.bias is None for linear in (gla.qkvg, gla.out, gla.gate[0], gla.gate[1])] == [
        True,
        True,
        True,
        False,
    ]


# --- properties ------------------------------------------------------------------------------------------------------


def transition(mixer, x):
    """The matrix (K, K) that one token x (D,) multiplies the memory of head 0 by."""
    h, K, V = mixer.memory
    probe = torch.zeros(1, h, K, V)
    probe[:, :, :, :K] = torch.eye(K)
    window = mixer.conv.init_state(1)
    with torch.no_grad():
        after = [
            mixer.step(x[None], (memory.clone(), window.clone()))[1][0] for memory in (probe, torch.zeros_like(probe))
        ]
    return (after[0] - after[1])[0, 0, :, :K]


@pytest.mark.parametrize("layer", [DeltaNet, GatedDeltaNet])
def test_neg_eigen_reaches_eigenvalues_below_zero(layer):
    lowest = {}
    for neg_eigen in (False, True):
        mixer = one_layer(layer, neg_eigen=neg_eigen)
        values = torch.stack([torch.linalg.eigvals(transition(mixer, x)).real for x in inputs(50)[0]])
        assert values.abs().max() <= 1 + 1e-5
        lowest[neg_eigen] = values.min().item()
    assert lowest[False] > -1e-5
    assert lowest[True] < -0.3


@pytest.mark.parametrize("decay", DECAYS)
def test_relu_features_that_are_all_zero_give_zero_and_finite_gradients(decay):
    mixer = make(LinearAttention, feature_map="relu", decay=decay).blocks[0].mixer
    with torch.no_grad():
        mixer.qkv.bias[:D] = -100.0  # every query feature is max(negative, 0)
    x = inputs(9).requires_grad_()
    y = mixer(x)
    torch.testing.assert_close(y, mixer.out.bias.expand_as(y))
    y.square().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in mixer.parameters())


@pytest.mark.parametrize("kind", ["x100", "zeros", "repeated"])
@pytest.mark.parametrize("case", CASES)
def test_extreme_inputs_give_finite_outputs_and_gradients(case, kind):
    layer, _, given = CASES[case]
    mixer = one_layer(layer, **given)
    x = (
        {"x100": inputs(70) * 100, "zeros": torch.zeros(2, 70, D), "repeated": inputs(1).expand(2, 70, D)}[kind]
        .clone()
        .requires_grad_()
    )
    y = mixer(x)
    y.square().mean().backward()
    assert torch.isfinite(y).all()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("name", LAYERS)
def test_autocast_keeps_the_state_in_float32_and_the_output_near(name):
    """bf16 has 8 bits: a few per cent over 40 tokens."""
    mixer, x = one_layer(LAYERS[name]), inputs(40)
    with torch.no_grad():
        want = mixer(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            state = mixer.init_state(2, 40)
            got, state = mixer.prefill(x[:, :39], state)
            last, state = mixer.step(x[:, 39], state)
    got = torch.cat([got, last[:, None]], dim=1).float()
    assert all(part.dtype == torch.float32 for part in state if isinstance(part, torch.Tensor))
    assert (got - want).abs().max() <= 0.06 * want.abs().max()


def test_taylor_features_give_the_second_order_expansion_of_exp():
    q, k = inputs(2, width=5)[0]
    s = (q @ k) / math.sqrt(5)
    torch.testing.assert_close(linear_attention.taylor(q) @ linear_attention.taylor(k), 1 + s + s * s / 2)


def test_retention_depends_on_distances_only():
    """A query at position 7 and a key at 2 have the product of those at 47 and 42. At 8 and 2 it is another."""
    q, k = inputs(2, width=8)[0].view(2, 1, 1, 1, 8)
    rates = angle_rates(q)

    def score(at_q, at_k):
        return (apply_rotary(q, at_q, rates) * apply_rotary(k, at_k, rates)).sum()

    torch.testing.assert_close(score(7, 2), score(47, 42), atol=1e-4, rtol=1e-4)
    assert (score(8, 2) - score(7, 2)).abs() > 1e-2
