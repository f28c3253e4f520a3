"""State tracking: parity, modular arithmetic and word problems. Groups, other oracles, distributions, chance.

python -m pytest tests/dataset/test_state_tasks.py
"""

import itertools
from collections import Counter

import numpy as np
import pytest
import task_checks as generic

from dataset.common import collate_fn
from dataset.loaders import build_loaders, length_loader
from dataset.mod_arith import ModArith, evaluate, n_expressions, parsed
from dataset.parity import Parity
from dataset.seeds import stream
from dataset.splits import draw_heldout, draw_train
from dataset.strings import label_rows
from dataset.word_problem import ELEMENTS, WordProblem, group
from src.flags.fields import UserError
from src.flags.run_flags import resolve
from src.utils.chance import chance_levels, scaled

GROUPS = {"z2": 2, "z2xz2": 4, "z3": 3, "z6": 6, "s3": 6, "a5": 60, "s5": 120}
CASES = [
    (Parity, {"labels": "final"}),
    (Parity, {"min_len": 3}),
    (ModArith, {"modulus": 2}),
    (ModArith, {"modulus": 10}),
    (ModArith, {"brackets": True}),
    (ModArith, {"running": True}),
    *((WordProblem, {"group": name}) for name in GROUPS),
    (WordProblem, {"group": "s3", "generators": "swaps"}),
    (WordProblem, {"group": "s5", "generators": "swaps"}),
]
IDS = ["-".join([cls.__name__, *(f"{k}={v}" for k, v in options.items())]) for cls, options in CASES]


def make(cls, **options):
    return cls(resolve(cls, preset={}, **options))


def draw(task, n, length, seed=0):
    return task.examples(stream(task, "tests", seed), n, length)


# Lengths and chance


@pytest.mark.parametrize(("cls", "options"), CASES, ids=IDS)
def test_every_training_length_from_one_has_examples(cls, options):
    """Keys are few at short lengths: training repeats those that are its own."""
    task = make(cls, **options)
    for length in range(task.lengths[0], 9):
        assert len(draw_train(task, 50, length, stream(task, "train", 0))) == 50


@pytest.mark.parametrize(("cls", "options"), CASES, ids=IDS)
def test_chance_scales_to_zero_and_the_oracle_to_one(cls, options):
    """Guessing is simulated. Its score must be at the highest chance level that evaluation computes for the task."""
    task = make(cls, **options)
    rng = np.random.default_rng(0)
    _, _, meta = build_loaders(task, resolve(cls, preset={}, train_size=0, val_size=10, test_size=10, **options))
    test = draw(task, 2_000, 40, seed=7)
    found = chance_levels(meta, test)
    highest = max(f["primary"] for f in found.values())
    golds = np.array([generic.gold(e)[0] if task.writes_answer else e.labels[-1][1] for e in test])
    guesses = rng.permutation(golds)  # a guess by the distribution of labels
    assert (
        abs(scaled(float((guesses == golds).mean()), found, task.ceiling(test)))
        < 4 * (highest / len(golds)) ** 0.5 + 0.02
    )
    assert scaled(1.0, found, task.ceiling(test)) == 1.0


@pytest.mark.parametrize(
    ("cls", "options", "chance"),
    [
        (Parity, {}, 1 / 2),
        (ModArith, {}, 1 / 5),
        (ModArith, {"modulus": 3, "running": True}, 1 / 3),
        (WordProblem, {"group": "s3"}, 1 / 6),
        (WordProblem, {"group": "a5"}, 1 / 60),
        (WordProblem, {"group": "s3", "generators": "swaps"}, 1 / 3),
    ],
    ids=str,
)
def test_the_highest_chance_level_is_known(cls, options, chance):
    task = make(cls, **options)
    _, _, meta = build_loaders(task, resolve(cls, preset={}, train_size=0, val_size=10, test_size=10, **options))
    found = chance_levels(meta, draw(task, 2_000, 40, seed=7))
    assert max(f["primary"] for f in found.values()) == pytest.approx(chance, rel=0.12)


