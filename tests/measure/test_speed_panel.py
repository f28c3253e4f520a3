"""`speed`: costs that are planted in a layer are found by the panels, failures are rows, and Ctrl-C loses nothing.

python -m pytest tests/measure/test_speed_panel.py
"""

import gc
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from pictures import pixels
from small_models import WHOLE_FILE

from src.commands import speed
from src.figures import speed as speed_figures
from src.flags.fields import UserError
from src.flags.hints import program
from src.measure import child, gate
from src.measure.profile.steps import peak_bytes
from src.measure.progress import Progress
from src.measure.session import continuing
from src.measure.speed import plan
from src.measure.speed.analysis import analyse, tables
from src.measure.speed.panels import PANELS, decode, load, looks, memory, train
from src.measure.speed.panels.train import Train
from src.measure.speed.run import Study, key_of
from src.ops import attention as attention_op
from src.storage.rows import check_row, make_row

# One file per layer. Its cost is `time.sleep`, which tests replace by a clock. It allocates and keeps known bytes, and
# its state has known bytes.
LAYER = """
import time
import torch
from src.models.base import Mixer


class Keep(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, kept):
        ctx.save_for_backward(kept)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


class Layer(Mixer):
    power = {power}
    state_floats = {state_floats}

    def forward(self, x):
        B, T, D = x.shape
        time.sleep({seconds} * B * T ** self.power)
        {allocate}
        return Keep.apply(x, torch.ones(B, T, {kept}))

    def init_state(self, batch_size, max_len):
        return (torch.zeros(batch_size, self.state_floats),)

    def step(self, x, state):
        time.sleep({step_seconds})
        return x, state

    def prefill(self, x, state):
        return self.forward(x), state
"""
LINEAR = {
    "power": 1,
    "seconds": 1e-5,
    "state_floats": 100,
    "kept": 64,
    "step_seconds": 1e-3,
    "allocate": "torch.ones(B, T, 2048)",
}
SQUARE = {
    "power": 2,
    "seconds": 1e-5 / 300,
    "state_floats": 50,
    "kept": "T",
    "step_seconds": 2e-3,
    "allocate": "torch.ones(B, T, T)",
}
SMALL = ["--d_model", "8", "--n_layer", "1", "--dim_ffn", "0", "--threads", "1", "--precision", "fp32", "--quiet"]


@pytest.fixture(autouse=True, scope="module")
def one_server():
    """All tests share one process that forks children, because starting it takes seconds."""
    server = child.Children()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(child.Children, "__enter__", lambda self: server)
        yield
    gc.unfreeze()
    server.close()


def layer(folder, name, **values) -> str:
    path = folder / f"{name}.py"
    path.write_text(LAYER.format(**{**LINEAR, **values}))
    return str(path)


@pytest.fixture
def clock(monkeypatch):
    """A clock that only time.sleep moves, with 1 % of noise."""

    class Clock:
        now, calls = 0.0, 0

        def __call__(self):
            return self.now

        def sleep(self, seconds):
            self.calls += 1
            self.now += seconds * (1 + 0.01 * (self.calls % 3 - 1))

    made = Clock()
    monkeypatch.setattr(time, "sleep", made.sleep)
    real = Study.__init__
    monkeypatch.setattr(Study, "__init__", lambda self, *args: real(self, *args, clock=made))
    return made


def run(folder, *arguments, draw: bool = False) -> tuple[int, list[dict]]:
    """(exit code, rows) of the command, run into folder/out. An argument may be several words.

    Figures take seconds, so few tests draw them.
    """
    gc.freeze()  # a study collects garbage after each point, which is slow among all that pytest has loaded
    with pytest.MonkeyPatch.context() as patch:
        if not draw:
            patch.setattr(speed_figures, "draw_all", lambda history, folder, looks: [])
        words = [word for argument in arguments for word in str(argument).split()]
        code = speed.main([*words, *SMALL, "--out_dir", str(folder / "out")])
    return code, read(folder / "out")


def read(out) -> list[dict]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def found(findings, part, **what) -> dict:
    (one,) = [f for f in findings[part] if all(f[k] == v for k, v in what.items())]
    return one


