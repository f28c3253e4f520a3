"""Greedy decoding of answers, and the task's own score of each answer.

    answers = decode(model, examples, tokenizer, device, args.precision)
    score_answers(task, examples, answers)               # {"mae": one value per example, ...}

Decoding uses the model's cached state: one prefill of the prompt, then one step per character. It runs under the same
autocast as training and the teacher-forced pass. So all scores of a run are those of one model in one precision.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch

from dataset.loaders import TaskData
from dataset.task import DECODE_SLACK, Example, Task
from dataset.tokenizer import Tokenizer
from src.models.contract import ARModel
from src.ops import ran
from src.utils.precision import autocast

DECODE_ROWS = 256  # most prompts that are decoded together
NO_CHARACTER = "\N{REPLACEMENT CHARACTER}"  # replaces <pad> and <bos>, so that an answer with one of them is wrong


@torch.no_grad()
def decode(
    model: ARModel,
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    device: torch.device | str,
    precision: str = "fp32",
) -> list[str]:
    """The model's greedy answer to each example's prompt, decoded in this precision (see `autocast`).

    An answer ends at <eos>, or DECODE_SLACK characters after the length of the gold answer. It ends earlier where the
    model can take no more tokens, or raises on them (see `_continued`). Prompts of one length are decoded together,
    because then none needs padding.
    """
    by_length = defaultdict(list)
    for i, e in enumerate(examples):
        by_length[len(e.prompt)].append(i)
    answers = [""] * len(examples)
    for _, members in sorted(by_length.items()):
        for at in range(0, len(members), DECODE_ROWS):
            rows = members[at : at + DECODE_ROWS]
            x = torch.from_numpy(np.concatenate([tokenizer.encode_prompt(examples[i].prompt) for i in rows])).to(device)
            limit = max(len(examples[i].answer) for i in rows) + DECODE_SLACK
            if model.max_len is not None:
                limit = min(limit, model.max_len + 1 - x.shape[1])  # the last character is written but not read
            with autocast(device, precision), ran.phase("decoding"):
                ids = _continued(model, x, limit, limit - DECODE_SLACK + 1, tokenizer.eos).cpu().numpy()
            for i, row in zip(rows, ids, strict=True):
                answers[i] = tokenizer.decode(row, special=NO_CHARACTER)[: len(examples[i].answer) + DECODE_SLACK]
    return answers


def _continued(model: ARModel, x: torch.Tensor, limit: int, needed: int, eos: int) -> torch.Tensor:
    """At most `limit` new ids of each row; at most `needed` where the model cannot take so many tokens."""
    try:
        return model.generate(x, limit, temperature=0.0, stop_id=eos)
    except Exception:  # a layer may be made for the task's own lengths alone, without a max_len that says so
        return model.generate(x, min(limit, needed), temperature=0.0, stop_id=eos)


def generation_scores(
    model: ARModel, examples: Sequence[Example], data: TaskData, device: torch.device | str, precision: str = "fp32"
) -> dict[str, np.ndarray]:
    """{metric: one value per example} of the task's own `score`, from greedy decoding."""
    return score_answers(data.task, examples, decode(model, examples, data.tokenizer, device, precision))


def score_answers(task: Task, examples: Sequence[Example], answers: Sequence[str]) -> dict[str, np.ndarray]:
    """{metric: one value per example} that the task's own `score` gives these answers."""
    rows = [task.score(e.prompt, a, e.answer, e.meta) for e, a in zip(examples, answers, strict=True)]
    return {name: np.array([r[name] for r in rows], dtype=float) for name in task.score_metrics}
