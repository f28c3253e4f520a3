"""Splits, seeds and numbers of keys, and the flags and lengths that a task refuses.

python -m pytest tests/dataset/test_splits.py
"""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from task_checks import NAMES, build, draw, is_distributed

from dataset.seeds import digest, stream
from dataset.splits import check_train_size, draw_heldout, draw_train, split_of
from dataset.task import Example, Task, option
from src.flags.fields import UserError
from src.flags.run_flags import resolve


class OneKey(Task):
    """Always the same key."""

    @dataclasses.dataclass(frozen=True)
    class Config:
        word: str = option("a", "the key")

    def example(self, rng, length):
        return Example(self.args.word, "x")


# Keys.


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
        ("copy", {"max_len": 2}),
        ("sort", {"max_len": 3}),
        ("selective_copy", {"n_data": 2, "n_symbols": 3, "max_len": 5}),
        ("recall", {"n_pairs": 2, "vocab": 4, "max_len": 11}),
        ("recall", {"n_pairs": 2, "vocab": 6, "rebind": 1, "max_len": 10}),
        ("recall", {"n_pairs": 2, "vocab": 6, "mix_pairs": True, "max_len": 8}),
        ("recall", {"vocab": 4, "mixture": ("8:1", "8:2", "4:1")}),
        ("induction", {"vocab": 3, "max_len": 5}),
        ("parity", {"max_len": 6}),
        ("word_problem", {"group": "s3", "max_len": 3}),
        ("mod_arith", {"running": True, "max_len": 5}),
        ("trigo", {}),
    ],
    ids=str,
)
def test_n_keys_is_the_number_of_keys_that_occur(name, options):
    task = build(name, **options)
    total = task.n_keys()
    assert len({task.key(e) for e in draw(task, 40 * total, task.longest_length())}) == total


@pytest.mark.parametrize("name", NAMES)
def test_n_keys_of_large_settings_is_none_or_fits_a_float(name):
    total = build(name, context_len=512).n_keys()
    assert total is None or float(total) > 0


# Splits.


