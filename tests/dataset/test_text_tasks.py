"""Language tasks on files: Parquet, .txt, .jsonl, folders. Vocabulary and <unk>, splits, malformed input, whole runs.

    python -m pytest tests/dataset/test_text_tasks.py
    python -m pytest tests/dataset/test_text_tasks.py -m slow         (peak memory against the size of the file)

The tests on real files run if SEQ_BENCH_DATA names a folder with wikitext2_small.
"""

import importlib
import io
import json
import math
import os
import re
import subprocess
import sys
import time
import urllib.error
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY

from dataset import wikitext
from dataset.corpus import language, stored_text
from dataset.corpus.language import StreamedTask
from dataset.corpus.sources import read_text, sha256
from dataset.corpus.stored_text import StoredIds, number_characters
from dataset.loaders import TaskData, build_loaders
from dataset.text import Text
from dataset.tokenizer import SPECIAL
from dataset.wikitext import TEST, TRAIN, VALIDATION, WikiText
from src.flags.fields import UserError
from src.flags.run_flags import resolve
from src.utils.chance import chance_levels

ROOT = Path(__file__).resolve().parents[2]
LINES = [f"line {i} of a text about nothing, {i * i} words long.\n" for i in range(300)]
TEXT = "".join(LINES)
SIZES = {"context_len": 32, "val_size": 5, "test_size": 5, "train_size": 20, "batch_chars": 256}


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No network, and an empty cache folder, which is returned."""

    def no_network(*args, **kwargs):
        raise urllib.error.URLError("no network here")

    monkeypatch.setattr(wikitext.urllib.request, "urlopen", no_network)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "seq-bench"


@pytest.fixture
def small_wikitext():
    """The folder of real Parquet files, where the tester has it."""
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    folder = os.environ.get("SEQ_BENCH_DATA")
    if not folder or not (Path(folder) / "wikitext2_small").is_dir():
        pytest.skip("SEQ_BENCH_DATA names no folder with wikitext2_small")
    return Path(folder) / "wikitext2_small"


def text_task(path, **flags):
    return Text(resolve(Text, data_path=str(path), **{**SIZES, **flags}))


def wikitext_task(path="", **flags):
    return WikiText(resolve(WikiText, data_path=str(path), **{**SIZES, **flags}))


def write(path, content=TEXT):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_json_lines(path, documents):
    return write(path, "".join(json.dumps({"text": text}) + "\n" for text in documents))


def write_parquet(path, rows, column="text", **how):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = importlib.import_module("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table({column: rows}), path, **how)
    return path


def parquet_folder(folder, train=LINES, validation=LINES[:100], test=None):
    for name, rows in ((TRAIN, train), (VALIDATION, validation), (TEST, test)):
        if rows is not None:
            write_parquet(folder / name, rows)
    return folder


def whole(task):
    return task.text("train") + task.heldout_text()


# ---- text: files and folders


@pytest.mark.parametrize(
    "text", [TEXT, TEXT.replace("\n", "\r\n"), "é☃😀" * 400, TEXT + "no end"], ids=["plain", "crlf", "wide", "open end"]
)
def test_a_plain_file_is_taken_as_it_is(tmp_path, text):
    task = text_task(write(tmp_path / "own.txt", text))
    assert whole(task) == text
    assert (task.source, task.digest, task.n_chars()) == ("custom", sha256(text.encode()), len(text))


def test_documents_of_json_lines_end_in_a_line_break(tmp_path):
    documents = ["one\ntwo", "", "ends\n", '\u00e9 "quoted" \\ \u2028 not a line of the file', TEXT]
    task = text_task(write_json_lines(tmp_path / "own.jsonl", documents))
    assert whole(task) == 'one\ntwo\n\nends\n\u00e9 "quoted" \\ \u2028 not a line of the file\n' + TEXT


def test_a_last_line_without_a_line_break_and_other_keys_are_fine(tmp_path):
    path = write(
        tmp_path / "own.jsonl",
        json.dumps({"id": 1, "text": TEXT, "meta": {"text": 2}}) + "\n" + json.dumps({"text": "end"}),
    )
    assert whole(text_task(path)) == TEXT + "end\n"


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path):
    folder = tmp_path / "texts"
    write(folder / "b.txt", TEXT)
    write(folder / "a" / "z.TXT", "first, no end")
    write_json_lines(folder / "a" / "k.jsonl", ["before it"])
    write(folder / "empty.txt", "")
    write(folder / "notes.md", "not read")
    assert whole(text_task(folder)) == "before it\nfirst, no end\n" + TEXT
    assert (
        text_task(folder).digest == text_task(write(tmp_path / "one.txt", "before it\nfirst, no end\n" + TEXT)).digest
    )


def about(folder) -> str:
    """What a run says about a folder, after its text was read."""
    return "\n".join(text_task(folder).about)


def test_hidden_files_and_folders_are_left_out_and_named(tmp_path):
    """An editor's copy of the last file would put held-out text into train."""
    folder = tmp_path / ".texts"  # the folder itself may be hidden
    write(folder / "a.txt", TEXT)
    for name in (".ipynb_checkpoints/a-checkpoint.txt", ".git/x.txt", "deep/.cache/y.jsonl", "._a.txt", ".z.txt"):
        write(folder / name, TEXT)
    task = text_task(folder)
    assert whole(task) == TEXT
    assert task.about == (f"read 1 file of '{folder}'; left out: 5 hidden (._a.txt, .git, .ipynb_checkpoints, ...)",)


