"""`claims` as a command: a planted claim is one file and one line, runs, continues, and is drawn and published.

python -m pytest tests/claims/test_claims_command.py
"""

import json
import shutil
import sys

import pytest
from engine_in_process import InProcess

from src.claims import baselines, known, publish, table
from src.claims.contract import FULL, QUICK, Evidence, Scores
from src.claims.evidence import read, write
from src.claims.runs import carry_out, definition
from src.flags.fields import UserError
from src.study import engines

PLANTED = '''
"""A claim of a reader: on very short words a layer is as good as itself with another width."""

from src.claims.contract import REPRODUCED, Claim, Trainings
from src.claims.rules import Ahead

FLAGS = "--task parity --context_len 8 --max_len 8 --min_len 2 --d_model 16 --n_layer 1 --batch_chars 256"
FLAGS += " --eval_every 6 --val_size 20 --test_size 20 --warmup_steps 2"
FLAGS += " --precision fp32 --preset small --match_params none"

CLAIM = Claim(
    key="planted",
    statement="A GRU is ahead of a template on parity.",
    source="a reader",
    published="nothing",
    rule=(Ahead(("gru",), ("template",), least=0.9),),
    predicted=REPRODUCED,
    minutes=1,
    trainings=(
        Trainings("pair", (*FLAGS.split(), "--model", "gru,template"), steps=12, seeds=2, rates=(0.003,)),
    ),
)
'''


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """The claim in a file of its own, with its line in the table."""
    (tmp_path / "planted_claim.py").write_text(PLANTED)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(table, "CLAIMS", (*table.CLAIMS, __import__("planted_claim").CLAIM))
    yield table.CLAIMS[-1]
    del sys.modules["planted_claim"]


@pytest.fixture
def runs(monkeypatch):
    """Runs in this process; the command lines that were run."""
    import benchmark

    ran = []

    def runner(words, quiet):
        ran.append(words)
        return benchmark.main([*words, "--quiet"])

    monkeypatch.setattr(engines, "make", lambda kind, home, **settings: InProcess(home, True, runner))
    monkeypatch.setattr("src.figures.runs.draw_all", lambda document, folder: [])
    monkeypatch.setattr("src.study.comparison.folder.draw", lambda path, campaign: None)
    monkeypatch.setattr("src.study.comparison.folder.write_report", lambda paths: None)
    return ran


def test_a_claim_is_one_file_and_one_line(planted, main, runs, tmp_path):
    """It is listed, run and judged; its trainings are ordinary runs; a finished claim is not run again."""
    assert "A GRU is ahead of a template on parity." in main("claims", "list")[1]
    code, out, err = main("claims", "planted", "--out_dir", "C")
    assert code == 0, err
    assert err.startswith("1 claim to run (full), about 1:00 on two free cores\n")
    verdict, folder = out.splitlines()
    assert verdict.startswith("planted: contradicted: gru against template: ")
    assert verdict.endswith("2 seeds, within 12 steps (p = " + verdict.rpartition("(p = ")[2])
    assert folder == "C/full"
    assert len(runs) == 4
    evidence = read(tmp_path / "C" / "full" / "planted" / "evidence.json", "planted")
    assert [(cell.model, cell.seeds) for cell in evidence.cells] == [("gru", (11, 12)), ("template", (11, 12))]
    stored = json.loads((tmp_path / "C" / "full" / "verdicts.json").read_text())["verdicts"]
    assert stored[0]["word"] == "contradicted"
    assert main("claims", "planted", "--out_dir", "C")[1] == out
    assert len(runs) == 4


def test_the_quick_mode_has_one_seed_half_the_steps_and_a_folder_of_its_own(planted, main, runs, tmp_path):
    code, out, err = main("claims", "planted", "--quick", "--out_dir", "C", "--quiet")
    assert (code, out) == (0, "C/quick\n"), err
    assert len(runs) == 2
    (verdict,) = json.loads((tmp_path / "C" / "quick" / "verdicts.json").read_text())["verdicts"]
    assert verdict["word"] == "points to nothing"  # ahead, and by less than the rule asks for
    assert verdict["steps"] == 6
    assert main("claims", "planted", "--quick", "--out_dir", "C")[1].endswith(
        "; full runs on record: not run\nC/quick\n"
    )


