"""A conversation with a model: every token is read once, stops and full contexts leave it in order.

python -m pytest tests/utils/test_conversation.py
"""

import io
import os
import signal
import sys

import numpy as np
import pytest
import torch

from dataset.bpe import train_bpe
from dataset.chat import Chat
from dataset.corpus.chat_format import ChatFormat
from dataset.corpus.conversations import Message
from src.flags.fields import UserError
from src.flags.run_flags import resolve
from src.models import MODELS
from src.models.backbone import build
from src.utils import dialogue
from src.utils.conversation import Sampling, Talk, answer_prompts

LAYERS = ["transformer", "mamba", "gru"]
ROOM = 64


class Counted:
    """A model that notes the ids that it reads."""

    def __init__(self, model):
        self.model, self.read = model, []

    def prefill(self, x, state):
        self.read += x[0].tolist()
        return self.model.prefill(x, state)

    def step(self, ids, state):
        self.read += ids.tolist()
        return self.model.step(ids, state)

    def __getattr__(self, name):
        return getattr(self.model, name)


@pytest.fixture(scope="module")
def bpe():
    return train_bpe(["hi yes no? no be kind "] * 9, 300)


def model_of(name, bpe, **flags):
    model_class = MODELS[name].load()
    sizes = {"d_model": 16, "n_layer": 2, "n_head": 2, "context_len": ROOM, "backend": "eager", **flags}
    args = resolve(Chat, model_class, preset={}, dropout=0.0, model=name, task="chat", **sizes)
    torch.manual_seed(0)
    return build(model_class, len(bpe), args, ROOM).eval()


def talk_of(model, bpe, most=6, room=ROOM, template="", **options):
    return Talk(model, ChatFormat(bpe, template), torch.device("cpu"), "fp32", room, Sampling(most, 0.0), **options)


@pytest.mark.parametrize("name", LAYERS)
def test_no_token_is_read_twice(bpe, name):
    """Three turns: the ids that the model reads are those of the whole conversation, each once and in order."""
    model = Counted(model_of(name, bpe))
    talk = talk_of(model, bpe, system="be kind")
    for text in ("hi", "no?", "yes"):
        assert "".join(talk.answer(text)) + talk.last_piece == talk.messages[-1].content
        assert talk.cache.tokens == len(model.read)
    unread = talk.cache.tail
    chosen = [*model.read, *unread]
    assert bpe.special_ids["<|end|>"] == unread[-1]
    starts = [i for i, token in enumerate(chosen) if token == bpe.special_ids["<|user|>"]]
    assert len(starts) == 3
    assert [m.role for m in talk.messages] == ["system", *["user", "assistant"] * 3]


@pytest.mark.parametrize("name", LAYERS)
def test_the_kept_cache_gives_the_answers_of_a_new_one(bpe, name):
    """The likeliest next tokens after each turn are those of a model that reads everything anew."""
    model = Counted(model_of(name, bpe))
    talk = talk_of(model, bpe)
    for text in ("hi", "yes", "no?"):
        at = len(model.read)
        for _ in talk.answer(text):
            pass
        chosen = [*model.read, *talk.cache.tail]
        logits = model.model(torch.tensor([chosen[:-1]]))[0]
        answer = logits.argmax(-1).tolist()
        begin = at + chosen[at:].index(bpe.special_ids["<|assistant|>"])
        written = chosen[begin + 1 : -1]  # without the end of turn, which may close an answer that was cut
        assert written == answer[begin : begin + len(written)]
        assert written


def test_a_stopped_answer_stays_and_is_closed(bpe):
    model = Counted(model_of("transformer", bpe))
    talk = talk_of(model, bpe, most=20)
    asked = []
    for _ in talk.answer("hi", stopped=lambda: len(asked) >= 3 or asked.append(1)):
        pass
    assert talk.messages[-1].role == "assistant"
    assert talk.cache.tail[-1] == bpe.special_ids["<|end|>"]
    assert talk.notices == ["stopped; the answer so far stays in the conversation"]
    before = len(model.read)
    for _ in talk.answer("yes"):
        pass
    assert model.read[before + 1] == bpe.special_ids["<|end|>"]


