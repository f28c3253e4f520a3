"""Metrics: known values, exactness over uneven batches, an oracle's perfect score, and teacher forcing against real decoding.

python -m pytest tests/utils/test_metrics.py
"""

import math
import time

import numpy as np
import pytest
import torch
from small_tasks import Running, answer_names, make

from dataset.loaders import TaskData, build_loaders, heldout_loader
from dataset.task import Example, Slice, Task
from dataset.tokenizer import BOS, EOS, PAD, CharTokenizer
from src.flags.fields import resolve, to_dict
from src.models import MODELS
from src.models.backbone import Backbone, build
from src.models.contract import ARModel
from src.stats.intervals import wilson
from src.utils.chance import chance_levels, most_common, scaled
from src.utils.decoding import decode, score_answers
from src.utils.evaluation import evaluate, teacher_forced
from src.utils.metrics import (
    Scored,
    bpc,
    cross_entropy,
    exact_match,
    finite,
    hit_rate_by_gap,
    max_depth_acc,
    perplexity,
    rows_all_correct,
)
from src.utils.training import make_optimizer

CPU = torch.device("cpu")


class Oracle(ARModel):
    """A model that looks the answers of a test set up: logits point at the right next token after every known prefix."""

    def __init__(self, examples, tokenizer):
        super().__init__()
        self.size, self.next = len(tokenizer), {}
        for e in examples:
            prompt = [BOS, *tokenizer.encode(e.prompt).tolist()]
            if e.labels is None:
                tokens = [*prompt, *tokenizer.encode(e.answer).tolist(), EOS]
                self.next.update({tuple(tokens[:i]): tokens[i] for i in range(len(prompt), len(tokens))})
            else:
                self.next.update({tuple(prompt[: position + 2]): tokenizer.ids[c] for position, c in e.labels})

    def forward(self, x, attn_mask=None):
        guess = [[self.next.get(tuple(row[: t + 1]), PAD) for t in range(len(row))] for row in x.tolist()]
        return torch.nn.functional.one_hot(torch.tensor(guess), self.size).float() * 50


def setup(name, **options):
    """(task, args, tokenizer, test loader, task_meta) of a small test set."""
    task, args = make(
        name,
        **{
            "context_len": 20,
            "val_size": 4,
            "test_size": 24,
            "precision": "fp32",
            "d_model": 32,
            "n_layer": 1,
            "n_head": 2,
            **options,
        },
    )
    tokenizer, loaders, task_meta = build_loaders(task, args)
    return task, args, tokenizer, loaders["test"], task_meta


def untrained(tokenizer, args):
    torch.manual_seed(0)
    return Backbone(Running, len(tokenizer), args, 400)


# The named functions


def test_cross_entropy_of_uniform_logits_is_the_log_of_the_alphabet_and_ignores_minus_100():
    total, count = cross_entropy(torch.zeros(5, 4), torch.tensor([0, 3, -100, 2, -100]))
    assert count == 3
    assert total == pytest.approx(3 * math.log(4), rel=1e-6)
    assert cross_entropy(torch.zeros(2, 4), torch.tensor([-100, -100])) == (0.0, 0)
    sure = torch.tensor([[math.log(3.0), 0.0]])  # probabilities 3/4 and 1/4
    assert cross_entropy(sure, torch.tensor([1]))[0] == pytest.approx(math.log(4), rel=1e-6)


def test_bpc_and_perplexity_of_known_losses():
    assert bpc(math.log(2)) == 1.0
    assert bpc(math.log(65)) == pytest.approx(math.log2(65))
    assert perplexity(math.log(5)) == pytest.approx(5)
    assert perplexity(0.0) == 1.0
    assert perplexity(1e4) == math.inf
    assert finite(perplexity(1e4)) is None
    assert finite(math.nan) is None
    assert finite(2.5) == 2.5


def test_exact_match_needs_every_character_of_a_row():
    correct = np.array([True, True, False, True, True, True])
    rows = np.array([7, 2, 2, 7, 9, 2])
    assert exact_match(correct, rows) == (2, 3)
    assert rows_all_correct(correct, rows) == {2: False, 7: True, 9: True}
    assert exact_match([], []) == (0, 0)