def no_children(monkeypatch):
    """No child processes: memory is constant."""
    monkeypatch.setattr(
        child.Children,
        "call",
        lambda self, *request: {"peak_bytes": 3000, "weights_bytes": 1000, "kept_bytes": 1, "parameters": 1},
    )


def memory_by_torch(monkeypatch):
    """Memory is measured in this process by torch's record of allocations, which is exact on every machine."""
    monkeypatch.setattr(child.Children, "call", lambda self, target, spec, imports=(): child.resolve(target)(spec))
    for module in (memory, train):
        monkeypatch.setattr(module, "peak_above", peak_bytes)


# Planted costs are found


def test_the_planted_exponents_and_crossover_of_time_are_found(tmp_path, clock, monkeypatch):
    no_children(monkeypatch)
    models = [layer(tmp_path, "linear"), layer(tmp_path, "square", **SQUARE)]
    code, rows = run(
        tmp_path, "--model", *models, "--panel", "train", "--lengths", "64,128,256,512,1024", "--batch_tokens", "1024"
    )
    assert code == 0
    findings = json.loads((tmp_path / "out" / "history.json").read_text())
    for name, power in (("linear", 1.0), ("square", 2.0)):
        fit = found(findings, "fits", model=name, metric="step_ms")
        assert fit["exponent"] == pytest.approx(power, rel=0.05)
        assert fit["low"] - 0.02 <= power <= fit["high"] + 0.02
    crossing = found(findings, "crossovers", metric="step_ms")
    assert (crossing["winner"], crossing["loser"]) == ("linear", "square")
    assert crossing["from"] == pytest.approx(300, rel=0.05)
    step = next(r for r in rows if r["metric"] == "step_ms" and r["model"] == "linear" and r["x"] == 256)
    assert step["value"] == pytest.approx(1e3 * 1e-5 * 1024, rel=0.05)
    assert (step["batch"], step["tokens"], step["n"], step["stopped"]) == (4, 1024, 10, "settled")


def test_the_planted_decoding_times_and_bytes_of_a_state_are_found(tmp_path, clock):
    models = [layer(tmp_path, "linear"), layer(tmp_path, "square", **SQUARE)]
    _, rows = run(
        tmp_path,
        "--model",
        ",".join(models),
        "--panel decode --lengths 32,64,128,256 --decode_batches 1,4",
    )
    findings = analyse(rows)

    def value(metric, model, batch, x=128):
        return next(
            r["value"] for r in rows if (r["metric"], r["model"], r["batch"], r["x"]) == (metric, model, batch, x)
        )

    for batch in (1, 4):
        assert value("state_bytes", "linear", batch) == 400 * batch
        assert value("state_bytes", "square", batch) == 200 * batch
        assert value("token_ms", "linear", batch) == pytest.approx(1.0, rel=0.05)
        assert value("tokens_per_s", "square", batch) == pytest.approx(500 * batch, rel=0.05)
        assert value("prefill_ms", "linear", batch) == pytest.approx(1e3 * 1e-5 * batch * 128, rel=0.05)
        assert found(findings, "fits", model="square", metric="prefill_ms", batch=batch)["exponent"] == pytest.approx(
            2.0, rel=0.05
        )
        assert found(findings, "fits", model="square", metric="state_bytes", batch=batch)["exponent"] == pytest.approx(
            0.0, abs=1e-6
        )
        flat = found(findings, "fits", model="linear", metric="token_ms", batch=batch)
        assert flat["exponent"] is None  # it never exceeds the overhead by enough: the time is constant
        assert flat["growth"] == pytest.approx(1.0, rel=0.05)
        assert found(findings, "crossovers", metric="token_ms", batch=batch)["words"] == "none up to 256"


def memory_of(rows, metric, model, x) -> int:
    (value,) = [r["value"] for r in rows if (r["metric"], r["model"], r["x"]) == (metric, model, x)]
    return value


