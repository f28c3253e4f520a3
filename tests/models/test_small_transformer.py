"""The small transformer to read: the same function as `transformer` and as torch's encoder, and easy to read.

python -m pytest tests/models/test_small_transformer.py
"""

import ast
import inspect
import re

import pytest
import torch
from small_models import C, NoTask, disturb, tokens
from torch import nn

from src.checks.ready import ignored_lines
from src.flags.fields import UserError
from src.flags.run_flags import resolve
from src.models import MODELS, small_transformer
from src.models.backbone import build, sinusoid
from src.models.fair import fair_differences
from src.models.hybrid import Hybrid
from src.models.match import counts
from src.models.small_transformer import MultiHeadAttention, TransformerLM, causal_mask, sinusoids
from src.models.transformer import Attention
from src.setup.plan import plan

TABLE = 63
LENGTHS = [1, 7, 63]
ENDS = (".weight", ".bias")
CARRIED = {  # ours: in the backbone, in torch's encoder
    "norm1": ("norm1", "norm1"),
    "attention.out": ("mixer.out", "self_attn.out_proj"),
    "norm2": ("norm2", "norm2"),
    "feed_forward.up": ("mlp.up", "linear1"),
    "feed_forward.down": ("mlp.down", "linear2"),
}
FUSED = ("attention.query", "attention.key", "attention.value")


def made(model_class=TransformerLM, **given):
    """A small model of the bench, in eval mode, with no parameter at a value such as 0 or 1."""
    sizes = {"d_model": 16, "n_layer": 2, "n_head": 2, "dropout": 0.0, "pos": "learned"}
    torch.manual_seed(0)
    flags = resolve(NoTask, model_class, preset={}, **{**sizes, **given})
    return disturb(build(model_class, C, flags, TABLE).eval(), 0.1)


def pairs(model, other, column):
    """(our parameter, part of the other model's) of all blocks.  column: 0 for the backbone, 1 for the encoder."""
    other = dict(other.named_parameters())
    root, fused = (("blocks", "mixer.qkv."), ("layers", "self_attn.in_proj_"))[column]
    for i in range(len(model.blocks)):
        for ours, names in CARRIED.items():
            for end in ENDS:
                yield model.get_parameter(f"blocks.{i}.{ours}{end}"), other[f"{root}.{i}.{names[column]}{end}"], None
        for end in ENDS:
            for part, ours in enumerate(FUSED):
                yield model.get_parameter(f"blocks.{i}.{ours}{end}"), other[f"{root}.{i}.{fused}{end[1:]}"], part


def part_of(tensor, part):
    """The whole tensor, or one of the three maps that are fused in it."""
    return tensor if part is None else tensor.chunk(3)[part]


@torch.no_grad()
def carry(model, other, column):
    """Give the other model our weights, all of them."""
    for ours, theirs, part in pairs(model, other, column):
        part_of(theirs, part).copy_(ours)
    for name in ("norm", *(("embed", "head", "pos_embed") if column == 0 else ())):
        for end in ENDS:
            if f"{name}{end}" in dict(model.named_parameters()):
                other.get_parameter(f"{name}{end}").copy_(model.get_parameter(f"{name}{end}"))


def gap(got, want):
    return (got - want).abs().max().item()


def largest_gradient_gap(model, other, column):
    """The largest difference of a gradient of a block's parameter."""
    return max(gap(ours.grad, part_of(theirs.grad, part)) for ours, theirs, part in pairs(model, other, column))


# --- the same function ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("pos", ["learned", "sinusoidal", "none"])
def test_it_is_the_transformer_of_the_bench_once_that_has_its_weights(pos, length):
    """Logits to 1e-5 in float32, for sums in another order. Gradients to 1e-9 in float64. Before, the two differ."""
    model, other, x = made(pos=pos), made(Attention, pos=pos), tokens(3, length)
    assert gap(model(x), other(x)) > 1e-2
    carry(model, other, 0)
    assert gap(model(x), other(x)) <= 1e-5
    for each in (model.double(), other.double()):
        each(x).logsumexp(-1).square().sum().backward()
    assert largest_gradient_gap(model, other, 0) <= 1e-9
    assert gap(model.embed.weight.grad, other.embed.weight.grad) <= 1e-9
    assert model.embed.weight.grad.abs().max() > 1e-2


@pytest.mark.parametrize("length", LENGTHS)
def test_it_is_torchs_encoder_under_a_causal_mask(length):
    """Hidden states to 1e-5 in float32, gradients to 1e-9 in float64. Before, the two differ."""
    model = made()
    layer = nn.TransformerEncoderLayer(16, 2, 64, 0.0, "gelu", batch_first=True, norm_first=True)
    other = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(16), enable_nested_tensor=False)
    x, mask = tokens(3, length), nn.Transformer.generate_square_subsequent_mask(length)
    h = model.embedded(x).detach()
    assert gap(model.hidden(x), other(h, mask=mask)) > 1e-2
    carry(model, other, 1)
    assert gap(model.hidden(x), other(h, mask=mask)) <= 1e-5
    h = model.double().embedded(x).detach()
    model.hidden(x).sin().sum().backward()
    other.double()(h, mask=mask.double()).sin().sum().backward()
    assert largest_gradient_gap(model, other, 1) <= 1e-9
    assert model.blocks[0].norm1.weight.grad.abs().max() > 1e-2


