"""`kernels`: operations and bytes agree with counts by hand, and a form that is wrong or missing gets no time.

python -m pytest tests/measure/test_kernels.py
"""

import contextlib
import csv
import dataclasses
import functools
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter

import pytest
import torch
from conftest import ROOT
from pictures import has_colour, pixels

import benchmark
from src.commands import kernels as command_file
from src.figures import kernels as kernel_figures
from src.figures import style
from src.measure import gate, timing
from src.measure.kernels import bench as benching
from src.measure.kernels import ceilings
from src.measure.kernels.contract import Cost, Implementation, Shape
from src.measure.kernels.subjects import SUBJECTS
from src.ops.backends import OPS
from src.storage import rows as schema
from src.storage.record import Record

CPU = torch.device("cpu")
SMALL = Shape(B=2, T=3, width=4, heads=2, head_dim=5, state=6)
ONE = Shape(B=2, T=8, width=16, heads=2, head_dim=8, state=4)
TINY = (
    "--lengths 8,16 --batch_tokens 32 --width 16 --heads 2 --head_dim 8 --state 4 --cell_seconds 0.02 --threads 1"
).split()
RUNNABLE = [
    (s.name, name)
    for s in SUBJECTS.values()
    for name, form in s.forms.items()
    if not form.obstacle("cpu", "fp32") and not form.compiled
]


@pytest.fixture(autouse=True, scope="module")
def small_ceilings():
    with pytest.MonkeyPatch.context() as patch:
        small = functools.partial(ceilings.measure_ceilings, copy_mib=1, size=64)
        patch.setattr(ceilings, "measure_ceilings", small)
        yield


def no_figures(patch):
    """Figures take seconds: only the tests about figures draw them."""
    patch.setattr(kernel_figures, "draw_kernels", lambda history, folder: [])


@pytest.fixture
def command(main, monkeypatch):
    """`benchmark.py kernels ... --quiet` in this process, without figures: (exit code, stdout, stderr)."""
    no_figures(monkeypatch)
    return lambda *arguments: main("kernels", *arguments, "--quiet")


def without_torch(*arguments):
    """The command in a process that cannot import torch."""
    code = (
        "import sys; sys.modules['torch'] = None; from src.commands.kernels import main; sys.exit(main(sys.argv[1:]))"
    )
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT)


