"""The records of published layers: stored, read, refused, and judged as valid or stale.

python -m pytest tests/study/test_card_records.py
"""

import dataclasses
import functools
import json
import shutil

import pytest
import torch
from planted_cards import ORIGIN, SUITE, plant_folder, planted_table, write_rows, write_suite

from src.flags.fields import UserError
from src.models import MODELS
from src.ops.linear_attention import chunked
from src.study.card import collect, suite, validity
from src.study.card.baselines import Found, path_of, read_table, read_tables, write_table
from src.study.card.collect import Remade, merged, store
from src.study.card.validity import data_of, expected_setup, flag_names, flags_digest, newer_flags, probe_of
from src.study.comparison.stored import read_rows
from src.utils import evaluation, results
from src.utils.training import Diverged, make_optimizer

MOST_LINES = 3_000  # of all records of a suite of this program
VALUES = {"parity": ((0.9, 0.5), (0.8, 0.4), (0.85, 0.45)), "recall": (0.5, 0.6, 0.55)}


@pytest.fixture
def stored(tmp_path):
    """(suite, folder with the record of gru)."""
    found = write_suite(tmp_path)
    write_table(found.folder, planted_table(found, "gru", VALUES))
    return found, found.folder


# Files


def test_a_record_is_read_as_it_was_written(stored):
    found, folder = stored
    table = read_tables(folder, found)["gru"]
    assert table == planted_table(found, "gru", VALUES)
    assert table.scores(found.row("parity"))[12].value == pytest.approx(0.6)
    assert list(read_tables(folder, found)) == ["gru"]


def test_each_run_is_one_line_and_the_record_names_no_path(stored):
    _, folder = stored
    text = path_of(folder, "gru").read_text()
    assert text.count('"parity", 1') == 3
    assert len(text.splitlines()) < 35
    assert "/" not in text


@pytest.mark.parametrize("old", ["0.85", '"done"', "4.1", '"seed"'])
def test_an_edited_record_is_refused_in_one_line(stored, old):
    found, folder = stored
    path = path_of(folder, "gru")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, old.replace(old[1], "9", 1) if old[0] == '"' else "0.99", 1))
    with pytest.raises(UserError, match=r"was edited or damaged.*`card --remake` makes it anew") as raised:
        read_tables(folder, found)
    assert "\n" not in str(raised.value)


def test_a_record_of_another_layer_or_suite_is_refused(stored):
    found, folder = stored
    shutil.copy(path_of(folder, "gru"), path_of(folder, "linear_attention"))
    with pytest.raises(UserError, match="got a table of 'gru' in suite 'tiny', allowed: 'linear_attention' in 'tiny'"):
        read_tables(folder, found)
    other = dataclasses.replace(found, name="other")
    with pytest.raises(UserError, match="allowed: 'gru' in 'other'"):
        read_table(path_of(folder, "gru"), "gru", other)


def test_rows_that_are_made_anew_replace_their_old_runs_and_the_others_stay_with_their_origin(stored):
    found, _ = stored
    old = planted_table(found, "gru", VALUES)
    new = planted_table(found, "gru", {"recall": (0.9, 0.9, 0.9)}, origin={**ORIGIN, "commit": "1" * 40})
    both, dropped = merged(found, old, new)
    assert (list(both.rows), dropped) == (["parity", "recall"], [])
    assert {score.value for score in both.scores(found.row("recall")).values()} == {0.9}
    assert both.scores(found.row("parity")) == old.scores(found.row("parity"))
    assert [row["commit"][0] for row in both.rows.values()] == ["0", "1"]


def test_rounding_of_the_probe_drops_no_row_and_does_not_add_up(stored):
    found, _ = stored
    old = planted_table(found, "gru", VALUES)
    new = planted_table(found, "gru", {"recall": (0.9, 0.9, 0.9)}, probe=(4.1 * (1 + 5e-4), 3.9))
    both, dropped = merged(found, old, new)
    assert (list(both.rows), both.probe, dropped) == (["parity", "recall"], old.probe, [])


