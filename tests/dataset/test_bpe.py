"""Subword tokens: ids, both directions, special tokens, what another project's files hold, and what is refused.

python -m pytest tests/dataset/test_bpe.py
python -m pytest tests/dataset/test_bpe.py -m slow         (loads transformers)
"""

import json
import os
import sys

import numpy as np
import pytest

from dataset import bpe
from dataset.bpe import CHAT_SPECIAL, LEAST_VOCAB, BpeTokenizer, pieces, train_bpe
from dataset.tokenizer import SPECIAL, CharTokenizer
from dataset.vocabulary import read_tokenizer, tokenizer_of
from src.flags.fields import UserError

tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")

TEXT = "".join(f"line {i} of a text about nothing, {i * i} words long.\n" for i in range(200))
STRANGE = ["", "a", "  two   blanks \n\n\n and\ttabs\r\n", "ünïcödé ☃ 😀 a\0b", "<pad><eos> <|end|>", "語語語" * 50]


@pytest.fixture(scope="module")
def trained():
    return train_bpe([TEXT], 400)


def other_project(folder, special=("<|endoftext|>",), config=None, **parts):
    """The files of a byte-level tokenizer that is not ours."""
    other = tokenizers.Tokenizer(parts.get("model") or tokenizers.models.BPE())
    other.pre_tokenizer = parts.get("pre_tokenizer") or tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    other.decoder = tokenizers.decoders.ByteLevel()
    if "normalizer" in parts:
        other.normalizer = parts["normalizer"]
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    other.train_from_iterator([TEXT], parts.get("trainer") or trainer)
    folder.mkdir(parents=True, exist_ok=True)
    other.save(str(folder / "tokenizer.json"))
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


# ---- ids and text


def test_special_tokens_then_chats_then_bytes_then_merges(trained):
    assert trained.tokens[: LEAST_VOCAB - 256] == [*SPECIAL, *CHAT_SPECIAL]
    assert sorted(trained.spelling(i) for i in range(7, 263)) == [bytes([b]) for b in range(256)]
    assert all(len(trained.spelling(i)) > 1 for i in range(263, 400))
    assert (trained.pad, trained.bos, trained.eos, len(trained), trained.unit) == (0, 1, 2, 400, "token")


@pytest.mark.parametrize("text", [*STRANGE, TEXT], ids=range(len(STRANGE) + 1))
def test_text_comes_back_and_its_bytes_are_counted(trained, text):
    ids = trained.encode(text)
    assert ids.dtype == np.int32
    assert trained.decode(ids) == text
    assert trained.bytes_of[ids].sum() == len(text.encode())
    assert len(ids) <= len(text.encode())
    stream = trained.stream()
    assert "".join(map(stream.add, ids)) + stream.end() == text


def test_known_text_takes_fewer_tokens_than_characters(trained):
    assert len(trained.encode(TEXT)) < len(TEXT) / 2


def test_plain_text_never_becomes_a_special_token_unless_it_is_asked_for(trained):
    text = "a<eos>b<|end|>"
    assert not set(trained.encode(text).tolist()) & set(trained.special_ids.values())
    assert trained.encode(text, special=True).tolist()[1::2] == [2, 6]
    characters = CharTokenizer.build("abe<os>")
    assert characters.encode("a<eos>b", special=True).tolist() == [characters.ids["a"], 2, characters.ids["b"]]


def test_a_prompt_begins_with_bos_and_a_decoded_text_ends_at_eos(trained):
    ids = trained.encode_prompt("line")
    assert ids[0, 0] == trained.bos
    assert ids.dtype == np.int64
    assert trained.decode([1, *trained.encode("to"), 0, 2, *trained.encode("be")], special="?") == "?to?"


