"""From sentences to batches: tokens, vocabularies, the shipped pairs, padding, masks and the order of an epoch."""

import csv
from pathlib import Path

import numpy as np
import pytest

from src.numpy_transformer import tokenization
from src.numpy_transformer.arrays import read_arrays, write_arrays
from src.numpy_transformer.config import load_config
from src.numpy_transformer.datasets import epoch_batches, make_batch
from src.numpy_transformer.mask import causal, key_pad
from src.numpy_transformer.pairs import read_pairs
from src.numpy_transformer.tokenization import BOS, EOS, PAD, UNK, build_vocab, decode, encode, tokenize, unknown

PACKAGE = Path(tokenization.__file__).parent
SHIPPED = PACKAGE / "data/enfr.csv"


def shipped_rows():
    with open(SHIPPED, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Le chat n'est pas là.", ["le", "chat", "n'", "est", "pas", "là", "."]),
        ("Où est l’école ?", ["où", "est", "l'", "école", "?"]),  # a curly apostrophe
        ("e\u0301te\u0301", ["été"]),  # accents as characters of their own
        ("(three) 3,5 %", ["(", "three", ")", "3", ",", "5", "%"]),
        (" \t\n", []),
    ],
)
def test_a_sentence_is_cut_at_spaces_and_punctuation(text, tokens):
    assert tokenize(text) == tokens


def test_special_tokens_are_never_read_from_a_text():
    assert not set(tokenize("<pad> <bos> <eos> <unk>")) & set(tokenization.SPECIALS)


def test_vocabulary_has_the_special_tokens_first_then_the_commonest_words():
    vocab = build_vocab(["b a b", "c a b"])
    assert vocab == {"<pad>": 0, "<bos>": 1, "<eos>": 2, "<unk>": 3, "b": 4, "a": 5, "c": 6}
    assert list(build_vocab(["b a b", "c a b"], most=6)) == ["<pad>", "<bos>", "<eos>", "<unk>", "b", "a"]


def test_encode_and_decode_are_inverse_for_every_shipped_sentence():
    for row in shipped_rows():
        for text in (row["en"], row["fr"]):
            vocab = build_vocab([text])
            assert decode(encode(text, vocab), vocab) == text.lower().replace(" ?", "?").replace(" !", "!")


def test_decode_stops_at_eos_and_leaves_padding_out():
    vocab = build_vocab(["a b ."])
    assert decode([BOS, vocab["a"], vocab["."], PAD, EOS, vocab["b"]], vocab) == "a."
    assert decode([], vocab) == ""


def test_unknown_words_become_unk_and_are_named():
    vocab = build_vocab(["the cat"])
    assert encode("the zebra", vocab) == [vocab["the"], UNK]
    assert unknown("The zebra, the zebra", vocab) == ["zebra", ","]


def test_the_shipped_pairs_are_200_for_training_and_40_held_out_of_the_same_words():
    """No sentence is on both sides, and a held-out sentence has no word that the training pairs lack."""
    rows = shipped_rows()
    parts = {part: [r for r in rows if r["split"] == part] for part in ("train", "heldout")}
    assert [len(parts[p]) for p in parts] == [200, 40]
    for side in ("en", "fr"):
        vocab = build_vocab(r[side] for r in parts["train"])
        assert [r[side] for r in parts["heldout"] if unknown(r[side], vocab)] == []
        assert len({r[side] for r in rows}) == 240


@pytest.mark.parametrize("name", ["tiny_enfr", "small_enfr"])
def test_the_shipped_configurations_are_those_of_the_documentation(name):
    config = load_config(str(PACKAGE / f"configs/{name}.yaml"))
    wanted = {"tiny_enfr": (32, 1, 1, 50), "small_enfr": (64, 2, 2, 200)}[name]
    pairs = read_pairs(config)
    trained = sum(p.part == "train" for p in pairs)
    assert (config.model.d_model, config.model.n_head, config.model.n_layer, trained) == wanted
    assert config.name == name


@pytest.mark.parametrize("kind", ["tsv", "parquet"])
def test_tsv_and_parquet_hold_the_same_pairs_as_csv(kind, tmp_path):
    rows, text = shipped_rows(), (PACKAGE / "configs/small_enfr.yaml").read_text()
    path = tmp_path / f"pairs.{kind}"
    if kind == "tsv":
        lines = ["\t".join(row.values()) for row in rows]
        path.write_text("\n".join(["\t".join(rows[0]), *lines]), encoding="utf-8-sig")  # with a byte order mark
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    (tmp_path / "c.yaml").write_text(text.replace("../data/enfr.csv", path.name))

    def content(config):
        return [(p.source, p.target, p.part) for p in read_pairs(config)]

    shipped = load_config(str(PACKAGE / "configs/small_enfr.yaml"))
    assert content(load_config(str(tmp_path / "c.yaml"))) == content(shipped)


def test_a_batch_is_padded_on_the_right_and_moved_by_one():
    batch = make_batch([([7, 8], [9]), ([7], [5, 6, 4])])
    assert batch.X_ids.tolist() == [[7, 8, EOS], [7, EOS, PAD]]
    assert batch.M_src.tolist() == [[True, True, True], [True, True, False]]
    assert batch.Y_in.tolist() == [[BOS, 9, PAD, PAD], [BOS, 5, 6, 4]]
    assert batch.Y_out.tolist() == [[9, EOS, PAD, PAD], [5, 6, 4, EOS]]
    assert batch.M_tgt.tolist() == [[True, True, False, False], [True] * 4]
    assert {a.dtype for a in (batch.X_ids, batch.Y_in, batch.Y_out)} == {np.dtype(np.int32)}


def test_an_epoch_has_every_pair_once_in_an_order_of_seed_and_epoch():
    pairs = [([i], [i]) for i in range(4, 14)]

    def order(seed, epoch):
        return [i for batch in epoch_batches(pairs, 4, seed, epoch) for i in batch.X_ids[:, 0].tolist()]

    assert sorted(order(1, 0)) == list(range(4, 14))
    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4
    assert [len(b.X_ids) for b in epoch_batches(pairs, 4, 0, 0)] == [4, 4, 2]


def test_masks():
    assert causal(3).astype(int).tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert key_pad(np.array([[True, False]])).shape == (1, 1, 1, 2)


def test_arrays_come_back_and_their_file_has_the_same_bytes_at_any_time(tmp_path, monkeypatch):
    arrays = {"a.b": np.arange(6, dtype=np.float32).reshape(2, 3), "t": np.array(7), "none": np.empty(0, np.int32)}
    write_arrays(tmp_path / "one.npz", arrays)
    monkeypatch.setattr("time.localtime", lambda *_: (2001, 2, 3, 4, 5, 6, 0, 0, 0))
    write_arrays(tmp_path / "two.npz", arrays)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    found = read_arrays(tmp_path / "one.npz")
    assert {name: (a.dtype, a.tolist()) for name, a in found.items()} == {
        name: (a.dtype, a.tolist()) for name, a in arrays.items()
    }
    with np.load(tmp_path / "one.npz") as plain:  # an ordinary file for everybody else
        assert plain["a.b"].tolist() == arrays["a.b"].tolist()