def test_files_of_other_endings_and_empty_files_are_counted(tmp_path):
    folder = tmp_path / "texts"
    write(folder / "a.txt")
    write(folder / "b" / "c.txt", "")
    write(folder / "d.jsonl", "")
    for name in ("notes.md", "b/book.pdf", "c.txt.gz", "no_ending"):
        write(folder / name)
    assert about(folder) == (
        f"read 3 files of '{folder}'; left out: 4 not .txt or .jsonl or .parquet (b/book.pdf, c.txt.gz, no_ending, "
        "...); 2 files without a character (b/c.txt, d.jsonl)"
    )
    assert whole(text_task(folder)) == TEXT


def test_a_single_file_needs_no_words(tmp_path):
    assert text_task(write(tmp_path / "own.txt")).about == ()


@pytest.mark.parametrize(("copies", "words"), [(1, "1 file of .* is a copy"), (2, "2 files of .* are copies")])
def test_equal_files_get_a_warning(tmp_path, copies, words):
    """Of all kinds of copies: another name, another folder, documents in another form."""
    folder = tmp_path / "texts"
    write(folder / "a.txt", TEXT)
    write(folder / "b.txt", TEXT + "more\n")
    write(folder / "z" / "a copy.txt", TEXT)
    if copies > 1:
        write_json_lines(folder / "c.jsonl", [TEXT])
    _, warning = text_task(folder).about
    assert re.search(f"^warning: {words} of another one \\(a.txt, ", warning)
    assert "z/a copy.txt" in warning


def test_different_files_get_no_warning(tmp_path):
    write(tmp_path / "texts" / "a.txt", TEXT)
    write(tmp_path / "texts" / "b.txt", TEXT[:-1])
    assert len(text_task(tmp_path / "texts").about) == 1


def link(path, target):
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.symlink_to(target)
    except OSError:
        pytest.skip("this system has no links")


def test_linked_folders_and_files_are_followed_and_nothing_is_read_twice(tmp_path):
    folder, other = tmp_path / "texts", tmp_path / "elsewhere"
    write(folder / "a.txt", "one\n")
    write(folder / "m" / "b.txt", TEXT)
    write(other / "c.txt", "three\n")
    write(tmp_path / "d.txt", "four\n")
    link(folder / "0 elsewhere", other)
    link(folder / "d.txt", tmp_path / "d.txt")
    link(folder / "again.txt", folder / "a.txt")
    link(folder / "m0", folder / "m")
    link(folder / "m" / "up", folder)
    link(folder / "out", tmp_path)
    link(other / "back", folder)
    link(folder / "broken.txt", tmp_path / "nowhere.txt")
    link(folder / "self.txt", folder / "self.txt")
    task = text_task(folder)
    assert whole(task) == "three\none\nfour\n" + TEXT
    assert task.about == (
        f"read 4 files of '{folder}'; left out: 2 no file, or a broken link (broken.txt, self.txt), "
        "4 linked and read already, or around this folder (0 elsewhere/back, m/up, m0, ...), "
        "1 linked and read already (again.txt)",
    )


