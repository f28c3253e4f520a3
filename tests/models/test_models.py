"""Every layer of the registry, and layers of a user's own, against the model contract.

python -m pytest tests/models/test_models.py
"""

import importlib
import math
import re
import types

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from small_models import IN_BACKBONE, WHOLE, C, NoTask, decoding_gap, disturb, tokens
from torch import nn

from src.flags import registry
from src.flags.fields import UserError
from src.flags.run_flags import resolve
from src.models import MODELS, contract
from src.models.backbone import build, is_right_padded, max_len_of
from src.models.contract import ARModel, Mixer
from src.models.parts import apply_rotary, check_heads
from src.models.sampling import sample
from src.models.state import state_bytes
from src.models.template import _WholeModel
from src.models.transformer import Attention, alibi_slopes, from_stock, rope_rates, to_stock

MAX_LEN = 80
POSITIONS = ("learned", "sinusoidal", "none", "rope", "alibi")
# The biases of gates and step sizes are part of a published layer.
PUBLISHED_BIAS = re.compile(r"[.]rnn[.]|[.]gate[.]|conv1d|dt_proj|dt_bias")
CUTS = ((), (1,), (37,), (5,), (5, 6), (9, 20, 33))  # of 37 tokens: prefills end there, steps follow


class _Bare(Mixer):
    """A user's first layer: the mean of the past, with only what must be written."""

    def forward(self, x):
        return x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]


class _Leaky(_Bare):
    """Wrong: sees one token ahead."""

    def forward(self, x):
        return super().forward(x.roll(-1, dims=1))


class _Forgetful(_Bare):
    """Wrong: its step does not remember."""

    def init_state(self, batch_size, max_len):
        return ()

    def step(self, x, state):
        return x, state


class _BareModel(ARModel):
    """A whole model with only what must be written."""

    def __init__(self, vocab_size, args):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, args.d_model)
        self.head = nn.Linear(args.d_model, vocab_size)

    def forward(self, x, attn_mask=None):
        return self.head(self.embed(x).cumsum(1).tanh())


def arguments(model_class, **given):
    return resolve(NoTask, model_class, **{"d_model": 16, "n_layer": 2, "n_head": 2, **given})


def make(model, max_len=MAX_LEN, **given):
    """A small model in eval mode, from a registry name or a class."""
    model_class = MODELS[model].load() if isinstance(model, str) else model
    torch.manual_seed(0)
    return build(model_class, C, arguments(model_class, **given), max_len).eval()


def allowed_positions():
    """(model, position) pairs that must work, and those that must be refused."""
    pairs = [(name, pos) for name in MODELS for pos in POSITIONS]
    fits = [(n, p) for n, p in pairs if p in POSITIONS[:3] or p in MODELS[n].load().positions]
    return fits, [pair for pair in pairs if pair not in fits]


ORDERED = ("transformer", "llama", "gru")  # with every position encoding in a default run


def slow_where_it_repeats(name, pos):
    """The backbone adds these two encodings in one way to all layers: in a default run, some layers stand for all."""
    repeats = pos in ("sinusoidal", "none") and name not in ORDERED
    return pytest.param(name, pos, marks=pytest.mark.slow if repeats else [])


FITS, REFUSED = allowed_positions()
FITS = [slow_where_it_repeats(*pair) for pair in FITS]


