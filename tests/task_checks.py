"""The checks that every task has to pass; tests/dataset applies them to the registry, and to broken tasks."""

import ast
import dataclasses
import re
import sys
from collections import Counter

from conftest import ROOT

from dataset import TASKS
from dataset.seeds import digest, stream
from dataset.splits import draw_heldout, draw_train
from src.flags.fields import field_types, own_config, parse_value, resolve

INSTANCE = re.compile(r"^ +(?P<flags>--.*?)? *'(?P<prompt>[^']+)' -> (?P<result>.+)$", re.MULTILINE)


def load(name):
    return TASKS[name].load()


def answer_tasks():
    """Names of the registered tasks that write an answer or have labels."""
    present = [
        name
        for name, entry in TASKS.items()
        if (ROOT / (entry.target.split(":")[0].replace(".", "/") + ".py")).exists()
    ]
    return [name for name in present if load(name).reads_text is False]


NAMES = answer_tasks()


def build(name, **options):
    """The task with plain defaults, whatever its small layer says, and 64 characters."""
    task_class = load(name)
    return task_class(resolve(task_class, preset={}, **{"context_len": 64, **options}))


def some_lengths(task):
    """The shortest length, one between, the longest, and twice that where lengths vary; None for a task without."""
    if task.lengths is None:
        return [None]
    low, high = task.lengths
    return [high] if low == high else sorted({low, low + 1, (low + high) // 2, high, 2 * high})


def longest(task):
    return None if task.lengths is None else task.lengths[1]


def draw(task, n, length, seed=0):
    return task.examples(stream(task, "tests", seed), n, length)


def gold(example):
    return example.answer if example.labels is None else example.labels


def oracle_failures(task, examples):
    return [(e.prompt, gold(e)) for e in examples if task.solve(e.prompt) != gold(e)]


def alphabet_errors(task, examples):
    """Characters that occur and are not in the alphabet, and characters of the alphabet that never occur."""
    used = {c for e in examples for c in e.prompt + e.answer + "".join(c for _, c in e.labels or ())}
    return used ^ set(task.alphabet)


def too_long(task, examples, length):
    return [e for e in examples if len(e.prompt) + len(e.answer) > task.max_chars(length)]


def ambiguous(examples):
    """Prompts with more than one answer."""
    answers = {}
    for e in examples:
        answers.setdefault(e.prompt, set()).add(gold(e))
    return [prompt for prompt, found in answers.items() if len(found) > 1]


def leaks(task, length, n):
    """Prompts or keys that two splits share, and keys that val or test repeats."""
    drawn = {"train": draw_train(task, 20 * n, length, stream(task, "train", 1))}
    drawn |= {split: draw_heldout(task, split, n, length, stream(task, split, 1))[0] for split in ("val", "test")}
    found = set()
    for look in (task.key, lambda e: e.prompt):
        seen = {split: Counter(map(look, examples)) for split, examples in drawn.items()}
        found |= (
            (seen["train"].keys() & seen["val"].keys())
            | (seen["train"].keys() & seen["test"].keys())
            | (seen["val"].keys() & seen["test"].keys())
        )
        found |= {key for split in ("val", "test") for key, count in seen[split].items() if count > 1}
    return found


def wrong_gaps(task, example):
    """Answer characters or labels whose gap does not lead back to their evidence."""
    text = example.prompt + example.answer
    produced = (
        [(at + 1, c) for at, c in example.labels]
        if example.labels is not None
        else [(len(example.prompt) + i, c) for i, c in enumerate(example.answer)]
    )
    if len(example.gaps) != len(produced):
        return ["number of gaps"]
    return [
        (at, c)
        for (at, c), gap in zip(produced, example.gaps, strict=True)
        if not is_evidence(type(task).__name__, text, at - gap, at, c)
    ]


def is_evidence(kind, text, source, at, character):
    if kind == "Dyck":
        closers = {"(": ")", "[": "]", "{": "}", "<": ">"}
        depth = sum((c in closers) - (c in closers.values()) for c in text[source + 1 : at])
        return closers.get(text[source]) == character and depth == 0
    if kind == "Needle":
        query = text.index("?") + 1
        start = text.index(f"[{text[query]}=") + 3
        return text[source] == character and source - start == at - query - 2
    return (
        text[source] == character and text.index(">") - 1 - source == at - text.index(">") - 1
    )  # mirrored at the separator


def is_uniform(values, allowed):
    """Whether values are within chance of being uniform over `allowed`: chi-square at most 5 standard deviations above its mean."""
    allowed = list(allowed)
    return is_distributed(values, dict.fromkeys(allowed, 1 / len(allowed)))


def is_distributed(values, shares):
    counts = Counter(values)
    if set(counts) - set(shares):
        return False
    n = sum(counts.values())
    chi_square = sum((counts[v] - n * p) ** 2 / (n * p) for v, p in shares.items())
    freedom = max(1, len(shares) - 1)
    return chi_square <= freedom + 5 * (2 * freedom) ** 0.5


def fingerprints():
    """A digest of every task's first examples."""
    found = {}
    for name in NAMES:
        task = build(name)
        found[name] = digest([(e.prompt, e.answer, e.labels, e.gaps) for e in draw(task, 20, longest(task))])
    return found


def instances(name):
    """(options, prompt, answer or labels) of every instance in the module docstring."""
    task_class = load(name)
    fields = {f.name: f for f in dataclasses.fields(own_config(task_class))} if own_config(task_class) else {}
    found = []
    for match in INSTANCE.finditer(sys.modules[task_class.__module__].__doc__):
        options = {}
        for words in (match["flags"] or "").replace("--", "\n").split("\n")[1:]:
            flag, *value = words.split()
            options[flag] = parse_value(
                fields[flag], field_types(own_config(task_class))[flag], value[0] if value else "true"
            )
        found.append((options, match["prompt"], ast.literal_eval(match["result"])))
    return found


def digit_count(text):
    return len(text.lstrip("0") or "0")


def bounded_walks(length, depth, deepest):
    """All +1/-1 walks from 0 to `depth` that stay within 0..deepest."""
    walks = [((), 0)]
    for _ in range(length):
        walks = [
            ((*steps, step), height + step)
            for steps, height in walks
            for step in (1, -1)
            if 0 <= height + step <= deepest
        ]
    return {"".join("()"[step < 0] for step in steps) for steps, height in walks if height == depth}