def test_a_folder_that_is_itself_a_link_is_read(tmp_path):
    write(tmp_path / "texts" / "a.txt")
    link(tmp_path / "link", tmp_path / "texts")
    assert whole(text_task(tmp_path / "link")) == TEXT


def test_a_subfolder_that_cannot_be_read_is_a_user_error(tmp_path, monkeypatch):
    write(tmp_path / "texts" / "a.txt")
    write(tmp_path / "texts" / "shut" / "b.txt")
    listed = Path.iterdir

    def refuse(path):
        if path.name == "shut":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(UserError, match=r"texts/shut', which cannot be read \(Permission denied\)"):
        text_task(tmp_path / "texts")


@pytest.mark.parametrize("block", [1 << 20, 2])
def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path, monkeypatch, block):
    monkeypatch.setattr("dataset.text.BLOCK", block)
    mark = b"\xef\xbb\xbf"
    text = "to be or first\n" * 40
    assert whole(text_task(write(tmp_path / "own.txt", mark + text.encode()))) == text
    lines = mark + json.dumps({"text": "first"}).encode() + b"\n" + json.dumps({"text": text}).encode()
    assert whole(text_task(write(tmp_path / "own.jsonl", lines))) == "first\n" + text
    write(tmp_path / "texts" / "a.txt", mark + b"first\n")
    write(tmp_path / "texts" / "b.txt", mark + text.encode())
    assert whole(text_task(tmp_path / "texts")) == "first\n" + text
    assert read_text(write(tmp_path / "own.txt", mark + b"first"), "--data_path") == "first"
    assert whole(text_task(write(tmp_path / "inner.txt", f"a\ufeff{text}"))) == f"a\ufeff{text}"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
@pytest.mark.parametrize("name", ["own.txt", "own.jsonl"])
def test_utf16_is_named(tmp_path, encoding, name):
    data = ("\ufeff" * (encoding == "utf-16-be") + json.dumps({"text": TEXT})).encode(encoding)
    with pytest.raises(UserError, match=r"own\.\w+' line 1: not UTF-8 \(byte 0 of the \w+, which begins as UTF-16\)"):
        text_task(write(tmp_path / name, data))


@pytest.mark.slow
def test_a_folder_of_ten_thousand_files_is_read_in_seconds(tmp_path):
    for i in range(10_000):
        write(tmp_path / "texts" / f"{i % 100:02}" / f"{i:05}.txt", f"file {i}\n")
    began = time.perf_counter()
    task = text_task(tmp_path / "texts")
    assert time.perf_counter() - began < 30
    assert task.about == (f"read 10,000 files of '{tmp_path / 'texts'}'; left out: nothing",)


