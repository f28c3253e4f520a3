"""A text as tokens: where documents end, where splits are cut, and the cache of ids.

python -m pytest tests/dataset/test_tokens.py
python -m pytest tests/dataset/test_tokens.py -m slow         (memory against the size of the file)
"""

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from dataset.bpe import train_bpe
from dataset.corpus import cache, documents, stored_text, tokens
from dataset.corpus.documents import END, Spool, lines
from dataset.corpus.tokens import Recipe, recipe_of, tokenised
from dataset.tokenizer import CharTokenizer

pytest.importorskip("tokenizers", reason="tokenizers is not installed")

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [f"document {i} about é and {i * i} words" + "\n" * (i % 3 == 0) for i in range(40)]
PIECES = [piece for text in DOCUMENTS for piece in (text[:5], text[5:], END)]
TEXT = "".join(text if text.endswith("\n") else text + "\n" for text in DOCUMENTS)
CUTS = (len(TEXT) * 9 // 10, len(TEXT) * 95 // 100)
SPLITS = ("train", "val", "test")


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """An empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "seq-bench"


def subwords(size=300):
    return Recipe(f"bpe {size}", lambda pieces: train_bpe(pieces, size))


def refuse(pieces):
    raise AssertionError("the tokenizer is learned a second time")


def make(pieces=PIECES, cuts=CUTS, whole=False, recipe=None, given=None):
    return tokenised(Spool([pieces]), cuts, whole, recipe or subwords(), given)


def shown(stored, split):
    """The text of a split, a line break for each <eos>."""
    ids, eos = stored.ids(split)[:], stored.tokenizer.eos
    return b"".join(b"\n" if i == eos else stored.tokenizer.spelling(i) for i in ids).decode()


# ---- documents


def test_a_line_break_ends_a_document_that_has_none():
    assert "".join(lines(PIECES)) == TEXT
    assert "".join(lines(["a", "", END, END, "b\n", END, "open"])) == "a\n\nb\nopen"
    assert list(lines([])) == []


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_a_spool_gives_back_what_was_written(monkeypatch, block):
    monkeypatch.setattr(documents, "BLOCK", block)
    spool = Spool([PIECES])
    documents_of = "".join("|" if piece is END else piece for piece in spool.pieces())
    assert documents_of == "|".join(DOCUMENTS) + "|"
    assert (spool.ends, spool.n_documents) == ([len(TEXT)], len(DOCUMENTS))


def test_equal_text_in_other_documents_has_another_digest():
    """Their ids differ by <eos>, so one must not be read in the place of the other."""
    joined = [DOCUMENTS[1] + "\n" + DOCUMENTS[2], END]
    apart = [DOCUMENTS[1], END, DOCUMENTS[2], END]
    assert Spool([joined]).text_digest == Spool([apart]).text_digest
    assert Spool([joined]).digest != Spool([apart]).digest


def parts_of(spool, cuts, whole):
    found = ["", "", ""]
    for number, piece in spool.split(cuts, whole):
        found[number] += "|" if piece is END else piece
    return found


@pytest.mark.parametrize("cuts", [CUTS, (1, 2), (len(DOCUMENTS[0]) + 1, 60), (0, 0)])
@pytest.mark.parametrize("block", [3, 1 << 20])
def test_splits_are_cut_at_the_characters_at_which_lines_are_cut(monkeypatch, cuts, block):
    monkeypatch.setattr(documents, "BLOCK", block)
    spool = Spool([[DOCUMENTS[1], END, DOCUMENTS[2], END, DOCUMENTS[4], END]])
    text = "".join(f"{DOCUMENTS[i]}|" for i in (1, 2, 4))
    assert parts_of(spool, cuts, False) == [text[: cuts[0]], text[cuts[0] : cuts[1]], text[cuts[1] :]]


def test_a_whole_document_is_in_the_split_in_which_it_begins():
    train, val, test = parts_of(Spool([PIECES]), CUTS, True)
    assert train + val + test == "|".join(DOCUMENTS) + "|"
    assert all(part.endswith("|") for part in (train, val, test))
    assert abs(len(train) - CUTS[0]) < 60  # a document and its line breaks


# ---- ids


@pytest.mark.parametrize("whole", [False, True])
def test_the_ids_of_all_splits_are_the_text_with_eos_after_each_document(whole):
    stored = make(whole=whole)
    text = "".join(shown(stored, split) for split in SPLITS)
    assert text == "".join(f"{document}\n" for document in DOCUMENTS)
    assert shown(stored, "val") + shown(stored, "test") == shown(stored, "heldout")
    all_ids = stored.ids("train")[:].tolist() + stored.ids("heldout")[:].tolist()
    assert all_ids.count(stored.tokenizer.eos) == len(DOCUMENTS)


def test_the_tokenizer_is_learned_from_the_training_split_alone():
    other = [*PIECES[:-12], "held out zebras, zebras and zebras", END]
    cuts = (sum(len(p) for p in PIECES[:60] if p), sum(len(p) for p in PIECES[:90] if p))
    mine, theirs = make(cuts=cuts), make(other, cuts=cuts)
    assert mine.tokenizer.payload() == theirs.tokenizer.payload()
    assert make(other, cuts=(10**6, 10**6)).tokenizer.payload() != theirs.tokenizer.payload()


def test_batches_change_no_id(monkeypatch):
    before = [make().ids(split)[:].tolist() for split in SPLITS]
    monkeypatch.setattr(tokens, "BATCH", 10)
    monkeypatch.setattr(documents, "BLOCK", 11)
    spool = Spool([PIECES])
    again = tokenised(spool, CUTS, False, Recipe("another name", subwords().make))
    assert [again.ids(split)[:].tolist() for split in SPLITS] == before


def test_rows_are_documents_of_which_long_ones_are_cut():
    stored = make(["", END, *PIECES], whole=True)  # an empty document has nothing to read
    eos, rows, cut = stored.tokenizer.eos, [], 0
    for split in SPLITS:
        ids, (found, n) = stored.ids(split)[:], stored.rows(split, 8)
        rows += [ids[start : end + 1].tolist() for start, end in found]
        cut += n
    wanted = [[*stored.tokenizer.encode(text).tolist(), eos] for text in DOCUMENTS]
    assert rows == [row[:9] for row in wanted]
    assert cut == sum(len(row) > 9 for row in wanted) > 0


def test_large_vocabularies_have_four_bytes_per_id():
    characters = CharTokenizer.build("".join(map(chr, range(0x10000, 0x10000 + 70_000))))
    text = chr(0x10000 + 69_999) * 30
    stored = make([text], cuts=(10, 20), recipe=recipe_of(characters))
    assert stored.ids("test")[:].tolist() == [70_002] * 10
    assert make([text], cuts=(10, 20), recipe=recipe_of(characters)).ids("val")[2:4].tolist() == [70_002] * 2


# ---- the cache


def files_of(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_a_text_becomes_tokens_once(folder):
    first = make(whole=True)
    assert len(files_of(folder)) == 2
    again = make(whole=True, recipe=Recipe("bpe 300", refuse))
    assert again.tokenizer.payload() == first.tokenizer.payload()
    assert again.ids("heldout")[:].tolist() == first.ids("heldout")[:].tolist()
    assert again.documents.tolist() == first.documents.tolist()


@pytest.mark.parametrize("change", ["text", "documents", "cuts", "whole", "size"])
def test_another_text_cut_or_size_makes_other_ids(folder, change):
    make()
    {
        "text": lambda: make([*PIECES, "more", END]),
        "documents": lambda: make(list(PIECES[:-1])),
        "cuts": lambda: make(cuts=(CUTS[0] - 1, CUTS[1])),
        "whole": lambda: make(whole=True),
        "size": lambda: make(recipe=subwords(310)),
    }[change]()
    assert len(files_of(folder)) == 4


def damage(folder, how):
    ids, about = (next(folder.glob(f"tokens-*.{ending}")) for ending in ("ids", "json"))
    data = bytearray(ids.read_bytes())
    if how == "a bit":
        data[3] ^= 1
        ids.write_bytes(data)
    elif how == "cut":
        ids.write_bytes(data[:-2])
    elif how == "gone":
        ids.unlink()
    elif how == "killed before it was described":
        about.unlink()
    else:
        about.write_text(json.dumps({**json.loads(about.read_text()), "key": "0" * 64}))


@pytest.mark.parametrize("how", ["a bit", "cut", "gone", "killed before it was described", "another key"])
def test_damaged_ids_are_made_again(folder, how):
    before = make().ids("train")[:].tolist()
    damage(folder, how)
    learned = []
    recipe = Recipe("bpe 300", lambda pieces: learned.append(1) or train_bpe(pieces, 300))
    assert make(recipe=recipe).ids("train")[:].tolist() == before
    assert learned == [1]
    assert make(recipe=Recipe("bpe 300", refuse)).ids("train")[:].tolist() == before


def test_a_failure_leaves_no_file(folder):
    class Broken(CharTokenizer):
        def encode_all(self, texts, special=False):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        make(recipe=recipe_of(Broken.build(TEXT)))
    assert files_of(folder) == []


def test_without_a_writable_cache_folder_the_ids_are_made_all_the_same(folder):
    folder.parent.mkdir(parents=True)
    folder.write_text("a file where the folder should be")
    assert "".join(shown(make(), split) for split in SPLITS).startswith(DOCUMENTS[0])


def test_one_process_at_a_time_makes_the_ids(monkeypatch, folder):
    """Two locks of one file exclude each other in one process too, so threads stand for processes."""
    monkeypatch.setattr(cache, "WAIT_SECONDS", 0.005)
    entered, waits = threading.Event(), threading.Event()
    monkeypatch.setattr(cache.time, "sleep", lambda _: waits.set())
    with cache.alone("name"):
        other = threading.Thread(target=lambda: _enter(entered))
        other.start()
        assert waits.wait(10)
        assert not entered.is_set()
    other.join(10)
    assert entered.is_set()


def _enter(entered):
    with cache.alone("name"):
        entered.set()


def test_the_tokenizer_of_a_run_finds_the_ids_that_the_run_made(folder):
    mine = make().tokenizer
    make(given=mine, recipe=Recipe("bpe 300", refuse))
    assert len(files_of(folder)) == 2
    other = train_bpe([TEXT], 280)  # as an older version may have learned it
    stored = make(given=other, recipe=Recipe("bpe 300", refuse))
    assert stored.tokenizer.payload() == other.payload()
    assert len(files_of(folder)) == 4


# ---- memory

MEASURE = """
import resource, sys
from dataset.text import Text
from src.flags.run_flags import resolve
args = resolve(Text, data_path=sys.argv[1], tokenizer="bpe", vocab_size=1000, context_len=64)
task = Text(args)
task.ids("train", task.tokenizer())[:10]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_mib(path, folder) -> float:
    """Peak memory of a process that makes the tokens of a file."""
    env = {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder), "PATH": "", "RAYON_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return int(done.stdout) / 1024


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is counted in another unit elsewhere")
def test_memory_does_not_grow_with_the_text(tmp_path):
    """Four times the documents must not take the memory of a second copy of the smaller file."""
    rng, peaks = np.random.default_rng(0), []
    words = ["".join(rng.choice(list("abcdefghij"), size=rng.integers(2, 9))) for _ in range(5000)]
    for size in (5, 20):
        path = tmp_path / f"{size}.jsonl"
        with path.open("w") as file:
            while file.tell() < size * 1_000_000:
                file.write(json.dumps({"text": " ".join(rng.choice(words, size=300))}) + "\n")
        peaks.append(peak_mib(path, tmp_path / "cache"))
    assert peaks[1] - peaks[0] < 5, peaks


def test_stored_ids_are_read_where_they_are_asked_for(tmp_path):
    file = stored_text.unnamed_file()
    file.write(np.arange(10, dtype=np.uint32).tobytes())
    ids = stored_text.StoredIds(file, 2, 9, np.uint32)
    assert ids[1:3].tolist() == [3, 4]
    assert ids.part(1, 4)[:].tolist() == [3, 4, 5]
    assert ids[np.array([[0, 1], [4, 5]])].tolist() == [[2, 3], [6, 7]]
