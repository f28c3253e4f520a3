"""Two processes under torchrun against one: the same losses, the same metrics, one writer, one error line.

python -m pytest tests/utils/test_distributed.py
"""

import json
import math
import os
import socket
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from dataset.loaders import build_loaders
from dataset.rle import RunLength
from src.flags.run_flags import resolve
from src.storage import checkpoint
from src.utils.distributed import World, joined

# A batch of three rows gives the ranks two rows and one. What is left over of a length gives batches of one row, and
# then one rank has no row at all.
RUN = (
    "--task rle --model gru --context_len 12 --train_size 40 --batch_size 3 --max_steps 100 --d_model 16 --n_layer 1 "
    "--val_size 21 --test_size 23 --warmup_steps 5 --lr 3e-3 --dropout 0 "
    "--precision fp32 --threads 1 --device cpu --quiet"
).split()
LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def start(arguments, cwd, launch=(), **env):
    return subprocess.Popen(
        [sys.executable, *launch, str(ROOT / "benchmark.py"), *map(str, arguments)],
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", **env},
    )


def finish(process):
    """(exit code, stdout, stderr). A process that hangs is ended and fails the test."""
    try:
        out, err = process.communicate(timeout=200)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, out, err


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same command in one process and in two: (folder of one, folder of two, result of two)."""
    folder = tmp_path_factory.mktemp("runs")
    processes = start([*RUN, "--out_dir", "one"], folder), start([*RUN, "--out_dir", "two"], folder, LAUNCH)
    results = [finish(p) for p in processes]
    for code, _, err in results:
        assert code == 0, err
    return folder / "one", folder / "two", results[1]


def test_some_batches_leave_a_rank_without_rows(runs):
    """The runs above were chosen for this."""
    stored = json.loads((runs[1] / "config.json").read_text())["args"]
    args = resolve(RunLength, preset={}, **stored)
    sizes = [len(batch) for batch in build_loaders(RunLength(args), args)[1]["train"]]
    assert {1, 3} <= set(sizes)


def log(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def numbers(value, path=""):
    """{path: number} of all numbers in a JSON document."""
    if isinstance(value, dict):
        return {k: v for name, part in value.items() for k, v in numbers(part, f"{path}/{name}").items()}
    if isinstance(value, list):
        return {k: v for i, part in enumerate(value) for k, v in numbers(part, f"{path}/{i}").items()}
    return {path: value} if isinstance(value, (int, float)) else {}


def test_two_processes_have_the_loss_curve_of_one(runs):
    """1e-5: float32 gradients are added in another order, and the difference grows over a hundred steps."""
    one, two = (log(run) for run in runs[:2])
    assert [row["step"] for row in one] == [row["step"] for row in two]
    losses = [(a["loss"], b["loss"]) for a, b in zip(one, two, strict=True) if "loss" in a]
    assert len(losses) == 100
    assert max(abs(a - b) for a, b in losses) <= 1e-5
    assert losses[-1][0] < losses[0][0]
    assert [a["trained"] for a in one if "trained" in a] == [b["trained"] for b in two if "trained" in b]


def test_two_processes_report_the_metrics_of_one(runs):
    one, two = (json.loads((run / "metrics.json").read_text()) for run in runs[:2])
    a, b = (
        {key: numbers(document[key]) for key in ("final_test", "val", "test", "floors", "data", "decode_state")}
        for document in (one, two)
    )
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].keys() == b[key].keys()
        assert all(abs(a[key][k] - b[key][k]) <= 1e-5 for k in a[key]), key
    assert one["scaled"] == pytest.approx(two["scaled"], abs=1e-5)


def test_rank_0_alone_writes_and_prints(runs):
    one, two, (_, out, _) = runs
    assert out.strip() == "two", "the run directory, once"
    assert sorted(p.name for p in two.iterdir()) == sorted(p.name for p in one.iterdir())
    assert sorted(p.name for p in two.parent.iterdir()) == ["one", "two"]
    assert len(log(two)) == len(log(one))


def test_checkpoints_of_two_processes_hold_the_weights_of_one(runs):
    one, two = (checkpoint.load(run / "ckpt.pt", "cpu")["model"] for run in runs[:2])
    assert one.keys() == two.keys()
    assert max(float((one[k] - two[k]).abs().max()) for k in one) <= 1e-5


def ranks(arguments, cwd, count=2):
    """The command as torchrun would start it, with the exit code of each rank: [(code, stdout, stderr), ...]."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [start(arguments, cwd, RANK=str(rank), LOCAL_RANK=str(rank), **env) for rank in range(count)]
    return [finish(p) for p in processes]


def check_one_line(results, text):
    assert [code for code, *_ in results] == [2, 2], results
    assert [out for _, out, _ in results] == ["", ""]
    (_, _, first), (_, _, second) = results
    assert first.startswith("error: ")
    assert text in first
    assert first.count("\n") == 1
    assert second == ""


def test_a_wrong_input_is_one_line_and_exit_code_2_from_every_rank(tmp_path):
    check_one_line(ranks([*RUN, "--n_laye", "2"], tmp_path), "--n_laye")
    assert list(tmp_path.iterdir()) == []


def test_a_taken_run_directory_is_one_line_and_exit_code_2_from_every_rank(runs):
    before = sorted((p.name, p.stat().st_mtime_ns) for p in runs[0].iterdir())
    check_one_line(ranks([*RUN, "--out_dir", "one"], runs[0].parent), "--overwrite")
    assert sorted((p.name, p.stat().st_mtime_ns) for p in runs[0].iterdir()) == before


def test_rows_of_all_ranks_make_up_a_batch():
    rows = list(range(7))
    shares = [rows[World(rank, 3).rows()] for rank in range(3)]
    assert sorted(sum(shares, [])) == rows  # noqa: RUF017 (three short lists)
    assert [0, 1][World(2, 3).rows()] == []


def test_a_world_of_one_exchanges_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined() as world:
        assert (world.rank, world.size, world.is_main) == (0, 1, True)
    parameter = torch.nn.Parameter(torch.ones(2))
    world.sum_gradients([parameter])
    assert parameter.grad is None
    assert world.sum([1.5, math.inf], torch.device("cpu")) == [1.5, math.inf]
    assert world.share({"a": 1}) == {"a": 1}
    assert world.gather("x") == ["x"]


def test_gradients_of_every_kind_are_summed_and_missing_ones_stay_missing(monkeypatch):
    """Integer parameters have none. Two equal ranks give twice the gradient, with both parts of a complex one."""
    monkeypatch.setattr("src.utils.distributed.dist.all_reduce", lambda flat: flat.mul_(2))
    kinds = (torch.float32, torch.complex64, torch.bfloat16, torch.float64)
    trained = [torch.nn.Parameter(torch.randn(2, 3).to(kind)) for kind in kinds]
    frozen = torch.nn.Parameter(torch.arange(3), requires_grad=False)
    unused = torch.nn.Parameter(torch.randn(4))
    for p in trained:
        p.grad = torch.randn(2, 3).to(p.dtype) * (1 + 2j if p.is_complex() else 1)
    wanted = [2 * p.grad for p in trained]
    World(0, 2).sum_gradients([frozen, *trained, unused])
    assert all(torch.equal(p.grad, w) and p.grad.dtype is p.dtype for p, w in zip(trained, wanted, strict=True))
    assert frozen.grad is None
    assert unused.grad is None
