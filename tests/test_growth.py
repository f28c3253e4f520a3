"""Growth: a new task, layer, metric, claim or panel is one new file and at most one line in a table.

    python -m pytest tests/test_growth.py

Each test plants one: it writes the file, adds the line, and asks whether everything else follows by itself.
"""

import importlib
import json

import pytest
from conftest import TINY

from dataset import TASKS
from src.flags.registry import Entry
from src.measure.speed.analysis import analyse
from src.measure.speed.panels import PANELS
from src.models import MODELS
from src.storage.rows import check_row, make_row
from src.study import claims
from src.study.claims.contract import NO, YES, Evidence
from src.study.report import verdicts

TASK = '''
"""Doubling: write every letter twice.

    'ab>' -> 'aabb'
"""

from dataclasses import dataclass

from dataset.base import Example, LengthConfig, Slice, Task


class Doubling(Task):
    @dataclass(frozen=True)
    class Config(LengthConfig):
        """doubling"""

    slices = (Slice("first", "first letter"),)
    score_metrics = {"right_length": "higher"}

    def example(self, rng, length):
        word = "".join(rng.choice(list("abcd"), size=length))
        return Example(word + ">", "".join(c + c for c in word), meta={"first": word[0]})

    def score(self, prompt, answer, gold, meta):
        return {"right_length": float(len(answer) == len(gold))}
'''
LAYER = '''
"""Previous token: y_t = W x_(t-1)."""

from torch import nn
from torch.nn.functional import pad

from src.models.base import Mixer


class Previous(Mixer):
    def __init__(self, args):
        super().__init__()
        self.out = nn.Linear(args.d_model, args.d_model)

    def forward(self, x):
        return self.out(pad(x, (0, 0, 1, 0))[:, :-1])
'''
PANEL = '''
"""Lookup: a planted time of 2 ms per token, and the parameters of the model."""

from src.figures.speed import Axis, PanelLook
from src.measure.speed.panels import Panel, Point, Quantity, Table
from src.storage.rows import timed


class Lookup(Panel):
    name = "lookup"
    metrics = ("lookup_ms", "table_count")
    batches_apart = True
    quantities = (Quantity("lookup_ms", "one lookup"),)
    tables = (Table("lookup_ms", "lookup, ms", "{:,.1f}"), Table("table_count", "parameters", "{:,.0f}"))
    look = PanelLook(
        axes=(Axis("lookup_ms", "ms per lookup"),),
        x_label="length (tokens)",
        title="lookup of {tokens} tokens",
        legend=("lookup_ms", "lookup"),
    )

    def points(self, config):
        return [Point(length, 3, length) for length in config.lengths]

    def action(self, subject, point, device):
        return lambda: {"lookup": 0.002 * point.length}

    def fields(self, subject, point, sample, memory):
        return [
            {"metric": "lookup_ms", **timed(sample.of("lookup"))},
            {"metric": "table_count", "value": subject.parameters, "unit": "parameters"},
        ]
'''
CLAIM = '''
"""Claim: a step at the longest length takes less than a second."""

from src.study.claims.contract import NO, YES, Claim, claim_of, figure


def judge(evidence):
    return [of_model(evidence, model) for model in evidence.models]


def of_model(evidence, model):
    last = max((r for r in evidence.rows if r["model"] == model), key=lambda r: r["x"])
    figures = [figure("longest_step", last["value"], unit="ms", x_name="length", x=last["x"])]
    words = f"{last['value']:,.0f} ms at {last['x']:,}"
    return claim_of("patience", model, YES if last["value"] < 1000 else NO, words, figures, evidence.baseline)


PATIENCE = Claim("patience", "A step takes less than a second, unlike a step of {}", judge)
'''


@pytest.fixture
def grown(tmp_path_factory, monkeypatch):
    """A folder that Python imports from, with the new files in it, and one line in each table."""
    folder = tmp_path_factory.mktemp("grown")
    (folder / "doubling.py").write_text(TASK)
    (folder / "previous.py").write_text(LAYER)
    (folder / "lookup.py").write_text(PANEL)
    (folder / "patience.py").write_text(CLAIM)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(TASKS, "doubling", Entry("doubling:Doubling", "write every letter twice", "a test"))
    monkeypatch.setitem(MODELS, "previous", Entry("previous:Previous", "the token before", "a test"))
    monkeypatch.setitem(PANELS, "lookup", "lookup:Lookup")
    monkeypatch.setattr(claims, "CLAIMS", (*claims.CLAIMS, importlib.import_module("patience").PATIENCE))


