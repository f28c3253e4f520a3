"""Every registered task (language tasks apart): same data in every process, disjoint splits, a right oracle, an honest alphabet.

    python -m pytest tests/dataset/test_tasks.py

The generic tests run over dataset.TASKS, so a new task gets them by its line there; a task's own distribution is checked further
below. The checks are functions that return what is wrong, and the last section shows each of them to fail on a broken task.
"""

import dataclasses
import importlib
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from task_checks import (
    NAMES,
    alphabet_errors,
    ambiguous,
    bounded_walks,
    build,
    digit_count,
    draw,
    fingerprints,
    instances,
    is_distributed,
    is_uniform,
    leaks,
    load,
    longest,
    oracle_failures,
    some_lengths,
    too_long,
    wrong_gaps,
)

from dataset import TASKS
from dataset.seeds import digest, stream
from dataset.splits import check_train_size, draw_heldout, draw_train, split_of
from dataset.task import Example, LengthConfig, Slice, Task, option
from src.flags.fields import UserError, resolve

ROOT = Path(__file__).resolve().parents[2]
NO_ORACLE = ("fourier_mix",)  # its signal is not determined by the quantised prompt

# Options beside the defaults under which the generic tests run as well.
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
}


CASES = [
    pytest.param(name, options, id="-".join([name, *(f"{k}={v}" for k, v in options.items())]))
    for name in NAMES
    for options in [{}, *VARIANTS.get(name, [])]
]


# Checks: each returns what is wrong, an empty list or set when all is well.


# Generic tests.


def test_every_registered_task_has_its_file():
    for entry in TASKS.values():
        assert (ROOT / (entry.target.split(":")[0].replace(".", "/") + ".py")).exists(), (
            f"{entry.target} is registered and has no file"
        )


@pytest.mark.parametrize("name", NAMES)
def test_module_offers_build_loaders_of_its_task(name):
    module = importlib.import_module(TASKS[name].target.split(":")[0])
    assert module.build_loaders.task_class is load(name)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_same_stream_gives_the_same_examples(name, options):
    for length in some_lengths(build(name, **options)):
        first, again = (draw(build(name, **options), 20, length) for _ in range(2))
        assert first == again
    task = build(name, **options)
    assert (
        draw(task, 20, length, seed=1) != again
    )  # at the longest length, where there is more than one example to draw
    assert task.example(stream(task, "tests", 3), length) == draw(task, 1, length, seed=3)[0]


def test_another_process_draws_the_same_examples():
    script = "import json, runpy; print(json.dumps(__import__('task_checks').fingerprints()))"
    env = {**os.environ, "PYTHONHASHSEED": "12345"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=env, capture_output=True, text=True, check=True, timeout=120
    )
    assert json.loads(done.stdout) == fingerprints()


@pytest.mark.parametrize(("name", "options"), CASES)
def test_splits_are_disjoint_and_heldout_sets_repeat_nothing(name, options):
    task = build(name, **options)
    assert not leaks(task, longest(task), 30)


@pytest.mark.parametrize(("name", "options"), [case for case in CASES if case.values[0] not in NO_ORACLE])
def test_oracle_solves_everything(name, options):
    task = build(name, **options)
    for length in some_lengths(task):
        assert not oracle_failures(task, draw(task, 200, length))


@pytest.mark.parametrize(("name", "options"), CASES)
def test_alphabet_is_what_the_examples_use(name, options):
    task = build(name, **options)
    assert len(set(task.alphabet)) == len(task.alphabet)
    assert not alphabet_errors(task, draw(task, 3_000, longest(task)))
    assert set(task.score_among) <= set(task.alphabet)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_no_example_is_longer_than_max_chars(name, options):
    task = build(name, **options)
    for length in some_lengths(task):
        assert not too_long(task, draw(task, 500, length), length)
    assert task.max_tokens() == task.max_chars(longest(task)) + 2


