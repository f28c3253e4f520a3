"""--fair: one block, one convolution, one dropout and no positions for every layer, and a list of what differs.

python -m pytest tests/models/test_fair.py
"""

import json

import pytest
import torch
from small_models import LAYERS, WHOLE_FILE, NoTask, tokens
from torch import nn

from src.flags.fields import UserError
from src.flags.run_flags import resolve
from src.models import MODELS
from src.models.backbone import build, ops_of, resolve_auto
from src.models.contract import ARModel, Mixer
from src.models.fair import block_words, fair_differences, unread
from src.models.hybrid import Hybrid
from src.models.short_conv import ShortConv
from src.setup.stored import open_run
from src.storage.files import seal
from src.storage.rundir import write_json

C, TABLE, RATE = 11, 40, 0.25
KEPT = {"retnet": "rotates", "template": "a convolution of its own"}  # the layers that no flag can make equal


def made(model_class, **given):
    """(model, its args) under --fair."""
    sizes = {"d_model": 16, "n_layer": 2, "n_head": 2, "dropout": RATE}
    args = resolve_auto(model_class, resolve(NoTask, model_class, preset={}, **{**sizes, "fair": True, **given}))
    torch.manual_seed(0)
    return build(model_class, C, args, TABLE), args


def outline(block):
    """What --fair promises to be equal: (name in the block, kind, sizes) of all modules outside the mixer."""
    named = [(name, module) for name, module in block.named_modules() if not name.startswith("mixer")]
    return [(name, type(m).__name__, m.extra_repr()) for name, m in named if name]


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_has_the_same_block_and_positions(name):
    transformer, _ = made(MODELS["transformer"].load())
    model, args = made(MODELS[name].load())
    wanted = transformer.blocks[0]
    for block in model.blocks:
        assert outline(block) == outline(wanted)
        assert isinstance(block.norm1, nn.RMSNorm)
        assert block.mlp.gate is None
        assert isinstance(block.conv, ShortConv)
        assert (block.conv.weight.shape, block.conv.activation) == ((16, 4), "silu")
        assert [n for n, _ in block.conv.named_parameters()] == ["weight"]  # no bias
    assert model.pos == "none"
    assert not hasattr(model, "pos_embed")
    assert (args.norm, args.mlp, args.dim_ffn, args.short_conv) == ("rms", "gelu", 64, 4)
    assert "causal_conv" in ops_of(MODELS[name].load(), args)


@pytest.mark.parametrize("name", LAYERS)
def test_no_mixer_has_a_convolution_or_dropout_of_its_own(name):
    """Dropout is only where the block has it, so a mixer in training mode repeats itself."""
    model, _ = made(MODELS[name].load())
    mixer = model.blocks[0].mixer.train()
    assert not [m for m in mixer.modules() if isinstance(m, (nn.Conv1d, ShortConv))]
    x = torch.randn(2, 9, 16)
    with torch.no_grad():
        assert torch.equal(mixer(x), mixer(x))


@pytest.mark.parametrize("name", LAYERS)
def test_what_stays_different_is_listed(name):
    found = fair_differences(*made(MODELS[name].load()))
    assert len(found) == (name in KEPT)
    assert all(KEPT[name] in text for text in found)


def test_without_fair_there_is_no_list():
    assert fair_differences(*made(MODELS["gru"].load(), fair=False)) is None


class Planted(Mixer):
    """A layer with a convolution and dropout that no flag reaches."""

    keeps = ("it counts the characters",)

    def __init__(self, args):
        super().__init__()
        self.conv = nn.Conv1d(args.d_model, args.d_model, 3, padding=2)
        self.drop = nn.Dropout(0.3)

    def forward(self, x):
        return self.drop(self.conv(x.mT)[..., : x.shape[1]].mT)


class Whole(ARModel):
    def __init__(self, vocab_size, args):
        super().__init__()
        self.head = nn.Linear(4, vocab_size)


def test_a_planted_layer_that_differs_is_listed_with_each_difference():
    assert fair_differences(*made(Planted)) == [
        "Planted: it counts the characters",
        "Planted: a convolution of its own (conv)",
        "Planted: dropout 0.3 of its own (drop)",
    ]


def test_a_whole_model_is_listed_as_such():
    assert fair_differences(*made(Whole)) == ["Whole: a whole model, which has no block of the bench"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"norm": "layer"}, "norm: layer, not rms"),
        ({"mlp": "swiglu"}, "MLP: swiglu with 40 channels, not gelu with 64 channels"),
        ({"dim_ffn": 0}, "MLP: none, not gelu with 64 channels"),
        ({"short_conv": 2}, "convolution: width 2 with silu on the mixer's input, not width 4"),
        ({"short_conv": 0}, "convolution: none, not width 4"),
        ({"pos": "rope"}, "positions: rope, not none"),
    ],
    ids=str,
)
def test_a_typed_flag_that_changes_the_block_is_listed(given, told):
    found = fair_differences(*made(MODELS["transformer"].load(), **given))
    assert any(text.startswith(told) for text in found)


