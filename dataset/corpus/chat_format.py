"""From a conversation to ids, and which of them are trained: a chat template together with a tokenizer.

    form = ChatFormat(tokenizer)                # with the template of this project; or ChatFormat(tokenizer, text)
    ids, trained = form.encode(messages)        # (n,) int32 and (n,) bool
    ids = form.prompt(messages)                 # (n,) int32, ends where an assistant's answer begins
    form.end                                    # the id that ends an answer

    <|user|>hi<|end|><|assistant|>Hello!<|end|>
                                  ^^^^^^^^^^^^^           trained: what an assistant writes, and its end of turn

What is trained and what is not is encoded apart, so that no token belongs to both. An answer that is being written is
cut into tokens in the same way. No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dataset.corpus.conversations import Message, check_text
from dataset.corpus.template import ROLE_TOKENS, SPELLED, WITH_TOKENS, ChatTemplate
from dataset.tokenizer import Tokenizer
from src.flags.fields import UserError


class ChatFormat:
    """A template and a tokenizer.  text: the template; "" is the one of this project that suits the tokenizer.

    Raises UserError for a template that fails, or that ends an answer with something else than a special token.
    """

    def __init__(self, tokenizer: Tokenizer, text: str = "", name: str = "chat template"):
        self.tokenizer = tokenizer
        self.specials = tuple(tokenizer.special_ids)
        names = {i: name for name, i in tokenizer.special_ids.items()}
        text = text or default_template(self.specials)
        self.template = ChatTemplate(text, names.get(tokenizer.bos, ""), names.get(tokenizer.eos, ""), name)
        self.end = self._end()

    def encode(self, messages: Sequence[Message]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of a conversation (n,) int32, and which of them an assistant writes (n,) bool."""
        text, spans = self.template.spans(messages, self.specials)
        parts, marks, at = [], [], 0
        for start, end in [*spans, (len(text), len(text))]:
            for piece, mark in ((text[at:start], False), (text[start:end], True)):
                ids = self.tokenizer.encode(piece, special=True) if piece else np.zeros(0, dtype=np.int32)
                parts.append(ids)
                marks.append(np.full(len(ids), mark))
            at = end
        return np.concatenate(parts), np.concatenate(marks)

    def prompt(self, messages: Sequence[Message]) -> np.ndarray:
        """The ids of messages of which the last is a user's, up to where the answer begins: (n,) int32."""
        before, after = self.continued(messages[:-1], messages[-1])
        return np.concatenate([before, after])

    def continued(self, past: Sequence[Message], message: Message) -> tuple[np.ndarray, np.ndarray]:
        """(the ids of the past up to the end of its last answer, the ids from there to where the next answer begins).

        The first ones are empty where the template writes the past in another way once a message follows.
        """
        whole = self.template.render([*past, message], add_generation_prompt=True)
        answered = [i for i, m in enumerate(past) if m.role == "assistant"]
        if not answered:
            return np.zeros(0, dtype=np.int32), self.tokenizer.encode(whole, special=True)
        text, spans = self.template.spans(past, self.specials)
        end = spans[-1][1]
        if not whole.startswith(text[:end]):
            return np.zeros(0, dtype=np.int32), self.tokenizer.encode(whole, special=True)
        ids, trained = self.encode(past)
        last = int(np.flatnonzero(trained)[-1]) + 1
        return ids[:last], self.tokenizer.encode(whole[end:], special=True)

    def check(self, text: str, what: str) -> None:
        """ValueError for a content that could be taken for a special token, or that is no text."""
        check_text(text, what)
        found = next((name for name in self.specials if name in text), None)
        if found:
            raise ValueError(f"{what} holds {found}, which is a special token of this tokenizer; write it differently")

    def _end(self) -> int:
        """The id that ends an answer."""
        letter = next((t for t in self.tokenizer.tokens if len(t) == 1 and t.isalnum()), "a")
        ids, trained = self.encode((Message("user", letter), Message("assistant", letter)))
        last = int(ids[np.flatnonzero(trained)[-1]])
        if last not in self.tokenizer.special_ids.values():
            raise UserError(
                f"{self.template.name}: ends an answer with {self.tokenizer.tokens[last]!r}, allowed: a special token "
                f"of the tokenizer ({', '.join(self.specials)}), so that a chat can tell where an answer ends"
            )
        return last


def default_template(specials: Sequence[str]) -> str:
    """The template of this project for a tokenizer with these special tokens."""
    return WITH_TOKENS if set(ROLE_TOKENS) <= set(specials) else SPELLED
