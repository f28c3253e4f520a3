"""The checks that every task must pass. tests/dataset applies them to the registry, and to broken tasks.

A check returns what is wrong: an empty list or set if all is well.
"""

import ast
import dataclasses
import re
import sys
from collections import Counter

from dataset import TASKS
from dataset.seeds import digest, stream
from dataset.splits import draw_heldout, draw_train
from src.flags.fields import field_types, own_config, parse_value
from src.flags.run_flags import resolve

INSTANCE = re.compile(r"^ +(?P<flags>--.*?)? *'(?P<prompt>[^']+)' -> (?P<result>.+)$", re.MULTILINE)
TABLE = re.compile(r"^ +position [ \d]+\n +input .+\n +label .+$", re.MULTILINE)


def load(name):
    """The class of a registered task."""
    return TASKS[name].load()


NAMES = [name for name in TASKS if not load(name).reads_text]  # the tasks that make their own data


def build(name, **options):
    """The task without its small layer, at 64 characters."""
    task_class = load(name)
    return task_class(resolve(task_class, preset={}, **{"context_len": 64, **options}))


def some_lengths(task):
    """The shortest length, one between, the longest, and twice that where lengths vary. [None] for a task without."""
    if task.lengths is None:
        return [None]
    low, high = task.lengths
    return [high] if low == high else sorted({low, low + 1, (low + high) // 2, high, 2 * high})


def draw(task, n, length, seed=0):
    return task.examples(stream(task, "tests", seed), n, length)


def gold(example):
    return example.answer if example.labels is None else example.labels


def written(example):
    """All characters of an example."""
    return example.prompt + example.answer + "".join(c for _, c in example.labels or ())


# What is wrong with examples.


def oracle_failures(task, examples):
    return [(e.prompt, gold(e)) for e in examples if task.solve(e.prompt) != gold(e)]


def alphabet_errors(task, examples):
    """Characters that occur and are not in the alphabet, and characters of the alphabet that never occur."""
    return {c for e in examples for c in written(e)} ^ set(task.alphabet)


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
        train, val, test = (Counter(map(look, drawn[split])) for split in ("train", "val", "test"))
        found |= (train.keys() & val.keys()) | (train.keys() & test.keys()) | (val.keys() & test.keys())
        found |= {key for seen in (val, test) for key, count in seen.items() if count > 1}
    return found


def wrong_gaps(task, example):
    """Answer characters or labels whose gap does not lead back to their evidence."""
    text = example.prompt + example.answer
    if example.labels is not None:
        produced = [(at + 1, c) for at, c in example.labels]
    else:
        produced = [(len(example.prompt) + i, c) for i, c in enumerate(example.answer)]
    if len(example.gaps) != len(produced):
        return ["number of gaps"]
    return [
        (at, c)
        for (at, c), gap in zip(produced, example.gaps, strict=True)
        if not is_evidence(task, text, at - gap, at, c)
    ]


def is_evidence(task, text, source, at, character):
    """Whether the character at `source` decides that `character` is produced at `at`."""
    kind = type(task).__name__
    if kind == "Dyck":  # the opener of this closer: all brackets between them are balanced
        closers = {"(": ")", "[": "]", "{": "}", "<": ">"}
        depth = sum((c in closers) - (c in closers.values()) for c in text[source + 1 : at])
        return closers.get(text[source]) == character and depth == 0
    if text[source] != character:  # elsewhere the evidence is the character itself
        return False
    if kind == "Needle":
        query = text.index("?") + 1
        start = text.index(f"[{text[query]}=") + 3
        return source - start == at - query - 2
    if kind == "Reverse":  # mirrored at the separator
        return text.index(">") - 1 - source == at - text.index(">") - 1
    if kind == "Copy":
        return at - source == text.index(">") + 1
    if kind == "SelectiveCopy":  # as many symbols before it as are written already
        return len(text[:source].replace(".", "")) == at - text.index(">") - 1
    if kind == "Recall":  # the value comes after the same key, and the key gets no other value in between
        key, context = text[source - 1], text[: text.index(text[at - 1], source + 1)]
        return text[at - 1] == key and source % 2 == 1 and key not in context[source:]
    if kind == "Induction" and task.repeats:
        return all(text[i] == text[i - (at - source)] for i in range(at - source, len(text)))
    if kind == "Induction":
        return text[source - 1] == "*" == text[at - 1] and source < at
    raise ValueError(f"no rule for the gaps of {kind}: add one here")


def executed_lines(function):
    """Lines of Python that a call executes. Unlike its time, they do not depend on the machine."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


def lines_per_example(task, n, length):
    """Lines of Python that drawing n examples executes, per example."""
    draw(task, n, length)  # tables that are made once do not count
    return executed_lines(lambda: draw(task, n, length)) / n


# Distributions.


def is_uniform(values, allowed):
    """Whether values may be uniform over `allowed`: chi-square at most 5 standard deviations above its mean."""
    allowed = list(allowed)
    return is_distributed(values, dict.fromkeys(allowed, 1 / len(allowed)))


def is_distributed(values, shares):
    """The same for any distribution. shares: value -> probability."""
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
        found[name] = digest([(e.prompt, e.answer, e.labels, e.gaps) for e in draw(task, 20, task.longest_length())])
    return found


# Docstrings.


def docstring(name):
    """The module docstring of a task."""
    return sys.modules[load(name).__module__].__doc__


def instances(name):
    """(options, prompt, answer or labels) of every instance in the module docstring."""
    config = own_config(load(name))
    fields = {f.name: f for f in dataclasses.fields(config)} if config else {}
    found = []
    for match in INSTANCE.finditer(docstring(name)):
        options = {}
        for words in (match["flags"] or "").replace("--", "\n").split("\n")[1:]:
            flag, *value = words.split()
            options[flag] = parse_value(fields[flag], field_types(config)[flag], value[0] if value else "true")
        found.append((options, match["prompt"], ast.literal_eval(match["result"])))
    return found


def table(text):
    """(prompt, labels) of the table with the rows position, input and label in a docstring. Columns are aligned."""
    position, inputs, labels = TABLE.search(text)[0].split("\n")
    ends = {int(number[0]): number.end() for number in re.finditer(r"\d+", position)}
    prompt = "".join(inputs[end - 1] for end in ends.values())
    found = tuple((at, labels[end - 1]) for at, end in ends.items() if labels[end - 1 : end].strip())
    assert [*prompt] == inputs.split()[1:], "an input is not below its position"
    assert [c for _, c in found] == labels.split()[1:], "a label is not below its position"
    return prompt, found


def digit_count(text):
    return len(text.lstrip("0") or "0")


def bounded_walks(length, depth, deepest):
    """All +1/-1 walks from 0 to `depth` that stay within 0..deepest, as strings of round brackets."""
    walks = [("", 0)]
    for _ in range(length):
        steps = [(text + c, height + up) for text, height in walks for c, up in (("(", 1), (")", -1))]
        walks = [(text, height) for text, height in steps if 0 <= height <= deepest]
    return {text for text, height in walks if height == depth}
