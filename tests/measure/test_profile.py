"""`profile`: a trace written by hand gives the right table, and the command writes, stops and continues as it says.

python -m pytest tests/measure/test_profile.py
"""

import contextlib
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, TINY
from pictures import has_colour, pixels

import benchmark
from dataset.needle import Needle
from src.figures import kernels as kernel_figures
from src.figures import style
from src.flags.run_flags import resolve
from src.measure import timing
from src.measure.profile import steps as profiling
from src.measure.profile import trace as reading
from src.measure.profile.report import growth
from src.setup.plan import plan
from src.setup.session import open_session
from src.storage import rows as schema
from src.utils.training import Diverged

FLAGS = ["--task", "needle", "--model", "transformer", *TINY, "--steps", "3", "--cell_seconds", "0.05"]
FIGURES = ("time_by_group", "time_by_length", "memory_by_length", "memory_timeline")


def no_figures(patch):
    """Figures take seconds: only the recorded profile draws them."""
    patch.setattr(kernel_figures, "draw_profile", lambda history, folder: [])


@pytest.fixture
def no_trace(monkeypatch):
    """No trace with stacks, which takes seconds. The peak of its memory timeline is a row that is there."""
    row = {"panel": "memory timeline", "metric": "peak_bytes", "value": 1, "unit": "bytes"}
    monkeypatch.setattr(profiling, "_detail", lambda job, record: record.add(job.row(**row)))


@pytest.fixture
def command(main, monkeypatch):
    """`benchmark.py profile ...` in this process, without figures: (exit code, stdout, stderr)."""
    no_figures(monkeypatch)
    return lambda *arguments: main("profile", *arguments)


def without_torch(*arguments):
    """The command in a process that cannot import torch."""
    code = (
        "import sys; sys.modules['torch'] = None; from src.commands.profile import main; sys.exit(main(sys.argv[1:]))"
    )
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT)


# A trace written by hand


def event(name, category, start, duration, thread=1, **arguments):
    return {
        "ph": "X",
        "name": name,
        "cat": category,
        "ts": start,
        "dur": duration,
        "pid": 7,
        "tid": thread,
        "args": arguments,
    }


# Two steps of 100 us. The first has a product of 30 with a copy of 10 inside, an optimiser step of 20 with an addition
# of 5 inside, and an own op of 20 with a product of 12 inside. The second has a product of 50.
BY_HAND = {
    "traceEvents": [
        event("ProfilerStep#1", "user_annotation", 1000.0, 100.0),
        event("ProfilerStep#2", "user_annotation", 1100.0, 100.0),
        event("train.py(3): step", "python_function", 1005.0, 90.0),
        event("aten::mm", "cpu_op", 1010.0, 30.0),
        event("aten::copy_", "cpu_op", 1020.0, 10.0),
        event("Optimizer.step#AdamW.step", "user_annotation", 1040.0, 20.0),
        event("aten::add_", "cpu_op", 1045.0, 5.0),
        event("_ScanBackward", "cpu_op", 1060.0, 20.0),
        event("aten::bmm", "cpu_op", 1062.0, 12.0),
        event("aten::mm", "cpu_op", 1110.0, 50.0),
        event("aten::mm", "cpu_op", 900.0, 50.0),  # before the first step: a warm-up
        {"ph": "i", "name": "[memory]", "cat": "cpu_instant_event", "ts": 1.0, "args": {}},
    ]
}


def entries(trace, **options) -> dict:
    return {(e["name"], e["group"]): e for e in reading.operators(trace, **options)}


def test_an_operator_has_its_own_time_in_each_step():
    found = entries(BY_HAND, own=reading.own_names(["_Scan"]))
    assert found["aten::mm", "matrix products"]["ms"] == pytest.approx([0.020, 0.050])
    assert found["aten::mm", "matrix products"]["calls"] == 1.0
    assert found["aten::copy_", "data movement"]["ms"] == pytest.approx([0.010, 0.0])
    assert found["Optimizer.step#AdamW.step", "optimiser"]["ms"] == pytest.approx([0.015, 0.0])