def causality_leak(model, length=31):
    """The largest change of a logit before t when tokens from t on change."""
    x, y = tokens(2, length), tokens(2, length, seed=2)
    worst = 0.0
    with torch.no_grad():
        for t in (1, length // 2, length - 1):
            changed = torch.cat([x[:, :t], (y[:, t:] + x[:, t:] + 1) % C], dim=1)
            worst = max(worst, (model(x) - model(changed))[:, :t].abs().max().item())
    return worst


def variants():
    """(model, flags): flags that change a block or a layer, which must decode as it trains."""
    shared = [{"fair": True}, {"norm": "rms", "mlp": "swiglu"}, {"short_conv": 3}]
    windows = [{"window": w, "pos": pos} for w in (1, 5) for pos in POSITIONS] + [
        {"window": 5, "short_conv": 3, "pos": "rope"}
    ]
    llama = [{"n_kv_head": 1}, {"qk_norm": True}, {"window": 5, "n_kv_head": 1}, {"window": 1, "pos": "alibi"}]
    forms = {**dict.fromkeys(IN_BACKBONE, shared), "transformer": shared + windows, "llama": shared + llama}
    return [(name, given) for name, every in forms.items() for given in every]


# --- the parallel form -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 7, 63])
@pytest.mark.parametrize("name", MODELS)
def test_odd_lengths_give_finite_logits_and_gradients(name, length):
    model = make(name).train()
    logits = model(tokens(3, length))
    assert logits.shape == (3, length, C)
    logits.square().mean().backward()
    assert torch.isfinite(logits).all()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize(("name", "pos"), FITS)
def test_future_tokens_do_not_change_the_past(name, pos):
    """1e-6 allows reordered float32 sums. The last logits do change, so the test could fail."""
    model = make(name, pos=pos)
    assert causality_leak(model) <= 1e-6
    assert (model(tokens(1, 9)) - model(tokens(1, 9, seed=2)))[:, -1].abs().max() > 1e-3


def test_causality_test_fails_for_a_layer_that_sees_ahead():
    assert causality_leak(make(_Bare)) <= 1e-6
    assert causality_leak(make(_Leaky)) > 1e-2


@pytest.mark.parametrize("name", MODELS)
def test_rows_of_a_batch_are_independent(name):
    model, x = make(name), tokens(4, 21)
    with torch.no_grad():
        torch.testing.assert_close(model(x)[2:3], model(x[2:3]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_right_padding_changes_nothing_before_it_and_left_padding_is_refused(name):
    model, x = make(name), tokens(2, 12)
    padded = F.pad(x, (0, 5))
    mask = torch.arange(17).expand(2, 17) < 12
    assert is_right_padded(mask)
    with torch.no_grad():
        torch.testing.assert_close(model(padded, attn_mask=mask)[:, :12], model(x), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="padding must be on the right"):
        model(padded, attn_mask=mask.flip(1))


@pytest.mark.parametrize(("name", "pos"), REFUSED)
def test_position_encoding_that_a_layer_lacks_is_a_user_error(name, pos):
    with pytest.raises(UserError, match=f"got '{pos}'.*allowed: learned, sinusoidal, none"):
        make(name, pos=pos)


@pytest.mark.parametrize("pos", ["learned", "sinusoidal", "rope", "alibi"])
def test_attention_knows_the_order_of_the_past_only_with_positions(pos):
    """Without positions, one layer of attention sees the past as a set."""
    x = tokens(1, 12)
    y = torch.cat([x[:, :11].flip(1), x[:, 11:]], dim=1)
    with torch.no_grad():
        without, given = make("transformer", pos="none", n_layer=1), make("transformer", pos=pos, n_layer=1)
        assert (without(x) - without(y))[:, -1].abs().max() < 1e-5
        assert (given(x) - given(y))[:, -1].abs().max() > 1e-3


def test_rope_depends_on_distances_only():
    g = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, 2, 8, generator=g) for _ in range(2))
    rates = rope_rates(q)

    def scores(at_q, at_k):
        return (apply_rotary(q, at_q, rates) * apply_rotary(k, at_k, rates)).sum(-1)

    torch.testing.assert_close(scores(7, 2), scores(47, 42), atol=1e-4, rtol=1e-4)
    assert (scores(8, 2) - scores(7, 2)).abs().max() > 1e-2
    torch.testing.assert_close(apply_rotary(q, 0, rates), q)


def test_alibi_slopes_are_those_of_the_paper():
    torch.testing.assert_close(alibi_slopes(8), torch.tensor([2.0**-i for i in range(1, 9)]))
    assert len(alibi_slopes(6)) == 6
    torch.testing.assert_close(alibi_slopes(6), torch.tensor([2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]))


@pytest.mark.parametrize(
    ("d_model", "n_head", "pos", "told"),
    [
        (16, 3, "learned", "--n_head 2"),
        (12, 5, "none", "--n_head 4"),
        (16, 16, "rope", "--n_head 8"),
        (12, 4, "rope", "--n_head 3"),
        (15, 3, "rope", "an even --d_model"),
    ],
)
def test_heads_that_do_not_fit_are_a_user_error_that_names_a_number(d_model, n_head, pos, told):
    with pytest.raises(UserError, match=told):
        make("transformer", d_model=d_model, n_head=n_head, pos=pos)
    if told.startswith("--n_head"):
        check_heads(d_model, int(told.split()[1]), pos)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_dropout_acts_in_training_only(dropout):
    model, x = make("transformer", dropout=dropout), tokens(2, 20)
    torch.testing.assert_close(model(x), model(x))
    model.train()
    assert torch.equal(model(x), model(x)) == (dropout == 0)


# --- against the stock encoder ---------------------------------------------------------------------------------------


def stock_encoder(bias=True):
    layer = nn.TransformerEncoderLayer(16, 2, 64, 0.0, "gelu", batch_first=True, norm_first=True, bias=bias)
    return nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(16, bias=bias), enable_nested_tensor=False)