def test_blocks_cut_nothing(tmp_path, monkeypatch):
    """Characters of several bytes, documents and counts across the borders of blocks of 7."""
    text = "é☃😀a" * 300
    paths = write(tmp_path / "own.txt", text), write_json_lines(tmp_path / "own.jsonl", ["é☃😀a", "b"] * 300)
    plain = [text_task(path) for path in paths]
    monkeypatch.setattr(stored_text, "BLOCK", 7)
    monkeypatch.setattr("dataset.text.BLOCK", 7)
    for path, before in zip(paths, plain, strict=True):
        task = text_task(path)
        assert (whole(task), task.digest, task.alphabet, task.unknown_rate) == (
            whole(before),
            before.digest,
            before.alphabet,
            before.unknown_rate,
        )
        assert task.counts("train", None).tolist() == before.counts("train", None).tolist()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"text": ', "not JSON"),
        (b"", "empty"),
        (b"  ", "empty"),
        (b"[1, 2]", "a list, not an object"),
        (b'"text"', "a str, not an object"),
        (b'{"txt": "a"}', "without \"text\", with 'txt'"),
        (b"{}", "no keys"),
        (b'{"text": 5}', "a int, not a string"),
        (b'{"text": null}', "a NoneType"),
        (b'{"text": "\xff"}', "not UTF-8 (byte 10"),
        (b'{"text": "a\\ud800"}', "half a surrogate pair (character 1)"),
        (b'{"text": "\\u0000"}', "NUL"),
        (b'{"text": "a"} x', "not JSON"),
        (b"[" * 100_000, "not JSON"),
    ],
    ids=str,
)
def test_malformed_json_lines_name_file_line_and_reason(tmp_path, line, why):
    good = json.dumps({"text": TEXT}).encode()
    path = write(tmp_path / "own.jsonl", good + b"\n" + good + b"\n" + line + b"\n" + good + b"\n")
    with pytest.raises(UserError) as caught:
        text_task(path)
    assert "own.jsonl' line 3: " in str(caught.value)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b"one\ntwo\n\xff", "line 3: not UTF-8 (byte 8 of the file)"),
        (b"one\n\ntwo \xe2\x98", "line 3: not UTF-8 (byte 9 of the file)"),
        (b"one\ntwo\0", "line 2: a NUL"),
        (b"a" * 99 + b"\n\xe2\x98a", "line 2: not UTF-8 (byte 100 of the file)"),
    ],
    ids=["byte", "cut off", "binary", "character broken between blocks"],
)
@pytest.mark.parametrize("block", [1 << 20, 101])
def test_bytes_that_are_no_text_name_file_line_and_byte(tmp_path, monkeypatch, content, where, block):
    monkeypatch.setattr("dataset.text.BLOCK", block)
    with pytest.raises(UserError) as caught:
        text_task(write(tmp_path / "own.txt", content))
    assert f"own.txt' {where}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("absent.txt", "no such file or folder"),
        ("book.pdf", "allowed: a .txt file"),
        ("nothing", "a folder with no .txt or .jsonl or .parquet file"),
        ("empty.txt", "no characters"),
        ("nul\0.txt", "no such file or folder"),
        ("short.txt", "--context_len: got 32"),
        (None, "--data_path: missing"),
    ],
)
def test_a_data_path_without_text_is_a_user_error(tmp_path, name, why):
    write(tmp_path / "book.pdf")
    write(tmp_path / "nothing" / "read.me")
    write(tmp_path / "empty.txt", "")
    write(tmp_path / "short.txt", "ab" * 15)
    with pytest.raises(UserError) as caught:
        text_task(f"{tmp_path}/{name}" if name else "")
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- vocabulary, splits, ids


def test_splits_are_ninety_five_and_five_of_the_characters(tmp_path):
    task = text_task(write(tmp_path / "own.txt"))
    assert "".join(map(task.text, ("train", "val", "test"))) == TEXT
    assert len(task.text("train")) == len(TEXT) * 9 // 10
    assert 0 <= len(task.text("test")) - len(task.text("val")) <= 1
    assert task.text("val") + task.text("test") == task.heldout_text()
    assert task.text("val", 10) == task.text("val")[:10]
    with pytest.raises(ValueError, match="train, val, test"):
        task.text("dev")


def test_characters_that_only_held_out_text_has_are_unknown_and_their_rate_is_reported(tmp_path):
    text = "ab" * 900 + "abé☃" * 50
    task = text_task(write(tmp_path / "own.txt", text))
    assert task.alphabet == "ab"
    assert task.heldout_text() == text[1800:].replace("é", "\ufffd").replace("☃", "\ufffd")
    assert task.unknown_rate == 0.5
    assert text_task(write(tmp_path / "plain.txt")).unknown_rate == 0.0
    _, _, meta = build_loaders(task, task.args)
    assert (meta.facts.unknown_rate, meta.facts.vocab_size, meta.facts.source) == (0.5, 6, "custom")


