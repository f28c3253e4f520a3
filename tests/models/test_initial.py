"""The start of the weights: the tied head, `--init`, and what each layer keeps as its own.

python -m pytest tests/models/test_initial.py
"""

import dataclasses
import math

import pytest
import torch
from small_models import IN_BACKBONE, LAYERS, C, NoTask, tokens
from torch import nn

from dataset import TASKS
from src.flags.presets import PRESETS, settings
from src.flags.run_flags import resolve
from src.models import MODELS
from src.models.backbone import MLP, build, resolve_auto
from src.models.contract import ARModel, Mixer
from src.models.hybrid import Hybrid
from src.models.initial import maps_of, parts_of

INITS = ("published", "torch", "xavier", "normal")
OUTPUT_MAPS = ("mixer.out", "mixer.out_proj", "mixer.o_proj")
# What belongs to the definition of a layer and starts the same under every --init.
OWN = {
    "mamba": {"A_log", "D", "dt_proj.weight", "dt_proj.bias", "conv1d.weight", "conv1d.bias"},
    "mamba2": {"A_log", "D", "dt_bias", "norm.weight", "conv1d.weight", "conv1d.bias"},
    "gla": {"gate.1.bias", "norm.weight"},
    "deltanet": {"conv.weight", "norm.weight"},
    "gated_deltanet": {"A_log", "dt_bias", "conv.weight", "norm.weight"},
    "template": {"kernel", "kernel_bias"},
}


def arguments(model_class, **given):
    return resolve(NoTask, model_class, preset={}, **{"d_model": 64, "n_layer": 3, "n_head": 2, **given})


def make(model, **given):
    model_class = MODELS[model].load() if isinstance(model, str) else model
    torch.manual_seed(0)
    return build(model_class, C, arguments(model_class, **given), 80).eval()


def maps(model):
    """(name of its module, map) of all linear maps that are not embeddings."""
    tied = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    return [(n, one) for n, m in model.named_modules() for one in maps_of(m) if id(one.weight) not in tied]


def is_drawn_with(weight, std, errors=5):
    """Whether the standard deviation is within five standard errors, each 0.71 / sqrt(n) for n normal numbers."""
    return abs(weight.std().item() / std - 1) < errors * 0.71 / math.sqrt(weight.numel())


# --- the tied head ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d_model", [16, 64, 144])
@pytest.mark.parametrize("embed_std", [0.02, 0.1, 0.3, 1.0])
def test_a_tied_head_scales_logits_down_to_one_and_never_below(embed_std, d_model):
    model = make("gru", d_model=d_model, n_layer=1, embed_std=embed_std, tie_weights=True)
    h = nn.functional.rms_norm(torch.randn(2000, d_model, generator=torch.Generator().manual_seed(1)), (d_model,))
    alone = embed_std * math.sqrt(d_model)
    with torch.no_grad():
        # 0.2: with 11 characters the embeddings of one draw are that far from their standard deviation.
        assert model._logits(h).std().item() == pytest.approx(min(1.0, alone), rel=0.2)
    assert model.head_scale == (1.0 if alone <= 1 else pytest.approx(1 / alone))


@pytest.mark.parametrize("name", [name for name in PRESETS if PRESETS[name].values.get("tie_weights")])
def test_presets_with_the_papers_tied_head_do_not_scale_it(name):
    preset = PRESETS[name]
    task = TASKS[preset.task or "tiny_shakespeare"].load()
    args = resolve(task, MODELS["transformer"].load(), preset=settings(name, task, "cpu")[1])
    with torch.device("meta"):
        model = build(MODELS["transformer"].load(), 70, args, 80)
    assert model.head.weight is model.embed.weight
    assert model.head_scale == 1.0


def test_nanogpt_and_zoology_are_among_those_presets():
    tied = {name for name in PRESETS if PRESETS[name].values.get("tie_weights")}
    assert "nanogpt-cpu" in tied
    assert {name for name in PRESETS if name.startswith("zoology-") and not name.endswith("-mini")} <= tied


# --- what auto means -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IN_BACKBONE)
def test_auto_is_the_published_start_and_torchs_under_fair(name):
    model_class = MODELS[name].load()
    assert resolve_auto(model_class, arguments(model_class)).init == "published"
    assert resolve_auto(model_class, arguments(model_class, fair=True)).init == "torch"
    assert resolve_auto(model_class, arguments(model_class, fair=True, init="normal")).init == "normal"


# --- the four starts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IN_BACKBONE)
def test_under_fair_the_maps_of_every_layer_are_uniform_with_torchs_bound(name):
    for where, one in maps(make(name, fair=True)):
        bound = one.weight.shape[1] ** -0.5
        assert one.weight.abs().max() <= bound, where
        assert is_drawn_with(one.weight, bound / math.sqrt(3)), where
        for bias in one.biases:
            assert bias.abs().max() <= bound or getattr(bias, "_no_reinit", False), where


