"""The claims of this project: well formed, their command lines can be read, their page is that of the record.

python -m pytest tests/claims/test_claim_table.py
"""

import json
import re

import pytest

from src.claims import known, panels, publish
from src.claims.baselines import of_baselines
from src.claims.contract import CONTRADICTED, FULL, NOT_RUN, QUICK, REPRODUCED, UNDECIDED
from src.claims.evidence import read, write
from src.claims.judge import judge
from src.claims.order import PUBLISHED, compared
from src.claims.page import page
from src.claims.rules import Same
from src.claims.runs import definition
from src.claims.table import CLAIMS, named
from src.flags.fields import UserError
from src.storage.files import seal
from src.study.card.baselines import SCHEMA
from src.study.card.suite import read_suite
from src.study.comparison import request

KEYS = [claim.key for claim in CLAIMS]
TRAINED = [(claim.key, t) for claim in CLAIMS for t in claim.trainings]


def test_there_are_enough_claims_and_two_compare_a_layer_with_itself():
    assert len(set(KEYS)) == len(KEYS) >= 16
    assert sum(isinstance(claim.rule[0], Same) for claim in CLAIMS) == 2


@pytest.mark.parametrize("key", KEYS)
def test_a_claim_has_a_source_a_rule_and_something_to_run(key):
    claim = named(key)
    assert claim.statement.endswith(".")
    assert claim.source
    assert claim.published
    assert all(part.words for part in claim.rule)
    assert bool(claim.trainings) != (claim.measure is not None)
    assert claim.predicted in (REPRODUCED, CONTRADICTED, UNDECIDED)
    assert 0 < claim.minutes <= 20


def test_all_claims_take_half_an_hour_in_the_quick_mode():
    from src.commands.claims import quick_share

    assert sum(claim.minutes * quick_share(claim) for claim in CLAIMS) <= 30


@pytest.mark.parametrize(("key", "training"), TRAINED, ids=[f"{k}-{t.name}" for k, t in TRAINED])
def test_the_command_line_of_a_claim_can_be_read(key, training):
    full, quick = (request.read(training.argv(mode)).comparison for mode in (FULL, QUICK))
    assert len(full.seeds) == training.seeds
    assert len(quick.seeds) == 1
    assert full.models == quick.models
    labels = {f"{m.label} {s.label}".strip() for m in full.models for s in full.settings}
    tasks = {task.label for task in full.tasks}
    for part in named(key).rule:
        mentioned = {*getattr(part, "better", ()), *getattr(part, "worse", ()), *getattr(part, "models", ())}
        mentioned |= {label for _, family in getattr(part, "families", ()) for label in family}
        assert mentioned <= labels
        assert {getattr(part, "task", ""), getattr(part, "other_task", "")} - {""} <= tasks