@pytest.mark.parametrize(
    ("name", "options"),
    [case for case in CASES if case.values[0] in ("needle", "dyck", "addition", "reverse", "rle", "caesar")],
)
def test_max_chars_is_reached_at_short_lengths(name, options):
    task = build(name, **options)
    for length in (task.lengths[0], task.lengths[0] + 1):
        assert max(len(e.prompt) + len(e.answer) for e in draw(task, 3_000, length)) == task.max_chars(length)


@pytest.mark.parametrize(("name", "options"), [case for case in CASES if case.values[0] not in NO_ORACLE])
def test_one_prompt_has_one_answer(name, options):
    task = build(name, **options)
    assert not ambiguous([e for length in some_lengths(task)[:2] for e in draw(task, 3_000, length)])


@pytest.mark.parametrize(("name", "options"), CASES)
def test_examples_have_the_form_their_kind_and_slices_ask_for(name, options):
    task = build(name, **options)
    for e in draw(task, 50, longest(task)):
        assert (e.labels is None) == (task.kind == "answer")
        produced = len(e.answer) if e.labels is None else len(e.labels)
        assert produced > 0
        assert all(0 <= at < len(e.prompt) for at, _ in e.labels or ())
        assert e.gaps is None or len(e.gaps) == produced
        assert "length" not in e.meta
        for part in task.slices:
            if part.of == "gap" and part.level == "char":
                assert e.gaps is not None
            elif part.of not in ("length", "position"):
                assert part.of in e.meta, f"slice {part.of} is in no meta"
                assert part.level == "example" or len(e.meta[part.of]) == produced


@pytest.mark.parametrize(("name", "options"), CASES)
def test_primary_metric_is_one_that_evaluation_gives(name, options):
    task = build(name, **options)
    given = {"exact_match", "token_acc"}
    assert set(task.aliases.values()) <= given | set(task.score_metrics)
    assert task.primary in given | set(task.aliases) | set(task.score_metrics)
    assert set(task.score_metrics.values()) <= {"higher", "lower"}


@pytest.mark.parametrize(("name", "options"), CASES)
def test_score_is_perfect_on_gold_and_bears_any_answer(name, options):
    task = build(name, **options)
    if not task.score_metrics:
        pytest.skip("no metric of its own needs the decoded answer")
    perfect = {metric: 1.0 if better == "higher" else 0.0 for metric, better in task.score_metrics.items()}
    for e in draw(task, 50, longest(task)):
        if name not in NO_ORACLE:
            assert task.score(e.prompt, e.answer, e.answer, e.meta) == perfect
        for wrong in ("", e.answer[:-1], e.answer + e.answer, e.prompt, task.alphabet, "-", "."):
            values = task.score(e.prompt, wrong, e.answer, e.meta)
            assert values.keys() == task.score_metrics.keys()
            assert np.isfinite(list(values.values())).all()
            assert 0 <= values.get(task.primary, 0) <= 1


@pytest.mark.parametrize("name", NAMES)
def test_drawing_is_fast(name):
    """Fresh training data must not hold the training loop up; the contract is 20,000 examples a second, the bound 6 times that for a busy machine."""
    task = build(name, **({"context_len": 512} if name == "needle" else {}))
    seconds = []
    for seed in range(3):
        start = time.perf_counter()
        draw(task, 2_000, longest(task), seed)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.6


# Docstrings.


@pytest.mark.parametrize("name", NAMES)
def test_docstring_instances_are_true(name):
    found = instances(name)
    assert len(found) >= 2, f"dataset/{name}.py shows fewer than two instances of the form  'prompt' -> 'answer'"
    for options, prompt, result in found:
        task = build(name, **options)
        written = prompt + (result if isinstance(result, str) else "".join(c for _, c in result))
        assert set(written) <= set(task.alphabet)
        if name not in NO_ORACLE:
            assert task.solve(prompt) == result


def test_docstring_parser_reads_flags_and_labels():
    assert ({"mode": "lm"}, "()(({}))", ((0, ")"), (4, "}"), (5, ")"), (6, ")"))) in instances("dyck")
    assert ({"haystack": "words", "needle_len": 2}, "wdjkd fixvufu[i=L8] hhtke vqa oj?i=", "L8") in instances("needle")


