"""The command `report`: its flags, its last line, its errors; and pages about runs that were really made.

python -m pytest tests/study/test_page_command.py
"""

import subprocess
import sys

import pytest
from conftest import ROOT, TINY
from page_checks import problems, visible
from planted_comparison import ENV, SAMPLES, Plan, invented, plant, plant_run, write_json

from src.flags import hints
from src.storage.files import seal
from src.study.page import check_target
from src.study.page.blocks import Column, Section, Table
from src.study.page.html import render
from src.study.page.reading import read
from src.study.page.runs import read_samples


@pytest.fixture
def run(tmp_path):
    return plant_run(tmp_path / "R", invented("needle", "gru", 11, 0.5), {"task": "needle", "model": "gru"})


def test_the_page_is_in_the_first_folder_and_the_last_line_says_so(main, run):
    code, out, err = main("report", "R")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("gru scores")
    assert lines[-1] == "R/report.html"
    assert problems((run / "report.html").read_text(encoding="utf-8")) == []
    assert main("report", "R", "--quiet") == (0, "R/report.html\n", "")


def test_out_names_the_page_and_its_folder_is_made(main, run, tmp_path):
    assert main("report", "R", "--out", "a/b.html", "--quiet") == (0, "a/b.html\n", "")
    assert (tmp_path / "a/b.html").is_file()
    assert not (run / "report.html").exists()


@pytest.mark.parametrize(("flag", "start"), [("--markdown", "- gru scores"), ("--latex", "% needs")])
def test_tables_are_printed_and_no_page_is_written(main, run, flag, start):
    code, out, err = main("report", "R", flag)
    assert (code, err) == (0, "")
    assert out.startswith(start)
    assert not (run / "report.html").exists()


def test_a_hole_is_a_notice(main, tmp_path):
    hole = {"task": "parity", "model": "gru", "setting": "", "seed": 12, "role": "report", "why": "killed by SIGKILL"}
    plant(tmp_path / "S", Plan({("parity", "gru"): (0.5,)}, (11, 12), [], [hole], rates=()))
    code, _, err = main("report", "S")
    assert code == 0
    assert err == "notice: gru on parity, seed 12: failed: killed by SIGKILL\n"


REFUSED = {
    "no folder": ([], "report: got no folder"),
    "no such folder": (["nowhere"], "'nowhere': no such folder"),
    "both formats": (["R", "--markdown", "--latex"], "--markdown and --latex contradict"),
    "out with tables": (["R", "--markdown", "--out", "x.html"], "--out: is the path of the page"),
    "out is a folder": (["R", "--out", "R"], "--out: got 'R', which is a folder"),
    "out is no page": (["R", "--out", "R/config.json"], "--out: got 'R/config.json', allowed: a path that ends with"),
    "out is another page": (["R", "--out", "mine.html"], "--out: 'mine.html' is a file that `report` did not write"),
    "unknown flag": (["R", "--markdwn"], "unknown flag --markdwn"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "start"), REFUSED.values(), ids=REFUSED)
def test_wrong_input_is_one_line_and_nothing_is_written(main, run, tmp_path, words, start):
    (tmp_path / "mine.html").write_text("<p>my own page</p>")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = main("report", *words)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {start}")
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unfinished_run_is_refused_by_name(main, run):
    (run / "metrics.json").unlink()
    code, _, err = main("report", "R")
    assert code == 2
    again = hints.resuming("R")
    assert err == f"error: R: not finished, it has no metrics.json yet; continue it with `{again}`\n"


def test_its_own_page_is_replaced(main, run):
    assert main("report", "R", "--quiet")[0] == 0
    first = (run / "report.html").read_bytes()
    check_target(run / "report.html")
    assert main("report", "R", "--quiet")[0] == 0
    assert (run / "report.html").read_bytes() == first


