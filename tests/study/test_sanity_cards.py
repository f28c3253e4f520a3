"""The cards of three layers that are known in advance, from recorded runs of the suite core.

python -m pytest tests/study/test_sanity_cards.py

The runs of the layers are beside their files (tests/card_records.py writes them), those of the published layers in
runs/records/core. `-m slow` makes the cards anew.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from card_records import card_of, tables_of
from conftest import ROOT

from src.study.card.baselines import read_tables, write_table
from src.study.card.suite import read_suite

FOLDER = Path(__file__).parent / "sanity"
LABELS = ("renamed", "no_erasure", "four_characters")
SAME = "no difference shown"
# Rows that no seven characters are enough for. The others may be solved in part from near context.
NEED_MORE = ("recall", "rebinding", "copy", "selective_copy", "induction", "needle", "parity", "s3")


def check_renamed(card: dict) -> None:
    """A published layer under another name differs from it nowhere."""
    assert {row["row"]: word_against(row, "gru") for row in card["rows"]} == {row["row"]: SAME for row in card["rows"]}
    assert card["nearest"] == "gru"


def check_no_erasure(card: dict) -> None:
    """Without erasure, the delta rule ranks with linear attention: no difference on most rows, and never DeltaNet's."""
    words = {row["row"]: word_against(row, "linear_attention") for row in card["rows"] if not row["control"]}
    differing = [name for name, word in words.items() if word != SAME]
    assert len(differing) <= len(words) // 3, words
    assert card["nearest"] in ("linear_attention", "retnet", "gla")


def check_four_characters(card: dict) -> None:
    """A layer that sees seven characters solves nothing that needs more."""
    for row in card["rows"]:
        if row["row"] in NEED_MORE:
            assert max(row["raw"]) < 0.95, row["row"]
            assert not row["sentence"].startswith("solves"), row["row"]


CHECKS = {"renamed": check_renamed, "no_erasure": check_no_erasure, "four_characters": check_four_characters}


def word_against(row: dict, label: str) -> str:
    """The verdict about this layer and a published one; empty where it is not ranked."""
    return next((found["word"] for found in row["against"] if found["layer"] == label), "")


def published():
    core = read_suite("core")
    return core, read_tables(core.folder, core)


@pytest.mark.parametrize("label", LABELS)
def test_a_layer_that_is_known_in_advance_has_the_card_that_is_expected(label):
    core, tables = published()
    if not (FOLDER / f"{label}.json").is_file() or not tables:
        pytest.skip("its runs, or those of the published layers, are not recorded yet")
    CHECKS[label](card_of(core, FOLDER / f"{label}.json", label, tables))


def row_of(name: str, words: dict, raw=(0.2, 0.2, 0.2), sentence: str = "does not learn it") -> dict:
    against = [{"layer": layer, "word": word} for layer, word in words.items()]
    return {"row": name, "control": False, "raw": list(raw), "sentence": sentence, "against": against}


@pytest.mark.parametrize(
    ("label", "card"),
    [
        ("renamed", {"nearest": "gru", "rows": [row_of("copy", {"gru": "ahead"})]}),
        ("renamed", {"nearest": "lstm", "rows": [row_of("copy", {"gru": SAME})]}),
        ("renamed", {"nearest": "gru", "rows": [row_of("copy", {})]}),
        ("no_erasure", {"nearest": "deltanet", "rows": [row_of("copy", {"linear_attention": SAME})]}),
        ("no_erasure", {"nearest": "gla", "rows": [row_of("copy", {"linear_attention": "ahead"})]}),
        ("four_characters", {"rows": [row_of("recall", {}, (0.2, 1.0, 0.2))]}),
    ],
)
def test_a_card_that_is_wrong_is_noticed(label, card):
    with pytest.raises(AssertionError):
        CHECKS[label](card)


def test_a_stored_layer_gives_the_card_of_its_runs(tmp_path):
    """From results.jsonl of a folder of `card` to a file, and back to a card."""
    from planted_cards import SUITE, planted_run, planted_table, write_rows, write_suite

    suite = write_suite(tmp_path, SUITE)
    rows = [
        {**planted_run("recall", seed, 0.5), "run": "x", "role": "report", "task": "recall", "model": "mine"}
        | {"setting": "", "why": "", "val_value": 0.5, "val_loss": 1.0}
        for seed in (11, 12, 13)
    ]
    write_rows(tmp_path / "results.jsonl", rows)
    (table,) = tables_of(tmp_path, suite)
    path = write_table(tmp_path, table)
    card = card_of(suite, path, "mine", {"gru": planted_table(suite, "gru", {"recall": (0.5, 0.5, 0.5)})})
    assert [row["row"] for row in card["rows"]] == ["recall"]
    assert word_against(card["rows"][0], "gru") == SAME


@pytest.mark.slow
def test_the_three_cards_are_as_expected_when_they_are_made_anew(tmp_path):
    """About an hour on two cores."""
    files = [str(FOLDER / f"{label}.py") for label in LABELS]
    command = [sys.executable, str(ROOT / "benchmark.py"), "card", "--model", *files, "--no_cost", "--quiet"]
    subprocess.run([*command, "--out_dir", str(tmp_path / "R")], check=True)
    core, tables = published()
    for table in tables_of(tmp_path / "R", core):
        CHECKS[table.label](card_of(core, write_table(tmp_path, table), table.label, tables))
