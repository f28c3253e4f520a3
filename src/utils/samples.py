"""samples.txt: what a trained model writes, beside what is right.

    prompt    abc>
    expected  cba
    got       cbb   (wrong)

A task on real text has continuations of its test text instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from dataset.loaders import TaskData
from dataset.seeds import stream
from dataset.task import Example
from dataset.tokenizer import SPECIAL, Tokenizer
from src.models.contract import ARModel
from src.ops import ran
from src.storage.rundir import write_atomic
from src.utils.decoding import decode
from src.utils.precision import autocast

SAMPLED_CHARS = 1_000_000  # samples of a language task are taken from at most this many ids of its test text
CHATS, CHAT_TOKENS = 8, 100  # conversations in the samples of a chat, and most tokens of an answer there
EMPTY = "(empty)"


def samples_text(
    model: ARModel, examples: Sequence[Example], data: TaskData, device: torch.device | str, precision: str = "fp32"
) -> str:
    """One paragraph per example: the prompt, the expected characters, and those that the model predicts greedily."""
    if data.task.labelled:
        return _label_samples(model, examples, data.tokenizer, device, precision)
    answers = decode(model, examples, data.tokenizer, device, precision)
    return _paragraphs(
        _paragraph(e.prompt, e.answer, answer, "" if answer == e.answer else "   (wrong)")
        for e, answer in zip(examples, answers, strict=True)
    )


def write_samples(
    path: str | Path,
    model: ARModel,
    examples: Sequence[Example],
    data: TaskData,
    device: torch.device | str,
    precision: str = "fp32",
) -> None:
    """Write `samples_text` to a file."""
    write_atomic(path, samples_text(model, examples, data, device, precision).encode())


@torch.no_grad()
def language_samples(
    model: ARModel,
    data: TaskData,
    device: torch.device | str,
    seed: int,
    prompt_chars: int = 64,
    new_chars: int = 200,
    precision: str = "fp32",
    longest: int | None = None,
) -> str:
    """Five continuations of test text at temperature 0.8: the prompt, the text's own continuation, and the model's.

    prompt_chars, new_chars: characters, or tokens where the task has these.
    longest: the most tokens that the model reads; None means its own max_len.
    """
    longest = longest or model.max_len
    task, tokenizer = data.task, data.tokenizer
    ids = task.ids("test", tokenizer)
    prompt_chars = min(prompt_chars, max(1, task.args.context_len // 2))
    if longest is not None:
        new_chars = min(new_chars, longest + 1 - prompt_chars)  # the last character is written but not read
    rng = stream(task, "samples", seed)
    generator = torch.Generator(device=device).manual_seed(seed)
    starts = rng.integers(0, max(1, min(len(ids), SAMPLED_CHARS) - prompt_chars - new_chars), size=5)
    # All have one length: only a text that is shorter than a sample cuts it, and then every sample begins at 0.
    prompts = [ids[start : min(start + prompt_chars, SAMPLED_CHARS)] for start in starts]
    x = torch.from_numpy(np.stack(prompts).astype(np.int64)).to(device)
    with autocast(device, precision), ran.phase("decoding"):
        new = model.generate(x, new_chars, temperature=0.8, generator=generator)
    blocks = []
    for start, prompt, written in zip(starts, prompts, new, strict=True):
        middle = start + prompt_chars
        expected = ids[middle : min(middle + new_chars, SAMPLED_CHARS)]
        blocks.append(
            f"prompt\n{task.shown(prompt, tokenizer)}\n--- expected\n{task.shown(expected, tokenizer)}\n"
            f"--- got (temperature 0.8)\n{tokenizer.decode(written) or EMPTY}"
        )
    return ("\n" + "=" * 80 + "\n").join(blocks) + "\n"


@torch.no_grad()
def chat_samples(model: ARModel, data: TaskData, device: torch.device | str, precision: str = "fp32") -> str:
    """The last answer of the first test conversations: what came before, the right answer, and the greedy one."""
    form, tokenizer, blocks = data.task.form, data.tokenizer, []
    for messages, expected in data.task.prompts(CHATS):
        ids = form.prompt(messages)[-(model.max_len or len(tokenizer)) :].astype(np.int64)
        most = min(CHAT_TOKENS, model.max_len + 1 - len(ids)) if model.max_len else CHAT_TOKENS
        x = torch.from_numpy(ids)[None].to(device)
        with autocast(device, precision), ran.phase("decoding"):
            got = model.generate(x, most, temperature=0.0, stop_id=form.end)[0].tolist()
        answer = tokenizer.decode(got[: got.index(form.end)] if form.end in got else got)
        said = "\n".join(f"{m.role}: {m.content}" for m in messages)
        blocks.append(_paragraph(said, expected, answer, "" if answer == expected else "   (another answer)"))
    return _paragraphs(blocks)


@torch.no_grad()
def _label_samples(
    model: ARModel,
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    device: torch.device | str,
    precision: str,
) -> str:
    """Samples of a task whose labels are predicted at positions of the prompt."""
    blocks = []
    for e in examples:
        x = torch.from_numpy(tokenizer.encode_prompt(e.prompt)).to(device)
        with autocast(device, precision), ran.phase("evaluation"):
            guess = model(x)[0].argmax(-1).tolist()
        expected = "".join(c for _, c in e.labels)
        predicted = [guess[position + 1] for position, _ in e.labels]
        got = "".join(tokenizer.tokens[i] if i >= len(SPECIAL) else "·" for i in predicted)
        note = "  (· is no character but a special token)" if "·" in got else ""
        blocks.append(_paragraph(e.prompt, expected, got, note, where="  (at the labelled characters)"))
    return _paragraphs(blocks)


def _paragraph(prompt: str, expected: str, got: str, note: str = "", where: str = "") -> str:
    return f"prompt    {_show(prompt)}\nexpected  {_show(expected)}{where}\ngot       {_show(got)}{note}"


def _paragraphs(blocks: Iterable[str]) -> str:
    return "\n\n".join(blocks) + "\n"


def _show(text: str) -> str:
    """A text on one line."""
    return text.replace("\n", "\\n") or EMPTY
