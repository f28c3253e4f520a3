"""Mamba-2 against its paper: a float64 loop over time that shares no code with it, and shapes of `mamba_ssm.Mamba2`.

python -m pytest tests/models/test_mamba2.py
"""

import math

import pytest
import torch
import torch.nn.functional as F
from small_models import C, NoTask, decoding_gap, disturb, tokens

from src.flags.fields import UserError
from src.flags.run_flags import resolve
from src.models import parts
from src.models.backbone import build, resolve_auto
from src.models.mamba2 import Mamba2, head_channels
from src.models.state import state_bytes

SMALL = {"d_model": 12, "n_layer": 2, "d_state": 5, "headdim": 6}
CASES = {
    "default": {},
    "two-groups": {"ngroups": 2},
    "no-conv": {"short_conv": 0},
    "wide-conv": {"short_conv": 6},
    "one-tap": {"d_conv": 1},
    "expand-3": {"expand": 3, "headdim": 4, "ngroups": 3},
}


def arguments(**given):
    return resolve(NoTask, Mamba2, **{**SMALL, **given})


def make(seed=0, **given):
    torch.manual_seed(seed)
    return build(Mamba2, C, arguments(**given), 80).eval()


def one_layer(**given):
    return disturb(make(**given).blocks[0].mixer)


def inputs(length, width=12):
    return torch.randn(2, length, width, generator=torch.Generator().manual_seed(3))


def silu(x):
    return x / (1 + torch.exp(-x))


def paper(p, u, args):
    """One sequence u (T, D) float64 through the block of the paper: (T, D)."""
    inner, N, G, P = args.expand * args.d_model, args.d_state, args.ngroups, args.headdim
    n_heads = inner // P
    projected = u @ p["in_proj.weight"].T
    z, xBC, dt = projected[:, :inner], projected[:, inner:-n_heads], projected[:, -n_heads:]
    S, out = torch.zeros(n_heads, P, N, dtype=u.dtype), []
    for t in range(len(u)):
        row = xBC[t]
        if "conv1d.weight" in p:
            kernel = p["conv1d.weight"][:, 0]
            width = kernel.shape[1]
            row = p["conv1d.bias"] + sum(
                kernel[:, i] * xBC[t - width + 1 + i] for i in range(width) if t - width + 1 + i >= 0
            )
        row = silu(row)
        x, B, Q = row[:inner].view(n_heads, P), row[inner : inner + G * N].view(G, N), row[inner + G * N :].view(G, N)
        step = torch.log1p(torch.exp(dt[t] + p["dt_bias"]))
        y = []
        for h in range(n_heads):
            group = h * G // n_heads
            S[h] = torch.exp(-step[h] * torch.exp(p["A_log"][h])) * S[h] + step[h] * torch.outer(x[h], B[group])
            y.append(S[h] @ Q[group] + p["D"][h] * x[h])
        y = (torch.cat(y) * silu(z[t])).view(G, -1)
        y = y / (y.pow(2).mean(dim=1, keepdim=True) + 1e-5).sqrt()
        out.append(y.flatten() * p["norm.weight"])
    return torch.stack(out) @ p["out_proj.weight"].T


def gap(case, length, dtype=torch.float32):
    """Largest difference between the layer and its paper, relative to the largest output."""
    args, mixer, u = resolve_auto(Mamba2, arguments(**CASES[case])), one_layer(**CASES[case]).to(dtype), inputs(length)
    p = {name: value.detach().double() for name, value in mixer.state_dict().items()}
    with torch.no_grad():
        got = mixer(u.to(dtype))
    want = torch.stack([paper(p, row.double(), args) for row in u])
    assert got.dtype == dtype
    return ((got - want).abs().max() / want.abs().max()).item()


@pytest.mark.parametrize("length", [1, 7, 67])
@pytest.mark.parametrize("case", CASES)
def test_layer_equals_its_paper_step_by_step(case, length):
    """float32 against float64 over at most 67 tokens, more than one chunk of 64."""
    assert gap(case, length) <= 1e-4


