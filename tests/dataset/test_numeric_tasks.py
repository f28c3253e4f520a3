"""What is special to trigo, fibonacci, poly and fourier_mix: known values, wrong answers, baselines, exact bounds.

python -m pytest tests/dataset/test_numeric_tasks.py
"""

import itertools

import numpy as np
import pytest

from dataset.fibonacci import Fibonacci, root, sequence
from dataset.fourier_mix import LEVELS, FourierMix
from dataset.poly import Poly, evaluate, read, write
from dataset.seeds import stream
from dataset.splits import draw_heldout, draw_train, split_of
from dataset.trigo import Trigo, octant, parse
from src.flags.run_flags import resolve

CLASSES = {"trigo": Trigo, "fibonacci": Fibonacci, "poly": Poly, "fourier_mix": FourierMix}
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
    "-" + "0" * 60,
    "ZZZZ",
    "\n",
    "0\n",
    "é" * 20,
]


def make(name, **flags):
    return CLASSES[name](resolve(CLASSES[name], **flags))


def draw(task, n=500, seed=0):
    return task.examples(np.random.default_rng(seed), n, task.lengths and task.lengths[1])


# ---- trigo


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("sin(217.5)=", "-0.6088"),
        ("sin(0.0)=", "0.0000"),
        ("sin(180.0)=", "0.0000"),
        ("cos(270.0)=", "0.0000"),
        ("tan(180.0)=", "0.0000"),
        ("sin(30.0)=", "0.5000"),
        ("cos(180.0)=", "-1.0000"),
        ("tan(45.0)=", "1.0000"),
        ("tan(135.0)=", "-1.0000"),
        ("cos(60.0)=", "0.5000"),
        ("tan(84.2)=", "9.8448"),
    ],
)
def test_trigo_known_values(prompt, answer):
    assert make("trigo").solve(prompt) == answer


def test_trigo_takes_every_small_tangent_and_no_other():
    table = make("trigo")._table
    assert len(table["sin"]) == len(table["cos"]) == 3600
    assert max(abs(float(answer)) for _, answer in table["tan"]) <= 9.9999
    assert len(table["tan"]) == 3600 - 4 * 57 - 2  # 84.3 .. 89.9 degrees on both sides of 90 and 270, and these two


def test_trigo_never_writes_a_negative_zero():
    for decimals in (1, 2, 4):
        table = make("trigo", decimals=decimals)._table
        assert not [a for answers in table.values() for _, a in answers if a.startswith("-") and float(a) == 0]


def test_trigo_keys_are_902_and_closed_under_symmetry():
    task = make("trigo")
    everything = [task._instance(name, tenths, "") for name in ("sin", "cos", "tan") for tenths, _ in task._table[name]]
    groups = {}
    for example in everything:
        name, tenths = parse(example.prompt)
        groups.setdefault(task.key(example), set()).add((name == "tan", octant(tenths)))
    assert len(groups) == task.n_keys() == 902
    assert all(len(g) == 1 for g in groups.values())
    splits = {
        split_of(task.key(task._instance(name, t, "")))
        for name in ("sin", "cos")
        for t in (123, 777, 1023, 1677, 1923, 2577, 2823, 3477)
    }
    assert len(splits) == 1  # 12.3 degrees and its mirror images
    assert not {abs(float(task.solve(e.prompt))) for e in everything if task.key(e) == "sin,cos 123"} - {0.2130, 0.9770}


def test_trigo_metrics_of_wrong_answers():
    score = make("trigo").score
    assert score("", "0.5100", "0.5000", {}) == {"mae": pytest.approx(0.01), "within_0.01": 1, "invalid_rate": 0}
    assert score("", "0.5101", "0.5000", {})["within_0.01"] == 0
    assert score("", "-0.5000", "0.5000", {})["mae"] == 1
    for unreadable in ("", "abc", "0.5.0", "1e0", "nan", "-", "0,5", "0.5000="):
        assert score("", unreadable, "0.5000", {}) == {"mae": 1, "within_0.01": 0, "invalid_rate": 1}


def test_trigo_baselines_tell_a_lookup_from_the_mean():
    task = make("trigo")
    train, test = (
        draw_train(task, 4_000, None, stream(task, "train", 0)),
        draw_heldout(task, "test", 80, None, stream(task, "test", 0))[0],
    )
    values = task.baselines(train, test)
    assert values.keys() == {"mean", "nearest_angle"}
    assert values["mean"] < 0.1 < 0.6 < values["nearest_angle"]
    assert task.baselines(train, train[:100])["nearest_angle"] == 1  # asked about what it has seen
    around = task.baselines(
        [task._instance("sin", 3599, "-0.0017"), task._instance("sin", 100, "0.1736")],
        [task._instance("sin", 0, "0.0000")],
    )
    assert around["nearest_angle"] == 1  # 359.9 degrees is nearer to 0 than 10 is
    assert task.baselines(train[:1], test[:1]).keys() == values.keys()  # functions without an example