def rows_in(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def keys_in(folder) -> list[tuple]:
    """What each row is about."""
    return [(row["op"], row["metric"], row["backend"], row["form"], row["x"]) for row in rows_in(folder)]


# Costs

# Worked out by hand for SMALL. 6 tokens of width 4 are 24 numbers. 2 heads of 5 make rows of 12 and states of 25.
# A head sees 1 + 2 + 3 = 6 pairs per sequence, 24 in all. Entries: (operations, numbers moved) of forward, of backward.
BY_HAND = {
    "selective_scan": ((24 * 45, 3 * 24 + 2 * 36 + 24 + 4), (24 * 97, 2 * (2 * 24 + 2 * 36 + 24 + 4) + 24)),
    "causal_conv": ((24 * 8, 2 * 24 + 16 + 4), (24 * 16, 3 * 24 + 2 * (16 + 4))),
    "linear_attention": ((12 * 125, 4 * 60 + 12), (12 * 275, 7 * 60 + 2 * 12)),
    "delta_rule": ((12 * (175 + 10), 4 * 60 + 2 * 12), (12 * (375 + 20), 7 * 60 + 4 * 12)),
    "attention": ((24 * 26, 4 * 60), (24 * 45, 7 * 60)),
    "rmsnorm": ((6 * 19, 2 * 24 + 4), (6 * 37, 3 * 24 + 2 * 4)),
    "swiglu": ((24 * 5, 3 * 24), (24 * 7, 5 * 24)),
    "rope": ((72 * 3, 2 * 72 + 3 * 6), (72 * 3, 2 * 72 + 3 * 6)),  # heads of 6, 12 rows of them
    "softmax": ((24 * 5, 2 * 24), (24 * 4, 3 * 24)),
    "linear": ((2 * 6 * 4 * 16, 24 + 64 + 96), (4 * 6 * 4 * 16, 2 * 24 + 2 * 64 + 96)),
}


def small(name: str) -> Shape:
    """SMALL, with a head size that rope can rotate."""
    return dataclasses.replace(SMALL, head_dim=6) if name == "rope" else SMALL


def test_every_op_and_every_subject_has_a_cost_worked_out_by_hand():
    assert set(BY_HAND) == set(SUBJECTS) == set(command_file.NAMES)
    assert set(OPS) <= set(SUBJECTS)


@pytest.mark.parametrize("name", SUBJECTS)
def test_operations_and_bytes_are_those_worked_out_by_hand(name):
    subject, (ahead, back) = SUBJECTS[name], BY_HAND[name]
    assert subject.cost(small(name), 4, "forward") == Cost(ahead[0], 4 * ahead[1])
    assert subject.cost(small(name), 2, "both") == Cost(ahead[0] + back[0], 2 * (ahead[1] + back[1]))


@pytest.mark.parametrize("name", SUBJECTS)
def test_bytes_are_those_of_the_tensors_that_go_in_and_come_out(name):
    subject = SUBJECTS[name]
    inputs = subject.inputs(small(name), 0)
    out = subject.forms[subject.plain].run(**inputs)
    inward = sum(t.numel() for t in inputs.values())
    assert subject.cost(small(name), 4, "forward").bytes == 4 * (inward + out.numel())
    # Back through a rotation goes another rotation, which needs no x and gives the tables no gradient.
    back = inward + out.numel() if name == "rope" else 2 * inward + out.numel()
    assert subject.cost(small(name), 4, "both").bytes == 4 * (inward + out.numel() + back)


def test_operations_of_a_matrix_product_are_those_that_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    subject = SUBJECTS["linear"]
    leaves = benching.inputs_of(subject, SMALL, CPU, "fp32", 0)
    with FlopCounterMode(display=False) as counter:
        gate.forward_and_backward(subject.forms["eager"].run, leaves, torch.ones(2, 3, 16))
    assert subject.cost(SMALL, 4, "both").operations == counter.get_total_flops()


def test_an_unknown_pass_is_refused():
    with pytest.raises(ValueError, match="forward, both"):
        SUBJECTS["softmax"].cost(SMALL, 4, "backward")


def test_inputs_are_a_function_of_shape_and_seed():
    a, b, c = (SUBJECTS["delta_rule"].inputs(SMALL, seed) for seed in (1, 1, 2))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["q"], c["q"])
    assert torch.allclose(a["k"].norm(dim=-1), torch.ones(2, 3, 2))


# Gates


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("op", "name"), RUNNABLE)
def test_each_form_that_runs_here_passes_the_gate(op, name, precision):
    subject = SUBJECTS[op]
    verdict = benching.against_reference(subject, subject.forms[name].run, small(op), CPU, precision, 3)
    assert verdict.passed, verdict.note
    assert 0 <= verdict.worst


@pytest.mark.parametrize(
    ("got", "wanted"),
    [
        ([1.0, float("nan")], [1.0, 2.0]),
        ([1.0, float("inf")], [1.0, 2.0]),
        ([1.0, 2.0], [1.0, float("nan")]),
        ([1.0], [1.0, 2.0]),
    ],
    ids=["NaN", "inf", "NaN in the reference", "another shape"],
)
def test_a_difference_that_is_no_finite_number_is_the_largest(got, wanted):
    """Else max() could drop a NaN, and a form that gives NaN would pass."""
    assert gate.relative(torch.tensor(got), torch.tensor(wanted)) == float("inf")


class _WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, dy):
        return 1.01 * dy


def scaled(run):
    return lambda **x: 1.001 * run(**x)


def poisoned(run):
    return lambda **x: run(**x) * torch.tensor(float("nan"))


def cut(run):
    return lambda **x: run(**x)[..., :-1]


def wrong_gradient(run):
    return lambda **x: _WrongGradient.apply(run(**x))


def wrong_when_long(run):
    return lambda **x: run(**x) * (1.01 if next(iter(x.values())).shape[1] > 100 else 1.0)


BREAKAGES = {
    "output off by a thousandth": scaled,
    "not a number": poisoned,
    "another shape": cut,
    "gradient off by a hundredth": wrong_gradient,
}


def with_form(op: str, form: Implementation):
    """The subject with a further form, "wrong"."""
    return dataclasses.replace(SUBJECTS[op], forms={**SUBJECTS[op].forms, "wrong": form})


