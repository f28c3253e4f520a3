"""Batches: what is written, trained and scored, against a slow reference. Order, restart, loaders, padding.

python -m pytest tests/dataset/test_common.py
python -m pytest tests/dataset/test_common.py -m slow        (how long a training set takes)
"""

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_tasks import Running, answer_names, make, mixed
from task_checks import executed_lines
from torch.nn.functional import cross_entropy

from dataset.common import IGNORE, Batch, ExampleDataset, WindowDataset, collate_fn, collate_windows
from dataset.loaders import build_loaders, draw_train_set, length_loader, named_lengths, parse_lengths
from dataset.plans import FreshBatches, LengthBatches, WindowBatches, set_epoch
from dataset.seeds import stream
from dataset.splits import draw_heldout, draw_train, split_of
from dataset.tokenizer import BOS, EOS, PAD, CharTokenizer
from src.flags.fields import UserError
from src.models.backbone import Backbone

ROOT = Path(__file__).resolve().parents[2]


def slow_rows(data, task, tokenizer, rows, loss_on):
    """The batch contract, one row after the other: lists x, y, score, gaps. Written from the design, not the code."""
    found = []
    for i in rows:
        e = data.examples[i]
        tokens = [BOS] + [tokenizer.ids[c] for c in e.prompt + e.answer] + [EOS]
        x, y = tokens[:-1], tokens[1:]
        score, gaps = [False] * len(x), [-1] * len(x)
        if task.labelled:
            trained = [task.train_all or loss_on == "all"] * len(x)
            for k, (position, character) in enumerate(e.labels):
                y[position + 1], score[position + 1], trained[position + 1] = tokenizer.ids[character], True, True
                gaps[position + 1] = e.gaps[k] if e.gaps else -1
        else:
            trained = [task.train_all or loss_on == "all" or t >= len(e.prompt) for t in range(len(x))]
            for k in range(len(e.answer) + 1):
                score[len(e.prompt) + k] = True
                if k < len(e.answer) and e.gaps:
                    gaps[len(e.prompt) + k] = e.gaps[k]
        y = [v if t else IGNORE for v, t in zip(y, trained, strict=True)]
        found.append((x, y, score, gaps))
    return found


def disagreements(batch, reference):
    """Names of the parts of a batch that differ from the reference rows. Padding is <pad>, untrained and unscored."""
    wrong = set()
    width = max(len(x) for x, *_ in reference)
    if tuple(batch.x.shape) != (len(reference), width):
        return {"shape"}
    for i, (x, y, score, gaps) in enumerate(reference):
        pad = width - len(x)
        for name, values, fill in (("x", x, PAD), ("y", y, IGNORE), ("score", score, False), ("gaps", gaps, -1)):
            if getattr(batch, name)[i].tolist() != values + [fill] * pad:
                wrong.add(name)
        if int(batch.lengths[i]) != len(x):
            wrong.add("lengths")
    trained = [j for j, v in enumerate(batch.y.flatten().tolist()) if v != IGNORE]
    index = list(range(batch.y.numel())) if batch.index is None else batch.index.tolist()
    return wrong | ({"index"} if index != trained else set())


@pytest.mark.parametrize("loss_on", ["answer", "all"])
@pytest.mark.parametrize("name", [*answer_names(), "parity", "parity_lm"])
def test_a_batch_is_what_the_contract_says_token_by_token(name, loss_on):
    task, _ = make(name, loss_on=loss_on)
    tokenizer = CharTokenizer.build(task.alphabet)
    data = mixed(task, tokenizer, loss_on=loss_on)
    rows = np.array([3, 0, 7, 11, 5])
    batch = collate_fn((data, rows))
    assert disagreements(batch, slow_rows(data, task, tokenizer, rows, loss_on)) == set()
    assert batch.x.dtype == batch.y.dtype == torch.int64
    assert batch.score.dtype == torch.bool
    assert bool((batch.y[batch.score] != IGNORE).all()), "a scored character must be trained too"
    assert batch.n_trained == int((batch.y != IGNORE).sum())
    assert batch.meta["row"].tolist() == rows.tolist()