def hidden_gap(model, encoder, length=29):
    x = tokens(2, length)
    mask = nn.Transformer.generate_square_subsequent_mask(length)
    with torch.no_grad():
        return (model.hidden(x) - encoder(model._embed(x, 0), mask=mask)).abs().max().item()


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("pos", ["learned", "sinusoidal", "none"])
def test_stock_encoder_gives_the_same_hidden_states(pos, bias):
    """float32 and widths of 16: 1e-5. Before the weights are copied, the two differ."""
    model, encoder = make("transformer", pos=pos, bias=bias), stock_encoder(bias).eval()
    disturb(model, 0.1)
    assert hidden_gap(model, encoder) > 1e-2
    encoder.load_state_dict(to_stock(model))
    assert hidden_gap(model, encoder) <= 1e-5


def test_weights_of_a_stock_encoder_are_loaded():
    model, encoder = make("transformer"), stock_encoder().eval()
    disturb(encoder, 0.1)
    from_stock(encoder.state_dict(), model)
    assert hidden_gap(model, encoder) <= 1e-5
    short = {k: v for k, v in encoder.state_dict().items() if k != "norm.weight"}
    with pytest.raises(ValueError, match=r"missing \['norm.weight'\]"):
        from_stock(short, model)
    with pytest.raises(ValueError, match=r"norm.weight has shape \(3,\)"):
        from_stock({**short, "norm.weight": torch.ones(3)}, model)


@pytest.mark.parametrize("given", [{"pos": "rope"}, {"pos": "alibi"}, {"dim_ffn": 0}, {"mlp": "swiglu"}], ids=str)
def test_models_that_the_stock_encoder_lacks_are_refused(given):
    with pytest.raises(ValueError, match="allowed"):
        to_stock(make("transformer", **given))


# --- decoding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "pos"), FITS)
def test_prefill_and_step_match_forward(name, pos):
    """From an empty and from a non-empty state; 1e-5 allows another order of float32 sums."""
    assert decoding_gap(make(name, pos=pos), tokens(2, 37), *CUTS) <= 1e-5


@pytest.mark.parametrize(("name", "given"), variants(), ids=str)
def test_variants_are_causal_and_decode_as_they_train(name, given):
    """Some cuts are inside a window of 5 and some beyond it, so the ring has to join its ends."""
    model = make(name, **given)
    assert causality_leak(model) <= 1e-6
    assert decoding_gap(model, tokens(2, 37), (), (3,), (9, 20, 33), (37,)) <= 1e-5


@pytest.mark.parametrize("model_class", [_Bare, _BareModel, _WholeModel])
def test_models_of_a_user_decode_by_replay_or_by_their_own_step(model_class):
    model = make(model_class)
    assert decoding_gap(model, tokens(2, 37), (), (5,), (5, 20)) <= 1e-5
    assert model.cache_kind() == ("own" if model_class is _WholeModel else "replay")