def test_the_vocabulary_is_the_most_common_characters_of_the_training_text(tmp_path):
    """e is commonest, then a, then b and c alike (the lower one is taken), then d; the held-out text is all d."""
    folder = parquet_folder(tmp_path / "w", ["e" * 90, "a" * 70, "cb" * 20, "d"], ["d" * 200])
    for size, kept in ((1, "e"), (2, "ae"), (3, "abe"), (4, "abce"), (5, "\nabce"), (6, "\nabcde"), (5000, "\nabcde")):
        task = wikitext_task(folder, vocab_size=size)
        assert task.alphabet == kept
        assert task.tokenizer().tokens == [*SPECIAL, "<unk>", *kept]
        assert task.unknown_rate == pytest.approx(("d" not in kept) * 200 / 201 + ("\n" not in kept) / 201)
        assert task.text("train") == "".join(
            c if c in kept else "\ufffd" for c in "e" * 90 + "\n" + "a" * 70 + "\n" + "cb" * 20 + "\nd\n"
        )


def test_ids_are_those_of_the_tokenizer_and_counts_are_theirs(tmp_path):
    task = text_task(write(tmp_path / "own.txt", TEXT + "é"))
    tokenizer = task.tokenizer()
    for split in ("train", "val", "test", "heldout"):
        ids = task.ids(split, tokenizer)
        text = task.heldout_text() if split == "heldout" else task.text(split)
        assert ids[:].dtype == np.uint16
        assert ids[:].tolist() == tokenizer.encode(text).tolist()
        assert len(ids) == len(text)
        if split != "heldout":
            assert task.counts(split, tokenizer).tolist() == np.bincount(ids[:], minlength=len(tokenizer)).tolist()
    assert tokenizer.decode(task.ids("heldout", tokenizer)[len(task.heldout_text()) - 1 :]) == "<unk>"


def test_stored_ids_give_slices_and_windows():
    file = io.BytesIO(np.arange(100, dtype=np.uint16).tobytes())
    ids = StoredIds(file, 10, 90)
    assert len(ids) == 80
    assert ids[5:8].tolist() == [15, 16, 17]
    assert ids[:].tolist() == list(range(10, 90))
    assert ids[78:200].tolist() == [88, 89]
    assert ids[5:5].tolist() == []
    assert ids.part(20, 30)[:3].tolist() == [30, 31, 32]
    at = np.array([[0, 1, 2], [77, 78, 78], [5, 6, 7]])
    assert (ids[at] == at + 10).all()


def test_more_kinds_of_characters_than_numbers_become_unknown(monkeypatch):
    monkeypatch.setattr(stored_text, "NUMBERS", 4)
    file = io.BytesIO()
    found = number_characters([["ba", "", "cd"], ["ae"]], file)
    assert np.frombuffer(file.getvalue(), dtype=np.uint16).tolist() == [2, 1, 3, 0, 1, 0]
    assert "".join(map(chr, found.points[1:])) == "abc"
    assert found.ends == [4, 6]
    assert found.digest == sha256(b"bacd\0ae")


def test_windows_of_a_streamed_text_are_those_of_the_text(tmp_path):
    task = text_task(write(tmp_path / "own.txt"))
    tokenizer, loaders, meta = build_loaders(task, task.args)
    for split in ("train", "val", "test", "heldout"):
        source = task.heldout_text() if split == "heldout" else task.text(split)
        for batch in loaders[split]:
            for x, y, n in zip(batch.x, batch.y, batch.lengths, strict=True):
                text = tokenizer.decode(y[:n])
                assert text in source
                assert tokenizer.decode(x[1:n]) == text[:-1]
                assert tokenizer.decode(x[:n]) in source
    heldout = "".join(tokenizer.decode(y[y >= 0]) for batch in loaders["heldout"] for y in batch.y)
    assert heldout == task.heldout_text()[1:]
    assert meta.facts.digest == task.digest
    assert len(loaders["train"].dataset.spans) == 20


