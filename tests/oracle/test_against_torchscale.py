"""RetNet against `MultiScaleRetention` of torchscale, its authors' release, with the same weights.

    python -m pytest -m oracle tests/oracle/test_against_torchscale.py

Two things are made equal first. The release divides decays and scores by positive numbers, which the norm undoes if its
epsilon is 0. Version 0.3 has an RMSNorm where the paper and ours have a GroupNorm. Its code runs in float64.
"""

import types

import pytest
import torch
from oracles import EXACT, InFloat64, assert_agree, draw, largest_difference, outputs_and_gradients, package
from small_models import NoTask, disturb

from src.flags.run_flags import resolve
from src.models import retnet
from src.models.backbone import resolve_auto
from src.models.retnet import RetNet

pytestmark = pytest.mark.oracle

D, H = 24, 2
NAMES = {"out.weight": "out_proj.weight"}


@pytest.fixture
def pair(monkeypatch):
    """(our layer, its parameters away from their start; the release's with the same weights; positions), float64."""
    retention = package("torchscale.component.multiscale_retention")
    architecture = package("torchscale.architecture.retnet")
    monkeypatch.setattr(retnet, "NORM_EPS", 0.0)
    torch.manual_seed(0)
    args = resolve(NoTask, RetNet, d_model=D, n_head=H, backend="eager")
    ours = disturb(RetNet(resolve_auto(RetNet, args)), 0.1).double()
    sizes = {"decoder_embed_dim": D, "decoder_retention_heads": H, "recurrent_chunk_size": 64}
    config = types.SimpleNamespace(multiway=False, layernorm_eps=0.0, **sizes)
    theirs = retention.MultiScaleRetention(config, D, 2 * D, H)
    theirs.group_norm = torch.nn.LayerNorm(2 * D // H, eps=0.0, elementwise_affine=False)
    theirs.double().load_state_dict(translated(ours, ours.state_dict()))
    positions = architecture.RetNetRelPos(config).double()
    K = D // H
    rates = retnet.angle_rates(torch.zeros(K, dtype=torch.float64))
    torch.testing.assert_close(positions.angle, rates.repeat_interleave(2), atol=0, rtol=1e-6)  # made in float32 there
    torch.testing.assert_close(positions.decay, ours.log_decay, atol=0, rtol=1e-5)
    positions.angle, positions.decay = rates.repeat_interleave(2), ours.log_decay.clone()
    return ours, theirs, positions


def translated(ours, tensors):
    heads, keys, values = ours.memory
    result = {NAMES.get(name, name): t for name, t in tensors.items() if name != "qkvg.weight"}
    parts = tensors["qkvg.weight"].split([heads * keys, heads * keys, heads * values, heads * values])
    return result | {f"{part}_proj.weight": rows for part, rows in zip("qkvg", parts, strict=True)}


@pytest.mark.parametrize("T", [1, 7, 63, 65, 257], ids=lambda t: f"T{t}")
def test_retnet_is_its_authors_layer_in_output_and_all_gradients(pair, T):
    ours, theirs, positions = pair
    x = draw(2, T, D)
    with InFloat64():
        want = outputs_and_gradients(theirs, x, lambda x: theirs(x, positions(T)))
    got = translated(ours, outputs_and_gradients(ours, x))
    if T == 1:  # one token: the norm undoes the size of q^T k, so queries and keys have no gradient but rounding
        got, want = ({n: t for n, t in r.items() if n[:2] not in ("q_", "k_")} for r in (got, want))
    assert_agree(got, want, EXACT)


def test_retnet_decodes_as_its_authors_layer_does(pair):
    """Token by token. The release keeps its memory divided by the square root of a number that it keeps beside it."""
    ours, theirs, positions = pair
    x = draw(2, 9, D)
    theirs_state, state = {}, ours.init_state(2, 9)
    with torch.no_grad():
        for t in range(9):
            with InFloat64():
                want = theirs(
                    x[:, t : t + 1], positions(t + 1, activate_recurrent=True), incremental_state=theirs_state
                )
            got, state = ours.step(x[:, t], state)
            memory = theirs_state["prev_key_value"] * theirs_state["scale"].sqrt().view(H, 1, 1)
            memory = memory.transpose(-1, -2) * (D // H) ** 0.5  # (V, K) there, and K^-1/2 is in the keys
            assert_agree({"output": got[:, None], "memory": state[0]}, {"output": want, "memory": memory}, EXACT)


def test_its_authors_layer_notices_a_rotation_the_other_way(pair, monkeypatch):
    """Queries and keys both turned backwards give the same scores, so only the keys are."""
    ours, theirs, positions = pair
    right = retnet.apply_rotary

    def wrong(qk, start, rates, backend):
        q, k = qk.chunk(2, dim=-2)
        return torch.cat([right(q, start, rates, backend), right(k, start, -rates, backend)], dim=-2)

    monkeypatch.setattr(retnet, "apply_rotary", wrong)
    x = draw(2, 7, D)
    with InFloat64():
        want = outputs_and_gradients(theirs, x, lambda x: theirs(x, positions(7)))
    assert largest_difference(translated(ours, outputs_and_gradients(ours, x)), want)[0] > 1e-2