def test_rates_by_gap_and_depth_have_their_counts_in_increasing_order():
    assert hit_rate_by_gap([1, 0, 1, 1], [30, 4, 4, 30]) == {4: (0.5, 2), 30: (1.0, 2)}
    assert list(hit_rate_by_gap([1, 0], [9, 2])) == [2, 9]
    assert max_depth_acc([True, False, False], [3, 1, 3]) == {1: (0.0, 1), 3: (0.5, 2)}
    with pytest.raises(ValueError, match=r"zip\(\) argument 2"):
        hit_rate_by_gap([1], [1, 2])


def test_scored_parts_join_in_the_order_of_the_dataset():
    def part(rows, columns):
        n = len(rows)
        return Scored(np.array(rows), np.arange(n, dtype=float), np.ones(n, bool), np.full(n, -1), np.array(columns))

    joined = Scored.join([part([4, 4, 1], [2, 3, 5]), part([0, 0], [9, 8])])
    assert joined.row.tolist() == [0, 0, 1, 4, 4]
    assert joined.column.tolist() == [8, 9, 5, 2, 3]
    assert joined.ordinal.tolist() == [0, 1, 0, 0, 1]
    assert joined.nll.tolist() == [1, 0, 2, 0, 1]
    assert joined.loss == 4 / 5


# Whole evaluations


@pytest.mark.parametrize("name", ["rle", "addition", "parity"])
def test_any_batch_size_gives_the_same_numbers(name):
    """1e-6 allows float32 sums of another order; counts, and so accuracies, are identical."""
    task, args, tokenizer, loader, task_meta = setup(name, test_size=60)
    model = untrained(tokenizer, args)
    results = []
    for size in (1, 2, 5, 1000):
        other = resolve(type(task), batch_size=size, precision="fp32", context_len=20)
        results.append(
            evaluate(
                model,
                heldout_loader(task, tokenizer, other, loader.dataset.examples, task.lengths[1]),
                CPU,
                args,
                task_meta,
            )
        )
    for result in results[1:]:
        assert result["loss"] == pytest.approx(results[0]["loss"], abs=1e-6)
        for key in ("token_acc", "exact_match", "n_scored", "n_examples", "slices", "intervals"):
            assert result[key] == results[0][key], key


def test_the_loss_is_the_mean_over_scored_characters_computed_one_by_one():
    _, args, tokenizer, loader, task_meta = setup("rle", test_size=12)
    model = untrained(tokenizer, args).eval()
    nats = []
    with torch.no_grad():
        for e in loader.dataset.examples:
            tokens = [BOS, *tokenizer.encode(e.prompt + e.answer).tolist(), EOS]
            logs = model(torch.tensor([tokens[:-1]]))[0].double().log_softmax(-1)
            nats += [-float(logs[t, tokens[t + 1]]) for t in range(len(e.prompt), len(tokens) - 1)]
    result = evaluate(model, loader, CPU, args, task_meta)
    assert result["n_scored"] == len(nats)
    assert result["loss"] == pytest.approx(np.mean(nats), abs=1e-6)
    assert result["bpc"] == pytest.approx(np.mean(nats) / math.log(2), abs=1e-6)
    assert result["ppl"] == pytest.approx(math.exp(np.mean(nats)), rel=1e-6)


def test_training_more_than_is_scored_does_not_change_what_is_reported():
    task, args, tokenizer, loader, task_meta = setup("rle")
    other = resolve(type(task), loss_on="all", precision="fp32", context_len=20)
    model = untrained(tokenizer, args)
    everything = heldout_loader(task, tokenizer, other, loader.dataset.examples, task.lengths[1])
    assert next(iter(everything)).n_trained > next(iter(loader)).n_trained
    a, b = (evaluate(model, part, CPU, args, task_meta) for part in (loader, everything))
    assert a["loss"] == pytest.approx(b["loss"], abs=1e-6)
    assert (a["n_scored"], a["slices"]) == (b["n_scored"], b["slices"])


def test_evaluation_leaves_the_model_in_the_mode_it_found_it_in():
    _, args, tokenizer, loader, task_meta = setup("rle")
    model = untrained(tokenizer, args)
    for mode in (True, False):
        model.train(mode)
        evaluate(model, loader, CPU, args, task_meta)
        assert model.training is mode


@pytest.mark.parametrize("options", [{}, {"mode": "lm"}], ids=["complete", "lm"])
def test_an_oracle_is_perfect_in_dyck(options):
    check_oracle("dyck", **options)