# ---- fibonacci


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [("3,5:", "8,13,21,34,55"), ("0,0:", "0,0,0,0,0"), ("0,1:", "1,2,3,5,8"), ("99,0:", "99,99,198,297,495")],
)
def test_fibonacci_known_values(prompt, answer):
    assert make("fibonacci").solve(prompt) == answer


def test_fibonacci_meta_names_the_term_of_every_character():
    example = make("fibonacci")._instance(3, 5, 3)
    assert example.answer == "8,13,21"
    assert example.meta == {"term": (1, 1, 2, 2, 2, 3, 3), "digits": (1, 1, 2, 2, 2, 2, 2)}


def test_fibonacci_writes_as_many_terms_as_the_length_says():
    task = make("fibonacci")
    assert task.lengths == (5, 5)
    assert all(e.answer.count(",") == 9 for e in task.examples(np.random.default_rng(0), 20, 10))


def test_fibonacci_term_accuracy_counts_places():
    score = make("fibonacci").score
    cases = {
        "8,13,21,34,55": 1,
        "8,13,21,34": 0.8,
        "8,13,21,34,55,89": 1,
        "13,21,34,55,8": 0,
        "8,13,22,34,55": 0.8,
        "8 13 21 34 55": 0,
        "": 0,
    }
    for answer, expected in cases.items():
        assert score("3,5:", answer, "8,13,21,34,55", {})["term_acc"] == expected


@pytest.mark.parametrize("max_start", [0, 1, 7, 99, 123])
def test_fibonacci_bound_is_reached(max_start):
    task = make("fibonacci", max_start=max_start)
    widths = [
        len(e.prompt) + len(e.answer)
        for e in (task._instance(a, b, 5) for a in range(max_start + 1) for b in range(max_start + 1))
    ]
    assert max(widths) == task.max_chars(5)


@pytest.mark.parametrize("max_start", [0, 1, 7, 99])
def test_fibonacci_keys_are_the_roots_that_exist(max_start):
    starts = range(max_start + 1)
    roots = {root(a, b) for a in starts for b in starts}
    assert len(roots) == make("fibonacci", max_start=max_start).n_keys()
    assert all(a > b or a == b == 0 for a, b in roots)


@pytest.mark.parametrize("start", [(0, 0), (1, 0), (9, 0), (7, 3), (99, 98)])
def test_all_windows_of_a_fibonacci_sequence_share_its_root(start):
    terms = [*start, *sequence(*start, 10)]
    assert {root(a, b) for a, b in itertools.pairwise(terms)} == {start}


def test_no_two_neighbouring_terms_of_a_fibonacci_test_stand_in_a_training_sequence():
    """Keeps out the key of the prompt: 41 % of the test sequences then lay within a training sequence."""
    task = make("fibonacci")

    def pairs(example):
        return set(itertools.pairwise((example.prompt[:-1] + "," + example.answer).split(",")))

    train = set().union(*map(pairs, draw_train(task, 5_000, 5, stream(task, "train", 0))))
    for split in ("val", "test"):
        heldout, _ = draw_heldout(task, split, 200, 5, stream(task, split, 0))
        assert not [e for e in heldout if pairs(e) & train]


# ---- poly


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("3x^2-4x+7,x=-5=", "102"),
        ("x,x=0=", "0"),
        ("-x^2,x=-3=", "-9"),
        ("x^2-1,x=1=", "0"),
        ("-9x-9,x=9=", "-90"),
        ("2x^2+x,x=3=", "21"),
    ],
)
def test_poly_known_values(prompt, answer):
    assert make("poly").solve(prompt) == answer


@pytest.mark.parametrize(
    ("coefficients", "text"),
    [
        ([7, -4, 3], "3x^2-4x+7"),
        ([0, 1], "x"),
        ([0, -1, 0, 1], "x^3-x"),
        ([-1, 0, -1], "-x^2-1"),
        ([0, 0, 9], "9x^2"),
    ],
)
def test_poly_is_written_as_a_person_writes_it(coefficients, text):
    assert write(coefficients) == text
    assert read(text) == coefficients


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_poly_bound_is_reached(degree):
    """Extreme coefficients and x are where prompt and answer are longest."""
    task = make("poly", degree=degree)
    widths = []
    for coefficients in itertools.product((-9, -1, 0, 1, 9), repeat=degree + 1):
        for x in (-9, 9):
            if coefficients[-1]:
                widths.append(len(f"{write(coefficients)},x={x}=") + len(str(evaluate(coefficients, x))))
    assert max(widths) == task.max_chars()
    assert max(len(e.prompt) + len(e.answer) for e in draw(task, 5_000)) <= task.max_chars()