# Gaps.


@pytest.mark.parametrize(
    ("name", "options"), [case for case in CASES if case.values[0] in ("needle", "dyck", "reverse")]
)
def test_gaps_point_at_the_evidence(name, options):
    task = build(name, **options)
    for length in some_lengths(task):
        for e in draw(task, 100, length):
            assert not wrong_gaps(task, e)


# Distributions.


# (task, options, what is uniform, its value in an example, the values allowed)
UNIFORM = [
    ("needle", {}, "start", lambda e: e.prompt.index("["), range(64 - 8 + 1)),
    (
        "needle",
        {"n_distractors": 3, "min_len": 32},
        "start",
        lambda e: e.prompt.index(f"[{e.prompt[-2]}="),
        range(64 - 8 + 1),
    ),
    (
        "needle",
        {"n_distractors": 2, "max_len": 24, "min_len": 24},
        "start",
        lambda e: e.prompt.index(f"[{e.prompt[-2]}="),
        (0, 8, 16),
    ),
    ("needle", {"n_distractors": 3, "min_len": 32}, "key", lambda e: e.prompt[-2], "abcdefghijklmnopqrstuvwxyz"),
    ("needle", {}, "key", lambda e: e.prompt[-2], "abcdefghijklmnopqrstuvwxyz"),
    ("needle", {}, "value", lambda e: e.answer[3], "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"),
    (
        "needle",
        {},
        "hay",
        lambda e: e.prompt.replace(e.prompt[e.prompt.index("[") : e.prompt.index("]") + 1], "")[28],
        "abcdefghijklmnopqrstuvwxyz ",
    ),
    ("dyck", {}, "final depth", lambda e: len(e.answer), range(1, 9)),
    ("dyck", {"max_len": 5}, "final depth", lambda e: len(e.answer), range(1, 6)),
    ("dyck", {}, "kind", lambda e: e.prompt[0], "([{"),
    ("dyck", {"mode": "lm", "n_types": 4}, "kind", lambda e: e.labels[-1][1], ")]}>"),
    (
        "addition",
        {"n_digits": 4},
        "digit counts",
        lambda e: tuple(map(len, e.prompt[:-1].split("+"))),
        [(a, b) for a in range(1, 5) for b in range(1, 5)],
    ),
    ("addition", {"n_digits": 4, "zero_pad": True}, "digit count", lambda e: digit_count(e.prompt[:4]), range(1, 5)),
    ("reverse", {}, "letter", lambda e: e.answer[17], "abcdefghijklmnopqrstuvwxyz"),
    ("rle", {}, "letter", lambda e: e.answer[0], "abcdefghijklmnopqrstuvwxyz"),
    ("rle", {}, "step to the next letter", lambda e: (ord(e.answer[2]) - ord(e.answer[0])) % 26, range(1, 26)),
    ("caesar", {}, "shift", lambda e: int(e.prompt.split(":")[0]), range(1, 26)),
    ("caesar", {"max_shift": 7}, "shift", lambda e: int(e.prompt.split(":")[0]), range(1, 8)),
    ("caesar", {}, "first word", lambda e: len(e.answer.split()[0]), range(2, 9)),
    ("trigo", {}, "function", lambda e: e.prompt[:3], ("sin", "cos", "tan")),
    ("fibonacci", {}, "first start value", lambda e: int(e.prompt.split(",")[0]), range(100)),
    ("poly", {}, "x", lambda e: int(e.prompt.split("x=")[1][:-1]), range(-9, 10)),
    ("poly", {"degree": 4}, "degree", lambda e: e.meta["degree"], range(1, 5)),
    ("fourier_mix", {}, "K", lambda e: e.meta["waves"], (1, 2, 3)),
]
UNIFORM = [row for row in UNIFORM if row[0] in NAMES]


