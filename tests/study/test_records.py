"""Records: a row has the numbers of its run, figures are redrawn from the tables, scripts change no record.

python -m pytest tests/study/test_records.py
"""

import csv
import json
import os
import shutil
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest
from conftest import ROOT, TINY

from src.figures import runs as run_figures
from src.figures.curves import figure_losses
from src.stats.intervals import wilson
from src.storage.files import seal
from src.study import records

RECORDS = ROOT / "runs" / "records"
FOLDERS = sorted(path.parent.name for path in RECORDS.glob("*/results.csv"))
WITH_FIGURES = [name for name in FOLDERS if (RECORDS / name / "figures.csv").is_file()]
SCRIPTS = sorted(f"{path.parent.name}" for path in RECORDS.glob("*/run.sh"))
MOST_LINES = 8000


def rows_of(path) -> list[dict]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def call(capsys, *arguments):
    """`python -m src.study.records` in this process: (exit code, stdout lines, stderr lines)."""
    code = records.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err.splitlines()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two tiny finished runs of needle, and their folder."""
    import benchmark

    home = tmp_path_factory.mktemp("runs")
    for seed in (1, 2):
        words = [
            "--task",
            "needle",
            "--model",
            "gru",
            *TINY,
            "--lr",
            "0.01",
            "--eval_lengths",
            "2x",
            "--eval_every",
            "3",
        ]
        assert benchmark.main([*words, "--seed", str(seed), "--out_dir", str(home / f"gru-{seed}")]) == 0
    return home


@pytest.fixture(scope="module")
def record(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("record")
    records.collect([runs / "gru-1", runs / "gru-2"], folder)
    return folder


@pytest.fixture
def copied(record, tmp_path):
    return shutil.copytree(record, tmp_path / "record")


def test_each_run_is_one_row_with_its_numbers(runs, record):
    rows = rows_of(record / "results.csv")
    assert [row["run"] for row in rows] == ["gru-1", "gru-2"]
    for row in rows:
        metrics = json.loads((runs / row["run"] / "metrics.json").read_text())
        env = json.loads((runs / row["run"] / "env.json").read_text())
        result, primary = metrics["final_test"], metrics["primary"]
        beyond = metrics["length_curve"][-1]
        expected = {
            "value": result[primary],
            "low": result["intervals"][primary][0],
            "high": result["intervals"][primary][1],
            "scaled": metrics["scaled"],
            "test_loss": result["loss"],
            "test_token_acc": result["token_acc"],
            "chance_uniform": metrics["floors"]["uniform"]["primary"],
            f"at_{beyond['length']}": beyond["value"],
            f"at_{beyond['length']}_high": beyond["ci"][1],
            "design_effect": result["interval_basis"][primary]["design_effect"],
            "train_s": metrics["machine"]["train_seconds"],
            "command_s": metrics["machine"]["command_seconds"],
        }
        assert {name: float(row[name]) for name in expected} == pytest.approx(expected, rel=1e-5)  # six digits are kept
        assert int(row["parameters"]) == metrics["parameters"]["total"]
        assert int(row["layer_parameters"]) == metrics["parameters"]["layers"]
        assert int(row["steps"]) == metrics["steps"]
        assert row["solved_at"] == ""  # not within these steps
        assert (row["metric"], row["seed"]) == (primary, row["run"][-1])
        assert row["commit"] == (env["commit"] or "")


@pytest.mark.parametrize(
    ("solved", "cell"),
    [
        ({"threshold": 0.95, "step": 6, "reason": None}, "6"),
        ({"threshold": 0.0, "step": None, "reason": "--solved_at 0 records nothing"}, "undefined"),
        (None, "undefined"),  # a run that is older than the flag
    ],
)
def test_a_row_has_the_step_that_solved_the_task(runs, tmp_path, solved, cell):
    run = shutil.copytree(runs / "gru-1", tmp_path / "run")
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["solved_at"] = solved
    if solved is None:
        del metrics["solved_at"]
    (run / "metrics.json").write_text(json.dumps(seal(metrics)))
    records.collect([run], tmp_path / "record")
    (row,) = rows_of(tmp_path / "record" / "results.csv")
    assert row["solved_at"] == cell


@pytest.fixture
def labels_row(runs, tmp_path):
    """(row, metrics) of a run that is scored by character, whose characters depend on each other."""
    run = shutil.copytree(runs / "gru-1", tmp_path / "labels")
    metrics = json.loads((run / "metrics.json").read_text())
    basis = {"unit": "sequence", "units": 50, "count": 2_000, "n_effective": 100.0, "design_effect": 20.0}
    for split in ("val", "test"):
        for result in metrics[split].values():
            result |= {"token_acc": 0.5, "loss": 0.7, "exact_match": 0.0, "n_examples": 50, "n_scored": 2_000}
            result |= {"intervals": {"token_acc": [0.404, 0.596]}, "interval_basis": {"token_acc": basis}}
    metrics |= {"primary": "token_acc", "final_test": metrics["test"]["best"]}
    for point in metrics["length_curve"]:
        point |= {"value": 0.5, "ci": [0.404, 0.596], "count": 2_000, "n_effective": 100.0}
    (run / "metrics.json").write_text(json.dumps(seal(metrics)))
    records.collect([run], tmp_path / "record")
    return rows_of(tmp_path / "record" / "results.csv")[0], metrics


def test_a_row_has_the_interval_over_sequences_and_the_one_over_independent_items(labels_row):
    row, metrics = labels_row
    assert (row["interval_of"], row["interval_units"], row["design_effect"]) == ("test sampling", "50 x sequence", "20")
    beyond = metrics["length_curve"][-1]["length"]
    for prefix in ("", f"at_{beyond}_"):
        assert (row[f"{prefix}low"], row[f"{prefix}high"]) == ("0.404", "0.596")
        ends = [float(row[f"{prefix}{end}_if_independent"]) for end in ("low", "high")]
        assert ends == pytest.approx(wilson(1_000, 2_000), rel=1e-5)


def test_a_run_of_another_version_is_refused(runs, tmp_path, capsys):
    run = shutil.copytree(runs / "gru-1", tmp_path / "old")
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(seal({**metrics, "schema": 1})))
    code, out, err = call(capsys, "collect", tmp_path / "record", run)
    assert (code, out, len(err)) == (2, [], 1)
    assert "schema: got 1, allowed: 2; these metrics belong to another version" in err[0]
    assert not (tmp_path / "record").exists()


def test_the_flags_of_a_row_repeat_the_run(runs, record):
    """Those typed, without task, model, seed and folder, which have columns of their own or none."""
    from src.setup.plan import plan

    row = rows_of(record / "results.csv")[0]
    command = [
        "--preset",
        row["preset"],
        "--task",
        row["task"],
        "--model",
        row["model"],
        *row["flags"].split(),
        "--seed",
        row["seed"],
    ]
    setup, _ = plan(command)
    assert "--lr 0.01" in row["flags"]
    stored = json.loads((runs / "gru-1" / "config.json").read_text())
    assert (setup.config()["explicit"], setup.preset) == (stored["explicit"], stored["preset"])


def test_runs_of_one_machine_share_its_entry(record):
    machines = json.loads((record / "env.json").read_text())
    assert {row["machine"] for row in rows_of(record / "results.csv")} == machines.keys()
    assert len(machines) == 1


def test_runs_of_two_machines_have_an_entry_each(runs, tmp_path):
    shutil.copytree(runs / "gru-1", tmp_path / "here")
    shutil.copytree(runs / "gru-2", tmp_path / "there")
    env = json.loads((tmp_path / "there" / "env.json").read_text())
    env["versions"]["torch"] = "another"
    (tmp_path / "there" / "env.json").write_text(json.dumps(seal(env)))
    records.collect([tmp_path / "here", tmp_path / "there"], tmp_path / "record")
    first, second = (row["machine"] for row in rows_of(tmp_path / "record" / "results.csv"))
    machines = json.loads((tmp_path / "record" / "env.json").read_text())
    assert first != second
    assert machines[second]["versions"]["torch"] == "another"


FIGURES = [
    "loss",
    "distance_curve",
    "length_curve",
    *(pytest.param(n, marks=pytest.mark.slow) for n in ("ppl", "depth")),
]


@pytest.mark.parametrize("figure", FIGURES)
def test_redraw_gives_the_figure_that_the_run_drew(runs, copied, figure):
    """Alike to the eye: rounding to six digits may move the shade of single pixels."""
    (copied / "figures.csv").write_text(f"figure,draws,run,label\nmine,{figure},gru-1,\n")
    (path,) = records.redraw(copied)
    assert path == copied / "figures" / "mine.png"
    ours, theirs = matplotlib.image.imread(path), matplotlib.image.imread(runs / "gru-1" / "figures" / f"{figure}.png")
    assert ours.shape == theirs.shape
    assert np.mean(np.abs(ours - theirs).max(axis=-1) > 0.05) < 1e-3
    assert np.mean(ours[..., :3].min(axis=-1) < 0.9) > 5e-3  # not an empty sheet


def test_a_figure_of_two_runs_has_a_line_for_each_label(copied, monkeypatch):
    seen = []
    monkeypatch.setattr(run_figures, "overlay", lambda runs, folder: seen.append([label for label, _ in runs]) or [])
    (copied / "figures.csv").write_text("figure,draws,run,label\nboth,loss,gru-2,second\nboth,loss,gru-1,\n")
    with pytest.raises(records.UserError, match="draws 'loss'"):
        records.redraw(copied)
    assert seen == [["second", "gru-1"]]


REFERENCE = "run,step,train_loss,val_loss,note\nother-1,0,,3.0,x\nother-1,3,2.5,2.75,x\nother-2,0,,3.1,x\n"


def test_losses_of_another_program_are_laid_over_the_runs(copied, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        run_figures, "figure_losses", lambda groups, title: seen.update(groups) or figure_losses(groups)
    )
    (copied / "reference.csv").write_text(REFERENCE)
    rows = [("gru-1", "ours"), ("gru-2", "ours"), ("other-1", "theirs"), ("other-2", "theirs")]
    (copied / "figures.csv").write_text(
        "figure,draws,run,label\n" + "".join(f"both,losses,{run},{label}\n" for run, label in rows)
    )
    assert records.redraw(copied) == [copied / "figures" / "both.png"]
    assert matplotlib.image.imread(copied / "figures" / "both.png").shape[0] > 100
    assert [run["task"] for run in seen["ours"]] == ["needle", "needle"]
    assert seen["theirs"] == [{"train": [(3, 2.5)], "val": [(0, 3.0), (3, 2.75)]}, {"train": [], "val": [(0, 3.1)]}]


def test_runs_of_one_label_share_their_look_and_one_legend_entry():
    first, second = ({"train": [[1, 2.0]], "val": [[1, value], [2, 1.0]]} for value in (2.5, 2.25))
    (ax,) = figure_losses({"ours": [first, second], "theirs": [second]}).axes
    shown = [line for line in ax.lines if line.get_marker() not in ("", "None")]
    assert [line.get_ydata()[0] for line in shown] == [2.5, 2.25, 2.25]
    assert shown[0].get_color() == shown[1].get_color() != shown[2].get_color()
    words = [text.get_text() for text in ax.figure.legends[0].get_texts()] if ax.figure.legends else []
    words = words or [text.get_text() for text in ax.get_legend().get_texts()]
    assert words == ["ours: validation", "theirs: validation", "thin: training, single batches"]


def test_only_the_figure_of_losses_shows_another_program(copied, capsys):
    (copied / "reference.csv").write_text(REFERENCE)
    (copied / "figures.csv").write_text("figure,draws,run,label\nmine,loss,other-1,\n")
    code, _, (line,) = call(capsys, "redraw", copied)
    assert (code, "got run 'other-1', allowed: gru-1, gru-2" in line) == (2, True)


@pytest.mark.parametrize("damage", [("3,2.5", "3,soon"), ("val_loss", "loss"), ("3,2.5,", "3,")])
def test_a_damaged_reference_is_one_line_and_exit_code_2(copied, capsys, damage):
    (copied / "reference.csv").write_text(REFERENCE.replace(*damage))
    (copied / "figures.csv").write_text("figure,draws,run,label\nmine,losses,other-1,\n")
    code, out, err = call(capsys, "redraw", copied)
    assert (code, out, len(err)) == (2, [], 1)
    assert "reference.csv" in err[0]


def test_without_a_list_every_figure_is_drawn(copied):
    assert {"loss.png", "length_curve.png"} <= {path.name for path in records.redraw(copied)}


@pytest.mark.parametrize("n", [1, 99, 100, 101, 2000])
def test_a_thinned_curve_keeps_its_ends_and_the_best_step(n):
    points = [[step, 1.0 / (step + 1)] for step in range(n)]
    best = n // 3 + 1 if n > 2 else 0
    thin = records._thinned(points, lambda point: point[0] == best)
    assert len(thin) <= records.POINTS + 1
    assert thin[0] == points[0]
    assert thin[-1] == points[-1]
    assert points[best] in thin
    assert len(thin) == n or n > records.POINTS


def test_a_run_that_diverged_is_a_row_without_a_score(tmp_path):
    import benchmark

    words = ["--task", "needle", "--model", "gru", *TINY, "--lr", "100", "--min_lr", "100", "--weight_decay", "10"]
    words += ["--grad_clip", "0", "--warmup_steps", "0", "--max_steps", "40", "--out_dir", str(tmp_path / "run")]
    assert benchmark.main(words) == 3
    records.collect([tmp_path / "run"], tmp_path / "record")
    (row,) = rows_of(tmp_path / "record" / "results.csv")
    assert (row["status"], row["value"], row["scaled"]) == ("diverged", "", "0")
    assert 1 <= int(row["diverged_at"]) <= 40
    assert "loss.png" in {path.name for path in records.redraw(tmp_path / "record")}


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    """A tiny finished run of `speed`, and its record."""
    import benchmark

    home = tmp_path_factory.mktemp("speed")
    words = [
        "speed",
        "--model",
        "gru,lstm",
        "--panel",
        "train",
        "--lengths",
        "16,32",
        "--d_model",
        "16",
        "--n_layer",
        "1",
        "--batch_tokens",
        "64",
    ]
    words += [
        "--cell_seconds",
        "0.05",
        "--threads",
        "1",
        "--precision",
        "fp32",
        "--quiet",
        "--out_dir",
        str(home / "run"),
    ]
    assert benchmark.main(words) == 0
    records.collect([home / "run"], home / "record")
    return home


@pytest.mark.slow
def test_a_record_of_speed_has_a_row_per_number(panel):
    history = json.loads((panel / "run" / "history.json").read_text())
    rows = rows_of(panel / "record" / "results.csv")
    assert [(row["model"], row["metric"]) for row in rows] == [(row["model"], row["metric"]) for row in history["rows"]]
    kept = [float(row["value"]) for row in rows if row["value"]]
    assert kept == pytest.approx([row["value"] for row in history["rows"] if row["value"] is not None], rel=1e-5)
    stored = json.loads((panel / "record" / "panel.json").read_text())
    assert len(stored["fits"]) == len(history["fits"]) > 0
    assert stored["run"]["command"].startswith("python ")
    assert "--out_dir" not in stored["run"]["command"]


@pytest.mark.slow
def test_redraw_gives_the_panel_that_speed_drew(panel):
    drawn = {path.name for path in records.redraw(panel / "record")}
    assert drawn == {path.name for path in (panel / "run" / "figures").iterdir()}
    ours, theirs = (matplotlib.image.imread(panel / where / "figures" / "train.png") for where in ("record", "run"))
    assert ours.shape == theirs.shape
    assert np.mean(np.abs(ours - theirs).max(axis=-1) > 0.05) < 1e-3


DAMAGE = {
    "a cell of text for a number": ("results.csv", lambda text: text.replace(",done,", ",done,x", 1)),
    "a row that was cut": ("results.csv", lambda text: text[: len(text) - 40]),
    "a column that is gone": ("results.csv", lambda text: text.replace("best_step", "best", 1)),
    "an open quote": ("results.csv", lambda text: text + '"gru-3'),
    "no rows": ("results.csv", lambda text: text.splitlines(keepends=True)[0]),
    "a run without curves": ("results.csv", lambda text: text.replace("gru-2,", "gru-3,", 1)),
    "curves that are no JSON": ("curves.json", lambda text: text[:-100]),
    "curves without a loss": ("curves.json", lambda text: text.replace("loss_curve", "loss", 1)),
    "a figure of an unknown run": ("figures.csv", lambda text: text.replace("gru-1", "gru-9")),
    "a figure that is not drawn": ("figures.csv", lambda text: text.replace(",loss,", ",lose,")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_line_and_exit_code_2(copied, capsys, damage):
    (copied / "figures.csv").write_text("figure,draws,run,label\nmine,loss,gru-1,\n")
    name, change = DAMAGE[damage]
    text = (copied / name).read_text()
    assert change(text) != text
    (copied / name).write_text(change(text))
    code, out, err = call(capsys, "redraw", copied)
    assert (code, out, len(err)) == (2, [], 1)
    assert name in err[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "required"),
        (["draw", "x"], "draw"),
        (["collect", "x"], "RUN"),
        (["collect", "x", "nowhere"], "nowhere"),
        (["redraw", "nowhere"], "nowhere"),
        (["redraw", "x", "--fast"], "--fast"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(capsys, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, *arguments)
    assert (code, out, len(err)) == (2, [], 1)
    assert said in err[0]
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_run_is_refused(runs, tmp_path, capsys):
    shutil.copytree(runs / "gru-1", tmp_path / "gru-1")
    (tmp_path / "gru-1" / "metrics.json").unlink()
    code, _, err = call(capsys, "collect", tmp_path / "record", tmp_path / "gru-1")
    assert (code, len(err)) == (2, 1)
    assert "not finished" in err[0]
    assert not (tmp_path / "record").exists()


def test_two_runs_of_one_name_are_refused(runs, tmp_path, capsys):
    shutil.copytree(runs / "gru-1", tmp_path / "gru-1")
    code, _, err = call(capsys, "collect", tmp_path / "record", runs / "gru-1", tmp_path / "gru-1")
    assert (code, len(err)) == (2, 1)
    assert "two runs are named 'gru-1'" in err[0]


@pytest.mark.slow
def test_runs_and_speed_do_not_share_a_record(runs, panel, record, capsys):
    for arguments in (
        [record, panel / "run"],
        [panel / "record", runs / "gru-1"],
        [panel / "new", panel / "run", runs / "gru-1"],
    ):
        code, _, err = call(capsys, "collect", *arguments)
        assert (code, len(err)) == (2, 1)


# The records of this project


def test_the_records_are_there():
    assert {"defaults", "epochs", "findings", "main", "recipe", "speed-four", "speed-six"} <= set(FOLDERS)
    assert {name for name in FOLDERS if name.startswith("speed")} == set(SCRIPTS)


def test_all_records_together_stay_short():
    listed = subprocess.run(["git", "ls-files", "runs/records"], capture_output=True, text=True, cwd=ROOT)
    if listed.returncode:
        pytest.skip("not a git checkout")
    texts = [
        ROOT / name for name in listed.stdout.splitlines() if not name.endswith(".png") and (ROOT / name).is_file()
    ]
    lines = sum(path.read_bytes().count(b"\n") for path in texts)
    assert 0 < lines <= MOST_LINES


@pytest.mark.parametrize("name", [n if n == "main" else pytest.param(n, marks=pytest.mark.slow) for n in WITH_FIGURES])
def test_the_figures_of_a_record_are_redrawn_from_what_is_committed(name, tmp_path):
    folder = shutil.copytree(RECORDS / name, tmp_path / name, ignore=shutil.ignore_patterns("figures"))
    drawn = {path.name for path in records.redraw(folder)}
    assert drawn == {path.name for path in (RECORDS / name / "figures").iterdir()} != set()


def test_redraw_needs_no_torch(tmp_path):
    folder = shutil.copytree(RECORDS / "main", tmp_path / "main", ignore=shutil.ignore_patterns("figures"))
    code = "import sys; sys.modules['torch'] = None; from src.study.records import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "redraw", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert (folder / "figures" / "distance_curve.png").is_file()


# Plays python for a script: notes what is called, and makes the folder of a record.
STAND_IN = """#!/usr/bin/env bash
set -euo pipefail
echo "$@" >> calls
if [ "$3" = collect ]; then mkdir -p "$4"; fi
"""


def files_of(folder) -> dict:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.skipif(not shutil.which("bash"), reason="the scripts are for bash")
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_writes_under_runs_remade_and_changes_no_record(name, tmp_path):
    """A script used to write into tracked files."""
    home = tmp_path / "runs" / "records"
    shutil.copytree(RECORDS, home, ignore=shutil.ignore_patterns("figures"))
    stand_in = tmp_path / "stand_in"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    before = files_of(home)
    done = subprocess.run(
        ["bash", f"runs/records/{name}/run.sh"],
        cwd=tmp_path,
        env={**os.environ, "PYTHON": str(stand_in)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert files_of(home) == before
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"records", "remade"}
    calls = [call.split() for call in (tmp_path / "calls").read_text().splitlines()]
    assert [call[4:] for call in calls if "collect" in call] == [[f"runs/remade/{name}/run"]]
    assert [call[:2] for call in calls if "--out_dir" in call] == [["benchmark.py", "speed"]]