def test_poly_degree_and_leading_coefficient_are_uniform():
    examples = draw(make("poly", degree=3), 9_000)
    degrees = np.bincount([e.meta["degree"] for e in examples], minlength=4)
    assert degrees[0] == 0
    assert np.abs(degrees[1:] - 3_000).max() < 250  # five standard deviations
    leading = np.bincount([read(e.prompt.split(",")[0])[-1] + 9 for e in examples], minlength=19)
    assert leading[9] == 0
    assert np.abs(np.delete(leading, 9) - 500).max() < 110


def test_poly_caret_is_in_the_alphabet_only_where_it_is_written():
    assert "^" in make("poly").alphabet
    assert "^" not in make("poly", degree=1).alphabet


def test_poly_key_count_is_exact():
    task = make("poly", degree=1)
    assert len({task.key(e) for e in draw(task, 100_000)}) == task.n_keys() == 18 * 19 * 19


def test_poly_metrics_of_wrong_answers():
    score = make("poly").score
    assert score("", "-102", "102", {}) == {"mae": 204, "sign_acc": 0}
    assert score("", "7", "102", {}) == {"mae": 95, "sign_acc": 1}
    assert score("", "0", "102", {})["sign_acc"] == score("", "3", "0", {})["sign_acc"] == 0
    assert score("", "-0", "0", {}) == {"mae": 0, "sign_acc": 1}
    assert score("", "x", "102", {}) == {"mae": 102, "sign_acc": 0}
    assert score("", "", "0", {}) == {"mae": 1, "sign_acc": 0}


# ---- fourier_mix


def test_fourier_samples_are_the_levels_of_the_signal():
    task = make("fourier_mix")
    for e in draw(task, 50):
        assert len(e.prompt) == 65
        assert e.prompt[-1] == ">"
        assert len(e.answer) == len(e.meta["signal"]) == 16
        levels = [LEVELS.index(c) for c in e.answer]
        assert np.abs(task.centres(np.array(levels)) - e.meta["signal"]).max() <= 1 / 32 + 1e-12
        assert len(e.meta["frequencies"]) == e.meta["waves"]
        assert all(0.5 <= f <= 8 for f in e.meta["frequencies"])


def test_fourier_single_wave_spans_all_levels():
    """Amplitudes sum to 1, so one wave reaches both ends of the scale."""
    text = "".join(e.prompt[:-1] for e in draw(make("fourier_mix", n_waves=1), 300))
    assert set(text) == set(LEVELS)


def test_fourier_number_of_waves_is_uniform():
    waves = np.bincount([e.meta["waves"] for e in draw(make("fourier_mix"), 3_000)], minlength=4)
    assert waves[0] == 0
    assert np.abs(waves[1:] - 1_000).max() < 150


def test_fourier_metrics_of_wrong_answers():
    task = make("fourier_mix")
    meta = {"signal": tuple(task.centres(np.array([16, 16, 0, 31]))), "rms": 0.5}
    perfect = task.score("", "GG0V", "GG0V", meta)
    assert perfect == {
        "within_1_level": 1,
        "mae_levels": 0,
        "nrmse": pytest.approx(0),
        "spectral_error": pytest.approx(0),
    }
    assert task.score("", "HF1U", "GG0V", meta)["within_1_level"] == 1
    near = task.score("", "IG0V", "GG0V", meta)
    assert near["within_1_level"] == 0.75
    assert near["mae_levels"] == 0.5
    assert near["nrmse"] == pytest.approx(2 / 16 / 2 / 0.5)
    nothing = task.score("", "", "GG0V", meta)  # every sample counts as the level furthest from the expected one
    assert nothing["within_1_level"] == 0
    assert nothing["mae_levels"] == (16 + 16 + 31 + 31) / 4
    assert task.score("", "GG0VGGGG", "GG0V", meta) == perfect
    assert task.score("", "GG0>", "GG0V", meta)["mae_levels"] == 31 / 4


def test_fourier_levels_outside_the_scale_are_no_levels():
    task = make("fourier_mix", levels=4, n_out=2)
    assert set("".join(e.answer for e in draw(task, 200))) == set("0123")
    assert task.score("", "V0", "00", {"signal": (-0.75, -0.75), "rms": 0.7})["within_1_level"] == 0.5


def test_fourier_baselines_and_ceiling_are_in_order():
    """Knowing the true frequencies beats estimating them, which beats repeating the last sample."""
    task = make("fourier_mix")
    test = draw(task, 400)
    values, ceiling = task.baselines([], test), task.ceiling(test)
    assert values["last_sample"] < 0.2 < 0.95 < values["linear_prediction"] < ceiling <= 1
    assert np.mean(
        [task.score(e.prompt, task.solve(e.prompt), e.answer, e.meta)["within_1_level"] for e in test]
    ) == pytest.approx(values["linear_prediction"])


def test_fourier_ceiling_needs_the_true_frequencies():
    """With wrong frequencies in meta the fit fails: the ceiling is measured and not assumed."""
    task = make("fourier_mix")
    test = draw(task, 200)
    for e in test:
        e.meta["frequencies"] = tuple(8.5 - f for f in e.meta["frequencies"])
    assert task.ceiling(test) < 0.5