@pytest.mark.parametrize(
    ("name", "options", "what", "value", "allowed"),
    UNIFORM,
    ids=[f"{row[0]}-{row[2]}-{i}" for i, row in enumerate(UNIFORM)],
)
def test_what_should_be_uniform_is(name, options, what, value, allowed):
    task = build(name, **options)
    assert is_uniform(map(value, draw(task, 8_000, longest(task))), allowed), f"{what} of {name} is not uniform"


def test_needle_haystack_has_exactly_its_length_and_one_match():
    for options in ({}, {"haystack": "words"}, {"haystack": "repeat"}, {"n_distractors": 5, "min_len": 48}):
        task = build("needle", **options)
        for length in some_lengths(task):
            for e in draw(task, 100, length):
                haystack, query = e.prompt[:length], e.prompt[length:]
                needles = re.findall(r"\[([a-z])=([A-Z0-9]{4})\]", haystack)
                assert query == f"?{query[1]}="
                assert len(needles) == len({key for key, _ in needles}) == 1 + options.get("n_distractors", 0)
                assert dict(needles)[query[1]] == e.answer
                assert not set(re.sub(r"\[[a-z]=[A-Z0-9]{4}\]", "", haystack)) - set("abcdefghijklmnopqrstuvwxyz ")
                assert e.meta["gap"] == length - haystack.index(f"[{query[1]}=")
                assert 0 <= e.meta["depth"] <= 100


def test_needle_distractors_lie_anywhere_beside_the_needle():
    """Two needles of 8 in 20 places: each start of the first leaves certain starts of the second, all equally likely."""
    task = build("needle", n_distractors=1, min_len=16, max_len=20)
    pairs = [
        (e.prompt.index(f"[{e.prompt[-2]}="), [m.start() for m in re.finditer(r"\[", e.prompt)])
        for e in draw(task, 8_000, 20)
    ]
    firsts = [first for first in range(13) if first >= 8 or first <= 4]
    assert is_uniform([first for first, _ in pairs], firsts)
    for first in firsts:
        seconds = [s for start, both in pairs if start == first for s in both if s != start]
        assert is_uniform(seconds, [s for s in range(13) if abs(s - first) >= 8])


def test_needle_haystack_kinds_hold_what_they_say():
    strip = re.compile(r"\[.*\]")
    words = [strip.sub("", e.prompt[:64]) for e in draw(build("needle", haystack="words"), 200, 64)]
    assert all(re.fullmatch(r"[a-z]{2,8}( [a-z]{2,8})*", text) for text in words)
    assert len(words) == len(set(words))
    assert len({strip.sub("", e.prompt[:64]) for e in draw(build("needle", haystack="repeat"), 200, 64)}) == 1


def test_dyck_walks_are_equally_likely():
    task = build("dyck", n_types=1, max_depth=3)
    examples = draw(task, 12_000, 8)
    for depth in (1, 2, 3):
        assert is_uniform(
            [e.prompt[:-1] for e in examples if len(e.answer) == depth], bounded_walks(8 - depth % 2, depth, 3)
        )
    balanced = draw(build("dyck", n_types=1, max_depth=3, mode="lm"), 4_000, 9)
    assert is_uniform([e.prompt for e in balanced], bounded_walks(8, 0, 3))


@pytest.mark.parametrize("options", [{}, {"noise_prob": 0.3}, {"max_depth": 2}, {"mode": "lm"}])
def test_dyck_strings_keep_to_length_parity_and_depth(options):
    task = build("dyck", **options)
    for length in some_lengths(task):
        for e in draw(task, 100, length):
            brackets = task.key(e).replace("=", "")
            heights = np.cumsum([1 if c in "([{<" else -1 for c in brackets])
            assert len(brackets) == length - (length - len(e.answer)) % 2
            assert heights.min() >= 0
            assert heights.max() == e.meta["max_depth"] <= task.args.max_depth
            assert heights[-1] == len(e.answer)
            assert e.meta.get("final_depth", 0) == len(e.answer)


