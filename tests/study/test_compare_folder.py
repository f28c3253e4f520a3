"""The folder of a comparison: what it refuses, what it keeps, and real runs in it.

python -m pytest tests/study/test_compare_folder.py
"""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from planted_runs import SMALL, carried_out, cells_of, done

from src.commands import compare
from src.flags.fields import UserError
from src.storage.files import seal, write_json
from src.study.comparison import folder
from src.study.comparison.campaign import Campaign
from src.study.comparison.folder import Folder
from src.study.comparison.tables import MACHINE

TINY = (*SMALL, "--model", "gru", "template", "--lr", "3e-3", "--seeds", "2", "--quiet")


def listing(path):
    return sorted(str(p.relative_to(path)) for p in path.rglob("*"))


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ({"args": {}, "kind": "train"}, "holds results of `train`"),
        ({"args": {}}, "holds a training run"),
        ({"kind": "speed", "settings": {}}, "holds results of `speed`"),
    ],
)
def test_a_folder_of_something_else_is_refused_and_untouched(tmp_path, stored, said):
    write_json(tmp_path / "config.json", seal(stored))
    before = listing(tmp_path)
    with pytest.raises(UserError, match=said):
        Folder(str(tmp_path)).check()
    assert listing(tmp_path) == before


def test_a_wrong_folder_of_reuse_is_one_line(tmp_path):
    with pytest.raises(UserError, match="--reuse: got"):
        Folder(str(tmp_path / "new")).check([str(tmp_path)])


def test_wrong_input_and_plan_write_nothing(tmp_path, capsys):
    target = tmp_path / "new"
    assert compare.main([*TINY, "--out_dir", str(target), "--plan"]) == 0
    assert "comparison: 1 task x 2 models" in capsys.readouterr().out
    with pytest.raises(UserError):
        compare.main([*TINY, "--out_dir", str(target), "--set", "pos=rope"])
    assert not target.exists()


def test_two_comparisons_in_one_folder_are_refused(tmp_path):
    first, second = Folder(str(tmp_path / "c")), Folder(str(tmp_path / "c"))
    first.acquire()
    try:
        with pytest.raises(UserError, match="in use by process"):
            second.acquire()
    finally:
        first.dir.release()


def test_tables_of_another_plan_do_not_outlive_it(tmp_path):
    asked, cells = cells_of("gru")
    place = Folder(str(tmp_path))
    place.begin(asked.comparison.settings_json(), cells, [], "compare")
    (tmp_path / "verdicts.json").write_text("{}")
    place.begin(asked.comparison.settings_json(), cells, [], "compare")
    assert (tmp_path / "verdicts.json").exists()
    place.begin({**asked.comparison.settings_json(), "seeds": [11]}, cells, [], "compare")
    assert not (tmp_path / "verdicts.json").exists()


def test_finished_runs_are_found_and_reused_and_only_new_ones_run(monkeypatch, tmp_path):
    """Folders with a metrics.json count as finished; what `verified` reads from them is planted."""
    asked, cells = cells_of("gru", typed=("--lr", "3e-3"))
    first, jobs = carried_out(monkeypatch, asked, cells, tmp_path / "a", lambda run: done(0.9))
    for run, _ in first.runs():
        (tmp_path / "a" / run.folder).mkdir(parents=True)
        (tmp_path / "a" / run.folder / "metrics.json").write_text("{}")
    assert len(jobs) == 3
    monkeypatch.setattr("src.study.comparison.campaign.verified", lambda path: done(0.9))

    class NoEngine:
        jobs = ()

        def submit(self, jobs):
            self.jobs = (*self.jobs, *jobs)

        def outcomes(self):
            return iter(())

    same, engine = Campaign(asked.comparison, cells, tmp_path / "a"), NoEngine()
    assert [outcome for _, _, outcome in same.run(engine)] == [None] * 3
    assert engine.jobs == ()
    more_asked, more_cells = cells_of("gru", typed=("--lr", "3e-3", "--seeds", "5"))
    more, engine = Campaign(more_asked.comparison, more_cells, tmp_path / "b", [str(tmp_path / "a")]), NoEngine()
    assert len(list(more.run(engine))) == 3
    assert len(engine.jobs) == 2
    assert sorted(p.name for p in (tmp_path / "b" / "runs").iterdir()) == sorted(r.name for r, _ in first.runs())


