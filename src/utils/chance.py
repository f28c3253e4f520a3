"""Chance levels: the scores of predictors without skill, and the scaled score of a run.

    levels = chance_levels(data, test_examples)          # {"uniform": {...}, "unigram": {...}, the task's own}
    scaled(score, levels, task.ceiling(test_examples))   # 0 is chance, 1 is perfect

A score says little without its chance level. The constant answer "0" is right half of the time on parity, and never on
reverse. metrics.json stores the levels under the key "floors".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import takewhile, zip_longest

import numpy as np

from dataset.corpus.language import LanguageTask
from dataset.loaders import TaskData
from dataset.seeds import stream
from dataset.task import Example, Task
from dataset.tokenizer import Tokenizer
from src.utils.decoding import score_answers

Levels = dict[str, dict[str, float | None]]

CONSTANT_EXAMPLES = 100  # training examples on which constant answers are compared


def chance_levels(data: TaskData, test_examples: Sequence[Example]) -> Levels:
    """The scores on a test set of `uniform`, `unigram`, `constant`, and of the predictors that the task adds.

    uniform: every character is equally likely.
    unigram: always the most common training character at that position of the answer.
    constant: where the primary metric grades answers (`Task.score`), always the answer of `best_constant`. Elsewhere
        unigram is the best constant of each character, and there is no such level.
    Each has "primary" (the primary metric) and "token_acc" (the token accuracy). Where the task writes answers,
    each has "slice_acc" too: the token accuracy without <eos>, because the curves of a task do not count <eos>.
    """
    task, tokenizer = data.task, data.tokenizer
    if task.reads_text:
        return _language_levels(task, tokenizer)
    golds = [task.scored_characters(e) for e in test_examples]
    common = most_common([task.scored_characters(e) for e in data.chance_train])
    # <eos> is one of the symbols that a written answer is made of.
    symbols = len(task.score_among) or len(tokenizer) - len(tokenizer.special_ids) + task.writes_answer
    hits = [[i < len(common) and c == common[i] for i, c in enumerate(g)] for g in golds]
    unigram_acc = sum(map(sum, hits)) / max(1, sum(map(len, golds)))
    uniform = {"token_acc": 1 / symbols, "primary": _uniform_primary(task, tokenizer, golds, symbols, test_examples)}
    unigram = {"token_acc": unigram_acc, "primary": _unigram_primary(task, common, hits, unigram_acc, test_examples)}
    if task.writes_answer:
        written = [hit for g, row in zip(golds, hits, strict=True) for c, hit in zip(g, row, strict=True) if c]
        uniform["slice_acc"], unigram["slice_acc"] = 1 / symbols, sum(written) / max(1, len(written))
    graded = _metric_behind_primary(task) == "score"
    constant = {"constant": _constant_level(data, common, test_examples)} if graded else {}
    of_characters = _metric_behind_primary(task) == "token_acc"
    own = {
        name: {"token_acc": value if of_characters else None, "primary": value}
        for name, value in task.chance(data.chance_train, test_examples).items()
    }
    return {"uniform": uniform, "unigram": unigram, **constant, **own}


def scaled(primary: float, levels: Mapping[str, Mapping], ceiling: float) -> float:
    """The score between the highest chance level (0) and the ceiling (1). It is 0 where chance reaches the ceiling."""
    highest = max(level["primary"] for level in levels.values())
    return (primary - highest) / (ceiling - highest) if ceiling > highest else 0.0


def most_common(golds: Sequence[Sequence[str]]) -> list[str]:
    """The most common character at each position of many answers. A tie goes to the first by code point."""
    counts = [Counter(column) for column in zip_longest(*golds)]
    for count in counts:
        del count[None]  # of the answers that end before this position; a Counter forgives a missing key
    return [min(count, key=lambda c: (-count[c], c)) for count in counts]


def best_constant(task: Task, train: Sequence[Example], common: list[str]) -> str:
    """The constant answer with the highest primary metric on training examples, for a task that grades answers.

    Tried: `task.constants`, and `common`, the most common character at each position. The test set chooses nothing.
    """
    answers = [*task.constants(list(train)), _written(common)]
    few = train[:CONSTANT_EXAMPLES]
    return max(answers, key=lambda answer: _score_of(task, answer, few))


def _language_levels(task: LanguageTask, tokenizer: Tokenizer) -> Levels:
    common, test = task.counts("train", tokenizer).argmax(), task.scored_counts(tokenizer)
    values = {"uniform": 1 / task.symbols(tokenizer), "unigram": float(test[common] / test.sum())}
    return {name: {"token_acc": v, "primary": v} for name, v in values.items()}


def _metric_behind_primary(task: Task) -> str:
    """ "exact_match" or "token_acc", whatever the task calls it; "score" where the primary metric is the task's own."""
    name = task.aliases.get(task.primary, task.primary)
    return name if name in ("exact_match", "token_acc") else "score"


def _uniform_primary(
    task: Task, tokenizer: Tokenizer, golds: list[list[str]], symbols: int, examples: Sequence[Example]
) -> float:
    metric = _metric_behind_primary(task)
    if metric == "token_acc":
        return 1 / symbols
    if metric == "exact_match":
        return float(np.mean([symbols ** -float(len(g)) for g in golds]))
    rng = stream(task, "uniform floor", 0)  # the name seeds the stream: another name would change published levels
    letters = np.array([t for t in tokenizer.tokens if len(t) == 1])
    answers = ["".join(rng.choice(letters, size=len(e.answer))) for e in examples]
    return float(score_answers(task, examples, answers)[task.primary].mean())


def _unigram_primary(
    task: Task, common: list[str], hits: list[list[bool]], unigram_acc: float, examples: Sequence[Example]
) -> float:
    metric = _metric_behind_primary(task)
    if metric == "token_acc":
        return unigram_acc
    if metric == "exact_match":
        return float(np.mean([all(h) for h in hits]))
    return _score_of(task, _written(common), examples)


def _written(common: list[str]) -> str:
    """The answer of the most common characters. It ends at the first position where that is <eos>."""
    return "".join(takewhile(bool, common))


def _score_of(task: Task, answer: str, examples: Sequence[Example]) -> float:
    """The primary metric of one answer that is given to every example."""
    return float(score_answers(task, examples, [answer] * len(examples))[task.primary].mean())


def _constant_level(data: TaskData, common: list[str], examples: Sequence[Example]) -> dict[str, float | None]:
    answer = best_constant(data.task, data.chance_train, common)
    return {"token_acc": None, "primary": _score_of(data.task, answer, examples)}