def test_decoding_test_fails_for_a_layer_whose_step_forgets():
    assert decoding_gap(make(_Forgetful), tokens(2, 37), (5,)) > 1e-2


@pytest.mark.parametrize("name", MODELS)
def test_registry_layers_decode_by_their_own_step(name):
    assert make(name).cache_kind() == ("replay" if name in WHOLE else "own")


@pytest.mark.parametrize(("name", "pos"), FITS)
def test_greedy_decoding_takes_the_argmax_of_forward(name, pos):
    """Token by token over 70 steps. Two logits within 1e-5 are a tie."""
    model, prompt = make(name, pos=pos), tokens(2, 6)
    written = model.generate(prompt, 70, temperature=0)
    x = torch.cat([prompt, written], dim=1)
    with torch.no_grad():
        logits = model(x)[:, 5:-1]
    chosen = logits.gather(2, written[..., None])[..., 0]
    assert written.shape == (2, 70)
    assert (logits.max(dim=-1).values - chosen).max() <= 1e-5


@pytest.mark.parametrize("pos", POSITIONS)
def test_bf16_autocast_decodes_with_a_bf16_cache(pos):
    """Half the bytes, and logits near those of float32: 0.1 is the rounding of bf16 after two layers."""
    model, x = make("transformer", pos=pos), tokens(2, 20)
    with torch.no_grad():
        want = model(x)[:, -1]
        full = model.init_state(2, 20)
        with torch.autocast("cpu", torch.bfloat16):
            state = model.init_state(2, 20)
            assert 2 * state_bytes(state) == state_bytes(full)
            _, state = model.prefill(x[:, :9], state)
            _, state = model.prefill(x[:, 9:19], state)
            logits, _ = model.step(x[:, 19], state)
    assert (logits.float() - want).abs().max() < 0.1


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_recurrent_state_stays_float32_under_autocast(name):
    model, x = make(name), tokens(2, 20)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        _, state = model.prefill(x, model.init_state(2, 20))
        _, state = model.step(x[:, 0], state)
    assert all(t.dtype == torch.float32 for layer in state[1] for t in layer)


def bytes_after(model, length, max_len):
    """State bytes after `length` tokens, two of them by step."""
    with torch.no_grad():
        x, state = tokens(3, length), model.init_state(3, max_len)
        _, state = model.prefill(x[:, :-2], state)
        for t in (-2, -1):
            _, state = model.step(x[:, t], state)
    return state_bytes(state)


@pytest.mark.parametrize(("name", "numbers"), [("lstm", 2), ("gru", 1), ("template", 4)])
def test_state_of_a_recurrent_layer_does_not_grow(name, numbers):
    """numbers: float32 numbers per channel, for 3 sequences, 2 layers and 16 channels."""
    model = make(name)
    assert (
        {bytes_after(model, n, 70) for n in (3, 9, 65)}
        == {state_bytes(model.init_state(3, 70))}
        == {4 * 3 * 2 * 16 * numbers}
    )


def test_state_of_attention_is_its_cache():
    model = make("transformer")
    for length in (9, 65):
        assert (
            bytes_after(model, length, length)
            == state_bytes(model.init_state(3, length))
            == 4 * 3 * 2 * 16 * 2 * length
        )


def test_state_of_a_replayed_layer_is_its_prefix():
    assert bytes_after(make(_Bare), 9, 9) == 4 * 3 * 2 * 16 * 9


def test_cache_is_written_in_place_and_refuses_more_than_it_holds():
    model = make("transformer", pos="none")
    with torch.no_grad():
        logits, state = model.prefill(tokens(1, 3), model.init_state(1, 4))
        before = state[1][0][0].data_ptr()
        logits, state = model.step(logits[:, -1].argmax(-1), state)
        assert state[1][0][0].data_ptr() == before
        with pytest.raises(ValueError, match="5 tokens do not fit a cache for 4"):
            model.step(logits.argmax(-1), state)


