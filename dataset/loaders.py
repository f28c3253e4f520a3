"""Loaders of a task: train, val and test, and the further lengths of `--eval_lengths`."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.utils.data import DataLoader

from dataset.common import ExampleDataset, WindowDataset, collate_fn, collate_windows
from dataset.plans import FreshBatches, LengthBatches, WindowBatches, draw_length
from dataset.seeds import stream
from dataset.splits import check_train_size, draw_heldout, draw_train
from dataset.task import Example, Task
from dataset.tokenizer import CharTokenizer
from dataset.windows import epoch_windows, windows_consecutive
from src.flags.fields import UserError

EVAL_FACTOR = 4  # evaluation keeps no activations, so its batches hold this many times the rows of a training batch


@dataclass(frozen=True)
class DataFacts:
    """What metrics.json stores of the data.

    digest: SHA-256 of the text, or of all val and test examples, in hexadecimal.  source: where a text came from, None for a task that
    makes its own data.  left_out: the strata that are too small for val and for test.  unknown_rate: the share of <unk> in held-out text.
    """

    digest: str
    source: str | None
    train_examples: int
    val_examples: int
    test_examples: int
    left_out: dict[str, list[str]]
    vocab_size: int
    unknown_rate: float | None = None


@dataclass(frozen=True)
class TaskData:
    """What evaluation has to know beside the loaders.  chance_train: training examples at the test length, for the chance levels."""

    task: Task
    tokenizer: CharTokenizer
    facts: DataFacts
    chance_train: list[Example] = field(default_factory=list)


def _loader(dataset, batches, collate) -> DataLoader:
    # A generator of its own: DataLoader draws a seed whenever it is iterated, and must not take it from torch's global state.
    return DataLoader(dataset, batch_sampler=batches, collate_fn=collate, generator=torch.Generator())


def _heldout_loader(dataset, rows_a_batch: int, order: np.ndarray, collate) -> DataLoader:
    batches = [order[i : i + rows_a_batch].tolist() for i in range(0, len(order), rows_a_batch)]
    return _loader(dataset, batches, collate)


def eval_rows(args, tokens: int) -> int:
    """Rows of an evaluation batch of sequences of this many tokens."""
    rows = args.batch_chars // tokens if args.batch_chars else args.batch_size
    return max(1, EVAL_FACTOR * rows)


def heldout_loader(task: Task, tokenizer, args, examples, length) -> DataLoader:
    """A loader over fixed examples, in order of their token count so that little is padded."""
    data = ExampleDataset(examples, [length] * len(examples), task, tokenizer, args.loss_on)
    order = np.argsort(data.tokens, kind="stable")
    return _heldout_loader(data, eval_rows(args, int(data.tokens.max())), order, collate_fn)


def build_loaders(task: Task, args):
    """(tokenizer, {"train", "val", "test"} loaders, TaskData); a task on real text has "heldout" too, which is val and test together."""
    if task.reads_text:
        return _language_loaders(task, args)
    tokenizer = CharTokenizer.build(task.alphabet)
    length = None if task.lengths is None else task.lengths[1]
    heldout, left_out = {}, {}
    for split in ("val", "test"):
        size = getattr(args, f"{split}_size")
        if size < 1:
            raise UserError(f"--{split}_size: got {size}, allowed: at least 1 for this task")
        heldout[split], left_out[split] = draw_heldout(task, split, size, length, stream(task, split, args.seed))
    loaders = {split: heldout_loader(task, tokenizer, args, examples, length) for split, examples in heldout.items()}
    loaders["train"] = _train_loader(task, tokenizer, args)
    chance_train = draw_train(task, 2_000, length, stream(task, "floors", args.seed))
    digest = hashlib.sha256(
        "\n".join(
            e.prompt + "|" + e.answer + repr(e.labels or "") for s in ("val", "test") for e in heldout[s]
        ).encode()
    )
    facts = DataFacts(
        digest.hexdigest(), None, args.train_size, len(heldout["val"]), len(heldout["test"]), left_out, len(tokenizer)
    )
    return tokenizer, loaders, TaskData(task, tokenizer, facts, chance_train)


def _train_loader(task: Task, tokenizer, args) -> DataLoader:
    if args.train_size == 0:
        return DataLoader(FreshBatches(task, tokenizer, args), batch_size=None, generator=torch.Generator())
    check_train_size(task, args.train_size)
    examples, lengths = draw_train_set(task, args.train_size, args.train_lengths, args.seed)
    data = ExampleDataset(examples, lengths, task, tokenizer, args.loss_on)
    return _loader(
        data, LengthBatches(data, args.batch_size, args.batch_chars, args.seed, task.pool_lengths), collate_fn
    )


def draw_train_set(task: Task, n: int, train_lengths: str, seed: int):
    """n training examples and their lengths; lengths are uniform over the task's range, examples of one length drawn together."""
    rng = stream(task, "train", seed)
    drawn = sorted((draw_length(task, train_lengths, rng) for _ in range(n)), key=lambda v: -1 if v is None else v)
    examples: list[Example] = []
    for length, count in Counter(drawn).items():  # in the order of `drawn`
        examples += draw_train(task, count, length, rng)
    return examples, drawn


