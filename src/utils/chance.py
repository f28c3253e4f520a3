"""Chance levels: what a model without skill scores, and the scaled score above them."""

from __future__ import annotations

from collections import Counter
from itertools import takewhile

import numpy as np

from dataset.seeds import stream
from src.utils.decoding import score_answers


def chance_levels(task_meta, test_examples) -> dict[str, dict[str, float | None]]:
    """`uniform` (every character equally likely) and `unigram` (the most common training character at that answer position), with the task's own.

    Each gives the primary metric and the accuracy a character that it would reach on this test set; of answers also that without <eos>, the characters
    that a slice counts.
    """
    task, tokenizer = task_meta.task, task_meta.tokenizer
    if task.reads_text:
        return _language_chance(task, tokenizer)
    golds = [task.scored_characters(e) for e in test_examples]
    common = most_common([task.scored_characters(e) for e in task_meta.chance_train])
    symbols = len(task.score_among) or len(tokenizer) - 3 + task.writes_answer  # <eos> is a possible answer character
    hits = [[i < len(common) and c == common[i] for i, c in enumerate(g)] for g in golds]
    unigram_token = sum(map(sum, hits)) / max(1, sum(map(len, golds)))
    result = {
        "uniform": {
            "token_acc": 1 / symbols,
            "primary": _uniform_primary(task, tokenizer, golds, symbols, test_examples),
        },
        "unigram": {
            "token_acc": unigram_token,
            "primary": _unigram_primary(task, common, hits, unigram_token, test_examples),
        },
    }
    if task.writes_answer:
        written = [hit for g, row in zip(golds, hits, strict=True) for c, hit in zip(g, row, strict=True) if c]
        result["uniform"]["slice_acc"], result["unigram"]["slice_acc"] = (
            1 / symbols,
            sum(written) / max(1, len(written)),
        )
    for name, value in task.chance(task_meta.chance_train, test_examples).items():
        result[name] = {"token_acc": value if _kind_of_primary(task) == "token_acc" else None, "primary": value}
    return result


def _language_chance(task, tokenizer):
    common, test = task.counts("train", tokenizer).argmax(), task.counts("test", tokenizer)
    characters = len(tokenizer) - 3
    values = {"uniform": 1 / characters, "unigram": float(test[common] / test.sum())}
    return {name: {"token_acc": v, "primary": v} for name, v in values.items()}


def most_common(golds) -> list[str]:
    """The most common character at each place of rows of characters, the first of equally common ones."""
    width = max(map(len, golds), default=0)
    counts = [Counter(g[i] for g in golds if len(g) > i) for i in range(width)]
    return [min(count, key=lambda c: (-count[c], c)) for count in counts]


def _kind_of_primary(task) -> str:
    name = task.aliases.get(task.primary, task.primary)
    return name if name in ("exact_match", "token_acc") else "score"


def _uniform_primary(task, tokenizer, golds, symbols, examples) -> float:
    kind = _kind_of_primary(task)
    if kind == "token_acc":
        return 1 / symbols
    if kind == "exact_match":
        return float(np.mean([symbols ** -float(len(g)) for g in golds]))
    rng = stream(task, "uniform floor", 0)
    letters = np.array([t for t in tokenizer.tokens if len(t) == 1])
    answers = ["".join(rng.choice(letters, size=len(e.answer))) for e in examples]
    return float(score_answers(task, examples, answers)[task.primary].mean())


def _unigram_primary(task, common, hits, unigram_token, examples) -> float:
    kind = _kind_of_primary(task)
    if kind == "token_acc":
        return unigram_token
    if kind == "exact_match":
        return float(np.mean([all(h) for h in hits]))
    answer = "".join(takewhile(bool, common))  # up to the first position where <eos> is the most common
    return float(score_answers(task, examples, [answer] * len(examples))[task.primary].mean())


def scaled(primary: float, floor_values: dict, ceiling: float) -> float:
    """(primary - highest floor) / (ceiling - highest floor): 0 is chance, 1 is perfect; 0 where a floor already is the ceiling."""
    highest = max(f["primary"] for f in floor_values.values())
    return (primary - highest) / (ceiling - highest) if ceiling > highest else 0.0
