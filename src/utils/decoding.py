"""Greedy decoding of answers with the cached state, and the task's own score of each answer."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch

from dataset.task import DECODE_SLACK
from dataset.tokenizer import EOS

DECODE_ROWS = 256  # prompts decoded together


NO_CHARACTER = "\N{REPLACEMENT CHARACTER}"  # a model that writes <pad> or <bos> in its answer is wrong there


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
            rows = members[at : at + DECODE_ROWS]
            x = torch.from_numpy(np.concatenate([tokenizer.encode_prompt(examples[i].prompt) for i in rows])).to(device)
            limit = max(len(examples[i].answer) for i in rows) + DECODE_SLACK
            if model.max_len is not None:
                limit = min(limit, model.max_len - length)
            ids = model.generate(x, limit, temperature=0.0, stop_id=EOS).cpu().numpy()
            for i, row in zip(rows, ids, strict=True):
                answers[i] = tokenizer.decode(row, special=NO_CHARACTER)[: len(examples[i].answer) + DECODE_SLACK]
    return answers


def generation_scores(model, examples, task_meta, device) -> dict[str, np.ndarray]:
    """Per-example values of the task's own `score`, from greedy decoding."""
    task = task_meta.task
    answers = decode(model, examples, task_meta.tokenizer, device)
    return score_answers(task, examples, answers)


def score_answers(task, examples, answers) -> dict[str, np.ndarray]:
    rows = [task.score(e.prompt, a, e.answer, e.meta) for e, a in zip(examples, answers, strict=True)]
    return {name: np.array([r[name] for r in rows], dtype=float) for name in task.score_metrics}