def check_planted_memory(folder, lengths, rel) -> None:
    """Linear: ones (4, T, 2048) exist while (4, T, 64) is made. Square: (4, T, T) twice. Others are (4, T, 8)."""
    models = [layer(folder, "linear", seconds=0), layer(folder, "square", **{**SQUARE, "seconds": 0})]
    _, rows = run(folder, "--model", *models, "--panel", "memory", "--lengths", ",".join(map(str, lengths)))
    findings = analyse(rows)
    for x in lengths:
        small = 4 * 4 * x * 8
        assert memory_of(rows, "kept_bytes", "linear", x) == 4 * 4 * x * 64
        assert memory_of(rows, "kept_bytes", "square", x) == 4 * 4 * x * x
        assert memory_of(rows, "peak_bytes", "linear", x) == pytest.approx(4 * 4 * x * 2048, rel=rel, abs=4 * small)
        assert memory_of(rows, "peak_bytes", "square", x) == pytest.approx(4 * 4 * x * x, rel=rel, abs=4 * small)
    for model, power in (("linear", 1.0), ("square", 2.0)):
        assert found(findings, "fits", model=model, metric="kept_bytes")["exponent"] == pytest.approx(power, rel=0.01)
        assert found(findings, "fits", model=model, metric="peak_bytes")["exponent"] == pytest.approx(power, rel=0.05)


def test_the_planted_bytes_kept_and_peak_are_found(tmp_path, monkeypatch):
    memory_by_torch(monkeypatch)
    check_planted_memory(tmp_path, (512, 724, 1024), rel=0.05)


@pytest.mark.slow
def test_the_planted_bytes_kept_and_peak_are_found_by_a_process_of_its_own(tmp_path):
    """By the resident set, which depends on the C library: it must return freed blocks to the system (see child.py)."""
    check_planted_memory(tmp_path, (1024, 1448, 2048, 2896), rel=0.05)


@pytest.mark.slow
def test_memory_that_a_child_touches_for_the_first_time_is_seen(tmp_path):
    """The measured second pass allocates 32 MiB more than the first, so that no allocator has it from before."""
    grows = "Layer.calls = getattr(Layer, 'calls', 0) + 1; torch.ones(B, T, 2048 if Layer.calls == 2 else 1)"
    path = layer(tmp_path, "grows", seconds=0, allocate=grows)
    _, rows = run(tmp_path, "--model", path, "--panel", "memory", "--lengths", "1024")
    planted = 4 * 4 * 1024 * 2048
    assert 0.99 * planted <= memory_of(rows, "peak_bytes", "grows", 1024) <= 2 * planted


def test_the_peak_of_a_training_step_is_weights_and_what_the_step_allocates(tmp_path, monkeypatch):
    memory_by_torch(monkeypatch)
    path = layer(tmp_path, "linear", seconds=0, allocate="torch.ones(B, T, 8192)")
    line = "--panel train --lengths 256,512 --batch_tokens 1024 --cell_seconds 0.05"
    _, rows = run(tmp_path, "--model", path, line)
    of = {(r["metric"], r["x"]): r["value"] for r in rows}
    # parameters, gradients and two moments; and AdamW's step counters
    assert of["weights_bytes", 256] == pytest.approx(4 * 4 * rows[0]["parameters"], rel=0.05)
    for x in (256, 512):
        assert of["peak_bytes", x] - of["weights_bytes", x] == pytest.approx(4 * 1024 * 8192, rel=0.05)


# What goes wrong is a row


@pytest.mark.slow
def test_a_length_without_memory_is_a_row_and_longer_ones_are_not_tried(tmp_path, monkeypatch):
    no_children(monkeypatch)
    error = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"
    lines = f"if T > 64: raise RuntimeError({error!r})"
    models = [layer(tmp_path, "hungry", seconds=0, allocate=lines), layer(tmp_path, "fine", seconds=0)]
    code, rows = run(
        tmp_path,
        "--model",
        *models,
        "--panel train,decode --lengths 32,128,256 --batch_tokens 256 --decode_batches 1 --cell_seconds 0.02",
    )
    assert code == 0
    for panel in ("train", "decode"):
        mine = {r["x"]: r for r in rows if r["panel"] == panel and r["model"] == "hungry"}
        assert mine[32]["status"] == "ok"
        assert mine[128]["status"] == "out of memory"
        assert mine[128]["note"].startswith("out of memory at 128 (")
        assert (mine[256]["status"], mine[256]["note"]) == ("not tried", "out of memory at 128 already")
        assert {r["status"] for r in rows if r["panel"] == panel and r["model"] == "fine"} == {"ok"}
    assert any("hungry at 128: out of memory at 128" in line for line in tables(rows, analyse(rows)))