def test_a_row_that_is_dropped_is_named_with_the_reason(stored):
    found, _ = stored
    old = planted_table(found, "gru", VALUES)
    new = planted_table(found, "gru", {"recall": (0.9, 0.9, 0.9)}, probe=(9.0, 9.0))
    assert merged(found, old, new) == (new, ["parity, gru: dropped from the record: the code changed"])
    new = dataclasses.replace(new, probe=old.probe, protocol="x")
    assert "another protocol" in merged(found, old, new)[1][0]
    shorter = dataclasses.replace(found, rows=found.rows[1:])
    assert "the suite has no such row" in merged(shorter, old, dataclasses.replace(new, protocol=old.protocol))[1][0]


def test_a_new_flag_at_its_default_drops_no_row_and_another_value_does(tmp_path):
    """The digest of an earlier row then covers the new flag too."""
    found = write_suite(tmp_path)
    setup = expected_setup(found, found.row("parity"), "gru")
    names = flag_names(setup)
    for new, kept in (("weight_decay", True), ("max_steps", False)):
        before = tuple(name for name in names if name != new)
        old = planted_table(found, "gru", {"parity": VALUES["parity"]}, names=before)
        old.rows["parity"]["flags"] = flags_digest(setup, before)
        both, dropped = merged(found, old, planted_table(found, "gru", {"recall": VALUES["recall"]}, names=names))
        assert ("parity" in both.rows, len(dropped)) == (kept, 1 - kept)
        assert not kept or both.rows["parity"]["flags"] == flags_digest(setup, names)


def test_the_records_of_this_program_are_short_sealed_and_complete():
    """Every suite of the program: each record can be read, names its rows, and all together have few lines."""
    for name in suite.names():
        found = suite.read_suite(name)
        tables = read_tables(found.folder, found)
        lines = sum(len(path.read_text().splitlines()) for path in found.folder.glob("*.json"))
        assert lines < MOST_LINES
        for table in tables.values():
            assert table.protocol == found.protocol_digest(), table.label
            assert set(table.rows) <= {row.name for row in found.rows}
            for row in table.rows:
                assert len(table.scores(found.row(row))) >= len(found.seeds), (table.label, row)


# Validity


def test_the_data_of_a_row_have_a_digest_that_a_flag_of_the_data_changes(tmp_path):
    first = write_suite(tmp_path)
    digests = {row.name: data_of(first, row).digest for row in first.rows}
    assert digests == {row.name: data_of(first, row).digest for row in first.rows}
    longer = write_suite(tmp_path, SUITE.replace("--eval_lengths 24 32", "--eval_lengths 24 40"))
    more = write_suite(tmp_path, SUITE.replace("--n_pairs 2", "--n_pairs 3"))
    assert data_of(longer, longer.row("parity")).digest != digests["parity"]
    assert data_of(longer, longer.row("parity")).examples == data_of(first, first.row("parity")).examples
    assert data_of(more, more.row("recall")).digest != digests["recall"]
    seeds = write_suite(tmp_path, SUITE.replace("seeds = [11, 12, 13]", "seeds = [12, 13, 14]"))
    assert data_of(seeds, seeds.row("recall")).digest != digests["recall"]


def test_the_digest_of_flags_does_not_depend_on_what_changes_from_run_to_run(tmp_path):
    found = write_suite(tmp_path)
    row = found.row("recall")
    setup = expected_setup(found, row, "gru")
    names = flag_names(setup)
    assert not {"lr", "seed", "threads", "device"} & set(names)
    assert {"max_steps", "match_params", "precision", "stop_at", "n_pairs"} <= set(names)
    digest = flags_digest(setup, names)
    for old, new, same in (
        ("rates = [0.003, 0.01]", "rates = [0.001, 0.01]", True),
        ("--max_steps 6 --batch_size 8\n\n", "--max_steps 7 --batch_size 8\n\n", True),
        (
            "recall --n_pairs 2 --context_len 12 --max_steps 6",
            "recall --n_pairs 2 --context_len 12 --max_steps 7",
            False,
        ),
        ("parameters = 20000", "parameters = 30000", False),
    ):
        changed = write_suite(tmp_path, SUITE.replace(old, new, 1))
        assert (flags_digest(expected_setup(changed, changed.row("recall"), "gru"), names) == digest) == same, new