@pytest.mark.parametrize("name", MODELS)
def test_a_learned_position_table_ends_the_sequence(name):
    """The last new token is never read, so a table of 20 is enough for 21 characters. One more is refused."""
    model = make(name, pos="learned", max_len=20)
    assert model.generate(tokens(1, 5), 16, temperature=0).shape == (1, 16)
    with pytest.raises(ValueError, match="learned position table of 20"):
        model.generate(tokens(1, 5), 17, temperature=0)
    with pytest.raises(ValueError, match="beyond the learned position table of 20"):
        model(tokens(1, 21))


# --- generation ------------------------------------------------------------------------------------------------------


def drawn(n=4000, **settings):
    """Frequencies of n draws from logits 0 .. 3."""
    logits = torch.arange(4.0).expand(n, 4)
    settings = {"temperature": 1.0, "top_k": None, "top_p": None, **settings}
    return sample(logits, **settings, generator=torch.Generator().manual_seed(0)).bincount(minlength=4) / n


def test_sampling_follows_temperature_top_k_and_top_p():
    """4,000 draws: 0.03 is over three standard errors."""
    p = torch.arange(4.0).softmax(0)
    torch.testing.assert_close(drawn(), p, atol=0.03, rtol=0)
    torch.testing.assert_close(drawn(temperature=2.0), (torch.arange(4.0) / 2).softmax(0), atol=0.03, rtol=0)
    torch.testing.assert_close(drawn(top_k=2), torch.cat([torch.zeros(2), p[2:] / p[2:].sum()]), atol=0.03, rtol=0)
    torch.testing.assert_close(drawn(top_k=99), drawn())
    assert (drawn(top_p=0.5) == torch.tensor([0.0, 0, 0, 1])).all()  # the likeliest has 0.64
    torch.testing.assert_close(drawn(top_p=0.7), torch.cat([torch.zeros(2), p[2:] / p[2:].sum()]), atol=0.03, rtol=0)
    assert drawn(top_p=1e-9)[3] == drawn(temperature=0)[3] == drawn(top_k=1)[3] == 1


@pytest.mark.parametrize(
    "given",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.1},
    ],
    ids=str,
)
def test_settings_of_generate_out_of_range_are_value_errors(given):
    with pytest.raises(ValueError, match=f"{next(iter(given))}: got"):
        make("gru").generate(tokens(1, 3), 2, **given)


