"""Metrics: known values, uneven batches, the perfect score of an oracle, teacher forcing against decoding, chance.

python -m pytest tests/utils/test_metrics.py
"""

import functools
import math

import numpy as np
import pytest
import torch
from small_tasks import Running, answer_names, make

from dataset.loaders import TaskData, build_loaders, heldout_loader
from dataset.task import Example, Slice, Task
from dataset.tokenizer import BOS, EOS, PAD, CharTokenizer
from src.flags.run_flags import resolve, to_dict
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
from src.utils.precision import autocast
from src.utils.samples import samples_text
from src.utils.training import make_optimizer

CPU = torch.device("cpu")


class Oracle(ARModel):
    """A model that knows the answers of a test set: after each known prefix it predicts the right next token."""

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


@functools.cache
def setup(name, **options):
    """(task, args, tokenizer, test loader, data) of a small test set. Tests share it, and none changes it."""
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
    tokenizer, loaders, data = build_loaders(task, args)
    return task, args, tokenizer, loaders["test"], data


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


def test_rates_by_gap_and_depth_come_with_their_counts_in_increasing_order():
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
    """1e-6 allows float32 sums in another order. Counts, and so accuracies, are identical."""
    task, args, tokenizer, loader, data = setup(name, test_size=60)
    model = untrained(tokenizer, args)
    results = []
    for size in (1, 2, 5, 1000):
        other = resolve(type(task), batch_size=size, precision="fp32", context_len=20)
        part = heldout_loader(task, tokenizer, other, loader.dataset.examples, task.lengths[1])
        results.append(evaluate(model, part, CPU, args, data))
    for result in results[1:]:
        assert result["loss"] == pytest.approx(results[0]["loss"], abs=1e-6)
        for key in ("token_acc", "exact_match", "n_scored", "n_examples", "slices", "intervals"):
            assert result[key] == results[0][key], key


def test_the_loss_is_the_mean_over_scored_characters():
    """Here each character is computed on its own, in float64."""
    _, args, tokenizer, loader, data = setup("rle", test_size=12)
    model = untrained(tokenizer, args).eval()
    nats = []
    with torch.no_grad():
        for e in loader.dataset.examples:
            tokens = [BOS, *tokenizer.encode(e.prompt + e.answer).tolist(), EOS]
            logs = model(torch.tensor([tokens[:-1]]))[0].double().log_softmax(-1)
            nats += [-float(logs[t, tokens[t + 1]]) for t in range(len(e.prompt), len(tokens) - 1)]
    result = evaluate(model, loader, CPU, args, data)
    assert result["n_scored"] == len(nats)
    assert result["loss"] == pytest.approx(np.mean(nats), abs=1e-6)
    assert result["bpc"] == pytest.approx(np.mean(nats) / math.log(2), abs=1e-6)
    assert result["ppl"] == pytest.approx(math.exp(np.mean(nats)), rel=1e-6)


def test_training_more_than_is_scored_does_not_change_what_is_reported():
    task, args, tokenizer, loader, data = setup("rle")
    other = resolve(type(task), loss_on="all", precision="fp32", context_len=20)
    model = untrained(tokenizer, args)
    everything = heldout_loader(task, tokenizer, other, loader.dataset.examples, task.lengths[1])
    assert next(iter(everything)).n_trained > next(iter(loader)).n_trained
    a, b = (evaluate(model, part, CPU, args, data) for part in (loader, everything))
    assert a["loss"] == pytest.approx(b["loss"], abs=1e-6)
    assert (a["n_scored"], a["slices"]) == (b["n_scored"], b["slices"])


def test_evaluation_keeps_the_training_mode_of_the_model():
    _, args, tokenizer, loader, data = setup("rle")
    model = untrained(tokenizer, args)
    for mode in (True, False):
        model.train(mode)
        evaluate(model, loader, CPU, args, data)
        assert model.training is mode


@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in answer_names()), ("parity", {}), ("dyck", {"mode": "lm"})],
    ids=lambda value: value if isinstance(value, str) else "".join(value.values()),
)
def test_an_oracle_is_perfect(name, options):
    """Every share is 1, every bin of every curve is 1, and the counts of the bins add up to what they count."""
    task, args, tokenizer, loader, data = setup(name, **options)
    examples = loader.dataset.examples
    result = evaluate(Oracle(examples, tokenizer), loader, CPU, args, data)
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
    """The number of examples or characters that a curve must count."""
    if found["metric"] != "token_acc" or (found["level"] == "example" and task.primary != "token_acc"):
        return len(examples)
    if found["of"] == "gap":
        return sum(sum(g >= 0 for g in e.gaps) for e in examples)
    if found["level"] == "example":
        return sum(len(e.labels) if e.labels is not None else len(e.answer) + 1 for e in examples)
    if found["of"] == "position":
        return sum(len(e.labels if e.labels is not None else e.answer) for e in examples)
    return sum(len(e.meta[found["of"]]) for e in examples)


