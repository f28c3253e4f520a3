"""The page of `report`: the answer follows from the numbers, and each section shows what was planted.

python -m pytest tests/study/test_page.py
"""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from page_checks import problems, visible
from planted_comparison import CHANCE, Plan, invented, pair, plant, plant_run

from src.storage.files import open_sealed
from src.storage.rows import make_row
from src.study.page import numbers as n
from src.study.page import read, write_report
from src.study.page.chart import Axis, Chart, Dots, Level, Line, Point, Row, Scale, draw, draw_dots, even_ticks
from src.study.page.evidence import Cell, Cost, Difference, Document, Hole, Share
from src.study.page.html import render, sentences
from src.study.page.measured import cost_of
from src.study.page.plain import latex, markdown
from src.study.page.sections import SECTIONS, limits, rates
from src.study.page.sections.scoreboard import scores, terms
from src.study.page.sections.tasks import mean_curve, pooled

SEEDS = (11, 12, 13)


def cell(model: str, values=(0.5, 0.5, 0.5), task="parity", holes=0, chance=0.1, **changed) -> Cell:
    """A cell with a threshold of .95 and an interval of .01 around its mean."""
    mean = float(np.mean(values)) if values else None
    share = Share(sum(v >= 0.95 for v in values), len(values)) if values else None
    fields = {"median": float(np.median(values)) if values else None, "mean": mean, "success": share, "threshold": 0.95}
    fields |= {"low": None if mean is None else mean - 0.01, "high": None if mean is None else mean + 0.01}
    fields |= {"chance": chance, "ceiling": 1.0, "steps": 600, "layers": 1000, "parameters": 1200, "state_bytes": 64}
    return Cell((task, model, ""), "token_acc", SEEDS[: len(values)], tuple(values), holes, **{**fields, **changed})


def difference(a: str, b: str, value: float, verdict: str, **changed) -> Difference:
    ends = {"low": value - 0.15, "high": value + 0.15, "p": 0.01 if verdict in ("better", "worse") else 0.5}
    fields = {"seeds": SEEDS, "is_headline": True, **ends, **changed}
    return Difference("parity", "", "token_acc", a, b, value=value, verdict=verdict, **fields)


def said(document: Document) -> list[str]:
    """The sentences, with plain spaces."""
    return [sentence.replace(n.NO_BREAK, " ") for sentence in sentences(document)]


GRU, MAMBA, OURS = cell("gru", (0.5,) * 3), cell("mamba", (0.97,) * 3), cell("ours", (0.6, 0.7, 0.8))