def test_a_claim_whose_run_failed_has_no_verdict(planted, main, runs, monkeypatch, tmp_path):
    monkeypatch.setattr(engines, "make", lambda kind, home, **settings: InProcess(home, True, lambda words, quiet: 1))
    folder = tmp_path / "C" / QUICK
    folder.mkdir(parents=True)
    with pytest.raises(UserError, match="a run of planted failed, see above"):
        carry_out(planted, folder, QUICK, 1)
    assert not (folder / "planted" / "evidence.json").exists()


def test_recorded_baselines_are_the_evidence_and_an_edited_one_stops_the_command(main, monkeypatch, tmp_path):
    """Nothing is run for a claim whose rows the card has on record, and the verdict says where they come from."""
    monkeypatch.setattr(baselines, "stale", lambda claim: "")
    monkeypatch.setattr("src.claims.runs.stale", lambda claim: "")
    code, out, err = main("claims", "s3_state", "--out_dir", "C")
    assert (code, err.splitlines()[0][:21]) == (0, "0 claims to run (full")
    assert out.splitlines()[0].endswith("after correction for 16 tests); baselines of the card")
    edited = tmp_path / "core"
    shutil.copytree(baselines.FOLDER, edited)
    (edited / "gru.json").write_text((edited / "gru.json").read_text().replace("0.99", "0.98", 1))
    monkeypatch.setattr(baselines.of_baselines, "__defaults__", (edited,))
    code, out, err = main("claims", "s3_state", "--out_dir", "D")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "gru.json" in err
    assert not (tmp_path / "D").exists()


def test_a_stale_baseline_is_run_anew(main, monkeypatch):
    monkeypatch.setattr("src.claims.runs.stale", lambda claim: "gru: the code changed")
    code, out, _ = main("claims", "s3_state", "--plan")
    assert (code, out.splitlines()[0][:20]) == (0, "1 claim to run (full")


@pytest.mark.slow  # it probes five layers
def test_the_baselines_of_the_card_are_valid_for_the_claim_that_reads_them():
    assert baselines.stale(table.named("s3_state")) == ""


# Into the record


def finished(folder, claim, mode=FULL, values=(0.2, 0.3)):
    cells = [
        Scores("parity", m, "", (11, 12), {"value": v}, {"steps": 12})
        for m, v in (("gru", values), ("template", (0.1, 0.1)))
    ]
    (folder / claim.key).mkdir(parents=True)
    machine = {"commits": ["0123456789"], "definition": definition(claim, mode)}
    write(folder / claim.key / "evidence.json", claim.key, Evidence(mode, "runs", tuple(cells), (), {}, machine))


@pytest.fixture
def record(tmp_path, monkeypatch, planted):
    """A record and a page of a project that has the planted claim alone."""
    monkeypatch.setattr(known, "FOLDER", tmp_path / "record")
    monkeypatch.setattr(known.on_record, "__defaults__", (tmp_path / "record", tmp_path))
    monkeypatch.setattr(publish, "PAGE", tmp_path / "findings.md")
    monkeypatch.setattr(publish, "CLAIMS", (planted,))
    return tmp_path / "record"


def test_what_is_finished_is_published(record, planted, tmp_path, capsys):
    finished(tmp_path / "full", planted)
    assert publish.main([str(tmp_path / "full")]) == 0
    assert "taken: planted" in capsys.readouterr().out
    text = (tmp_path / "findings.md").read_text()
    assert "| 1. A GRU is ahead of a template on parity. | **contradicted** |" in text
    assert "| `gru` | 0 | 0.200 0.300 |" in text
    assert (record / "figures" / "effects.png").is_file()
    assert publish.main([]) == 0
    assert (tmp_path / "findings.md").read_text() == text


def test_a_claim_without_runs_is_in_the_page(record, tmp_path):
    assert publish.main([]) == 0
    assert "| 1. A GRU is ahead of a template on parity. | not run |" in (tmp_path / "findings.md").read_text()


def test_runs_of_the_quick_mode_and_empty_folders_are_not_published(record, planted, tmp_path, capsys):
    finished(tmp_path / "quick", planted, QUICK)
    for folder, expected in (("quick", "got runs of the quick mode"), ("none", "a folder of `claims` with a finished")):
        assert publish.main([str(tmp_path / folder)]) == 2
        err = capsys.readouterr().err
        assert expected in err
        assert len(err.splitlines()) == 1
    assert not (tmp_path / "findings.md").exists()
