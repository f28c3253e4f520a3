"""Folders that somebody made to do harm, or that a disk has damaged: a valid page, or one line that names the folder.

python -m pytest tests/study/test_page_safety.py
"""

import copy
import csv
import json
import math
import random
import re
import shutil
import time

import pytest
from page_checks import problems, visible
from planted_comparison import SAMPLES, Plan, invented, pair, plant, plant_run

from src.flags.fields import UserError
from src.storage.files import seal
from src.storage.rundir import RunDir
from src.study.page import read, values, write_report
from src.study.page.evidence import Document
from src.study.page.html import names, render
from src.study.page.plain import latex, markdown

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>\x00\u202e\ud800\u2068b\u2069{{7*7}}'
SEEN = "<script>alert(1)"  # as it would be in the page if nothing were escaped


def hostile_metrics() -> dict:
    """Metrics of the schema in which every text that may be free is hostile."""
    metrics = invented("needle", "gru", 11, 0.5)
    metrics |= {"task": HOSTILE, "model": HOSTILE, "notes": [HOSTILE]}
    metrics["data"] |= {"digest": HOSTILE, "source": HOSTILE}
    metrics["args"] |= {"init": HOSTILE, "pos": HOSTILE, "norm": HOSTILE, "mlp": HOSTILE}
    for result in (metrics["final_test"], metrics["test"]["best"]):
        result["slices"]["gap"]["label"] = HOSTILE
    return metrics


def test_html_in_names_and_samples_is_shown_and_does_nothing(tmp_path):
    samples = SAMPLES.replace("ab3>", "</td></table><script>alert(3)</script>")
    run = plant_run(tmp_path / "R", hostile_metrics(), {"task": HOSTILE, "model": HOSTILE, HOSTILE: HOSTILE}, samples)
    text = write_report([run]).read_text(encoding="utf-8")
    assert problems(text) == []
    assert SEEN not in text
    assert "<script>alert(3)" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert text.count("<script>") == 1
    assert "{{7*7}}" in text
    for plain in (markdown(read([run])), latex(read([run]))):
        assert "<script>" not in plain


def test_a_page_that_escapes_nothing_would_be_found():
    """The checks of this file see what they are there for."""
    page = render(Document())
    hostile = page.replace("</main>", f"{HOSTILE}</main>")
    assert problems(page) == []
    assert any("onerror" in problem for problem in problems(hostile))
    assert any("policy" in problem for problem in problems(hostile))
    for broken in ("<b>", "</i>", '<p id="main"></p>', '<a href="#nowhere"></a>'):
        assert problems(page.replace("</main>", f"{broken}</main>")) != []
    assert any("https" in p for p in problems(page.replace("</main>", '<a href="https://example.org">x</a></main>')))


def test_a_marked_name_is_the_only_markup_of_a_sentence():
    assert names("\u2068<b>\u2069 & `x`") == "<b>&lt;b&gt;</b> &amp; <code>x</code>"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, 1e308, -1e308, True, None, "0.5", [], {}])
def test_a_value_that_is_no_number_is_absent(value):
    found = values.number({"x": value}, "x")
    assert found is None or (isinstance(found, float) and math.isfinite(found))
    assert values.count({"x": value}, "x") is None


def test_a_long_text_is_cut_and_the_page_says_so(tmp_path):
    metrics = invented("needle", "gru", 11, 0.5)
    metrics |= {"task": "t" * 10_000_000, "notes": ["n" * 10_000_000]}
    samples = f"prompt    {'p' * 10_000_000}\nexpected  a\ngot       a\n"
    run = plant_run(tmp_path / "R", metrics, {"task": "t" * 10_000_000}, samples)
    text = write_report([run]).read_text(encoding="utf-8")
    assert len(text) < 300_000
    assert "(cut: 10,000,000 characters)" in text
    assert problems(text) == []


