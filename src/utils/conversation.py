"""A conversation with a model: answers that come token by token, and a cache that is kept from turn to turn.

    talk = Talk(model, form, device, "fp32", room=256, sampling=Sampling(most=200))
    for piece in talk.answer("hello"):           # pieces of text, as soon as they are complete
        print(piece, end="", flush=True)

The model reads each token once: what is new of the next turn, after the cache of all turns before it. When the context
is full, whole exchanges are dropped, the oldest first, and the cache is made anew. The system message stays. The same
happens at each turn for a template that writes earlier turns in another way once new ones follow.

An answer ends with its end-of-turn token. One that is stopped from outside, or that is too long, stays in the
conversation as far as it came, closed by the same token.

`ARModel.generate` is the loop for a batch of prompts; here is the one for a single row that goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from dataset.corpus.chat_format import ChatFormat
from dataset.corpus.conversations import Message, drop_oldest
from src.flags.fields import UserError
from src.models.contract import ARModel
from src.models.sampling import check_sampling, sample
from src.utils.precision import autocast

BATCH_ROWS = 64  # most prompts that are continued together
ANSWER_SHARE = 4  # an answer gets at least one of so many parts of the context, where it may be that long


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn.  most: tokens of one answer.  The rest as in `ARModel.generate`."""

    most: int
    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None
    generator: torch.Generator | None = None

    def options(self) -> dict:
        """The same as `ARModel.generate` takes it, without the number of tokens."""
        return {
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "generator": self.generator,
        }

    def draw(self, logits: torch.Tensor) -> int:
        """The next id from logits (1, C)."""
        return int(sample(logits, self.temperature, self.top_k, self.top_p, self.generator))


@dataclass
class Cache:
    """What the model has read.  state: its decoding state.  tokens: their number.  tail: chosen ids that it has not
    read yet, because nothing had to be predicted after them."""

    state: tuple
    tokens: int = 0
    tail: list[int] = field(default_factory=list)