@pytest.mark.parametrize(
    ("document", "first"),
    [
        (Document(cells=[GRU]), "gru scores 0.500 [0.490, 0.510] on parity (token_acc, 3 seeds); chance is 0.100."),
        (
            Document(cells=[GRU, cell("gru", task="copy")]),
            "Only gru was run, on 2 tasks: nothing is compared.",
        ),
        (
            Document(cells=[GRU, MAMBA], differences=[difference("gru", "mamba", 0.47, "better")]),
            "mamba scores higher than gru on parity, by 0.47 [0.32, 0.62], p = 0.01.",
        ),
        (
            Document(cells=[GRU, MAMBA], differences=[difference("mamba", "gru", -0.47, "worse")]),
            "mamba scores higher than gru on parity, by 0.47 [0.32, 0.62], p = 0.01.",
        ),
        (
            Document(cells=[GRU, OURS], differences=[difference("gru", "ours", 0.2, "no difference shown")]),
            "No difference between gru and ours on parity is shown with 3 seeds within 600 steps.",
        ),
        (
            Document(cells=[GRU, OURS], differences=[difference("gru", "ours", 0.0, "equivalent")], margin=0.02),
            "On parity, gru and ours are equivalent within a margin of 0.02.",
        ),
        (
            Document(cells=[GRU], differences=[difference("gru", "ours", 0.2, "no verdict", seeds=(11,), p=None)]),
            "There is no verdict on any difference: one seed per model cannot show one.",
        ),
        (
            Document(
                cells=[GRU, OURS, MAMBA],
                differences=[
                    difference("gru", "ours", 0.2, "no difference shown"),
                    difference("gru", "mamba", 0.47, "better"),
                    difference("ours", "mamba", 0.9, "better", is_headline=False),
                ],
            ),
            "mamba scores higher than gru on parity, by 0.47 [0.32, 0.62], p = 0.01. "
            "Of 2 comparisons of models, 1 differs and 1 shows no difference.",
        ),
        (
            Document(cells=[GRU, cell("lstm", (0.5,) * 3)]),
            "There is no verdict on differences (these runs were given one by one; `compare` judges pairs). "
            "On parity all 2 models have the same median score of 0.500.",
        ),
        (
            Document(cells=[GRU, OURS, cell("lstm", (0.7,) * 3)]),
            "There is no verdict on differences (these runs were given one by one; `compare` judges pairs). "
            "The highest median score on parity is 0.700, of ours and lstm.",
        ),
        (Document(cells=[cell("gru", ())]), "gru has no score on parity."),
        (
            Document(
                cells=[GRU, MAMBA],
                differences=[
                    difference("gru", "mamba", 0.47, "better", length="256"),
                    replace(difference("gru", "mamba", 0.0, "better", improvement=0.98), task="all tasks", value=None),
                    difference("ours", "mamba", 0.9, "exploratory", is_headline=False),
                ],
            ),
            "mamba scores higher than gru over all tasks, p = 0.01. Of 2 comparisons of models, 2 differ.",
        ),
        (
            Document(cells=[GRU, MAMBA], differences=[difference("gru", "mamba", 0.47, "better", length="256")]),
            "mamba scores higher than gru on parity at length 256, by 0.47 [0.32, 0.62], p = 0.01.",
        ),
        (
            Document(cells=[GRU, OURS], differences=[difference("gru", "ours", 0.2, "no verdict", needed=6)]),
            "There is no verdict on any difference: 3 seeds per model cannot show one; it takes 6.",
        ),
    ],
    ids=[
        "one model", "one model, two tasks", "better", "worse", "no difference", "equivalent", "one seed", "several",
        "all equal", "tie at the top", "no score", "all tasks", "a length", "too few seeds",
    ],
)  # fmt: skip
def test_the_first_sentence_says_what_the_verdicts_say(document, first):
    assert said(document)[0].startswith(first)


def test_the_holes_are_named_in_the_first_sentence():
    hole = Hole(("parity", "gru", ""), 13, "report", "killed")
    assert said(Document(cells=[GRU], holes=[hole]))[0].endswith(" 1 planned run has no usable result.")
    assert said(Document(cells=[GRU], holes=[hole, hole]))[0].endswith(" 2 planned runs have no usable result.")


@pytest.mark.parametrize(
    ("cells", "second"),
    [
        ([MAMBA], "mamba solves parity (a score of at least 0.95 in every seed)."),
        ([GRU], "gru does not solve parity within 600 steps (a score of at least 0.95 in every seed)."),
        (
            [MAMBA, cell("lstm", (1.0,) * 3)],
            "parity is solved by every model (a score of at least 0.95 in every seed), so it does not tell the models "
            "apart.",
        ),
        (
            [GRU, OURS],
            "No model solves parity within 600 steps (a score of at least 0.95 in every seed). The highest median is "
            "0.700, of ours on parity, where chance is 0.100.",
        ),
        (
            [GRU, MAMBA, cell("gru", task="copy"), cell("mamba", task="copy")],
            "parity is solved by mamba; copy by no model within 600 steps (a score of at least 0.95 in every seed).",
        ),
        ([GRU, cell("mamba", (0.99, 0.99), holes=1)], "No model solves parity within 600 steps"),
        ([cell("gru", (0.99, 0.94, 0.99))], "gru does not solve parity within 600 steps"),
        ([GRU, cell("lstm", (0.1,) * 3)], "No model solves parity"),
    ],
    ids=["solved", "unsolved", "all solved", "none solved", "mixed", "a hole", "one seed below", "at chance"],
)
def test_the_second_sentence_says_what_is_solved(cells, second):
    assert said(Document(cells=cells))[1].startswith(second)


def test_a_score_at_chance_is_named():
    assert said(Document(cells=[GRU, cell("lstm", (0.1,) * 3)]))[1].endswith("Not above chance: lstm on parity.")
    assert said(Document(cells=[cell("lstm", (0.1,) * 3)]))[1].endswith("Its score is not above chance.")
    assert "chance:" not in said(Document(cells=[GRU, OURS]))[1]


def test_a_text_without_a_threshold_is_neither_solved_nor_unsolved():
    found = said(Document(cells=[cell("gru", success=None, threshold=None)]))[1]
    assert "solves" not in found
    assert found.endswith("No threshold says when such a task is solved.")