def test_a_flag_that_is_newer_than_a_record_must_be_at_its_default(tmp_path):
    found = write_suite(tmp_path)
    setup = expected_setup(found, found.row("recall"), "gru")
    known = [name for name in flag_names(setup) if name not in ("rebind", "max_steps")]
    assert newer_flags(setup, flag_names(setup)) == []
    assert newer_flags(setup, known) == ["max_steps"]


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    """The probe of gru."""
    return probe_of(write_suite(tmp_path_factory.mktemp("probe")), "gru")


def test_the_probe_is_the_same_again_and_another_layer_has_another_one(tmp_path, probe):
    found = write_suite(tmp_path)
    assert len(probe) > validity.PROBE_LOSSES
    assert probe == pytest.approx(probe_of(found, "gru"), rel=1e-6)
    assert not validity.same_probe(probe, probe_of(found, "lstm"))


def without_states(steps, x, kept, order, carried=chunked._carried):
    """What is carried from chunk to chunk, lost on the way."""
    before, last = carried(steps, x, kept, order)
    return torch.zeros_like(before), last


def test_a_state_that_is_lost_between_chunks_changes_the_probe(tmp_path, monkeypatch):
    """A probe of sequences that fit into one chunk would not notice."""
    found = write_suite(tmp_path)
    before = probe_of(found, "linear_attention")
    monkeypatch.setattr(chunked, "_carried", without_states)
    assert not validity.same_probe(before, probe_of(found, "linear_attention"))


def all_right(*args, batches=evaluation._scored_batches):
    """Every scored character counts as right."""
    for scored in batches(*args):
        yield dataclasses.replace(scored, correct=scored.correct | True)


def raises(*args, **kwargs):
    raise ZeroDivisionError("planted")


@pytest.mark.parametrize(
    ("place", "name", "other"),
    [
        (evaluation, "_scored_batches", all_right),
        (results, "evaluate", raises),
        (results, "chance_levels", lambda data, examples: {"none": {"primary": 0.0}}),
        (results, "scaled", raises),
    ],
)
def test_another_scoring_makes_a_record_stale(tmp_path, monkeypatch, probe, place, name, other):
    found = write_suite(tmp_path)
    monkeypatch.setattr(place, name, other)
    table = planted_table(found, "gru", VALUES, probe=probe)
    assert validity.check_code(found, table).word == "stale"


def test_a_suite_may_give_its_batches_in_one_word(tmp_path):
    text = SUITE.replace(" --batch_size 8", "")
    one, two = (
        write_suite(tmp_path, text.replace("--n_layer 1", f"--n_layer 1 {words}"))
        for words in ("--batch_chars=256", "--batch_chars 256")
    )
    assert validity._probe_setup(one, "gru") == validity._probe_setup(two, "gru")


def test_a_layer_that_computes_something_else_has_another_probe(tmp_path, monkeypatch, probe):
    """Its output is 5 % too large."""
    found = write_suite(tmp_path)
    layer = MODELS["gru"].load()
    forward = layer.forward
    monkeypatch.setattr(layer, "forward", lambda self, x: 1.05 * forward(self, x))
    assert not validity.same_probe(probe, probe_of(found, "gru"))


def test_an_optimiser_that_steps_differently_changes_the_probe(tmp_path, monkeypatch, probe):
    found = write_suite(tmp_path)

    def other(model, args, device):
        made = make_optimizer(model, args, device)
        for group in made.param_groups:
            group["betas"] = (0.5, 0.999)
        return made

    monkeypatch.setattr(validity, "make_optimizer", other)
    assert not validity.same_probe(probe, probe_of(found, "gru"))