def test_one_wrong_answer_shows_in_score_curves_and_intervals():
    _, args, tokenizer, loader, data = setup("needle")
    examples = loader.dataset.examples
    oracle = Oracle(examples, tokenizer)
    victim = examples[5]
    wrong = (BOS, *tokenizer.encode(victim.prompt).tolist())
    oracle.next[wrong] = tokenizer.ids["A" if victim.answer[0] != "A" else "B"]
    result = evaluate(oracle, loader, CPU, args, data)
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
    _, args, tokenizer, loader, data = setup("reverse")
    examples = loader.dataset.examples
    oracle = Oracle(examples[1:], tokenizer)
    evaluate(oracle, loader, CPU, args, data, save_samples=tmp_path / "samples.txt")
    blocks = (tmp_path / "samples.txt").read_text().strip().split("\n\n")
    assert len(blocks) == 8
    assert examples[0].prompt in blocks[0]
    assert "(wrong)" in blocks[0]
    assert examples[1].answer in blocks[1].splitlines()[2]
    assert not any("(wrong)" in block for block in blocks[1:])


def test_an_answer_in_which_pad_was_written_is_wrong():
    """Keeps out: decoding dropped <pad> and <bos>, so an answer with one of them could count as right."""
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
    """A tiny model that is trained on the test examples until it has some of them right and some wrong."""
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
    """This is why one pass is enough for exact match: the two agree for each example, right or wrong."""
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


class Bigrams(ARModel):
    """Logits of the next character from the present one. After 'x' float32 prefers 'b', and bf16 rounds it to a tie."""

    def __init__(self, tokenizer):
        super().__init__()
        x, a, b = (int(tokenizer.ids[c]) for c in "xab")
        self.table = torch.nn.Parameter(torch.zeros(len(tokenizer), len(tokenizer)))
        with torch.no_grad():
            self.table[a, x], self.table[b, x], self.table[EOS, a], self.table[EOS, b] = 1.0, 1.001, 1.0, 1.0

    def forward(self, x, attn_mask=None):
        return torch.nn.functional.linear(torch.nn.functional.one_hot(x, len(self.table)).float(), self.table)


@pytest.mark.parametrize(("precision", "right"), [("bf16", 1.0), ("fp32", 0.0)])
def test_scores_of_decoded_answers_are_those_of_the_precision_of_the_run(precision, right):
    """Keeps out: teacher forcing ran under autocast and decoding did not, so one model had two scores.

    The tie of bf16 goes to the first character, on every machine: both logits are the same number.
    """

    def score(self, prompt, answer, gold, meta):
        return {"same": float(answer == gold)}

    task = type("Rounded", (Toy,), {"score": score, "score_metrics": {"same": "higher"}})(resolve(Toy))
    tokenizer = CharTokenizer.build(task.alphabet)
    args = resolve(Toy, precision=precision)
    examples = [Example("x", "a")]
    loader = heldout_loader(task, tokenizer, args, examples, None)
    data = TaskData(task, tokenizer, None, [])
    result = evaluate(Bigrams(tokenizer), loader, CPU, args, data)
    assert result["exact_match"] == result["same"] == right
    text = samples_text(Bigrams(tokenizer), examples, data, CPU, precision)
    assert ("(wrong)" in text) == (right == 0)


@pytest.mark.parametrize(
    "model_name",
    ["gru", *(pytest.param(n, marks=pytest.mark.slow) for n in ("transformer", "gated_deltanet", "mamba2", "mamba"))],
)
def test_exact_match_in_bf16_is_that_of_greedy_decoding_in_bf16(model_name):
    """Chunked and recurrent forms round alike where their float32 sums do; logits of an evaluation are float32."""
    task, args, tokenizer, loader, _ = setup("dyck", lr=1e-2, pos="auto", precision="bf16", test_size=60)
    model = half_trained(model_name, task, args, tokenizer, loader)
    scored = teacher_forced(model, loader, CPU, args)
    forced = rows_all_correct(scored.correct, scored.row)
    examples = loader.dataset.examples
    answers = decode(model.eval(), examples, tokenizer, CPU, "bf16")
    assert [forced[i] for i in range(len(examples))] == [a == e.answer for a, e in zip(answers, examples, strict=True)]