def test_the_third_sentence_is_about_terms_where_nothing_was_timed():
    assert said(Document(cells=[GRU]))[2] == (
        "It has 1,000 parameters outside embeddings and head, and 64.0 B of state while it writes one sequence."
    )
    equal = said(Document(cells=[GRU, cell("ours", layers=1040, state_bytes=2048)]))[2]
    assert equal.startswith("The models have 1,000 to 1,040 parameters outside embeddings and head, equal within 5 %")
    assert equal.endswith("their state takes 64.0 B to 2.00 KiB.")
    assert "a factor of 2.00" in said(Document(cells=[GRU, cell("ours", layers=2000)]))[2]


def speed_row(model: str, x: int, value: float, panel="train", metric="step_ms", unit="ms", **fields) -> dict:
    about = {"panel": panel, "model": model, "metric": metric, "unit": unit, "x_name": "length", "x": x, "batch": 1}
    ends = {"low": value * 0.98, "high": value * 1.02, "q1": value * 0.99, "q3": value * 1.01, "n": 9}
    return make_row("speed", **{**about, **ends, "value": value, "device": "cpu", "precision": "fp32", **fields})


def timed(*rows) -> Cost:
    return cost_of({"rows": list(rows), "fits": [], "crossovers": []}, "T")


@pytest.mark.parametrize(
    ("cost", "first"),
    [
        (
            timed(*(speed_row(m, x, v * x) for x in (64, 128) for m, v in (("gru", 0.1), ("mamba", 0.3)))),
            "At 128 tokens a training step is fastest with gru (12.8 ms) and slowest with mamba (38.4 ms, 3.00 times "
            "as long).",
        ),
        (timed(speed_row("gru", 64, 5.0)), "At 64 tokens a training step of gru takes 5.00 ms."),
        (
            timed(speed_row("gru", 64, 5.0), speed_row("mamba", 64, 5.1)),
            "At 64 tokens, for a training step, all 2 models take the same time within their intervals, 5.00 ms.",
        ),
        (
            timed(speed_row("gru", 64, 5.0), speed_row("gru", 128, 9.0), speed_row("mamba", 64, 50.0)),
            "At 64 tokens a training step is fastest with gru (5.00 ms)",
        ),
    ],
    ids=["two models", "one model", "equal", "one model ran out of memory"],
)
def test_speed_alone_is_told_at_the_longest_common_length(cost, first):
    found = said(Document(costs=[cost]))
    assert found[0].startswith(first)
    assert found[-1] == "Nothing was trained, so nothing is said about scores."


def test_speed_beside_scores_is_the_third_sentence():
    found = said(Document(cells=[GRU], costs=[timed(speed_row("gru", 64, 5.0))]))
    assert found[2] == "At 64 tokens a training step of gru takes 5.00 ms."


def test_a_document_of_every_kind_renders_to_a_valid_page():
    """Every section takes every document: cells alone, costs alone, nothing but a hole."""
    hole = Hole(("parity", "gru", ""), 13, "report", "killed")
    for document in (
        Document(cells=[GRU, cell("x", ())], holes=[hole]),
        Document(costs=[timed(speed_row("gru", 8, 1.0))]),
    ):
        assert problems(render(document)) == []


# Numbers


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0.98123, 0.9623, 0.9941), "0.981 [0.962, 0.994]"),
        ((0.5, 0.2, 0.8), "0.50 [0.20, 0.80]"),
        ((0.99972, 0.9993, 0.9999), "0.9997 [0.9993, 0.9999]"),
        ((0.98123, None, None), "0.981"),
        ((None, None, None), "–"),
        ((-1e-9, -0.2, 0.2), "0.00 [-0.20, 0.20]"),
    ],
)
def test_a_score_has_the_digits_that_its_interval_allows(arguments, text):
    assert n.score(*arguments) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(12345.6, "12,300"), (0.012345, "0.0123"), (999.9, "1,000"), (0, "0"), (1.5e9, "1.5e+09"), (9.995, "9.99")],
)
def test_other_numbers_have_three_digits(value, text):
    assert n.plain(value) == text


def test_bytes_and_lists_are_words():
    assert n.bytes_of(3400).replace(n.NO_BREAK, " ") == "3.32 KiB"
    assert n.listed(["a", "b", "c"]) == "a, b and c"
    assert n.listed("abcdefg") == "a, b, c and 4 others"
    assert n.listed(["a"]) == "a"


