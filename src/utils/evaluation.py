"""Evaluation: one teacher-forced pass for losses, accuracies and slices, and greedy cached decoding for what needs the model's own answer.

`evaluate` gives the result R that metrics.json stores for a split (its schema: src/utils/schema.py).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import lru_cache
from itertools import takewhile

import numpy as np
import torch

from dataset.base import stream
from dataset.common import DECODE_SLACK
from src.utils import stats
from src.utils.distributed import World
from src.utils.env import resolve_precision
from src.utils.metrics import Scored, rows_all_correct
from src.utils.tokenizer import EOS

DECODE_ROWS = 256  # prompts decoded together
SAMPLED_CHARS = 1_000_000  # of the test text of a language task, at most, from which samples are taken
NO_CHARACTER = "\N{REPLACEMENT CHARACTER}"  # a model that writes <pad> or <bos> in its answer is wrong there


def autocast(device, precision: str):
    """The autocast context of a precision; fp32 gives none, auto what the command would choose for the device."""
    device = torch.device(device)
    if precision == "auto":
        precision = _automatic_precision(str(device))
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


@lru_cache
def _automatic_precision(device: str) -> str:
    return resolve_precision("auto", torch.device(device))[0]


@torch.inference_mode()
def teacher_forced(model, loader, device, args, among=None, world: World | None = None) -> Scored:
    """One pass over a loader. among: ids that predictions are chosen from, all where None. Ranks share the batches."""
    world = world or World()
    training = model.training
    model.eval()
    parts = []
    for i, batch in enumerate(loader):
        if i % world.size != world.rank:
            continue
        moved = batch.to(device)
        with autocast(device, args.precision):
            _, aux = model.loss_fn(moved)
        parts.append(_scored(moved, aux, batch.meta["row"], among))
    model.train(training)
    return Scored.join([p for shard in world.gather(parts) for p in shard])


def _scored(batch, aux, rows, among) -> Scored:
    logits, target = aux["logits"].float(), aux["target"]
    width = batch.x.shape[1]
    index = torch.arange(batch.x.numel(), device=logits.device) if aux["index"] is None else aux["index"]
    keep = batch.score.flatten()[index]
    logits, target, index = logits[keep], target[keep], index[keep]
    nll = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    guess = logits.argmax(-1) if among is None else among[logits[:, among].argmax(-1)]
    index = index.cpu().numpy()
    return Scored(rows[index // width], nll.double().cpu().numpy(), (guess == target).cpu().numpy(), batch.gaps.cpu().flatten().numpy()[index], index % width)


@torch.inference_mode()
def decode(model, examples, tokenizer, device) -> list[str]:
    """Greedy cached decoding of each example's answer, stopped at <eos> or len(gold) + 8 characters; prompts of one length run together.

    A position table ends decoding earlier where it has no room left.
    """
    groups = defaultdict(list)
    for i, e in enumerate(examples):
        groups[len(e.prompt)].append(i)
    answers = [""] * len(examples)
    for length, members in sorted(groups.items()):
        for at in range(0, len(members), DECODE_ROWS):
            rows = members[at:at + DECODE_ROWS]
            x = torch.from_numpy(np.concatenate([tokenizer.encode_prompt(examples[i].prompt) for i in rows])).to(device)
            limit = max(len(examples[i].answer) for i in rows) + DECODE_SLACK
            if model.max_len is not None:
                limit = min(limit, model.max_len - length)
            ids = model.generate(x, limit, temperature=0.0, stop_id=EOS).cpu().numpy()
            for i, row in zip(rows, ids, strict=True):
                answers[i] = tokenizer.decode(row, special=NO_CHARACTER)[:len(examples[i].answer) + DECODE_SLACK]
    return answers


def evaluate(model, loader, device, args, task_meta=None, save_samples=None, world: World | None = None) -> dict:
    """Metrics of one split (R of src/utils/schema.py).

    task_meta None (a bare loader): losses and token accuracy only.  save_samples: a path for 8 samples as text (answer tasks).
    """
    task = task_meta["task"] if task_meta else None
    among = None
    if task is not None and task.score_among:
        among = torch.from_numpy(task_meta["tokenizer"].encode(task.score_among).astype(np.int64)).to(device)
    scored = teacher_forced(model, loader, device, args, among, world)
    result = {**scored.losses(), "token_acc": float(scored.correct.mean()), "exact_match": None}
    counts = {"token_acc": len(scored.row)}
    per_example: dict[str, np.ndarray] = {}
    if task is not None and task.kind != "language":
        exact = rows_all_correct(scored.correct, scored.row)
        per_example["exact_match"] = np.array([exact[i] for i in sorted(exact)], dtype=float)
        if task.score_metrics:
            per_example.update(generation_scores(model, loader.dataset.examples, task_meta, device))
        for name, values in per_example.items():
            result[name] = float(values.mean())
            counts[name] = len(values)
    for name, source in (task.aliases if task else {}).items():
        result[name], counts[name] = result[source], counts[source]
        if source in per_example:
            per_example[name] = per_example[source]
    result["n_examples"] = len(np.unique(scored.row))
    result["n_scored"] = len(scored.row)
    result["intervals"] = {name: list(stats.wilson(result[name] * n, n)) for name, n in counts.items() if is_share(task, name)}
    spread = stats.t_interval(scored.nll) if np.isfinite(scored.nll).all() else None
    if spread:
        result["intervals"]["loss"] = list(spread)
    result["slices"] = slices(task, loader.dataset, scored, per_example) if task else {}
    if save_samples and task is not None and task.kind != "language":
        write_samples(save_samples, model, loader.dataset.examples[:8], task_meta, device)
    return result


def is_share(task, name: str) -> bool:
    """Whether a metric is a mean of values in 0..1, so that a Wilson interval means something: all "higher is better" ones are."""
    return name in ("token_acc", "exact_match") or (task is not None and (name in (task.primary, *task.aliases) or task.score_metrics.get(name) == "higher"))


def generation_scores(model, examples, task_meta, device) -> dict[str, np.ndarray]:
    """Per-example values of the task's own `score`, from greedy decoding."""
    task = task_meta["task"]
    answers = decode(model, examples, task_meta["tokenizer"], device)
    return score_answers(task, examples, answers)