@pytest.mark.slow
def test_a_child_that_is_killed_is_a_lack_of_memory_and_an_error_is_a_failure(tmp_path):
    killing = "import os, signal; os.kill(os.getpid(), signal.SIGKILL) if T > 64 else None"
    models = [
        layer(tmp_path, "killed", seconds=0, allocate=killing),
        layer(tmp_path, "broken", seconds=0, allocate="if T > 64: raise TypeError('no')"),
        layer(tmp_path, "hungry", seconds=0, allocate="if T > 64: raise MemoryError"),
    ]
    _, rows = run(tmp_path, "--model", *models, "--panel", "memory", "--lengths", "32,128")
    at = {r["model"]: r for r in rows if r["x"] == 128}
    assert at["killed"]["status"] == "out of memory"
    assert "SIGKILL" in at["killed"]["note"]
    assert (at["broken"]["status"], at["broken"]["note"]) == ("failed", "Failed: TypeError: no")
    assert (at["hungry"]["status"], at["hungry"]["note"]) == (
        "out of memory",
        "out of memory at 128 (OutOfMemory: MemoryError: )",
    )
    assert sum(r["x"] == 32 and r["status"] == "ok" for r in rows) == 6


def test_an_op_that_is_wrong_is_caught_by_the_gate_and_not_timed(tmp_path, monkeypatch):
    right = attention_op.COMPUTE["sdpa"]
    monkeypatch.setitem(
        attention_op.COMPUTE, "sdpa", lambda q, k, v, bias, dropout: right(q, k, v, bias, dropout) * 1.001
    )
    no_children(monkeypatch)
    _, rows = run(
        tmp_path,
        "--model transformer,gru --n_head 2 --panel train --lengths 16,32 --batch_tokens 64 --cell_seconds 0.01",
    )
    attention = [r for r in rows if r["model"] == "transformer"]
    assert {r["status"] for r in attention} == {"gate failed"}
    assert all(r["value"] is None and "attention=sdpa differs from its reference by 1" in r["note"] for r in attention)
    assert {r["status"] for r in rows if r["model"] == "gru"} == {"ok"}


@pytest.mark.parametrize("op", gate.CASES)
def test_the_gate_passes_eager_forms_and_notices_a_thousandth(op, monkeypatch):
    backend = "explicit" if op == "attention" else "eager"
    assert gate.check_op(op, backend, "cpu").passed
    honest = gate.CASES[op]

    def bent(*arguments):
        for name, compute, reference, inputs in honest(*arguments):
            yield name, lambda compute=compute, **x: compute(**x) * 1.001, reference, inputs

    monkeypatch.setitem(gate.CASES, op, bent)
    verdict = gate.check_op(op, backend, "cpu")
    assert not verdict.passed
    assert verdict.worst == pytest.approx(1e-3, rel=0.1)


def test_a_time_is_stored_under_the_form_that_ran(tmp_path, monkeypatch):
    """`automatic` may name another form than the op uses for its tensors. Rows and gate follow the op."""
    no_children(monkeypatch)
    monkeypatch.setattr(attention_op, "automatic", lambda device_type, args: ("explicit", "said so"))
    gated = []
    real = gate.check_op
    monkeypatch.setattr(
        gate, "check_op", lambda op, backend, *rest: gated.append((op, backend)) or real(op, backend, *rest)
    )
    _, rows = run(
        tmp_path,
        "--model transformer --n_head 2 --panel train --lengths 16 --batch_tokens 16 --cell_seconds 0.01",
    )
    assert gated == [("attention", "sdpa"), ("linear", "eager"), ("softmax", "eager")]
    assert {r["backend"]["attention"]["backend"] for r in rows} == {"sdpa"}
    assert "explicit (said so)" in rows[0]["backend"]["attention"]["reason"]


