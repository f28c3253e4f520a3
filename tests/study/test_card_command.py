"""The command `card`: its plan, its refusals, its folder, and the page.

python -m pytest tests/study/test_card_command.py
"""

import dataclasses
import json
import re
from pathlib import Path
from unittest import mock

import pytest
from page_checks import problems
from planted_cards import SUITE, plant_folder, planted_card, planted_table, write_suite
from planted_comparison import Plan, plant
from planted_runs import PlantedEngine, done

from src.commands import card as command
from src.flags.fields import UserError
from src.storage.files import open_sealed, seal, write_json
from src.study.card import remake, runs, work
from src.study.card.baselines import path_of, write_table
from src.study.card.validity import VALID, Status
from src.study.comparison import campaign as campaigns
from src.study.comparison import cells, folder, verdicts
from src.study.page import write_report
from src.study.page.html import render
from src.study.page.reading import read

PUBLISHED = {
    "linear_attention": {"parity": ((0.1, 0.1),) * 3, "recall": (0.4, 0.42, 0.41)},
    "gru": {"parity": ((1.0, 0.9), (1.0, 0.92), (1.0, 0.9)), "recall": (0.2, 0.22, 0.21)},
}
LAYER = """
from torch import nn
from src.models.base import Mixer


class Mine(Mixer):
    def __init__(self, args):
        super().__init__()
        self.out = nn.Linear(args.d_model, args.d_model)

    def forward(self, x):
        return self.out(x{change})
"""
LEAKY = ".flip(1)"


def typed(folder_, *words):
    return ["--suite", str(folder_ / "tiny.toml"), "--model", "gru", "--no_cost", *words]


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """(suite, call): records are planted and valid, times are planted, and runs have the score 0.9 without training."""
    suite = write_suite(tmp_path)
    for label, values in PUBLISHED.items():
        write_table(suite.folder, planted_table(suite, label, values))

    def status(suite, tables, rows):
        return {
            (label, row.name): Status(VALID if label in tables else "missing", "no recorded runs")
            for label in suite.layers
            for row in rows
        }

    monkeypatch.setattr(work, "check_baselines", status)
    monkeypatch.setattr(cells, "measured", lambda ready, steps: (0.01, 0.1))
    monkeypatch.setattr(folder, "_run", run_planted)
    for place, name in ((folder, "draw"), (verdicts._Pair, "_items")):  # they read run directories, which are not there
        monkeypatch.setattr(place, name, lambda *_: None)
    return suite


def run_planted(campaign, control, workers, board):
    """In place of training. The page then says that the folders of the runs are not there."""
    results = {}

    def result(run):
        return results.setdefault(run.name, done(0.9 + run.seed / 1e4))

    with mock.patch.object(campaigns, "verified", lambda place: results[Path(place).name]):
        for _ in campaign.run(PlantedEngine(campaign, result)):
            pass


def test_wrong_words_are_one_line(main, tmp_path):
    write_suite(tmp_path)
    for words, said in (
        ((), "error: card: no --model given"),
        (("--suite", "cor", "--model", "gru"), "--suite: got 'cor', allowed: "),
        (("--suite", "tiny.toml", "--model", "grru"), "unknown model 'grru'"),
        (("--suite", "tiny.toml", "--model", "gru", "--seeds", "1"), "--seeds: got 1"),
        (("--suite", "tiny.toml", "--remake"), "--remake: needs --out_dir"),
        (("--suite", "tiny.toml", "--remake", "--collect", "R"), "contradict each other"),
        (
            ("--suite", "tiny.toml", "--remake", "--out_dir", "R", "--model", "mamba"),
            "allowed with --remake",
        ),
        (("--suite", "tiny.toml", "--collect", "nowhere"), "--collect: got 'nowhere'"),
        (("--suite", "tiny.toml", "--model", "gru", "--max_steps", "3"), "unknown flag --max_steps"),
        (("--suite", "tiny.toml", "--model", "gru", "--baselines", "nowhere"), "--baselines: got 'nowhere'"),
    ):
        code, out, err = main("card", *(words or ("--suite", "tiny.toml")))
        assert code == 2, words
        assert said in err, words
        assert len(err.strip().splitlines()) == 1, err
        assert out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.toml"]