def score_answers(task, examples, answers) -> dict[str, np.ndarray]:
    rows = [task.score(e.prompt, a, e.answer, e.meta) for e, a in zip(examples, answers, strict=True)]
    return {name: np.array([r[name] for r in rows], dtype=float) for name in task.score_metrics}


def slices(task, dataset, scored: Scored, per_example: dict) -> dict:
    """The task's curves: value, count and interval a bin."""
    found = {}
    for spec in task.slices:
        name = f"{spec.of}_{spec.metric}" if spec.metric else spec.of
        forms = [(name, "log2"), (f"{name}_linear", "linear")] if spec.of == "gap" else [(name, spec.bins)]
        xs, values, metric = _slice_items(task, dataset, spec, scored, per_example)
        if not len(xs):
            continue
        for name, bins in forms:
            binned = stats.binned(values, xs, bins, interval="mean" if metric == "loss" else "wilson")
            scale = "category" if "name" in binned[0] else "log2" if bins == "log2" else "linear"
            found[name] = {"of": spec.of, "label": spec.label, "level": spec.level, "metric": metric, "scale": scale, "bins": binned}
    return found


def _slice_items(task, dataset, spec, scored: Scored, per_example):
    """(x, value, metric name) of every item that a slice counts; characters where the primary metric is one of characters."""
    if spec.level == "example" and task.primary in per_example:
        return _example_values(dataset, spec.of), per_example[task.primary], task.primary
    if spec.of == "gap":
        xs, keep = scored.gap, scored.gap >= 0
    elif spec.of == "position":
        xs, keep = scored.ordinal, np.ones(len(scored.row), dtype=bool)
        if task.kind == "answer":  # the <eos> behind the answer has no position of its own
            keep = scored.ordinal < dataset.answer_chars[scored.row]
    elif spec.level == "example":
        xs = np.asarray(_example_values(dataset, spec.of))[scored.row]
        keep = np.ones(len(scored.row), dtype=bool)
    else:
        per_row = [dataset.examples[i].meta[spec.of] for i in range(len(dataset))]
        keep = scored.ordinal < np.array([len(v) for v in per_row])[scored.row]
        xs = np.array([per_row[r][o] if k else 0 for r, o, k in zip(scored.row, scored.ordinal, keep, strict=True)])
    if spec.metric == "loss":
        return np.asarray(xs)[keep], scored.nll[keep], "loss"
    return np.asarray(xs)[keep], scored.correct[keep].astype(float), "token_acc"


def _example_values(dataset, of: str) -> list:
    if of == "length":
        return dataset.task_lengths.tolist()
    return [e.meta[of] for e in dataset.examples]


