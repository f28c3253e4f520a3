"""The tables of docs/findings.md are those of the record, and a page cannot differ from its record unnoticed.

python -m pytest tests/study/test_findings.py
"""

import json
import re
import shlex

import pytest
from conftest import ROOT

from src.flags.fields import UserError
from src.study import findings, records
from src.study.comparison import request

PAGE = """# A page

Written by hand.

<!-- record: protocol -->
old
<!-- end -->

More by hand.

<!-- record: eigen -->
<!-- end -->

The end.
"""
EIGEN = """| layer | parameters | token_acc, seeds 11 to 13 | at length 160 | learning rate |
|---|---|---|---|---|
| `deltanet` | 101,376 | 0.830 diverged 0.801 | 0.583 diverged 0.575 | 0.003 |
| `deltanet --neg_eigen` | 101,376 | 1.000 1.000 0.999 | undefined | 0.01, at the edge |

- deltanet --neg_eigen is better than deltanet on grazzi-parity-mini, difference +0.185 [+0.150, +0.230] (p = 0.0079
  after correction for 2 tests)
- a note

```bash
python benchmark.py compare --preset grazzi-parity-mini --model deltanet 'deltanet --neg_eigen' --seeds 3 \\
  --lr 1e-3,3e-3,1e-2
```"""
PROTOCOL = """| comparison | steps | learning rates tried | tuning seed | seeds of the table |
|---|---|---|---|---|
| `eigen` | 1,400 | 0.001, 0.003, 0.01 | 1 | seeds 11 to 13 |"""
SCORES = {
    ("deltanet", "deltanet"): [("0.83", "0.583"), None, ("0.801", "0.575")],
    ("deltanet --neg_eigen", "deltanet-neg_eigen"): [("1", "undefined"), ("1", "undefined"), ("0.9994", "undefined")],
}


def summary_row(model: str, runs: list[str], **changed) -> dict:
    row = {"task": "grazzi-parity-mini", "model": model, "setting": "", "metric": "token_acc", "steps": 1400}
    row |= {"parameters": 101_376, "lr": 0.003, "lr_tried": "0.001 0.003 0.01", "at_edge": "no", "runs": " ".join(runs)}
    return {**row, "at_40": 0.8, "at_160": 0.5, **changed}


@pytest.fixture
def record(tmp_path):
    """A record with one comparison, `eigen`, of two layers and three seeds. One run diverged."""
    rows, summary = [], []
    for (model, stem), scores in SCORES.items():
        names = [f"eigen-{stem}-{seed}" for seed in (11, 12, 13)]
        for name, score in zip(names, scores, strict=True):
            value, beyond = score or ("", "")
            status = "done" if score else "diverged"
            rows.append({"run": name, "status": status, "value": value, "at_40": value, "at_160": beyond})
        summary.append(summary_row(model, names))
    summary[1] |= {"lr": 0.01, "at_edge": "yes", "at_160": "undefined"}
    words = "deltanet --neg_eigen is better than deltanet on grazzi-parity-mini, difference +0.185 [+0.150, +0.230] "
    pairs = [{"headline": True, "words": f"{words}(p = 0.0079 after correction for 2 tests)"}]
    pairs.append({"headline": False, "words": "exploratory"})
    command = (
        "python benchmark.py compare --preset grazzi-parity-mini --model deltanet 'deltanet --neg_eigen' --seeds 3"
    )
    eigen = {"command": f"{command} --lr 1e-3,3e-3,1e-2", "tuning_seed": 1, "seeds": [11, 12, 13], "summary": summary}
    eigen |= {"pairs": pairs, "notes": ["a note"]}
    columns = [*records.RUN_START, "at_40", "at_160", *records.RUN_END]
    (tmp_path / "record").mkdir()
    (tmp_path / "record" / "results.csv").write_bytes(records._to_csv(columns, rows))
    (tmp_path / "record" / "curves.json").write_text(json.dumps({row["run"]: {} for row in rows}))
    write(tmp_path / "record", {"eigen": eigen})
    return tmp_path / "record"


def write(record, document) -> None:
    (record / "comparisons.json").write_text(json.dumps(document))


def changed(record, change) -> None:
    """Apply a change to comparisons.json of a record."""
    document = json.loads((record / "comparisons.json").read_text())
    change(document["eigen"])
    write(record, document)


def block(text: str, name: str) -> str:
    return dict(findings.BLOCK.findall(text))[name].rstrip("\n")


def test_a_block_has_layers_scores_verdicts_rates_and_the_command(record):
    text = findings.rewritten(PAGE, findings.read_evidence(record))
    assert block(text, "eigen") == EIGEN
    assert block(text, "protocol") == PROTOCOL


def test_what_is_written_by_hand_stays(record):
    text = findings.rewritten(PAGE, findings.read_evidence(record))
    assert findings.BLOCK.sub("", text) == findings.BLOCK.sub("", PAGE)


def test_a_page_that_is_written_twice_is_the_same(record):
    evidence = findings.read_evidence(record)
    once = findings.rewritten(PAGE, evidence)
    assert findings.rewritten(once, evidence) == once != PAGE


