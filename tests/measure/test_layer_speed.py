"""How fast the layers are on a CPU, forward and backward: medians, timed alternately, in one process. All are slow.

python -m pytest -m slow tests/measure/test_layer_speed.py -s

- `mamba` against mambapy's parallel scan and its sequential one (`pip install --no-deps mambapy`; skipped without it),
  and against the recurrence stepped through autograd
- the linear-attention family against their own recurrence, stepped through autograd in float32
- how time grows with the length, and what a decoded token takes early and late

The bounds are the project's goals. A machine that is busy with something else can miss them.
"""

import statistics
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

from src.flags.run_flags import resolve
from src.models import MODELS
from src.models.backbone import build, resolve_auto
from src.models.state import state_bytes

pytestmark = pytest.mark.slow

D, N = 128, 16
RECURRENT = [name for name in MODELS if name not in ("transformer", "hybrid", "small_transformer")]
CASES = [
    ("gated_deltanet", {}),
    ("deltanet", {}),
    ("gla", {}),
    *(("linear_attention", {"decay": d}) for d in ("none", "fixed", "scalar", "vector")),
]


class NoTask:
    """A task without flags, which is enough for `resolve`."""

    Config = None


def mixer(name, **given):
    """One mixer of D channels with 4 heads, as the backbone builds it."""
    model_class = MODELS[name].load()
    torch.manual_seed(0)
    return model_class(
        resolve_auto(model_class, resolve(NoTask, model_class, preset={}, d_model=D, n_head=4, dropout=0.0, **given))
    )


def inputs(B, T, seed=0):
    return torch.randn(B, T, D, generator=torch.Generator().manual_seed(seed))


def train(module, x):
    """Forward and backward of a module: a function to time."""

    def call():
        module.zero_grad(set_to_none=True)
        module(x).square().mean().backward()

    return call


def milliseconds(calls: dict, repeats: int = 5, once=()) -> dict[str, float]:
    """Median of each call, timed alternately. The calls named in `once` run once."""
    times = {name: [] for name in calls}
    for name, call in calls.items():
        if name not in once:
            call()
    for repeat in range(repeats):
        for name, call in calls.items():
            if name in once and repeat:
                continue
            began = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in times.items()}


def show(title: str, times: dict[str, float], base: str) -> None:
    print(f"\n{title}  ({torch.get_num_threads()} threads)")
    for name, ms in times.items():
        print(f"  {name:<44}{ms:10.1f} ms{ms / times[base]:9.2f} x")


def told(times: dict[int, float]) -> str:
    """'T 512: 3.1 ms, T 1024: 6.0 ms'."""
    return ", ".join(f"T {T}: {ms:.1f} ms" for T, ms in times.items())


def slope(lengths, times) -> float:
    """Exponent of time in length, least squares on logarithms."""
    return float(np.polyfit(np.log(lengths), np.log(times), 1)[0])


# mamba


def step_by_step(model):
    """The mixer with its scan as a loop over time under autograd, in float32."""

    def forward(x):
        u, z = model.in_proj(x).chunk(2, dim=-1)
        u = nn.functional.silu(model.conv1d(nn.functional.pad(u.transpose(1, 2), (3, 0))).transpose(1, 2))
        step, b, c = model.x_proj(u).split([model.dt_rank, N, N], dim=-1)
        delta = nn.functional.softplus(model.dt_proj(step))
        a = -torch.exp(model.A_log)
        h, rows = u.new_zeros(len(x), u.shape[2], N), []
        for u_t, delta_t, b_t, c_t in zip(u.unbind(1), delta.unbind(1), b.unbind(1), c.unbind(1), strict=True):
            h = torch.exp(delta_t[..., None] * a) * h + (delta_t * u_t)[..., None] * b_t[:, None]
            rows.append((h * c_t[:, None]).sum(-1) + model.D * u_t)
        return model.out_proj(torch.stack(rows, dim=1) * nn.functional.silu(z))

    return forward