def test_float64_stays_float64_inside_the_layer():
    assert gap("two-groups", 9, torch.float64) <= 1e-12


@pytest.mark.parametrize(
    "wrong",
    [
        lambda q, k, v, a: (q, k, v, -a),
        lambda q, k, v, a: (k, q, v, a),
        lambda q, k, v, a: (q, k, v, a.roll(1, 1)),
    ],
    ids=["decay-grows", "B-and-C-exchanged", "decay-one-token-late"],
)
def test_comparison_with_the_paper_catches_a_wrong_recurrence(wrong, monkeypatch):
    right = parts.linear_attention
    monkeypatch.setattr(parts, "linear_attention", lambda q, k, v, decay, *rest: right(*wrong(q, k, v, decay), *rest))
    assert gap("default", 67) > 1e-2


@pytest.mark.parametrize("case", CASES)
def test_steps_and_prefills_give_what_forward_gives(case):
    """All steps, one prefill, and prefills from a used state; 2e-5 allows float32 sums in another order."""
    assert decoding_gap(make(**CASES[case]), tokens(2, 71), (), (5,), (1, 2, 69)) <= 2e-5


@pytest.mark.parametrize(
    ("given", "numbers"),
    [
        ({}, 4 * 5 * 6 + 3 * (24 + 10)),
        ({"short_conv": 0}, 4 * 5 * 6),
        ({"d_conv": 1}, 4 * 5 * 6),
        ({"ngroups": 2}, 4 * 5 * 6 + 3 * (24 + 20)),
    ],
)
def test_decoding_state_has_the_bytes_of_the_formula_at_every_position(given, numbers):
    model = make(**given)
    want = 2 * 3 * 4 * numbers  # 2 blocks, 3 sequences, float32
    x, state = tokens(3, 40), model.init_state(3, 40)
    assert state_bytes(state) == want
    with torch.no_grad():
        _, state = model.prefill(x[:, :2], state)
        assert state_bytes(state) == want
        for t in range(2, 40):
            _, state = model.step(x[:, t], state)
    assert state_bytes(state) == want


@pytest.mark.parametrize(("expand", "groups", "d_state"), [(2, 1, 0), (2, 2, 16), (1, 1, 8)])
def test_parameters_have_the_names_and_shapes_of_the_package(expand, groups, d_state):
    mixer = make(d_model=64, headdim=16, expand=expand, ngroups=groups, d_state=d_state).blocks[0].mixer
    inner, N = expand * 64, d_state or 128
    n_heads, channels = inner // 16, inner + 2 * groups * N
    assert {name: tuple(p.shape) for name, p in mixer.state_dict().items()} == {
        "in_proj.weight": (2 * inner + 2 * groups * N + n_heads, 64),
        "conv1d.weight": (channels, 1, 4),
        "conv1d.bias": (channels,),
        "dt_bias": (n_heads,),
        "A_log": (n_heads,),
        "D": (n_heads,),
        "norm.weight": (inner,),
        "out_proj.weight": (64, inner),
    }


def test_initial_gates_lie_in_the_published_ranges():
    mixer = make(d_model=256, headdim=1).blocks[0].mixer
    A, dt = mixer.A_log.exp(), F.softplus(mixer.dt_bias)
    assert 1 <= A.min() < 1.5
    assert 15 < A.max() <= 16.001
    assert 0.00099 < dt.min() < 0.002
    assert 0.05 < dt.max() < 0.101
    assert abs(dt.log().mean() - math.log(0.01)) < 0.2  # log-uniform
    assert torch.equal(mixer.D, torch.ones(512))
    assert torch.equal(mixer.norm.weight, torch.ones(512))
    assert all(p._no_weight_decay and p.dtype == torch.float32 for p in (mixer.A_log, mixer.dt_bias, mixer.D))
    for weight, fan_in in (
        (mixer.in_proj.weight, 256),
        (mixer.out_proj.weight * math.sqrt(SMALL["n_layer"]), 512),
        (mixer.conv1d.weight, 4),
        (mixer.conv1d.bias, 4),
    ):
        assert 0.9 * fan_in**-0.5 < weight.abs().max() <= fan_in**-0.5