def test_what_runs_inside_the_optimiser_or_an_own_op_belongs_to_it():
    found = entries(BY_HAND, own=reading.own_names(["_Scan"]))
    assert found["aten::add_", "optimiser"]["ms"] == pytest.approx([0.005, 0.0])
    assert found["aten::bmm", "scan and own ops"]["ms"] == pytest.approx([0.012, 0.0])
    assert found["_ScanBackward", "scan and own ops"]["ms"] == pytest.approx([0.008, 0.0])
    assert ("aten::bmm", "matrix products") in entries(BY_HAND)  # without own ops


def test_what_remains_of_a_step_is_outside_operators_and_all_adds_up():
    table = reading.operators(BY_HAND)
    assert table[-1]["name"] == reading.OUTSIDE
    assert table[-1]["ms"] == pytest.approx([0.030, 0.050])
    sums = reading.by_group(table)
    assert [sum(values[step] for values in sums.values()) for step in (0, 1)] == pytest.approx([0.1, 0.1])


def test_the_slowest_operator_comes_first():
    names = [e["name"] for e in reading.operators(BY_HAND)[:-1]]
    assert names[0] == "aten::mm"


def test_kernels_of_a_device_belong_to_the_operator_that_launched_them():
    trace = {
        "traceEvents": [
            event("ProfilerStep#1", "user_annotation", 0.0, 100.0),
            event("aten::mm", "cpu_op", 10.0, 5.0, **{"External id": 3}),
            event("aten::add", "cpu_op", 20.0, 5.0, **{"External id": 4}),
            event("gemm", "kernel", 30.0, 40.0, 9, **{"External id": 3}),
            event("vectorized_add", "kernel", 70.0, 6.0, 9, **{"External id": 4}),
            event("_rmsnorm_forward", "kernel", 80.0, 4.0, 9),
            event("Memcpy DtoH", "gpu_memcpy", 90.0, 1.0, 9),
        ]
    }
    found = entries(trace)
    assert found["aten::mm", "matrix products"]["ms"] == pytest.approx([0.040])
    assert found["aten::add", "elementwise"]["ms"] == pytest.approx([0.006])
    assert found["_rmsnorm_forward", "other"]["ms"] == pytest.approx([0.004])
    assert found["Memcpy DtoH", "data movement"]["ms"] == pytest.approx([0.001])
    assert found[reading.OUTSIDE, reading.OUTSIDE]["ms"] == pytest.approx([0.049])


def test_stacks_are_folded_with_their_self_times():
    lines = dict(line.rsplit(" ", 1) for line in reading.folded_stacks(BY_HAND))
    step = "ProfilerStep#1;train.py(3): step"
    assert lines[f"{step};aten::mm"] == "20000"  # nanoseconds
    assert lines[f"{step};aten::mm;aten::copy_"] == "10000"
    assert lines[step] == "20000"
    assert lines["ProfilerStep#1"] == "10000"
    assert sum(map(int, lines.values())) == 250_000


def test_frames_of_the_profiler_itself_are_left_out_of_the_stacks():
    trace = {
        "traceEvents": [
            event("main.py(1): main", "python_function", 0.0, 10.0),
            event("torch/profiler/profiler.py(9): step", "python_function", 2.0, 5.0),
            event("aten::zeros", "cpu_op", 3.0, 1.0),
        ]
    }
    assert reading.folded_stacks(trace) == ["main.py(1): main 5000"]


def test_a_frame_with_a_semicolon_or_a_line_break_stays_one_frame():
    trace = {"traceEvents": [event("a;b\nc", "python_function", 0.0, 1.0)]}
    assert reading.folded_stacks(trace) == ["a,b c 1000"]