def test_chance_comes_from_counts_and_equals_the_definition(tmp_path):
    task = text_task(write(tmp_path / "own.txt"))
    found = chance_levels(TaskData(task, task.tokenizer(), None), [])
    common, text = Counter(task.text("train")).most_common(1)[0][0], task.text("test")[1 : 5 * 32 + 1]
    assert found["unigram"]["primary"] == pytest.approx(text.count(common) / len(text))
    assert found["uniform"]["primary"] == 1 / (len(task.alphabet) + 1)  # <unk> is a possible prediction


def test_baselines_say_when_they_saw_a_part(tmp_path, monkeypatch):
    task = text_task(write(tmp_path / "own.txt"))
    assert list(task.baselines()) == [f"ngram_{i}" for i in range(1, 7)]
    assert all(map(math.isfinite, task.baselines().values()))
    monkeypatch.setattr(language, "NGRAM_CHARS", 1_000)
    seen = []
    monkeypatch.setattr(language, "ngram_nats", lambda *texts: seen.append(texts) or [1.0] * 6)
    assert list(task.baselines()) == [f"ngram_{i}_0M" for i in range(1, 7)]
    assert [len(text) for text in seen[0]] == [1_000, 1_000]


def test_identity_depends_on_the_text_and_the_vocabulary(tmp_path):
    folder = parquet_folder(tmp_path / "w")
    assert wikitext_task(folder).identity() == wikitext_task(folder).identity()
    assert wikitext_task(folder).identity() != wikitext_task(folder, vocab_size=5).identity()
    assert wikitext_task(folder).identity() != wikitext_task(parquet_folder(tmp_path / "v", LINES[1:])).identity()


def test_nothing_is_left_behind(tmp_path, offline):
    task = text_task(write(tmp_path / "own.txt"))
    assert whole(task) == TEXT
    assert list(offline.iterdir()) == []


def test_a_cache_folder_that_cannot_be_written_is_no_error(tmp_path, offline):
    write(offline.parent, "a file where the folder should be")
    assert whole(text_task(write(tmp_path / "own.txt"))) == TEXT


def test_a_task_of_one_s_own_says_what_it_must_define():
    with pytest.raises(NotImplementedError, match=r"must define segments\(self\)"):
        StreamedTask(resolve(StreamedTask))


# ---- wikitext


def test_rows_follow_each_other_and_end_in_a_line_break(tmp_path):
    rows = ["", " = Title = \n", "", " text of \u2013 it \n", "no break", None, "<unk>\n"] * 30
    task = wikitext_task(parquet_folder(tmp_path / "w", rows))
    assert task.text("train") == "\n = Title = \n\n text of \u2013 it \nno break\n\n<unk>\n" * 30


def test_without_a_test_file_validation_is_halved(tmp_path):
    task = wikitext_task(parquet_folder(tmp_path / "w"))
    validation = "".join(LINES[:100])
    assert task.text("train") == TEXT
    assert task.text("val") + task.text("test") == task.heldout_text() == validation
    assert 0 <= len(task.text("test")) - len(task.text("val")) <= 1


def test_a_test_file_is_the_test_text(tmp_path):
    task = wikitext_task(parquet_folder(tmp_path / "w", test=LINES[200:]))
    assert task.text("val") == "".join(LINES[:100])
    assert task.text("test") == "".join(LINES[200:])
    assert task.digest != wikitext_task(parquet_folder(tmp_path / "v")).digest


@pytest.mark.parametrize(
    "how", [{"row_group_size": 7}, {"compression": "gzip"}, {"use_dictionary": False}, {"version": "1.0"}], ids=str
)
def test_any_parquet_layout_gives_the_same_text(tmp_path, how):
    plain = wikitext_task(parquet_folder(tmp_path / "w"))
    write_parquet(tmp_path / "v" / TRAIN, LINES, **how)
    write_parquet(tmp_path / "v" / VALIDATION, LINES[:100], **how)
    assert wikitext_task(tmp_path / "v").digest == plain.digest