@pytest.mark.parametrize("name", [*answer_names(), "parity"])
def test_an_oracle_is_perfect(name):
    check_oracle(name)


def check_oracle(name, **options):
    """Every share is 1, every bin of every slice is 1, and the counts of the bins add up to what they count."""
    task, args, tokenizer, loader, task_meta = setup(name, **options)
    examples = loader.dataset.examples
    result = evaluate(Oracle(examples, tokenizer), loader, CPU, args, task_meta)
    assert result["exact_match"] == result["token_acc"] == result[task.primary] == 1.0
    assert result["loss"] < 1e-6
    assert result["n_examples"] == len(examples) == 24
    assert result["n_scored"] == sum(len(e.answer) + 1 if e.labels is None else len(e.labels) for e in examples)
    for metric, better in task.score_metrics.items():
        if metric not in ("nrmse", "spectral_error"):  # measured against the signal before it was quantised
            assert result[metric] == (1.0 if better == "higher" else 0.0), metric
    assert len(result["slices"]) >= len(task.slices), "an oracle scores in every slice"
    for slice_name, found in result["slices"].items():
        assert {b["value"] for b in found["bins"]} == {1.0}, slice_name
        assert sum(b["count"] for b in found["bins"]) == expected_count(task, found, examples), slice_name


def expected_count(task, found, examples):
    if found["metric"] != "token_acc" or (found["level"] == "example" and task.primary != "token_acc"):
        return len(examples)
    if found["of"] == "gap":
        return sum(sum(g >= 0 for g in e.gaps) for e in examples)
    if found["level"] == "example":
        return sum(len(e.labels) if e.labels is not None else len(e.answer) + 1 for e in examples)
    if found["of"] == "position":
        return sum(len(e.labels if e.labels is not None else e.answer) for e in examples)
    return sum(len(e.meta[found["of"]]) for e in examples)


def test_one_wrong_answer_shows_in_score_slices_and_intervals():
    _, args, tokenizer, loader, task_meta = setup("needle")
    examples = loader.dataset.examples
    oracle = Oracle(examples, tokenizer)
    victim = examples[5]
    wrong = (BOS, *tokenizer.encode(victim.prompt).tolist())
    oracle.next[wrong] = tokenizer.ids["A" if victim.answer[0] != "A" else "B"]
    result = evaluate(oracle, loader, CPU, args, task_meta)
    assert result["hit_rate"] == result["exact_match"] == 23 / 24
    assert result["token_acc"] == 1 - 1 / (24 * 5)
    low, high = result["intervals"]["hit_rate"]
    assert [low, high] == list(wilson(23, 24))
    assert low < 23 / 24 < high
    bins = result["slices"]["gap_linear"]["bins"]
    assert sum(b["value"] * b["count"] for b in bins) == pytest.approx(23)
    hit = next(b for b in bins if b["value"] < 1)
    assert hit["lo"] <= victim.gaps[0] <= hit["hi"]


def test_a_bare_loader_gives_losses_and_token_accuracy():
    _, args, tokenizer, loader, _ = setup("rle")
    result = evaluate(untrained(tokenizer, args), loader, CPU, args)
    assert result["loss"] > 0
    assert result["exact_match"] is None
    assert result["slices"] == {}
    assert set(result["intervals"]) == {"token_acc", "loss"}
    low, high = result["intervals"]["loss"]
    assert low < result["loss"] < high


def test_samples_show_prompt_expected_and_what_the_model_wrote(tmp_path):
    _, args, tokenizer, loader, task_meta = setup("reverse")
    examples = loader.dataset.examples
    oracle = Oracle(examples[1:], tokenizer)
    evaluate(oracle, loader, CPU, args, task_meta, save_samples=tmp_path / "samples.txt")
    blocks = (tmp_path / "samples.txt").read_text().strip().split("\n\n")
    assert len(blocks) == 8
    assert examples[0].prompt in blocks[0]
    assert "(wrong)" in blocks[0]
    assert examples[1].answer in blocks[1].splitlines()[2]
    assert not any("(wrong)" in block for block in blocks[1:])