PLAIN = """
from src.models.base import Mixer

class Plain(Mixer):
    def forward(self, x):
        return x.cumsum(1)
"""


def test_a_replayed_cache_stops_at_512_and_says_so(tmp_path):
    path = tmp_path / "plain.py"
    path.write_text(PLAIN)
    _, rows = run(
        tmp_path,
        "--model",
        path,
        "--panel decode --lengths 512,1024 --decode_batches 1 --cell_seconds 0.01",
    )
    last = [r for r in rows if r["x"] == 1024]
    assert [r["status"] for r in last] == ["unsupported"]
    assert "cells stop at 512" in last[0]["note"]
    assert all(r["status"] == "ok" and "cache=replay" in r["note"] for r in rows if r["x"] == 512)


OWN = """
import torch
from torch import nn
from src.models.base import Mixer

class Own(Mixer):
    def __init__(self, args):
        super().__init__()
        self.l = nn.Linear(args.d_model, args.d_model)
        self.max_len = {max_len}

    def forward(self, x):
        return self.l(x.cumsum(1))

    def init_state(self, batch_size, max_len):
        return (torch.zeros(batch_size, self.l.in_features),)

    def step(self, x, state):
        total = state[0] + x
        return self.l({used}), (total,)
"""


def own(folder, used, max_len=None):
    path = folder / f"{used}.py"
    path.write_text(OWN.format(used=used, max_len=max_len))
    return path


def test_a_wrong_step_and_a_missing_prefill_are_said_beside_the_figures_and_win_nothing(tmp_path, capsys):
    words = "--panel decode --lengths 16 --decode_batches 1 --cell_seconds 0.01"
    code, rows = run(tmp_path, "--model", f"{own(tmp_path, 'x')},{own(tmp_path, 'total')},gru", words)
    assert code == 0
    notes = {(r["model"], r["metric"]): r["note"] for r in rows if r["x"] == 16}
    wrong, unwritten = (
        "WRONG: decoding differs from forward by ",
        "no prefill written: the prompt is read token by token",
    )
    assert wrong in notes["x", "token_ms"]
    assert wrong in notes["x", "state_bytes"] or "live" in notes["x", "state_bytes"]
    assert unwritten in notes["x", "prefill_ms"]
    assert notes["total", "prefill_ms"] == f"cache=own; {unwritten}"
    assert notes["total", "token_ms"] == notes["gru", "prefill_ms"] == "cache=own"
    findings = analyse(rows)
    assert all(w["model"] != "x" and "x" not in w["level_with"] for w in findings["winners"])
    printed = tables(rows, findings)
    assert any(line.startswith(f"  x: {wrong}") for line in printed)
    assert f"  total: {unwritten}" in printed
    look = looks()["decode"]
    assert speed_figures.legend_of({"rows": rows, "fits": []}, "decode", look, "x") == "x (WRONG, see the notes)"
    assert speed_figures.legend_of({"rows": rows, "fits": []}, "decode", look, "gru") == "gru"


def test_lengths_beyond_what_a_layer_can_take_are_not_tried(tmp_path, monkeypatch):
    no_children(monkeypatch)
    words = "--panel train,decode --lengths 16,32,64 --decode_batches 1 --batch_tokens 64 --cell_seconds 0.01"
    code, rows = run(tmp_path, "--model", own(tmp_path, "total", max_len=32), words)
    assert code == 0
    status = {(r["panel"], r["x"]): (r["status"], r["note"]) for r in rows}
    assert status["train", 32][0] == status["decode", 16][0] == "ok"
    why = "the model takes 32 tokens at most (max_len), and this needs "
    assert status["train", 64] == ("unsupported", f"{why}64")
    assert status["decode", 32] == ("unsupported", f"{why}48")


# Files, interrupts, continuing

