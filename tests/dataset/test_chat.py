"""Conversations: what a line may be, which tokens are trained, what is cut, and what a chat template may not do.

python -m pytest tests/dataset/test_chat.py
"""

import json

import numpy as np
import pytest

from dataset.bpe import train_bpe
from dataset.chat import BUILTIN, Chat
from dataset.common import IGNORE
from dataset.corpus import template as templates
from dataset.corpus.chat_format import ChatFormat
from dataset.corpus.conversations import Message, read_conversations, split_conversations
from dataset.corpus.template import ChatTemplate
from dataset.loaders import build_loaders
from dataset.tokenizer import CharTokenizer
from src.flags.fields import UserError
from src.flags.run_flags import resolve

USER, ASSISTANT = ("user", "hi"), ("assistant", "yes")
TALK = tuple(Message(*turn) for turn in (("system", "be kind"), USER, ASSISTANT, ("user", "no?"), ("assistant", "no")))
CHATML = (
    "{% for m in messages %}{{ '<|system|>' + m['role'] + '\n' + m['content'] + '<|end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|system|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def bpe():
    return train_bpe(["hi yes no? no be kind "] * 9, 300)


@pytest.fixture
def chats(tmp_path):
    """Write lines of .jsonl and return the path."""

    def write(*lines):
        path = tmp_path / "chats.jsonl"
        path.write_bytes(b"\n".join(x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines) + b"\n")
        return path

    return write


def said(*turns):
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def chat_task(path="", **flags):
    options = {"context_len": 64, "tokenizer": "char", "val_size": 0, "test_size": 0, **flags}
    return Chat(resolve(Chat, preset={}, train_size=0, data_path=str(path), **options))


def numbered(n, turns=1):
    """n conversations that differ, of so many exchanges."""
    return [
        said(*[t for k in range(turns) for t in (("user", f"say {i} {k}"), ("assistant", f"{i}"))]) for i in range(n)
    ]


# Lines.


def test_both_forms_give_the_same_conversation(chats):
    other = {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}]}
    first, second = read_conversations(chats(said(USER, ASSISTANT), other))
    assert first.messages == second.messages == (Message(*USER), Message(*ASSISTANT))
    assert (first.line, second.line) == (1, 2)
    assert first.digest == second.digest


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{", "not JSON"),
        (b"", "empty"),
        (b"\xff\xfe{", "not UTF-8 (byte 0 of the line)"),
        (b"[1]", "a list, not an object"),
        ({"text": "hi"}, "an object with 'text'"),
        ({"messages": "hi"}, '"messages" is a str, not a list'),
        ({"messages": []}, "an empty conversation"),
        ({"messages": [["user", "hi"]]}, 'message 1 is no object with "role" and "content"'),
        ({"conversations": [{"from": "humn", "value": "x"}]}, "did you mean 'human'?"),
        ({"messages": [{"role": "human", "content": "hi"}]}, "\"role\" is 'human', allowed: system, user, assistant"),
        ({"messages": [{"role": "user", "content": 3}]}, '"content" is a int, not a string'),
        (said(("user", "a\0b"), ASSISTANT), "holds a NUL"),
        (said(("user", "a\ud800"), ASSISTANT), "half a surrogate pair"),
        (said(ASSISTANT), "message 1 is of role assistant, where user must be"),
        (said(USER, USER), "message 2 is of role user, where assistant must be"),
        (said(USER, ("system", "s"), ASSISTANT), "message 2 is of role system"),
        (said(USER, ASSISTANT, USER), "the last message is of role user"),
        (said(("system", "s")), "the last message is of role system"),
    ],
)
def test_a_wrong_line_is_named_with_its_number(chats, line, why):
    with pytest.raises(UserError) as caught:
        read_conversations(chats(said(USER, ASSISTANT), line))
    assert "chats.jsonl' line 2: " in str(caught.value)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_splits_share_no_conversation_and_do_not_depend_on_the_order(chats):
    lines = [*numbered(40), *numbered(40)]  # each one twice
    splits = split_conversations(read_conversations(chats(*lines)))
    again = split_conversations(read_conversations(chats(*reversed(lines))))
    digests = {split: {c.digest for c in part} for split, part in splits.items()}
    assert {split: len(found) for split, found in digests.items()} == {"train": 36, "val": 2, "test": 2}
    assert len(set.union(*digests.values())) == 40
    assert digests == {split: {c.digest for c in part} for split, part in again.items()}
    with pytest.raises(UserError, match="2 distinct conversations, allowed: at least 3"):
        split_conversations(read_conversations(chats(*numbered(2), *numbered(2))))


