"""When a run validates, moves its learning rate and stops; dropout by place.

python -m pytest tests/utils/test_stopping.py
"""

import json
import math

import pytest
import torch
from conftest import TINY
from small_tasks import make

from dataset import TASKS
from src.flags.run_flags import drop_rate, resolve
from src.models import MODELS
from src.models.backbone import build
from src.utils.training import make_scheduler, validation_interval

PARITY = ["--task", "parity", "--model", "gru", *TINY, "--eval_every", "3"]


def rates(steps, **options):
    """The learning rate of each step."""
    _, args = make("rle", lr=1.0, min_lr=0.0, **options)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=args.lr)
    scheduler, found = make_scheduler(optimizer, args, steps), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_a_cosine_per_epoch_is_that_of_torch_stepped_at_the_end_of_each_epoch():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference, wanted = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4, eta_min=0.0), []
    for _ in range(4):
        wanted += [optimizer.param_groups[0]["lr"]] * 5
        optimizer.step()
        reference.step()
    assert rates(20, cosine="epoch", epochs=4, warmup_steps=0) == pytest.approx(wanted)


def test_without_a_cosine_the_rate_stays_after_the_warm_up():
    assert rates(6, cosine="off", warmup_steps=2) == [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]


def test_the_cosine_per_step_is_unchanged():
    assert rates(4, warmup_steps=0) == pytest.approx([0.5 * (1 + math.cos(math.pi * n / 4)) for n in range(4)])


@pytest.mark.parametrize(("every", "wanted"), [(0, 64), (-1, 10), (7, 7)])
def test_validations_come_ten_times_per_run_once_per_epoch_or_as_typed(every, wanted):
    assert validation_interval(make("rle", eval_every=every, epochs=64)[1], 640) == wanted


@pytest.mark.parametrize(("after", "step", "times"), [((), 6, " 2 times in a row"), (("--stop_after", "1"), 3, "")])
def test_training_stops_when_validations_in_a_row_reach_stop_at(main, monkeypatch, tmp_path, after, step, times):
    monkeypatch.setattr("src.figures.runs.draw_all", lambda metrics, folder: [])
    code, _, err = main(*PARITY, "--stop_at", "0.01", *after, "--out_dir", "run")
    assert code == 0, err
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert (metrics["status"], metrics["steps"], metrics["stopped_at"]) == ("done", step, step)
    (note,) = metrics["notes"]
    assert (
        note == f"training stopped at step {step}, solved: the validation token_acc was at least --stop_at 0.01{times}"
    )
    rows = map(json.loads, (tmp_path / "run/metrics.jsonl").open())
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, step + 1))


def test_a_score_that_is_never_reached_stops_nothing(main, monkeypatch, tmp_path):
    monkeypatch.setattr("src.figures.runs.draw_all", lambda metrics, folder: [])
    assert main(*PARITY, "--stop_at", "1", "--out_dir", "run")[0] == 0
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert (metrics["steps"], metrics["stopped_at"]) == (12, None)


def test_a_stopped_run_that_is_killed_before_its_result_is_not_trained_further(main, monkeypatch, tmp_path):
    from src.setup import run as course

    monkeypatch.setattr("src.figures.runs.draw_all", lambda metrics, folder: [])
    with monkeypatch.context() as patch:
        patch.setattr(course.results, "final_metrics", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(*PARITY, "--stop_at", "0.01", "--out_dir", "run")[0] == 130
    assert main("--resume", "--out_dir", "run")[0] == 0
    assert json.loads((tmp_path / "run/metrics.json").read_text())["steps"] == 6


@pytest.mark.parametrize("place", ["embed", "attn"])
def test_a_place_has_its_own_dropout_or_that_of_the_run(place):
    def rate(**given):
        return drop_rate(make("rle", **given)[1], place)

    assert rate(dropout=0.3) == 0.3
    assert rate(dropout=0.3, **{f"{place}_dropout": 0.0}) == 0.0
    assert rate(dropout=0.0, **{f"{place}_dropout": 0.1}) == 0.1


def test_embeddings_attention_and_residual_branches_have_separate_dropouts():
    """The residual branches keep --dropout."""
    attention, task_class = MODELS["transformer"].load(), TASKS["rle"].load()
    rates_by_place = {"dropout": 0.2, "embed_dropout": 0.1, "attn_dropout": 0.3}
    model = build(attention, 10, resolve(task_class, attention, d_model=16, n_head=2, **rates_by_place), 32)
    block = model.blocks[0]
    assert (model.dropout.p, block.mixer.dropout, block.dropout.p, block.mlp.dropout.p) == (0.1, 0.3, 0.2, 0.2)