QUICK = (
    "--model gru,lstm --lengths 16,32 --batch_tokens 64 --decode_batches 1 --sizes 20k,40k --scaling_len 16",
    "--scaling_tokens 32 --cell_seconds 0.02",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a small study of all four panels."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(folder, *QUICK, draw=True)[0] == 0
    return folder / "out"


def test_each_panel_describes_metrics_that_it_measures():
    """A metric that is misspelt in a description would be left out of tables and figures without a word."""
    assert plan.SpeedConfig().panel == tuple(PANELS)
    for name in PANELS:
        panel = load(name)
        assert panel.name == name
        described = {q.metric for q in panel.quantities} | {q.less for q in panel.quantities if q.less}
        described |= {t.metric for t in panel.tables} | {a.metric for a in panel.look.axes} | {panel.look.legend[0]}
        assert described <= set(panel.metrics)
        assert panel.look.legend[0] in {q.metric for q in panel.quantities}
        assert {q.overhead for q in panel.quantities if q.overhead} <= set(panel.overhead_metrics)


@pytest.mark.slow
def test_hybrids_and_whole_models_are_measured_where_they_can_be(tmp_path):
    (tmp_path / "whole.py").write_text(WHOLE_FILE)
    _, rows = run(
        tmp_path,
        "--model",
        "hybrid",
        tmp_path / "whole.py",
        "--layers gru,transformer --n_head 2 --panel train,memory,decode --lengths 16,32 --batch_tokens 32",
        "--decode_batches 2 --cell_seconds 0.01",
    )
    for model, why in (("hybrid", "a hybrid has several mixers"), ("whole", "a whole model of its own has no mixer")):
        assert {r["status"] for r in rows if r["model"] == model and r["panel"] != "memory"} == {"ok"}
        assert all(
            r["status"] == "unsupported" and r["note"].startswith(why)
            for r in rows
            if r["model"] == model and r["panel"] == "memory"
        )
    assert next(r["settings"]["layers"] for r in rows if r["model"] == "hybrid") == ["gru", "transformer"]


def test_all_four_panels_leave_every_file(whole):
    rows = read(whole)
    for row in rows:
        check_row(row)
        assert row["device"].startswith("cpu: ")
        assert row["threads"] == 1
        assert row["versions"]["torch"]
        assert row["clock"].startswith("perf_counter")
    assert {r["status"] for r in rows} == {"ok"}
    for name in PANELS:
        panel = load(name)
        assert {r["metric"] for r in rows if r["panel"] == name} == {*panel.metrics, *panel.overhead_metrics}
    assert {"config.json", "env.json", "results.jsonl", "results.csv", "history.json"} <= set(os.listdir(whole))
    assert (whole / "results.csv").read_text().count("\n") == len(rows) + 1
    stems = ("train", "memory", "decode_batch_1", "scaling")
    assert sorted(os.listdir(whole / "figures")) == sorted(
        f"{stem}.{kind}" for stem in stems for kind in ("png", "pdf")
    )
    for path in (whole / "figures").glob("*.png"):
        assert (pixels(path) < 0.9).any()
    for path in (whole / "figures").glob("*.pdf"):
        assert path.read_bytes().startswith(b"%PDF")


def test_the_same_command_again_measures_nothing_and_other_flags_are_refused(whole, capsys):
    before = (whole / "results.jsonl").read_bytes()
    assert run(whole.parent, *QUICK)[0] == 0
    assert (whole / "results.jsonl").read_bytes() == before
    for change, words in (
        (["--seed", "3"], "begun with seed 1337, now 3"),
        (["--embed_std", "2"], "begun with models.gru.embed_std 1.0, now 2.0"),
    ):
        with pytest.raises(UserError, match=words):
            run(whole.parent, *QUICK, *change)
    assert capsys.readouterr().out.count(str(whole)) == 1


def test_figures_and_tables_are_made_again_without_torch(whole):
    before = {p.name: p.read_bytes() for p in (whole / "figures").iterdir()}
    code = (
        "import sys; sys.modules['torch'] = None; from src.commands import speed; "
        f"sys.exit(speed.main(['--vis_only', '--out_dir', {str(whole)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "ms per token" in done.stdout
    assert {p.name: p.read_bytes() for p in (whole / "figures").iterdir()} == before


def test_an_interrupt_keeps_what_was_measured_and_the_same_command_continues(tmp_path, monkeypatch, capsys):
    no_children(monkeypatch)
    after = 3  # cells: both of the overhead, and one of two at the first length
    line = "--model gru,lstm --panel train --lengths 16,32 --batch_tokens 64 --cell_seconds 0.01"
    real, calls = Train.fields, []

    def fields(self, *arguments):
        calls.append(arguments)
        if len(calls) == after + 1:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(Train, "fields", fields)
    code, rows = run(tmp_path, line)
    assert code == 130
    kept = len({key_of(r) for r in rows})
    assert kept == after
    said = capsys.readouterr().err
    assert f"continue with: python {program()} speed --model gru,lstm" in said
    assert said.rstrip().endswith(str(tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "history.json").read_text())["status"] == "interrupted"
    code, whole_rows = run(tmp_path, line)
    assert code == 0
    assert whole_rows[: len(rows)] == rows
    keys = [(key_of(r), r["metric"]) for r in whole_rows]
    assert len(keys) == len(set(keys)) == 2 * (2 + 2 * 4)
    assert len(calls) == 2 * 3 + 1


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_leaves_no_process(tmp_path):
    """A real SIGINT while a layer sleeps. The process that measures memory ends too."""
    path = layer(tmp_path, "slow", seconds=1e-3)
    line = ["--model", path, "--lengths", "1024", *SMALL[:-1], "--out_dir", str(tmp_path / "out")]
    code = f"import sys; from src.commands import speed; sys.exit(speed.main({line!r}))"
    running = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (
        (tmp_path / "out" / "results.jsonl").exists() and (tmp_path / "out" / "results.jsonl").stat().st_size
    ):
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    assert "rows are kept" in said
    assert read(tmp_path / "out")
    processes = subprocess.run(["ps", "-eo", "ppid,args"], capture_output=True, text=True, timeout=20).stdout
    assert not [line for line in processes.splitlines() if line.split()[:1] == [str(running.pid)]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "grru"], "unknown model 'grru'"),
        (["--model", "gru,gru"], "names 'gru' twice"),
        (["--panel", "tran"], "unknown panel 'tran'.*did you mean 'train'"),
        (["--lengths", "8"], "--lengths: got 8, allowed: 16"),
        (["--lengths", "many"], "--lengths: got 'many'"),
        (["--cell_seconds", "0"], "--cell_seconds: got 0"),
        (["--sizes", "big"], "--sizes: got 'big'"),
        (["--scaling_tokens", "64"], "--scaling_tokens: got 64"),
        (["--decode_batches", "0"], "--decode_batches: got 0"),
        (["--model", "gru", "--match_params", "12"], "match_params"),
        (["--model", "gru", "--expand", "3"], "unknown flag --expand"),
        (["--model", "gru", "--backend", "numba"], "these models use only linear, softmax; leave it out"),
        (["--model", "gru", "--pos", "rope"], "--pos: got 'rope'"),
        (["--device", "cuda:7"], "--device: got 'cuda:7'"),
        (["--model", "transformer", "--n_head", "5"], "n_head"),
        (["--model", "missing.py"], "no such file"),
        (["--layers", "gru"], "--layers: only goes with"),
        (["--vis_only", "--out_dir", "nowhere"], "nowhere"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words) as caught:
        speed.main(arguments)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_flags_of_some_models_leave_the_others_alone(tmp_path, monkeypatch):
    no_children(monkeypatch)
    _, rows = run(
        tmp_path,
        "--model transformer,mamba,gru --pos rope --n_head 2 --backend selective_scan=eager --panel train",
        "--lengths 16 --batch_tokens 16 --cell_seconds 0.01",
    )
    assert {r["model"]: r["settings"]["pos"] for r in rows} == {"transformer": "rope", "mamba": "none", "gru": "none"}
    chosen = {r["model"]: {op: c["backend"] for op, c in r["backend"].items()} for r in rows}
    assert chosen["mamba"]["selective_scan"] == "eager"
    assert chosen["transformer"] == {"attention": "sdpa", "rope": "eager", "linear": "eager", "softmax": "eager"}
    assert chosen["gru"] == {"linear": "eager", "softmax": "eager"}


def test_the_time_left_is_estimated_from_cells_of_the_same_panel():
    now = [0.0]
    progress = Progress(True, 5.0, clock=lambda: now[0])
    progress.begin(["train"] * 4 + ["decode"] * 2, ["train"])
    assert progress.left() == 5 * 5.0
    now[0] += 2.0
    progress.done("train")
    assert progress.left() == 2 * 2.0 + 2 * 5.0


def test_each_kind_can_have_a_guess_of_its_own():
    progress = Progress(True, {"step": 3.0, "main": 90.0})
    progress.begin(["step", "main"])
    assert progress.left() == 93.0


def test_each_piece_of_work_is_a_line_and_the_time_left_is_never_negative(capsys):
    now = [0.0]
    progress = Progress(False, 5.0, clock=lambda: now[0])
    progress.begin([""] * 2)
    for words in ("ceilings", "T 8 forward", "T 8 forward", "one more than was said"):
        progress.next(words)
        now[0] += 3.0
    progress.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "[1/2] ceilings: about 10 s left",
        "[2/2] T 8 forward: about 3 s left",
        "[2/2] one more than was said: about 0 s left",
    ]