def test_dyck_in_lm_mode_trains_everything_and_scores_closers():
    task, _ = make("dyck", mode="lm")
    tokenizer = CharTokenizer.build(task.alphabet)
    data = mixed(task, tokenizer)
    rows = np.arange(6)
    batch = collate_fn((data, rows))
    assert disagreements(batch, slow_rows(data, task, tokenizer, rows, "answer")) == set()
    scored = {tokenizer.tokens[i] for i in batch.y[batch.score].tolist()}
    assert scored <= set(task.score_among)
    assert bool((batch.y != IGNORE)[torch.arange(batch.x.shape[1])[None] < batch.lengths[:, None]].all())


def test_a_leaked_mask_is_noticed():
    task, _ = make("reverse")
    tokenizer = CharTokenizer.build(task.alphabet)
    data = mixed(task, tokenizer)
    rows = np.arange(4)
    reference = slow_rows(data, task, tokenizer, rows, "answer")
    batch = collate_fn((data, rows))
    leaked = Batch(
        batch.x, torch.where(batch.x == PAD, IGNORE, torch.roll(batch.x, -1, 1)), batch.score, batch.lengths, batch.gaps
    )
    assert "y" in disagreements(leaked, reference)
    shifted = Batch(batch.x, batch.y, torch.roll(batch.score, 1, 1), batch.lengths, batch.gaps)
    assert disagreements(shifted, reference) == {"score"}


def test_getitem_gives_the_whole_sequence_its_length_and_meta():
    task, _ = make("addition")
    tokenizer = CharTokenizer.build(task.alphabet)
    data = mixed(task, tokenizer)
    item, e = data[2], data.examples[2]
    assert item["ids"].tolist() == [BOS, *tokenizer.encode(e.prompt + e.answer).tolist(), EOS]
    assert item["length"] == len(e.prompt) + len(e.answer) + 1
    assert item["meta"] == e.meta


# Language windows


def windows(n_chars, context_len):
    ids = np.random.default_rng(0).integers(3, 20, n_chars)
    spans = [(s, min(s + context_len, n_chars - 1)) for s in range(0, n_chars - 1, context_len)]
    return ids, WindowDataset(ids, spans), spans


def test_windows_predict_the_next_character_also_in_the_last_partial_one():
    """Input and target are the text, one character apart. Keeps out <bos>, which no published window has."""
    ids, data, spans = windows(51, 16)
    batch = collate_windows((data, np.arange(4)))
    assert batch.lengths.tolist() == [16, 16, 16, 2]
    for i, (start, end) in enumerate(spans):
        n = end - start
        assert batch.x[i, :n].tolist() == ids[start:end].tolist()
        assert batch.y[i, :n].tolist() == ids[start + 1 : end + 1].tolist()
        assert batch.x[i, n:].tolist() == [PAD] * (16 - n)
        assert batch.y[i, n:].tolist() == [IGNORE] * (16 - n)
        assert batch.score[i].tolist() == [True] * n + [False] * (16 - n)
    assert int(batch.score.sum()) == 50, "each character but the first is scored exactly once"
    assert not bool((batch.x == BOS).any())
    assert collate_windows((data, np.arange(3))).index is None
    assert data[3]["ids"].tolist() == ids[48:51].tolist()


def test_random_windows_stay_inside_the_text_and_reach_both_ends():
    ids, data, _ = windows(40, 10)
    plan = WindowBatches(data, 400, 10, 8, seed=3)
    list(plan)
    spans = data.spans.spans
    assert spans.min() == 0
    assert spans.max() == len(ids) - 1, "the last character is only predicted"
    assert set((spans[:, 1] - spans[:, 0]).tolist()) == {10}