def test_one_seed_gives_one_initialisation():
    first, second, other = (make(seed=s).state_dict() for s in (3, 3, 4))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["blocks.0.mixer.A_log"], other["blocks.0.mixer.A_log"])


def test_published_block_has_no_mlp_and_fair_gives_it_one():
    block = make().blocks[0]
    assert block.mlp is None
    assert isinstance(block.norm1, torch.nn.RMSNorm)
    assert block.mixer.conv1d.weight.shape[-1] == 4
    fair = make(fair=True, d_conv=2).blocks[0]
    assert fair.mlp.up.out_features == 4 * 12
    assert fair.mixer.conv1d is None  # the block's convolution, which all layers share, is in its place
    assert fair.conv.weight.shape == (12, 4)


@pytest.mark.parametrize(
    ("inner", "headdim", "want"), [(128, 0, 64), (16, 0, 16), (100, 0, 50), (134, 0, 2), (96, 24, 24)]
)
def test_head_size_is_the_largest_divisor_up_to_64_unless_given(inner, headdim, want):
    assert head_channels(inner, headdim) == want


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"headdim": 7}, "--headdim: got 7, allowed: a divisor of the inner width 24.*try --headdim 6"),
        ({"ngroups": 3}, "--ngroups: got 3, allowed: a divisor of the 4 heads"),
    ],
)
def test_sizes_that_do_not_fit_are_a_user_error(given, told):
    with pytest.raises(UserError, match=told):
        make(**given)


@pytest.mark.parametrize("ngroups", [1, 2])
def test_the_op_gets_queries_and_keys_once_per_group(ngroups, monkeypatch):
    model = make(ngroups=ngroups)
    mixer, given = model.blocks[0].mixer, []
    attend = mixer._attend
    monkeypatch.setattr(mixer, "_attend", lambda q, k, v, *rest: given.append((q, k, v)) or attend(q, k, v, *rest))
    model(tokens(2, 9))
    heads, states, channels = mixer.memory
    assert [tuple(x.shape[2:]) for x in given[0]] == [(ngroups, states)] * 2 + [(heads, channels)]


@pytest.mark.parametrize("d_model", [1, 7, 8])
def test_small_widths_work_and_every_parameter_learns(d_model):
    model = make(d_model=d_model, headdim=0).train()
    model(tokens(2, 13)).square().mean().backward()
    for parameter, p in model.named_parameters():
        assert p.grad is not None, parameter
        assert 0 < p.grad.abs().max() < math.inf, parameter


@pytest.mark.parametrize("kind", ["x100", "zeros"])
def test_extreme_inputs_give_finite_outputs_and_gradients(kind):
    mixer = one_layer()
    u = (inputs(70) * (100 if kind == "x100" else 0)).requires_grad_()
    y = mixer(u)
    y.square().mean().backward()
    assert torch.isfinite(y).all()
    assert torch.isfinite(u.grad).all()


def test_autocast_keeps_the_state_in_float32_and_the_output_near():
    """bf16 has 8 bits: a few per cent over 40 tokens."""
    mixer, u = one_layer(), inputs(40)
    with torch.no_grad():
        want = mixer(u)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got, state = mixer.prefill(u[:, :39], mixer.init_state(2, 40))
            last, state = mixer.step(u[:, 39], state)
    assert all(part.dtype == torch.float32 for part in state)
    assert (torch.cat([got, last[:, None]], dim=1).float() - want).abs().max() <= 0.06 * want.abs().max()