class Talk:
    """A conversation that goes on.  room: tokens of the context.  system: the text of a system message, or "".

    notices: lines about what happened to the conversation, for the caller to show and to clear.
    last_piece: what an answer that has ended still held back, because it was a part of a character.
    Raises ValueError for a sampling setting outside its range, UserError for a text that cannot be encoded.
    """

    def __init__(
        self,
        model: ARModel,
        form: ChatFormat,
        device: torch.device,
        precision: str,
        room: int,
        sampling: Sampling,
        system: str = "",
    ):
        check_sampling(sampling.temperature, sampling.top_k, sampling.top_p)
        self.model, self.form, self.device, self.precision = model, form, device, precision
        self.room, self.sampling, self.system = room, sampling, system
        self.notices: list[str] = []
        self.last_piece = ""
        self.reset()

    def reset(self) -> None:
        """Forget everything but the system message."""
        if self.system:
            self._check(self.system, "the system message")
        self.messages: tuple[Message, ...] = (Message("system", self.system),) if self.system else ()
        self.cache = self._empty()

    def answer(self, text: str, stopped: Callable[[], bool] = bool) -> Iterator[str]:
        """The answer to a user's message, in pieces.  stopped: asked after each token whether to end the answer.

        UserError for a message that does not fit the context; the conversation is then as before.
        """
        self._check(text, "the message")
        message = Message("user", text)
        past, cache, ids = self._with_room(message)
        self.messages, self.cache = (*past, message), cache
        return self._answer(ids, stopped)

    def _answer(self, ids: list[int], stopped: Callable[[], bool]) -> Iterator[str]:
        """Read ids, then write. However it ends, the conversation has the answer so far."""
        cache, stream, pieces = self.cache, self.form.tokenizer.stream(), []
        stops = {*self.form.tokenizer.special_ids.values(), self.form.end}
        logits = self._read(cache, ids)
        cache.tail, written = [self.form.end], 0
        try:
            while True:
                new = self.sampling.draw(logits)
                if new in stops:
                    return
                written += 1
                cache.tail = [new, self.form.end]
                pieces.append(stream.add(new))
                if pieces[-1]:
                    yield pieces[-1]
                if stopped():
                    self.notices.append("stopped; the answer so far stays in the conversation")
                    return
                if written == self.sampling.most or cache.tokens == self.room:
                    why = "the context is full" if cache.tokens == self.room else f"it has {written} tokens"
                    self.notices.append(f"the answer was cut, because {why}")
                    return
                logits = self._read(cache, [new])
                cache.tail = [self.form.end]
        finally:
            pieces.append(stream.end())
            self.messages = (*self.messages, Message("assistant", "".join(pieces)))
            self.last_piece = pieces[-1]

    def _with_room(self, message: Message) -> tuple[tuple[Message, ...], Cache, list[int]]:
        """(the past that is kept, the cache of it, the ids to read next), so that the answer has room too."""
        past, dropped = self.messages, 0
        known, new = self._ids(past, message)
        cache, ids = self.cache, [*self.cache.tail, *new]
        if cache.tokens and not known:
            cache, ids = self._empty(), new
        reserve = min(self.sampling.most, max(1, self.room // ANSWER_SHARE))
        while cache.tokens + len(ids) + reserve > self.room and any(m.role == "user" for m in past):
            past, dropped = drop_oldest(past), dropped + 1
            known, new = self._ids(past, message)
            cache, ids = self._empty(), [*known, *new]
        if cache.tokens + len(ids) > self.room:
            raise UserError(
                f"the message makes {cache.tokens + len(ids)} tokens together with what must come before it, allowed: "
                f"at most {self.room}, the context of this run; write a shorter one"
            )
        if dropped:
            exchanges = "exchange" if dropped == 1 else f"{dropped} exchanges"
            self.notices.append(f"the context of {self.room} tokens is full; the oldest {exchanges} was dropped")
        return past, cache, ids

    def _ids(self, past: Sequence[Message], message: Message) -> tuple[list[int], list[int]]:
        known, new = self.form.continued(past, message)
        return known.tolist(), new.tolist()

    def _check(self, text: str, what: str) -> None:
        try:
            self.form.check(text, what)
            self.form.tokenizer.encode(text)
        except ValueError as error:
            raise UserError(str(error)) from None

    def _empty(self) -> Cache:
        with autocast(self.device, self.precision):
            return Cache(self.model.init_state(1, self.room))

    @torch.no_grad()
    def _read(self, cache: Cache, ids: list[int]) -> torch.Tensor:
        """Let the model read ids: the logits (1, C) after the last one."""
        cache.tail = []
        x = torch.tensor(ids, device=self.device)[None]
        with autocast(self.device, self.precision):
            if len(ids) == 1:
                logits, cache.state = self.model.step(x[:, 0], cache.state)
            else:
                out, cache.state = self.model.prefill(x, cache.state)
                logits = out[:, -1]
        cache.tokens += len(ids)
        return logits


def answer_prompts(
    model: ARModel, rows: Sequence[np.ndarray], sampling: Sampling, stop: int, device: torch.device, precision: str
) -> list[list[int]]:
    """The ids that the model writes after each of several prompts (T,), without the one that ends them.

    Prompts of one length are continued together, so none needs padding. The results are in the order of the prompts.
    """
    by_length: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        by_length.setdefault(len(row), []).append(i)
    found: list[list[int]] = [[] for _ in rows]
    for length, members in sorted(by_length.items()):
        for at in range(0, len(members), BATCH_ROWS):
            part = members[at : at + BATCH_ROWS]
            x = torch.from_numpy(np.stack([rows[i] for i in part]).astype(np.int64)).to(device)
            most = sampling.most if model.max_len is None else min(sampling.most, model.max_len + 1 - length)
            with autocast(device, precision):
                new = model.generate(x, most, **sampling.options(), stop_id=stop)
            for i, ids in zip(part, new.tolist(), strict=True):
                found[i] = ids[: ids.index(stop)] if stop in ids else ids
    return found