def test_generate_depends_on_its_generator_only_and_keeps_the_mode():
    model = make("gru", dropout=0.5).train()
    one, same, other = (model.generate(tokens(2, 4), 30, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert model.training
    with pytest.raises(ValueError, match="at least one token"):
        model.generate(tokens(2, 0), 3)
    assert model.generate(tokens(2, 4), 0).shape == (2, 0)


def test_generate_restores_the_mode_after_an_error():
    model = make("gru").train()
    with pytest.raises(IndexError):
        model.generate(torch.full((1, 3), C), 3)
    assert model.training


def test_generate_fills_a_row_after_its_stop_and_ends_when_all_rows_have_one():
    model = make("gru")
    free = model.generate(tokens(2, 4), 40, temperature=0)
    stop = int(free[0, 3])
    stopped = model.generate(tokens(2, 4), 40, temperature=0, stop_id=stop)
    for row, full in zip(stopped, free, strict=True):
        hits = (full == stop).nonzero()
        end = int(hits[0]) + 1 if len(hits) else 40
        assert torch.equal(row[:end], full[: len(row)][:end])
        assert (row[end:] == stop).all()
    assert (
        model.generate(tokens(2, 4)[:1], 40, temperature=0, stop_id=stop).shape[1]
        == int((free[0] == stop).nonzero()[0]) + 1
    )


# --- loss ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("model_class", ["transformer", "gru", _BareModel], ids=str)
def test_loss_is_the_mean_cross_entropy_of_trained_positions(model_class, smoothing):
    model, x, y = make(model_class), tokens(3, 10), tokens(3, 10, seed=4)
    masked = y.clone()
    masked[:, ::2] = -100
    for target in (y, masked):
        index = None if target is y else (target.flatten() != -100).nonzero()[:, 0]
        loss, aux = model.loss_fn(types.SimpleNamespace(x=x, y=target, index=index), label_smoothing=smoothing)
        want = F.cross_entropy(model(x).flatten(0, 1), target.flatten(), label_smoothing=smoothing, ignore_index=-100)
        torch.testing.assert_close(loss, want)
        assert aux["logits"].shape == (len(aux["target"]), C)
    assert smoothing == 0 or loss.item() != pytest.approx(
        F.cross_entropy(aux["logits"], aux["target"]).item(), abs=1e-4
    )


# --- construction ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{"dim_ffn": 0}, {"dim_ffn": 24}, {"tie_weights": True}, {"bias": False}], ids=str)
@pytest.mark.parametrize("name", IN_BACKBONE)
def test_shared_flags_hold_for_every_model(name, given):
    plain, model = make(name), make(name, **given)
    assert decoding_gap(model, tokens(2, 37), (5,)) <= 1e-5
    if "dim_ffn" in given:
        assert all((block.mlp is None) == (given["dim_ffn"] == 0) for block in model.blocks)
        assert given["dim_ffn"] == 0 or model.blocks[0].mlp.up.out_features == 24
    if "tie_weights" in given:
        assert model.head.weight is model.embed.weight
        assert model(tokens(2, 20)).std() < 3  # logits of order 1 although the embedding's std is
    if "bias" in given:
        names = [n for n, _ in model.named_parameters() if "bias" in n and not PUBLISHED_BIAS.search(n)]
        assert names == []
        assert any("bias" in n for n, _ in plain.named_parameters()) or not MODELS[name].load().published.bias


def test_initialisation_of_a_layer_survives_the_backbone():
    class Fixed(_Bare):
        def __init__(self, args):
            super().__init__()
            self.decay = nn.Parameter(torch.full((3,), -4.6))
            self.inner = nn.Linear(args.d_model, args.d_model)
            nn.init.constant_(self.inner.weight, 0.125)
            nn.init.constant_(self.inner.bias, 7.0)

    for block in make(Fixed).blocks:
        assert (block.mixer.decay == -4.6).all()
        assert (block.mixer.inner.weight == 0.125).all()
        assert (block.mixer.inner.bias == 7.0).all()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("transformer", "transformer"),
        ("llama", "llama"),
        ("rnn", "lstm"),
        ("rnn", "gru"),
        ("template", "template"),
        ("mamba", "mamba"),
        ("mamba2", "mamba2"),
        ("linear_attention", "linear_attention"),
        ("retnet", "retnet"),
        ("gla", "gla"),
        ("deltanet", "deltanet"),
        ("deltanet", "gated_deltanet"),
        ("hybrid", "hybrid"),
    ],
)
def test_build_model_needs_only_the_configuration(module, name):
    args = arguments(MODELS[name].load(), model=name, pos="learned", context_len=40)
    model = importlib.import_module(f"src.models.{module}").build_model(C, args)
    loaded = MODELS[name].load()
    assert set(model.mixer_classes) == set(getattr(loaded, "layers", (loaded,)))
    assert model.max_len == max_len_of(args) == 296


def test_backend_flag_reaches_attention():
    for backend in ("sdpa", "explicit", "attention=sdpa"):
        assert make("transformer", backend=backend).blocks[0].mixer.backend == backend.split("=")[-1]
    with pytest.raises(UserError, match="unknown backend"):
        make("transformer", backend="nonsense")
    x = tokens(2, 33)
    with torch.no_grad():
        torch.testing.assert_close(
            make("transformer", backend="sdpa")(x), make("transformer", backend="explicit")(x), atol=1e-5, rtol=1e-5
        )


# --- a user's file ---------------------------------------------------------------------------------------------------


def load(path):
    return registry.find("model", MODELS, str(path), (Mixer, ARModel))