@pytest.mark.parametrize("trace", [{}, {"traceEvents": []}, []])
def test_a_trace_without_events_is_refused(trace):
    with pytest.raises(ValueError, match="traceEvents"):
        reading.spans(trace)


def test_a_trace_without_steps_has_no_table():
    with pytest.raises(ValueError, match="ProfilerStep"):
        reading.operators({"traceEvents": [event("aten::mm", "cpu_op", 0.0, 1.0)]})


def memory(at, size, address, device=0):
    return {"ph": "i", "name": "[memory]", "ts": at, "args": {"Bytes": size, "Addr": address, "Device Type": device}}


def test_allocations_add_up_and_the_release_of_older_memory_changes_nothing():
    trace = {
        "traceEvents": [
            memory(1000.0, 100, 1),
            memory(3000.0, -100, 1),
            memory(2000.0, 50, 2),
            memory(2500.0, -999, 8),
            memory(4000.0, 70, 1),
            memory(2000.0, 9999, 3, device=1),
        ]
    }
    assert reading.allocations(trace, "cpu") == [(0.0, 100), (1.0, 150), (1.5, 150), (2.0, 50), (3.0, 120)]
    assert max(held for _, held in reading.allocations(trace, "cuda")) == 9999


def test_a_thinned_curve_keeps_its_highest_and_lowest_point():
    points = [(float(i), i % 7) for i in range(10_000)]
    points[5003] = (5003.0, 99)
    thin = reading.thinned(points, 100)
    assert len(thin) <= 202
    assert max(v for _, v in thin) == 99
    assert min(v for _, v in thin) == 0
    assert thin == sorted(thin)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("aten::addmm", "matrix products"),
        ("aten::linalg_solve_triangular", "matrix products"),
        ("aten::add_", "elementwise"),
        ("aten::gelu_backward", "elementwise"),
        ("aten::_softmax_backward_data", "elementwise"),
        ("aten::native_layer_norm_backward", "normalisation"),
        ("aten::_fused_rms_norm", "normalisation"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "scan and own ops"),
        ("aten::gru", "scan and own ops"),
        ("aten::_fused_adamw_", "optimiser"),
        ("aten::_foreach_norm", "optimiser"),
        ("Optimizer.zero_grad#AdamW.zero_grad", "optimiser"),
        ("aten::_to_copy", "data movement"),
        ("aten::embedding_dense_backward", "data movement"),
        ("aten::_local_scalar_dense", "data movement"),
        ("Memset (Device)", "data movement"),
        ("AddmmBackward0", "other"),
        ("aten::something_new", "other"),
    ],
)
def test_an_operator_falls_into_its_group(name, group):
    assert reading.group_of(name) == group
    assert group in reading.GROUPS


# Real steps


@pytest.fixture(scope="module")
def profiled(tmp_path_factory):
    """One small profile: (folder, stdout)."""
    folder, out = tmp_path_factory.mktemp("profiled") / "run", io.StringIO()
    flags = [f for f in FLAGS if f != "--quiet"]
    with contextlib.redirect_stdout(out):
        code = benchmark.main(["profile", *flags, "--lengths", "16,24,48", "--out_dir", str(folder)])
    assert code == 0
    return folder, out.getvalue()