@pytest.mark.parametrize("name", MODELS)
def test_logits_of_an_evaluation_are_float32_under_autocast(name):
    """Keeps out: logits in bf16 made ties, and a parallel pass and a step chose different characters."""
    tokenizer = setup("dyck")[2]
    model_class = MODELS[name].load()
    model = build(model_class, len(tokenizer), resolve(Toy, model_class, d_model=16, n_layer=1, n_head=2), 40).eval()
    ids = torch.tensor([[1, 3, 4]])
    with torch.no_grad(), autocast(CPU, "bf16"):
        logits, state = model.prefill(ids, model.init_state(1, 5))
        found = {model(ids).dtype, logits.dtype, model.step(ids[:, 0], state)[0].dtype}
    assert found == {torch.float32}


# Chance levels


class Toy(Task):
    """'x' is followed by a few letters. Its chance levels can be worked out by hand."""

    alphabet = "abx"

    def examples(self, rng, n, length):
        return [Example("x", "ab")] * n


def toy_levels(train, test, **overrides):
    """The chance levels of given training and test answers. overrides: attributes of the task."""
    task = type("ToyTask", (Toy,), overrides)(resolve(Toy))
    data = TaskData(task, CharTokenizer.build(task.alphabet), None, [Example("x", a) for a in train])
    return chance_levels(data, [Example("x", a) for a in test])


def test_uniform_and_unigram_levels_by_hand():
    found = toy_levels(["ab", "aa", "ab"], ["ab", "bb", "ab", "a"])
    assert found["uniform"]["token_acc"] == 1 / 4  # a, b, x and <eos>
    assert found["uniform"]["primary"] == pytest.approx((3 * 4**-3 + 4**-2) / 4)
    assert found["unigram"]["token_acc"] == 9 / 11  # a, b, <eos> right at 3 + 2 + 3 + 1 of 3 + 3 + 3 + 2 characters
    assert found["unigram"]["primary"] == 2 / 4
    assert found["uniform"]["slice_acc"] == 1 / 4
    assert found["unigram"]["slice_acc"] == 6 / 7  # 2 + 1 + 2 + 1 of 2 + 2 + 2 + 1, without <eos>


def test_a_tie_in_the_unigram_goes_to_the_first_character_in_every_process():
    assert toy_levels(["b", "a"], ["a"])["unigram"]["primary"] == 1.0
    assert toy_levels(["b", "a"], ["b"])["unigram"]["primary"] == 0.0


class Letter(str):
    """A character that counts how often characters are compared."""

    __slots__ = ()
    compared = 0

    def __eq__(self, other):
        Letter.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_answers_that_have_ended_do_not_count_among_the_most_common_characters():
    """Two of three answers end before the second position; a tie goes to the first by code point."""
    assert most_common([["b"], ["a"], ["b", "z"], []]) == ["b", "z"]
    assert most_common([["b"], ["a"]]) == ["a"]
    assert most_common([]) == []


def test_most_common_characters_are_found_without_comparing_all_pairs():
    """Keeps out: a quadratic count, which took 2 s for the recall of 64 pairs."""
    rng = np.random.default_rng(0)
    golds = [[Letter(chr(i)) for i in row] for row in rng.integers(0x4E00, 0x4E00 + 1000, (500, 4)).tolist()]
    Letter.compared = 0
    found = most_common(golds)
    assert Letter.compared <= 4 * 500 * 4  # a few per character; all pairs of a position are about 200,000
    columns = [[str(row[i]) for row in golds] for i in range(4)]
    for letter, column in zip(found, columns, strict=True):
        assert column.count(letter) == max(map(column.count, set(column)))
    Letter.compared = 0
    assert max(set(golds[0]), key=golds[0].count) in golds[0]
    assert Letter.compared > 0, "comparisons are counted"


def test_a_chance_level_of_a_decoded_metric_is_the_score_of_its_answer():
    def score(self, prompt, answer, gold, meta):
        return {"first": float(answer[:1] == gold[:1])}

    found = toy_levels(
        ["ab", "ba", "ab"], ["ab", "bb", "ab", "a"], score=score, score_metrics={"first": "higher"}, primary="first"
    )
    assert found["unigram"]["primary"] == 3 / 4
    assert 0 <= found["uniform"]["primary"] <= 1