def test_a_task_a_layer_and_a_metric_need_one_file_and_one_line(grown, main, tmp_path):
    """The run has the task's chance levels, its own metric with an interval, and its figure; `list` shows both."""
    listed = main("list")[1]
    assert "write every letter twice" in listed
    assert "the token before" in listed
    assert main("list", "--task", "doubling")[0] == 0
    assert main("list", "--model", "previous")[0] == 0
    code, out, err = main(*TINY, "--task", "doubling", "--model", "previous", "--max_len", "8", "--out_dir", "R")
    assert (code, out) == (0, "R\n"), err
    metrics = json.loads((tmp_path / "R" / "metrics.json").read_text())
    final = metrics["final_test"]
    assert {"uniform", "unigram"} <= metrics["floors"].keys()
    assert 0 <= final["right_length"] <= 1
    assert len(final["intervals"]["right_length"]) == 2
    assert sum(b["count"] for b in final["slices"]["first"]["bins"]) == 30
    assert (tmp_path / "R" / "figures" / "first.png").stat().st_size > 1_000
    rows = [json.loads(line) for line in (tmp_path / "R" / "results.jsonl").read_text().splitlines()]
    assert "right_length" in {row["metric"] for row in rows}


@pytest.mark.slow
def test_a_new_layer_passes_the_gate_by_its_name(grown, main, monkeypatch):
    monkeypatch.setattr("src.checks.hash_order.HASH_SEEDS", ())  # other processes do not know the planted layer
    code, out, _ = main("check", "--model", "previous")
    assert code == 0, out


SPEED = (
    "speed --panel lookup --lengths 16,32,64 --d_model 8 --n_layer 1 --n_head 1 --cell_seconds 0.01 --threads 1".split()
)


def test_a_panel_needs_one_file_and_one_line(grown, main, tmp_path):
    """`--panel` takes its name, and there are rows, an exponent, printed tables and a figure of it, also redrawn."""
    code, out, err = main(*SPEED, "--model", "gru", "--out_dir", "R")
    assert code == 0, err
    rows = [json.loads(line) for line in (tmp_path / "R" / "results.jsonl").read_text().splitlines()]
    for row in rows:
        check_row(row)
    found = {(row["panel"], row["metric"], row["x"], row["batch"]): row["value"] for row in rows}
    count = rows[0]["parameters"]
    assert found == {
        ("lookup", metric, length, 3): value
        for length in (16, 32, 64)
        for metric, value in (("lookup_ms", 2.0 * length), ("table_count", count))
    }
    (fit,) = json.loads((tmp_path / "R" / "history.json").read_text())["fits"]
    assert (fit["panel"], fit["what"], fit["exponent"]) == ("lookup", "one lookup", pytest.approx(1.0))
    lines = out.splitlines()
    heading = lines.index("lookup, batch 3: lookup, ms   (* best, ~ as good within its interval)")
    assert [line.split() for line in lines[heading + 1 : heading + 5]] == [
        ["length", "gru"],
        ["16", "32.0*"],
        ["32", "64.0*"],
        ["64", "128.0*"],
    ]
    assert any(line.split() == ["32", f"{count:,}*"] for line in lines)
    figure = tmp_path / "R" / "figures" / "lookup_batch_3.png"
    drawn = figure.read_bytes()
    figure.unlink()
    assert main("speed", "--vis_only", "--out_dir", "R")[0] == 0
    assert figure.read_bytes() == drawn
    assert len(drawn) > 10_000


def test_a_panel_that_is_not_in_the_table_is_refused(main):
    code, _, err = main(*SPEED, "--model", "gru", "--out_dir", "R")
    assert code == 2
    assert "--panel: unknown panel 'lookup', allowed: train, memory, decode, scaling" in err


def step(model: str, length: int, ms: float) -> dict:
    named = {"panel": "train", "metric": "step_ms", "unit": "ms", "x_name": "length", "batch": 1}
    return make_row("speed", **named, model=model, x=length, tokens=length, value=ms, values=[ms] * 5)


def test_a_claim_needs_one_file_and_one_line(grown):
    """It is judged with the others, printed with its question, and stored as rows that name it."""
    rows = [step("gru", n, n / 2) for n in (512, 1024)] + [step("transformer", n, 2 * n) for n in (512, 1024)]
    evidence = Evidence(rows, analyse(rows), {}, {}, ("transformer", "gru"), "transformer")
    found = claims.judge(evidence)
    mine = [verdict for verdict in found if verdict["claim"] == "patience"]
    assert {(v["model"], v["verdict"], v["words"]) for v in mine} == {
        ("transformer", NO, "2,048 ms at 1,024"),
        ("gru", YES, "512 ms at 1,024"),
    }
    assert {v["claim"] for v in found} == {claim.key for claim in claims.CLAIMS}
    printed = verdicts(found)
    question = printed.index("A step takes less than a second, unlike a step of transformer?")
    assert [line.split(maxsplit=2) for line in printed[question + 1 : question + 3]] == [
        ["transformer", "no", "2,048 ms at 1,024"],
        ["gru", "yes", "512 ms at 1,024"],
    ]
    for verdict in mine:
        (row,) = claims.rows_of_claim(verdict)
        check_row(row)
        assert (row["panel"], row["metric"], row["value"]) == (
            "claims",
            "longest_step",
            verdict["figures"][0]["value"],
        )
        assert row["form"] == f"patience: {verdict['verdict']}"