def make_plan(subject, forms, shapes=(ONE,), seconds=0.02):
    machine = {"device": "cpu", "threads": 1, "precision": "fp32", "seed": 3, "versions": {}, "clock": "test"}
    return benching.Plan(subject, tuple(shapes), tuple(forms), CPU, "fp32", 3, timing.Limits(seconds), machine)


def bench(plan, folder, with_ceilings: bool = True) -> list[dict]:
    record = Record.open_for("kernels", str(folder), {})
    with record.lock(), pytest.MonkeyPatch.context() as patch:
        if not with_ceilings:
            patch.setattr(ceilings, "ceilings_of", lambda rows: ceilings.Ceilings(1.0, 1.0))
        record.begin({}, {})
        benching.bench(plan, record, lambda words: None)
    return record.rows


@pytest.mark.parametrize("breakage", BREAKAGES)
@pytest.mark.parametrize("op", ["selective_scan", "softmax"])
def test_a_wrong_form_is_caught_and_gets_no_timing(op, breakage, tmp_path):
    calls = []

    def run(**inputs):
        calls.append(1)
        return BREAKAGES[breakage](SUBJECTS[op].forms["eager"].run)(**inputs)

    found = bench(make_plan(with_form(op, Implementation(run, "wrong")), ["eager", "wrong"]), tmp_path)
    wrong = [r for r in found if r["backend"] == "wrong"]
    if breakage == "another shape":  # even its gradient cannot be asked for
        assert {r["status"] for r in wrong} == {"failed"}
    else:
        assert {r["status"] for r in wrong} == {"gate failed"}
        assert "differs from its definition" in wrong[0]["note"]
    assert {r["value"] for r in wrong} == {None}
    assert [r["form"] for r in wrong] == ["forward", "forward+backward"]
    assert len(calls) == 1
    assert any(r["status"] == "ok" for r in found if r["backend"] == "eager")


def test_a_form_that_is_wrong_only_at_the_measured_length_is_caught(tmp_path):
    subject = with_form("softmax", Implementation(wrong_when_long(SUBJECTS["softmax"].forms["eager"].run), "wrong"))
    shapes = (Shape(2, 64, 16), Shape(1, 128, 16))
    found = {
        (r["x"], r["status"]) for r in bench(make_plan(subject, ["wrong"], shapes), tmp_path) if r["backend"] == "wrong"
    }
    assert found == {(64, "ok"), (128, "gate failed")}


def test_the_gate_fails_the_command(command, tmp_path, monkeypatch):
    monkeypatch.setitem(
        SUBJECTS,
        "softmax",
        dataclasses.replace(
            SUBJECTS["softmax"], forms={"eager": Implementation(scaled(lambda x: x.softmax(-1)), "wrong")}
        ),
    )
    code, out, _ = command("--op", "softmax", *TINY, "--out_dir", tmp_path / "run")
    assert code == 4
    assert out.splitlines()[-1] == str(tmp_path / "run")


# Rows


def test_a_timed_form_has_its_planted_milliseconds_and_the_rates_that_follow(tmp_path):
    now = [0.0]

    def run(**inputs):
        now[0] += 0.004
        return SUBJECTS["rmsnorm"].forms["eager"].run(**inputs)

    plan = make_plan(with_form("rmsnorm", Implementation(run, "4 ms")), ["wrong"], seconds=0.019)
    plan = dataclasses.replace(plan, clock=lambda: now[0])
    found = {(r["metric"], r["form"]): r for r in bench(plan, tmp_path, with_ceilings=False)}
    for which, form in (("forward", "forward"), ("both", "forward+backward")):
        cost = SUBJECTS["rmsnorm"].cost(plan.shapes[0], 4, which)
        ms, gflops, gbs = (found[metric, form] for metric in ("ms", "gflop_per_s", "gb_per_s"))
        assert ms["settings"] == {"B": 2, "T": 8, "width": 16, "operations": cost.operations, "bytes": cost.bytes}
        assert ms["value"] == pytest.approx(4.0)
        assert gflops["value"] == pytest.approx(cost.operations / 0.004 / 1e9)
        assert gbs["value"] == pytest.approx(cost.bytes / 0.004 / 1e9)
        assert (ms["n"], ms["stopped"]) == (4, "budget")  # 0.019 seconds are spent after a warm-up and 4 calls
        assert "agrees with its definition" in ms["note"]
        assert "agrees with the plain form" in ms["note"]
    assert found["ms", "forward"]["first_ms"] == pytest.approx(4.0)