def _language_loaders(task, args):
    tokenizer = task.tokenizer()
    ids = {split: task.ids(split, tokenizer) for split in ("train", "val", "test", "heldout")}
    n = args.context_len
    train = WindowDataset(ids["train"], [(0, n)])
    rows = max(1, args.batch_chars // n) if args.batch_chars else args.batch_size
    plan = WindowBatches(train, args.train_size or epoch_windows(len(ids["train"]), n), n, rows, args.seed)
    loaders = {"train": _loader(train, plan, collate_windows)}
    for split, size in (("val", args.val_size), ("test", args.test_size), ("heldout", 0)):
        spans = windows_consecutive(len(ids[split]), n)
        data = WindowDataset(ids[split], spans[:size] if size else spans)
        loaders[split] = _heldout_loader(data, eval_rows(args, n), np.arange(len(data)), collate_windows)
    sizes = plan.n_windows, len(loaders["val"].dataset), len(loaders["test"].dataset)
    facts = DataFacts(task.digest, task.source, *sizes, {"val": [], "test": []}, len(tokenizer), task.unknown_rate)
    return tokenizer, loaders, TaskData(task, tokenizer, facts)


def parse_lengths(task: Task, words: tuple[str, ...]) -> list[int]:
    """`2x`, `4x`, `256` -> lengths other than the training maximum, of which `x` is a multiple. UserError where the task has no length."""
    if not words:
        return []
    longest = task.longest_length()
    if longest is None:
        raise UserError(f"--eval_lengths: got {','.join(words)}, but {type(task).__name__} has no length; leave it out")
    lengths = []
    for word in words:
        number = word[:-1] if word.endswith("x") else word
        try:
            value = float(number) * longest if word.endswith("x") else int(number)
        except ValueError:
            raise UserError(
                f"--eval_lengths: got '{word}', allowed: multiples such as 2x, or whole numbers such as 256"
            ) from None
        if not 1 <= value <= 1_000_000:
            raise UserError(f"--eval_lengths: got '{word}', allowed: lengths from 1 to 1,000,000")
        lengths.append(round(value))
    return sorted(set(lengths) - {longest})  # the test set itself has that length


def length_loader(task: Task, tokenizer, args, length: int) -> DataLoader:
    """A test set of its own stream at another length; of a language task the text of its test set, in consecutive windows of that many characters."""
    if task.reads_text:
        return _windows_of_length(task, tokenizer, args, length)
    examples, _ = draw_heldout(task, "test", args.test_size, length, stream(task, f"eval length {length}", args.seed))
    return heldout_loader(task, tokenizer, args, examples, length)


def _windows_of_length(task, tokenizer, args, length: int) -> DataLoader:
    ids = task.ids("test", tokenizer)
    n_chars = min(
        len(ids), args.test_size * args.context_len or len(ids)
    )  # as many as the test set has, so that all lengths score the same text
    if length > n_chars:
        more = "give a longer text with --data_path" if n_chars == len(ids) else "raise --test_size"
        raise UserError(
            f"--eval_lengths: got {length}, allowed: at most {n_chars}, the characters of the test set; {more}"
        )
    data = WindowDataset(ids, windows_consecutive(n_chars, length))
    return _heldout_loader(data, eval_rows(args, length), np.arange(len(data)), collate_windows)
