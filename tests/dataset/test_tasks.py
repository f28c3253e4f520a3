"""The contract, for every registered task that makes its own data, at its defaults and at other settings.

    python -m pytest tests/dataset/test_tasks.py
    python -m pytest tests/dataset/test_tasks.py -m slow        (how many examples per second a task makes)

These tests run over dataset.TASKS, so a new task gets them with its line there. The checks are in tests/task_checks.py.
The last section shows each of them to fail on a broken task. What is special to a task is tested in the other files.
"""

import dataclasses
import importlib
import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from task_checks import (
    NAMES,
    alphabet_errors,
    ambiguous,
    build,
    docstring,
    draw,
    fingerprints,
    instances,
    is_uniform,
    leaks,
    lines_per_example,
    load,
    oracle_failures,
    some_lengths,
    table,
    too_long,
    written,
    wrong_gaps,
)

from dataset import TASKS
from dataset.loaders import TaskData
from dataset.seeds import stream
from dataset.task import Example, LengthConfig, Slice, Task
from dataset.tokenizer import CharTokenizer
from src.flags.run_flags import resolve
from src.utils.chance import chance_levels

NO_ORACLE = ("fourier_mix",)  # its quantised prompt does not determine the signal

# Settings other than the defaults under which the tests below run too.
VARIANTS = {
    "needle": [{"haystack": "words", "needle_len": 2}, {"haystack": "repeat"}, {"n_distractors": 3, "min_len": 32}],
    "dyck": [
        {"noise_prob": 0.3},
        {"n_types": 1, "max_depth": 3},
        {"mode": "lm", "n_types": 4},
        {"mode": "lm", "noise_prob": 0.3},
    ],
    "addition": [
        {"reverse_answer": True},
        {"zero_pad": True},
        {"zero_pad": True, "reverse_answer": True, "base": 16},
        {"base": 2, "n_digits": 12},
    ],
    "rle": [{"run_p": 1.0}, {"run_p": 0.1}],
    "caesar": [{"max_shift": 3}],
    "trigo": [{"decimals": 2}],
    "fibonacci": [{"n_terms": 12}],
    "poly": [{"degree": 1}, {"degree": 4}],
    "fourier_mix": [{"n_waves": 1, "levels": 16}],
    "selective_copy": [{"n_data": 1, "n_symbols": 1, "max_len": 640}, {"n_data": 5, "n_symbols": 26}],
    "recall": [
        {"n_pairs": 4, "vocab": 64},
        {"n_pairs": 3, "vocab": 64, "filler": "random"},
        {"n_pairs": 4, "vocab": 20, "rebind": 2},
        {"n_pairs": 5, "vocab": 40, "rebind": 3, "filler": "random", "mix_pairs": True},
        {"n_pairs": 6, "vocab": 40, "mix_pairs": True},
        {"vocab": 80, "mixture": ("17:2", "32:4:2", "48:3:1", "48:9:3")},
        {"vocab": 80, "filler": "random", "power_a": 1.0, "mixture": ("16:4", "48:3", "48:9")},
    ],
    "induction": [
        {"vocab": 2},
        {"vocab": 90},
        {"mode": "repeat"},
        {"mode": "repeat", "min_period": 5, "max_period": 5, "vocab": 30},
        {"mode": "repeat", "min_period": 6, "max_period": 30, "vocab": 4},
    ],
    "parity": [{"labels": "final"}, {"min_len": 3}],
    "mod_arith": [{"modulus": 2}, {"modulus": 10}, {"brackets": True}, {"running": True}],
    "word_problem": [
        *({"group": name} for name in ("z2", "z2xz2", "z3", "z6", "a5", "s5")),
        {"group": "s3", "generators": "swaps"},
        {"group": "s5", "generators": "swaps"},
    ],
}


def named(name, options):
    return pytest.param(name, options, id="-".join([name, *(f"{k}={v}" for k, v in options.items())]))


ALL = [named(name, options) for name in NAMES for options in [{}, *VARIANTS.get(name, [])]]
WITH_ORACLE = [case for case in ALL if case.values[0] not in NO_ORACLE]
cases = pytest.mark.parametrize(("name", "options"), ALL)
cases_with_oracle = pytest.mark.parametrize(("name", "options"), WITH_ORACLE)


# Files.


def test_every_registered_task_has_its_file():
    for entry in TASKS.values():
        file = ROOT / (entry.target.split(":")[0].replace(".", "/") + ".py")
        assert file.exists(), f"{entry.target} is registered and has no file"


@pytest.mark.parametrize("name", NAMES)
def test_module_offers_build_loaders_of_its_task(name):
    module = importlib.import_module(TASKS[name].target.split(":")[0])
    assert module.build_loaders.task_class is load(name)