def test_the_command_imports_no_torch(run):
    probe = "import sys, benchmark; code = benchmark.main(sys.argv[1:]); sys.exit('torch' in sys.modules or code)"
    words = [sys.executable, "-c", probe, "report", str(run), "--quiet"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{run}/report.html\n", "")


@pytest.mark.slow
def test_a_real_run_becomes_a_page(main, tmp_path):
    more = ["--task", "copy", "--model", "gru", "--eval_lengths", "2x", "--max_steps", "5"]
    code, _, err = main(*TINY, *more, "--out_dir", "A")
    assert code == 0, err
    text = render(read([tmp_path / "A"]))
    words = visible(text)
    assert problems(text) == []
    figures = ("Learning: validation loss", "Reach: score against distance", "Generalisation: score against length")
    for expected in (*figures, "✗ wrong", "within 5 steps", "One model was run, so nothing is compared"):
        assert expected in words


LABELS = (
    "prompt    ab.a\nexpected  b  (at the labelled characters)\ngot       b\n\nprompt    x\nexpected  y\ngot       ·"
)
LABELS += "  (· is no character but a special token)\n"
CONTINUATIONS = "prompt\nTo be\n--- expected\n or not\n--- got (temperature 0.8)\n and\nbe\n"


@pytest.mark.parametrize(
    ("text", "samples"),
    [
        (SAMPLES, [("ab3>", "cba", "cba", True), ("xy2>", "yx", "yy", False)]),
        (LABELS, [("ab.a", "b", "b", True), ("x", "y", "·", False)]),
        (CONTINUATIONS, [("To be", " or not", " and\nbe", None)]),
        ("nothing that anybody knows\n\n\n", []),
    ],
    ids=["answers", "labels", "continuations", "unknown"],
)
def test_samples_are_right_or_wrong_or_neither(tmp_path, text, samples):
    (tmp_path / "samples.txt").write_text(text, encoding="utf-8")
    found = read_samples(tmp_path / "samples.txt")
    assert [(s.prompt, s.expected, s.got, s.is_right) for s in found] == samples


@pytest.mark.slow
def test_a_text_and_a_record_of_speed_become_a_page(main, tmp_path):
    (tmp_path / "book.txt").write_text("ROMEO: what light through yonder window breaks?\n" * 300)
    text = ["--task", "tiny_shakespeare", "--data_path", "book.txt", "--model", "gru"]
    assert main(*TINY, *text, "--out_dir", "A")[0] == 0
    small = "--lengths 16,32 --cell_seconds 0.01 --threads 1 --quiet --panel train,decode --batch_tokens 64".split()
    assert (
        main("speed", "--model", "gru,transformer", *small, "--d_model", "8", "--n_head", "1", "--out_dir", "B")[0] == 0
    )
    page = render(read(["A", "B"]))
    words = visible(page)
    assert problems(page) == []
    for expected in ("continuation", "Crossover lengths", "Made from 1 record of speed and 1 run."):
        assert expected in words


def test_a_study_becomes_verdicts_panels_and_runs(tmp_path):
    """Its trainings are read from the folders below it, and a part that leads out of it is not followed."""
    study, claim = tmp_path / "C", {"claim": "recall", "model": "gla", "baseline": "gru", "verdict": "no"}
    plant_run(study / "trainings" / "needle-gru", invented("needle", "gru", 11, 0.5), {"task": "needle"})
    plant_run(tmp_path / "elsewhere", invented("copy", "gru", 11, 0.5), {"task": "copy"})
    parts = {"trainings/needle-gru": [], "../elsewhere": [], "panels": []}
    history = {
        "kind": "study",
        "status": "done",
        "claims": [{**claim, "words": "0.1 lower"}],
        "parts": parts,
        "rows": [],
    }
    write_json(study / "history.json", seal({**history, "fits": [], "crossovers": []}))
    write_json(study / "config.json", seal({"schema": 1, "kind": "study", "settings": {}}))
    write_json(study / "env.json", ENV)
    document = read([study])
    assert [run.task for run in document.runs] == ["needle"]
    assert [(c.model, c.verdict, c.words) for c in document.claims] == [("gla", "no", "0.1 lower")]
    text = render(document)
    assert problems(text) == []
    assert "Claims of the study" in visible(text)


def lengths_section(document) -> list:
    rows = tuple((run.name, str(run.steps)) for run in document.runs)
    return [Table("step-counts", "Steps of each run", (Column("run"), Column("steps", "number")), rows)] if rows else []


def test_a_section_needs_one_file_and_one_line(run, monkeypatch):
    """It is in the contents, on the page and among the tables; where it has nothing to say, the page says why."""
    from src.study.page import html, plain

    planted = Section("counts", "Counted steps", lengths_section, "no run was given")
    for module in (html, plain):
        monkeypatch.setattr(module, "SECTIONS", (*module.SECTIONS, planted))
    text = render(read([run]))
    assert problems(text) == []
    assert '<a href="#counts">Counted steps</a>' in text
    assert "Steps of each run" in visible(text)
    assert "**Steps of each run**" in plain.markdown(read([run]))
    monkeypatch.setattr(
        html, "SECTIONS", (*html.SECTIONS[:-1], Section("c", "Nothing", lambda _: [], "there is nothing"))
    )
    assert "Nothing: there is nothing." in visible(render(read([run])))