@pytest.mark.parametrize(
    ("module", "function"),
    [(train, "measure_peak"), (memory, "measure_peak"), (decode, "try_once")],
    ids=["train", "memory", "decode"],
)
def test_a_child_computes_with_the_threads_and_the_rounding_of_its_parent(monkeypatch, module, function):
    """set_threads also flushes subnormal numbers, which change a CPU's time and memory."""
    seen = []

    class Stop(Exception):
        pass

    def stop(threads):
        seen.append(threads)
        raise Stop

    monkeypatch.setattr(module, "set_threads", stop)
    monkeypatch.setattr(module.Subject, "from_spec", lambda spec: None)
    with pytest.raises(Stop):
        getattr(module, function)({"subject": {}, "device": "cpu", "threads": 1, "batch": 1, "length": 8})
    assert seen == [1]


@pytest.mark.parametrize(
    "argv",
    [
        ["--model", "gru"],
        ["--out_dir", "a", "--model", "gru"],
        ["--model", "gru", "--overwrite", "--out_dir=a"],
        ["--overwrite", "true", "--model", "gru"],
    ],
)
def test_the_command_that_continues_names_the_directory_once(argv):
    assert continuing("speed", argv, "runs/x") == f"python {program()} speed --model gru --out_dir runs/x"


def test_a_panel_without_a_value_above_zero_is_drawn(tmp_path):
    rows = [
        make_row(
            "speed",
            panel="memory",
            model=model,
            metric=metric,
            value=0,
            unit="bytes",
            x_name="length",
            x=x,
            batch=4,
            tokens=4 * x,
            device="cpu: x",
            threads=1,
            precision="fp32",
        )
        for metric in ("kept_bytes", "peak_bytes")
        for x in (16, 32)
        for model in "ab"
    ]
    assert tables(rows, analyse(rows))
    paths = speed_figures.draw_all({"rows": rows, **analyse(rows)}, tmp_path, looks())
    assert [p.name for p in paths] == ["memory.png", "memory.pdf"]


def test_models_of_equal_size_with_flags_of_their_own(tmp_path, monkeypatch):
    no_children(monkeypatch)
    line = "--model lstm,mamba --match_params 60k --match_count all --d_state 8 --panel train --lengths 16"
    more = "--batch_tokens 16 --cell_seconds 0.01 --threads 1 --quiet --out_dir"
    code = speed.main([*line.split(), *more.split(), str(tmp_path / "out")])
    rows = read(tmp_path / "out")
    assert code == 0
    assert {r["model"]: r["settings"].get("d_state") for r in rows} == {"lstm": None, "mamba": 8}
    assert all(r["parameters"] == pytest.approx(60_000, rel=0.02) for r in rows)