def test_a_test_set_begins_where_the_space_is_large_enough():
    task = make(Parity)
    with pytest.raises(UserError, match=r"--test_size: got 200, allowed: at most \d+, .*\(length 6\)"):
        draw_heldout(task, "test", 200, 6, stream(task, "test", 0))
    assert len(draw_heldout(task, "test", 2_000, 16, stream(task, "test", 0))[0]) == 2_000


def test_eval_lengths_reach_sixteen_times_the_training_length():
    args = resolve(Parity, preset={}, test_size=40, train_size=0, val_size=10)
    task = Parity(args)
    tokenizer, _, _ = build_loaders(task, args)
    batch = next(iter(length_loader(task, tokenizer, args, 640)))
    assert batch.x.shape[1] == 641
    assert int(batch.score.sum()) == len(batch) * 640


# Parity


def test_parity_labels_are_the_running_parity_and_final_is_the_last_of_them():
    dense, final = make(Parity), make(Parity, labels="final")
    for length in (1, 2, 7, 40):
        for e in draw(dense, 100, length):
            assert [at for at, _ in e.labels] == list(range(length))
            assert [int(c) for _, c in e.labels] == [e.prompt[: i + 1].count("1") % 2 for i in range(length)]
        for e in draw(final, 100, length):
            assert e.labels == ((length - 1, str(e.prompt.count("1") % 2)),)


def test_parity_bits_and_labels_are_uniform_everywhere():
    examples = draw(make(Parity), 8_000, 40)
    for place in (0, 1, 17, 39):
        assert generic.is_uniform([e.prompt[place] for e in examples], "01")
        assert generic.is_uniform([e.labels[place][1] for e in examples], "01")
    assert generic.is_uniform([e.prompt[3:7] for e in examples], map("".join, itertools.product("01", repeat=4)))


@pytest.mark.parametrize(("labels", "scored"), [("dense", 5), ("final", 1)])
def test_parity_labels_reach_the_batch_at_their_bits_and_are_not_written(labels, scored):
    args = resolve(Parity, preset={}, labels=labels, min_len=5, max_len=5, train_size=20, val_size=2, test_size=2)
    tokenizer, loaders, _ = build_loaders(Parity(args), args)
    batch = next(iter(loaders["train"]))
    data = loaders["train"].dataset
    assert (batch.score.sum(1) == scored).all()
    for x, y, row in zip(batch.x, batch.y, batch.meta["row"], strict=True):
        e = data.examples[row]
        assert "".join(tokenizer.tokens[i] for i in x[1:].tolist()) == e.prompt
        assert all(tokenizer.tokens[y[at + 1]] == c for at, c in e.labels)
    assert collate_fn((data, np.arange(3))).x.shape == (3, 6)


def test_label_rows_share_their_pairs_and_equal_the_definition():
    values = np.array([[1, 0], [1, 1]])
    rows = label_rows(values, np.array([2, 5]), "ab")
    assert rows == [((2, "b"), (5, "a")), ((2, "b"), (5, "b"))]
    assert rows[0][0] is rows[1][0]


# Word problems


@pytest.mark.parametrize(("name", "order"), GROUPS.items())
def test_group_axioms(name, order):
    assert not broken_axioms(group(name).table)
    assert group(name).table.shape == (order, order)


def broken_axioms(table):
    """Names of the axioms that a multiplication table breaks; element 0 must be the identity."""
    n = np.arange(len(table))
    broken = [] if set(table.flatten().tolist()) <= set(n.tolist()) else ["closure"]
    if broken:
        return broken
    if not (table[table, :] == table[:, table]).all():  # (a b) c against a (b c)
        broken.append("associativity")
    if not ((table[0] == n).all() and (table[:, 0] == n).all()):
        broken.append("identity")
    if not ((table == 0).sum(axis=0) == 1).all() or not ((table == 0).sum(axis=1) == 1).all():
        broken.append("inverses")
    return broken