def test_ceilings_are_work_over_the_median_time():
    """Planted times: 0.5, 1 and 2 seconds."""
    sample = timing.Sample({"": (0.5, 1.0, 2.0)}, {"": 3.0}, 2, "settled")
    samples = {"copy": (sample, 4 * 2**20), "matrix product": (sample, 2 * 32**3)}
    copy, product = benching._ceiling_rows(make_plan(SUBJECTS["softmax"], []), samples)
    assert copy["value"] == pytest.approx(4 * 2**20 / 1e9)
    assert product["value"] == pytest.approx(2 * 32**3 / 1e9)
    assert (copy["unit"], product["unit"]) == ("GB/s", "GFLOP/s")
    assert "2 MiB" in copy["note"]


def test_the_work_of_the_ceilings_is_that_of_their_size():
    found = ceilings.measure_ceilings(CPU, torch.float32, timing.Limits(0.01), copy_mib=2, size=32)
    assert found["copy"][1] == 2 * 2 * 2**20
    assert found["matrix product"][1] == 2 * 32**3


@pytest.mark.parametrize(("intensity", "roof"), [(0.5, 5e9), (4.0, 40e9), (10.0, 100e9), (1000.0, 100e9)])
def test_the_roof_is_the_lower_of_the_two_ceilings(intensity, roof):
    assert ceilings.Ceilings(10e9, 100e9).roof(intensity) == roof


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (RuntimeError("can't allocate memory: you tried to allocate 9 bytes"), "out of memory", "out of memory at 8"),
        (RuntimeError("no kernel for this size\nlong story"), "failed", "RuntimeError: no kernel for this size"),
    ],
)
@pytest.mark.parametrize("at_call", [1, 2, 3])
def test_a_form_that_raises_is_a_row_and_the_others_are_measured(tmp_path, error, status, words, at_call):
    calls = []

    def run(**inputs):
        calls.append(1)
        if len(calls) >= at_call:
            raise error
        return SUBJECTS["softmax"].forms["eager"].run(**inputs)

    found = bench(make_plan(with_form("softmax", Implementation(run, "wrong")), ["wrong", "eager"]), tmp_path)
    wrong = [r for r in found if r["backend"] == "wrong"]
    assert {r["status"] for r in wrong} == {status}
    assert words in wrong[0]["note"]
    assert sum(r["status"] == "ok" and r["metric"] == "ms" and r["backend"] == "eager" for r in found) == 2


def test_a_failing_compiler_is_a_row_with_its_reason(tmp_path, monkeypatch):
    def fails(*arguments, **options):
        raise RuntimeError("InvalidCxxCompiler: no working C++ compiler found")

    monkeypatch.setattr(torch, "compile", fails)
    (row, _) = [r for r in bench(make_plan(SUBJECTS["rmsnorm"], ["compiled"]), tmp_path) if r["backend"] == "compiled"]
    assert row["status"] == "failed"
    assert "compiling or running it failed: RuntimeError: InvalidCxxCompiler" in row["note"]


def test_a_compiled_form_is_compiled_whole_and_its_first_call_is_apart(tmp_path, monkeypatch):
    asked = []

    def compiles(function, **options):
        asked.append(options)
        return function

    monkeypatch.setattr(torch, "compile", compiles)
    shapes = (Shape(2, 8, 16), Shape(1, 16, 16))
    found = bench(make_plan(SUBJECTS["rmsnorm"], ["eager", "compiled"], shapes), tmp_path)
    assert asked == [{"fullgraph": True, "dynamic": False}] * 2  # anew for each shape, never falling back in silence
    assert sum(r["backend"] == "compiled" and r["metric"] == "ms" and r["status"] == "ok" for r in found) == 4


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_request_to_stop_keeps_what_was_measured_and_the_same_command_goes_on(command, tmp_path, monkeypatch, name):
    """Ctrl-C, `kill` and a closed terminal end a command in the same way. The signal is a real one."""
    timed, real = [], benching._time

    def stops(plan, shape, which, *rest):
        timed.append((shape.T, which))
        if len(timed) == 3:
            os.kill(os.getpid(), getattr(signal, name))
        real(plan, shape, which, *rest)

    monkeypatch.setattr(benching, "_time", stops)
    again = Implementation(SUBJECTS["softmax"].forms["eager"].run, "the same form by another name")
    monkeypatch.setitem(SUBJECTS, "softmax", with_form("softmax", again))
    flags = ("--op", "softmax", "--backends", "eager,wrong", *TINY, "--out_dir", tmp_path / "run")
    code, out, err = command(*flags)
    assert (code, out) == (130, "")
    assert "continue with: python" in err
    kept = rows_in(tmp_path / "run")
    assert {r["x"] for r in kept if r["op"]} == {8}

    code, out, err = command(*flags)
    assert code == 0, err
    rows = rows_in(tmp_path / "run")
    assert rows[: len(kept)] == kept
    keys = keys_in(tmp_path / "run")
    assert len(keys) == len(set(keys)) == 2 + 2 * 2 * 2 * 3
    code, _, err = command(*flags[:2], *TINY, "--out_dir", tmp_path / "run")
    assert code == 2
    assert "--overwrite" in err