@pytest.mark.parametrize("layer", ["grru", "mamba --d_stat 3", "mamba --d_state x"])
@pytest.mark.parametrize("words", [("--model", "gru", "--plan"), ("--remake", "--out_dir", "R"), ("--collect", ".")])
def test_a_wrong_layer_of_the_suite_is_one_line_before_anything_begins(main, tmp_path, layer, words):
    write_suite(tmp_path, SUITE.replace('"gru"]', f'"gru", "{layer}"]'))
    code, out, err = main("card", "--suite", "tiny.toml", *words)
    assert (code, out, len(err.strip().splitlines())) == (2, "", 1), err
    assert "suite tiny" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.toml"]


def test_an_edited_record_stops_the_command_before_anything_is_written(planted, main, tmp_path):
    path = path_of(planted.folder, "gru")
    path.write_text(path.read_text().replace("0.21", "0.99", 1))
    code, _, err = main("card", *typed(tmp_path, "--out_dir", "R"))
    assert code == 2
    assert re.fullmatch(r"error: baseline '.*gru\.json': was edited or damaged.*\n", err)
    assert not (tmp_path / "R").exists()


def test_a_layer_that_fails_the_gate_is_refused_in_one_line(planted, main, tmp_path):
    (tmp_path / "leaky.py").write_text(LAYER.format(change=LEAKY))
    words = ["--suite", "tiny.toml", "--model", "leaky.py", "--no_cost", "--out_dir", "R"]
    code, _, err = main("card", *words)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert "causal" in err
    assert not (tmp_path / "R").exists()


def test_a_layer_that_only_the_whole_check_refuses_is_named_with_the_check(tmp_path):
    failed = {"name": "gradients", "status": "fail"}
    asked = {"words": ["check", "--model", "x.py", "--json"]}
    found = {"mine": {"verdict": "fail", "results": [failed, {"name": "a", "status": "pass"}], "asked": asked}}
    with pytest.raises(UserError, match=r"'mine' fails the gate \(gradients\).*`benchmark.py check --model x.py`"):
        work._refuse_failed(found)
    with pytest.raises(UserError, match="cannot be checked: boom"):
        work._refuse_failed({"mine": {"verdict": "error", "error": "boom", "results": []}})
    work._refuse_failed({"mine": {"verdict": "pass", "results": []}})


def test_the_plan_names_runs_time_and_records_and_writes_nothing(planted, main, tmp_path):
    code, out, err = main("card", *typed(tmp_path, "--plan", "--out_dir", "R"))
    assert code == 0, err
    assert "comparison: 2 tasks x 1 model: 10 runs: 4 to choose learning rates (seed 1), 6 on seeds 11, 12, 13" in out
    assert "expected time: about" in out
    assert "note: records of 3 published layers on 2 rows: 4 valid, 0 stale, 2 missing" in out
    assert "note: missing: deltanet --neg_eigen on all rows (no recorded runs), not ranked" in out
    assert not (tmp_path / "R").exists()


def test_a_card_has_a_row_per_capability_a_rank_and_a_sentence(planted, main, tmp_path):
    code, out, err = main("card", *typed(tmp_path, "--out_dir", "R"))
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0].startswith("gru: solves 0 of 2 rows; over all rows it is nearest to linear_attention")
    assert lines[1].startswith("  parity  ")
    assert lines[-1] == "R"
    document = open_sealed(tmp_path / "R" / "card.json")
    assert document["published"] == ["linear_attention", "gru"]
    rows = {row["row"]: row for row in document["cards"][0]["rows"]}
    assert rows["recall"]["values"] == [pytest.approx(2 * (0.9 + seed / 1e4) - 1) for seed in (11, 12, 13)]
    assert rows["recall"]["rank"] == "1 of 2"  # its own record is none of the published layers here
    assert "rank 1 of 2  " in lines[2]
    text = (tmp_path / "R" / "report.html").read_text()
    assert problems(text) == []
    assert "Capability card of" in text