def test_impossible_splits_are_user_errors():
    task = build("reverse", max_len=2)
    with pytest.raises(UserError, match=r"--test_size: got 500, allowed: at most \d+"):
        draw_heldout(task, "test", 500, 2, stream(task, "test", 0))
    with pytest.raises(UserError, match="--train_size: got 600"):
        check_train_size(task, 600)
    check_train_size(task, 500)
    with pytest.raises(UserError, match="--train_size: got 5000"):
        check_train_size(build("sort", max_len=5), 5_000)
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
        ("selective_copy", {"n_data": 65}, "--max_len: got 64, allowed: >= 65"),
        ("selective_copy", {"min_len": 8}, "--min_len: got 8, allowed: >= 16"),
        ("selective_copy", {"min_len": 65}, "--min_len: got 65"),
        ("selective_copy", {"n_symbols": 27}, "--n_symbols"),
        ("recall", {"n_pairs": 17}, "--context_len: got 64, allowed: >= 68"),
        ("recall", {"n_pairs": 4, "max_len": 15}, "--max_len: got 15, allowed: >= 16"),
        ("recall", {"n_pairs": 4, "min_len": 15}, "--min_len: got 15, allowed: >= 16"),
        ("recall", {"n_pairs": 4, "rebind": 5}, "--rebind: got 5, allowed: at most 4"),
        ("recall", {"n_pairs": 4, "rebind": 2, "vocab": 10}, "--vocab: got 10, allowed: >= 12"),
        ("recall", {"vocab": 63}, "--vocab: got 63, allowed: an even number"),
        ("recall", {"filler": "blank"}, "--filler"),
        ("recall", {"power_a": 0.0}, "--power_a"),
        ("recall", {"mixture": ("64",)}, "--mixture: got '64', allowed: LENGTH:PAIRS"),
        ("recall", {"mixture": ("64:4:1:1",)}, "--mixture: got '64:4:1:1'"),
        ("recall", {"mixture": ("64:four",)}, "--mixture: got '64:four'"),
        ("recall", {"mixture": ("64:4:0",)}, "share above 0"),
        ("recall", {"mixture": ("64:4:nan",)}, "share above 0"),
        ("recall", {"mixture": ("64:17",)}, "--mixture: got a length of 64 for 17 pairs, allowed: >= 68"),
        ("recall", {"mixture": ("64:4",), "max_len": 64}, "--max_len: does not go with --mixture"),
        ("recall", {"mixture": ("64:4",), "mix_pairs": True}, "--mix_pairs: does not go with --mixture"),
        (
            "recall",
            {"mixture": ("64:4",), "train_lengths": "fixed"},
            "--train_lengths fixed: does not go with --mixture",
        ),
        ("induction", {"max_len": 2}, "--max_len: got 2, allowed: >= 3"),
        ("induction", {"min_len": 2}, "--min_len: got 2, allowed: >= 3"),
        ("induction", {"mode": "repeat", "max_period": 64}, "--context_len: got 64, allowed: >= 65"),
        ("induction", {"mode": "repeat", "min_period": 9, "max_period": 8}, "--min_period: got 9, allowed: 1 .. 8"),
        ("induction", {"vocab": 1}, "--vocab"),
        ("copy", {"min_len": 65}, "--min_len: got 65"),
        ("sort", {"min_len": 0}, "--min_len: got 0"),
        ("trigo", {"decimals": 0}, "--decimals"),
        ("fibonacci", {"n_terms": 0}, "--n_terms"),
        ("fibonacci", {"max_start": -1}, "--max_start"),
        ("poly", {"degree": 0}, "--degree"),
        ("poly", {"degree": 10}, "--degree"),
        ("fourier_mix", {"levels": 33}, "--levels"),
        ("fourier_mix", {"max_freq": 0.4}, "--max_freq"),
        ("fourier_mix", {"n_waves": 0}, "--n_waves"),
        ("fourier_mix", {"n_in": 7}, "--n_in"),
        ("mod_arith", {"modulus": 1}, "--modulus"),
        ("mod_arith", {"modulus": 11}, "--modulus"),
        ("mod_arith", {"min_len": 0}, "--min_len"),
        ("mod_arith", {"min_len": 41}, "--min_len: got 41"),
        ("mod_arith", {"running": True, "brackets": True}, "--running and --brackets"),
        ("word_problem", {"group": "z2", "generators": "swaps"}, "--generators: got 'swaps' with --group z2"),
        ("word_problem", {"group": "z2xz2", "generators": "swaps"}, "--generators: got 'swaps' with --group z2xz2"),
        ("word_problem", {"group": "z6", "generators": "swaps"}, "--generators: got 'swaps' with --group z6"),
        ("word_problem", {"group": "a5", "generators": "swaps"}, "--generators: got 'swaps' with --group a5"),
    ],
    ids=str,
)
def test_flags_that_do_not_fit_are_user_errors(name, options, message):
    with pytest.raises(UserError) as caught:
        build(name, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "length", "message"),
    [
        ("needle", {}, 7, "length 7: too short"),
        ("selective_copy", {}, 15, "length 15: too short"),
        ("recall", {}, 63, "length 63: too short"),
        ("induction", {}, 2, "length 2: too short"),
        ("induction", {"mode": "repeat"}, 16, "length 16: too short"),
        ("recall", {"vocab": 20, "mixture": ("16:4",)}, 64, "its 16 pairs need --vocab 32"),
    ],
    ids=str,
)
def test_lengths_that_cannot_hold_an_example_are_refused(name, options, length, message):
    with pytest.raises(UserError, match=message):
        draw(build(name, **options), 1, length)


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


def test_length_one_has_training_keys():
    """A literal of the split: were both bits held out, no batch of length 1 could be drawn."""
    assert [split_of(bit) for bit in "01"] == ["train", "train"]
