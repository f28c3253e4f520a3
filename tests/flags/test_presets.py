"""Presets that bear a paper's name: they resolve, fix their task, and are listed with their source and numbers.

python -m pytest tests/flags/test_presets.py
"""

import json

import pytest

from dataset import TASKS
from src.flags.fields import UserError
from src.flags.presets import PRESETS, settings, task_of
from src.flags.run_flags import resolve
from src.models import MODELS
from src.models.backbone import build, resolve_auto
from src.utils.training import make_optimizer

NAMED = [name for name, preset in PRESETS.items() if preset.task]
MINIS = [name for name in NAMED if name.endswith("-mini")]


@pytest.mark.parametrize("name", NAMED)
def test_every_value_of_a_preset_is_a_flag_of_its_task_and_within_bounds(name):
    task_class = TASKS[PRESETS[name].task].load()
    resolved, layer = settings(name, task_class, "cpu")
    args = resolve(task_class, MODELS["transformer"].load(), preset=layer)
    assert resolved == name
    assert all(getattr(args, flag) == value for flag, value in PRESETS[name].values.items())
    task_class(args)  # the task's own checks of what several flags say together


NANOGPT = {  # config/train_shakespeare_char.py and the defaults of train.py, under our names
    "lr": 1e-3,
    "min_lr": 1e-4,
    "warmup_steps": 100,
    "beta1": 0.9,
    "beta2": 0.99,
    "weight_decay": 0.1,
    "grad_clip": 1.0,
    "label_smoothing": 0.0,
    "tie_weights": True,
    "bias": False,
    "init": "normal",
    "embed_std": 0.02,
    "pos": "learned",
    "norm": "layer",
    "short_conv": 0,
}


@pytest.mark.parametrize(
    ("name", "own"),
    [
        (
            "nanogpt-cpu",
            {"context_len": 64, "n_layer": 4, "n_head": 4, "d_model": 128, "batch_size": 12, "dropout": 0.0},
        ),
        (
            "nanogpt-gpu",
            {"context_len": 256, "n_layer": 6, "n_head": 6, "d_model": 384, "batch_size": 64, "dropout": 0.2},
        ),
    ],
)
def test_a_transformer_under_a_nanogpt_preset_has_the_settings_of_nanogpt(name, own):
    """All batches are full, as random windows allow, and every matrix decays, embeddings among them."""
    task_class, model_class = TASKS["tiny_shakespeare"].load(), MODELS["transformer"].load()
    args = resolve_auto(model_class, resolve(task_class, model_class, preset=settings(name, task_class, "cpu")[1]))
    expected = {**NANOGPT, **own, "dim_ffn": 4 * own["d_model"]}
    assert {flag: getattr(args, flag) for flag in expected} == expected
    assert args.train_size == args.max_steps * args.batch_size
    assert (args.batch_chars, args.precision) == (0, "fp32" if name == "nanogpt-cpu" else "auto")
    task = task_class(args)
    model = build(model_class, 68, args, task.table_tokens())
    assert model.head_scale == 1.0
    assert tuple(model.pos_embed.weight.shape) == (own["context_len"], own["d_model"])
    decayed, plain = make_optimizer(model, args, "cpu").param_groups
    assert all(p.ndim == 2 for p in decayed["params"])
    assert all(p.ndim == 1 for p in plain["params"])
    assert any(p is model.embed.weight for p in decayed["params"])


def test_a_preset_with_a_value_that_is_no_flag_would_be_refused():
    with pytest.raises(UserError, match="--n_pears"):
        resolve(TASKS["recall"].load(), preset={"n_pears": 4})


def test_a_preset_fixes_the_task():
    assert task_of("grazzi-parity", None) == "parity"
    assert task_of("grazzi-parity", "parity") == "parity"
    assert task_of("small", "dyck") == task_of(None, "dyck") == "dyck"
    with pytest.raises(UserError, match="--preset grazzi-parity is an experiment on 'parity'"):
        task_of("grazzi-parity", "dyck")
    with pytest.raises(UserError, match="did you mean 'grazzi-parity'"):
        task_of("grazzi-party", None)


def test_list_shows_source_published_number_and_settings_of_each(main):
    code, out, _ = main("list", "--presets")
    assert code == 0
    assert all(f"  {name} " in out and PRESETS[name].source in out and PRESETS[name].published in out for name in NAMED)
    assert out.count("sets: ") == len(NAMED)
    assert "published:" not in main("list")[1]


@pytest.mark.parametrize("name", NAMED)
def test_a_preset_names_its_source_its_numbers_and_what_it_reduces(name):
    preset = PRESETS[name]
    assert preset.source
    assert preset.published
    assert bool(preset.reduced) == name.endswith("-mini")


def test_a_run_takes_its_task_from_the_preset_and_explicit_flags_win(main, tmp_path):
    tiny = [
        "--max_steps",
        "2",
        "--batch_size",
        "4",
        "--d_model",
        "8",
        "--val_size",
        "20",
        "--test_size",
        "20",
        "--threads",
        "1",
        "--eval_lengths",
        "64",
    ]
    code, _, err = main("--preset", "grazzi-parity", "--model", "gru", *tiny, "--out_dir", "run")
    assert code == 0, err
    stored = json.loads((tmp_path / "run/config.json").read_text(encoding="utf-8"))
    assert stored["preset"] == "grazzi-parity"
    assert stored["args"]["task"] == "parity"
    assert stored["args"]["labels"] == "final"
    assert stored["args"]["max_steps"] == 2
    code, _, err = main("--preset", "grazzi-parity", "--task", "dyck")
    assert code == 2
    assert len(err.splitlines()) == 1
