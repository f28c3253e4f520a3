"""The names that scripts outside this project may rely on, used as such a script uses them: train, evaluate, plot.

python -m pytest tests/test_public_names.py
"""

import importlib
import inspect
import math

import pytest
import torch

from dataset import TASKS
from src.flags.run_flags import resolve
from src.models import MODELS

SIZES = {
    "context_len": 24,
    "d_model": 16,
    "n_layer": 1,
    "n_head": 2,
    "batch_size": 8,
    "val_size": 12,
    "test_size": 12,
    "warmup_steps": 2,
    "lr": 1e-2,
    "dropout": 0.0,
    "epochs": 3,
    "precision": "fp32",
}
CASES = {
    "needle with transformer": ("needle", "transformer", "transformer", {"train_size": 200}),
    "tiny_shakespeare with gru": ("tiny_shakespeare", "rnn", "gru", {"train_size": 60}),
}


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("But soft, what light through yonder window breaks?\n" * 120)
    return path


@pytest.mark.parametrize("case", CASES)
def test_a_script_of_public_names_alone_trains_and_evaluates(case, text_file, tmp_path):
    task_name, model_file, model_name, options = CASES[case]
    build_loaders = importlib.import_module(f"dataset.{task_name}").build_loaders
    build_model = importlib.import_module(f"src.models.{model_file}").build_model
    from src.utils.training import evaluate, make_optimizer, make_scaler, make_scheduler, train_one_epoch
    from src.utils.viz import plot_loss, plot_ppl

    extra = {"data_path": str(text_file)} if task_name == "tiny_shakespeare" else {}
    args = resolve(
        TASKS[task_name].load(),
        MODELS[model_name].load(),
        task=task_name,
        model=model_name,
        **SIZES,
        **options,
        **extra,
    )
    tokenizer, loaders, task_meta = build_loaders(args)
    assert {"train", "val", "test"} <= set(loaders)
    torch.manual_seed(args.seed)
    model = build_model(len(tokenizer), args)
    device = torch.device("cpu")
    opt = make_optimizer(model, args, device)
    sched, scaler = make_scheduler(opt, args, args.epochs * len(loaders["train"])), make_scaler(args, device)

    before = evaluate(model, loaders["val"], device, args)
    history = {"train": [], "val": []}
    for epoch in range(1, args.epochs + 1):
        logs = train_one_epoch(model, loaders["train"], opt, sched, scaler, device, args)
        metrics = evaluate(model, loaders["val"], device, args, task_meta)
        history["train"].append((epoch, logs["loss"]))
        history["val"].append((epoch, metrics["loss"]))
    assert metrics["loss"] < before["loss"]
    assert history["train"][-1][1] < history["train"][0][1]

    test = evaluate(model, loaders["test"], device, args, task_meta, save_samples=tmp_path / "samples.txt")
    assert test["bpc"] == pytest.approx(test["loss"] / math.log(2))
    assert test["ppl"] == pytest.approx(math.exp(test["loss"]))
    assert 0 <= test[task_meta.task.primary] <= 1
    assert (tmp_path / "samples.txt").exists() is (task_name == "needle")

    plot_loss(history, tmp_path / "loss.png")
    plot_ppl(history, tmp_path / "ppl.png")
    assert (tmp_path / "loss.png").read_bytes()[:4] == (tmp_path / "ppl.png").read_bytes()[:4] == b"\x89PNG"


def test_a_distance_curve_is_measured_and_drawn(tmp_path):
    from src.utils.metrics import hit_rate_by_gap
    from src.utils.viz import plot_distance_curve

    distance2acc = hit_rate_by_gap([1, 1, 0, 1], [4, 8, 64, 8])
    assert distance2acc == {4: (1.0, 1), 8: (1.0, 2), 64: (0.0, 1)}
    plot_distance_curve(distance2acc, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"


def test_metrics_are_importable_by_name():
    from src.utils.metrics import bpc, cross_entropy, exact_match, max_depth_acc, perplexity

    total, count = cross_entropy(torch.zeros(3, 2), torch.tensor([0, 1, -100]))
    assert (round(bpc(total / count), 6), round(perplexity(total / count), 6)) == (1.0, 2.0)
    assert exact_match([True, False], [0, 1]) == (1, 2)
    assert max_depth_acc([True], [3]) == {3: (1.0, 1)}


def test_the_tokenizer_is_built_from_a_corpus():
    from dataset.tokenizer import CharTokenizer

    tokenizer = CharTokenizer.build("to be", extra_tokens=["<pad>", "<bos>", "<eos>"])
    assert tokenizer.decode(tokenizer.encode("to be")) == "to be"
    assert len(tokenizer) == 3 + len(set("to be"))


@pytest.mark.parametrize(
    ("module", "name", "parameters"),
    [
        ("src.utils.training", "train_one_epoch", ["model", "loader", "opt", "sched", "scaler", "device", "args"]),
        ("src.utils.training", "evaluate", ["model", "loader", "device", "args", "task_meta", "save_samples"]),
        ("src.utils.viz", "plot_loss", ["history", "out_path"]),
        ("src.utils.viz", "plot_ppl", ["history", "out_path"]),
        ("src.utils.viz", "plot_distance_curve", ["distance2acc", "out_path"]),
        ("src.models.transformer", "build_model", ["vocab_size", "args"]),
        ("src.models.rnn", "build_model", ["vocab_size", "args"]),
        ("dataset.needle", "build_loaders", ["args"]),
    ],
)
def test_the_signature_that_scripts_rely_on(module, name, parameters):
    """Further parameters may follow, none of them needed."""
    signature = inspect.signature(getattr(importlib.import_module(module), name))
    assert list(signature.parameters)[: len(parameters)] == parameters
    signature.bind(*[None] * len(parameters))
