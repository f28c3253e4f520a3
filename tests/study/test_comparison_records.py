"""Records of comparisons: their report runs are rows, the rest is comparisons.json, and `reproduce` repeats them.

python -m pytest tests/study/test_comparison_records.py
"""

import csv
import json
import shutil
from pathlib import Path

import pytest
from conftest import bench
from engine_in_process import in_process
from planted_comparisons import CHOSEN, RATES, edit, plant, train

from src.figures import runs as run_figures
from src.setup.plan import plan
from src.storage.files import open_sealed
from src.study import parts as processes
from src.study import records
from src.study import reproduce as reproducing
from src.study.comparison.stored import open_stored, slug
from src.study.sameness import DIFFERENT, EXPERIMENT, SAME, spread

NAMES = ["eigen-gru-11", "eigen-gru-12", "eigen-lstm-n_layer-2-11", "eigen-lstm-n_layer-2-12"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_figures, "draw_all", lambda *arguments: [])
        return train(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def made(trained, tmp_path_factory):
    """A comparison `eigen`, and the `record` of it."""
    home = tmp_path_factory.mktemp("made")
    plant(home / "eigen", trained)
    records.collect([home / "eigen"], home / "record")
    return home


@pytest.fixture
def place(made, main, tmp_path):
    """Copies of both in the working directory."""
    for name in ("eigen", "record"):
        shutil.copytree(made / name, tmp_path / name)
    return tmp_path


def rows_of(folder) -> list[dict]:
    with open(Path(folder) / "results.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def collect(capsys, *arguments) -> tuple[int, str]:
    """`collect` in this process: (exit code, stderr)."""
    code = records.main(["collect", *map(str, arguments)])
    return code, capsys.readouterr().err


def test_runs_on_fresh_seeds_are_rows_and_those_of_the_tuning_seed_are_not(made):
    rows = rows_of(made / "record")
    assert [row["run"] for row in rows] == NAMES
    assert [row["seed"] for row in rows] == ["11", "12", "11", "12"]
    stored = open_stored(made / "eigen").runs
    for row in rows:
        metrics = json.loads((stored[row["run"]] / "metrics.json").read_text())
        assert float(row["value"]) == pytest.approx(metrics["final_test"][metrics["primary"]], rel=1e-5)


def test_a_row_is_the_command_of_its_run(made):
    row = rows_of(made / "record")[2]
    curves = json.loads((made / "record" / "curves.json").read_text())[row["run"]]
    setup, _ = plan(list(reproducing.words_of(row, curves)))
    assert (setup.args.model, setup.args.n_layer, setup.args.lr, setup.args.seed) == ("lstm", 2, 0.01, 11)


def test_the_record_keeps_rates_summary_and_verdicts(made):
    document = json.loads((made / "record" / "comparisons.json").read_text())
    assert list(document) == ["eigen"]
    eigen = document["eigen"]
    assert eigen["command"] == "python benchmark.py compare --task needle --model gru 'lstm --n_layer 2' --quiet"
    assert (eigen["seeds"], eigen["tuning_seed"], eigen["first"], eigen["holes"]) == ([11, 12], 1, "gru", [])
    tried = {(rate["model"], rate["lr"]): rate for rate in eigen["rates"]}
    assert tried.keys() == {(model, rate) for model in CHOSEN for rate in RATES}
    assert {key for key, rate in tried.items() if rate["chosen"]} == set(CHOSEN.items())
    assert (tried["gru", 0.01]["val_value"], tried["gru", 0.01]["val_loss"]) == (0.01, 0.99)
    assert [row["runs"] for row in eigen["summary"]] == [" ".join(NAMES[:2]), " ".join(NAMES[2:])]
    assert (eigen["summary"][0]["lr"], eigen["summary"][1]["at_edge"]) == (0.003, "yes")
    assert [pair["headline"] for pair in eigen["pairs"]] == [True, False]
    assert eigen["pairs"][0]["difference"] == 0.333333  # six digits
    assert "low" not in eigen["pairs"][0]  # nothing is known, so nothing is written


def test_the_record_is_a_short_file_with_a_line_per_rate_and_pair(made):
    text = (made / "record" / "comparisons.json").read_text()
    assert sum('"val_loss"' in line for line in text.splitlines()) == 6
    assert sum('"verdict"' in line for line in text.splitlines()) == 2
    assert str(made) not in text


def test_tasks_and_settings_are_in_the_names_where_there_are_several(trained, tmp_path):
    folder = plant(tmp_path / "two", trained, seeds=(11,), tasks=("needle", "copy"), settings=("lr=1", "lr=2"))
    names = list(open_stored(folder).runs)
    assert names[:3] == ["two-gru-lr-1-needle-11", "two-gru-lr-2-needle-11", "two-lstm-n_layer-2-lr-1-needle-11"]
    assert len(set(names)) == 8


def test_labels_that_give_one_name_are_told_apart(trained, tmp_path):
    folder = plant(tmp_path / "x", trained, seeds=(11,), settings=("a=1", "a 1", "A:1"))
    assert list(open_stored(folder).runs)[:3] == ["x-gru-a-1-11", "x-gru-a-1-2-11", "x-gru-A-1-3-11"]


@pytest.mark.parametrize(
    ("label", "expected"),
    [("deltanet --neg_eigen", "deltanet-neg_eigen"), ("gru --lr 0.1", "gru-lr-0.1"), ("../x/y", "x-y"), ("--", "x")],
)
def test_a_label_becomes_part_of_a_file_name(label, expected):
    assert slug(label) == expected


def test_runs_and_comparisons_share_a_record(made, trained, tmp_path):
    records.collect([trained["gru"], made / "eigen"], tmp_path / "record")
    assert [row["run"] for row in rows_of(tmp_path / "record")] == ["gru", *NAMES]


def test_a_record_of_runs_alone_keeps_no_comparisons_of_an_earlier_content(place, trained):
    records.collect([trained["gru"]], place / "record")
    assert not (place / "record" / "comparisons.json").exists()


def planned(folder):
    settings = json.loads((folder / "config.json").read_text())["settings"]
    edit(folder / "config.json", settings={**settings, "seeds": [11, 12, 13]})


def failed(folder):
    path = folder / "results.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[4] |= {"status": "failed", "why": "was killed by SIGKILL"}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def replaced(name, old, new):
    def change(folder):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return change


BROKEN = {
    "a planned run": (planned, "not finished: needle, gru, seed 13 has not run yet (1 more like it)"),
    "a failed run": (failed, "not finished: needle, gru, seed 12 failed: was killed by SIGKILL; run the same"),
    "no table yet": (lambda folder: (folder / "results.jsonl").unlink(), "no run has ended yet"),
    "a cut table": (lambda f: (f / "results.jsonl").write_text("{"), "results.jsonl' line 1 is damaged"),
    "a run that is gone": (lambda f: shutil.rmtree(next((f / "runs").iterdir())), "no such folder"),
    "an older summary": (replaced("summary.csv", "11 12", "11"), "is not of the seeds and models of config.json"),
    "edited verdicts": (replaced("verdicts.json", "better", "worse"), "was edited or damaged"),
    "no verdicts": (lambda folder: (folder / "verdicts.json").unlink(), "verdicts.json': no such file"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_an_unfinished_or_damaged_comparison_is_one_line(place, capsys, case):
    change, expected = BROKEN[case]
    change(place / "eigen")
    code, err = collect(capsys, "new", "eigen")
    assert (code, len(err.splitlines())) == (2, 1)
    assert expected in err
    assert not (place / "new").exists()


def test_two_comparisons_of_one_name_are_refused(place, capsys, trained):
    plant(place / "other" / "eigen", trained)
    code, err = collect(capsys, "new", "eigen", "other/eigen")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "two comparisons are named 'eigen'" in err


@pytest.mark.parametrize("what", ["record", "eigen"])
def test_reproduce_repeats_the_rows_of_a_record_and_of_a_comparison(place, main, monkeypatch, what):
    stored, ran = open_stored(place / "eigen").runs, []

    def put(words, quiet):
        folder = Path(words[words.index("--out_dir") + 1])
        ran.append((folder.name, plan(words)[0].args))
        shutil.copytree(stored[folder.name], folder, dirs_exist_ok=True)
        return 0

    monkeypatch.setattr(processes, "one_by_one", in_process(put))
    code, out, err = main("reproduce", what, "--rows", NAMES[1], NAMES[2], "--out_dir", "again")
    assert (code, out.splitlines()[-1]) == (0, "again"), err
    assert [(name, args.model, args.lr, args.seed) for name, args in ran] == [
        (NAMES[1], "gru", 0.003, 12),
        (NAMES[2], "lstm", 0.01, 11),
    ]
    answers = open_sealed(place / "again" / "answers.json")
    assert answers["record"] == what
    assert [row["answer"] for row in answers["rows"]] == [SAME, SAME]


def test_a_run_with_another_score_is_different(place, main, monkeypatch, trained):
    other = open_stored(plant(place / "changed" / "eigen", trained, score=lambda model, seed: 0.99)).runs

    def put(words, quiet):
        shutil.copytree(other[NAMES[0]], words[words.index("--out_dir") + 1], dirs_exist_ok=True)
        return 0

    monkeypatch.setattr(processes, "one_by_one", in_process(put))
    assert main("reproduce", "eigen", "--rows", NAMES[0], "--out_dir", "again")[0] == 1
    assert open_sealed(place / "again" / "answers.json")["rows"][0]["answer"] == DIFFERENT


def test_reproduce_of_an_unfinished_comparison_names_the_hole(place, main):
    planned(place / "eigen")
    code, out, err = main("reproduce", "eigen")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "needle, gru, seed 13 has not run yet" in err
    assert not (place / "runs").exists()


def test_reproduce_of_a_comparison_runs_the_users_own_file(place, main, monkeypatch):
    """In tables a user's file has its stem alone; the command needs its path."""
    (place / "my_layer.py").write_text("")
    for run in open_stored(place / "eigen").runs.values():
        config = json.loads((run / "config.json").read_text())
        edit(run / "config.json", args={**config["args"], "model": str(place / "my_layer.py")})
    chosen = reproducing.choose(place / "eigen", [NAMES[0]])
    assert str(place / "my_layer.py") in reproducing.words_of(chosen.row(NAMES[0]), chosen.curves[NAMES[0]])


def test_a_seed_that_two_comparisons_share_counts_once():
    base = dict.fromkeys(EXPERIMENT, "x")
    rows = [{**base, "seed": seed, "value": value} for seed, value in (("1", "0.5"), ("2", "0.7"), ("3", "0.6"))]
    once = spread(rows, rows[0], "value")
    assert (once.seeds, spread([*rows, *rows], rows[0], "value")) == (3, once)


@pytest.mark.slow
def test_a_real_comparison_becomes_a_record_and_is_reproduced(tmp_path):
    words = ["--task", "parity", "--model", "gru", "gru --n_layer 2", "--match_params", "none", "--seeds", "2"]
    sizes = ["--max_steps", "6", "--d_model", "8", "--max_len", "12", "--min_len", "2", "--val_size", "20"]
    made = bench(
        *("compare", *words, *sizes, "--test_size", "20", "--lr_extend", "0", "--eval_lengths", "2x", "--quiet"),
        *("--out_dir", tmp_path / "pair"),
        cwd=tmp_path,
    )
    assert made.returncode == 0, made.stderr
    records.collect([tmp_path / "pair"], tmp_path / "record")
    assert [row["run"] for row in rows_of(tmp_path / "record")] == [
        *("pair-gru-11", "pair-gru-12", "pair-gru-n_layer-2-11", "pair-gru-n_layer-2-12"),
    ]
    assert bench("reproduce", "pair", "--rows", "pair-gru-n_layer-2-12", "--quiet", cwd=tmp_path).returncode == 0
    answers = open_sealed(tmp_path / "runs" / "reproduced" / "pair" / "answers.json")
    assert [row["answer"] for row in answers["rows"]] == [SAME]