def test_rounding_does_not_change_the_probe():
    assert validity.same_probe((4.1, 3.9), (4.1 * (1 + 5e-4), 3.9))
    assert not validity.same_probe((4.1, 3.9), (4.1 * (1 + 2e-3), 3.9))
    assert not validity.same_probe((4.1, 3.9), (4.1,))
    losses = (4.0,) * validity.PROBE_LOSSES
    assert validity.same_probe((*losses, 0.25), (*losses, 0.26))
    assert not validity.same_probe((*losses, 0.25), (*losses, 0.28))
    assert validity.same_probe((*losses, None), (*losses, None))
    assert not validity.same_probe((*losses, None), (*losses, 0.0))


def valid_table(found, label="gru"):
    """A record with today's digests and probe."""
    table = planted_table(found, label, VALUES)
    names = tuple(sorted({name for row in found.rows for name in flag_names(expected_setup(found, row, label))}))
    rows = {
        row.name: {
            **table.rows[row.name],
            "data": validity.data_of(found, row).digest,
            "flags": flags_digest(expected_setup(found, row, label), names),
        }
        for row in found.rows
    }
    return dataclasses.replace(table, rows=rows, names=names, probe=validity.probe_of(found, label))


def test_each_reason_for_a_stale_record_is_named(tmp_path, monkeypatch):
    found = write_suite(tmp_path)
    monkeypatch.setattr(validity, "probe_of", lambda suite, label: (4.1, 4.0, 3.9))
    monkeypatch.setattr(validity, "data_of", functools.cache(validity.data_of))
    table = valid_table(found)

    def status(changed, row="recall", of=found):
        return validity.check_baselines(of, {"gru": changed}, of.rows)["gru", row]

    assert status(table).word == "valid"
    assert status(dataclasses.replace(table, probe=(9.0,) * 3)).why.startswith("the code changed: a probe gave 9.0000")
    assert "another protocol" in status(dataclasses.replace(table, protocol="x")).why
    rows = {**table.rows, "recall": {**table.rows["recall"], "data": "0" * 16}}
    assert status(dataclasses.replace(table, rows=rows)).why == "the data of the row changed"
    assert status(dataclasses.replace(table, rows=rows), "parity").word == "valid"
    rows = {"parity": table.rows["parity"]}
    assert status(dataclasses.replace(table, rows=rows)) == validity.Status("missing", "no recorded runs of this row")
    statuses = validity.check_baselines(found, {}, found.rows)
    assert {(s.word, s.why) for s in statuses.values()} == {("missing", "no recorded runs")}
    longer = write_suite(tmp_path, SUITE.replace("--context_len 12 --max_steps 6", "--context_len 12 --max_steps 9"))
    assert status(table, of=longer).why == "the flags of the row or of the layer changed"


# From folders of runs


@pytest.fixture
def root(tmp_path, monkeypatch):
    """(suite, folder of runs, folder of records). The data of a row are made once."""
    found = write_suite(tmp_path)
    known = {row.name: validity.RowData("0" * 16, "0" * 12) for row in found.rows}
    monkeypatch.setattr(collect, "data_of", lambda suite, row: known[row.name])
    return found, tmp_path / "runs", tmp_path / "records"


def planted_runs_of(root, **changed):
    """(the folders of runs, the row recall) after runs of gru were planted."""
    found, runs, records = root
    plant_folder(runs, found, "recall", "gru", **{"data": "0" * 12, **changed})
    return Remade(found, runs, records), found.row("recall")


def test_a_folder_that_is_not_begun_is_named_and_makes_no_record(root):
    tables, lines = Remade(*root).collect(["gru"])
    assert tables == []
    assert lines == ["parity, gru: not begun", "recall, gru: not begun"]