def test_window_batches_restart_anywhere():
    _, data, _ = windows(200, 10)
    plan = WindowBatches(data, 43, 10, 8, seed=3)

    def spans():
        return [data.spans[rows].tolist() for rows in plan]

    plan.set_epoch(2)
    whole = spans()
    assert len(whole) == len(plan) == 6
    plan.set_epoch(2, 4)
    assert spans() == whole[4:]
    assert spans() != whole[4:], "iterating on without set_epoch is the next epoch"


# Order of the fixed training set


def of_lengths(lengths, spare=0):
    """A substitute for a dataset: one row per length, each of length + spare tokens."""
    lengths = np.asarray(lengths)
    return SimpleNamespace(task_lengths=lengths, tokens=lengths + 1 + spare)


def random_plans(count=60):
    rng = np.random.default_rng(20)
    for _ in range(count):
        data = of_lengths(rng.integers(1, rng.integers(2, 40), rng.integers(1, 300)))
        by_chars = bool(rng.integers(2))
        yield (
            LengthBatches(
                data,
                int(rng.integers(1, 40)),
                int(rng.integers(4, 400)) if by_chars else 0,
                seed=int(rng.integers(100)),
            ),
            data,
        )


def test_an_epoch_holds_every_row_once_and_len_equals_what_it_yields():
    for plan, data in random_plans():
        batches = list(plan)
        assert len(batches) == len(plan)
        assert sorted(np.concatenate(batches).tolist()) == list(range(len(data.tokens)))


def test_batches_have_one_length_where_the_groups_suffice():
    for plan, data in random_plans():
        lengths = [set(data.task_lengths[b].tolist()) for b in plan]
        sizes = dict(zip((int(data.task_lengths[g[0]]) for g in plan.groups), plan.sizes, strict=True))
        for length, size in sizes.items():
            whole = sum(1 for found in lengths if found == {length})
            assert whole >= int((data.task_lengths == length).sum()) // size


def test_no_batch_exceeds_batch_chars_by_padding():
    """Keeps out batches of the size that suits their shortest rows: thousands of short rows padded to a long one."""
    rng = np.random.default_rng(5)
    for _ in range(40):
        budget = int(rng.integers(50, 2_000))
        data = of_lengths(rng.integers(1, 45, int(rng.integers(1, 400))))
        for rows in LengthBatches(data, 1, budget, seed=1):
            assert len(rows) * int(data.tokens[rows].max()) <= budget


def test_order_is_a_pure_function_of_seed_and_epoch():
    data = of_lengths(np.random.default_rng(1).integers(1, 9, 200))

    def order(seed, epoch, start=0):
        plan = LengthBatches(data, 8, 0, seed)
        plan.set_epoch(epoch, start)
        return [b.tolist() for b in plan]

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(2, 0)
    assert order(1, 0) != order(1, 1)
    for start in (0, 1, 5, len(order(1, 3)) - 1, len(order(1, 3))):
        assert order(1, 3, start) == order(1, 3)[start:]


def test_iterating_again_is_the_next_epoch_in_full():
    data = of_lengths(np.random.default_rng(1).integers(1, 9, 200))
    plan = LengthBatches(data, 8, 0, 1)
    plan.set_epoch(4, 2)
    list(plan)
    second = [b.tolist() for b in plan]
    plan.set_epoch(5)
    assert second == [b.tolist() for b in plan]


def test_a_loader_skips_batches_as_its_plan_does():
    task, args = make("reverse", train_size=200, batch_size=16)
    _, loaders, _ = build_loaders(task, args)
    set_epoch(loaders["train"], 1)
    whole = [b.x for b in loaders["train"]]
    set_epoch(loaders["train"], 1, 3)
    tail = [b.x for b in loaders["train"]]
    assert len(tail) == len(whole) - 3
    assert all(torch.equal(a, b) for a, b in zip(tail, whole[3:], strict=True))


# Fresh data