def test_the_same_command_continues_and_a_layer_can_be_added(planted, main, tmp_path):
    assert main("card", *typed(tmp_path, "--out_dir", "R"))[0] == 0
    first = (tmp_path / "R" / "card.json").read_bytes()
    assert main("card", *typed(tmp_path, "--out_dir", "R"))[0] == 0
    assert (tmp_path / "R" / "card.json").read_bytes() == first
    words = ["--suite", "tiny.toml", "--model", "gru", "linear_attention", "--no_cost", "--out_dir", "R"]
    assert main("card", *words)[0] == 0
    cards = open_sealed(tmp_path / "R" / "card.json")["cards"]
    assert [card["model"] for card in cards] == ["gru", "linear_attention"]


def test_another_plan_in_the_folder_removes_the_old_card(planted, main, tmp_path, monkeypatch):
    assert main("card", *typed(tmp_path, "--out_dir", "R"))[0] == 0

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(folder, "_run", interrupted)
    assert main("card", *typed(tmp_path, "--out_dir", "R", "--seeds", "4"))[0] == 130
    assert not (tmp_path / "R" / "card.json").exists()


def test_a_row_that_is_left_out_is_named_with_its_reason(planted, main, tmp_path, monkeypatch):
    why = "the text is not to be had here"
    monkeypatch.setattr(runs, "without_text", lambda suite, row: why if row.name == "recall" else "")
    code, out, err = main("card", *typed(tmp_path, "--out_dir", "R"))
    assert code == 0, err
    assert f"row recall is left out: {why}" in out
    assert "no score:" not in out


def test_an_interrupt_keeps_the_runs_and_names_the_command(planted, main, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(folder, "_run", interrupted)
    code, _, err = main("card", *typed(tmp_path, "--out_dir", "R"))
    assert code == 130
    assert "benchmark.py card --suite" in err
    assert not (tmp_path / "R" / "card.json").exists()


def test_cells_of_a_card_are_those_of_compare(tmp_path, monkeypatch):
    """The name of a run is the digest of what determines it, so a baseline and a card have the same runs."""
    from src.study.card.runs import prepare
    from src.study.comparison.cells import prepare_cells
    from src.study.comparison.digest import run_name
    from src.study.comparison.request import read as read_request

    monkeypatch.setattr(cells, "measured", lambda ready, steps: (0.01, 0.1))
    suite = write_suite(tmp_path)
    row = suite.row("recall")
    mine = prepare(suite, ["gru"], rows=[row]).cells
    asked = read_request(suite.words([row.task], ["gru"]))
    (theirs,) = prepare_cells(asked)
    assert run_name(mine[0], 0.003, 11) == run_name(theirs, 0.003, 11)
    assert mine[0].task == "recall"


def test_layers_of_a_remake_are_those_of_the_suite(tmp_path):
    suite = write_suite(tmp_path)
    assert remake.labels_of(suite, []) == suite.layers
    assert remake.labels_of(suite, ["gru,linear_attention"]) == ("linear_attention", "gru")
    assert remake.labels_of(suite, ["deltanet --neg_eigen"]) == ("deltanet --neg_eigen",)
    with pytest.raises(UserError, match="got 'deltanet', allowed"):
        remake.labels_of(suite, ["deltanet"])


def test_a_remake_of_more_seeds_than_are_finished_is_not_passed(planted, main, tmp_path):
    for row in planted.rows:
        plant_folder(tmp_path / "base", planted, row.name, "gru")
    words = ("card", "--suite", "tiny.toml", "--remake", "--model", "gru", "--out_dir", "base", "--plan", "--quiet")
    for seeds, missing in ((0, "0 of 2"), (4, "2 of 2")):
        code, _, err = main(*words, "--seeds", seeds)
        assert (code, f"{missing} comparisons are missing" in err) == (0, True), err


def test_help_names_every_flag():
    text = command.parser().format_help()
    for part in (command.CardConfig, command.CardControl):
        for f in dataclasses.fields(part):
            assert f"--{f.name}" in text or f"--no_{f.name}" in text


@pytest.mark.slow
def test_records_are_made_and_a_layer_is_then_equal_to_itself(main, tmp_path):
    """Real runs of six steps: --remake, a second time nothing, then the card of a published layer."""
    suite = write_suite(tmp_path, SUITE.replace('"deltanet --neg_eigen", ', ""))
    words = ["card", "--suite", "tiny.toml"]
    code, _, err = main(*words, "--remake", "--out_dir", "base", "--quiet")
    assert code == 0, err
    assert "4 of 4 comparisons are missing" in err
    code, _, err = main(*words, "--remake", "--out_dir", "base", "--quiet")
    assert (code, "0 of 4 comparisons are missing" in err) == (0, True)
    renamed = str(Path(__file__).parent / "sanity" / "renamed.py")  # gru under another name
    code, _, err = main(*words, "--model", renamed, "--no_cost", "--out_dir", "R", "--quiet")
    assert code == 0, err
    document = json.loads((tmp_path / "R" / "card.json").read_text())
    assert document["holes"] == []
    for row in document["cards"][0]["rows"]:
        differences = {found["layer"]: found["value"] for found in row["against"]}
        assert differences["gru"] == pytest.approx(0.0, abs=1e-5)  # a record holds six digits
        assert suite.row(row["row"]).says in row["sentence"]


# The page


@pytest.fixture
def shown(tmp_path):
    """A folder with a planted card; and its document."""
    suite = write_suite(tmp_path)
    ours = {"mine": {"parity": ((1.0, 0.1),) * 3, "recall": (0.7, 0.71, 0.7)}}
    statuses = {("gru", "recall"): Status("stale", "the data of the row changed")}
    document = planted_card(suite, ours, PUBLISHED, statuses, {"dyck": "no text"})
    place = plant(tmp_path / "S", Plan({("parity", "mine"): (1.0, 1.0, 1.0)}))
    write_json(place / "card.json", seal(document))
    return place, document


def words_of(text):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))