@pytest.mark.parametrize("tokenizer", ["trained", "characters"])
def test_a_stream_holds_back_half_a_character(trained, tokenizer):
    tokenizer = trained if tokenizer == "trained" else CharTokenizer.build("é😀x")
    stream, ids = tokenizer.stream(), tokenizer.encode("é😀x").tolist()
    seen = [stream.add(i) for i in [*ids, tokenizer.eos]]
    assert "".join(seen) == "é😀x"
    assert "\ufffd" not in "".join(seen)
    if tokenizer is trained:
        cut = trained.stream()
        assert [cut.add(i) for i in trained.encode("😀")[:-1]] == ["", "", ""]
        assert cut.end() == "\ufffd"


def test_half_a_surrogate_pair_is_no_text(trained):
    with pytest.raises(UnicodeEncodeError):
        trained.encode("a\ud800")


# ---- learning, in pieces


def test_the_pieces_of_a_text_have_the_ids_of_the_whole(trained, monkeypatch):
    text = TEXT + "  two   blanks. \n\n\n and\ttabs\r\n " + "é語 x1 " * 40
    whole = trained.encode(text)
    monkeypatch.setattr(bpe, "PIECE", 50)
    found = list(pieces([text[:77], text[77:]]))
    assert "".join(found) == text
    assert len(found) > 20
    assert max(map(len, found)) <= 50
    assert np.concatenate(trained.encode_all(found)).tolist() == whole.tolist()
    careless = np.concatenate([trained.encode(text[i : i + 50]) for i in range(0, len(text), 50)])
    assert careless.tolist() != whole.tolist()  # cutting anywhere is not the same


def test_no_piece_reaches_across_the_end_of_a_document():
    assert list(pieces(["to", " be", None, "or", None])) == ["to be", None, "or", None]


def test_the_same_text_gives_the_same_tokenizer_however_it_comes(trained, monkeypatch):
    monkeypatch.setattr(bpe, "PIECE", 100)
    again = train_bpe([TEXT[i : i + 333] for i in range(0, len(TEXT), 333)], 400)
    assert again.payload() == trained.payload()
    assert train_bpe([TEXT.replace("line", "word")], 400).payload() != trained.payload()


def test_a_text_that_supports_fewer_tokens_gives_fewer():
    assert LEAST_VOCAB < len(train_bpe(["to be to be"], 1000)) < 270
    assert len(train_bpe(["abcdefg"], 1000)) == LEAST_VOCAB  # no pair comes twice


def test_a_forked_process_uses_no_threads_of_its_parent(trained):
    """Its copy of the library has none, and would wait for them for ever."""
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, os.environ["TOKENIZERS_PARALLELISM"].encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 10) == b"false"


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match="pip install tokenizers"):
        train_bpe([TEXT], 300)


# ---- stored


def test_what_a_checkpoint_holds_gives_the_tokenizer_back(trained):
    again = tokenizer_of(json.loads(json.dumps(trained.payload())))
    assert again.payload() == trained.payload()
    assert again.encode(TEXT).tolist() == trained.encode(TEXT).tolist()
    characters = CharTokenizer.build(TEXT)
    assert tokenizer_of(characters.payload()).tokens == characters.tokens
    with pytest.raises(UserError, match="kind 'words', which this version does not know"):
        tokenizer_of({"kind": "words"})


def test_a_run_directory_gives_the_tokenizer_back(trained, tmp_path):
    trained.save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    assert read_tokenizer(tmp_path).payload() == trained.payload()
    assert read_tokenizer(tmp_path / "tokenizer.json").payload() == trained.payload()


def test_the_character_tokenizer_travels_as_tokenizer_json(tmp_path):
    """Single characters for the library too, line breaks among them; an unknown one is an error or `<unk>`."""
    ours = CharTokenizer.build("ab\n\r é😀")
    text, config = ours.hugging_face()
    theirs = tokenizers.Tokenizer.from_str(text)
    sample = "a\n\r\né 😀b"
    assert theirs.encode(sample).ids == ours.encode(sample).tolist()
    assert theirs.decode(theirs.encode(sample).ids) == sample
    with pytest.raises(Exception, match="UNK"):
        theirs.encode("z")
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    assert read_tokenizer(tmp_path).tokens == ours.tokens
    assert (config["eos_token"], config["unk_token"]) == ("<eos>", None)
    unknown = CharTokenizer.build("ab", [*SPECIAL, "<unk>"])
    assert tokenizers.Tokenizer.from_str(unknown.hugging_face()[0]).encode("az").ids == unknown.encode("az").tolist()