# Drawings


def test_a_scale_puts_its_ends_at_the_ends():
    scale = Scale(Axis("x", low=0.0, high=1.0), (0.25,), 100, 200)
    assert [scale.at(v) for v in (0.0, 0.5, 1.0, 7.0)] == [100, 150, 200, 200]
    logarithmic = Scale(Axis("x", is_log=True), (1, 100, 0), 0, 100)
    assert [round(logarithmic.at(v)) for v in (1, 10, 100)] == [0, 50, 100]
    assert not logarithmic.has(0.0)


@pytest.mark.parametrize("ends", [(0, 1), (-0.5, 1.2), (0, 1e-300), (-1e308, 1e308), (3, 3.0001)])
def test_ticks_are_few_and_inside(ends):
    low, high = Scale(Axis("x"), ends, 0, 1).low, Scale(Axis("x"), ends, 0, 1).high
    found = even_ticks(low, high)
    assert 1 <= len(found) <= 6
    assert all(low - 1e-9 * abs(low) <= tick <= high + 1e-9 * abs(high) for tick in found)


def test_a_drawing_escapes_its_words_and_describes_itself():
    line = Line(0, (Point(1, 0.5, "<b>tip</b>", 0.4, 0.6), Point(2, 0.7, "t")), (((1, 0.4), (2, 0.6)),))
    levels = (Level(0.1, "<i>chance"), Level(1.5, "here", True))
    svg = draw(Chart("k", "<t>", "a & b", Axis("<x>"), Axis("y", low=0.0), (line,), levels))
    assert "<b>" not in svg
    assert "<i>" not in svg
    assert '<title id="k-title">&lt;t&gt;</title><desc id="k-desc">a &amp; b</desc>' in svg
    dots = draw_dots(
        Dots("d", "t", "d", (Row(9, "<u>", "0.5", (Point(0.5, 0, "tip"),), Point(0.5, 0, "m", 0.4, 0.6)),), "0", "1")
    )
    assert "<u>" not in dots
    assert 'class="seed k1"' in dots


def test_ten_models_differ_without_colour():
    """Colour, dash and marker repeat with different periods, so a pair of looks is unique long after colours repeat."""
    drawn = {
        draw(Chart("k", "t", "d", Axis("x"), Axis("y"), (Line(i, (Point(1, 1, ""), Point(2, 2, ""))),)))
        for i in range(40)
    }
    assert len(drawn) == 40


# Curves and tables


def test_curves_of_seeds_become_their_mean():
    assert mean_curve([[(1, 2.0), (2, 1.0)], [(1, 4.0)], [(1, 3.0)]]) == [(1, 3.0)]