def test_the_page_has_the_card_on_top_with_what_is_not_ranked(shown):
    place, document = shown
    text = write_report([place]).read_text(encoding="utf-8")
    assert problems(text) == []
    words = words_of(text)
    assert text.index('<section id="card"') < text.index('<section id="answer"')
    assert "solves parity, fails beyond its training length" in words
    assert "gru on recall" in words
    assert "stale: the data of the row changed" in words
    assert "dyck : no text" in words
    for row in document["cards"][0]["rows"]:
        assert row["sentence"].split(";")[0] in words
    assert "nothing is compared" not in words  # the card does compare


def test_the_page_of_a_layer_without_a_score_and_of_a_published_one(shown, tmp_path):
    place, _ = shown
    ours = {"mine": {"parity": ("diverged",) * 3}, "none": {"recall": (None,) * 3}, "gru": PUBLISHED["gru"]}
    document = planted_card(write_suite(tmp_path), ours, PUBLISHED)
    write_json(place / "card.json", seal(document))
    text = render(read([place]))
    assert problems(text) == []
    words = words_of(text)
    assert "diverges on parity in every run" in words
    assert "has no score on any of the 2 rows that count" in words
    assert "gru minus gru" not in words
    assert "Capabilities of none" not in words
    assert [card.published for card in read([place]).cards] == [("linear_attention", "gru")] * 2 + [
        ("linear_attention",)
    ]


def test_a_card_with_hostile_names_is_shown_as_text(shown):
    place, document = shown
    document["cards"][0]["model"] = "<script>alert(1)</script>"
    document["cards"][0]["rows"][0]["sentence"] = "<img src=x onerror=alert(1)>" + "y" * 5_000
    document["cards"][0]["rows"][1]["value"] = "many"
    write_json(place / "card.json", seal(document))
    text = render(read([place]))
    assert problems(text) == []
    assert "<script>alert" not in text
    assert "<img" not in text


def test_an_edited_card_is_refused(shown):
    place, _ = shown
    path = place / "card.json"
    path.write_text(path.read_text().replace("solves", "masters"))
    with pytest.raises(UserError, match=r"card\.json' was edited or damaged"):
        read([place])


def test_the_campaign_of_a_card_has_rows_as_tasks(planted, main, tmp_path):
    assert main("card", *typed(tmp_path, "--out_dir", "R"))[0] == 0
    plan = open_sealed(tmp_path / "R" / "plan.json")
    assert [cell["task"] for cell in plan["cells"]] == ["parity", "recall"]
    settings = open_sealed(tmp_path / "R" / "config.json")["settings"]
    assert [task["label"] for task in settings["tasks"]] == ["parity", "recall"]
    assert campaigns.REPORT == "report"