def test_an_answer_in_which_pad_was_written_is_wrong():
    """<pad> and <bos> once vanished from decoded answers, so that one with a hole in it could equal the gold answer."""
    _, _, tokenizer, loader, _ = setup("reverse")
    e = loader.dataset.examples[0]
    oracle = Oracle([e], tokenizer)
    start = (BOS, *tokenizer.encode(e.prompt).tolist())
    oracle.next[start] = PAD
    oracle.next.update(
        {
            (*start, PAD, *prefix[len(start) :]): v
            for prefix, v in list(oracle.next.items())
            if len(prefix) >= len(start) and v != PAD
        }
    )
    oracle.next[(*start, PAD)] = int(tokenizer.ids[e.answer[0]])
    assert decode(oracle, [e], tokenizer, CPU)[0] != e.answer


# Teacher forcing against decoding


def half_trained(model_name, task, args, tokenizer, loader):
    """A tiny model fitted to the test examples themselves until it has some of them right and some wrong."""
    model_class = MODELS[model_name].load()
    args = resolve(type(task), model_class, preset={}, **to_dict(args))
    torch.manual_seed(1)
    model = build(model_class, len(tokenizer), args, task.max_tokens() + 8)
    optimizer = make_optimizer(model, args, CPU)
    for step in range(400):
        if step % 10 == 0:
            scored = teacher_forced(model, loader, CPU, args)
            if 0.15 <= np.mean(list(rows_all_correct(scored.correct, scored.row).values())) <= 0.85:
                break
        for batch in loader:
            optimizer.zero_grad()
            model.loss_fn(batch)[0].backward()
            optimizer.step()
    return model


@pytest.mark.parametrize(
    ("name", "model_name"),
    [*((n, "transformer") for n in answer_names()), ("dyck", "gru"), ("addition", "lstm"), ("rle", "template")],
)
def test_exact_match_under_teacher_forcing_is_that_of_greedy_cached_decoding(name, model_name):
    """The proof behind reporting exact match from one pass: example by example, the two agree, right and wrong alike."""
    easy = {
        "addition": {"n_digits": 2},
        "fibonacci": {"n_terms": 2},
        "fourier_mix": {"n_in": 16, "n_out": 4, "levels": 8},
        "needle": {"needle_len": 2},
    }
    task, args, tokenizer, loader, _ = setup(name, lr=1e-2, pos="auto", **{"context_len": 16, **easy.get(name, {})})
    model = half_trained(model_name, task, args, tokenizer, loader)
    scored = teacher_forced(model, loader, CPU, args)
    forced = rows_all_correct(scored.correct, scored.row)
    examples = loader.dataset.examples
    decoded = [
        answer == e.answer for e, answer in zip(examples, decode(model.eval(), examples, tokenizer, CPU), strict=True)
    ]
    assert [forced[i] for i in range(len(examples))] == decoded
    assert 0 < sum(decoded) < len(decoded), "with all right or all wrong the comparison would say nothing"


# Floors


class Toy(Task):
    """'x' is followed by a few letters; for floors that can be worked out by hand."""

    alphabet = "abx"


def toy_floors(train, test, task_class=Toy, **overrides):
    task = type("ToyTask", (task_class,), overrides)(resolve(task_class))
    data = TaskData(task, CharTokenizer.build(task.alphabet), None, [Example("x", a) for a in train])
    return chance_levels(data, [Example("x", a) for a in test])


def test_uniform_and_unigram_floors_by_hand():
    found = toy_floors(["ab", "aa", "ab"], ["ab", "bb", "ab", "a"])
    assert found["uniform"]["token_acc"] == 1 / 4  # a, b, x and <eos>
    assert found["uniform"]["primary"] == pytest.approx((3 * 4**-3 + 4**-2) / 4)
    assert found["unigram"]["token_acc"] == 9 / 11  # a, b, <eos> right at 3 + 2 + 3 + 1 of 3 + 3 + 3 + 2 characters
    assert found["unigram"]["primary"] == 2 / 4
    assert (found["uniform"]["slice_acc"], found["unigram"]["slice_acc"]) == (
        1 / 4,
        6 / 7,
    )  # 2 + 1 + 2 + 1 of 2 + 2 + 2 + 1 without <eos>


def test_a_tie_in_the_unigram_goes_to_the_first_character_in_every_process():
    assert toy_floors(["b", "a"], ["a"])["unigram"]["primary"] == 1.0
    assert toy_floors(["b", "a"], ["b"])["unigram"]["primary"] == 0.0


