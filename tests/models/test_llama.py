"""llama against a float64 loop in NumPy, its cache, its flags and its names in transformers.

python -m pytest tests/models/test_llama.py            (test_llama_weights.py compares it with transformers itself)
"""

import functools

import numpy as np
import pytest
import torch
from small_models import C, NoTask, decoding_gap, disturb, tokens

from src.flags.fields import UserError
from src.flags.run_flags import resolve
from src.models.backbone import build, resolve_auto
from src.models.hybrid import Hybrid
from src.models.llama import Llama, from_hugging_face, names, to_hugging_face
from src.models.parts import Rotation
from src.models.state import state_after, state_bytes

LENGTHS = (1, 7, 63, 64, 65)
FORMS = {
    "own keys per head": {},
    "shared keys": {"n_kv_head": 2, "rope_base": 500.0},
    "one head of keys, a norm on q and k": {"n_kv_head": 1, "qk_norm": True},
    "a window": {"n_kv_head": 2, "window": 9},
    "tied": {"tie_weights": True, "embed_std": 1.0},
}
forms = pytest.mark.parametrize("form", FORMS)


def flags_of(**given):
    return resolve(NoTask, Llama, **{"d_model": 16, "n_layer": 2, "n_head": 4, **given})


def args_of(**given):
    return resolve_auto(Llama, flags_of(**given))


@functools.cache
def model_of(form):
    torch.manual_seed(0)
    return disturb(build(Llama, C, flags_of(**FORMS[form]), 80), 0.2).eval()


@functools.cache
def reference(form):
    """Logits (65, C) of the first row of `tokens`: loops over tokens and heads. Rotations are complex factors."""
    args = args_of(**FORMS[form])
    w = {name: p.detach().double().numpy() for name, p in model_of(form).state_dict().items()}
    ids = tokens(2, max(LENGTHS))[0].numpy()
    H, H_kv, K = args.n_head, args.n_kv_head or args.n_head, args.d_model // args.n_head
    turn = args.rope_base ** (-2.0 * np.arange(K // 2) / K)

    def norm(x, name):
        return x / np.sqrt((x * x).mean() + 1e-5) * w[name]

    def head(x, h, t, name):
        part = x[h * K : (h + 1) * K]
        part = norm(part, name) if args.qk_norm else part
        turned = (part[: K // 2] + 1j * part[K // 2 :]) * np.exp(1j * t * turn)
        return np.concatenate([turned.real, turned.imag])

    x = w["embed.weight"][ids]
    for i in range(args.n_layer):
        at = f"blocks.{i}."
        h = [norm(row, at + "norm1.weight") for row in x]
        q, k, v = ([w[f"{at}mixer.{m}_proj.weight"] @ row for row in h] for m in "qkv")
        for t in range(len(x)):
            mixed = []
            for j in range(H):
                shared = j * H_kv // H
                seen = range(max(0, t - args.window + 1) if args.window else 0, t + 1)
                query = head(q[t], j, t, at + "mixer.q_norm.weight")
                scores = [query @ head(k[s], shared, s, at + "mixer.k_norm.weight") / np.sqrt(K) for s in seen]
                weights = np.exp(scores) / np.exp(scores).sum()
                mixed.append(sum(a * v[s][shared * K : (shared + 1) * K] for a, s in zip(weights, seen, strict=True)))
            x[t] = x[t] + w[at + "mixer.o_proj.weight"] @ np.concatenate(mixed)
        for t in range(len(x)):
            row = norm(x[t], at + "norm2.weight")
            gate = w[at + "mlp.gate.weight"] @ row
            x[t] = x[t] + w[at + "mlp.down.weight"] @ (gate / (1 + np.exp(-gate)) * (w[at + "mlp.up.weight"] @ row))
    scale = 1 / max(1.0, args.embed_std * np.sqrt(args.d_model)) if args.tie_weights else 1.0
    return scale * np.stack([norm(row, "norm.weight") for row in x]) @ w["head.weight"].T


def gap(form, length):
    """The largest difference from the reference in the logits of a sequence of this length."""
    with torch.no_grad():
        got = model_of(form)(tokens(2, max(LENGTHS))[:, :length])[0]
    return np.abs(got.numpy() - reference(form)[:length]).max()


@forms
def test_llama_is_the_loop_at_odd_lengths(form):
    """Logits are of order 1, computed in float32 over two layers: 2e-5."""
    assert max(gap(form, length) for length in LENGTHS) <= 2e-5


def neighbours(self, x, start):
    cos, sin = self.table(start + x.shape[1], x)[:, start:, None]
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


def backwards(self, x, start):
    return RIGHT(self, x.flip(-1), start).flip(-1)


def unmoved(self, x, start):
    return x


RIGHT = Rotation.__call__


@pytest.mark.parametrize("wrong", [neighbours, backwards, unmoved])
def test_the_loop_sees_a_rotation_of_other_pairs_of_the_other_direction_or_none(monkeypatch, wrong):
    monkeypatch.setattr(Rotation, "__call__", wrong)
    assert gap("shared keys", 7) > 1e-3


@forms
def test_decoding_is_forward_at_odd_lengths(form):
    """Prefills of each length and steps from there; the window of 9 is passed by steps and inside a prefill."""
    assert decoding_gap(model_of(form), tokens(2, 67), *((n,) for n in LENGTHS), (), (5, 33)) <= 2e-5


def test_decoding_notices_a_rotation_that_counts_from_the_first_new_token(monkeypatch):
    monkeypatch.setattr(Rotation, "__call__", lambda self, x, start: RIGHT(self, x, 0))
    assert decoding_gap(model_of("shared keys"), tokens(2, 20), (7,)) > 1e-3


def test_rotation_after_inference_mode_and_in_another_precision_is_that_of_a_new_one():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1, 9, 2, 8, generator=g)
    used = Rotation(8, 10_000.0)
    with torch.inference_mode():
        used(x, 0)
    y = x.clone().requires_grad_()
    used(y, 3).sum().backward()
    assert torch.equal(used(x, 3), Rotation(8, 10_000.0)(x, 3))
    for dtype, limit in ((torch.float64, 1e-6), (torch.bfloat16, 2e-2)):
        turned = used(x.to(dtype), 3)
        assert turned.dtype == dtype
        assert (turned - Rotation(8, 10_000.0)(x, 3)).abs().max() <= limit
    with pytest.raises(AssertionError):
        assert torch.equal(used(x, 3), used(x, 2))


def state_size(length, **given):
    return state_bytes(state_after(build(Llama, C, flags_of(**given), 80), length))


def test_state_has_the_heads_of_keys_and_the_window_alone():
    keys = 2 * 2 * 64 * 4 * 4  # layers, keys and values, tokens, channels of a head, bytes
    assert state_size(64, n_kv_head=1) - keys == state_size(64, n_kv_head=4) - 4 * keys
    assert state_size(64, n_kv_head=4) > 3.5 * state_size(64, n_kv_head=1)
    assert state_size(64, window=8) == state_size(8)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"n_kv_head": 3}, "--n_kv_head: got 3, allowed: a divisor of --n_head 4, or 0 for as many; try --n_kv_head 2"),
        ({"n_kv_head": 8}, "--n_kv_head: got 8"),
        ({"n_head": 3}, "--n_head: got 3"),
        ({"rope_base": 1.0}, "--rope_base"),
    ],
)
def test_heads_and_bases_that_do_not_fit_are_a_user_error(given, told):
    with pytest.raises(UserError) as error:
        build(Llama, C, flags_of(**given), 80)
    assert told in str(error.value)


