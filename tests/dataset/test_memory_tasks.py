"""What is special to copy, selective_copy, recall, induction and sort: distributions, chance, mixtures, lengths.

python -m pytest tests/dataset/test_memory_tasks.py
"""

import itertools
import json
import math
import unicodedata
from collections import Counter

import numpy as np
import pytest
from conftest import TINY
from task_checks import (
    build,
    draw,
    is_distributed,
    is_uniform,
    oracle_failures,
)

from dataset.common import ExampleDataset
from dataset.loaders import build_loaders, draw_train_set, length_loader, parse_lengths
from dataset.plans import FreshBatches, LengthBatches
from dataset.recall import FILLER, Recall, Setting
from dataset.seeds import stream
from dataset.splits import draw_heldout, draw_train
from dataset.strings import distinct
from dataset.tokenizer import CharTokenizer
from src.flags.run_flags import resolve

FIVE = ["copy", "selective_copy", "recall", "induction", "sort"]


# Distributions.


@pytest.mark.parametrize(("count", "pool"), [(2, 5), (3, 4), (2, 4), (1, 6), (3, 6)])
def test_distinct_gives_every_ordered_choice_alike(count, pool):
    choices = list(itertools.permutations(range(pool), count))
    assert is_uniform(map(tuple, distinct(np.random.default_rng(1), 12_000, count, pool).tolist()), choices)
    assert (
        not is_uniform(
            [tuple(sorted(c)) for c in distinct(np.random.default_rng(1), 12_000, count, pool).tolist()], choices
        )
        or count == 1
    )


@pytest.mark.parametrize("length", [7, 4])
def test_selective_copy_places_and_symbols_are_uniform(length):
    task = build("selective_copy", n_data=3, n_symbols=5, max_len=length)
    examples = draw(task, 8_000, length)
    assert is_uniform(
        [tuple(i for i, c in enumerate(e.prompt[:-1]) if c != ".") for e in examples],
        itertools.combinations(range(length), 3),
    )
    assert is_uniform([c for e in examples for c in e.answer], "abcde")


