"""Every interval of a result counts sequences, or blocks of a text, and never characters.

python -m pytest tests/utils/test_sequence_intervals.py
"""

import numpy as np
import pytest
import torch
from small_tasks import make

from dataset.loaders import build_loaders
from src.models.contract import ARModel
from src.stats.intervals import wilson
from src.utils.evaluation import TEXT_BLOCKS, evaluate, slices, teacher_forced
from src.utils.results import _length_row

CPU = torch.device("cpu")
SEQUENCES = 300


class Derailing(ARModel):
    """A parity model that is right until some place of a sequence and wrong from there on, as trained ones often are.

    It knows the parity of each prefix. The place is drawn once per sequence, from its first ten bits.
    """

    def __init__(self, tokenizer):
        super().__init__()
        self.one = tokenizer.ids["1"]
        self.labels = [tokenizer.ids["0"], tokenizer.ids["1"]]
        self.size = len(tokenizer)

    def forward(self, x, attn_mask=None):
        bits = (x == self.one).long()
        number = (bits[:, 1:11] * 2 ** torch.arange(10)).sum(1)
        leaves = (number * 37 % 97)[:, None] * x.shape[1] // 60  # a third of the sequences stay right to the end
        wrong = (torch.arange(x.shape[1])[None] >= leaves).long()
        guess = torch.tensor(self.labels)[(bits.cumsum(1) + wrong) % 2]
        return torch.nn.functional.one_hot(guess, self.size).float() * 8


@pytest.fixture(scope="module")
def parity():
    """(result, scored characters, task) of that model on sequences of 40 bits."""
    task, args = make("parity", context_len=40, min_len=40, max_len=40, val_size=4, test_size=SEQUENCES)
    tokenizer, loaders, data = build_loaders(task, args)
    model = Derailing(tokenizer)
    result = evaluate(model, loaders["test"], CPU, args, data)
    return result, teacher_forced(model, loaders["test"], CPU, args), task


def bootstrap(scored, values, resamples: int = 4_000) -> np.ndarray:
    """The ends of the 95 % percentile interval of a bootstrap over sequences."""
    _, index = np.unique(scored.row, return_inverse=True)
    sums, counts = np.bincount(index, weights=values), np.bincount(index)
    drawn = np.random.default_rng(0).integers(0, len(sums), (resamples, len(sums)))
    return np.quantile(sums[drawn].sum(1) / counts[drawn].sum(1), [0.025, 0.975])


@pytest.mark.parametrize("metric", ["token_acc", "loss"])
def test_the_interval_of_a_labels_task_is_that_of_a_bootstrap_over_its_sequences(parity, metric):
    result, scored, _ = parity
    low, high = result["intervals"][metric]
    expected = bootstrap(scored, scored.correct if metric == "token_acc" else scored.nll)
    assert [low, high] == pytest.approx(expected, abs=0.08 * (high - low)), "4,000 resamples are right to about 3 %"


def test_an_interval_tells_what_it_is_of_and_how_many_independent_items_it_is_worth(parity):
    result, scored, _ = parity
    n = len(scored.row)
    assert result["interval_of"] == "test sampling"
    assert result["interval_basis"].keys() == result["intervals"].keys()
    basis = result["interval_basis"]["token_acc"]
    assert (basis["unit"], basis["units"], basis["count"]) == ("sequence", SEQUENCES, n)
    assert basis["n_effective"] == pytest.approx(n / basis["design_effect"])
    assert 10 < basis["design_effect"] < 40, "its 40 labels share the fate of their sequence"
    low, high = result["intervals"]["token_acc"]
    independent = wilson(scored.correct.sum(), n)
    assert (high - low) / (independent[1] - independent[0]) == pytest.approx(basis["design_effect"] ** 0.5, rel=0.05)


def test_an_example_is_one_item_of_exact_match(parity):
    result, _, _ = parity
    hits = round(result["exact_match"] * SEQUENCES)
    assert 0 < hits < SEQUENCES
    assert result["intervals"]["exact_match"] == list(wilson(hits, SEQUENCES))
    assert result["interval_basis"]["exact_match"]["design_effect"] == 1


def test_a_length_has_the_interval_of_its_result(parity):
    result, _, task = parity
    row = _length_row(task, 40, True, result)
    assert row["ci"] == result["intervals"]["token_acc"]
    assert row["loss_ci"] == result["intervals"]["loss"]
    assert (row["count"], row["n_effective"]) == (
        result["n_scored"],
        result["interval_basis"]["token_acc"]["n_effective"],
    )


def test_a_bin_of_characters_that_share_the_fate_of_their_sequence_counts_sequences():
    """Each sequence of recall has several labels. Here all labels of a sequence are right, or all are wrong."""
    task, args = make("recall", context_len=64, n_pairs=8, val_size=4, test_size=SEQUENCES)
    tokenizer, loaders, _ = build_loaders(task, args)
    scored = teacher_forced(OneLetter(tokenizer, tokenizer.tokens[-1]), loaders["test"], CPU, args)
    scored.correct = np.random.default_rng(4).random(SEQUENCES)[scored.row] < 0.6
    checked = 0
    for part in slices(task, loaders["test"].dataset, scored, {}).values():
        for b in part["bins"]:
            low, high = wilson(b["value"] * b["count"], b["count"])
            assert b["n_effective"] <= SEQUENCES * 1.02
            if b["count"] > 2 * SEQUENCES:
                assert b["ci"][1] - b["ci"][0] > 1.3 * (high - low)
                checked += 1
    assert checked


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """{window length: result} of a model that knows one letter, on a text whose second half has more of that letter."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    rng = np.random.default_rng(2)
    halves = [rng.choice(list("ab "), 2_000, p=p) for p in ([0.2, 0.6, 0.2], [0.7, 0.2, 0.1])]
    path.write_text("".join(np.concatenate([rng.choice(list("ab "), 72_000), *halves])))
    found = {}
    for length in (10, 20):
        task, args = make("tiny_shakespeare", data_path=str(path), context_len=length, val_size=2, test_size=0)
        tokenizer, loaders, data = build_loaders(task, args)
        found[length] = evaluate(OneLetter(tokenizer, "a"), loaders["test"], CPU, args, data)
    return found


class OneLetter(ARModel):
    """Always predicts one letter."""

    def __init__(self, tokenizer, letter):
        super().__init__()
        self.logits = torch.nn.functional.one_hot(torch.tensor(tokenizer.ids[letter]), len(tokenizer)) * 2.0

    def forward(self, x, attn_mask=None):
        return self.logits.expand(*x.shape, -1)


def test_neighbouring_windows_of_a_text_form_one_block(texts):
    for result in texts.values():
        for metric in ("token_acc", "loss"):
            basis = result["interval_basis"][metric]
            assert (basis["unit"], basis["units"]) == ("block of text", TEXT_BLOCKS)
            assert basis["design_effect"] > 5, "the halves differ"


def test_the_interval_of_a_text_does_not_depend_on_the_length_of_its_windows(texts):
    for metric in ("token_acc", "loss"):
        short, long = (np.array(texts[length]["intervals"][metric]) for length in (10, 20))
        assert short == pytest.approx(long, abs=0.05 * (long[1] - long[0]))


def test_a_curve_over_a_text_counts_blocks(texts):
    for name in ("position", "position_loss"):
        for b in texts[20]["slices"][name]["bins"]:
            assert b["n_effective"] < b["count"] / 2
