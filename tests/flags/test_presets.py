"""Presets that bear a paper's name: they resolve, fix their task, and are listed with their source and numbers.

python -m pytest tests/flags/test_presets.py
"""

import json

import pytest

from dataset import TASKS
from src.flags.fields import UserError
from src.flags.presets import PRESETS, described, settings, task_of
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


ZOOLOGY = {
    "vocab": 8192,
    "power_a": 0.01,
    "filler": "zero",
    "train_size": 100_000,
    "test_size": 3_000,
    "n_layer": 2,
    "n_head": 1,
    "dim_ffn": 0,
    "norm": "layer",
    "tie_weights": True,
    "dropout": 0.0,
    "embed_dropout": 0.1,
    "attn_dropout": 0.1,
    "grad_clip": 0.0,
    "lr": 0.0021544346900318843,  # 10^(-8/3), the third of logspace(-4, -2, 4)
    "min_lr": 0.0,
    "cosine": "epoch",
    "warmup_steps": 0,
    "weight_decay": 0.1,
    "epochs": 64,
    "eval_every": -1,
    "stop_at": 0.99,
    "stop_after": 1,
    "pos": "auto",  # learned for attention only
}
GRAZZI = {
    "min_len": 3,
    "d_model": 128,
    "n_head": 4,
    "batch_size": 1024,
    "max_steps": 100_000,
    "weight_decay": 0.1,
    "min_lr": 1e-6,
    "warmup_steps": 10_000,
    "cosine": "step",
    "eval_lengths": ("40-256",),
}
DELETANG = {
    "min_len": 1,
    "d_model": 64,
    "n_layer": 5,
    "n_head": 8,
    "batch_size": 128,
    "max_steps": 1_000_000,
    "weight_decay": 0.0,
    "grad_clip": 1.0,
    "cosine": "off",
    "warmup_steps": 0,
    "eval_lengths": ("41-500",),
    "eval_size": 512,
}
MAMBA = {"train_size": 0, "train_lengths": "fixed", "n_layer": 2, "cosine": "off", "weight_decay": 0.0}
NANOGPT = {"lr": 1e-3, "min_lr": 1e-4, "warmup_steps": 100, "weight_decay": 0.1, "grad_clip": 1.0}
PUBLISHED = [  # (preset, model, what the source says)
    ("zoology-64-4", "transformer", {**ZOOLOGY, "context_len": 64, "n_pairs": 4, "batch_size": 512}),
    ("zoology-128-8", "mamba", {**ZOOLOGY, "context_len": 128, "n_pairs": 8, "batch_size": 512}),
    ("zoology-256-16", "gru", {**ZOOLOGY, "context_len": 256, "n_pairs": 16, "batch_size": 256}),
    ("zoology-512-64", "transformer", {**ZOOLOGY, "context_len": 512, "n_pairs": 64, "batch_size": 128}),
    ("grazzi-parity", "deltanet", {**GRAZZI, "n_layer": 2, "max_len": 40}),
    ("grazzi-modarith", "deltanet", {**GRAZZI, "n_layer": 3, "modulus": 5, "brackets": False}),
    ("deletang-parity", "transformer", {**DELETANG, "max_len": 40}),
    ("deletang-modarith", "transformer", {**DELETANG, "modulus": 5, "brackets": False}),
    ("deletang-parity", "lstm", {"d_model": 256, "batch_size": 128}),
    (
        "mamba-selective",
        "mamba",
        {**MAMBA, "context_len": 4096, "n_data": 16, "d_model": 64, "max_steps": 400_000, "batch_size": 64, "lr": 1e-4},
    ),
    (
        "mamba-induction",
        "mamba",
        {
            **MAMBA,
            "context_len": 256,
            "vocab": 16,
            "d_model": 64,
            "batch_size": 8,
            "max_steps": 25 * 8192,
            "eval_lengths": tuple(str(2**n) for n in range(6, 21)),
        },
    ),
    (
        "mamba-induction",
        "transformer",
        {"d_model": 128, "max_steps": 50 * 8192, "eval_lengths": tuple(str(2**n) for n in range(6, 15))},
    ),
    ("mamba-induction", "deltanet", {"d_model": 128}),
    ("nanogpt-cpu", "transformer", {**NANOGPT, "n_layer": 4, "n_head": 4, "d_model": 128, "context_len": 64}),
    ("nanogpt-gpu", "transformer", {**NANOGPT, "n_layer": 6, "n_head": 6, "d_model": 384, "dropout": 0.2}),
]


@pytest.mark.parametrize(("name", "model", "facts"), PUBLISHED, ids=[f"{name}-{model}" for name, model, _ in PUBLISHED])
def test_a_preset_is_what_its_source_says(name, model, facts):
    task_class = TASKS[PRESETS[name].task].load()
    args = resolve(task_class, MODELS[model].load(), preset=settings(name, task_class, "cpu", (model,))[1])
    assert {flag: getattr(args, flag) for flag in facts} == facts


def test_the_table_of_facts_covers_every_preset_that_is_not_reduced():
    assert {name for name, _, _ in PUBLISHED} == set(NAMED) - set(MINIS)


@pytest.mark.parametrize("name", NAMED)
def test_a_preset_says_what_differs_and_which_number_compares(name, main):
    preset = PRESETS[name]
    assert preset.compare
    out = main("list", "--presets")[1].split(f"  {name} ")[1].split("\n\n")[0]
    assert f"compare:    {preset.compare}" in out
    assert out.count("differs: ") == max(1, len(preset.differences))


def test_every_model_that_a_preset_sets_apart_exists():
    assert {model for preset in PRESETS.values() for model in preset.per_model} <= set(MODELS)


def test_a_hybrid_takes_the_values_of_its_layers():
    task_class = TASKS["induction"].load()
    _, values = settings("mamba-induction", task_class, "cpu", ("hybrid", "mamba", "transformer"))
    assert (values["d_model"], values["eval_lengths"][-1]) == (64, str(2**14))


def test_the_result_names_the_flags_of_a_preset_that_a_run_changed():
    task_class = TASKS["parity"].load()
    values = settings("deletang-parity", task_class, "cpu", ("lstm",))[1]
    args = resolve(task_class, MODELS["lstm"].load(), preset=values, model="lstm", lr=1e-4, eval_lengths=("41-500:9",))
    assert described("deletang-parity", args)["changed"] == {"lr": 1e-4, "eval_lengths": ["41-500:9"]}
    assert described("small", args)["published"] == ""
