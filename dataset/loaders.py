"""Loaders of a task: train, val and test, and the further lengths of `--eval_lengths`.

    tokenizer, loaders, data = build_loaders(task, args)
    for batch in loaders["train"]: ...          # a `Batch` of dataset/common.py

First what both kinds of task share, then the loaders of examples, then those of windows of a text.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from dataset.common import Batch, ExampleDataset, WindowDataset, collate_fn, collate_windows
from dataset.corpus.language import LanguageTask
from dataset.drawn import drawn_once
from dataset.plans import DocumentBatches, FreshBatches, LengthBatches, OrderedBatches, WindowBatches, draw_length
from dataset.rows import RowDataset, collate_rows
from dataset.seeds import stream
from dataset.splits import check_train_size, draw_heldout, draw_train
from dataset.task import Example, Task
from dataset.tokenizer import CharTokenizer, Tokenizer
from dataset.windows import Consecutive, epoch_windows
from src.flags.fields import UserError
from src.flags.run_flags import RunFlags

EVAL_FACTOR = 4  # evaluation keeps no activations, so its batches hold this many times the rows of a training batch
LONGEST = 1 << 20  # of --eval_lengths
CHANCE_EXAMPLES = 2_000  # of the training set, from which chance levels are taken


@dataclass(frozen=True)
class DataFacts:
    """What metrics.json stores of the data.

    digest: SHA-256 of the text, or of all val and test examples, in hexadecimal.
    source: where a text came from. None for a task that makes its own data.
    left_out: per held-out split, the strata that are too small for it.
    unknown_rate: the share of <unk> in held-out text. None without <unk>.
    unit: what one id stands for, "character" or "token".
    cut: what was left out of conversations to fit the context. None for other tasks.
    """

    digest: str
    source: str | None
    train_examples: int
    val_examples: int
    test_examples: int
    left_out: dict[str, list[str]]
    vocab_size: int
    unknown_rate: float | None = None
    unit: str = "character"
    cut: dict[str, int] | None = None


@dataclass(frozen=True)
class TaskData:
    """What evaluation must know besides the loaders.

    chance_train: training examples at the test length, from which the chance levels are taken.
    """

    task: Task
    tokenizer: Tokenizer
    facts: DataFacts
    chance_train: list[Example] = field(default_factory=list)


def build_loaders(task: Task, args: RunFlags) -> tuple[Tokenizer, dict[str, DataLoader], TaskData]:
    """The tokenizer, the loaders "train", "val" and "test", and what evaluation must know.

    A task on real text also has the loader "heldout": val and test together.
    """
    if task.talks:
        return _row_loaders(task, args)
    return _window_loaders(task, args) if task.reads_text else _example_loaders(task, args)


def length_loader(task: Task, tokenizer: Tokenizer, args: RunFlags, length: int) -> DataLoader:
    """A test set at another length.

    A task that makes its own data draws it from a random stream of its own. A task on real text scores the characters
    of its test set again, in consecutive windows of `length` characters.
    """
    if task.reads_text:
        return _windows_of_length(task, tokenizer, args, length)
    size = args.eval_size or args.test_size
    examples, _ = _heldout(task, "test", size, length, f"eval length {length}", args.seed)
    return heldout_loader(task, tokenizer, args, examples, length)


def parse_lengths(task: Task, words: tuple[str, ...]) -> list[int]:
    """The lengths that --eval_lengths names, without the longest training length, which is that of the test set."""
    return [length for length in named_lengths(task, words) if length != task.longest_length()]


def named_lengths(task: Task, words: tuple[str, ...]) -> list[int]:
    """All lengths that --eval_lengths names, in order. UserError for a task without a length.

    `2x` is twice the longest training length, `256` is 256, `41-500` is every length from 41 to 500, and `41-500:20`
    is 41, 61, ..., up to at most 500.
    """
    if not words:
        return []
    longest = task.longest_length()
    if longest is None:
        raise UserError(f"--eval_lengths: got {','.join(words)}, but {type(task).__name__} has no length; leave it out")
    return sorted({length for word in words for length in _parse_word(word, longest)})


def _parse_word(word: str, longest: int) -> range:
    """The lengths of one word of --eval_lengths."""
    found = re.fullmatch(r"(\d+)-(\d+)(?::(\d+))?", word)
    try:
        if found:
            first, last, step = (int(part or 1) for part in found.groups())
        else:
            first = last = float(word[:-1]) * longest if word.endswith("x") else int(word)
            step = 1
    except ValueError:
        raise UserError(
            f"--eval_lengths: got '{word}', allowed: multiples such as 2x, whole numbers such as 256, or ranges such "
            "as 41-500 and 41-500:20"
        ) from None
    if not 1 <= first <= last <= LONGEST or step < 1:
        raise UserError(f"--eval_lengths: got '{word}', allowed: lengths from 1 to {LONGEST:,}, in increasing order")
    return range(round(first), round(last) + 1, step)


def _loader(dataset: Dataset, batches: Sampler | list[list[int]], collate: Callable[..., Batch]) -> DataLoader:
    # DataLoader draws a seed whenever it is iterated. Its own generator keeps it away from torch's global state.
    return DataLoader(dataset, batch_sampler=batches, collate_fn=collate, generator=torch.Generator())


def _eval_rows(args: RunFlags, tokens: int, trained: int) -> int:
    """Rows of an evaluation batch of sequences of this many tokens.  trained: tokens of the longest training sequence.

    Longer sequences get fewer rows, so that a batch never holds more tokens than one of training length.
    """
    if args.batch_chars:
        return max(1, EVAL_FACTOR * (args.batch_chars // tokens))
    return max(1, EVAL_FACTOR * args.batch_size * trained // max(tokens, trained))


# Loaders of examples.


def _example_loaders(task: Task, args: RunFlags) -> tuple[Tokenizer, dict[str, DataLoader], TaskData]:
    tokenizer, length = CharTokenizer.build(task.alphabet), task.longest_length()
    heldout, left_out = {}, {}
    for split in ("val", "test"):
        size = getattr(args, f"{split}_size")
        if size < 1:
            raise UserError(f"--{split}_size: got {size}, allowed: at least 1 for this task")
        heldout[split], left_out[split] = _heldout(task, split, size, length, split, args.seed)
    loaders = {split: heldout_loader(task, tokenizer, args, examples, length) for split, examples in heldout.items()}
    loaders["train"] = _train_loader(task, tokenizer, args)
    # The name of this stream is part of the data: another name would draw other examples.
    of = {"stream": "floors", "n": CHANCE_EXAMPLES, "length": length, "seed": args.seed}
    chance_train, _ = drawn_once(
        task, of, lambda: (draw_train(task, CHANCE_EXAMPLES, length, stream(task, "floors", args.seed)), ())
    )
    sizes = args.train_size, len(heldout["val"]), len(heldout["test"])
    facts = DataFacts(_digest(heldout["val"] + heldout["test"]), None, *sizes, left_out, len(tokenizer))
    return tokenizer, loaders, TaskData(task, tokenizer, facts, chance_train)


def _heldout(
    task: Task, split: str, n: int, length: int | None, name: str, seed: int
) -> tuple[list[Example], list[str]]:
    """Examples of a held-out split from the random stream of this name, and the strata that were left out."""
    of = {"stream": name, "split": split, "n": n, "length": length, "seed": seed}
    return drawn_once(task, of, lambda: draw_heldout(task, split, n, length, stream(task, name, seed)))


def _digest(examples: list[Example]) -> str:
    lines = (e.prompt + "|" + e.answer + repr(e.labels or "") for e in examples)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def sequences_digest(task: Task, dataset: ExampleDataset | WindowDataset | RowDataset) -> str:
    """SHA-256 of the sequences of a held-out dataset in their order. Equal for two models that are tested on the same.

    The windows of a text are known by the text, the task that cuts it, and their first and last characters.
    """
    if isinstance(dataset, ExampleDataset):
        return _digest(dataset.examples)
    if isinstance(dataset, RowDataset):
        arrays = (dataset.ids, dataset.scored, dataset.starts)
        return hashlib.sha256(b"".join(np.asarray(a, dtype=np.int64).tobytes() for a in arrays)).hexdigest()
    sha = hashlib.sha256(f"({sorted(task.identity().items())!r}, [".encode())
    for i, block in enumerate(dataset.spans.blocks()):
        sha.update((", " * (i > 0) + repr(block.tolist())[1:-1]).encode())
    sha.update(b"])")
    return sha.hexdigest()


def heldout_loader(
    task: Task, tokenizer: Tokenizer, args: RunFlags, examples: list[Example], length: int | None
) -> DataLoader:
    """A loader over fixed examples, in the order of their token count, so that little is padded."""
    data = ExampleDataset(examples, [length] * len(examples), task, tokenizer, args.loss_on)
    return _shortest_first(data, _eval_rows(args, data.longest, task.max_tokens()), collate_fn)


def _shortest_first(data: ExampleDataset | RowDataset, rows: int, collate) -> DataLoader:
    order = np.argsort(data.tokens, kind="stable")
    return _loader(data, [order[i : i + rows].tolist() for i in range(0, len(order), rows)], collate)


def _train_loader(task: Task, tokenizer: Tokenizer, args: RunFlags) -> DataLoader:
    if args.train_size == 0:
        return DataLoader(FreshBatches(task, tokenizer, args), batch_size=None, generator=torch.Generator())
    check_train_size(task, args.train_size)
    of = {"stream": "train", "n": args.train_size, "lengths": args.train_lengths, "seed": args.seed}
    examples, lengths = drawn_once(
        task, of, lambda: draw_train_set(task, args.train_size, args.train_lengths, args.seed)
    )
    data = ExampleDataset(examples, lengths, task, tokenizer, args.loss_on)
    plan = LengthBatches(data, args.batch_size, args.batch_chars, args.seed, task.pool_lengths)
    return _loader(data, plan, collate_fn)


def draw_train_set(task: Task, n: int, train_lengths: str, seed: int) -> tuple[list[Example], list[int | None]]:
    """n training examples and their lengths, in the order of the lengths. Examples of one length are drawn together."""
    rng = stream(task, "train", seed)
    drawn = sorted((draw_length(task, train_lengths, rng) for _ in range(n)), key=lambda v: -1 if v is None else v)
    examples: list[Example] = []
    for length, count in Counter(drawn).items():  # in the order of `drawn`
        examples += draw_train(task, count, length, rng)
    return examples, drawn


# Loaders of windows.


def _window_loaders(task: LanguageTask, args: RunFlags) -> tuple[Tokenizer, dict[str, DataLoader], TaskData]:
    tokenizer = task.tokenizer()
    ids = {split: task.ids(split, tokenizer) for split in ("train", "val", "test", "heldout")}
    n = args.context_len
    rows = max(1, args.batch_chars // n) if args.batch_chars else args.batch_size
    if task.by_document:
        train = WindowDataset(ids["train"], task.spans("train", 0, len(ids["train"])))
        plan = DocumentBatches(train, args.train_size or len(train), rows, args.seed)
    else:
        train = WindowDataset(ids["train"], [(0, n)])
        plan = WindowBatches(train, args.train_size or epoch_windows(len(ids["train"]), n), n, rows, args.seed)
    loaders = {"train": _loader(train, plan, collate_windows)}
    for split, size in (("val", args.val_size), ("test", args.test_size), ("heldout", 0)):
        data = WindowDataset(ids[split], task.spans(split, size, len(ids[split])), tokenizer)
        loaders[split] = _window_loader(data, args, n)
    sizes = plan.n_windows, len(loaders["val"].dataset), len(loaders["test"].dataset)
    left_out = {"val": [], "test": []}
    facts = DataFacts(task.digest, task.source, *sizes, left_out, len(tokenizer), task.unknown_rate, tokenizer.unit)
    return tokenizer, loaders, TaskData(task, tokenizer, facts)


def _windows_of_length(task: LanguageTask, tokenizer: Tokenizer, args: RunFlags, length: int) -> DataLoader:
    ids = task.ids("test", tokenizer)
    n_chars = task.test_chars(args.eval_size or args.test_size)
    if length >= n_chars:
        more = "give a longer text with --data_path" if n_chars == len(ids) else "raise --test_size"
        raise UserError(
            f"--eval_lengths: got {length}, allowed: at most {n_chars - 1}, the scored {tokenizer.unit}s of the test "
            f"set; {more}"
        )
    return _window_loader(WindowDataset(ids, Consecutive(n_chars, length), tokenizer), args, length)


def _window_loader(data: WindowDataset, args: RunFlags, length: int) -> DataLoader:
    return _loader(data, OrderedBatches(len(data), _eval_rows(args, length, args.context_len)), collate_windows)


# Loaders of conversations.


def _row_loaders(task: Task, args: RunFlags) -> tuple[Tokenizer, dict[str, DataLoader], TaskData]:
    tokenizer, found = task.tokenizer(), task.rows
    rows = {**found, "heldout": found["val"] + found["test"]}
    data = {split: RowDataset(part, args.loss_on == "all", tokenizer) for split, part in rows.items()}
    plan = LengthBatches(data["train"], args.batch_size, args.batch_chars, args.seed)
    loaders = {"train": _loader(data["train"], plan, collate_rows)}
    for split in ("val", "test", "heldout"):
        size = _eval_rows(args, data[split].longest, task.max_tokens())
        loaders[split] = _shortest_first(data[split], size, collate_rows)
    facts = DataFacts(
        task.digest,
        task.source,
        *(len(data[split]) for split in ("train", "val", "test")),
        {"val": [], "test": []},
        len(tokenizer),
        task.unknown_rate,
        tokenizer.unit,
        dict(task.cut),
    )
    return tokenizer, loaders, TaskData(task, tokenizer, facts)