def floors(task_meta, test_examples) -> dict[str, dict[str, float | None]]:
    """`uniform` (every character equally likely) and `unigram` (the most common training character at that answer position), with the task's own.

    Each gives the primary metric and the accuracy a character that it would reach on this test set; of answers also that without <eos>, the characters
    that a slice counts.
    """
    task, tokenizer = task_meta["task"], task_meta["tokenizer"]
    if task.kind == "language":
        return _language_floors(task, tokenizer)
    golds = [_gold(task, e) for e in test_examples]
    common = most_common([_gold(task, e) for e in task_meta["floor_train"]])
    symbols = len(task.score_among) or len(tokenizer) - 3 + (task.kind == "answer")  # <eos> is a possible answer character
    hits = [[i < len(common) and c == common[i] for i, c in enumerate(g)] for g in golds]
    unigram_token = sum(map(sum, hits)) / max(1, sum(map(len, golds)))
    result = {"uniform": {"token_acc": 1 / symbols, "primary": _uniform_primary(task, tokenizer, golds, symbols, test_examples)},
              "unigram": {"token_acc": unigram_token, "primary": _unigram_primary(task, common, hits, unigram_token, test_examples)}}
    if task.kind == "answer":
        written = [hit for g, row in zip(golds, hits, strict=True) for c, hit in zip(g, row, strict=True) if c]
        result["uniform"]["slice_acc"], result["unigram"]["slice_acc"] = 1 / symbols, sum(written) / max(1, len(written))
    for name, value in task.floors(task_meta["floor_train"], test_examples).items():
        result[name] = {"token_acc": value if _kind_of_primary(task) == "token_acc" else None, "primary": value}
    return result


def _language_floors(task, tokenizer):
    common, test = task.counts("train", tokenizer).argmax(), task.counts("test", tokenizer)
    characters = len(tokenizer) - 3
    values = {"uniform": 1 / characters, "unigram": float(test[common] / test.sum())}
    return {name: {"token_acc": v, "primary": v} for name, v in values.items()}


def _gold(task, e) -> list[str]:
    """What is scored, one entry a character ("" stands for <eos>)."""
    return [c for _, c in e.labels] if task.kind == "labels" else [*e.answer, ""]


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


def samples_text(model, examples, task_meta, device) -> str:
    """Up to 8 samples, one a paragraph: prompt, expected, got by greedy decoding."""
    task, tokenizer = task_meta["task"], task_meta["tokenizer"]
    if task.kind == "labels":
        return _label_samples(model, examples, tokenizer, device)
    answers = decode(model, examples, tokenizer, device)
    blocks = [f"prompt    {_show(e.prompt)}\nexpected  {_show(e.answer)}\ngot       {_show(a)}{'' if a == e.answer else '   (wrong)'}"
              for e, a in zip(examples, answers, strict=True)]
    return "\n\n".join(blocks) + "\n"


def write_samples(path, model, examples, task_meta, device) -> None:
    from src.utils.rundir import write_atomic

    write_atomic(path, samples_text(model, examples, task_meta, device).encode())


@torch.inference_mode()
def _label_samples(model, examples, tokenizer, device) -> str:
    blocks = []
    for e in examples:
        x = torch.from_numpy(tokenizer.encode_prompt(e.prompt)).to(device)
        guess = model(x)[0].argmax(-1).tolist()
        expected = "".join(c for _, c in e.labels)
        got = "".join(tokenizer.tokens[guess[p + 1]] if guess[p + 1] > 2 else "·" for p, _ in e.labels)
        blocks.append(f"prompt    {_show(e.prompt)}\nexpected  {_show(expected)}  (at the labelled characters)\ngot       {_show(got)}")
    return "\n\n".join(blocks) + "\n"


@torch.inference_mode()
def language_samples(model, task_meta, device, seed: int, prompt_chars: int = 64, new_chars: int = 200) -> str:
    """Five continuations of test text at temperature 0.8: prompt, the text's own continuation, the model's."""
    task, tokenizer = task_meta["task"], task_meta["tokenizer"]
    text = task.text("test", SAMPLED_CHARS)
    prompt_chars = min(prompt_chars, max(1, task.args.context_len // 2))
    if model.max_len is not None:
        new_chars = min(new_chars, model.max_len - prompt_chars)
    rng = stream(task, "samples", seed)
    generator = torch.Generator(device=device).manual_seed(seed)
    blocks = []
    for start in rng.integers(0, max(1, len(text) - prompt_chars - new_chars), size=5):
        prompt, expected = text[start:start + prompt_chars], text[start + prompt_chars:start + prompt_chars + new_chars]
        x = torch.from_numpy(tokenizer.encode_prompt(prompt)).to(device)
        ids = model.generate(x, new_chars, temperature=0.8, generator=generator)
        blocks.append(f"prompt\n{prompt}\n--- expected\n{expected}\n--- got (temperature 0.8)\n{tokenizer.decode(ids[0])}")
    return ("\n" + "=" * 80 + "\n").join(blocks) + "\n"


def _show(text: str) -> str:
    return text.replace("\n", "\\n") or "(empty)"