def test_a_file_cut_inside_a_cell_or_with_a_doubled_roofline_row_gives_each_row_once(command, tmp_path):
    """Continued anywhere: a doubled row would double the ceiling, and a cut one would come twice."""
    forms = ("--op", "causal_conv", "--backends", "eager,numba")
    flags = (*forms, "--lengths", "8", *TINY[2:], "--out_dir", tmp_path / "run")
    assert command(*flags)[0] == 0
    path = tmp_path / "run" / "results.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    whole = keys_in(tmp_path / "run")
    assert len(lines) == len(set(whole)) == 2 + 2 * 2 * 3
    changes = (
        lines[:1],  # inside the ceilings
        lines[:4],  # inside the first form
        [*lines[:7], lines[7][:200]],  # inside a row
        [lines[0], *lines],  # a doubled roofline row
        [lines[0].replace(b'"value": ', b'"value": 9'), *lines[1:]],  # an edited one
    )
    for change in changes:
        path.write_bytes(b"".join(change))
        code, _, err = command(*flags)
        assert code == 0, err
        assert Counter(keys_in(tmp_path / "run")) == Counter(whole)
        history = json.loads((tmp_path / "run" / "history.json").read_text())
        assert (history["status"], history["rows"]) == ("done", rows_in(tmp_path / "run"))


# The command


@pytest.fixture(scope="module")
def measured(tmp_path_factory, small_ceilings):
    """(folder, stdout) of a small run of selective_scan over forms that run, and forms that do not."""
    folder, out = tmp_path_factory.mktemp("measured") / "run", io.StringIO()
    line = ["--op", "selective_scan", "--backends", "eager,numba,triton,mamba_ssm", *TINY, "--out_dir", str(folder)]
    with contextlib.redirect_stdout(out):
        assert benchmark.main(["kernels", *line]) == 0
    return folder, out.getvalue()