def test_fresh_batches_restart_anywhere_and_do_not_repeat():
    task, args = make("needle", train_size=0, batch_chars=0, batch_size=8)
    fresh = FreshBatches(task, CharTokenizer.build(task.alphabet), args)
    first = list(itertools.islice(fresh, 12))
    fresh.set_epoch(0, 7)
    for expected, got in zip(first[7:], fresh, strict=False):
        assert torch.equal(expected.x, got.x)
    rows = {tuple(row[: int(n)]) for b in first for row, n in zip(b.x.tolist(), b.lengths, strict=True)}
    assert len(rows) == 12 * 8
    assert all(len(set(b.meta["length"].tolist())) == 1 for b in first), "each batch has one length"
    assert len({int(b.meta["length"][0]) for b in first}) > 3


def test_fresh_batches_continue_after_the_last_one_when_iterated_again():
    task, args = make("reverse", train_size=0, batch_chars=0, batch_size=4)
    fresh = FreshBatches(task, CharTokenizer.build(task.alphabet), args)
    six = [b.x for b in itertools.islice(fresh, 6)]
    fresh.set_epoch(0)
    again = [b.x for _ in range(2) for b in itertools.islice(fresh, 3)]
    assert all(torch.equal(a, b) for a, b in zip(six, again, strict=True))


@pytest.mark.parametrize("name", answer_names())
def test_fresh_batches_stay_within_batch_chars(name):
    task, args = make(name, train_size=0, batch_chars=2_000)
    fresh = FreshBatches(task, CharTokenizer.build(task.alphabet), args)
    for batch in itertools.islice(fresh, 6):
        assert batch.x.numel() <= 2_000 or len(batch) == 1


def test_fixed_lengths_train_at_the_maximum_alone():
    task, _ = make("reverse", train_size=50, train_lengths="fixed")
    _, lengths = draw_train_set(task, 50, "fixed", 1)
    assert set(lengths) == {32}
    _, lengths = draw_train_set(task, 300, "uniform", 1)
    assert {min(lengths), max(lengths)} == {1, 32}


# Loaders


def test_iterating_loaders_leaves_the_global_random_state_alone():
    for size in (0, 100):
        task, args = make("reverse", train_size=size)
        torch.manual_seed(1)
        before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
        _, loaders, _ = build_loaders(task, args)
        for split in ("train", "val", "test"):
            list(itertools.islice(loaders[split], 3))
        assert torch.equal(before, torch.get_rng_state())
        assert np.array_equal(numpy_before, np.random.get_state()[1])


SCRIPT = """
import hashlib, itertools
from dataset import TASKS
from dataset.loaders import build_loaders
from src.flags.run_flags import resolve
for size in (0, 60):
    cls = TASKS["needle"].load()
    args = resolve(cls, train_size=size, context_len=32, val_size=10, test_size=10)
    _, loaders, meta = build_loaders(cls(args), args)
    h = hashlib.sha256()
    for split in ("train", "val", "test"):
        for b in itertools.islice(loaders[split], 4):
            h.update(b.x.numpy().tobytes() + b.y.numpy().tobytes())
    print(h.hexdigest(), meta.facts.digest)
"""


@pytest.mark.slow
def test_data_is_the_same_in_every_process(capsys):
    """This process has hashes of its own, unless its salt is given; the other one never has the same salt."""
    exec(SCRIPT, {})
    here = capsys.readouterr().out
    salt = "1" if os.environ.get("PYTHONHASHSEED") == "2" else "2"
    env = {**os.environ, "PYTHONHASHSEED": salt}
    other = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=True, env=env
    ).stdout
    assert here == other
    assert len(set(here.split())) == 3, "train_size changes training data and leaves val and test as they are"


def test_held_out_batches_cover_their_split_once():
    task, args = make("rle", val_size=37, batch_chars=0, batch_size=4)
    _, loaders, meta = build_loaders(task, args)
    rows = [r for b in loaders["val"] for r in b.meta["row"].tolist()]
    assert sorted(rows) == list(range(37))
    assert meta.facts.val_examples == 37