def test_the_conversations_of_this_project_are_valid_and_sixty():
    found = read_conversations(BUILTIN)
    assert len({c.digest for c in found}) == 60
    assert sum(len(c.messages) > 3 for c in found) >= 20


# Which tokens are trained.


def shown(form, messages):
    ids, trained = form.encode(messages)
    return [(form.tokenizer.tokens[i], bool(t)) for i, t in zip(ids, trained, strict=True)]


WITH_TOKENS = [
    *[("<|system|>", False), ("be", False), (" kind", False), ("<|end|>", False)],
    *[("<|user|>", False), ("hi", False), ("<|end|>", False), ("<|assistant|>", False)],
    *[("yes", True), ("<|end|>", True)],
    *[("<|user|>", False), ("no", False), ("?", False), ("<|end|>", False), ("<|assistant|>", False)],
    *[("no", True), ("<|end|>", True)],
]


def test_token_by_token_the_answers_and_their_ends_are_trained(bpe):
    assert shown(ChatFormat(bpe), TALK) == WITH_TOKENS


def test_spelled_roles_of_characters_are_not_trained():
    found = shown(ChatFormat(CharTokenizer.build("systemuaint: \nbkdhyo?ver")), TALK[1:3])
    assert "".join(token for token, _ in found) == "user: hi\nassistant: yes<eos>"
    assert [token for token, trained in found if trained] == ["y", "e", "s", "<eos>"]


def test_a_template_without_marks_is_trained_up_to_the_end_of_turn(bpe):
    """The line break after the end of turn belongs to the template, not to the answer."""
    form = ChatFormat(bpe, CHATML)
    text, spans = form.template.spans(TALK, form.specials)
    assert [text[start:end] for start, end in spans] == ["yes<|end|>", "no<|end|>"]
    assert form.end == bpe.special_ids["<|end|>"]


def test_a_batch_trains_exactly_those_tokens(chats, bpe):
    """Also after padding, and under --loss_on all every token is trained, but the same ones are scored."""
    path = chats(*numbered(8), said(("user", "a much longer message"), ("assistant", "ok")))
    for loss_on in ("answer", "all"):
        task = chat_task(path, loss_on=loss_on, batch_size=20)
        tokenizer, loaders, data = build_loaders(task, task.args)
        (batch,) = loaders["train"]
        for row in range(len(batch)):
            written = "".join(tokenizer.tokens[i] for i in batch.x[row, : batch.lengths[row]])
            scored = "".join(tokenizer.tokens[i] for i in batch.y[row][batch.score[row]])
            assert written.endswith("assistant: " + scored.removesuffix("<eos>"))
            trained = batch.y[row] != IGNORE
            assert bool((trained == batch.score[row]).all()) == (loss_on == "answer")
            assert int(trained.sum()) == (len(scored) - 4 if loss_on == "answer" else int(batch.lengths[row]))
        assert data.facts.cut == {"exchanges": 0, "conversations": 0, "left_out": 0}


# Cutting.


def test_the_oldest_exchanges_are_cut_whole_and_counted(chats):
    system = said(("system", "short"), *[t for k in range(4) for t in (("user", f"q{k}"), ("assistant", f"a{k}"))])
    huge = said(("user", "x" * 99), ("assistant", "y"))
    task = chat_task(chats(*numbered(60), *[system] * 3, huge), context_len=70)
    rows = [row for part in task.rows.values() for row in part]
    texts = ["".join(task.tokenizer().tokens[i] for i in ids) for ids, _ in rows]
    (cut,) = {text for text in texts if text.startswith("system")}
    assert cut == "system: short\nuser: q2\nassistant: a2<eos>user: q3\nassistant: a3<eos>"
    assert task.cut == {"exchanges": 6, "conversations": 3, "left_out": 1}
    assert "6 oldest exchanges of 3 conversations; left out: 1 conversation" in task.about[1]
    assert all(trained.any() and len(ids) <= 71 for ids, trained in rows)


def test_a_context_that_no_conversation_fits_is_refused(chats):
    with pytest.raises(UserError, match="--context_len: got 8, which no conversation of train fits"):
        _ = chat_task(chats(*numbered(9)), context_len=8).rows


