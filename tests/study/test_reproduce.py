"""`reproduce`: a row runs again with its own command, and the answer is the one that the numbers call for.

python -m pytest tests/study/test_reproduce.py
"""

import contextlib
import csv
import io
import json
import shutil
import statistics
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, TINY
from engine_in_process import in_process

from src.figures import runs as run_figures
from src.flags.fields import UserError
from src.flags.hints import program
from src.flags.run_flags import to_dict
from src.setup.plan import plan
from src.storage.env import changed_files, open_env, write_env
from src.storage.files import open_sealed
from src.study import parts as processes
from src.study import records
from src.study import reproduce as reproducing
from src.study.plan import Part, TimeLeft
from src.study.sameness import (
    DIFFERENT,
    EXPERIMENT,
    FAILED,
    SAME,
    WITHIN,
    WITHIN_SAMPLING,
    _common_ops,
    compare,
    of_code,
    spread,
)

WORDS = ["--task", "needle", "--model", "gru", *TINY, "--device", "cpu", "--lr", "0.01", "--eval_lengths", "2x"]
TRAINING_RECORDS = sorted(path.parent.name for path in (ROOT / "runs/records").glob("*/curves.json"))


class Kept:
    """Puts a finished run in place instead of training it again, and remembers the row.

    home: where the finished runs are.  before: called with the number of the row; an exit code from it is the answer.
    """

    def __init__(self, home, before=lambda n: None):
        self.home, self.ran, self.before = home, [], before

    def __call__(self, words, quiet):
        folder = Path(words[words.index("--out_dir") + 1])
        self.ran.append(folder.name)
        code = self.before(len(self.ran))
        if code is None:
            shutil.copytree(self.home / folder.name, folder, dirs_exist_ok=True)
        return code or 0


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with the runs gru-1 and gru-2, their `record`, and `again`, in which gru-1 was reproduced.

    Also what the command printed.
    """
    import benchmark

    home = tmp_path_factory.mktemp("reproduce")
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.chdir(home)
        patch.setattr(run_figures, "draw_all", lambda *arguments: [])
        for seed in (1, 2):
            assert benchmark.main([*WORDS, "--seed", str(seed), "--out_dir", f"gru-{seed}"]) == 0
        records.collect(["gru-1", "gru-2"], "record")
        patch.setattr(processes, "one_by_one", in_process(lambda words, quiet: benchmark.main([*words, "--quiet"])))
        assert benchmark.main(["reproduce", "record", "--rows", "gru-1", "--out_dir", "again"]) == 0
    return home, out.getvalue()


@pytest.fixture
def place(made, main, monkeypatch):
    """A copy of record and answers as the working directory; `place.ran` are the rows that run, without training."""
    for name in ("record", "again"):
        shutil.copytree(made[0] / name, name)
    runner = Kept(made[0])
    monkeypatch.setattr(processes, "one_by_one", in_process(runner))
    return runner


def rows_of(folder) -> list[dict]:
    with open(Path(folder) / "results.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_rows(folder, rows) -> None:
    with open(Path(folder) / "results.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def plant(folder, scores, **changed) -> None:
    """A record whose seeds have these scores: the first row is gru-1, the others are copies of it."""
    first, curves = rows_of(folder)[0], json.loads((Path(folder) / "curves.json").read_text())
    write_rows(
        folder,
        [
            {**first, "run": f"gru-{seed}", "seed": str(seed), "value": str(score), **changed}
            for seed, score in enumerate(scores, 1)
        ],
    )
    (Path(folder) / "curves.json").write_text(
        json.dumps({f"gru-{n}": curves["gru-1"] for n in range(1, len(scores) + 1)})
    )


def files_below(folder) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def answer_of(folder, name="gru-1") -> dict:
    return next(row for row in open_sealed(Path(folder) / "answers.json")["rows"] if row["run"] == name)


def again(main, *more):
    return main("reproduce", "record", "--rows", "gru-1", "--out_dir", "again", *more)


def test_an_equal_run_is_the_same_bytes(made):
    home, out = made
    answer = answer_of(home / "again")
    assert (answer["answer"], answer["differs"]) == (SAME, [])
    assert answer["scores"][0]["score"] == "value"
    assert any(score["score"].startswith("at_") for score in answer["scores"])
    assert all(score["difference"] == 0 for score in answer["scores"])
    assert SAME in out
    assert out.splitlines()[-1] == "again"


def test_the_new_runs_are_a_record_of_their_own(made, capsys):
    home, _ = made
    old, new = rows_of(home / "record")[0], rows_of(home / "again")[0]
    assert [new[name] for name in ("run", "value", "test_loss", "seed")] == [
        old[name] for name in ("run", "value", "test_loss", "seed")
    ]
    assert reproducing.choose(home / "again").names == ["gru-1"]


def test_it_says_which_code_and_which_machine_both_sides_are_of(made):
    home, out = made
    commit = rows_of(home / "record")[0]["commit"]
    assert f"code: both are of commit {commit[:12]}" in out or not commit
    assert "machine: the same kind and versions" in out


def test_a_finished_row_is_not_run_again(place, main):
    assert again(main)[0] == 0
    assert place.ran == []


def test_a_row_that_was_kept_from_older_code_says_so(place, main, monkeypatch):
    monkeypatch.setattr(reproducing, "git_commit", lambda: ("f" * 40, False))
    path = Path("again/gru-1/env.json")
    write_env(path, {**open_env(path), "commit": "e" * 40})
    _, out, _ = again(main)
    assert f"kept: this run is of commit {'e' * 12}, the code is at {'f' * 12} now; --overwrite runs it again" in out
    assert place.ran == []


def test_overwrite_runs_a_finished_row_again(place, main):
    assert again(main, "--overwrite")[0] == 0
    assert place.ran == ["gru-1"]
    assert answer_of("again")["answer"] == SAME


def test_a_score_far_from_that_of_the_record_is_different_and_fails(place, main):
    plant("record", [0.9, 0.901, 0.902])
    code, out, _ = again(main)
    assert (code, answer_of("again")["answer"]) == (1, DIFFERENT)
    assert "not equal: value" in out


def test_a_score_among_those_of_other_seeds_is_within_their_spread(place, main):
    now = float(rows_of("record")[0]["value"])
    plant("record", [now + 0.02, now + 0.05, max(now - 0.03, 0)])
    code, out, _ = again(main)
    answer = answer_of("again")
    assert (code, answer["answer"], answer["differs"]) == (0, WITHIN, ["value"])
    assert answer["scores"][0]["seeds"] == 3
    assert answer["scores"][0]["difference"] == pytest.approx(-0.02)
    assert "spread of 3 seeds" in out


@pytest.mark.parametrize(("high", "expected", "exit_code"), [(1.0, WITHIN_SAMPLING, 0), (0.0, DIFFERENT, 1)])
def test_with_two_seeds_the_interval_of_test_sampling_decides(place, main, high, expected, exit_code):
    now = float(rows_of("record")[0]["value"])
    plant("record", [now + 0.02, now + 0.03], low=str(now - 0.01 if high else now + 0.01), high=str(now + 0.1))
    assert again(main)[0] == exit_code
    answer = answer_of("again")
    assert (answer["answer"], answer["scores"][0]["seeds"]) == (expected, 0)


def test_an_equal_score_with_another_loss_is_not_the_same_bytes(place, main):
    rows = rows_of("record")
    rows[0]["test_loss"] = "1.23456"
    write_rows("record", rows)
    assert again(main)[0] == 0
    assert answer_of("again")["answer"] == WITHIN
    assert answer_of("again")["differs"] == ["test_loss"]


@pytest.mark.parametrize("part", ["loss_curve", "length_curve", "slices"])
def test_another_curve_is_not_the_same_bytes(made, part):
    chosen = reproducing.choose(made[0] / "record", ["gru-1"])
    row, curves = chosen.rows[0], chosen.curves["gru-1"]
    assert compare(row, curves, row, curves, chosen.rows).answer == SAME
    changed = {**curves, part: {"train": [[1, 9.0]]} if part != "length_curve" else []}
    answer = compare(row, curves, row, changed, chosen.rows)
    assert (answer.answer, answer.differs) == (WITHIN, [part])


def test_a_run_that_diverged_on_one_side_only_is_different(made):
    chosen = reproducing.choose(made[0] / "record", ["gru-1"])
    row, curves = chosen.rows[0], chosen.curves["gru-1"]
    diverged = {**row, "status": "diverged", "value": ""}
    for pair in ((row, diverged), (diverged, row)):
        assert compare(pair[0], curves, pair[1], curves, chosen.rows).answer == DIFFERENT


def test_times_and_names_of_machines_are_not_compared(made):
    chosen = reproducing.choose(made[0] / "record", ["gru-1"])
    row, curves = chosen.rows[0], chosen.curves["gru-1"]
    elsewhere = {**row, "train_s": "99", "peak_mib": "1", "machine": "other", "commit": "0" * 40, "dirty": "yes"}
    assert compare(row, curves, elsewhere, curves, chosen.rows).answer == SAME


def test_an_op_that_an_older_record_does_not_name_is_no_difference_of_machines():
    assert _common_ops("attention: sdpa", "attention: sdpa, linear: eager") == ("attention: sdpa", "attention: sdpa")
    old, new = "a: x (training) + y (evaluation, step), b: z", "b: w, a: y"
    assert _common_ops(old, new) == ("a: x (training) + y (evaluation, step), b: z", "a: y, b: w")
    assert _common_ops(None, "linear: eager") == ("none", "none")


def test_the_spread_of_seeds_is_a_prediction_interval_that_holds_them_all():
    base = dict.fromkeys(EXPERIMENT, "x")
    values = [0.811925, 0.75045, 0.774975]
    rows = [{**base, "seed": str(n), "value": str(v)} for n, v in enumerate(values)]
    found = spread(rows, rows[0], "value")
    half = 4.302653 * statistics.stdev(values) * (1 + 1 / 3) ** 0.5  # Student's t, 2 degrees of freedom
    assert (found.low, found.high) == pytest.approx((statistics.mean(values) - half, statistics.mean(values) + half))
    many = [{**base, "seed": str(n), "value": str(v)} for n, v in enumerate([0.5] * 60 + [0.51] * 60 + [0.9])]
    assert spread(many, many[0], "value").high == 0.9
    other = [*rows[:2], {**rows[2], "flags": "--lr 1"}]
    assert spread(other, {**rows[0], "low": "0.8", "high": "0.82"}, "value").seeds == 0


def test_equal_seeds_have_no_spread_so_test_sampling_decides():
    row = {
        **dict.fromkeys(("task", "model", "preset", "flags", "metric"), "x"),
        "value": "1",
        "low": ".99",
        "high": "1",
    }
    found = spread([{**row, "seed": str(n)} for n in range(3)], row, "value")
    assert (found.seeds, found.low, found.high) == (0, 0.99, 1.0)


@pytest.mark.parametrize("name", TRAINING_RECORDS)
def test_each_row_of_a_committed_record_is_a_command_of_today(name, tmp_path):
    """With the precision, the threads and the seed of the record, whatever this machine would choose."""
    chosen = reproducing.choose(reproducing.find_record(name))
    home = tmp_path / "home"
    reproducing.Reproduction(chosen, home, True, None).check()
    assert not home.exists()
    row = chosen.rows[0]
    setup, _ = plan(list(reproducing.words_of(row, chosen.curves[row["run"]])))
    args = to_dict(setup.args)
    assert {key: str(args[key]) for key in ("task", "model", "seed", "precision", "threads")} == {
        key: row[key] for key in ("task", "model", "seed", "precision", "threads")
    }


def test_ctrl_c_leaves_finished_rows_and_the_same_command_goes_on(place, main, monkeypatch):
    def stop(n):
        if n == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(processes, "one_by_one", in_process(Kept(place.home, stop)))
    line = ("reproduce", "record", "--out_dir", "new")
    code, _, err = main(*line)
    assert code == 130
    assert f"continue with: python {program()} reproduce record --out_dir new" in err
    assert [row["run"] for row in open_sealed("new/answers.json")["rows"]] == ["gru-1"]
    kept = (Path("new") / "gru-1" / "metrics.json").read_bytes()
    monkeypatch.setattr(processes, "one_by_one", in_process(place))
    assert main(*line)[0] == 0
    assert place.ran == ["gru-2"]
    assert (Path("new") / "gru-1" / "metrics.json").read_bytes() == kept
    assert [row["answer"] for row in open_sealed("new/answers.json")["rows"]] == [SAME, SAME]


def test_a_row_whose_run_fails_is_named_and_the_next_one_follows(place, main, monkeypatch):
    monkeypatch.setattr(processes, "one_by_one", in_process(Kept(place.home, lambda n: 1 if n == 1 else None)))
    code, out, _ = main("reproduce", "record", "--out_dir", "new")
    assert code == 1
    assert [row["answer"] for row in open_sealed("new/answers.json")["rows"]] == [FAILED, SAME]
    assert "ended with exit code 1" in out


def test_a_folder_with_other_flags_is_refused(place, main):
    rows = rows_of("record")
    rows[0]["flags"] += " --weight_decay 0.5"
    write_rows("record", rows)
    before = files_below(".")
    code, _, err = again(main)
    assert code == 2
    assert "other flags" in err
    assert files_below(".") == before


def damage(name):
    """A way to break the record in the working directory."""

    def cut():
        text = Path("record/results.csv").read_text()
        Path("record/results.csv").write_text(text[: text.rindex(",done,")])

    def outside():
        curves = json.loads(Path("record/curves.json").read_text())
        Path("record/curves.json").write_text(json.dumps({"../gru": curves["gru-1"]}))
        write_rows("record", [{**rows_of("record")[0], "run": "../gru"}])

    def cells(**changed):
        return lambda: write_rows("record", [{**row, **changed} for row in rows_of("record")])

    ways = {
        "cut": cut,
        "twice": cells(run="gru-1"),
        "path": outside,
        "score": cells(value="0.8x"),
        "quote": cells(flags="--lr '0.01"),
        "flag": cells(flags="--lr 0.01 --wings 2"),
        "json": lambda: Path("record/curves.json").write_text("{"),
        "curves": lambda: Path("record/curves.json").write_text("{}"),
        "machines": lambda: Path("record/env.json").unlink(),
        "speed": lambda: shutil.copy(ROOT / "runs/records/speed-four/panel.json", "record"),
        "own": lambda: None,
    }
    return ways[name]


@pytest.mark.parametrize(
    ("way", "words", "expected"),
    [
        ("own", [], "got no record, allowed"),
        ("own", ["recrod"], "no such record"),
        ("own", ["mian"], "did you mean 'main'?"),
        ("own", ["record/results.csv"], "(a file), allowed: the folder of a record"),
        ("own", ["again/gru-1"], "a folder without results.csv"),
        ("own", ["record", "--rows", "gru-11"], "got 'gru-11', allowed: gru-1, gru-2; did you mean 'gru-1'?"),
        ("own", ["record", "--row", "gru-1"], "unknown flag --row"),
        ("own", ["record", "--out_dir", "record"], "holds a results.csv that `reproduce` did not write"),
        ("own", ["record", "--out_dir", "again/gru-1"], "holds a finished run"),
        ("speed", ["record"], "is a record of `speed`, and times are never the same bytes; measure them again with: "),
        ("cut", ["record"], "is damaged: not one cell per column"),
        ("twice", ["record"], "a name of its own for each run"),
        ("path", ["record"], "got run '../gru', allowed: a name of its own for each run, without slashes"),
        ("score", ["record"], "got value '0.8x', allowed: a number"),
        ("quote", ["record"], "No closing quotation"),
        ("flag", ["record"], "row 'gru-1': unknown flag --wings"),
        ("json", ["record"], "truncated or not JSON"),
        ("curves", ["record"], "run 'gru-1' is not in curves.json"),
        ("machines", ["record"], "env.json': no such file"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(place, main, way, words, expected):
    damage(way)()
    before = files_below(".")
    code, out, err = main("reproduce", *words)
    assert (code, out) == (2, ""), err
    assert expected in err
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert files_below(".") == before
    assert place.ran == []


def test_an_altered_run_is_refused_and_nothing_is_written(place, main):
    path = Path("again/gru-1/metrics.json")
    path.write_text(path.read_text().replace('"steps": 12', '"steps": 13'))
    before = files_below(".")
    code, _, err = again(main)
    assert code == 2
    assert "edited or damaged" in err
    assert files_below(".") == before


def git(folder, *words) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    done = subprocess.run(["git", "-C", str(folder), *who, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_changed_files_count_the_program_only(tmp_path):
    git(tmp_path, "init", "-q")
    commits = []
    for name in ("src/a.py", "README.md", "src/b.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
        git(tmp_path, "add", "-A")
        git(tmp_path, "commit", "-qm", "x")
        commits.append(git(tmp_path, "rev-parse", "HEAD"))
    first, text, code = commits
    assert (changed_files(first, text, tmp_path), changed_files(first, code, tmp_path)) == (0, 1)
    assert changed_files("0" * 40, code, tmp_path) is None


@pytest.mark.parametrize(
    ("n", "words"),
    [
        (0, "code: equal, though"),
        (1, "1 file of the program differs. Changed code is the first explanation"),
        (7, "7 files of the program differ. Changed code is the first explanation"),
        (None, "the history does not hold both. Changed code is the first explanation"),
    ],
)
def test_changed_code_is_said_in_words(monkeypatch, n, words):
    monkeypatch.setattr("src.study.sameness.changed_files", lambda old, new: n)
    line = of_code({"commit": "a" * 40, "dirty": "yes"}, {"commit": "b" * 40, "dirty": "no"})
    assert words in line
    assert "The record was made with uncommitted changes" in line


def test_a_part_that_a_signal_killed_is_named(tmp_path):
    work = processes.Parts(
        [Part("training", "a", (), 1.0, "needle", "a")], tmp_path, True, in_process(lambda words, quiet: -9)
    )
    work.run(TimeLeft(True))
    assert list(work.failed.values()) == ["training needle, a was killed by SIGKILL"]


def test_a_record_is_found_by_its_bare_name():
    assert reproducing.find_record("main") == ROOT / "runs/records/main"
    with pytest.raises(UserError, match="no such record"):
        reproducing.find_record("nothing")
