"""docs/field.md: the scores of the published layers, as they are on record.

python -m pytest tests/study/test_card_publish.py
"""

import pytest
from planted_cards import planted_table, write_suite

from src.study.card.baselines import read_tables
from src.study.card.publish import PAGE, main, page
from src.study.card.suite import read_suite

FAR = {"parity": ((0.9, 0.5), (0.8, 0.4), (0.85, 0.45)), "recall": (0.99, 0.98, 1.0)}
LOW = {"parity": ((0.2, 0.1), (0.2, 0.1), (0.25, 0.1)), "recall": (0.1, 0.12, 0.11)}


@pytest.fixture
def suite(tmp_path):
    return write_suite(tmp_path)


def lines_of(suite, **values) -> dict[str, list[str]]:
    """{layer: its cells in the table of scores}."""
    tables = {label: planted_table(suite, label, found) for label, found in values.items()}
    rows = [line.strip("| ").split(" | ") for line in page(suite, tables).splitlines() if line.startswith("| `")]
    return {cells[0].strip("`"): cells[1:] for cells in rows}


def test_the_page_is_that_of_the_record():
    suite = read_suite("core")
    text = page(suite, read_tables(suite.folder, suite))
    assert PAGE.read_text(encoding="utf-8") == text
    assert all(text.count(f"| `{label}` |") == 4 for label in suite.layers)
    assert " - |" not in text  # a hole


def test_another_score_is_another_page(suite):
    changed = {**LOW, "recall": (0.1, 0.12, 0.5)}
    assert lines_of(suite, gru=FAR, linear_attention=LOW) != lines_of(suite, gru=FAR, linear_attention=changed)


def test_a_layer_that_nobody_is_ahead_of_is_marked(suite):
    found = lines_of(suite, gru=FAR, linear_attention=LOW)
    assert found["gru"][1] == "0.99 [0.96, 1.00] *"
    assert [cell.endswith(" *") for cell in found["gru"] + found["linear_attention"]] == [True, True, False, False]


def test_nothing_is_marked_where_no_difference_is_shown(suite):
    found = lines_of(suite, gru=FAR, linear_attention=FAR)
    assert not any(cell.endswith("*") for cells in found.values() for cell in cells)


def test_a_row_without_runs_is_a_dash(suite):
    found = lines_of(suite, gru=FAR, linear_attention={"recall": LOW["recall"]})
    assert found["linear_attention"][0] == "-"
    assert found["gru"][0] != "-"


def test_an_unknown_flag_is_one_line(capsys):
    before = PAGE.read_bytes()
    assert main(["--nothing"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert PAGE.read_bytes() == before