def test_axiom_check_finds_broken_tables():
    swapped = group("s3").table.copy()
    swapped[3, [1, 2]] = swapped[3, [2, 1]]
    assert broken_axioms(swapped) == ["associativity"]
    assert "identity" in broken_axioms(np.roll(group("z3").table, 1, axis=0))
    assert "inverses" in broken_axioms(np.minimum.outer(np.arange(3), np.arange(3)))
    assert broken_axioms(group("z3").table + 1) == ["closure"]


def closure(table, elements):
    """The subgroup that some elements generate."""
    found = {0, *elements}
    while True:
        more = found | {int(table[a, b]) for a in found for b in elements}
        if more == found:
            return found
        found = more


def commutators(table):
    inverse = np.argmin(table, axis=1)
    return {
        int(table[table[a, b], table[inverse[a], inverse[b]]]) for a in range(len(table)) for b in range(len(table))
    }


@pytest.mark.parametrize(
    ("name", "series"), [("z6", [1]), ("z2xz2", [1]), ("s3", [3, 1]), ("a5", [60]), ("s5", [60, 60])]
)
def test_groups_are_the_ones_they_are_called(name, series):
    """By the derived series: commutative groups end at once, s3 in two steps, a5 and s5 never.

    That a5 and s5 never end makes their word problem hard.
    """
    table = group(name).table
    for order in series:
        elements = sorted(closure(table, commutators(table)))
        assert len(elements) == order
        table = np.searchsorted(elements, table[np.ix_(elements, elements)])


def test_orders_of_elements_tell_the_groups_of_four_and_six_apart():
    def orders(name):
        table, found = group(name).table, []
        for a in range(len(table)):
            power, order = a, 1
            while power:
                power, order = table[power, a], order + 1
            found.append(order)
        return sorted(found)

    assert orders("z2xz2") == [1, 2, 2, 2]
    assert orders("z6") == [1, 2, 3, 3, 6, 6]
    assert orders("s3") == [1, 2, 2, 2, 3, 3]
    assert Counter(orders("a5")) == {1: 1, 2: 15, 3: 20, 5: 24}
    assert Counter(orders("s5")) == {1: 1, 2: 25, 3: 20, 4: 30, 5: 24, 6: 20}


@pytest.mark.parametrize("name", ["s3", "s5", "a5"])
def test_products_of_permutations_move_things_from_left_to_right(name):
    """Cards are laid out and moved by each permutation of the word in turn; the label names the arrangement."""
    degree = int(name[1])
    elements = [
        p
        for p in itertools.permutations(range(degree))
        if name[0] == "s" or sum(a > b for a, b in itertools.combinations(p, 2)) % 2 == 0
    ]
    task = make(WordProblem, group=name)
    for e in draw(task, 30, 25):
        where = list(range(degree))  # where each card is now
        for (_, label), c in zip(e.labels, e.prompt, strict=True):
            where = [elements[ELEMENTS.index(c)][spot] for spot in where]
            assert elements[ELEMENTS.index(label)] == tuple(where)


def test_words_are_uniform_over_the_group_or_its_transpositions():
    assert generic.is_uniform([e.prompt[11] for e in draw(make(WordProblem, group="a5"), 8_000, 40)], ELEMENTS[:60])
    assert generic.is_uniform([e.labels[30][1] for e in draw(make(WordProblem, group="s3"), 8_000, 40)], ELEMENTS[:6])
    swaps = make(WordProblem, group="s5", generators="swaps")
    used = [e.prompt[5] for e in draw(swaps, 8_000, 40)]
    assert generic.is_uniform(used, set(used))
    assert len(set(used)) == 10
    squares = group("s5").table[swaps.letters, swaps.letters]
    assert "0" not in used
    assert (squares == 0).all()
    assert len(closure(group("s5").table, swaps.letters.tolist())) == 120