def test_special_tokens_in_a_message_are_refused(chats):
    path = chats(*numbered(9), said(("user", "say <eos> now"), ASSISTANT))
    with pytest.raises(UserError, match="line 10: message 1 holds <eos>, which is a special token"):
        _ = chat_task(path).rows


def test_characters_that_the_given_vocabulary_lacks_are_refused(chats):
    path = chats(*numbered(9), said(("user", "é"), ASSISTANT))
    args = chat_task(path).args
    task = Chat.opened(args, CharTokenizer.build("user: asitn\ny0123456789"))
    with pytest.raises(UserError, match=r"character 'é' .* found in '.*chats.jsonl' line 10"):
        _ = task.rows


def test_unknown_characters_are_counted_where_the_vocabulary_has_a_token_for_them(chats):
    """The answer of the val conversation, one digit, is unknown: of val and test that is one of four scored tokens."""
    task = chat_task(chats(*numbered(9)))
    assert task.unknown_rate is None
    (val,), (test,) = task.conversations["val"], task.conversations["test"]
    digit = val.messages[-1].content
    assert digit not in test.messages[-1].content
    known = "user: asitn\ny0123456789".replace(digit, "")
    given = CharTokenizer.build(known, ["<pad>", "<bos>", "<eos>", "<unk>"])
    assert Chat.opened(task.args, given).unknown_rate == 1 / 4


def test_a_tokenizer_keeps_the_template_that_it_came_with(chats):
    """As one of another project does. --chat_template wins over it."""
    path = chats(*numbered(9))
    given = train_bpe(["say 1 2 3 4"] * 9, 300)
    given.config["chat_template"] = CHATML
    assert Chat.opened(chat_task(path).args, given).form.template.text == CHATML
    (path.parent / "own.jinja").write_text(templates.WITH_TOKENS)
    args = chat_task(path, chat_template=str(path.parent / "own.jinja")).args
    assert Chat.opened(args, given).form.template.text == templates.WITH_TOKENS
    assert given.config["chat_template"] == templates.WITH_TOKENS


# Templates.

LOOP = "{% for a in range(90000) %}{% for b in range(90000) %}{% set x = a * b %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{% if %}", "line 1: "),
        ("{{ raise_exception('never') }}", "never"),
        ("{% import 'os' as os %}", "imports or includes another template"),
        ("{% include 'x' %}", "imports or includes another template"),
        ("{{ ''.__class__ }}", "reads the attribute '__class__'"),
        ("{{ messages[0]['content'].__init__.__globals__ }}", "reads the attribute '__init__'"),
        ("{{ '{0.__class__}'.format(messages) }}", "reads the attribute '__class__'"),
        ("{{ messages.append(1) }}", "reads the attribute 'append'"),
        ("{{ 9 ** 9 }}", "computes a power"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{% for a in range(90000) %}{{ 'x' * 1000 }}{% endfor %}", "writes more than 4,194,304 characters"),
        ("{{ 'a' * 99999999999 }}", "needs more than 256 MiB"),
        (LOOP, "computes for more than 0.05 s"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "ends an answer with"),
        ("{{ messages | length }}<|end|>", "changes what it wrote before"),
        ("{% generation %}<|end|>", "line 1: "),
        ("{% generation %}<|end|>{% endgeneration %}" * 2, "marks 2 trained parts for 1 assistant turns"),
    ],
)
def test_a_wrong_template_is_one_line(monkeypatch, bpe, text, why):
    monkeypatch.setattr(templates, "SECONDS", 0.05)
    with pytest.raises(UserError) as caught:
        ChatFormat(bpe, text, "--chat_template: 'f'")
    assert str(caught.value).startswith("--chat_template: 'f'")
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_limits_of_a_rendering_are_lifted_after_it():
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGVTALRM)
    ChatTemplate("hi").render(TALK)
    assert (resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGVTALRM)) == before
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)


def test_marks_and_prefixes_agree(bpe):
    """The template of this project, with its marks and without them."""
    marked = ChatFormat(bpe)
    plain = marked.template.text.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    ids, trained = marked.encode(TALK)
    ids_again, trained_again = ChatFormat(bpe, plain).encode(TALK)
    assert np.array_equal(ids, ids_again)
    assert np.array_equal(trained, trained_again)


def test_the_prompt_of_an_answer_is_the_beginning_of_the_conversation(bpe):
    form = ChatFormat(bpe)
    ids, trained = form.encode(TALK)
    prompt = form.prompt(TALK[:-1])
    assert np.array_equal(prompt, ids[: len(prompt)])
    assert trained[len(prompt) :].all()