def test_a_damaged_run_in_the_folder_is_one_line_that_names_it(tmp_path, monkeypatch):
    asked, cells = cells_of("gru", typed=("--lr", "3e-3"))
    campaign = Campaign(asked.comparison, cells, tmp_path)
    run = campaign.report(campaign.groups[0])[0]
    (tmp_path / run.folder).mkdir(parents=True)
    (tmp_path / run.folder / "metrics.json").write_text("{")
    (tmp_path / run.folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=run.name):
        list(campaign.run(None))


@pytest.mark.slow
def test_a_real_comparison_is_killed_and_goes_on_to_the_same_tables(tmp_path):
    """Equal tables but for the columns of the machine, and the same command again runs nothing."""
    command = [sys.executable, str(ROOT / "benchmark.py"), "compare", *TINY]

    def tables(path):
        with open(path / "results.csv", newline="") as file:
            return [{k: v for k, v in row.items() if k not in MACHINE} for row in csv.DictReader(file)]

    assert subprocess.run([*command, "--out_dir", str(tmp_path / "whole")]).returncode == 0
    killed = tmp_path / "killed"
    for sign in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen([*command, "--out_dir", str(killed)])
        deadline = time.monotonic() + 120
        wanted = len(list(killed.glob("runs/*/config.json"))) + 1
        while len(list(killed.glob("runs/*/config.json"))) < wanted and process.poll() is None:
            assert time.monotonic() < deadline, "no run began"
            time.sleep(0.05)
        process.send_signal(sign)
        process.wait(timeout=120)
    deadline = time.monotonic() + 30
    while subprocess.run([*command, "--out_dir", str(killed)]).returncode == 2:  # workers of the killed one end first
        assert time.monotonic() < deadline
    assert tables(killed) == tables(tmp_path / "whole")
    for name in ("summary.csv", "verdicts.json"):
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    times = {p: p.stat().st_mtime_ns for p in killed.glob("runs/*/metrics.json")}
    assert len(times) == 4
    assert subprocess.run([*command, "--out_dir", str(killed)]).returncode == 0
    assert {p: p.stat().st_mtime_ns for p in killed.glob("runs/*/metrics.json")} == times


@pytest.mark.slow
def test_a_run_that_raises_is_a_hole_with_its_reason_and_exit_code_1(tmp_path):
    layer = tmp_path / "layer.py"
    text = (ROOT / "src/models/template.py").read_text()
    # It breaks in long trainings only: the gate and the trial step do not see it.
    layer.write_text(
        text.replace(
            "    def forward(self, x):",
            "    calls = 0\n\n    def forward(self, x):\n        type(self).calls += self.training\n"
            "        if type(self).calls > 400:\n            raise RuntimeError('broken after 400 calls')",
            1,
        )
    )
    out = tmp_path / "c"
    argv = [*SMALL[:2], "--max_steps", "400", *SMALL[4:], "--model", "gru", str(layer), "--lr", "3e-3", "--seeds", "2"]
    ended = subprocess.run(
        [sys.executable, str(ROOT / "benchmark.py"), "compare", *argv, "--quiet", "--out_dir", str(out)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 1, ended.stderr
    holes = json.loads((out / "verdicts.json").read_text())["holes"]
    assert {(h["model"], h["status"]) for h in holes} == {("layer", "failed")}
    assert "broken after 400 calls" in holes[0]["why"]
    assert "layer" in (out / "report.html").read_text()
    shutil.rmtree(out)


def test_kind_and_names_of_the_folder_are_those_of_the_command():
    assert folder.KIND == "compare"
    tables = {"results.csv", "results.jsonl", "summary.csv", "verdicts.json", "card.json", "report.html"}
    assert tables == set(folder.TABLES)