def test_bins_of_seeds_become_a_weighted_mean_with_their_range(planted):
    runs = [run for run in read([planted]).runs if run.role == "report"][:3]
    first = pooled([run.gaps for run in runs])[0]
    mine = [run.gaps[0] for run in runs]
    assert first.value == pytest.approx(sum(b.value * b.count for b in mine) / sum(b.count for b in mine))
    assert (first.low, first.high) == (min(b.value for b in mine), max(b.value for b in mine))


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A comparison with a winner, a hole, a gate that failed, and a rate at the edge."""
    scores = {
        (t, m): v for t in ("parity", "copy") for m, v in {"gru": (0.4, 0.5, 0.6), "ours": (0.99, 0.98, 0.97)}.items()
    }
    scores["copy", "gru"] = (0.4, 0.5)
    hole = {
        "task": "copy",
        "model": "gru",
        "setting": "",
        "seed": 13,
        "role": "report",
        "why": "killed by SIGKILL twice",
    }
    failed = {"name": "gradients", "status": "fail", "value": 0.3, "tolerance": 1e-4, "note": "differs"}
    checks = {"ours": {"verdict": "fail", "flags": {}, "results": [failed, {"name": "a", "status": "pass"}]}}
    pairs = [pair("parity", "gru", "ours", 0.48, "better"), pair("copy", "gru", "ours", 0.5, "no difference shown")]
    plan = Plan(scores, SEEDS, pairs, [hole], checks, (1e-3, 3e-3), "yes", {"ours": 4096})
    return plant(tmp_path_factory.mktemp("page") / "S", plan)


def test_a_comparison_becomes_a_page_with_every_section(planted):
    path = write_report([planted])
    text = path.read_text(encoding="utf-8")
    assert path == planted / "report.html"
    assert problems(text) == []
    words = visible(text)
    assert "ours scores higher than gru on parity , by 0.480 [0.440, 0.520], p = 0.012." in words
    assert "killed by SIGKILL twice" in words
    assert "Left out: The card, Verdicts of the study" in words
    for section in SECTIONS:
        assert (f'<section id="{section.key}"' in text) == (section.key not in ("card", "claims"))
    assert "free" not in words  # the sentences of verdicts.json are not repeated


def test_the_same_folder_gives_the_same_bytes(planted):
    assert render(read([planted])) == render(read([planted]))


def test_the_scoreboard_has_each_score_with_interval_and_seeds(planted):
    table = scores(read([planted]))
    names = [column.name for column in table.columns]
    rows = {(row[0], row[1]): dict(zip(names, row, strict=True)) for row in table.rows}
    row = rows["ours", "parity"]
    assert (row["mean"].text, row["95 % interval"].text, row["solved"].text) == (
        "0.980",
        "[0.955, 1.000]",
        "3/3 [0.10, 1.00]",
    )
    assert row["scaled"].text == n.share((0.98 - CHANCE) / (1 - CHANCE))
    assert rows["gru", "copy"]["seeds"].text == "2 (1 hole)"
    assert rows["gru", "parity"]["steps to solve"].text == "> 600"


def test_steps_to_solve_are_not_claimed_where_half_of_the_seeds_solve_it():
    found = [scores(Document(cells=[cell("gru", v)])).rows[0][8].text for v in ((0.5, 0.5, 0.99), (0.5, 0.99, 0.99))]
    assert found == ["> 600", n.MISSING]


@pytest.mark.parametrize(
    ("stopped", "words"), [((), "1,500"), ((450, 375), "1,500; stopped at step 450 and 375, solved")]
)
def test_a_training_that_ended_because_the_task_was_solved_says_at_which_step(planted, stopped, words):
    document = read([planted])
    cell = replace(document.cells[0], steps=1500, stopped=stopped)
    document.cells[:] = [cell]
    (row,) = terms(document).rows
    assert words in [getattr(entry, "text", entry) for entry in row]


def test_equal_terms_are_one_row_for_all_tasks(planted):
    rows = terms(read([planted])).rows
    assert [(row[0], row[1], row[4].text.replace(n.NO_BREAK, " ")) for row in rows] == [
        ("gru", "all 2 tasks", "1.00 KiB"),
        ("ours", "all 2 tasks", "4.00 KiB"),
    ]


def test_the_limits_name_what_was_planted(planted):
    words = " ".join(s for block in limits.build(read([planted])) for s in getattr(block, "sentences", ()))
    for expected in (
        "1 of 20 planned runs",
        "at the edge",
        "is not solved within 600 steps by",
        "2 and 3 seeds per score",
    ):
        assert expected in words


def test_mixed_machines_dirty_trees_and_layers_that_see_the_future_are_limits(tmp_path):
    for i, model in enumerate(("gru", "leaky")):
        metrics = invented("needle", model, 11, 0.5)
        metrics["args"]["allow_noncausal"] = model == "leaky"
        metrics["data"]["digest"] = f"other {i}"
        run = plant_run(tmp_path / model, metrics, {"task": "needle", "model": model})
        env = json.loads((run / "env.json").read_text())
        (run / "env.json").write_text(json.dumps({**env, "commit": f"{i}" * 40, "dirty": model == "leaky"}))
    found = limits.terms(read([tmp_path / "gru", tmp_path / "leaky"]))
    for start in ("Runs of the same seed read different data", "The numbers come from several commits", "Some numbers"):
        assert any(sentence.startswith(start) for sentence in found), start
    assert any("NOT CAUSAL" in sentence and "leaky" in sentence and "gru" not in sentence for sentence in found)


def test_a_run_directory_that_is_broken_is_a_named_hole_and_the_rest_is_shown(planted, tmp_path):
    copy = shutil.copytree(planted, tmp_path / "S")
    broken = sorted((copy / "runs").iterdir())[0]
    (broken / "metrics.json").write_text("{")
    document = read([copy])
    assert len(document.holes) == 2
    assert any("its folder cannot be read" in hole.why and broken.name in hole.why for hole in document.holes)
    assert len(document.runs) == len(read([planted]).runs)
    assert problems(render(document)) == []


# Runs that are given one by one


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two models with three seeds, one of them with a flag of its own; one run diverged."""
    home = tmp_path_factory.mktemp("runs")
    for model, flags, values in (
        ("deltanet", {}, (0.5, 0.6, None)),
        ("deltanet", {"neg_eigen": True}, (0.99, 0.98, 0.99)),
    ):
        for seed, value in zip(SEEDS, values, strict=True):
            name = f"{model}{len(flags)}-{seed}"
            plant_run(
                home / name,
                invented("needle", model, seed, value),
                {"task": "needle", "model": model, "seed": seed, **flags},
            )
    return sorted(home.iterdir())


