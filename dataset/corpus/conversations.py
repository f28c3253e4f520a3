"""Conversations from a .jsonl file: reading, checking, splitting, and cutting by whole exchanges.

    conversations = read_conversations(Path("chats.jsonl"))
    conversations[0].messages           # (Message("user", "hello"), Message("assistant", "Hello!"))

Each line is one JSON object, in one of two forms. Other keys are not read.

    {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "Hello!"}]}
    {"conversations": [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "Hello!"}]}

The roles are: at most one system message at the beginning, then user and assistant in turns, and an assistant at the
end. Anything else is an error that names the file and the line. No torch here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.flags.fields import UserError, suggest

ROLES = ("system", "user", "assistant")
NAMES = {"human": "user", "gpt": "assistant", "system": "system", "user": "user", "assistant": "assistant"}
FORMS = {"messages": ("role", "content"), "conversations": ("from", "value")}
ALLOWED = 'one JSON object {"messages": [{"role": ..., "content": ...}, ...]} per line'
HELDOUT_SHARE = 20  # one conversation of so many is val, and another one test
MARK = "\ufeff"  # the byte order mark, which some editors write before UTF-8


@dataclass(frozen=True)
class Message:
    """One turn.  role: one of ROLES.  content: its text."""

    role: str
    content: str

    def as_dict(self) -> dict[str, str]:
        """The message as a chat template reads it."""
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True)
class Conversation:
    """Messages in a valid order.  line: of the file, for errors."""

    messages: tuple[Message, ...]
    line: int

    @property
    def digest(self) -> str:
        """SHA-256 of roles and contents, in hexadecimal. Equal conversations have equal digests."""
        pairs = [(m.role, m.content) for m in self.messages]
        return hashlib.sha256(json.dumps(pairs, ensure_ascii=False).encode()).hexdigest()

    def without_oldest(self) -> Conversation | None:
        """The same without its oldest exchange (user and assistant). The system message stays. None if one is left."""
        rest = drop_oldest(self.messages)
        return Conversation(rest, self.line) if any(m.role == "assistant" for m in rest) else None


def drop_oldest(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages without the oldest exchange: the first user message, and the answer to it if there is one."""
    system = int(bool(messages) and messages[0].role == "system")
    return (*messages[:system], *messages[system + 2 :])


def read_conversations(path: Path) -> list[Conversation]:
    """The conversations of a .jsonl file, in order. UserError with the line number for a line that is none."""
    if path.suffix.lower() != ".jsonl" or not path.is_file():
        what = "no .jsonl file" if path.exists() else "no such file"
        raise UserError(f"--data_path: got '{path}' ({what}), allowed: a .jsonl file, {ALLOWED}")
    found = []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    found.append(Conversation(messages_of(line), number))
                except ValueError as error:
                    raise UserError(f"--data_path: '{path}' line {number}: {error}") from None
    except OSError as error:
        raise UserError(f"--data_path: got '{path}', which cannot be read ({error.strerror or error})") from None
    return found


def messages_of(line: bytes) -> tuple[Message, ...]:
    """The messages of one line. ValueError that says what is wrong, and what is allowed."""
    fix = f", allowed: {ALLOWED}; correct the line or remove it"
    try:
        value = json.loads(line.decode().removeprefix(MARK))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start} of the line){fix}") from None
    except (ValueError, RecursionError) as error:
        why = f"not JSON ({str(error).splitlines()[0]})" if line.strip() else "empty"
        raise ValueError(why + fix) from None
    if not isinstance(value, dict):
        raise ValueError(f"JSON, but a {type(value).__name__}, not an object{fix}")
    form = next((name for name in FORMS if name in value), None)
    if form is None:
        raise ValueError(f"an object with {', '.join(map(repr, value)) or 'no keys'}{fix}")
    if not isinstance(value[form], list):
        raise ValueError(f'"{form}" is a {type(value[form]).__name__}, not a list{fix}')
    return checked(_message(turn, form, at) for at, turn in enumerate(value[form], 1))


def checked(turns: Iterable[Message], answered: bool = True) -> tuple[Message, ...]:
    """The messages, if their roles are in order. ValueError where they are not.

    answered: whether the last one must be an assistant's, as for training; else a user's, as for an answer.
    """
    messages = tuple(turns)
    if not messages:
        raise ValueError("an empty conversation, allowed: at least one user message and one assistant message")
    order = ", allowed: at most one system message first, then user and assistant in turns"
    wanted = "user"
    for at, message in enumerate(messages, 1):
        if message.role == "system" and at == 1:
            continue
        if message.role != wanted:
            raise ValueError(f"message {at} is of role {message.role}, where {wanted} must be{order}")
        wanted = "assistant" if wanted == "user" else "user"
    last = "assistant" if answered else "user"
    if messages[-1].role != last:
        raise ValueError(f"the last message is of role {messages[-1].role}, allowed: {last}; add or remove a message")
    return messages


def _message(turn, form: str, at: int) -> Message:
    """One message of a list. ValueError where it is none."""
    role_key, text_key = FORMS[form]
    if not isinstance(turn, dict) or role_key not in turn or text_key not in turn:
        raise ValueError(f'message {at} is no object with "{role_key}" and "{text_key}"; correct it')
    name, text = turn[role_key], turn[text_key]
    names = NAMES if form == "conversations" else dict.fromkeys(ROLES)
    if not isinstance(name, str) or name not in names:
        raise ValueError(
            f'message {at}: "{role_key}" is {name!r:.40}, allowed: {", ".join(names)}{suggest(str(name), names)}'
        )
    if not isinstance(text, str):
        raise ValueError(f'message {at}: "{text_key}" is a {type(text).__name__}, not a string; write text there')
    check_text(text, f'message {at}: "{text_key}"')
    return Message(names[name] or name, text)


def check_text(text: str, what: str) -> None:
    """ValueError for what is a string in Python and JSON, but no text: a NUL, or half a surrogate pair."""
    if "\0" in text:
        raise ValueError(f"{what} holds a NUL; remove it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} holds half a surrogate pair (character {error.start}); remove it") from None


def split_conversations(conversations: Sequence[Conversation]) -> dict[str, list[Conversation]]:
    """{"train", "val", "test"}: 90 / 5 / 5 of the distinct conversations, at least one each.

    The distinct conversations are ordered by their digests. The first ones are test, the next ones val, and the rest is
    train. So the order of the file decides nothing, and equal conversations are in one split. Within a split the order
    is that of the file. UserError for fewer than three distinct conversations.
    """
    ranked = sorted({c.digest for c in conversations})
    if len(ranked) < 3:
        raise UserError(
            f"--data_path: got {len(ranked)} distinct conversations, allowed: at least 3, one each for train, val and "
            "test; add some"
        )
    n = max(1, len(ranked) // HELDOUT_SHARE)
    split_of = {digest: "test" if i < n else "val" if i < 2 * n else "train" for i, digest in enumerate(ranked)}
    found: dict[str, list[Conversation]] = {"train": [], "val": [], "test": []}
    for conversation in conversations:
        found[split_of[conversation.digest]].append(conversation)
    return found
