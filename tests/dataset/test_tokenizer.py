"""The tokenizer: ids in a fixed order, both ways, and errors that name the character.

python -m pytest tests/dataset/test_tokenizer.py
"""

import numpy as np
import pytest

from dataset import TASKS
from dataset.tokenizer import BOS, EOS, PAD, CharTokenizer
from src.flags.fields import UserError
from src.flags.run_flags import resolve


def test_special_tokens_come_first_and_characters_follow_by_code_point():
    tokenizer = CharTokenizer.build("banana\né", extra_tokens=["<pad>", "<bos>", "<eos>"])
    assert tokenizer.tokens == ["<pad>", "<bos>", "<eos>", "\n", "a", "b", "n", "é"]
    assert (PAD, BOS, EOS) == (0, 1, 2)
    assert len(tokenizer) == 8


def test_a_corpus_may_be_an_iterable_of_strings():
    assert CharTokenizer.build(["ab", "bc"]).tokens == CharTokenizer.build("cab").tokens


def test_extra_tokens_must_begin_with_the_special_ones():
    with pytest.raises(ValueError, match="must begin with"):
        CharTokenizer.build("ab", extra_tokens=["<bos>", "<pad>", "<eos>"])


@pytest.mark.parametrize("text", ["", "a", "the quick brown fox\n", "ünïcödé ☃ 😀 a\0b", "<pad>"])
def test_decode_undoes_encode(text):
    tokenizer = CharTokenizer.build(text + "xyz")
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text
    assert ids.tolist() == [tokenizer.ids[c] for c in text]


@pytest.mark.parametrize("name", [n for n, entry in TASKS.items() if not entry.load().reads_text])
def test_every_character_of_a_task_has_an_id_of_its_own(name):
    cls = TASKS[name].load()
    alphabet = cls(resolve(cls)).alphabet
    tokenizer = CharTokenizer.build(alphabet)
    assert sorted(tokenizer.encode(alphabet).tolist()) == list(range(3, len(set(alphabet)) + 3))


@pytest.mark.parametrize("stranger", ["z", "é", "😀", "\x00"], ids=["between", "above", "far above", "below"])
def test_an_unknown_character_is_named_with_its_position(stranger):
    tokenizer = CharTokenizer.build("abcx~")
    with pytest.raises(UserError) as caught:
        tokenizer.encode("ab" + stranger + "c")
    assert f"character {stranger!r} at position 2" in str(caught.value)
    assert "'abcx~'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_error_shows_the_first_characters_of_a_large_vocabulary():
    tokenizer = CharTokenizer.build("".join(map(chr, range(0x4E00, 0x4E00 + 8192))))
    with pytest.raises(UserError) as caught:
        tokenizer.encode("a")
    assert "and 8,152 more, 8,192 in all" in str(caught.value)
    assert len(str(caught.value)) < 200


def test_unk_takes_what_is_unknown_where_the_vocabulary_has_it():
    tokenizer = CharTokenizer.build("abc", extra_tokens=["<pad>", "<bos>", "<eos>", "<unk>"])
    assert tokenizer.unknown == 3
    assert tokenizer.encode("aZ😀c").tolist() == [4, 3, 3, 6]


def test_eos_ends_a_text_and_pad_and_bos_are_dropped_or_shown():
    tokenizer = CharTokenizer.build("ab")
    assert tokenizer.decode([BOS, 3, PAD, 4, EOS, 3]) == "ab"
    assert tokenizer.decode([BOS, 3, PAD, 4, EOS, 3], special="?") == "?a?b"


def test_save_and_load_keep_the_vocabulary(tmp_path):
    tokenizer = CharTokenizer.build('é\n"\\☃a')
    tokenizer.save(tmp_path / "vocab.json")
    loaded = CharTokenizer.load(tmp_path / "vocab.json")
    assert loaded.tokens == tokenizer.tokens
    assert loaded.encode("☃a\n").tolist() == tokenizer.encode("☃a\n").tolist()