def test_the_constant_level_is_the_best_single_answer_of_the_training_set():
    """Keeps out: the most common characters, "bb" here, which no training answer is near."""

    def score(self, prompt, answer, gold, meta):
        return {"equal": float(answer == gold)}

    train, test = ["ab", "ab", "ba", "ba", "ab", "bb", "bb"], ["ab", "ab", "ab", "ba"]
    found = toy_levels(train, test, score=score, score_metrics={"equal": "higher"}, primary="equal")
    assert found["constant"] == {"token_acc": None, "primary": 3 / 4}
    assert "constant" not in toy_levels(train, test), "exact match is not graded"


@pytest.mark.parametrize(
    ("name", "low", "high"), [("fourier_mix", 0.095, 0.13), ("trigo", 0.01, 0.06), ("fibonacci", 0.0005, 0.03)]
)
def test_no_other_constant_answer_is_much_better_than_the_constant_level(name, low, high):
    """low, high: where the best constant answer of 400 examples lies; the most common characters lie below `low`."""
    task, _ = make(name, **({"n_in": 64, "n_out": 16} if name == "fourier_mix" else {}))
    train, test = (task.examples(np.random.default_rng(i), 400, task.longest_length()) for i in (1, 2))
    data = TaskData(task, CharTokenizer.build(task.alphabet), None, train)
    found = chance_levels(data, test)
    assert low <= found["constant"]["primary"] <= high
    assert found["constant"]["primary"] > found["unigram"]["primary"]


def test_a_tasks_own_chance_levels_come_after_the_common_ones():
    found = toy_levels(["a"], ["a"], chance=lambda self, train, test: {"copy": 0.25})
    assert list(found) == ["uniform", "unigram", "copy"]
    assert found["copy"] == {"token_acc": None, "primary": 0.25}


def test_a_tasks_own_chance_level_is_one_of_characters_where_the_primary_metric_is():
    """Keeps out: the distance curve of recall showed 1/alphabet as chance, and not 1/pairs."""
    _, _, _, loader, data = setup("recall")
    found = chance_levels(data, loader.dataset.examples)
    assert found["random_value"]["token_acc"] == found["random_value"]["primary"] > found["uniform"]["token_acc"]


def test_chance_levels_of_labels_do_not_count_eos():
    _, _, _, loader, data = setup("parity")
    found = chance_levels(data, loader.dataset.examples)
    assert found["uniform"] == {"token_acc": 1 / 2, "primary": 1 / 2}


@pytest.mark.parametrize("name", [*answer_names(), "parity"])
def test_chance_levels_are_below_the_ceiling(name):
    task, _, _, loader, data = setup(name)
    found = chance_levels(data, loader.dataset.examples)
    assert {"uniform", "unigram"} <= set(found)
    for level_name, level in found.items():
        assert 0 <= level["primary"] < task.ceiling(loader.dataset.examples), level_name


def test_scaled_score_is_zero_at_the_highest_chance_level_and_one_at_the_ceiling():
    values = {"uniform": {"primary": 0.1}, "unigram": {"primary": 0.2}}
    assert scaled(0.2, values, 1.0) == 0.0
    assert scaled(1.0, values, 1.0) == 1.0
    assert scaled(0.6, values, 1.0) == pytest.approx(0.5)
    assert scaled(0.5, values, 0.8) == pytest.approx(0.5)
    assert scaled(0.1, values, 1.0) == pytest.approx(-0.125)


def test_a_curve_with_one_value_per_character_counts_characters():
    class Graded(Task):
        alphabet = "ab"
        slices = (Slice("place", "place", level="char"),)

        def example(self, rng, length):
            word = "".join(rng.choice(list("ab"), 6))
            return Example(word, word[:2], meta={"place": (10, 20)})

    args = resolve(Graded, val_size=2, test_size=4, precision="fp32", context_len=8)
    tokenizer, loaders, data = build_loaders(Graded(args), args)
    examples = loaders["test"].dataset.examples
    oracle = Oracle(examples, tokenizer)
    start = (BOS, *tokenizer.encode(examples[0].prompt + examples[0].answer[:1]).tolist())
    oracle.next[start] = PAD
    bins = evaluate(oracle, loaders["test"], CPU, args, data)["slices"]["place"]["bins"]
    assert [(b["lo"], b["count"]) for b in bins] == [(10, 4), (20, 4)]
    assert bins[0]["value"] == 1.0
    assert bins[1]["value"] == 3 / 4


def test_decoded_answers_have_one_score_per_example():
    task, _, _, loader, _ = setup("poly")
    examples = loader.dataset.examples
    found = score_answers(task, examples, ["?"] * len(examples))
    assert all(values.shape == (len(examples),) for values in found.values())
    assert np.isfinite(found["mae"]).all()