def test_dyck_fillers_follow_brackets_at_their_rate_and_splits_ignore_them():
    task = build("dyck", noise_prob=0.3)
    examples = draw(task, 300, 64)
    text = "".join(e.prompt for e in examples)
    brackets = sum(c in "()[]{}" for c in text)
    assert abs(text.count(".") / brackets - 0.3) < 4 * (0.21 / brackets) ** 0.5
    assert ".." not in text
    assert task.key(Example("(.[=")) == task.key(Example("([.=")) == "([="
    assert draw(build("dyck", noise_prob=1.0), 1, 4)[0].prompt[1::2][:-1].strip(".") == ""


def test_dyck_closer_acc_counts_closers():
    task = build("dyck")
    assert task.score("([=", "])", "])", {}) == {"closer_acc": 1.0}
    assert task.score("([=", "]", "])", {}) == {"closer_acc": 0.5}
    assert task.score("([=", ")]", "])", {}) == {"closer_acc": 0.0}


def test_dyck_lm_scores_closers_and_trains_everything():
    task = build("dyck", mode="lm")
    assert (task.kind, task.primary, task.train_all, task.aliases) == (
        "labels",
        "token_acc",
        True,
        {"closer_acc": "token_acc"},
    )
    assert set(task.score_among) == set(")]}")
    for e in draw(task, 50, 64):
        assert e.labels == tuple((i, c) for i, c in enumerate(e.prompt[1:]) if c in ")]}")
    complete = build("dyck")
    assert (complete.kind, complete.primary, complete.train_all, complete.score_among) == (
        "answer",
        "exact_match",
        False,
        "",
    )


def test_addition_meta_counts_digits_and_carries():
    for options in (
        {"n_digits": 5},
        {"n_digits": 5, "zero_pad": True},
        {"n_digits": 9, "base": 2, "reverse_answer": True},
    ):
        task = build("addition", **options)
        for e in draw(task, 300, task.args.n_digits):
            one, two = (int(text, task.args.base) for text in e.prompt[:-1].split("+"))
            carry, run, chain = 0, 0, 0
            while one or two:
                carry = (one % task.args.base + two % task.args.base + carry) // task.args.base
                run = run + 1 if carry else 0
                chain = max(chain, run)
                one, two = one // task.args.base, two // task.args.base
            assert e.meta == {"digits": max(map(digit_count, e.prompt[:-1].split("+"))), "carry_chain": chain}


def test_addition_forms():
    plain = build("addition", n_digits=3)
    assert plain.solve("999+1=") == "1000"
    assert plain.solve("0+0=") == "0"
    assert build("addition", reverse_answer=True).solve("999+1=") == "0001"
    assert build("addition", zero_pad=True).solve("000+007=") == "0007"
    assert build("addition", base=16).solve("f+1=") == "10"
    padded = draw(build("addition", n_digits=3, zero_pad=True), 50, 3)
    assert all(re.fullmatch(r"\d{3}\+\d{3}=", e.prompt) and len(e.answer) == 4 for e in padded)
    assert not any(re.search(r"\b0\d", e.prompt) for e in draw(plain, 2_000, 3))
    assert is_uniform([e.prompt[0] for e in draw(plain, 8_000, 3) if e.prompt[1] != "+"], "123456789")


def test_addition_key_is_the_unordered_pair_however_it_is_written():
    keys = {
        build("addition", **options).key(Example(prompt))
        for options, prompt in (
            ({}, "12+7="),
            ({}, "7+12="),
            ({"zero_pad": True}, "012+007="),
            ({"reverse_answer": True}, "7+12="),
        )
    }
    assert len(keys) == 1
    assert build("addition").key(Example("1+27=")) not in keys


def test_addition_leaves_small_operands_out_of_the_test_and_names_them():
    task = build("addition", n_digits=4)
    examples, left_out = draw_heldout(task, "test", 2_000, 4, stream(task, "test", 0))
    assert left_out == ["1+1 digits", "1+2 digits"]
    assert all(task.stratum(e) not in left_out for e in examples)
    assert {"1+3 digits", "2+2 digits", "4+4 digits"} <= {task.stratum(e) for e in examples}