def indexed(model):
    """The same loop as it is usually written: all transitions at once, and at each time step one of them by index."""

    def forward(x):
        u, z = model.in_proj(x).chunk(2, dim=-1)
        u = nn.functional.silu(model.conv1d(nn.functional.pad(u.transpose(1, 2), (3, 0))).transpose(1, 2))
        step, b, c = model.x_proj(u).split([model.dt_rank, N, N], dim=-1)
        delta = nn.functional.softplus(model.dt_proj(step))
        transition = torch.exp(delta[..., None] * -torch.exp(model.A_log))
        write = (delta * u)[..., None] * b[:, :, None]
        h, rows = u.new_zeros(len(x), u.shape[2], N), []
        for t in range(x.shape[1]):
            h = transition[:, t] * h + write[:, t]
            rows.append((h * c[:, t, None]).sum(-1) + model.D * u[:, t])
        return model.out_proj(torch.stack(rows, dim=1) * nn.functional.silu(z))

    return forward


class _As(nn.Module):
    """A module with another forward and the same parameters."""

    def __init__(self, module, forward):
        super().__init__()
        self.module, self.forward = module, forward


def test_mamba_against_parallel_scan_and_loops():
    """B 8, T 512, d_model 128, 16 states: 6 times as fast as mambapy's parallel scan, 100 times its sequential one."""
    ours, x = mixer("mamba"), inputs(8, 512)
    with torch.no_grad():
        for other in (step_by_step(ours), indexed(ours)):
            torch.testing.assert_close(other(x[:2, :70]), ours(x[:2, :70]), atol=1e-4, rtol=1e-3)
    calls = {
        "mamba, ours": train(ours, x),
        "loop over time, autograd (unbound)": train(_As(ours, step_by_step(ours)), x),
        "loop over time, autograd (indexed)": train(_As(ours, indexed(ours)), x),
    }
    once = ["loop over time, autograd (indexed)", "mambapy, sequential"]
    try:
        from mambapy.mamba import MambaBlock, MambaConfig
    except ImportError:
        MambaBlock = None
    if MambaBlock is not None:
        for name, parallel in (("mambapy, parallel scan", True), ("mambapy, sequential", False)):
            theirs = MambaBlock(MambaConfig(d_model=D, n_layers=1, d_state=N, pscan=parallel))
            theirs.load_state_dict(ours.state_dict())
            with torch.no_grad():
                torch.testing.assert_close(theirs(x[:2, :70]), ours(x[:2, :70]), atol=1e-4, rtol=1e-3)
            calls[name] = train(theirs, x)
    times = milliseconds(calls, once=once)
    show("mamba mixer, forward + backward, B 8, T 512, d_model 128, 16 states", times, "mamba, ours")
    if MambaBlock is None:
        pytest.skip("mambapy is not installed: pip install --no-deps mambapy")
    assert times["mambapy, parallel scan"] >= 6 * times["mamba, ours"]
    assert times["mambapy, sequential"] >= 100 * times["mamba, ours"]


def test_the_time_of_mamba_grows_in_proportion_to_the_length():
    lengths, model = (512, 1024, 2048, 4096, 8192), mixer("mamba")
    times = milliseconds({T: train(model, inputs(1, T)) for T in lengths}, repeats=7)
    exponent = slope(lengths, list(times.values()))
    print(f"\nmamba, B 1: {told(times)}; exponent {exponent:.2f}")
    assert exponent <= 1.15


# The linear-attention family


def loop_linear(q, k, v, decay=None, state=None, scale=None, backend="auto"):
    """The recurrence of `linear_attention` under autograd, one step at a time, in float32."""
    q, k, v = (x.float() for x in (q, k, v))
    steps = (
        [None] * q.shape[1]
        if decay is None
        else [decay.exp()[:, None, None]] * q.shape[1]
        if decay.dim() == 1
        else [g[..., None] if g.dim() == 3 else g[..., None, None] for g in decay.exp().unbind(1)]
    )
    S, rows = q.new_zeros(len(q), *q.shape[2:], v.shape[-1]) if state is None else state, []
    for q_t, k_t, v_t, g_t in zip(q.unbind(1), k.unbind(1), v.unbind(1), steps, strict=True):
        S = (S if g_t is None else S * g_t) + k_t[..., None] * v_t[..., None, :]
        rows.append((q_t[..., None, :] @ S)[..., 0, :])
    return torch.stack(rows, dim=1) * (1.0 if scale is None else scale), S