def test_elements_are_distinct_letters_enough_for_every_group():
    assert len(set(ELEMENTS)) == len(ELEMENTS) >= 120
    assert ELEMENTS.isalnum()


# Modular arithmetic


def python_value(expression, modulus):
    """The expression by Python's own rules."""
    return eval(expression, {"__builtins__": {}}) % modulus


@pytest.mark.parametrize(
    "options", [{}, {"modulus": 2}, {"modulus": 10}, {"brackets": True}, {"modulus": 7, "brackets": True}], ids=str
)
def test_answers_are_what_python_says(options):
    task = make(ModArith, **options)
    for length in (1, 2, 3, 5, 6, 12, 39, 80):
        for e in draw(task, 100, length):
            assert e.answer == str(python_value(e.prompt[:-1], task.args.modulus))


@pytest.mark.parametrize(
    "expression", ["3+4*2-1", "2*3*4-4", "1-4", "0-4*4*4", "((1+2)*3-(4-1))*2", "(1*(2-3))-4", "4"]
)
def test_both_evaluators_agree_with_python(expression):
    text = np.frombuffer(expression.encode(), dtype=np.uint8)[None]
    assert parsed(expression, 5) == python_value(expression, 5) == evaluate(text, 5)[0][0]


def test_running_labels_are_the_values_of_the_prefixes():
    task = make(ModArith, running=True)
    for length in (1, 2, 5, 40):
        for e in draw(task, 100, length):
            assert e.labels == tuple((i, str(python_value(e.prompt[: i + 1], 5))) for i in range(0, len(e.prompt), 2))
            assert set(e.prompt) <= set("01234+-")
    assert generic.is_uniform([e.labels[9][1] for e in draw(task, 8_000, 40)], "01234")


def test_expressions_have_an_odd_number_of_characters_and_uniform_parts():
    task = make(ModArith)
    for length, width in ((1, 1), (2, 1), (3, 3), (40, 39)):
        assert {len(e.prompt) - 1 for e in draw(task, 50, length)} == {width}
    examples = draw(task, 8_000, 40)
    for place in (0, 20, 38):
        assert generic.is_uniform([e.prompt[place] for e in examples], "01234")
    assert generic.is_uniform([e.prompt[21] for e in examples], "+-*")


def nested(expression):
    """(deepest nesting, contents of every bracket without what is in deeper ones); fails on unbalanced ones."""
    levels, deepest, contents = [""], 0, []
    for c in expression:
        if c == "(":
            levels.append("")
            deepest = max(deepest, len(levels) - 1)
        elif c == ")":
            contents.append(levels.pop())
            levels[-1] += "B"
        else:
            levels[-1] += c
    assert len(levels) == 1
    return deepest, contents


def test_brackets_balance_hold_an_operation_and_are_counted():
    task = make(ModArith, brackets=True)
    deepest = Counter()
    for length in (3, 5, 7, 8, 20, 40, 160):
        for e in draw(task, 300, length):
            depth, contents = nested(e.prompt[:-1])
            assert e.meta == {"depth": depth}
            assert len(e.prompt) - 1 == length - (length % 2 == 0)
            assert all(any(c in "+-*" for c in text) for text in contents)
            deepest[length] = max(deepest[length], depth)
    assert (deepest[3], deepest[5]) == (0, 1)
    assert deepest[40] >= 5


@pytest.mark.parametrize(("width", "brackets"), [(1, True), (3, True), (5, True), (7, True), (5, False)])
def test_all_expressions_of_a_length_occur_and_are_counted(width, brackets):
    task = make(ModArith, modulus=2, brackets=brackets, max_len=width)
    seen = {e.prompt for e in draw(task, 40_000, width)}
    assert len(seen) == task.n_keys() == n_expressions(width, 2, 3, brackets)