def slots_of(task, e):
    """Slots of the queries, counted from 1, in the order in which the keys were written."""
    context = 2 * (e.meta["pairs"] + task.args.rebind)
    return tuple((e.prompt.index(key, context) - context) // 2 + 1 for key in e.prompt[: 2 * e.meta["pairs"] : 2])


def successive(slots, pairs, a):
    """{ordered choice of slots: its probability}, drawn one after another with p(j) ~ j^(a-1) from those left."""
    weight = {j: j ** (a - 1) for j in range(1, slots + 1)}
    found = {}
    for chosen in itertools.permutations(weight, pairs):
        left, share = sum(weight.values()), 1.0
        for j in chosen:
            share, left = share * weight[j] / left, left - weight[j]
        found[chosen] = share
    return found


@pytest.mark.parametrize(
    ("slots", "pairs", "a"), [(6, 2, 0.01), (5, 3, 0.01), (5, 5, 0.5), (12, 1, 0.01), (12, 2, 1.0), (20, 2, 0.01)]
)
def test_recall_queries_take_slots_one_after_another_by_the_power_law(slots, pairs, a):
    """Both ways of choosing, by a full sort and by a partial one, against the probabilities of drawing in turn."""
    task = build("recall", n_pairs=pairs, vocab=64, power_a=a, max_len=2 * pairs + 2 * slots)
    found = [slots_of(task, e) for e in draw(task, 30_000, task.longest_length())]
    assert is_distributed(found, successive(slots, pairs, a))
    assert not is_distributed(found, successive(slots, pairs, a + 0.2))


def test_recall_keys_values_and_rebound_pairs_are_uniform():
    task = build("recall", n_pairs=3, vocab=10, rebind=2, max_len=20)
    examples = draw(task, 12_000, 20)
    assert is_uniform([e.prompt[0:6:2] for e in examples], map("".join, itertools.permutations("abcde", 3)))
    assert is_uniform([e.prompt[1:10:2] for e in examples], map("".join, itertools.permutations("ABCDE")))
    written_again = [tuple(e.prompt.index(e.prompt[at]) // 2 for at in (6, 8)) for e in examples]
    assert is_uniform(written_again, itertools.permutations(range(3), 2))
    for e in examples[:200]:
        again = {e.prompt[6]: e.prompt[7], e.prompt[8]: e.prompt[9]}
        assert e.meta["rebound"] == tuple(e.prompt[at] in again for at, _ in e.labels)
        assert all(gold == again.get(e.prompt[at], gold) for at, gold in e.labels)


def test_recall_labels_stand_at_queries_in_order_and_values_are_not_written_again():
    for options in ({"n_pairs": 6}, {"n_pairs": 6, "vocab": 60, "filler": "random"}):
        for e in draw(build("recall", **options), 300, 64):
            assert len(e.prompt) == 64
            assert [at for at, _ in e.labels] == sorted(at for at, _ in e.labels)
            assert {e.prompt[at] for at, _ in e.labels} == set(e.prompt[:12:2])
            assert all(at % 2 == 0 for at, _ in e.labels)
            if "filler" not in options:
                assert e.prompt[12:].replace(FILLER, "") == "".join(e.prompt[at] for at, _ in e.labels)


def test_recall_random_filler_is_uniform_over_what_is_no_key_here():
    task = build("recall", n_pairs=2, vocab=12, filler="random", max_len=21)
    following = Counter()
    for e in draw(task, 12_000, 21):
        queries = {at for at, _ in e.labels}
        keys = {e.prompt[0], e.prompt[2]}
        assert all(e.prompt[i] not in keys for i in range(4, 21) if i not in queries)
        if 4 not in queries:
            assert e.prompt[4] in "ABCDEF"  # the prompt says where its pairs end
            following[e.prompt[4]] += 1
        if keys == {"b", "e"}:
            following.update((i, e.prompt[i]) for i in (5, 19, 20) if i not in queries)
    assert is_uniform([c for c in following.elements() if isinstance(c, str)], "ABCDEF")
    for i in (5, 19, 20):
        assert is_uniform([c[1] for c in following.elements() if c[0] == i], "acdfABCDEF")


def test_recall_mixed_pairs_are_uniform():
    assert is_uniform(
        [e.meta["pairs"] for e in draw(build("recall", n_pairs=6, mix_pairs=True), 6_000, 64)], range(1, 7)
    )
    assert is_uniform(
        [e.meta["pairs"] for e in draw(build("recall", n_pairs=6, mix_pairs=True, rebind=3), 6_000, 64)], range(3, 7)
    )


def test_induction_places_gaps_and_symbols_are_uniform():
    examples = draw(build("induction"), 12_000, 64)
    assert is_uniform([e.prompt.index("*") for e in examples], range(62))
    assert is_uniform([e.gaps[0] for e in examples], range(2, 64))
    assert is_uniform([e.labels[0][1] for e in examples], "abcdefghijklmnop")
    assert is_uniform([e.prompt.replace("*", "")[20] for e in examples], "abcdefghijklmnop")
    assert all(e.prompt.count("*") == 2 and e.prompt[-1] == "*" for e in examples)


def test_induction_periods_and_their_strings_are_uniform():
    task = build("induction", mode="repeat", vocab=2, max_period=3, min_period=1, max_len=7)
    examples = draw(task, 12_000, 7)
    assert is_uniform([e.gaps[0] for e in examples], (1, 2, 3))
    assert is_uniform([e.prompt[:3] for e in examples if e.gaps[0] == 3], ("aab", "aba", "abb", "baa", "bab", "bba"))
    assert all(e.labels == tuple((i - 1, e.prompt[i]) for i in range(e.gaps[0], 7)) for e in examples)


def test_induction_leaves_periods_with_too_few_strings_out_of_the_test():
    task = build("induction", mode="repeat")
    examples, left_out = draw_heldout(task, "test", 2_000, 64, stream(task, "test", 0))
    assert left_out == ["period 2"]
    assert {e.gaps[0] for e in examples} == set(range(3, 17))


# Chance and ceilings.


@pytest.mark.parametrize(
    "options", [{"n_pairs": 4}, {"n_pairs": 4, "rebind": 2}, {"n_pairs": 5, "mix_pairs": True}], ids=str
)
def test_recall_chance_is_what_guessing_reaches(options):
    task = build("recall", vocab=64, **options)
    examples = draw(task, 4_000, 64)
    rng = np.random.default_rng(0)
    hits, last = [], []
    for e in examples:
        values = e.prompt[1 : 2 * (e.meta["pairs"] + task.args.rebind) : 2]
        hits += [rng.choice(list(values)) == gold for _, gold in e.labels]
        last += [values[-1] == gold for _, gold in e.labels]
    found = task.chance([], examples)
    assert found.keys() == {"random_value", "last_value"}
    assert abs(found["random_value"] - np.mean(hits)) < 4 * (0.25 / len(hits)) ** 0.5
    assert found["last_value"] == pytest.approx(np.mean(last))
    if options == {"n_pairs": 4}:
        assert found == {"random_value": pytest.approx(1 / 4), "last_value": pytest.approx(1 / 4)}


def ideal_accuracy(task, length):
    """Accuracy of the best guesser at the scored characters, over all strings of the task, by enumeration."""
    joint = Counter()  # (text before, next symbol) -> probability
    periods = range(task.args.min_period, task.args.max_period + 1)
    for period in periods:
        strings = {"".join(s) for s in itertools.product("ab", repeat=period)}
        texts = [(s * length)[:length] for s in strings]
        texts = [t for t in texts if not any(t[q:] == t[:-q] for q in periods if q < period)]
        for text in texts:
            for i in range(period, length):
                joint[text[:i], text[i]] += 1 / len(periods) / len(texts)
    best = Counter()
    for (before, _), share in joint.items():
        best[before] = max(best[before], share)
    return sum(best.values()) / sum(joint.values())


def test_induction_ceiling_is_what_the_best_guesser_reaches():
    task = build("induction", mode="repeat", vocab=2, min_period=2, max_period=5, max_len=12)
    ceiling, ideal = task.ceiling(draw(task, 4_000, 12)), ideal_accuracy(task, 12)
    assert ideal < 0.97
    assert abs(ceiling - ideal) < 0.01
    fixed, drawn = build("induction", mode="repeat", min_period=4, max_period=4), build("induction", mode="repeat")
    assert fixed.ceiling(draw(fixed, 100, 64)) == 1.0
    assert 0.99 < drawn.ceiling(draw(drawn, 500, 64)) < 1.0
    assert build("induction").ceiling([]) == 1.0


# Characters.


def test_symbols_are_printable_single_characters_that_no_normalisation_changes():
    for task in (build("recall", n_pairs=1, vocab=16384), build("induction", vocab=8192)):
        assert len(set(task.alphabet)) == len(task.alphabet) == task.args.vocab + 1
        for form in ("NFC", "NFD", "NFKC", "NFKD"):
            assert unicodedata.normalize(form, task.alphabet) == task.alphabet
        assert all(
            c.isprintable() and not unicodedata.combining(c) and unicodedata.bidirectional(c) in ("L", "CS", "ON")
            for c in task.alphabet
        )
        assert len(task.alphabet.encode("utf-16-le")) == 2 * len(task.alphabet)
        assert not set(task.alphabet) & set("'\"\\>| \n")


def test_recall_small_vocabularies_are_letters():
    assert build("recall", n_pairs=2, vocab=6).alphabet == "abcABC."
    assert build("recall", n_pairs=2, vocab=6, filler="random").alphabet == "abcABC"


# Mixtures.

MIXTURE = ("16:2:5", "24:3:1", "40:4:1", "40:8:2")


def test_mixture_lengths_and_pairs_come_in_their_shares():
    task = build("recall", vocab=60, mixture=MIXTURE)
    assert task.lengths == (16, 40)
    assert task.mixture[0] == Setting(16, 2, 5.0)
    rng = np.random.default_rng(0)
    assert is_distributed([task.train_length(rng) for _ in range(8_000)], {16: 5 / 9, 24: 1 / 9, 40: 3 / 9})
    assert is_distributed([e.meta["pairs"] for e in draw(task, 6_000, 40)], {4: 1 / 3, 8: 2 / 3})
    assert {e.meta["pairs"] for e in draw(task, 100, 16)} == {2}
    assert {e.meta["pairs"] for e in draw(task, 100, 80)} == {16}, (
        "beyond the longest setting the pairs grow with the length"
    )


@pytest.mark.parametrize("train_size", [0, 700])
def test_mixture_batches_never_mix_lengths(train_size):
    args = resolve(
        Recall, preset={}, vocab=60, mixture=MIXTURE, train_size=train_size, batch_size=16, val_size=20, test_size=20
    )
    task = Recall(args)
    _, loaders, _ = build_loaders(task, args)
    lengths, rows = Counter(), 0
    for batch in itertools.islice(loaders["train"], 60):
        assert len(set(batch.meta["length"].tolist())) == 1
        assert len(set(batch.lengths.tolist())) == 1
        lengths[int(batch.meta["length"][0])] += len(batch)
        rows += len(batch)
    assert set(lengths) == {16, 24, 40}
    assert rows == (train_size or 60 * 16)
    assert set(loaders["test"].dataset.task_lengths.tolist()) == {40}


def test_pooled_leftovers_would_mix_the_lengths_of_a_mixture():
    """What pool_lengths = False keeps out: other tasks put leftover rows of several lengths into one batch."""
    args = resolve(Recall, preset={}, vocab=60, mixture=MIXTURE)
    task = Recall(args)
    examples, lengths = draw_train_set(task, 300, "uniform", 1)
    data = ExampleDataset(examples, lengths, task, CharTokenizer.build(task.alphabet), "answer")
    mixed = [
        sum(len(set(data.task_lengths[rows].tolist())) > 1 for rows in LengthBatches(data, 64, 0, 1, pool))
        for pool in (True, False)
    ]
    assert mixed[0] > 0
    assert mixed[1] == 0
    plan = LengthBatches(data, 64, 0, 1, pool=False)
    assert sorted(np.concatenate(list(plan)).tolist()) == list(range(300))
    assert sum(1 for _ in plan) == len(plan)


def test_lengths_of_a_task_without_mixture_are_uniform_and_independent_of_pairs():
    task = build("recall", n_pairs=4)
    assert task.lengths == (16, 64)
    assert task.pool_lengths
    rng = np.random.default_rng(0)
    assert is_uniform([task.train_length(rng) for _ in range(8_000)], range(16, 65))


# Batches.


def test_recall_batches_train_and_score_the_labels_alone():
    args = resolve(Recall, preset={}, context_len=64, n_pairs=4, batch_size=64, train_size=0, train_lengths="fixed")
    task = Recall(args)
    tokenizer = CharTokenizer.build(task.alphabet)
    assert len(tokenizer) == 8192 + 1 + 3
    batch = FreshBatches(task, tokenizer, args).batch(0)
    assert batch.x.shape == (64, 65)
    assert batch.n_trained == batch.score.sum() == 4 * 64
    keys = {tokenizer.ids[c] for c in task._keys}
    assert set(batch.x[batch.score].tolist()) <= keys
    examples = draw_train(task, 64, 64, stream(task, "train batch 0", args.seed))
    for row, e in enumerate(examples):
        assert tokenizer.decode(batch.y[row][batch.score[row]]) == "".join(gold for _, gold in e.labels)
        assert batch.gaps[row][batch.score[row]].tolist() == list(e.gaps)


# Length generalisation.


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in FIVE),
        ("induction", {"mode": "repeat", "max_period": 8}),
        ("recall", {"vocab": 64, "mixture": ("16:2", "24:4")}),
        ("recall", {"rebind": 2, "filler": "random"}),
    ],
    ids=str,
)
def test_every_length_of_eval_lengths_has_a_test_set(name, options):
    task_class = type(build(name))
    args = resolve(task_class, **{"test_size": 40, "context_len": 32, "max_steps": 1, **options})
    task = task_class(args)
    tokenizer = CharTokenizer.build(task.alphabet)
    lengths = parse_lengths(task, ("1x", "2x", "4x", "8x", str(task.lengths[1] + 1)))
    top = task.lengths[1]
    assert lengths == [top + 1, 2 * top, 4 * top, 8 * top]  # 1x is the test set itself
    for length in lengths:
        loader = length_loader(task, tokenizer, args, length)
        assert len(loader.dataset) == 40
        assert set(loader.dataset.task_lengths.tolist()) == {length}
        assert not oracle_failures(task, loader.dataset.examples)
        assert max(len(e.prompt) for e in loader.dataset.examples) >= length
        for batch in loader:
            assert batch.score.any(dim=1).all()


# A whole run.


def test_recall_trains_on_a_mixture_and_reports_its_curves(main, tmp_path, monkeypatch):
    """The whole command: mixture, vocabulary of 60, slices, chance levels and a length curve."""
    monkeypatch.setattr("src.figures.runs.draw_all", lambda document, folder: [])
    code, _, err = main(
        "--task",
        "recall",
        "--model",
        "transformer",
        "--mixture",
        "16:2:3,24:4:1",
        "--vocab",
        60,
        "--rebind",
        1,
        "--eval_lengths",
        "1x,2x",
        "--pos",
        "none",
        *TINY,
        "--out_dir",
        tmp_path / "run",
    )
    assert code == 0, err
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert {"gap", "pairs", "length", "rebound"} <= metrics["final_test"]["slices"].keys()
    assert {"uniform", "unigram", "random_value", "last_value"} == metrics["floors"].keys()
    assert math.isclose(metrics["floors"]["random_value"]["primary"], 1 / 5)