def test_a_size_below_one_is_a_user_error():
    task, args = make("rle", val_size=0)
    with pytest.raises(UserError, match="--val_size: got 0, allowed: at least 1"):
        build_loaders(task, args)


def test_eval_lengths_are_multiples_or_numbers():
    task, _ = make("reverse")
    assert parse_lengths(task, ("2x", "0.5x", "100", "64")) == [16, 64, 100]
    assert parse_lengths(task, ("1x", "32", "2x")) == [64]  # the test set has the training maximum already
    for word in ("2y", "x", "0", "-3", "1.5", "99999999x", "nanx", "infx"):
        with pytest.raises(UserError, match="--eval_lengths"):
            parse_lengths(task, (word,))
    with pytest.raises(UserError, match="has no length"):
        parse_lengths(make("trigo")[0], ("2x",))


def test_a_range_of_lengths_names_every_length_or_one_in_so_many():
    task, _ = make("reverse")  # trained up to 32
    assert named_lengths(task, ("30-34", "2x")) == [30, 31, 32, 33, 34, 64]
    assert parse_lengths(task, ("30-34",)) == [30, 31, 33, 34]
    assert named_lengths(task, ("41-500:20",)) == list(range(41, 501, 20))
    assert named_lengths(task, ("1048576",)) == [2**20]


def test_eval_size_is_the_size_of_the_test_set_at_other_lengths_only():
    task, args = make("reverse", test_size=20, eval_size=7)
    tokenizer, loaders, _ = build_loaders(task, args)
    assert len(loaders["test"].dataset) == 20
    assert len(length_loader(task, tokenizer, args, 48).dataset) == 7


def test_a_batch_of_long_sequences_holds_no_more_tokens_than_one_of_training_length():
    task, args = make("reverse", test_size=40, batch_size=8, batch_chars=0)
    tokenizer, loaders, _ = build_loaders(task, args)
    most = max(batch.x.numel() for batch in loaders["test"])
    assert max(len(batch) for batch in loaders["test"]) == 32
    assert max(batch.x.numel() for batch in length_loader(task, tokenizer, args, 256)) <= most
    assert {len(batch) for batch in length_loader(task, tokenizer, args, 4096)} == {1}


def test_long_examples_are_drawn_a_few_at_a_time(monkeypatch):
    task, _ = make("reverse")
    drawn, examples = [], task.examples
    monkeypatch.setattr(task, "examples", lambda rng, n, length: drawn.append(n * length) or examples(rng, n, length))
    monkeypatch.setattr("dataset.splits.DRAWN_CHARS", 10_000)
    draw_heldout(task, "test", 4, 1_000, stream(task, "test", 0))
    assert drawn
    assert max(drawn) <= 10_000


def test_a_test_set_at_another_length_has_that_length_and_its_own_stream():
    task, args = make("reverse")
    tokenizer = CharTokenizer.build(task.alphabet)
    data = length_loader(task, tokenizer, args, 48).dataset
    assert {len(e.prompt) for e in data.examples} == {49}
    same, _ = draw_heldout(task, "test", 20, 32, stream(task, "test", args.seed))
    assert not {e.prompt for e in length_loader(task, tokenizer, args, 32).dataset.examples} & {e.prompt for e in same}


# Padding


def tiny_backbone(vocab_size, args):
    torch.manual_seed(0)
    return Backbone(Running, vocab_size, args, 200).double().eval()