def loop_delta(q, k, v, beta, decay=None, state=None, scale=None, backend="auto"):
    """The recurrence of `delta_rule` under autograd, one step at a time, in float32."""
    q, k, v, beta = (x.float() for x in (q, k, v, beta))
    steps = [None] * q.shape[1] if decay is None else [g[..., None, None] for g in decay.exp().unbind(1)]
    S, rows = q.new_zeros(len(q), *q.shape[2:], v.shape[-1]) if state is None else state, []
    for q_t, k_t, v_t, b_t, g_t in zip(q.unbind(1), k.unbind(1), v.unbind(1), beta.unbind(1), steps, strict=True):
        S = S if g_t is None else S * g_t
        error = v_t - (k_t[..., None, :] @ S)[..., 0, :]
        S = S + k_t[..., None] * (b_t[..., None] * error)[..., None, :]
        rows.append((q_t[..., None, :] @ S)[..., 0, :])
    return torch.stack(rows, dim=1) * (1.0 if scale is None else scale), S


LOOPS = {"linear_attention": loop_linear, "delta_rule": loop_delta}


def looped(name, model, monkeypatch):
    """Replace the op of a mixer by the loop, in every file of layers that imported it."""
    op = "delta_rule" if "delta" in name else "linear_attention"
    users = [m for path, m in sys.modules.items() if path.startswith("src.models.") and callable(getattr(m, op, None))]
    assert users
    for module in users:
        monkeypatch.setattr(module, op, LOOPS[op])


@pytest.mark.parametrize(("name", "given"), CASES, ids=str)
def test_family_is_eight_times_its_own_loop(name, given, monkeypatch):
    """B 8, T 1,024, 4 heads of 32: the whole mixer with projections and gates, against itself with the op as a loop."""
    model, x = (
        mixer(name, **given, **({} if name == "linear_attention" else {"expand_k": 1.0, "expand_v": 1.0})),
        inputs(8, 1024),
    )
    ours = train(model, x)

    def loop():
        with monkeypatch.context() as patched:
            looped(name, model, patched)
            ours()

    with torch.no_grad():
        want = model(x[:2, :70])
        with monkeypatch.context() as patched:
            looped(name, model, patched)
            torch.testing.assert_close(model(x[:2, :70]), want, atol=1e-4, rtol=1e-3)
    times = milliseconds({"ours": ours, "loop over time, autograd": loop}, repeats=3)
    show(f"{name} {given or ''}, forward + backward, B 8, T 1024, 4 heads of 32", times, "ours")
    assert times["loop over time, autograd"] >= 8 * times["ours"]


@pytest.mark.parametrize(("name", "given"), CASES, ids=str)
def test_the_time_of_the_family_grows_in_proportion_to_the_length(name, given):
    lengths, model = (1024, 2048, 4096, 8192, 16_384), mixer(name, **given)
    times = milliseconds({T: train(model, inputs(1, T)) for T in lengths}, repeats=5)
    exponent = slope(lengths, list(times.values()))
    print(f"\n{name} {given or ''}, B 1: {told(times)}; exponent {exponent:.2f}")
    assert exponent <= 1.15


# Decoding


@pytest.mark.parametrize("name", RECURRENT)
def test_a_token_takes_the_same_time_late_as_early(name):
    """Steps at positions 128 and 4,096, timed alternately, from states of a prefill.

    Medians of 300 agree within 10 %, and the states have the same number of bytes.
    """
    model_class = MODELS[name].load()
    args = resolve(NoTask, model_class, preset={}, d_model=D, n_head=4, n_layer=2, dropout=0.0)
    model = build(model_class, 64, args, 5000).eval()
    states, ids = {}, torch.zeros(1, dtype=torch.long)
    with torch.inference_mode():
        for position in (128, 4096):
            _, states[position] = model.prefill(torch.zeros(1, position, dtype=torch.long), model.init_state(1, 5000))
        sizes = {position: state_bytes(state) for position, state in states.items()}
        times = {position: [] for position in states}
        for repeat in range(330):
            for position in states:
                began = time.perf_counter()
                _, states[position] = model.step(ids, states[position])
                if repeat >= 30:
                    times[position].append(1e6 * (time.perf_counter() - began))
    early, late = (statistics.median(times[p]) for p in (128, 4096))
    found = f"{early:.0f} us per token at 128, {late:.0f} us at 4,096 ({late / early:.2f} x)"
    print(f"\n{name}: {found}, {sizes[4096]:,} bytes of state")
    assert sizes[128] == sizes[4096]
    assert abs(late / early - 1) <= 0.10