@pytest.mark.parametrize("run_p", [0.5, 0.2, 0.9])
def test_rle_runs_are_geometric_and_cut_off_above_nine(run_p):
    task = build("rle", run_p=run_p)
    examples = draw(task, 8_000, 64)
    whole = 1 - (1 - run_p) ** 9
    assert is_distributed(
        [int(e.answer[3]) for e in examples], {r: run_p * (1 - run_p) ** (r - 1) / whole for r in range(1, 10)}
    )
    for e in examples[:300]:
        runs = re.findall(r"([a-z])([1-9])", e.answer)
        assert all(a != b for (a, _), (b, _) in pairwise(runs))
        assert sum(int(count) for _, count in runs) == len(e.prompt) - 1 == 64
        assert e.meta == {"runs": len(runs), "longest_run": max(int(count) for _, count in runs)}


def test_caesar_texts_are_words_of_exactly_the_length():
    task = build("caesar")
    for length in (2, 3, 4, 5, 8, 9, 10, 33, 64):
        for e in draw(task, 200, length):
            assert re.fullmatch(r"\d+:[a-z]{2,8}( [a-z]{2,8})*>", e.prompt)
            assert len(e.answer) == length
    assert task.solve("7:attack at dawn>") == "haahjr ha khdu"


# Splits and seeds.


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("reverse", {"max_len": 2}),
        ("rle", {"max_len": 2}),
        ("rle", {"max_len": 2, "run_p": 1.0}),
        ("caesar", {"max_len": 2, "max_shift": 2}),
        ("addition", {"n_digits": 1}),
        ("addition", {"n_digits": 3, "base": 2}),
        ("dyck", {"n_types": 2, "max_len": 4, "max_depth": 3}),
        ("dyck", {"n_types": 2, "max_len": 5, "mode": "lm"}),
        ("needle", {"needle_len": 1, "min_len": 6, "max_len": 6, "haystack": "repeat"}),
        ("needle", {"needle_len": 1, "min_len": 5, "max_len": 5}),
        ("fibonacci", {"max_start": 9}),
        ("trigo", {}),
    ],
    ids=str,
)
def test_n_keys_is_the_number_of_keys_that_occur(name, options):
    task = build(name, **options)
    total = task.n_keys()
    assert len({task.key(e) for e in draw(task, 40 * total, longest(task))}) == total


@pytest.mark.parametrize("name", NAMES)
def test_n_keys_of_large_settings_is_none_or_fits_a_float(name):
    total = build(name, context_len=512).n_keys()
    assert total is None or float(total) > 0


@pytest.mark.parametrize("name", NAMES)
def test_small_layer_has_the_heldout_examples_it_asks_for(name):
    """The run without flags on a CPU must not end in an error about its own defaults."""
    args = resolve(load(name))
    task = load(name)(args)
    for split, size in (("val", args.val_size), ("test", args.test_size)):
        assert len(draw_heldout(task, split, size, longest(task), stream(task, split, args.seed))[0]) == size
    check_train_size(task, args.train_size)