def test_the_published_block_has_no_biases_and_a_fair_one_that_of_all_layers():
    assert not any("bias" in name for name, _ in build(Llama, C, flags_of(), 80).named_parameters())
    fair = [name for name, _ in build(Llama, C, flags_of(fair=True), 80).named_parameters() if "bias" in name]
    assert {name.split(".", 2)[2] for name in fair} == {"mlp.up.bias", "mlp.down.bias"}


def test_a_hybrid_of_llama_and_transformer_has_positions_that_both_have():
    assert Hybrid.of(("llama", "transformer")).default_pos == "learned"
    assert Hybrid.of(("llama", "llama")).default_pos == "rope"
    assert Hybrid.of(("llama", "mamba")).default_pos == "none"


# --- names in transformers -------------------------------------------------------------------------------------------


@forms
def test_weights_come_back_from_the_names_of_transformers(form):
    """A tied head goes into the last norm and out of it again: the rounding of one product."""
    state, args = model_of(form).state_dict(), args_of(**FORMS[form])
    theirs = to_hugging_face(state, args)
    assert ("lm_head.weight" in theirs) != args.tie_weights
    back = from_hugging_face(theirs, args)
    assert back.keys() == state.keys()
    for name, value in state.items():
        torch.testing.assert_close(back[name], value, atol=0, rtol=1e-6)
    theirs["model.norm.weight"].zero_()  # copies: the model keeps its own
    assert model_of(form).norm.weight.abs().min() > 0


@pytest.mark.parametrize(
    "given",
    [
        {"pos": "alibi"},
        {"norm": "layer"},
        {"mlp": "gelu"},
        {"dim_ffn": 0},
        {"short_conv": 3},
        {"fair": True},
    ],
    ids=str,
)
def test_blocks_that_transformers_lacks_are_a_user_error(given):
    with pytest.raises(UserError, match=r"allowed: .*the Llama of transformers"):
        names(args_of(**given))


def test_missing_and_unknown_weights_are_named():
    args = args_of()
    theirs = to_hugging_face(model_of("own keys per head").state_dict(), args)
    one = theirs.pop("lm_head.weight")
    with pytest.raises(ValueError, match=r"missing \['lm_head.weight'\], unknown \['other'\]"):
        from_hugging_face({**theirs, "other": one}, args)