@pytest.mark.parametrize("old", ["0.830", "101,376", "at the edge", "better", "1,400", "seeds 11 to 13"])
def test_a_page_with_another_number_or_word_differs_from_its_record(record, old):
    evidence = findings.read_evidence(record)
    text = findings.rewritten(PAGE, evidence)
    edited = text.replace(old, "other", 1)
    assert findings.rewritten(edited, evidence) == text != edited


def test_sentences_and_commands_are_broken_into_lines(record):
    changed(record, lambda eigen: eigen["pairs"][0].update(words="word " * 60))
    changed(record, lambda eigen: eigen.update(command="python benchmark.py compare" + " --flag value" * 30))
    text = block(findings.rewritten(PAGE, findings.read_evidence(record)), "eigen")
    assert max(map(len, text.splitlines())) <= findings.WIDTH
    command = text[text.index("```bash\n") + 8 : text.rindex("\n```")]
    assert shlex.split(command.replace("\\\n", "")) == shlex.split("python benchmark.py compare" + " --flag value" * 30)


def test_several_tasks_settings_and_lengths_have_columns_of_their_own(record):
    def change(eigen):
        eigen["summary"][1] |= {"task": "copy", "metric": "exact_match", "setting": "fair", "at_edge": "one rate"}
        del eigen["summary"][1]["at_160"]

    changed(record, change)
    header, _, first, second, *_ = block(findings.rewritten(PAGE, findings.read_evidence(record)), "eigen").splitlines()
    start = "| task | setting | metric | layer | parameters | score, seeds 11 to 13 | at the longest length |"
    assert header == f"{start} learning rate |"
    assert first.startswith("| grazzi-parity-mini |  | token_acc | `deltanet` |")
    assert "| 160: 0.583 diverged 0.575 |" in first
    assert second.startswith("| copy | fair | exact_match |")
    assert second.endswith("| 40: 1.000 1.000 0.999 | 0.01, not chosen |")


def test_a_comparison_without_lengths_has_no_such_column(record):
    def change(eigen):
        for row in eigen["summary"]:
            del row["at_40"], row["at_160"]

    changed(record, change)
    text = findings.rewritten(PAGE, findings.read_evidence(record))
    assert block(text, "eigen").startswith("| layer | parameters | token_acc, seeds 11 to 13 | learning rate |\n")


BAD_PAGES = {
    "no block": (lambda text: "nothing", "the page has no block"),
    "an unknown block": (lambda text: text.replace("eigen", "eign"), "block 'eign': got no such comparison, allowed: "),
    "a block without an end": (lambda text: text.replace("<!-- end -->\n\nThe", "The"), "a block has no end"),
}


@pytest.mark.parametrize("case", BAD_PAGES)
def test_a_page_with_wrong_blocks_is_one_line_and_stays(record, tmp_path, capsys, case):
    change, expected = BAD_PAGES[case]
    page = tmp_path / "page.md"
    page.write_text(change(PAGE))
    assert findings.main([str(record), str(page)]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert expected in err
    assert page.read_text() == change(PAGE)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda folder: (folder / "comparisons.json").unlink(), "a record that was collected of comparisons"),
        (lambda folder: write(folder, {"eigen": {}}), "comparisons.json' is damaged"),
        (lambda folder: write(folder, []), "comparisons.json' is damaged"),
        (lambda f: changed(f, lambda eigen: eigen["summary"][0].update(runs="a-1")), "run 'a-1' is missing"),
        (lambda folder: (folder / "results.csv").unlink(), "results.csv': cannot be read"),
    ],
)
def test_a_damaged_record_is_one_line(record, change, expected):
    change(record)
    with pytest.raises(UserError, match=re.escape(expected)) as error:
        findings.read_evidence(record)
    assert "\n" not in str(error.value)


def test_the_command_rewrites_a_page(record, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert findings.main([str(record), str(page)]) == 0
    assert capsys.readouterr().out == f"{page}\n"
    assert page.read_text() == findings.rewritten(PAGE, findings.read_evidence(record))


def test_the_page_is_that_of_the_record():
    text = findings.PAGE.read_text(encoding="utf-8")
    assert findings.rewritten(text, findings.read_evidence(findings.RECORD)) == text


def test_the_record_is_made_by_one_command_per_block_of_the_page():
    readme = (ROOT / "runs" / "records" / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^python benchmark\.py compare (.*)$", readme, flags=re.M)
    asked = [request.read(shlex.split(line)) for line in lines]
    blocks = [name for name, _ in findings.BLOCK.findall(findings.PAGE.read_text(encoding="utf-8"))]
    made = [one.control.out_dir for one in asked]
    assert ["protocol", *(folder.removeprefix("runs/findings/") for folder in made)] == blocks
    assert {one.comparison.config.seeds for one in asked} == {5}
    collected = re.search(r"runs/findings/\{(.*)\}", readme)[1].split(",")
    assert collected == blocks[1:]