# Data.


@cases
def test_same_stream_gives_the_same_examples(name, options):
    for length in some_lengths(build(name, **options)):
        first, again = (draw(build(name, **options), 20, length) for _ in range(2))
        assert first == again
    task = build(name, **options)
    assert draw(task, 20, length, seed=1) != again, "another seed gives other examples (of the longest length)"
    assert task.example(stream(task, "tests", 3), length) == draw(task, 1, length, seed=3)[0]


def test_another_process_draws_the_same_examples():
    """Keeps out `hash()` and set order, which differ from process to process."""
    script = "import json; from task_checks import fingerprints; print(json.dumps(fingerprints()))"
    env = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == fingerprints()


@cases
def test_splits_are_disjoint_and_heldout_sets_repeat_nothing(name, options):
    task = build(name, **options)
    assert not leaks(task, task.longest_length(), 30)


@cases_with_oracle
def test_oracle_solves_everything(name, options):
    task = build(name, **options)
    for length in some_lengths(task):
        assert not oracle_failures(task, draw(task, 200, length))


@cases
def test_alphabet_is_what_the_examples_use(name, options):
    task = build(name, **options)
    assert len(set(task.alphabet)) == len(task.alphabet)
    assert not alphabet_errors(task, draw(task, 3_000, task.longest_length()))
    assert set(task.score_among) <= set(task.alphabet)


@cases
def test_no_example_is_longer_than_max_chars(name, options):
    task = build(name, **options)
    for length in some_lengths(task):
        assert not too_long(task, draw(task, 500, length), length)
    assert task.max_tokens() == task.max_chars(task.longest_length()) + 2


@pytest.mark.parametrize(
    ("name", "options"),
    [case for case in ALL if case.values[0] in ("needle", "dyck", "addition", "reverse", "rle", "caesar")],
)
def test_max_chars_is_reached_at_short_lengths(name, options):
    task = build(name, **options)
    for length in (task.lengths[0], task.lengths[0] + 1):
        assert max(len(e.prompt) + len(e.answer) for e in draw(task, 3_000, length)) == task.max_chars(length)


@cases_with_oracle
def test_one_prompt_has_one_answer(name, options):
    task = build(name, **options)
    assert not ambiguous([e for length in some_lengths(task) for e in draw(task, 1_500, length)])


@cases
def test_examples_have_the_form_their_kind_and_slices_require(name, options):
    task = build(name, **options)
    assert task.labelled != task.writes_answer
    for e in draw(task, 50, task.longest_length()):
        assert (e.labels is None) == task.writes_answer
        produced = len(e.answer) if e.labels is None else len(e.labels)
        assert produced > 0
        assert len(task.scored_characters(e)) == produced + task.writes_answer, "an answer ends in <eos>"
        assert all(0 <= at < len(e.prompt) for at, _ in e.labels or ())
        assert e.gaps is None or len(e.gaps) == produced
        assert "length" not in e.meta
        for part in task.slices:
            if part.of == "gap" and part.level == "char":
                assert e.gaps is not None
            elif part.of not in ("length", "position"):
                assert part.of in e.meta, f"slice {part.of} is in no meta"
                assert part.level == "example" or len(e.meta[part.of]) == produced


@pytest.mark.parametrize(
    ("name", "options"),
    [case for case in ALL if draw(task := build(case.values[0], **case.values[1]), 1, task.longest_length())[0].gaps],
)
def test_gaps_lead_to_the_evidence(name, options):
    task = build(name, **options)
    for length in some_lengths(task):
        for e in draw(task, 60, length):
            assert not wrong_gaps(task, e)
    for wrong in (1, -1):
        shifted = [dataclasses.replace(e, gaps=tuple(gap + wrong for gap in e.gaps)) for e in draw(task, 20, length)]
        assert any(wrong_gaps(task, e) for e in shifted), "the check finds gaps that are one too long or too short"


@pytest.mark.parametrize("name", NAMES)
def test_small_layer_can_be_built_whole(name):
    """A default run must not end in an error about its own sizes. Held-out examples exist, and a batch holds 8 rows."""
    args = resolve(load(name))
    task = load(name)(args)
    from dataset.splits import check_train_size, draw_heldout

    for split, size in (("val", args.val_size), ("test", args.test_size)):
        examples, _ = draw_heldout(task, split, size, task.longest_length(), stream(task, split, args.seed))
        assert len(examples) == size
    check_train_size(task, args.train_size)
    assert task.max_tokens() * 8 <= args.batch_chars


# Scores.