def test_huge_numbers_are_shown_or_absent(tmp_path):
    """A sealed file may hold integers that no float can: 10**400 parameters."""
    metrics = invented("needle", "gru", 11, 0.5)
    metrics["parameters"] = {"total": 10**400, "embedding": 10**400, "layers": 10**300}
    metrics |= {"steps": 10**400, "chars_seen": 10**30}
    metrics["decode_state"]["bytes"] = 10**400
    metrics["args"] |= {"seed": 10**400, "lr": 1e300, "short_conv": 10**400}
    metrics["machine"] |= {"train_seconds": 1e308, "step_seconds_median": 1e308, "peak_memory_mib": -1e308}
    metrics["loss_curve"] = {"train": [], "val": [[1, 1e308], [2, -1e308], [10**400, 1.0]]}
    metrics["ppl_curve"] = {"train": [], "val": [[1, None], [2, None], [10**400, None]]}
    run = plant_run(tmp_path / "R", metrics, {"task": "needle"})
    text = write_report([run]).read_text(encoding="utf-8")
    assert problems(text) == []
    assert not re.search(r"\b(nan|inf|NaN|Infinity)\b", visible(text))


def test_a_number_too_large_for_a_float_is_refused_by_the_schema_in_words(tmp_path):
    metrics = invented("needle", "gru", 11, 0.5)
    metrics["scaled"] = 10**400
    with pytest.raises(UserError, match=r"R.metrics\.json: not of this schema: scaled: got 1000"):
        read([plant_run(tmp_path / "R", metrics, {})])


DAMAGES = {
    "no metrics": lambda run: (run / "metrics.json").unlink(),
    "no config": lambda run: (run / "config.json").unlink(),
    "no env": lambda run: (run / "env.json").unlink(),
    "half a file": lambda run: (run / "metrics.json").write_bytes((run / "metrics.json").read_bytes()[:1000]),
    "another number": lambda run: edit(run / "metrics.json", '"steps": 600', '"steps": 601'),
    "NaN": lambda run: edit(run / "metrics.json", '"ceiling": 1.0', '"ceiling": NaN'),
    "deep": lambda run: (run / "config.json").write_text("[" * 100_000),
    "a list": lambda run: (run / "config.json").write_text("[]"),
    "zeros": lambda run: (run / "metrics.json").write_bytes(bytes(1000)),
    "no text": lambda run: (run / "env.json").write_bytes(b"\xff\xfe"),
    "a folder for a file": lambda run: ((run / "metrics.json").unlink(), (run / "metrics.json").mkdir()),
    "a long number": lambda run: edit(run / "metrics.json", '"ceiling": 1.0', f'"ceiling": {"9" * 5000}'),
}