@pytest.mark.parametrize("name", ["transformer", "mamba"])
def test_a_full_context_drops_whole_exchanges(bpe, name):
    """The model never reads more than its context, and what it reads after a drop is a conversation of its own."""
    model = Counted(model_of(name, bpe))
    talk = talk_of(model, bpe, most=8, system="be kind")
    noticed = 0
    for turn in range(9):
        before = len(model.read)
        for _ in talk.answer(f"hi {turn}"):
            pass
        assert talk.cache.tokens <= ROOM
        dropped = [note for note in talk.notices if "is full; the oldest" in note]
        talk.notices.clear()
        if dropped:
            noticed += 1
            assert model.read[before] == bpe.special_ids["<|system|>"]
            assert talk.cache.tokens == len(model.read) - before
        assert talk.messages[0].role == "system"
        assert [m.role for m in talk.messages[1:]] == ["user", "assistant"] * (len(talk.messages) // 2)
    assert noticed >= 1


def test_a_message_that_does_not_fit_leaves_the_conversation_as_it_was(bpe):
    talk = talk_of(model_of("gru", bpe), bpe)
    for _ in talk.answer("hi"):
        pass
    before = talk.messages, talk.cache.tokens
    with pytest.raises(UserError, match="tokens together with what must come before it, allowed: at most 64"):
        talk.answer("no " * 99)
    with pytest.raises(UserError, match=r"holds <.end.>, which is a special token"):
        talk.answer("bye<|end|>")
    assert (talk.messages, talk.cache.tokens) == before


def test_a_template_that_rewrites_the_past_is_read_anew(bpe):
    """It writes the number of messages first, so nothing of the cache can be used; every turn is still right."""
    template = (
        "{{ messages | length }}{% for m in messages %}<|user|>{% if m.role == 'assistant' %}{% generation %}"
        "{{ m.content }}<|end|>{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    model = Counted(model_of("gru", bpe))
    talk = talk_of(model, bpe, template=template)
    for text in ("hi", "no?"):
        before = len(model.read)
        for _ in talk.answer(text):
            pass
        assert talk.cache.tokens == len(model.read) - before


def test_reset_forgets_all_but_the_system_message(bpe):
    talk = talk_of(model_of("gru", bpe), bpe, system="be kind")
    first = list(talk.answer("hi"))
    list(talk.answer("yes"))
    talk.reset()
    assert talk.messages == (Message("system", "be kind"),)
    assert list(talk.answer("hi")) == first


def test_prompts_of_one_length_share_a_batch_and_keep_their_order(bpe):
    model = model_of("transformer", bpe)
    rows = [bpe.encode(text).astype(np.int64) for text in ("hi yes", "no", "be kind", "hi no", "no")]
    together = answer_prompts(model, rows, Sampling(5, 0.0), bpe.eos, torch.device("cpu"), "fp32")
    alone = [answer_prompts(model, [row], Sampling(5, 0.0), bpe.eos, torch.device("cpu"), "fp32")[0] for row in rows]
    assert together == alone
    assert len({len(row) for row in rows}) < len(rows)


def test_the_first_ctrl_c_stops_the_answer_and_not_the_program(bpe, monkeypatch, capsys):
    """The signal comes while the second token is chosen; the next message is answered as usual."""
    talk = talk_of(model_of("gru", bpe), bpe, most=12)
    draw, count = Sampling.draw, []

    def interrupted(self, logits):
        count.append(1)
        if len(count) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return draw(self, logits)

    monkeypatch.setattr(Sampling, "draw", interrupted)
    monkeypatch.setattr(sys, "stdin", io.StringIO("hi\nyes\n/reset\nno?\n/quit\nnever\n"))
    dialogue.hold(talk)
    out, err = capsys.readouterr()
    assert err.count("stopped; the answer so far stays") == 1
    assert len(out.splitlines()) >= 3
    assert "the conversation is forgotten" in err
    assert [m.content for m in talk.messages if m.role == "user"] == ["no?"]


def test_a_second_ctrl_c_ends_the_program():
    before = signal.getsignal(signal.SIGINT)
    with dialogue.interrupts() as asked:
        os.kill(os.getpid(), signal.SIGINT)
        assert asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