@cases
def test_primary_metric_is_one_that_evaluation_gives(name, options):
    task = build(name, **options)
    given = {"exact_match", "token_acc"}
    assert set(task.aliases.values()) <= given | set(task.score_metrics)
    assert task.primary in given | set(task.aliases) | set(task.score_metrics)
    assert set(task.score_metrics.values()) <= {"higher", "lower"}


# A model may write anything: no number, no ASCII, thousands of characters.
GARBAGE = [
    "",
    " ",
    "-",
    ".",
    "--1",
    "1e5",
    "nan",
    "inf",
    "1_000",
    "٣",
    "½",
    ">>>",
    "x" * 5_000,
    "9" * 5_000,
    ",,,,,,,,",
]
GARBAGE += ["-" + "0" * 60, "ZZZZ", "\n", "0\n", "é" * 20]


@pytest.mark.parametrize(("name", "options"), [c for c in ALL if build(c.values[0], **c.values[1]).score_metrics])
def test_score_is_perfect_on_the_right_answer_and_defined_on_any_other(name, options):
    task = build(name, **options)
    # fourier_mix measures these two against the signal before it was quantised.
    rounding = {"nrmse": 0.2, "spectral_error": 0.2}
    for e in draw(task, 100, task.longest_length()):
        for metric, value in task.score(e.prompt, e.answer, e.answer, e.meta).items():
            perfect = value == 1 if task.score_metrics[metric] == "higher" else 0 <= value <= rounding.get(metric, 0)
            assert perfect, (metric, value, e)
    for e in draw(task, 5, task.longest_length()):
        for wrong in (*GARBAGE, e.answer[:-1], e.answer * 3, e.prompt, task.alphabet):
            values = task.score(e.prompt, wrong, e.answer, e.meta)
            assert values.keys() == task.score_metrics.keys()
            assert all(np.isfinite(v) and v >= 0 for v in values.values()), (wrong, values)
            assert values.get(task.primary, 0) <= 1


# Speed. Fresh training data must not slow the training loop down.


@cases
def test_drawing_has_no_python_loop_over_characters(name, options):
    """A bound on executed lines of Python, which does not depend on how busy the machine is."""
    task = build(name, **options)
    lines = lines_per_example(task, 1_000, task.longest_length())
    if name == "fibonacci":  # it writes one term after another
        assert lines <= 25 * task.args.n_terms
        return
    assert lines <= 100
    if task.lengths is not None:
        assert lines_per_example(task, 1_000, 4 * task.longest_length()) <= 1.5 * lines + 20


@pytest.mark.slow
@cases
def test_twenty_thousand_examples_take_about_a_second(name, options):
    """Four seconds allow for a busy machine."""
    task = build(name, **options)
    start = time.perf_counter()
    draw(task, 20_000, task.longest_length())
    assert time.perf_counter() - start < 4


# Docstrings.


@pytest.mark.parametrize("name", TASKS)
def test_docstring_states_what_a_reader_looks_for(name):
    for word in ("Alphabet:", "Length:", "Scored:", "Chance:", "First used by:"):
        assert f"\n{word} " in docstring(name), f"dataset/{name}.py does not say '{word}'"


@pytest.mark.parametrize("name", NAMES)
def test_docstring_states_the_uniform_level_of_the_defaults(name):
    """Keeps out: three docstrings left out <eos>, which is one of the symbols of a written answer."""
    found = re.search(r"^Chance: uniform \(1/(\d+)", docstring(name), flags=re.M)
    assert found, f"dataset/{name}.py does not begin its levels with 'uniform (1/N'"
    task = load(name)(resolve(load(name), preset={}))
    length = task.longest_length()
    examples = draw(task, 20, length)
    data = TaskData(task, CharTokenizer.build(task.alphabet), None, examples)
    assert chance_levels(data, examples)["uniform"]["token_acc"] == pytest.approx(1 / int(found[1]))


@pytest.mark.parametrize("name", NAMES)
def test_docstring_instances_are_true(name):
    found = instances(name)
    assert len(found) >= 2, f"dataset/{name}.py shows fewer than two instances of the form  'prompt' -> 'answer'"
    for options, prompt, result in found:
        task = build(name, **options)
        example = Example(prompt, result) if task.writes_answer else Example(prompt, labels=result)
        assert set(written(example)) <= set(task.alphabet)
        if name not in NO_ORACLE:
            assert task.solve(prompt) == result


def test_docstring_parser_reads_flags_and_labels():
    assert ({"mode": "lm"}, "()(({}))", ((0, ")"), (4, "}"), (5, ")"), (6, ")"))) in instances("dyck")
    assert ({"haystack": "words", "needle_len": 2}, "wdjkd fixvufu[i=L8] hhtke vqa oj?i=", "L8") in instances("needle")