def edit(path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_run_is_one_line_that_names_its_folder(tmp_path, damage):
    run = plant_run(tmp_path / "R", invented("needle", "gru", 11, 0.5), {"task": "needle", "model": "gru"})
    damage(run)
    with pytest.raises(UserError) as caught:
        write_report([run])
    assert "\n" not in str(caught.value)
    assert str(run) in str(caught.value)
    assert not (run / "report.html").exists()


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    scores = {("parity", "gru"): (0.4, 0.5), ("parity", "ours"): (0.99, 0.98)}
    pairs = [pair("parity", "gru", "ours", 0.5, "better", seeds=(11, 12))]
    checks = {"ours": {"verdict": "pass", "results": [{"name": "a", "status": "skipped", "note": "b"}]}}
    return plant(tmp_path_factory.mktemp("safety") / "S", Plan(scores, (11, 12), pairs, [], checks, rates=(1e-3,)))


@pytest.fixture
def folder(comparison, tmp_path):
    return shutil.copytree(comparison, tmp_path / "S")


@pytest.mark.parametrize("name", ["config.json", "plan.json", "verdicts.json", "results.csv", "summary.csv"])
@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe\x00", b'{"sha256": 1}', b"a,b\n1,2,3\n", b'task\n"'])
def test_a_damaged_table_is_one_line_that_names_its_folder(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        write_report([folder])
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_cell_of_ten_megabytes_is_one_line(folder):
    text = (folder / "summary.csv").read_text(encoding="utf-8")
    (folder / "summary.csv").write_text(text.replace("parity", "p" * 10_000_000), encoding="utf-8")
    with pytest.raises(UserError, match=r"summary\.csv' is damaged"):
        write_report([folder])


def test_a_run_name_that_leads_out_of_the_folder_is_not_followed(folder):
    text = (folder / "results.csv").read_text(encoding="utf-8")
    first = text.splitlines()[1].split(",")[0]
    (folder / "results.csv").write_text(text.replace(first, "../../elsewhere"), encoding="utf-8")
    (hole,) = read([folder]).holes
    assert "is not that of a folder" in hole.why


def test_every_cell_of_every_table_may_be_nonsense(folder):
    """Each column in turn: hostile text, NaN, infinity, a huge number, nothing."""
    for name in ("summary.csv", "results.csv"):
        with open(folder / name, newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        for nonsense in (HOSTILE.replace("\ud800", ""), "nan", "9" * 400, "", "-1e308"):
            changed = [rows[0], *([nonsense] * len(row) for row in rows[1:])]
            with open(folder / name, "w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(changed)
            text = render(read([folder]))
            assert problems(text) == []
            assert SEEN not in text
            markdown(read([folder]))
        with open(folder / name, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)


def leaves(document, path=()):
    """The path of every value inside a JSON document, containers included."""
    yield path
    inside = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in inside:
        yield from leaves(value, (*path, key))


def replaced(document, path, value):
    document = copy.deepcopy(document)
    if not path:
        return value
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return document


NONSENSE = (HOSTILE, 10**400, -1, 1e308, True, None, [], {}, [[]], {"x": HOSTILE}, [HOSTILE] * 3, [None, 1e308, {}])


def judge(folder) -> None:
    """The folder gives a valid page, or one line that names it."""
    try:
        text, refused = render(read([folder])), str(folder)
    except UserError as error:
        text, refused = render(Document()), str(error)
    assert problems(text) == []
    assert SEEN not in text
    assert str(folder) in refused
    assert "\n" not in refused


DOCUMENTS = ("config.json", "plan.json", "verdicts.json", "checks.json", "env.json")
TRIES = [*((name, 4) for name in DOCUMENTS), *(pytest.param(name, 60, marks=pytest.mark.slow) for name in DOCUMENTS)]


@pytest.mark.parametrize(("name", "tries"), TRIES)
def test_every_value_of_every_document_may_be_nonsense(folder, name, tries):
    """Rightly sealed, wrongly filled. The values are drawn, the same ones every time."""
    rng, whole = random.Random(name), json.loads((folder / name).read_text(encoding="utf-8"))
    for _ in range(tries):
        document = replaced(whole, rng.choice(list(leaves(whole))), rng.choice(NONSENSE))
        is_sealed = isinstance(document, dict) and name not in ("checks.json", "env.json")
        (folder / name).write_text(json.dumps(seal(document) if is_sealed else document), encoding="utf-8")
        judge(folder)


@pytest.mark.slow
def test_every_value_of_a_run_may_be_nonsense(tmp_path):
    rng = random.Random(5)
    metrics, explicit = invented("needle", "gru", 11, 0.5), {"task": "needle", "model": "gru"}
    places = list(leaves(metrics))
    for i in range(400):
        judge(plant_run(tmp_path / f"R{i}", replaced(metrics, rng.choice(places[1:]), rng.choice(NONSENSE)), explicit))


def test_a_folder_of_another_command_is_refused(tmp_path):
    (tmp_path / "K").mkdir()
    (tmp_path / "K" / "config.json").write_text(json.dumps(seal({"schema": 1, "kind": "kernels", "settings": {}})))
    with pytest.raises(UserError, match=r"K': got results of `kernels`, allowed: a run"):
        read([tmp_path / "K"])
    with pytest.raises(UserError, match="no such folder"):
        read([tmp_path / "nowhere"])
    assert RunDir(tmp_path / "K").stored_kind() == "kernels"


@pytest.mark.slow
def test_a_hundred_runs_are_a_page_below_three_megabytes_in_ten_seconds(tmp_path):
    models = [f"model_{i}" for i in range(5)]
    scores = {
        (t, m): tuple(0.3 + 0.1 * i + 0.01 * j for j in range(5)) for t in ("a", "b", "c") for i, m in enumerate(models)
    }
    pairs = [pair(t, models[0], m, 0.1, "better") for t in ("a", "b", "c") for m in models[1:]]
    plant(tmp_path / "S", Plan(scores, (11, 12, 13, 14, 15), pairs, rates=(1e-3, 3e-3)))
    began = time.perf_counter()
    path = write_report([tmp_path / "S"])
    assert time.perf_counter() - began < 10
    assert path.stat().st_size < 3e6
    assert len(read([tmp_path / "S"]).runs) == 105