def test_other_columns_and_large_strings_are_fine(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = importlib.import_module("pyarrow.parquet")
    folder = parquet_folder(tmp_path / "w")
    table = pyarrow.table({"id": list(range(300)), "text": pyarrow.array(LINES, type=pyarrow.large_string())})
    parquet.write_table(table, folder / TRAIN)
    assert wikitext_task(folder).text("train") == TEXT


def test_folders_that_are_not_in_the_layout_are_user_errors(tmp_path):
    folder = parquet_folder(tmp_path / "w")
    (folder / VALIDATION).rename(folder / "other")
    cases = [
        (folder, f"where there is no {VALIDATION}"),
        (tmp_path / "absent", "no such folder"),
        (folder / TRAIN, "a file"),
        (tmp_path, f"no {TRAIN} and no"),
        ("nul\0", "no such folder"),
    ]
    for path, why in cases:
        with pytest.raises(UserError, match=why) as caught:
            wikitext_task(path)
        assert TRAIN in str(caught.value)
        assert "\n" not in str(caught.value)


def test_damaged_files_and_other_columns_are_user_errors(tmp_path):
    folder = parquet_folder(tmp_path / "w")
    data = (folder / TRAIN).read_bytes()
    for broken in (b"", b"PAR1", b"no parquet" * 99, data[:-200], data[:200] + bytes(300) + data[500:]):
        write(folder / TRAIN, broken)
        with pytest.raises(UserError, match="cannot be read as Parquet") as caught:
            wikitext_task(folder)
        assert "\n" not in str(caught.value)
    write_parquet(folder / TRAIN, LINES, column="content")
    with pytest.raises(UserError, match=r"has the columns content \(string\), allowed: a column `text` of strings"):
        wikitext_task(folder)
    write_parquet(folder / TRAIN, list(range(300)))
    with pytest.raises(UserError, match=r"text \(int64\)"):
        wikitext_task(folder)


def test_without_pyarrow_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    for path in (tmp_path, ""):
        with pytest.raises(UserError, match=r"needs pyarrow .*pip install pyarrow") as caught:
            wikitext_task(path)
        assert "\n" not in str(caught.value)


def test_registering_and_importing_needs_no_pyarrow():
    script = """
import sys
sys.modules["pyarrow"] = None
import dataset.wikitext, dataset.text
print(dataset.TASKS["wikitext"].needs)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "('pyarrow',)\n"


# ---- the hub's copy


def serve(monkeypatch, files):
    """Let the hub give these files; returns the addresses that were asked for."""
    asked = []

    def reply(url, timeout):
        assert timeout == 10
        asked.append(url)
        return io.BytesIO(files[url.rsplit("/", 1)[1]])

    monkeypatch.setattr(wikitext.urllib.request, "urlopen", reply)
    return asked


def test_the_hub_s_copy_is_fetched_once_and_named(tmp_path, monkeypatch, offline, capsys):
    folder = parquet_folder(tmp_path / "w", test=LINES[200:])
    asked = serve(monkeypatch, {name: (folder / name).read_bytes() for name in (TRAIN, VALIDATION, TEST)})
    task = wikitext_task()
    assert task.source == "hub"
    assert task.digest == wikitext_task(folder).digest
    assert [url.removeprefix(wikitext.HUB_URL) for url in asked] == [TRAIN, VALIDATION, TEST]
    assert len(capsys.readouterr().err.splitlines()) == 3
    assert len(list(offline.iterdir())) == 3
    assert wikitext_task().digest == task.digest
    assert len(asked) == 3
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("data", [b"", b"<html>not here</html>", b"PAR1 cut off"], ids=["empty", "page", "cut"])
def test_what_is_no_parquet_file_is_not_kept(monkeypatch, offline, data):
    serve(monkeypatch, {TRAIN: data})
    with pytest.raises(UserError, match="not a whole Parquet file"):
        wikitext_task()
    assert not offline.exists()


def test_without_a_network_the_error_names_the_folder_to_give():
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    with pytest.raises(
        UserError, match=r"--data_path: missing, and the hub's copy could not be fetched .*no network here"
    ) as caught:
        wikitext_task()
    assert TRAIN in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- real files


def test_the_small_wikitext_is_read_whole(small_wikitext):
    import pyarrow.parquet

    task = wikitext_task(small_wikitext)
    rows = [pyarrow.parquet.read_table(small_wikitext / name)["text"].to_pylist() for name in (TRAIN, VALIDATION)]
    train, heldout = ("".join(row if row.endswith("\n") else row + "\n" for row in part) for part in rows)
    assert task.text("train") == train
    strangers = set(heldout) - set(train)
    assert task.heldout_text() == "".join("\ufffd" if c in strangers else c for c in heldout)
    assert task.unknown_rate == pytest.approx(sum(c in strangers for c in heldout) / len(heldout))
    assert 0 < task.unknown_rate < 1e-3
    few = wikitext_task(small_wikitext, vocab_size=30)
    assert len(few.alphabet) == 30
    assert set(few.alphabet) == {c for c, _ in Counter(train).most_common(30)}
    assert 0.01 < few.unknown_rate < 0.1


@pytest.mark.slow
def test_ngrams_of_the_small_wikitext_order_as_they_should(small_wikitext):
    values = list(wikitext_task(small_wikitext).baselines().values())
    assert values[:5] == sorted(values[:5], reverse=True)
    assert 3.1 < values[0] < 3.3
    assert 1.3 < values[5] < 1.6


@pytest.mark.parametrize("kind", ["text", "wikitext"])
def test_a_run_goes_all_the_way(main, monkeypatch, tmp_path, kind):
    monkeypatch.setattr("src.figures.runs.draw_all", lambda metrics, folder: [])
    path = (
        write(tmp_path / "own.txt", TEXT + "é")
        if kind == "text"
        else parquet_folder(tmp_path / "w", validation=[*LINES[:100], "é"])
    )
    assert main("--task", kind, "--data_path", path, *TINY, "--model", "gru", "--out_dir", "run") == (0, "run\n", "")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["status"], metrics["kind"], metrics["data"]["source"]) == ("done", "language", "custom")
    assert 0 < metrics["data"]["unknown_rate"] < 0.01
    assert metrics["data"]["vocab_size"] == len(set(TEXT)) + 4
    assert {"uniform", "unigram"} <= metrics["floors"].keys()
    assert list(metrics["baselines"]) == [f"ngram_{i}" for i in range(1, 7)]
    code, out, err = main(
        "generate", "--out_dir", "run", "--prompt", "line 7é"
    )  # a character outside the vocabulary is <unk>, not an error
    assert (code, err) == (0, "")
    assert out


# ---- memory

MEASURE = """
import sys
from dataset.loaders import TaskData, build_loaders
from dataset.wikitext import WikiText
from src.flags.run_flags import resolve
args = resolve(WikiText, data_path=sys.argv[1])
_, loaders, _ = build_loaders(WikiText(args), args)
batches = iter(loaders["train"])
for _ in range(50):
    next(batches)
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("row_group_size", [1_000, 10**9], ids=["many row groups", "one row group"])
def test_peak_memory_does_not_grow_with_the_file(tmp_path, row_group_size):
    """A training text of 1 million characters, and one of 48 million: 96 MB more, if they were held in memory.

    30 MB are allowed, because a dictionary page belongs to a row group and is decoded whole.
    """
    # ru_maxrss is no substitute: it counts the memory of this process, which starts the other.
    if not Path("/proc/self/status").exists():
        pytest.skip("the system does not tell a process its peak memory")
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghijklmnop"), 6)) for _ in range(2_000)]
    rows = [" ".join(rng.choice(words, 70)) + "\n" for _ in range(2_000)]
    peaks = []
    for times in (1, 48):
        folder = tmp_path / str(times)
        write_parquet(folder / TRAIN, rows * times, row_group_size=row_group_size)
        write_parquet(folder / VALIDATION, rows)
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(folder)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        peaks.append(int(done.stdout) / 1024)
    print(f"\npeak {peaks[0]:.0f} MB at 1 million characters, {peaks[1]:.0f} MB at 48 million")
    assert peaks[1] - peaks[0] < 30
