"""Mamba against `mamba_ssm.Mamba`, with the package's own reference of the scan: outputs, gradients, state, decoding.

    python -m pytest -m oracle tests/oracle/test_against_mamba_ssm.py

The class takes its paths in plain torch, and its `selective_scan_ref` in place of the kernel. Weights are copied by
name, without a translation.
"""

import types

import pytest
import torch
from op_checks import numba_only
from oracles import EXACT, SINGLE, InFloat64, assert_agree, draw, largest_difference, outputs_and_gradients, package
from small_models import NoTask, disturb

from src.flags.run_flags import resolve
from src.models.mamba import Mamba
from src.ops import selective_scan
from src.ops.selective_scan.reference import selective_scan_reference

pytestmark = pytest.mark.oracle

D = 16
CASES = [{}, {"d_state": 5, "expand": 3, "dt_rank": 4, "d_conv": 2}]
cases = pytest.mark.parametrize("case", CASES, ids=["published", "other sizes"])
PATHS = [
    ("eager", torch.float64, EXACT),
    ("eager", torch.float32, SINGLE),
    pytest.param("numba", torch.float32, SINGLE, marks=numba_only),
]


@pytest.fixture
def simple(monkeypatch):
    """The module of `mamba_ssm.Mamba`, without kernels."""
    module = package("mamba_ssm.modules.mamba_simple")
    interface = package("mamba_ssm.ops.selective_scan_interface")
    monkeypatch.setattr(module, "selective_scan_fn", interface.selective_scan_ref)
    for kernel in ("causal_conv1d_fn", "causal_conv1d_update", "selective_state_update"):
        monkeypatch.setattr(module, kernel, None)
    return module


def pair(simple, case, backend="eager"):
    """Our layer, its parameters away from their start, and the package's with the same weights, float64."""
    torch.manual_seed(0)
    ours = disturb(Mamba(resolve(NoTask, Mamba, d_model=D, backend=backend, **case)), 0.1).double()
    sizes = {"d_state": 16, "d_conv": 4, "expand": 2, "dt_rank": "auto", **case}
    theirs = simple.Mamba(D, **sizes, use_fast_path=False, layer_idx=0).double()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("T", [1, 7, 65, 257], ids=lambda t: f"T{t}")
@pytest.mark.parametrize(("backend", "dtype", "limit"), PATHS, ids=lambda x: str(x).removeprefix("torch."))
@cases
def test_mamba_is_the_package_s_layer_in_output_and_all_gradients(simple, case, backend, dtype, limit, T):
    ours, theirs = pair(simple, case, backend)
    x = draw(2, T, D)
    with InFloat64():
        want = outputs_and_gradients(theirs, x)
    assert_agree(outputs_and_gradients(ours.to(dtype), x.to(dtype)), want, limit)


@pytest.mark.parametrize("T", [1, 2, 7, 65], ids=lambda t: f"T{t}")
@cases
def test_mamba_keeps_the_package_s_state_and_decodes_as_it_does(simple, case, T):
    """T tokens at once, then three one by one. The package keeps one more input of the convolution than is needed."""
    ours, theirs = pair(simple, case)
    x = draw(2, T + 3, D)
    cache = types.SimpleNamespace(seqlen_offset=0, key_value_memory_dict={})
    with torch.no_grad(), InFloat64():
        results = [(theirs(x[:, :T], inference_params=cache), ours.prefill(x[:, :T], ours.init_state(2, T + 3)))]
        state = results[0][1][1]
        for t in range(T, T + 3):
            compare_states(state, cache.key_value_memory_dict[0])
            cache.seqlen_offset = t
            want = theirs(x[:, t : t + 1], inference_params=cache)
            y, state = ours.step(x[:, t], state)
            results.append((want, (y[:, None], state)))
        compare_states(state, cache.key_value_memory_dict[0])
    for want, (got, _) in results:
        torch.testing.assert_close(got, want, atol=EXACT, rtol=EXACT)


def compare_states(ours, theirs):
    (window, h), (conv_state, ssm_state) = ours, theirs
    torch.testing.assert_close(h, ssm_state, atol=EXACT, rtol=EXACT)
    torch.testing.assert_close(window, conv_state[..., 1:].transpose(1, 2), atol=EXACT, rtol=EXACT)


@pytest.mark.parametrize("T", [1, 7, 63, 64, 65, 257], ids=lambda t: f"T{t}")
@pytest.mark.parametrize("skip", [True, False], ids=["D", "no D"])
def test_scan_s_reference_is_the_package_s(skip, T):
    interface = package("mamba_ssm.ops.selective_scan_interface")
    u, delta, B, C = draw(2, T, 6), draw(2, T, 6, seed=2).exp(), draw(2, T, 4, seed=3), draw(2, T, 4, seed=4)
    A, skipped = -draw(6, 4, seed=5).exp(), draw(6, seed=6) if skip else None
    y, last = selective_scan_reference(u, delta, A, B, C, skipped)
    with InFloat64():
        want, state = interface.selective_scan_ref(
            *(t.transpose(1, 2) for t in (u, delta)),
            A,
            *(t.transpose(1, 2) for t in (B, C)),
            skipped,
            return_last_state=True,
        )
    assert_agree({"y": y, "state": last}, {"y": want.transpose(1, 2), "state": state}, EXACT)


def test_the_package_notices_a_scan_with_a_wrong_sign(simple, monkeypatch):
    """Without this, equal numbers could mean that both sides run the same code."""
    right = selective_scan.projected_scan
    monkeypatch.setattr(
        "src.models.mamba.projected_scan", lambda u, x, w, b, A, D, *rest: right(u, x, w, b, A, -D, *rest)
    )
    ours, theirs = pair(simple, {})
    x = draw(2, 7, D)
    with InFloat64():
        want = outputs_and_gradients(theirs, x)
    assert largest_difference(outputs_and_gradients(ours, x), want)[0] > 1e-2