@pytest.mark.parametrize("name", MODELS)
def test_xavier_scales_each_part_of_a_fused_map_by_its_own_size(name):
    for where, one in maps(make(name, init="xavier")):
        if getattr(one.weight, "_no_reinit", False):
            continue
        assert sum(one.parts) == len(one.weight), where
        for part in one.weight.split(one.parts):
            bound = math.sqrt(6 / sum(part.shape))
            assert part.abs().max() <= bound, where
            assert is_drawn_with(part, bound / math.sqrt(3)), where
        assert all(getattr(bias, "_no_reinit", False) or not bias.any() for bias in one.biases), where


@pytest.mark.parametrize("name", IN_BACKBONE)
def test_normal_has_gpt2s_standard_deviations(name):
    model = make(name, init="normal", dim_ffn=96)
    residual = 0.02 / math.sqrt(2 * len(model.blocks))
    for where, one in maps(model):
        if getattr(one.weight, "_no_reinit", False):
            continue
        into_residual = where.endswith((*OUTPUT_MAPS, "mlp.down"))
        assert is_drawn_with(one.weight, residual if into_residual else 0.02), where
        assert all(getattr(bias, "_no_reinit", False) or not bias.any() for bias in one.biases), where
    has_output_map = name not in ("lstm", "gru")
    assert sum(w.endswith(OUTPUT_MAPS) for w, _ in maps(model)) == has_output_map * len(model.blocks)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("name", LAYERS)
def test_what_defines_a_layer_survives_every_start(name, init):
    published, other = (make(name, n_layer=1, init=i).blocks[0].mixer for i in ("published", init))
    same = {key for key, p in published.named_parameters() if torch.equal(p, other.get_parameter(key))}
    if init == "published":
        assert same == {key for key, _ in published.named_parameters()}
        return
    zero = {key for key, p in published.named_parameters() if key.endswith("bias") and not p.any()}
    changed = {key for key, _ in published.named_parameters()} - same
    assert OWN.get(name, set()) <= same
    assert same - zero == OWN.get(name, set()) - zero
    assert changed


@pytest.mark.parametrize("decay", ["scalar", "vector"])
def test_the_bias_of_a_learned_decay_is_the_layers_own(decay):
    published, other = (make("linear_attention", decay=decay, init=i).blocks[0].mixer for i in ("published", "normal"))
    gates = [m.gate[-1] if decay == "vector" else m.gate for m in (published, other)]
    assert torch.equal(gates[0].bias, gates[1].bias)
    assert not torch.equal(gates[0].weight, gates[1].weight)


@pytest.mark.parametrize("init", INITS[1:])
def test_embeddings_norms_and_a_tied_head_keep_their_start(init):
    for given in ({}, {"tie_weights": True}):
        published, other = (make("transformer", embed_std=0.3, init=i, **given) for i in ("published", init))
        for key in ("embed.weight", "pos_embed.weight", "norm.weight", "norm.bias", "blocks.1.norm1.weight"):
            assert torch.equal(published.get_parameter(key), other.get_parameter(key)), key
        assert torch.equal(published.head.weight, other.head.weight) == bool(given)


# --- the layers of the table -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["deltanet", "gated_deltanet"])
def test_the_delta_family_starts_from_one_published_choice(name):
    mixer = make(name).blocks[0].mixer
    for where, one in maps(mixer):
        assert is_drawn_with(one.weight, (3 * one.weight.shape[1]) ** -0.5), where


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_mambas_output_map_is_divided_by_the_root_of_the_depth(name):
    for given, residuals in (({"n_layer": 1}, 1), ({"n_layer": 4}, 4), ({"n_layer": 4, "dim_ffn": 32}, 8)):
        weight = make(name, **given).blocks[-1].mixer.out_proj.weight
        assert is_drawn_with(weight, (3 * weight.shape[1] * residuals) ** -0.5)
    hybrid = Hybrid.of((name, "gru", "gru", "gru"))
    weight = make(hybrid, n_layer=9).blocks[0].mixer.out_proj.weight
    assert is_drawn_with(weight, (3 * weight.shape[1] * 4) ** -0.5)  # its own number of blocks


# --- layers of a user's own ------------------------------------------------------------------------------------------


class _Plain(Mixer):
    """A user's file that knows nothing of --init: linear members, a bare parameter, and torch's own modules."""

    def __init__(self, args):
        super().__init__()
        D = args.d_model
        self.inner = nn.Linear(D, D)
        self.scale = nn.Parameter(torch.full((D,), 0.5))
        self.rnn = nn.GRU(D, D, batch_first=True)
        self.conv = nn.Conv1d(D, D, 1)
        self.attention = nn.MultiheadAttention(D, 2, batch_first=True)
        self.out = nn.Linear(D, D)

    def forward(self, x):
        return self.out(self.rnn(self.inner(x) * self.scale)[0])