def test_unigrams_of_many_long_label_rows_are_counted_in_one_pass():
    """A quadratic count took 2 s for the recall of 64 pairs; a thousand distinct characters a place make it show."""
    rng = np.random.default_rng(0)
    golds = [list(map(chr, row)) for row in rng.integers(0x4E00, 0x4E00 + 4000, (2_000, 64)).tolist()]
    began = time.process_time()
    found = most_common(golds)
    seconds = time.process_time() - began
    assert len(found) == 64
    column = [row[7] for row in golds]
    assert column.count(found[7]) == max(map(column.count, set(column)))
    assert seconds < 0.8


def test_a_floor_of_a_decoded_metric_scores_the_floors_answer():
    def score(self, prompt, answer, gold, meta):
        return {"first": float(answer[:1] == gold[:1])}

    found = toy_floors(
        ["ab", "ba", "ab"], ["ab", "bb", "ab", "a"], score=score, score_metrics={"first": "higher"}, primary="first"
    )
    assert found["unigram"]["primary"] == 3 / 4
    assert 0 <= found["uniform"]["primary"] <= 1


def test_a_tasks_own_floors_stand_beside_the_common_ones():
    found = toy_floors(["a"], ["a"], chance=lambda self, train, test: {"copy": 0.25})
    assert found["copy"] == {"token_acc": None, "primary": 0.25}


def test_a_floor_of_a_tasks_own_is_one_of_characters_where_characters_are_what_counts():
    """Else the curve by distance would show 1/alphabet, and not 1/pairs, as the floor of recall."""
    _, _, _, loader, task_meta = setup("recall")
    found = chance_levels(task_meta, loader.dataset.examples)
    assert found["random_value"]["token_acc"] == found["random_value"]["primary"] > found["uniform"]["token_acc"]


def test_labels_have_no_eos_in_their_floors():
    _, _, _, loader, task_meta = setup("parity")
    found = chance_levels(task_meta, loader.dataset.examples)
    assert found["uniform"] == {"token_acc": 1 / 2, "primary": 1 / 2}


@pytest.mark.parametrize("name", [*answer_names(), "parity"])
def test_floors_lie_below_the_ceiling(name):
    task, _, _, loader, task_meta = setup(name)
    found = chance_levels(task_meta, loader.dataset.examples)
    assert {"uniform", "unigram"} <= set(found)
    for floor_name, floor in found.items():
        assert 0 <= floor["primary"] < task.ceiling(loader.dataset.examples), floor_name


def test_scaled_score_is_zero_at_the_highest_floor_and_one_at_the_ceiling():
    values = {"uniform": {"primary": 0.1}, "unigram": {"primary": 0.2}}
    assert scaled(0.2, values, 1.0) == 0.0
    assert scaled(1.0, values, 1.0) == 1.0
    assert scaled(0.6, values, 1.0) == pytest.approx(0.5)
    assert scaled(0.5, values, 0.8) == pytest.approx(0.5)
    assert scaled(0.1, values, 1.0) == pytest.approx(-0.125)


def test_a_slice_of_values_a_character_counts_characters():
    class Graded(Task):
        alphabet = "ab"
        slices = (Slice("place", "place", level="char"),)

        def example(self, rng, length):
            word = "".join(rng.choice(list("ab"), 6))
            return Example(word, word[:2], meta={"place": (10, 20)})

    args = resolve(Graded, val_size=2, test_size=4, precision="fp32", context_len=8)
    tokenizer, loaders, task_meta = build_loaders(Graded(args), args)
    examples = loaders["test"].dataset.examples
    oracle = Oracle(examples, tokenizer)
    start = (BOS, *tokenizer.encode(examples[0].prompt + examples[0].answer[:1]).tolist())
    oracle.next[start] = PAD
    bins = evaluate(oracle, loaders["test"], CPU, args, task_meta)["slices"]["place"]["bins"]
    assert [(b["lo"], b["count"]) for b in bins] == [(10, 4), (20, 4)]
    assert bins[0]["value"] == 1.0
    assert bins[1]["value"] == 3 / 4


def test_scores_of_decoded_answers_are_one_an_example():
    task, _, _, loader, _ = setup("poly")
    examples = loader.dataset.examples
    found = score_answers(task, examples, ["?"] * len(examples))
    assert all(values.shape == (len(examples),) for values in found.values())
    assert np.isfinite(found["mae"]).all()