def train_a_little(model, steps=40):
    """First and last loss on a fixed cyclic text."""
    x = (torch.arange(25) * 3 % C).expand(4, 25)
    batch = types.SimpleNamespace(x=x[:, :-1], y=x[:, 1:], index=None)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        loss, _ = model.loss_fn(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[0], losses[-1]


LEARN = ("transformer", "mamba", "deltanet", "gru", "template")  # one of each kind; the others take as long again


@pytest.mark.parametrize("name", [n if n in LEARN else pytest.param(n, marks=pytest.mark.slow) for n in MODELS])
def test_registry_models_learn_a_cycle(name):
    first, last = train_a_little(make(name))
    assert last < 0.5 < first


def test_copy_of_the_template_is_a_model_with_its_own_flag(tmp_path):
    path = tmp_path / "my_layer.py"
    path.write_text((ROOT / "src/models/template.py").read_text(encoding="utf-8"), encoding="utf-8")
    model_class = load(path)
    model = make(model_class, kernel_size=6)
    assert model_class.__name__ == "GatedConv"
    assert model.blocks[0].mixer.kernel.shape == (6, 16)
    first, last = train_a_little(model)
    assert last < 0.5 < first


def test_whole_model_of_the_template_works_once_its_underscore_is_gone(tmp_path):
    text = (ROOT / "src/models/template.py").read_text(encoding="utf-8")
    start, end = text.index("class GatedConv"), text.index("class _WholeModel")
    path = tmp_path / "whole.py"
    path.write_text(text[:start] + text[end:].replace("_WholeModel", "WholeModel"), encoding="utf-8")
    model = make(load(path))
    assert not isinstance(model, Mixer)
    assert causality_leak(model) <= 1e-6
    first, last = train_a_little(model)
    assert last < 0.5 < first


@pytest.mark.parametrize("kernel_size", [1, 2, 9])
def test_any_kernel_size_decodes_as_it_trains(kernel_size):
    assert decoding_gap(make("template", kernel_size=kernel_size), tokens(2, 37), (1, 3)) <= 1e-5


HEADER = "from src.models.base import Mixer, ARModel\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (HEADER, "defines none, allowed: exactly one"),
        (HEADER + "class _A(Mixer): pass\n", "defines none"),
        (HEADER + "class A(Mixer): pass\nclass B(ARModel): pass\n", "defines A, B, allowed: exactly one"),
        ("class A(:\n", "cannot be imported, line 1"),
    ],
)
def test_file_without_exactly_one_public_class_is_a_user_error(tmp_path, text, told):
    path = tmp_path / "m.py"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=told):
        load(path)


def test_the_transformer_of_the_registry_is_attention():
    assert MODELS["transformer"].load() is Attention


def test_the_example_of_the_contract_is_a_layer(tmp_path):
    """The docstring of src/models/contract.py shows a complete layer file; newcomers copy it."""
    lines = contract.__doc__.splitlines()
    start, end = (
        lines.index("    import torch"),
        next(i for i, line in enumerate(lines) if "benchmark.py check" in line),
    )
    path = tmp_path / "running_mean.py"
    path.write_text("\n".join(line.removeprefix("    ") for line in lines[start:end]), encoding="utf-8")
    model = make(load(path))
    assert causality_leak(model) <= 1e-6
    assert decoding_gap(model, tokens(2, 37), (5,)) <= 1e-5
    first, last = train_a_little(model)
    assert last < first


def test_older_layer_files_keep_their_imports(tmp_path):
    """`Form` and `wide` are older names of BlockDefaults and at_least_float32."""
    path = tmp_path / "older.py"
    path.write_text(
        "from src.models.base import Form, Mixer, wide\n\n\nclass Older(Mixer):\n"
        '    published = Form("rms", 0, 2)\n\n    def forward(self, x):\n        return wide(x).cumsum(1)\n',
        encoding="utf-8",
    )
    model = make(load(path))
    assert isinstance(model.norm, nn.RMSNorm)
    assert model.blocks[0].mlp is None
    assert model.blocks[0].conv.weight.shape == (16, 2)
    assert causality_leak(model) <= 1e-6