def test_runs_of_today_are_finished(root):
    made, row = planted_runs_of(root)
    assert made.is_finished(row, "gru")
    found = made.open(row, "gru")
    assert {name: found.facts[name] for name in ORIGIN} == ORIGIN


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"code": "f" * 64}, r"other code, which may compute something else \(the layer has no record\)"),
        ({"tuning_seed": 2}, "chosen on seed 2, the suite has 1"),
        ({"rates": (0.003, 0.02)}, r"\[0.003, 0.02\] were tried, the suite has \[0.003, 0.01\]"),
        ({"rates": (0.003, 0.01, 0.03)}, "were tried, the suite has"),
        ({"rates": (0.003,)}, "were tried, the suite has"),
        ({"data": "1" * 12}, "made with other data"),
        ({"seeds": (11, 12)}, "made without seed 13"),
    ],
)
def test_runs_that_the_suite_would_not_make_today_are_not_finished(root, changed, said):
    made, row = planted_runs_of(root, **changed)
    assert not made.is_finished(row, "gru")
    with pytest.raises(UserError, match=said):
        made.open(row, "gru")


def test_runs_at_a_rate_that_was_not_tried_are_not_finished(root):
    made, row = planted_runs_of(root)
    path = made.folder(row, "gru") / "results.jsonl"
    write_rows(path, [{**run, "lr": 0.5} if run["role"] == "report" else run for run in read_rows(path)])
    assert not made.is_finished(row, "gru")


def test_more_seeds_than_a_folder_has_are_to_be_run(root):
    found, runs, records = root
    _, row = planted_runs_of(root)
    assert not Remade(found, runs, records, seeds=5).is_finished(row, "gru")
    planted_runs_of(root, seeds=(11, 12, 13, 14, 15))
    assert Remade(found, runs, records, seeds=5).is_finished(row, "gru")
    assert Remade(found, runs, records).is_finished(row, "gru")


def test_other_code_is_accepted_only_where_a_record_shows_that_it_computes_the_same(root, monkeypatch):
    found, runs, records = root
    _, row = planted_runs_of(root, code="f" * 64)
    write_table(records, planted_table(found, "gru", {"parity": VALUES["parity"]}))
    for now, same in (((4.1, 3.9), True), ((4.1, 3.8), False)):
        monkeypatch.setattr(validity, "probe_of", lambda suite, label, now=now: now)
        monkeypatch.setattr(collect, "probe_of", lambda suite, label, now=now: now)
        assert Remade(found, runs, records).is_finished(row, "gru") == same
        assert len(Remade(found, runs, records).collect(["gru"])[0]) == same


def test_a_layer_whose_probe_diverges_is_named_and_makes_no_record(root, monkeypatch):
    def diverges(*args):
        raise Diverged("step 1")

    monkeypatch.setattr(validity, "train_step", diverges)
    made, _ = planted_runs_of(root)
    tables, lines = made.collect(["gru"])
    assert (tables, lines[-1]) == ([], "gru: a loss of its probe is not finite: step 1")


def test_rows_may_be_added_to_a_record_one_after_the_other(tmp_path, monkeypatch):
    """A record names the flags of all rows of the suite, so tables of single rows can be merged."""
    found = write_suite(tmp_path)
    monkeypatch.setattr(collect, "probe_of", lambda suite, label: (1.0,))
    data = {row.name: validity.RowData("0" * 16, "0" * 12) for row in found.rows}
    tables = []
    for row in found.rows:
        facts = {"row": row.name, "metric": "token_acc", "lr": 0.01, "tried": {}, **ORIGIN}
        tables.append(collect._table(found, "gru", {row.name: Found(facts, (), "")}, data))
    assert list(merged(found, *tables)[0].rows) == [row.name for row in found.rows]


def test_an_edited_record_does_not_stop_a_new_one_and_its_loss_is_named(stored):
    found, folder = stored
    path = path_of(folder, "gru")
    path.write_text(json.dumps({**json.loads(path.read_text()), "layer": "x"}))
    table = planted_table(found, "gru", VALUES)
    paths, lines = store(found, folder, [table])
    assert (paths, len(lines)) == ([path], 1)
    assert lines[0].startswith("gru: the earlier record is replaced: ")
    assert read_tables(folder, found) == {"gru": table}