@pytest.mark.slow  # importing transformers takes seconds
@pytest.mark.parametrize("kind", ["characters", "subwords"])
def test_transformers_loads_both_and_makes_the_same_ids(trained, tmp_path, kind):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    ours = trained if kind == "subwords" else CharTokenizer.build(TEXT)
    text, config = ours.hugging_face()
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(TEXT)["input_ids"] == ours.encode(TEXT).tolist()
    assert theirs.decode(ours.encode(TEXT).tolist()) == TEXT
    assert (theirs.pad_token_id, theirs.bos_token_id, theirs.eos_token_id) == (ours.pad, ours.bos, ours.eos)


# ---- of another project


def test_special_tokens_are_read_from_the_other_projects_files(tmp_path):
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": "{{ messages }}"}
    other = read_tokenizer(other_project(tmp_path, ("<unk>", "<s>", "</s>"), config))
    assert (other.pad, other.bos, other.eos) == (2, 1, 2)
    assert other.config["chat_template"] == "{{ messages }}"
    assert other.decode(other.encode(STRANGE[3])) == STRANGE[3]


def test_without_a_configuration_the_end_of_text_is_known_by_its_name(tmp_path):
    other = read_tokenizer(other_project(tmp_path) / "tokenizer.json")
    assert (other.pad, other.bos, other.eos, len(other)) == (0, 0, 0, 300)
    assert other.special_ids == {"<|endoftext|>": 0}


def test_a_tokenizer_without_an_end_of_text_gets_one(tmp_path):
    other = read_tokenizer(other_project(tmp_path, ()))
    assert (other.eos, len(other), other.tokens[-1]) == (300, 301, "<eos>")
    assert tokenizer_of(other.payload()).eos == 300


def test_truncation_and_padding_of_the_other_project_are_switched_off(tmp_path):
    other = tokenizers.Tokenizer.from_file(str(other_project(tmp_path) / "tokenizer.json"))
    other.enable_truncation(4)
    other.enable_padding(length=9)
    tokenizer = BpeTokenizer(other.to_str())
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert len(tokenizer.encode("a")) == 1


WORDS = {
    "no file": ("nothing", "no such file or folder"),
    "no json": ("{", "is not JSON"),
    "a list": ("[1]", "holds a list, not an object"),
    "no tokenizer": ('{"version": 1}', "it is no tokenizer.json"),
    "no utf-8": (b"\xff{}", "is not UTF-8"),
}


@pytest.mark.parametrize("kind", WORDS)
def test_a_broken_tokenizer_is_one_line(tmp_path, kind):
    content, why = WORDS[kind]
    path = tmp_path / "broken.json"
    if kind != "no file":
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=why) as caught:
        read_tokenizer(path)
    assert "\n" not in str(caught.value)
    assert "--tokenizer: " in str(caught.value)
    assert "allowed: " in str(caught.value)


def test_a_folder_without_a_tokenizer_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"tokenizer\.json': No such file"):
        read_tokenizer(tmp_path)


def test_a_tokenizer_that_does_not_give_a_text_back_is_refused(tmp_path):
    """Bits per byte need the bytes of the text, and lower case has lost them."""
    folder = other_project(tmp_path, normalizer=tokenizers.normalizers.Lowercase())
    with pytest.raises(UserError, match="do not give a text back as it was"):
        read_tokenizer(folder)


def test_a_tokenizer_of_words_is_refused(tmp_path):
    words = other_project(
        tmp_path / "words",
        model=tokenizers.models.WordLevel(unk_token="<|endoftext|>"),
        pre_tokenizer=tokenizers.pre_tokenizers.Whitespace(),
        trainer=tokenizers.trainers.WordLevelTrainer(special_tokens=["<|endoftext|>"], show_progress=False),
    )
    with pytest.raises(UserError, match="it is a WordLevel tokenizer that does not work on bytes"):
        read_tokenizer(words)