def test_impossible_splits_are_user_errors():
    task = build("reverse", max_len=2)
    with pytest.raises(UserError, match=r"--test_size: got 500, allowed: at most \d+"):
        draw_heldout(task, "test", 500, 2, stream(task, "test", 0))
    with pytest.raises(UserError, match="--train_size: got 600"):
        check_train_size(task, 600)
    check_train_size(task, 500)
    word = next(w for w in "abcdefghij" if split_of(w) != "train")
    with pytest.raises(UserError, match="no training example"):
        draw_train(OneKey(resolve(OneKey, word=word)), 1, None, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("needle", {"min_len": 7}, "--min_len: got 7, allowed: >= 8"),
        ("needle", {"n_distractors": 1, "min_len": 15}, "--min_len: got 15, allowed: >= 16"),
        ("needle", {"needle_len": 20}, "use --min_len 24"),
        ("needle", {"n_distractors": 26, "min_len": 64}, "--n_distractors"),
        ("needle", {"max_len": 8}, "--min_len: got 16"),
        ("dyck", {"n_types": 5}, "--n_types"),
        ("dyck", {"mode": "lm", "max_len": 1}, "--max_len: got 1"),
        ("dyck", {"noise_prob": 1.5}, "--noise_prob"),
        ("dyck", {"min_len": 65}, "--min_len: got 65"),
        ("addition", {"base": 17}, "--base"),
        ("addition", {"n_digits": 0}, "--n_digits"),
        ("reverse", {"min_len": 0}, "--min_len"),
        ("rle", {"run_p": 0.0}, "--run_p"),
        ("caesar", {"min_len": 1}, "--min_len"),
        ("caesar", {"max_shift": 26}, "--max_shift"),
    ],
    ids=str,
)
def test_flags_that_do_not_fit_are_user_errors(name, options, message):
    with pytest.raises(UserError) as caught:
        build(name, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_needle_refuses_a_length_that_cannot_hold_it():
    with pytest.raises(UserError, match="length 7: too short"):
        draw(build("needle"), 1, 7)


def test_digest_and_split_are_the_same_on_every_machine():
    """Literals: a change here moves every key to another split and every seed to other data."""
    assert digest("needle", 1) == 15562188760133251773
    assert digest([("a", 1), ("b", "x")], "train") == 11645555052539882874
    assert digest("é") == 18103024751066638219
    assert [split_of(key) for key in ("hello>", "123+45", "é", "", "i", "b")] == ["train"] * 4 + ["val", "test"]


def test_splits_are_80_10_10():
    counts = Counter(split_of(f"key {i}") for i in range(20_000))
    assert is_distributed(counts.elements(), {"train": 0.8, "val": 0.1, "test": 0.1})


def test_streams_depend_on_name_seed_and_task_settings_only():
    first = stream(build("reverse"), "train", 1).integers(2**62)
    assert stream(build("reverse", d_model=32, lr=0.1, train_size=7), "train", 1).integers(2**62) == first
    others = [
        stream(build("reverse"), "train", 2),
        stream(build("reverse"), "val", 1),
        stream(build("reverse", max_len=9), "train", 1),
    ]
    assert all(rng.integers(2**62) != first for rng in others)


# A task with labels, defined here.


class Parity(Task):
    """Bits; at every position the parity so far."""

    Config = LengthConfig
    kind = "labels"
    primary = "token_acc"
    slices = (Slice("position", "place", level="char"),)

    def example(self, rng, length):
        prompt = "".join(rng.choice(list("01"), length))
        return Example(prompt, labels=self.solve(prompt))

    def solve(self, prompt):
        return tuple((i, str(prompt[: i + 1].count("1") % 2)) for i in range(len(prompt)))


class OneKey(Task):
    """Always the same key."""

    @dataclasses.dataclass(frozen=True)
    class Config:
        word: str = option("a", "the key")

    def example(self, rng, length):
        return Example(self.args.word, "x")


def test_a_small_label_task_passes_the_same_checks():
    task = Parity(resolve(Parity, min_len=8, max_len=12))
    examples = draw(task, 200, 12)
    assert not oracle_failures(task, examples)
    assert not alphabet_errors(task, examples)  # found by the default, which scans examples
    assert not too_long(task, examples, 12)
    assert not leaks(task, 12, 30)
    assert not ambiguous(examples)


# The checks themselves can fail.


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


@pytest.mark.parametrize("name", ["needle", "dyck", "reverse"])
def test_gap_check_fails_on_shifted_gaps(name):
    task = build(name)
    e = draw(task, 1, 64)[0]
    assert wrong_gaps(task, dataclasses.replace(e, gaps=tuple(gap + 1 for gap in e.gaps)))
    assert wrong_gaps(task, dataclasses.replace(e, gaps=e.gaps[1:]))


def test_uniformity_check_fails_on_skewed_or_foreign_values():
    rng = np.random.default_rng(0)
    assert is_uniform(rng.integers(0, 10, 8_000).tolist(), range(10))
    assert not is_uniform(np.minimum(rng.integers(0, 11, 8_000), 9).tolist(), range(10))
    assert not is_uniform([0, 1, 2], range(2))
