"""What must be uniform in every task, and what is special to needle, dyck, addition, rle and caesar.

python -m pytest tests/dataset/test_string_tasks.py
"""

import re
from itertools import pairwise

import numpy as np
import pytest
from task_checks import bounded_walks, build, digit_count, draw, is_distributed, is_uniform, some_lengths

from dataset.seeds import stream
from dataset.splits import draw_heldout
from dataset.task import Example

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
    ("copy", {}, "letter", lambda e: e.answer[17], "abcdefghijklmnopqrstuvwxyz"),
    ("sort", {}, "digit", lambda e: e.prompt[17], "0123456789"),
    ("trigo", {}, "function", lambda e: e.prompt[:3], ("sin", "cos", "tan")),
    ("fibonacci", {}, "first start value", lambda e: int(e.prompt.split(",")[0]), range(100)),
    ("poly", {}, "x", lambda e: int(e.prompt.split("x=")[1][:-1]), range(-9, 10)),
    ("poly", {"degree": 4}, "degree", lambda e: e.meta["degree"], range(1, 5)),
    ("fourier_mix", {}, "K", lambda e: e.meta["waves"], (1, 2, 3)),
]


@pytest.mark.parametrize(
    ("name", "options", "what", "value", "allowed"),
    UNIFORM,
    ids=[f"{row[0]}-{row[2]}-{i}" for i, row in enumerate(UNIFORM)],
)
def test_what_should_be_uniform_is(name, options, what, value, allowed):
    task = build(name, **options)
    assert is_uniform(map(value, draw(task, 8_000, task.longest_length())), allowed), f"{what} of {name} is not uniform"


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
    """Two needles of 8 characters in 20 places.

    Each start of the first leaves certain starts of the second, and all of them must be equally likely.
    """
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
    assert (task.labelled, task.primary, task.train_all) == (True, "token_acc", True)
    assert task.aliases == {"closer_acc": "token_acc"}
    assert set(task.score_among) == set(")]}")
    for e in draw(task, 50, 64):
        assert e.labels == tuple((i, c) for i, c in enumerate(e.prompt[1:]) if c in ")]}")
    complete = build("dyck")
    assert (complete.writes_answer, complete.primary, complete.train_all) == (True, "exact_match", False)
    assert complete.score_among == ""


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