def test_half_of_the_steps_are_taken_in_the_quick_mode():
    training = named("recall_short_conv").trainings[0]
    words = training.argv(QUICK)
    assert words[words.index("--max_steps") + 1] == str(training.steps // 2)


def test_an_unknown_claim_is_one_line_with_a_suggestion(main):
    code, out, err = main("claims", "parity_dleta")
    assert (code, out) == (2, "")
    assert "did you mean 'parity_delta'?" in err
    assert len(err.splitlines()) == 1


def test_list_has_one_line_per_claim(main):
    code, out, _ = main("claims", "list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == KEYS
    assert main("claims", "list", "parity_delta")[0] == 2


def test_the_plan_says_its_time_and_writes_nothing(main, tmp_path):
    code, out, _ = main("claims", "parity_delta", "--plan")
    assert (code, list(tmp_path.iterdir())) == (0, [])
    assert re.match(r"1 claims? to run \(full\), about \d+:\d\d on two free cores\n  parity_delta: ", out)


def test_a_folder_that_cannot_be_written_is_one_line(main):
    code, out, err = main("claims", "parity_delta", "--out_dir", "/dev/null/claims")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "--out_dir: got '/dev/null/claims/full'" in err


# The record of this project


def test_the_page_is_that_of_the_record():
    """No number of docs/findings.md can differ from the evidence, and no claim can be absent."""
    text = publish.PAGE.read_text(encoding="utf-8")
    assert page(publish.on_record()) == text
    assert all(f"`claims {key}`" in text for key in KEYS)


def test_verdicts_on_record_follow_from_the_evidence():
    stored = json.loads((known.FOLDER / "verdicts.json").read_text(encoding="ascii"))["verdicts"]
    found = [json.loads(json.dumps(verdict.as_dict())) for _, _, verdict in publish.on_record()]
    assert found == stored


def test_a_page_with_another_number_is_not_that_of_the_record():
    table = publish.on_record()
    shown = next(verdict for _, _, verdict in table if verdict.word != NOT_RUN)
    assert page(table).replace(f"**{shown.word}**", "**other**", 1) != page(table)


@pytest.mark.parametrize("key", KEYS)
def test_evidence_on_record_is_of_what_the_claim_runs_today(key):
    path = known.FOLDER / f"{key}.json"
    if path.is_file():
        assert read(path, key).machine["definition"] == definition(named(key), FULL)
    else:
        assert named(key).stored or named(key).rows


def test_what_is_measured_is_part_of_the_definition(monkeypatch):
    claim = named("cost_exponents")
    before = definition(claim, FULL)
    assert before != definition(named("constant_state"), FULL)
    monkeypatch.setattr(panels, "BATCH", 3)
    assert definition(claim, FULL) != before


def test_older_records_are_evidence_and_say_so():
    evidence = known.on_record(named("parity_delta"), folder=known.FOLDER / "none", records=known.RECORDS)
    assert evidence.origin == known.OLDER
    assert {len(cell.seeds) for cell in evidence.cells} == {5}
    assert {"value", "at_160"} <= evidence.cells[0].measures.keys()
    assert any(item["measure"] == "value" for item in evidence.items)


COLUMNS = ["row", "seed", "lr", "metric", "value", "chance", "at_mean", "lengths", "steps", "parameters", "state_bytes"]


def baseline(folder, model, rows):
    """A table of the card with three seeds of each row."""
    name = re.sub(r"[^A-Za-z0-9_.]+", "-", model)
    runs = [
        [row, s, 0.003, "token_acc", v, 0.17, v - 0.1, f"16={v} 32=undefined 64={v}", 500, 9, 8]
        for row, v in rows
        for s in (11, 12, 13)
    ]
    rates = "0.001=0.5 0.003=0.9 0.01=0.7"
    table = {"run_columns": COLUMNS, "runs": runs, "row_columns": ["row", "lr", "tried", "commit", "processor"]}
    rows = [[row, 0.003, rates, f"0123 and {row}", "a CPU"] for row, _ in rows]
    about = {"schema": SCHEMA, "kind": "baseline", "suite": "core", "protocol": "", "probe": [], "flag_names": ""}
    document = {**about, "layer": model, **table, "rows": rows}
    (folder / f"{name}.json").write_text(json.dumps(seal(document)))


def test_the_baselines_of_the_card_are_evidence_where_they_hold_all_runs(tmp_path):
    claim = named("s3_state")
    rows = [(row, 0.9) for _, row in claim.rows]
    for model in claim.models[:-1]:
        baseline(tmp_path, model, rows)
    assert of_baselines(claim, tmp_path) is None
    baseline(tmp_path, claim.models[-1], rows[:1])
    assert of_baselines(claim, tmp_path) is None
    baseline(tmp_path, claim.models[-1], rows)
    evidence = of_baselines(claim, tmp_path)
    assert len(evidence.cells) == len(claim.models) * len(rows)
    assert evidence.cells[0].measures["at_mean"] == (0.8,) * 3
    assert evidence.cells[0].measures["at_32"] == (None,) * 3
    assert (evidence.cells[0].facts["lr"], evidence.cells[0].facts["at_edge"]) == (0.003, "no")
    assert evidence.machine["commits"] == sorted({"0123", *(row for row, _ in rows)})
    assert judge([(claim, evidence)])[0].seeds == 3
    path = tmp_path / "gru.json"
    path.write_text(path.read_text().replace("0.9", "0.8", 1))
    with pytest.raises(UserError, match=r"gru\.json"):
        of_baselines(claim, tmp_path)


@pytest.mark.parametrize("claim", [c for c in CLAIMS if c.rows], ids=lambda c: c.key)
def test_a_claim_that_reads_rows_of_the_suite_would_run_the_same(claim):
    suite = read_suite("core")
    for task, name in claim.rows:
        assert suite.row(name).task.name == task.split()[0]
        assert list(suite.row(name).task.flags) == task.split()[1:]
    (training,) = claim.trainings
    flags = [*suite.flags, "--match_params", str(suite.parameters)]
    assert {*flags} <= {*training.argv("full")}
    assert (training.rates, training.seeds) == (tuple(suite.rates), len(suite.seeds))
    assert {*claim.models} <= {*suite.layers}


def test_a_claim_without_rows_of_the_suite_reads_no_baselines(tmp_path):
    assert of_baselines(named("parity_delta"), tmp_path) is None


def test_an_evidence_file_keeps_its_content_and_an_edited_one_is_refused(tmp_path):
    claim, path = named("parity_delta"), tmp_path / "parity_delta.json"
    evidence = known.on_record(claim, folder=tmp_path)
    write(path, claim.key, evidence)
    again = read(path, claim.key)
    assert [v.word for v in judge([(claim, again)])] == [v.word for v in judge([(claim, evidence)])]
    assert known.on_record(claim, folder=tmp_path) == again
    path.write_text(path.read_text().replace("0.8161", "0.9161", 1))
    with pytest.raises(UserError, match=r"parity_delta\.json"):
        read(path, claim.key)


def test_evidence_of_another_claim_is_refused(tmp_path):
    claim = named("parity_delta")
    write(tmp_path / "x.json", claim.key, known.on_record(claim))
    with pytest.raises(UserError, match="no evidence of claim 's3_state'"):
        read(tmp_path / "x.json", "s3_state")


def test_the_order_of_the_frontier_is_compared_with_the_published_one():
    published = {name: [(*point, None, None) for point in line] for name, line in PUBLISHED.items()}
    assert "0 are level within 0.02, and 0 are reversed" in compared(published)
    turned = {name: [(b, 1 - s, None, None) for b, s in line] for name, line in PUBLISHED.items()}
    assert "0 have the same order here" in compared(turned)
    assert "share no number of bytes" in compared({"mamba": [(1, 0.1, None, None), (2, 0.2, None, None)]})