@pytest.mark.parametrize("init", INITS)
def test_a_plain_file_of_a_user_works_with_every_start(init):
    published, model = (make(_Plain, init=i).blocks[0].mixer for i in ("published", init))
    assert make(_Plain, init=init)(tokens(2, 5)).isfinite().all()
    kept = {"scale", "conv.weight", "conv.bias"}
    for key, p in published.named_parameters():
        if key in kept or init == "published":
            assert torch.equal(p, model.get_parameter(key)), key
        elif p.ndim > 1:
            assert not torch.equal(p, model.get_parameter(key)), key
    weights = [m.weight for m in (model.inner, model.out, model.attention.out_proj)]
    stds = {"torch": [1 / math.sqrt(3 * 64)] * 3, "xavier": [1 / 8] * 3, "normal": [0.02, *[0.02 / math.sqrt(6)] * 2]}
    for weight, std in zip(weights, stds.get(init, []), strict=False):
        assert is_drawn_with(weight, std)
    if init == "xavier":
        assert is_drawn_with(model.attention.in_proj_weight, 1 / 8)
        assert is_drawn_with(model.rnn.weight_hh_l0, 1 / 8)


def test_a_layer_can_name_its_output_map_and_keep_a_parameter():
    class Named(_Plain):
        output_maps = ("inner",)

        def __init__(self, args):
            super().__init__(args)
            nn.init.constant_(self.out.bias, -4.6)
            self.out.bias._no_reinit = True

    mixer = make(Named, init="normal").blocks[0].mixer
    assert is_drawn_with(mixer.inner.weight, 0.02 / math.sqrt(6))
    assert is_drawn_with(mixer.out.weight, 0.02)
    assert (mixer.out.bias == -4.6).all()


class _Whole(ARModel):
    """A whole model of a user's own with a tied head."""

    def __init__(self, vocab_size, args):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, args.d_model)
        self.mlp = MLP(dataclasses.replace(args, dim_ffn=args.d_model, mlp="gelu"))
        self.head = nn.Linear(args.d_model, vocab_size)
        self.head.weight = self.embed.weight


def test_a_whole_model_keeps_its_start_unless_a_flag_asks_for_another():
    published, fair, normal = (make(_Whole, **g) for g in ({}, {"fair": True}, {"init": "normal"}))
    for key, p in published.named_parameters():
        assert torch.equal(p, fair.get_parameter(key)), key
    assert is_drawn_with(normal.mlp.up.weight, 0.02)
    assert is_drawn_with(normal.mlp.down.weight, 0.02 / math.sqrt(6))
    assert torch.equal(normal.embed.weight, published.embed.weight)


def test_a_map_without_parts_is_one_map():
    assert parts_of(nn.Linear(3, 5)) == [5]


def test_resolved_flags_of_a_hybrid_reach_each_of_its_layers():
    hybrid = Hybrid.of(("gla", "mamba"))
    args = resolve_auto(hybrid, arguments(hybrid, fair=True))
    assert args.init == "torch"
    torch.manual_seed(0)
    qkvg = build(hybrid, C, dataclasses.replace(args, init="xavier"), 80).blocks[0].mixer.qkvg
    assert is_drawn_with(qkvg.weight[:32], math.sqrt(2 / (64 + 32)))


# --- what a block adds at the start ----------------------------------------------------------------------------------


def rms(x):
    return x.square().mean().sqrt().item()


@pytest.mark.parametrize("name", ["transformer", "gla", "lstm", "template"])
def test_output_ratios_are_those_of_the_residual_sum_written_out(name):
    model, x = make(name, embed_std=0.3, pos="none", dropout=0.4).train(), tokens(2, 20)
    got = model.output_ratios(x)
    assert model.training
    model.eval()
    with torch.no_grad():
        h = model.embed(x)
        for i, block in enumerate(model.blocks):
            y = block.mixer(block.norm1(h))
            assert got["mixer"][i] == pytest.approx(rms(y) / rms(h), rel=1e-5)
            h = h + y
            y = block.mlp(block.norm2(h))
            assert got["mlp"][i] == pytest.approx(rms(y) / rms(h), rel=1e-5)
            h = h + y


def test_a_block_without_an_mlp_has_no_ratio_of_one():
    got = make("hybrid").output_ratios(tokens(2, 20))
    assert [r is None for r in got["mlp"]] == [True, False]
    assert all(r > 0 for r in got["mixer"])
    assert make(_Whole).output_ratios(tokens(2, 20)) is None


def test_small_embeddings_make_the_first_mixer_louder():
    loud, quiet = (make("gru", embed_std=std).output_ratios(tokens(2, 20))["mixer"][0] for std in (0.02, 1.0))
    assert loud == pytest.approx(50 * quiet, rel=0.1)