def test_a_hybrid_has_one_block_for_all_its_layers():
    model, args = made(Hybrid.of(("transformer", "mamba", "retnet")))
    assert outline(model.blocks[0]) == outline(model.blocks[1]) == outline(model.blocks[2])
    assert model.pos == "none"
    assert fair_differences(model, args) == ["RetNet: it rotates queries and keys by their position"]


def test_the_published_block_keeps_the_convolution_inside_the_layer():
    """Without --fair nothing moves: a layer's own convolution is where its paper has it."""
    for name in ("mamba", "deltanet"):
        model, _ = made(MODELS[name].load(), fair=False)
        assert model.blocks[0].conv is None
        assert [m for m in model.blocks[0].mixer.modules() if isinstance(m, (nn.Conv1d, ShortConv))]


def test_a_run_stores_and_prints_the_differences(main, tmp_path):
    tiny = "--task reverse --max_len 8 --max_steps 2 --val_size 20 --test_size 20 --batch_size 4 --threads 1".split()
    code, out, err = main(*tiny, "--model", "retnet", "--fair", "--out_dir", "a")
    assert code == 0, err
    stored = json.loads((tmp_path / "a/metrics.json").read_text(encoding="utf-8"))
    assert stored["fair_differences"] == ["RetNet: it rotates queries and keys by their position"]
    assert "--fair leaves these differences: RetNet: it rotates queries and keys by their position" in out
    assert "notice: --fair leaves" in err

    # A run older than --mlp had GELU. Under the --fair of its time the convolution was inside the layer.
    config = json.loads((tmp_path / "a/config.json").read_text(encoding="utf-8"))
    del config["args"]["mlp"]
    write_json(tmp_path / "a/config.json", seal(config))
    with pytest.raises(UserError, match="this run is older than --mlp"):
        open_run("a")
    config["args"]["fair"] = False
    write_json(tmp_path / "a/config.json", seal(config))
    assert open_run("a").args.mlp == "gelu"


def test_check_has_a_row_for_the_differences_under_fair_only():
    from src.checks.base import Subject
    from src.checks.cost import fair

    retnet = MODELS["retnet"].load()
    (row,) = fair(Subject(retnet, made(retnet, dropout=0.0)[1]))
    assert (row.value, row.note) == (1, "RetNet: it rotates queries and keys by their position")
    assert not list(fair(Subject(retnet, made(retnet, fair=False, dropout=0.0)[1])))


def test_two_layers_differ_in_the_mixer_alone():
    """With the mixers made equal, the models of two layers give the same logits from the same weights."""
    first, second = (made(MODELS[name].load(), dropout=0.0)[0].eval() for name in ("deltanet", "mamba"))
    for model in (first, second):
        for block in model.blocks:
            block.mixer = nn.Identity()
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(tokens(2, 12)), second(tokens(2, 12)))


class ReadsNorm(Whole):
    def __init__(self, vocab_size, args):
        super().__init__(vocab_size, args)
        self.norm = args.norm


def test_flags_of_the_block_that_a_whole_model_does_not_read_are_told_apart():
    args = resolve(NoTask, Whole, preset={}, norm="rms", fair=True)
    assert unread(Whole, C, args, ["fair", "norm"]) == ["fair", "norm"]
    assert unread(ReadsNorm, C, args, ["fair", "norm"]) == ["fair"]


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("gru", {}, "layer, no conv, MLP 64"),
        ("gru", {"fair": True}, "rms, conv 4 on its input, MLP 64"),
        ("gru", {"mlp": "swiglu", "short_conv": 2}, "layer, conv 2 on its input, SwiGLU MLP 40"),
        ("mamba", {}, "rms, conv of its own, no MLP"),
        ("template", {"fair": True}, "rms, conv 4 on its input, MLP 64"),
    ],
)
def test_the_block_around_a_layer_is_told_in_words(name, given, words):
    model_class = MODELS[name].load()
    args = resolve_auto(model_class, resolve(NoTask, model_class, preset={}, d_model=16, n_head=2, **given))
    assert block_words(model_class, args) == words


def test_the_blocks_of_a_hybrid_are_told_for_each_kind_of_layer():
    made_of = Hybrid.of(("gru", "mamba", "gru"))
    args = resolve_auto(made_of, resolve(NoTask, made_of, preset={}, d_model=16, n_head=2))
    assert block_words(made_of, args) == "GRU: layer, no conv, MLP 64; Mamba: rms, conv of its own, no MLP"


def test_a_run_says_which_flags_change_nothing_for_a_whole_model(main, tmp_path, monkeypatch):
    monkeypatch.setattr("src.figures.runs.draw_all", lambda metrics, folder: [])
    (tmp_path / "whole.py").write_text(WHOLE_FILE)
    tiny = "--task reverse --max_len 8 --max_steps 2 --val_size 20 --test_size 20 --batch_size 4 --threads 1".split()
    code, _, err = main(*tiny, "--model", "whole.py", "--fair", "--norm", "rms", "--out_dir", "a")
    assert code == 0, err
    assert "notice: --fair, --norm change nothing: Whole is a whole model, which has no block of the bench" in err