def test_the_command_prints_a_table_and_writes_rows_figures_and_reasons(measured):
    folder, out = measured
    assert out.splitlines()[-1] == str(folder)
    assert "B T E (7 N + 3) forward" in out
    assert re.search(r"^ceilings here: copy [\d.]+ GB/s, matrix product [\d.]+ GFLOP/s", out, re.MULTILINE)
    assert len(re.findall(r"^  eager +(?:8|16) +[\d.]+", out, re.MULTILINE)) == 4
    assert "no time for triton: unsupported: selective_scan has no form 'triton'; it has eager, numba, mamba_ssm" in out
    assert "no time for mamba_ssm: unsupported: needs a CUDA device, this is cpu" in out
    rows = rows_in(folder)
    for row in rows:
        schema.check_row(row)
    assert {r["status"] for r in rows if r["backend"] in ("triton", "mamba_ssm")} == {"unsupported"}
    assert len(list(csv.DictReader((folder / "results.csv").open()))) == len(rows)
    history = json.loads((folder / "history.json").read_text())
    assert (history["kind"], history["status"]) == ("kernels", "done")
    assert history["rows"] == rows
    assert {"roofline.png", "roofline.pdf", "time_by_length.png", "time_by_length.pdf"} == {
        p.name for p in (folder / "figures").iterdir()
    }
    for name in ("roofline", "time_by_length"):
        assert has_colour(pixels(folder / "figures" / f"{name}.png"), style.COLOURS[0])
        assert (folder / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_figures_and_the_table_are_made_again_without_torch(measured, tmp_path):
    folder = shutil.copytree(measured[0], tmp_path / "copy")
    before = {p.name: p.read_bytes() for p in (folder / "figures").iterdir()}
    for path in (folder / "figures").iterdir():
        path.unlink()
    done = without_torch("--vis_only", "--out_dir", str(folder))
    assert done.returncode == 0, done.stderr
    assert {p.name: p.read_bytes() for p in (folder / "figures").iterdir()} == before
    assert done.stdout.splitlines()[0].startswith("ceilings here: copy ")
    assert done.stdout.splitlines()[-1] == str(folder)


def test_the_roofline_shows_the_roof_and_each_point_where_it_was_measured(measured):
    rows = rows_in(measured[0])
    figure = kernel_figures.figure_roofline(rows, "t")
    assert [ax.get_title() for ax in figure.axes] == ["forward", "forward+backward"]
    measured_ceilings = ceilings.ceilings_of(rows)
    roof, points = figure.axes[0].lines[0], figure.axes[0].lines[1]
    for x, y in zip(roof.get_xdata(), roof.get_ydata(), strict=True):
        assert y == pytest.approx(measured_ceilings.roof(x) / 1e9)
    wanted = [
        r["value"] for r in rows if r["metric"] == "gflop_per_s" and r["backend"] == "eager" and r["form"] == "forward"
    ]
    assert list(points.get_ydata()) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--op: none given, allowed: attention"),
        (["--op", "selective_scn"], "did you mean 'selective_scan'?"),
        (
            ["--op", "softmax", "--backends", "eagr"],
            "unknown form 'eagr' of softmax, allowed: eager, triton, compiled; did you mean 'eager'?",
        ),
        (["--op", "rope", "--head_dim", "7"], "--head_dim: got 7, allowed: an even number"),
        (["--op", "softmax", "--lengths", "0"], "--lengths: got 0, allowed: whole numbers >= 1"),
        (["--op", "softmax", "--length", "8"], "unknown flag --length for kernels; did you mean '--lengths'?"),
        (["--op", "softmax", "--device", "cuda:99"], "--device: got 'cuda:99'"),
        (["--op", "softmax", "--precision", "fp16", "--device", "cpu"], "fp16 needs a CUDA device"),
        (["--op", "softmax", "--cell_seconds", "0"], "--cell_seconds: got 0.0, allowed: > 0"),
        (["--vis_only"], "--vis_only: no --out_dir given"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(command, tmp_path, flags, words):
    code, out, err = command(*flags, *([] if "--vis_only" in flags else ["--out_dir", tmp_path / "run"]))
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_help_opens_with_three_commands_and_needs_no_torch():
    done = without_torch("--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout[:800].count("python benchmark.py kernels --op ") >= 3
    assert "--cell_seconds" in done.stdout


def test_flash_attention_says_what_it_needs():
    reason = SUBJECTS["attention"].forms["flash_attn"].obstacle("cpu", "fp32")
    assert "needs a CUDA device" in reason
    assert "bf16 or fp16 only" in reason
    assert SUBJECTS["attention"].forms["sdpa"].obstacle("cpu", "fp32") == ""


# Compiled and Triton forms


@pytest.mark.slow
@pytest.mark.parametrize("op", ["attention", "rmsnorm", "swiglu", "rope", "softmax", "linear"])
def test_a_compiled_form_passes_the_gate(op):
    subject = SUBJECTS[op]
    try:
        verdict = benching.against_reference(
            subject, benching.callable_of(subject.forms["compiled"]), small(op), CPU, "fp32", 3
        )
    except Exception as error:
        pytest.skip(f"torch.compile does not work here: {benching.first_line(error)}")
    assert verdict.passed, verdict.note


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("op", "name"),
    [
        *((op, "triton") for op in ("rmsnorm", "swiglu", "rope", "softmax", "linear")),
        *(("attention", "flash_attn"), ("selective_scan", "mamba_ssm")),
    ],
)
def test_a_form_for_cuda_passes_the_gate(op, name, precision):
    subject, device = SUBJECTS[op], torch.device("cuda", 0)
    obstacle = subject.forms[name].obstacle("cuda", precision)
    if obstacle:
        pytest.skip(obstacle)
    verdict = benching.against_reference(
        subject, subject.forms[name].run, Shape(2, 128, 64, 2, 64, 16), device, precision, 3
    )
    assert verdict.passed, verdict.note
