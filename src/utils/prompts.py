"""The file of `generate --prompts`: several prompts, continued together, their texts in the order of the file.

    prompts = read_prompts(Path("prompts.txt"))          # one line per prompt
    prompts = read_prompts(Path("prompts.jsonl"))        # "a string", {"prompt": "..."} or {"messages": [...]} per line
    print(line_of(prompts[0], "the text"))

A .jsonl file gets .jsonl back, with the key `text` added. Any other file gets one line per prompt, in which a line
break is written as \\n.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset.corpus.chat_format import ChatFormat
from dataset.corpus.conversations import Message, check_text, checked
from dataset.task import Task
from dataset.tokenizer import Tokenizer
from src.flags.fields import UserError

ALLOWED = 'allowed: one prompt per line; of a .jsonl file a string, {"prompt": ...}, or {"messages": [...]} per line'


@dataclass(frozen=True)
class Prompt:
    """One prompt.  line: its number in the file.  text: "" where there are messages.  asked: the JSON of the line."""

    line: int
    text: str = ""
    messages: tuple[Message, ...] = ()
    asked: dict | None = None


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a file. UserError with the line number for a line that is none."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"--prompts: got '{path}', which cannot be read ({error.strerror or error}), {ALLOWED}"
        ) from None
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    if not lines:
        raise UserError(f"--prompts: got '{path}', which is empty, {ALLOWED}")
    found = []
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode().removesuffix("\r")
            found.append(_of_json(number, text) if path.suffix.lower() == ".jsonl" else _plain(number, text))
        except UnicodeDecodeError as error:
            raise UserError(f"--prompts: '{path}' line {number}: not UTF-8 (byte {error.start} of the line)") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"--prompts: '{path}' line {number}: {str(error).splitlines()[0]}, {ALLOWED}") from None
    return found


def _plain(number: int, text: str) -> Prompt:
    check_text(text, "the prompt")
    return Prompt(number, text)


def _of_json(number: int, text: str) -> Prompt:
    """The prompt of a line of .jsonl. ValueError where it is none."""
    value = json.loads(text)
    if isinstance(value, str):
        value = {"prompt": value}
    if not isinstance(value, dict):
        raise ValueError(f"JSON, but a {type(value).__name__}")
    if isinstance(value.get("prompt"), str):
        check_text(value["prompt"], "the prompt")
        return Prompt(number, value["prompt"], (), value)
    turns = value.get("messages")
    if not isinstance(turns, list) or not all(isinstance(t, dict) for t in turns):
        raise ValueError('an object without a string "prompt" and without a list "messages"')
    if not all(isinstance(t.get(key), str) for t in turns for key in ("role", "content")):
        raise ValueError('a message without a string "role" and "content"')
    return Prompt(number, "", checked((Message(t["role"], t["content"]) for t in turns), answered=False), value)


def line_of(prompt: Prompt, text: str) -> str:
    """The line that is printed for a prompt."""
    if prompt.asked is not None:
        return json.dumps({**prompt.asked, "text": text}, ensure_ascii=False)
    return text.replace("\n", "\\n")


def encoded(
    path: Path,
    prompts: Sequence[Prompt],
    task: Task,
    tokenizer: Tokenizer,
    form: ChatFormat | None,
    system: str,
    most: int | None,
) -> list[np.ndarray]:
    """The ids of each prompt, (T,). UserError with the line number for one that cannot be continued.

    form: that of a conversation, whose user writes the prompts; None for text.  system: a system message for all.
    most: tokens that a prompt may have; None means any number.
    """
    found = []
    for prompt in prompts:
        where = f"--prompts: '{path}' line {prompt.line}"
        try:
            ids = _chat_ids(prompt, form, system) if form else _text_ids(prompt, task, tokenizer)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None
        if most is not None and len(ids) > most:
            raise UserError(
                f"{where}: got {len(ids)} tokens, allowed: at most {most}, the context; write a shorter one"
            )
        found.append(ids)
    return found


def _text_ids(prompt: Prompt, task: Task, tokenizer: Tokenizer) -> np.ndarray:
    if prompt.messages:
        raise ValueError('"messages" only go with --chat; add it, or give a "prompt"')
    return task.prompt_ids(prompt.text, tokenizer)[0]


def _chat_ids(prompt: Prompt, form: ChatFormat, system: str) -> np.ndarray:
    messages = prompt.messages or (Message("user", prompt.text),)
    if system and messages[0].role != "system":
        messages = (Message("system", system), *messages)
    for message in messages:
        form.check(message.content, f"the {message.role} message")
    return form.prompt(messages)