def test_runs_that_differ_by_their_seed_are_one_cell(runs):
    document = read(runs)
    cells = {c.model: c for c in document.cells}
    assert set(cells) == {"deltanet", "deltanet --neg_eigen"}
    assert cells["deltanet"].values == (0.5, 0.6, CHANCE)
    assert cells["deltanet"].diverged == 1
    assert cells["deltanet --neg_eigen"].is_solved
    assert cells["deltanet --neg_eigen"].interval == "t, 3 seeds"
    assert problems(render(document)) == []


def test_learning_rates_of_one_model_are_a_setting_and_a_curve(tmp_path):
    for lr, value in ((1e-3, 0.4), (3e-3, 0.8), (1e-2, 0.6)):
        plant_run(
            tmp_path / f"{lr}", invented("needle", "gru", 11, value, lr), {"task": "needle", "model": "gru", "lr": lr}
        )
    document = read(sorted(tmp_path.iterdir()))
    assert {c.setting for c in document.cells} == {"lr=0.001", "lr=0.003", "lr=0.01"}
    (gallery,) = rates.build(document)
    assert [row[0].text for row in gallery.figures[0].table.rows] == ["0.001", "0.003", "0.01"]
    assert gallery.figures[0].svg.count("<title>gru, learning rate") == 3


def test_equal_seeds_keep_the_interval_of_test_sampling(tmp_path):
    """A t interval of equal scores has no width, which would be too sure."""
    for seed in SEEDS:
        plant_run(tmp_path / f"{seed}", invented("needle", "gru", seed, 0.5), {"task": "needle", "model": "gru"})
    (found,) = read(sorted(tmp_path.iterdir())).cells
    assert (found.low, found.high, found.interval) == (0.48, 0.52, "test sampling")


def test_a_folder_given_twice_counts_once(runs):
    assert len(read([runs[0], runs[0], f"{runs[0]}/"]).runs) == 1


def test_cells_of_two_comparisons_are_told_apart_by_their_folder(planted, tmp_path):
    other = shutil.copytree(planted, tmp_path / "T")
    document = read([planted, other])
    assert {c.setting for c in document.cells} == {"in S", "in T"}
    assert all(run.key in {c.key for c in document.cells} for run in document.runs)
    assert problems(render(document)) == []


# Markdown and LaTeX


def test_markdown_has_the_answer_and_the_tables_as_rows(planted):
    text = markdown(read([planted]))
    assert text.startswith("- ours scores higher than gru on parity")
    lines = text.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("| model | task | seeds |"))
    assert {line.count("|") for line in lines[head : head + 6]} == {lines[head].count("|")}
    assert "data" not in [line.strip("*") for line in lines]


def test_latex_is_a_booktabs_table(planted):
    text = latex(read([planted]))
    assert text.count(r"\begin{tabular}") == text.count(r"\bottomrule") == 2
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    assert {line.count(" & ") for line in body.splitlines()[1:] if line} == {9}
    assert r"95 \% interval" in text


def test_markdown_and_latex_escape_names(tmp_path):
    metrics = invented("a|b*c", "x_y&z", 11, 0.5)
    plant_run(tmp_path / "R", metrics, {"task": "a|b*c", "model": "x_y&z"})
    document = read([tmp_path / "R"])
    assert r"x\_y&amp;z | a\|b\*c" in markdown(document)
    assert r"x\_y\&z & a|b*c" in latex(document)


def test_the_seal_of_a_planted_folder_is_right(planted):
    """Otherwise the tests of damaged folders would test nothing."""
    assert open_sealed(planted / "plan.json")["cells"]