def test_the_comparison_finds_queries_and_keys_that_are_exchanged():
    """Otherwise the two tests above might hold for any weights. Scores q k and k q differ for t and s."""
    model, other, x = made(), made(Attention), tokens(3, 7)
    carry(model, other, 0)
    for block in model.blocks:
        block.attention.query, block.attention.key = block.attention.key, block.attention.query
    assert gap(model(x), other(x)) > 1e-3


def test_sinusoids_are_those_of_the_backbone():
    torch.testing.assert_close(sinusoids(9, 7), sinusoid(0, 9, 7, "cpu"))


# --- its parts --------------------------------------------------------------------------------------------------------


def test_attention_weights_are_shares_of_the_past():
    attention, x = disturb(MultiHeadAttention(16, 4)), torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(1))
    weights = attention.weights(x)
    assert weights.shape == (2, 4, 9, 9)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 9))
    assert not weights[..., ~causal_mask(9)].any()
    assert gap(weights[:, 0], weights[:, 1]) > 1e-3  # the heads differ


def test_dropout_acts_in_training_only():
    model, x = made(dropout=0.3), tokens(2, 20)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))
    assert {m.p for m in model.modules() if isinstance(m, nn.Dropout)} == {0.3}


def test_alone_it_has_the_sizes_of_its_constructor():
    model = TransformerLM(65)
    block = model.blocks[0]
    assert (model.embed.weight.shape, model.pos_embed.weight.shape) == ((65, 128), (128, 128))
    assert (len(model.blocks), block.attention.n_head, block.feed_forward.up.out_features) == (3, 4, 512)
    assert (model.pos, model.dropout.p, model.max_len) == ("learned", 0.1, 128)


def test_in_the_bench_the_flags_decide():
    flags = {"d_model": 24, "n_layer": 1, "n_head": 3, "dim_ffn": 40, "dropout": 0.2, "embed_std": 0.01}
    model = build(TransformerLM, C, resolve(NoTask, TransformerLM, preset={}, **flags), TABLE)
    block = model.blocks[0]
    assert (model.embed.embedding_dim, len(model.blocks), block.attention.n_head) == (24, 1, 3)
    assert (block.feed_forward.up.out_features, model.dropout.p, model.max_len) == (40, 0.2, TABLE)
    assert model.embed.weight.std() < 0.02
    assert made(d_model=24, n_head=3).blocks[0].feed_forward.up.out_features == 96  # 4 x d_model
    assert made(pos="sinusoidal").max_len is None


def test_init_normal_makes_the_maps_into_the_residual_stream_smaller():
    """0.02 / sqrt(2 n_layer) = 0.01; 4,096 numbers give the standard deviation to 2 %."""
    torch.manual_seed(0)
    model = build(TransformerLM, C, resolve(NoTask, TransformerLM, d_model=64, n_layer=2, init="normal"), TABLE)
    block = model.blocks[0]
    for linear, std in ((block.attention.out, 0.01), (block.feed_forward.down, 0.01), (block.attention.query, 0.02)):
        assert linear.weight.std().item() == pytest.approx(std, rel=0.1)


# --- what does not apply ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"pos": "rope"}, "--pos: got 'rope'.*allowed: learned, sinusoidal, none"),
        ({"n_head": 3}, "--n_head: got 3.*try --n_head 2"),
        ({"dim_ffn": 0}, "--dim_ffn: got 0, allowed: >= 1"),
    ],
    ids=str,
)
def test_a_size_that_does_not_fit_is_one_line(given, told):
    with pytest.raises(UserError, match=told) as caught:
        made(**given)
    assert "\n" not in str(caught.value)


def test_flags_of_the_block_change_nothing_and_a_run_says_so():
    typed = "--fair --norm rms --no_bias --attn_dropout 0.1 --d_model 32 --embed_std 0.1".split()
    setup, _ = plan(["--task", "reverse", "--model", "small_transformer", "--device", "cpu", "--threads", "1", *typed])
    (line,) = ignored_lines(setup, C)
    assert "notice: --fair, --norm, --no_bias, --attn_dropout change nothing: TransformerLM is a whole model" in line
    model = build(TransformerLM, C, setup.args, TABLE)
    assert fair_differences(model, setup.args) == ["TransformerLM: a whole model, which has no block of the bench"]


def test_a_hybrid_refuses_it_and_does_not_offer_it():
    with pytest.raises(UserError, match="got 'small_transformer', a whole model, allowed: layers") as caught:
        Hybrid.of(("gru", "small_transformer"))
    assert "small_transformer" not in str(caught.value).split("allowed")[1]


def test_it_has_as_many_parameters_as_the_transformer():
    found = [
        counts(model_class, resolve(NoTask, model_class, preset={}, d_model=64, n_layer=2, n_head=2), 40, 80)
        for model_class in (TransformerLM, MODELS["transformer"].load())
    ]
    assert found[0] == found[1]


# --- to be read -------------------------------------------------------------------------------------------------------

SHAPE = re.compile(r"\((?:B|T|D|C|H|d_ff|n_positions)(?:, [\w ]+)*\)|\(D, H\)")


def without_shapes(source: str) -> list[str]:
    """The functions and classes of a source whose docstring names no shape such as (B, T, D)."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    return [node.name for node in found if not SHAPE.search(ast.get_docstring(node) or "")]


def test_every_function_says_its_shapes_and_the_file_is_short():
    source = inspect.getsource(small_transformer)
    assert without_shapes(source) == []
    assert len(source.splitlines()) <= 200


@pytest.mark.parametrize("docstring", ['"""Mix x."""', "pass"])
def test_a_function_without_shapes_would_be_found(docstring):
    assert without_shapes(f"def mix(x):\n    {docstring}\n") == ["mix"]