@pytest.mark.parametrize("name", ["rle", "needle", "parity"])
def test_padding_changes_no_loss(name):
    """The summed loss of a padded batch equals the sum over single rows; float64, so only the order of sums differs."""
    task, args = make(name, d_model=16, n_layer=2)
    tokenizer = CharTokenizer.build(task.alphabet)
    data = mixed(task, tokenizer)
    model = tiny_backbone(len(tokenizer), args)

    def summed(batch):
        _, aux = model.loss_fn(batch)
        return float(cross_entropy(aux["logits"], aux["target"], reduction="sum")), len(aux["target"])

    with torch.no_grad():
        batch = collate_fn((data, np.arange(len(data))))
        assert not bool((batch.lengths == batch.lengths[0]).all())
        together, count = summed(batch)
        alone = [summed(collate_fn((data, np.array([i])))) for i in range(len(data))]
        wider = Batch(
            *(
                torch.nn.functional.pad(getattr(batch, k), (0, 5), value=v)
                for k, v in (("x", PAD), ("y", IGNORE), ("score", 0))
            ),
            batch.lengths,
            torch.nn.functional.pad(batch.gaps, (0, 5), value=-1),
        )
        assert together == pytest.approx(sum(v for v, _ in alone), abs=1e-9)
        assert count == sum(n for _, n in alone)
        assert summed(wider)[0] == pytest.approx(together, abs=1e-9)


def test_rows_taken_from_a_batch_make_up_the_batch():
    task, _ = make("rle")
    data = mixed(task, CharTokenizer.build(task.alphabet))
    batch = collate_fn((data, np.arange(7)))
    parts = [batch.take(slice(r, None, 3)) for r in range(3)]
    assert sum(p.n_trained for p in parts) == batch.n_trained
    assert sum(p.n_chars for p in parts) == batch.n_chars == int(batch.lengths.sum())
    assert [len(p) for p in parts] == [3, 2, 2]
    assert len(batch.take(slice(7, None))) == 0
    assert parts[1].meta["row"].tolist() == [1, 4]


@pytest.mark.slow
def test_drawing_and_tokenising_twenty_thousand_needles_is_fast():
    """The training set of the base preset takes about two seconds. Six allow for a busy machine."""
    task, _ = make("needle", context_len=512, train_size=20_000)
    tokenizer = CharTokenizer.build(task.alphabet)
    began = time.perf_counter()
    examples, lengths = draw_train_set(task, 20_000, "uniform", 1)
    data = ExampleDataset(examples, lengths, task, tokenizer, "answer")
    seconds = time.perf_counter() - began
    assert len(data) == 20_000
    assert seconds < 6.0


@pytest.mark.slow
def test_ten_thousand_recall_examples_become_batches_in_about_a_second():
    """About 0.25 s for (64, 4) with 8192 symbols. 1.25 s allow for a busy machine."""
    task, _ = make("recall", context_len=64, n_pairs=4, vocab=8192, train_lengths="fixed")
    tokenizer = CharTokenizer.build(task.alphabet)
    began = time.perf_counter()
    examples, lengths = draw_train_set(task, 10_000, "fixed", 0)
    data = ExampleDataset(examples, lengths, task, tokenizer, "answer")
    for rows in LengthBatches(data, 512, 0, 0):
        collate_fn((data, rows))
    assert time.perf_counter() - began < 1.25


@pytest.mark.parametrize("name", ["recall", "needle", "parity"])
def test_batches_have_no_python_loop_over_characters(name):
    """A bound on executed lines, which does not depend on how busy the machine is: encoding, planning, collating."""
    task, _ = make(name, context_len=64)
    tokenizer = CharTokenizer.build(task.alphabet)
    examples, lengths = draw_train_set(task, 1_000, "fixed", 0)

    def batches():
        data = ExampleDataset(examples, lengths, task, tokenizer, "answer")
        for rows in LengthBatches(data, 512, 0, 0):
            collate_fn((data, rows))

    labels = sum(len(e.labels or ()) for e in examples) / len(examples)
    assert executed_lines(batches) / 1_000 <= 20 + 3 * labels


def test_drawing_a_training_set_rejects_keys_of_val_and_test():
    task, _ = make("rle")
    assert {split_of(task.key(e)) for e in draw_train(task, 300, 6, stream(task, "x", 0))} == {"train"}