def rows_in(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_the_table_is_printed_and_the_last_line_is_the_run_directory(profiled):
    folder, out = profiled
    assert out.splitlines()[-1] == str(folder)
    assert re.search(r"^aten::mm +matrix products +\d+\.\d+ +\d+\.\d%", out, re.MULTILINE)
    assert re.search(r"^outside operators +\d", out, re.MULTILINE)
    assert re.search(r"^ +48 +\d+ +[\d,]+ +\d+\.\d+", out, re.MULTILINE)
    assert max(map(len, out.splitlines()[:-1])) <= 120


def test_every_row_keeps_the_schema_and_says_where_it_was_measured(profiled):
    rows = rows_in(profiled[0])
    for row in rows:
        schema.check_row(row)
        assert row["kind"] == "profile"
        assert (row["threads"], row["precision"], row["task"], row["model"]) == (1, "fp32", "needle", "transformer")
        assert row["backend"]["attention"]["reason"]
    assert {r["panel"] for r in rows} == {"operators", "groups", "data", "memory timeline", "length"}
    table = list(csv.DictReader((profiled[0] / "results.csv").open()))
    assert [r["metric"] for r in table] == [r["metric"] for r in rows]


def test_groups_of_every_recorded_step_add_up_to_the_step(profiled):
    rows = [r for r in rows_in(profiled[0]) if r["panel"] == "groups"]
    whole = next(r["values"] for r in rows if r["form"] == "whole step")
    parts = [r["values"] for r in rows if r["form"] != "whole step"]
    assert len(whole) == 3
    for step, ms in enumerate(whole):
        assert sum(values[step] for values in parts) == pytest.approx(ms, rel=0.01)
    shown = {r["form"]: r["value"] for r in rows}
    assert shown["matrix products"] > 0
    assert shown["optimiser"] > 0


def test_the_trace_is_json_with_operators_frames_and_steps(profiled):
    events = json.loads((profiled[0] / "trace.json").read_text())["traceEvents"]
    categories = {e.get("cat") for e in events}
    assert {"cpu_op", "python_function", "user_annotation"} <= categories
    assert (
        sum(e.get("name", "").startswith("ProfilerStep#") and e.get("ph") == "X" for e in events)
        >= profiling.DETAIL_STEPS
    )
    assert any(e.get("name") == "aten::mm" for e in events)


def test_the_stacks_are_not_empty_and_name_the_training_step(profiled):
    lines = (profiled[0] / "stacks.txt").read_text().splitlines()
    assert len(lines) > 100
    assert all(re.fullmatch(r"[^;].* [1-9]\d*", line) for line in lines)
    deep = [line for line in lines if "train_step" in line and "aten::mm" in line]
    assert deep
    assert all(line.count(";") > 3 for line in deep)


def test_the_folder_for_tensorboard_holds_the_same_trace(profiled):
    (path,) = (profiled[0] / "tensorboard").iterdir()
    assert path.name.endswith(".pt.trace.json")
    assert path.read_bytes() == (profiled[0] / "trace.json").read_bytes()


def test_each_length_has_a_time_and_a_peak(profiled):
    rows = {(r["x"], r["metric"]): r for r in rows_in(profiled[0]) if r["panel"] == "length"}
    assert {x for x, _ in rows} == {16, 24, 48}
    for length in (16, 24, 48):
        step, token = rows[length, "step_ms"], rows[length, "token_us"]
        assert step["n"] >= 3
        assert token["value"] == pytest.approx(1e3 * step["value"] / step["tokens"])
        assert rows[length, "peak_bytes"]["value"] > 10_000


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_a_picture_of_something(profiled, name):
    picture = pixels(profiled[0] / "figures" / f"{name}.png")
    assert picture.shape[0] > 500
    assert has_colour(picture, style.COLOURS[0])
    assert (profiled[0] / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_figures_and_tables_are_made_again_without_torch(profiled, tmp_path):
    folder = shutil.copytree(profiled[0], tmp_path / "copy")
    before = {p.name: p.read_bytes() for p in (folder / "figures").iterdir()}
    for path in (folder / "figures").iterdir():
        path.unlink()
    done = without_torch("--vis_only", "--out_dir", str(folder))
    assert done.returncode == 0, done.stderr
    assert {p.name: p.read_bytes() for p in (folder / "figures").iterdir()} == before
    lines = done.stdout.splitlines()
    assert lines[:5] == profiled[1].splitlines()[:5]
    assert lines[-1] == str(folder)


def test_time_by_length_is_drawn_on_logarithmic_axes_with_the_measured_points(profiled):
    rows = rows_in(profiled[0])
    (ax,) = kernel_figures.figure_by_length(rows, "step_ms", "t").axes
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    measured = sorted((r["x"], r["value"]) for r in rows if r["metric"] == "step_ms" and r["panel"] == "length")
    assert list(zip(ax.lines[0].get_xdata(), ax.lines[0].get_ydata(), strict=True)) == measured


def test_a_peak_of_known_size_is_found():
    kept = []

    def step():
        a = torch.empty(2 * 2**20, dtype=torch.uint8)
        b = torch.empty(3 * 2**20, dtype=torch.uint8)
        del a
        kept.append(torch.empty(2**20, dtype=torch.uint8))
        del b

    assert profiling.peak_bytes(step, torch.device("cpu")) == 5 * 2**20


def test_only_lines_of_kineto_are_removed_from_stderr(capfd):
    """All other lines are written, even if what is recorded raises."""

    def record():
        with profiling.without_kinetos_lines():
            os.write(2, b"USDT:profiler_start\na warning from below\n")
            os.write(2, b"no line's beginning: USDT:\nUSDT:profiler_stop\nwithout an end")
            raise ZeroDivisionError

    os.write(2, b"USDT:before\n")
    with pytest.raises(ZeroDivisionError):
        record()
    os.write(2, b"\nUSDT:after\n")
    assert (
        capfd.readouterr().err
        == "USDT:before\na warning from below\nno line's beginning: USDT:\nwithout an end\nUSDT:after\n"
    )


def test_a_recording_writes_nothing_into_the_progress_bar(capfd):
    profiling.record_steps(lambda: torch.ones(3).sum(), 1, torch.device("cpu"), lambda profiler: None)
    profiling.peak_bytes(lambda: torch.ones(3).sum(), torch.device("cpu"))
    assert "USDT" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("power", "reason"),
    [
        (0.5, "the exponent is below 1 because fixed overhead dominates short sequences"),
        (1.0, "the fixed overhead of a step is included"),
        (2.0, "the fixed overhead of a step is included"),
    ],
)
def test_the_growth_of_the_time_per_sequence_is_told_in_words(power, reason):
    """Also if a step has fewer sequences at a greater length."""
    rows = [length_row(x, 64 // x, x**power * (64 // x)) for x in (8, 16, 32, 64)]
    line, why = growth(rows)
    assert line.startswith(f"time per sequence ~ length^{power:.2f} [{power:.2f}, {power:.2f}]")
    assert why.startswith(reason)
    assert growth(rows[:2]) == growth([]) == []


def length_row(x: int, batch: int, ms: float) -> dict:
    fields = {"panel": "length", "metric": "step_ms", "unit": "ms", "x_name": "length"}
    return schema.make_row("profile", **fields, x=x, batch=batch, value=ms, values=[ms, ms])


def test_the_names_of_own_autograd_functions_are_found():
    import src.ops.selective_scan  # noqa: F401  defines them

    names = profiling.own_functions()
    assert "_Scan" in names
    assert "_ScanBackward" in reading.own_names(names)
    assert "CheckpointFunction" not in names  # torch's own


def test_an_own_op_of_a_real_model_is_in_its_group(command, tmp_path, no_trace):
    flags = [f if f != "transformer" else "template" for f in FLAGS]
    code, _, err = command(*flags, "--short_conv", "4", "--lengths", "16", "--out_dir", tmp_path / "run")
    assert code == 0, err
    rows = [r for r in rows_in(tmp_path / "run") if r["panel"] == "operators" and r["form"] == "scan and own ops"]
    assert any(r["op"].startswith("_") for r in rows)


def test_a_task_without_a_length_says_so(command, tmp_path, no_trace):
    flags = [f if f != "needle" else "trigo" for f in FLAGS]
    code, _, err = command(*flags, "--out_dir", tmp_path / "run")
    assert code == 0, err
    (row,) = [r for r in rows_in(tmp_path / "run") if r["panel"] == "length"]
    assert row["status"] == "unsupported"
    assert "no length" in row["note"]


# Wrong input, gate, Ctrl-C


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--lengths", "0"], "--lengths: got 0, allowed: whole numbers >= 1"),
        (["--lengths", "x"], "--lengths: got 'x', allowed: a whole number"),
        (["--lengths", "3"], "3"),  # no room for a needle
        (["--steps", "0"], "--steps: got 0, allowed: >= 1"),
        (["--lenghts", "16"], "did you mean '--lengths'?"),
        (["--resume"], "--resume: only goes with `train`"),
        (["--log", "tensorboard"], "--log: only goes with `train`"),
        (["--task", "trigo", "--lengths", "16"], "Trigo has no length"),
        (["--backend", "attention=flash_attn"], "flash_attn"),
        (["--model", "transfomer"], "did you mean 'transformer'?"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(command, tmp_path, extra, words):
    code, out, err = command(*FLAGS, *extra, "--out_dir", tmp_path / "run")
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_help_opens_with_three_commands_and_needs_no_torch():
    done = without_torch("--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout[:900].count("python benchmark.py profile --") == 3
    assert "--lengths" in done.stdout


def test_an_op_that_is_wrong_here_gets_no_timing(command, tmp_path, monkeypatch):
    from src.ops import attention

    right = attention.COMPUTE["sdpa"]
    monkeypatch.setitem(attention.COMPUTE, "sdpa", lambda *arguments: 1.01 * right(*arguments))
    code, out, err = command(*FLAGS, "--out_dir", tmp_path / "run")
    assert (code, out) == (4, "")
    assert "attention=sdpa differs from its reference" in err
    assert not (tmp_path / "run").exists()


def test_a_profile_cut_inside_a_cell_has_each_row_once_when_it_is_continued(profiled, command, tmp_path):
    """Inside the table by operator, which is one cell, and inside the rows of a length."""
    flags = [*FLAGS, "--lengths", "16,24,48", "--out_dir", tmp_path / "run"]
    whole = {key_of(row) for row in rows_in(profiled[0]) if row["panel"] != "operators"}
    first = next(i for i, row in enumerate(rows_in(profiled[0])) if row["panel"] == "length")
    for kept in (7, first + 1):
        shutil.copytree(profiled[0], tmp_path / "run")
        path = tmp_path / "run" / "results.jsonl"
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:kept]))
        code, _, err = command(*flags)
        assert code == 0, err
        keys = [key_of(row) for row in rows_in(tmp_path / "run")]
        assert len(keys) == len(set(keys))
        assert whole <= set(keys)
        shutil.rmtree(tmp_path / "run")


def key_of(row) -> tuple:
    return row["panel"], row["op"], row["form"], row["metric"], row["x"]


def test_ctrl_c_keeps_what_was_measured_and_the_same_command_continues(command, tmp_path, monkeypatch, no_trace):
    measured, stopped, real = [], [], profiling._length_rows

    def stops(job, length, *arguments):
        if measured and not stopped:
            stopped.append(length)
            raise KeyboardInterrupt
        measured.append(length)
        real(job, length, *arguments)

    monkeypatch.setattr(profiling, "_length_rows", stops)
    flags = (*FLAGS, "--lengths", "16,24", "--out_dir", tmp_path / "run")
    code, out, err = command(*flags)
    assert (code, out) == (130, "")
    assert "continue with: python" in err
    kept = rows_in(tmp_path / "run")
    assert {r["panel"] for r in kept} == {"operators", "groups", "data", "memory timeline", "length"}

    code, _, err = command(*flags)
    assert code == 0, err
    assert sorted(measured) == [16, 24]
    assert rows_in(tmp_path / "run")[: len(kept)] == kept
    code, _, err = command(*flags[:-2], "--lengths", "16", *flags[-2:])
    assert code == 2
    assert "--overwrite" in err


def test_a_length_that_does_not_fit_in_memory_is_a_row(command, tmp_path, monkeypatch):
    real = profiling.train_step

    def fits(model, batch, *arguments):
        if batch.x.shape[1] > 30 and len(steps) > 12:  # after the recorded steps
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        steps.append(1)
        return real(model, batch, *arguments)

    steps = []
    monkeypatch.setattr(profiling, "train_step", fits)
    code, _, err = command(*FLAGS, "--lengths", "16,48", "--out_dir", tmp_path / "run")
    assert code == 0, err
    rows = [r for r in rows_in(tmp_path / "run") if r["panel"] == "length"]
    (row,) = [r for r in rows if r["x"] == 48]
    assert (row["status"], row["note"], row["value"]) == ("out of memory", "out of memory at 48", None)
    assert {r["status"] for r in rows if r["x"] == 16} == {"ok"}


def test_a_loss_that_is_not_finite_is_a_result(command, tmp_path, monkeypatch):
    real, steps = profiling.train_step, []

    def diverges(*arguments):
        steps.append(1)
        if len(steps) > 12:  # after the recorded steps
            raise Diverged("the loss is inf")
        return real(*arguments)

    monkeypatch.setattr(profiling, "train_step", diverges)
    code, _, err = command(*FLAGS, "--lengths", "16", "--out_dir", tmp_path / "run")
    assert code == 3
    assert "the loss is inf" in err
    rows = rows_in(tmp_path / "run")
    assert rows[-1]["status"] == "diverged"
    assert rows[0]["panel"] == "operators"


def test_vis_only_wants_a_profile(command, tmp_path):
    code, _, err = command("--vis_only", "--out_dir", tmp_path)
    assert code == 2
    assert len(err.splitlines()) == 1


def test_default_lengths_reach_eight_times_the_longest_training_length():
    task = Needle(resolve(Needle, context_len=64))
    assert profiling.default_lengths(task) == [16, 32, 64, 128, 256, 512]


class Rows(list):
    """A record that only collects its rows."""

    def add(self, *rows):
        self.extend(rows)


def test_the_step_of_each_length_takes_its_planted_time(monkeypatch):
    """Planted: one millisecond per token of a row."""
    now = [0.0]

    class Steps:
        def __init__(self, job, batches, max_tokens):
            self.batches, self.model = batches, torch.nn.Linear(2, 2)

        def step(self):
            now[0] += 1e-3 * self.batches[0].x.shape[1]

    monkeypatch.setattr(profiling, "Training", Steps)
    monkeypatch.setattr(profiling, "peak_bytes", lambda step, device: 1)
    setup, _ = plan(["--task", "needle", "--model", "transformer", *TINY])
    job = profiling.Job(open_session(setup, torch.device("cpu")), setup.model_class, clock=lambda: now[0])
    drawn, rows = profiling.draw(job, (16, 24)), Rows()
    profiling._lengths(job, drawn, timing.Limits(1.0), rows, lambda words: None)
    for length, (batches, _) in drawn.items():
        (step,) = [r for r in rows if (r["x"], r["metric"]) == (length, "step_ms")]
        assert step["value"] == pytest.approx(batches[0].x.shape[1])


def test_a_window_longer_than_the_text_is_refused(command, tmp_path, no_trace):
    text = tmp_path / "text.txt"
    text.write_text("What is past is prologue. " * 200)
    flags = [f if f != "needle" else "tiny_shakespeare" for f in FLAGS]
    code, _, err = command(*flags, "--data_path", text, "--lengths", "1000000", "--out_dir", tmp_path / "run")
    assert code == 2
    assert "--lengths: got 1000000, allowed: less than the training text's" in err
    code, _, err = command(*flags, "--data_path", text, "--lengths", "16", "--out_dir", tmp_path / "run")
    assert code == 0, err
    assert {r["batch"] for r in rows_in(tmp_path / "run") if r["panel"] == "length"} == {512 // 16}