def test_table_of_recall_is_true():
    prompt, labels = table(docstring("recall"))
    assert ({"n_pairs": 2, "vocab": 52}, prompt, labels) in instances("recall")
    assert build("recall", n_pairs=2, vocab=52).solve(prompt) == labels


@pytest.mark.parametrize("row", ["label", "input"])
def test_table_parser_refuses_a_cell_that_is_not_below_its_position(row):
    moved = docstring("recall").replace(f"    {row} ", f"    {row}  ", 1)
    with pytest.raises((AssertionError, IndexError)):
        table(moved)


# The base class.


class Parity(Task):
    """Bits, and the parity so far at every position. Written as a beginner would write it, with `example`."""

    Config = LengthConfig
    kind = "labels"
    primary = "token_acc"
    slices = (Slice("position", "place", level="char"),)

    def example(self, rng, length):
        prompt = "".join(rng.choice(list("01"), length))
        return Example(prompt, labels=self.solve(prompt))

    def solve(self, prompt):
        return tuple((i, str(prompt[: i + 1].count("1") % 2)) for i in range(len(prompt)))


class Many(Parity):
    """The same task, written with `examples`."""

    example = Task.example

    def examples(self, rng, n, length):
        return [Parity.example(self, rng, length) for _ in range(n)]


def test_a_task_writes_examples_or_example_and_gets_the_other():
    one, many = (cls(resolve(cls, min_len=8, max_len=12)) for cls in (Parity, Many))
    drawn = one.examples(np.random.default_rng(0), 5, 12)
    assert len(drawn) == 5
    assert drawn == many.examples(np.random.default_rng(0), 5, 12)
    assert one.example(np.random.default_rng(0), 12) == many.example(np.random.default_rng(0), 12) == drawn[0]


@pytest.mark.parametrize("call", [lambda task: task.example(None, 8), lambda task: task.examples(None, 2, 8)])
def test_a_task_that_writes_neither_is_told_what_to_define(call):
    """Keeps out the endless recursion of two methods that are defined by each other."""

    class Nothing(Task):
        Config = LengthConfig

    with pytest.raises(
        NotImplementedError, match=r"Nothing must define examples\(self, rng, n, length\), or example\("
    ):
        call(Nothing(resolve(Nothing)))


def test_a_small_label_task_passes_the_same_checks():
    task = Parity(resolve(Parity, min_len=8, max_len=12))
    examples = draw(task, 200, 12)
    assert not oracle_failures(task, examples)
    assert not alphabet_errors(task, examples)  # the alphabet is the default, which scans examples
    assert not too_long(task, examples, 12)
    assert not leaks(task, 12, 30)
    assert not ambiguous(examples)


# The checks can fail.


class Broken(Parity):
    """Wrong in every way that the checks look for."""

    alphabet = "01x"

    def example(self, rng, length):
        prompt = "".join(rng.choice(list("01"), length))
        return Example(prompt, labels=((0, str(rng.integers(2))),), meta={"draw": int(rng.integers(10**9))})

    def key(self, example):
        return f"{example.prompt} {example.meta['draw']}"

    def solve(self, prompt):
        return ((0, "0"),)

    def max_chars(self, length):
        return length - 1


def test_every_check_fails_on_a_broken_task():
    task = Broken(resolve(Broken, max_len=8))
    examples = draw(task, 200, 3)
    assert oracle_failures(task, examples)
    assert alphabet_errors(task, examples) == {"x"}
    assert too_long(task, examples, 3)
    assert ambiguous(examples)
    assert leaks(task, 3, 30), "a key that is finer than the prompt puts one prompt into several splits"


def test_line_count_finds_a_loop_over_characters():
    task = Parity(resolve(Parity, min_len=8, max_len=64))
    lines = lines_per_example(task, 50, 64)
    assert lines > 64
    assert lines_per_example(task, 50, 4 * 64) > 1.5 * lines + 20


def test_gap_check_finds_missing_gaps_and_tasks_without_a_rule():
    task = build("needle")
    e = draw(task, 1, 64)[0]
    assert wrong_gaps(task, dataclasses.replace(e, gaps=e.gaps[1:])) == ["number of gaps"]
    parity = Parity(resolve(Parity))
    with pytest.raises(ValueError, match="no rule for the gaps of Parity"):
        wrong_gaps(parity, Example("11", labels=((0, "1"),), gaps=(0,)))


def test_uniformity_check_fails_on_skewed_or_foreign_values():
    rng = np.random.default_rng(0)
    assert is_uniform(rng.integers(0, 10, 8_000).tolist(), range(10))
    assert not is_uniform(np.minimum(rng.integers(0, 11, 8_000), 9).tolist(), range(10))
    assert not is_uniform([0, 1, 2], range(2))
