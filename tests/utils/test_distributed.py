"""Two processes under torchrun against one: the same losses, the same metrics, one writer, one error line.

python -m pytest tests/utils/test_distributed.py
"""

import contextlib
import json
import math
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT

from dataset.loaders import build_loaders
from dataset.rle import RunLength
from src.flags.run_flags import resolve
from src.storage import checkpoint
from src.storage.rundir import RunDir
from src.utils import distributed
from src.utils.attempt import attempt
from src.utils.distributed import World, joined
from src.utils.launch import ProcessLost
from src.utils.session import Session
from src.utils.training import Fit

# A batch of three rows gives the ranks two rows and one. What is left over of a length gives batches of one row, and
# then one rank has no row at all.
RUN = (
    "--task rle --model gru --context_len 12 --train_size 40 --batch_size 3 --max_steps 100 --d_model 16 --n_layer 1 "
    "--val_size 21 --test_size 23 --warmup_steps 5 --lr 3e-3 --dropout 0 "
    "--precision fp32 --threads 1 --device cpu --quiet"
).split()
LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def start(arguments, cwd, launch=(), script=ROOT / "benchmark.py", **env):
    return subprocess.Popen(
        [sys.executable, *launch, str(script), *map(str, arguments)],
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one(runs):
    """1e-5: float32 gradients are added in another order, and the difference grows over a hundred steps."""
    one, two = (log(run) for run in runs[:2])
    assert [row["step"] for row in one] == [row["step"] for row in two]
    losses = [(a["loss"], b["loss"]) for a, b in zip(one, two, strict=True) if "loss" in a]
    assert len(losses) == 100
    assert max(abs(a - b) for a, b in losses) <= 1e-5
    assert losses[-1][0] < losses[0][0]
    assert [a["trained"] for a in one if "trained" in a] == [b["trained"] for b in two if "trained" in b]


@pytest.mark.slow
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


@pytest.mark.slow
def test_rank_0_alone_writes_and_prints(runs):
    one, two, (_, out, _) = runs
    assert out.strip() == "two", "the run directory, once"
    assert sorted(p.name for p in two.iterdir()) == sorted(p.name for p in one.iterdir())
    assert sorted(p.name for p in two.parent.iterdir()) == ["one", "two"]
    assert len(log(two)) == len(log(one))


@pytest.mark.slow
def test_checkpoints_of_two_processes_hold_the_weights_of_one(runs):
    one, two = (checkpoint.load(run / "ckpt.pt", "cpu")["model"] for run in runs[:2])
    assert one.keys() == two.keys()
    assert max(float((one[k] - two[k]).abs().max()) for k in one) <= 1e-5


def ranks(arguments, cwd, count=2, **options):
    """The command as torchrun would start it, with the exit code of each rank: [(code, stdout, stderr), ...]."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [start(arguments, cwd, RANK=str(rank), LOCAL_RANK=str(rank), **env, **options) for rank in range(count)]
    return [finish(p) for p in processes]


def check_one_line(results, text):
    assert [code for code, *_ in results] == [2, 2], results
    assert [out for _, out, _ in results] == ["", ""]
    (_, _, first), (_, _, second) = results
    assert first.startswith("error: ")
    assert text in first
    assert first.count("\n") == 1
    assert second == ""


@pytest.mark.slow
def test_a_wrong_input_is_one_line_and_exit_code_2_from_every_rank(tmp_path):
    check_one_line(ranks([*RUN, "--n_laye", "2"], tmp_path), "--n_laye")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_taken_run_directory_is_one_line_and_exit_code_2_from_every_rank(runs):
    before = sorted((p.name, p.stat().st_mtime_ns) for p in runs[0].iterdir())
    check_one_line(ranks([*RUN, "--out_dir", "one"], runs[0].parent), "--overwrite")
    assert sorted((p.name, p.stat().st_mtime_ns) for p in runs[0].iterdir()) == before


STOPS = """
# benchmark.py, which is asked to stop after a number of steps, as by Ctrl-C. 0: never.
import sys
steps = int(sys.argv.pop(1))
import benchmark
from src.utils import training

class Stopped(training.Fit):
    def _after_step(self, row, batch):
        self.stopper.asked |= row is not None and self.progress.step + 1 == steps
        super()._after_step(row, batch)

training.Fit = Stopped
sys.exit(benchmark.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_dropout_of_two_processes_continues_as_if_nothing_had_stopped_it(tmp_path):
    """Each rank continues with its own random numbers, so that losses and weights are equal to the last bit."""
    (tmp_path / "stops.py").write_text(STOPS)
    run = [*RUN, "--dropout", "0.3", "--max_steps", "12"]

    def both(steps, *arguments):
        results = ranks([steps, *arguments], tmp_path, script=tmp_path / "stops.py", PYTHONPATH=str(ROOT))
        return [code for code, *_ in results]

    assert both(0, *run, "--out_dir", "whole") == [0, 0]
    assert both(7, *run, "--out_dir", "parts") == [130, 130]
    assert both(0, "--resume", "--out_dir", "parts") == [0, 0]
    whole, parts = (log(tmp_path / name) for name in ("whole", "parts"))
    assert [row.get("loss") for row in whole] == [row.get("loss") for row in parts]
    a, b = (checkpoint.load(tmp_path / name / "ckpt.pt")["model"] for name in ("whole", "parts"))
    assert all(torch.equal(a[name], b[name]) for name in a)


class Rank(World):
    """A rank that exchanges nothing. `others` are the states that the other ranks would send."""

    others = ()

    def gather(self, value):
        return [value, *self.others] if self.is_main else [*self.others, value]

    def sum(self, values, device):
        return values

    def sum_gradients(self, parameters):
        pass


class Said:
    """A reporter that keeps what it is told."""

    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def fit_of(world):
    """A Fit of a small model on this rank, with weights of seed 0, and what its reporter was told."""
    args = resolve(RunLength, preset={}, **SMALL)
    _, loaders, data = build_loaders(RunLength(args), args)
    torch.manual_seed(0)
    session = Session(args, data, loaders, torch.device("cpu"), world, (), "small")
    said = Said()
    return Fit(torch.nn.Linear(2, 2), session, RunDir("nowhere"), said), said.lines


SMALL = {"context_len": 8, "train_size": 8, "val_size": 4, "test_size": 4, "max_steps": 5, "batch_size": 4}


def test_each_rank_draws_random_numbers_of_its_own():
    """The weights are drawn before. Rank 0 draws what a single process draws."""
    drawn = []
    for rank in range(3):
        fit_of(Rank(rank, 3) if rank else World())
        drawn.append(torch.rand(4))
    torch.manual_seed(0)
    torch.nn.Linear(2, 2)
    assert torch.equal(drawn[0], torch.rand(4))
    assert len({tuple(numbers.tolist()) for numbers in drawn}) == 3


def test_a_checkpoint_restores_the_random_state_of_each_rank():
    fit, _ = fit_of(Rank(1, 2))
    torch.rand(3)
    second, next_of_second = checkpoint.random_state(), torch.rand(4)
    fit, _ = fit_of(Rank(0, 2))
    Rank.others = (second,)
    try:
        payload = fit.payload()
    finally:
        Rank.others = ()
    next_of_first = torch.rand(4)
    for rank, expected in enumerate((next_of_first, next_of_second)):
        fit, said = fit_of(Rank(rank, 2))
        fit.restore(payload)
        assert torch.equal(torch.rand(4), expected)
        assert said == []


@pytest.mark.parametrize("old", [False, True])
def test_another_number_of_processes_is_said_and_new_ranks_get_streams_of_their_own(old):
    fit, _ = fit_of(World())
    fit.progress.step = 3
    payload = fit.payload()
    expected = torch.rand(4)
    if old:  # checkpoints had the state of rank 0 alone
        payload["random"] = payload["random"][0]
    drawn = []
    for rank in range(2):
        fit, said = fit_of(Rank(rank, 2))
        fit.restore(payload)
        drawn.append(torch.rand(4))
        assert len(said) == 1
        assert said[0].startswith("notice: the checkpoint is of 1 process and continues in 2 processes")
    assert torch.equal(drawn[0], expected)
    assert not torch.equal(drawn[1], expected)


class NotMain(World):
    is_main = False


@pytest.mark.slow
def test_eval_only_prints_and_writes_on_rank_0_only(runs, main, monkeypatch):
    @contextlib.contextmanager
    def second():
        yield NotMain()

    monkeypatch.setattr(distributed, "joined", second)
    before = sorted(p.name for p in runs[0].iterdir())
    assert main("--eval_only", "--out_dir", runs[0]) == (0, "", "")
    assert sorted(p.name for p in runs[0].iterdir()) == before


@pytest.mark.slow
def test_two_processes_evaluate_as_one_and_print_one_document(runs, tmp_path):
    """1e-6: batches are the same, and losses are added in the same order."""
    shutil.copytree(runs[1], tmp_path / "two")
    (code, out, _), (other, nothing, _) = ranks(["--eval_only", "--out_dir", "two"], tmp_path)
    assert (code, other, nothing) == (0, 0, "")
    assert len(list((tmp_path / "two").glob("eval-*.json"))) == 1
    found, stored = json.loads(out), json.loads((runs[1] / "metrics.json").read_text())
    assert numbers(found["last"]["test"]) == pytest.approx(numbers(stored["test"]["last"]), abs=1e-6)


def test_processes_that_cannot_meet_are_one_line(main, monkeypatch):
    def taken(*arguments, **options):
        raise RuntimeError("The server socket has failed to listen\non any address")

    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.distributed, "init_process_group", taken)
    code, out, err = main(*RUN)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "the 2 processes cannot meet at 127.0.0.1:29500 (The server socket has failed to listen)" in err


GLOO = (
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:7813: Connection reset by peer. "
    "This is typically caused by a remote worker hanging or bugs.\nException raised from\nframe #0"
)


class Store:
    """Counts who noticed, as the store of torchrun does."""

    def __init__(self):
        self.counts = {}

    def add(self, key, n):
        self.counts[key] = self.counts.get(key, 0) + n
        return self.counts[key]


def test_a_rank_that_is_lost_is_one_line_of_one_rank_with_the_command_that_continues(main, monkeypatch):
    def reset(*arguments):
        raise RuntimeError(GLOO)

    store = Store()
    monkeypatch.setattr("src.utils.distributed.dist.all_reduce", reset)
    monkeypatch.setattr("src.utils.distributed.dist.distributed_c10d._get_default_store", lambda: store)
    found = []
    for _ in range(3):
        with pytest.raises(ProcessLost) as caught:
            World(0, 3).sum([1.0], torch.device("cpu"))
        found.append((str(caught.value), caught.value.is_first))
    reason = "Read error [127.0.0.1]:7813: Connection reset by peer"
    assert found == [(f"another process of this run has ended ({reason})", first) for first in (True, False, False)]

    def lost(*arguments, **options):
        raise ProcessLost("gone", is_first)

    monkeypatch.setattr("src.utils.training.Fit.run", lost)
    for is_first in (True, False):
        code, out, err = main(*RUN, "--overwrite", "--out_dir", "R")
        assert (code, out, err.count("\n")) == (1, "", int(is_first))
        if is_first:
            assert err.startswith("error: gone; continue with: python ")
            assert err.endswith(" --resume --out_dir R\n")


def test_another_error_of_an_exchange_stays_what_it_is(monkeypatch):
    def wrong(*arguments):
        raise RuntimeError("Tensors must be contiguous")

    monkeypatch.setattr("src.utils.distributed.dist.all_reduce", wrong)
    with pytest.raises(RuntimeError, match="contiguous") as caught:
        World(0, 2).sum([1.0], torch.device("cpu"))
    assert not isinstance(caught.value, ProcessLost)


def test_a_lost_process_is_no_failure_of_what_is_measured_beside_the_scores():
    def lost():
        raise ProcessLost("gone")

    with pytest.raises(ProcessLost):
        attempt({}, "decode_state", lost)


@pytest.mark.slow
def test_after_the_kill_of_a_rank_the_printed_command_continues(tmp_path):
    """torchrun adds a report of its own, which names no cause. The line of the bench is among its lines."""
    process = start([*RUN, "--max_steps", "600", "--out_dir", "R"], tmp_path, LAUNCH)
    log = tmp_path / "R" / "metrics.jsonl"
    deadline = time.monotonic() + 100
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    assert len(children) == 2
    os.kill(int(children[1]), signal.SIGKILL)
    _, _, err = finish(process)
    ours = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(ours) == 1, err
    assert "[rank" not in err
    words = shlex.split(ours[0].partition("continue with: ")[2])
    assert words[:3] == ["torchrun", "--nproc_per_node", "2"]
    code, _, err = finish(start([*words[4:], "--quiet"], tmp_path, LAUNCH))
    assert code == 0, err
    assert json.loads((tmp_path / "R" / "metrics.json").read_text())["steps"] == 600


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
