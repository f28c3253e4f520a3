"""Runs by tokens from end to end: scores per token and per byte, documents in rows, continuing, wrong flags.

python -m pytest tests/dataset/test_token_runs.py
"""

import functools
import json
import math
import operator
import re
from collections import Counter

import numpy as np
import pytest
from conftest import TINY
from planted_metrics import good_metrics

from dataset.loaders import build_loaders
from dataset.plans import DocumentBatches, set_epoch
from dataset.text import Text
from dataset.tiny_shakespeare import TinyShakespeare
from dataset.tokenizer import CharTokenizer
from src.figures.curves import figure_loss
from src.figures.runs import overlay
from src.flags.fields import UserError
from src.flags.run_flags import resolve
from src.storage import checkpoint
from src.utils.chance import chance_levels

pytest.importorskip("tokenizers", reason="tokenizers is not installed")

DOCUMENTS = [f"document {i} tells of ☃ and of {i * i} words, nothing else" for i in range(120)]
SIZES = {"context_len": 16, "val_size": 5, "test_size": 5, "train_size": 20, "batch_chars": 64}
BPE = {"tokenizer": "bpe", "vocab_size": 300}


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def jsonl(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps({"text": d, "body": d[::-1]}) + "\n" for d in DOCUMENTS))
    return path


@pytest.fixture
def plain(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("\n".join(DOCUMENTS), encoding="utf-8")
    return path


def make(path, cls=Text, **flags):
    task = cls(resolve(cls, data_path=str(path), **{**SIZES, **flags}))
    return task, build_loaders(task, task.args)


# ---- what is scored


@pytest.mark.parametrize("cls", [Text, TinyShakespeare])
def test_characters_and_tokens_are_scored_on_the_same_held_out_text(plain, cls):
    texts = {}
    for name, flags in (("char", {}), ("bpe", BPE)):
        task, (tokenizer, loaders, data) = make(plain, cls, **flags)
        texts[name] = [task.text("val"), task.heldout_text()]
        scored = loaders["heldout"].dataset
        first = tokenizer.bytes_of[scored.ids[0:1][0]]
        if name == "bpe":
            assert scored.scored_bytes == len(task.heldout_text().encode()) - first
            assert (data.facts.unit, data.facts.vocab_size) == ("token", 300)
    whole = "\n".join(DOCUMENTS)
    if cls is TinyShakespeare:  # held-out characters are in its alphabet, so nothing is <unk>
        assert texts["char"] == texts["bpe"]
    assert texts["bpe"][1] == whole[len(whole) * 9 // 10 :]


def test_a_digest_names_the_text_and_not_what_it_was_cut_into(plain):
    tasks = [make(plain, **flags)[0] for flags in ({}, BPE)]
    assert tasks[0].digest == tasks[1].digest
    assert tasks[0].identity() != tasks[1].identity()


def test_chance_levels_are_those_of_tokens(plain):
    task, (tokenizer, _loaders, data) = make(plain, **BPE, test_size=3)
    train, test = (task.ids(s, tokenizer)[:].tolist() for s in ("train", "test"))
    scored = test[1 : 3 * 16 + 1]
    common = Counter(train).most_common(1)[0][0]
    levels = chance_levels(data, [])
    assert levels["uniform"]["primary"] == 1 / (300 - 7)
    assert levels["unigram"]["primary"] == pytest.approx(scored.count(common) / len(scored))
    assert data.facts.unknown_rate is None
    assert task.baselines() == {}


def test_eos_is_a_possible_prediction_where_documents_end_in_it(jsonl):
    _, (_, _, data) = make(jsonl, **BPE)
    assert chance_levels(data, [])["uniform"]["primary"] == 1 / (300 - 7 + 1)


def test_text_key_names_the_field(jsonl):
    task, _ = make(jsonl, text_key="body", **BPE)
    assert task.text("train", 5).startswith(DOCUMENTS[0][::-1][:5])
    assert make(jsonl, text_key="body")[0].text("train", 5) == DOCUMENTS[0][::-1][:5]
    with pytest.raises(UserError, match=r"line 1: an object without \"title\", with 'text', 'body'"):
        make(jsonl, text_key="title")


@pytest.mark.parametrize("tokenizer", ["char", "bpe"])
def test_parquet_rows_are_the_documents_of_json_lines(jsonl, tmp_path, tokenizer):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "own.parquet"
    parquet.write_table(pyarrow.table({"body": [d[::-1] for d in DOCUMENTS], "n": [1] * len(DOCUMENTS)}), path)
    flags = {"text_key": "body", "tokenizer": tokenizer}
    (rows, _), (json_lines, _) = make(path, **flags), make(jsonl, **flags)
    assert rows.digest == json_lines.digest
    assert rows.heldout_text() == json_lines.heldout_text()
    with pytest.raises(UserError, match=r"has the columns body \(string\), n \(int64\), .*--text_key"):
        make(path)
    with pytest.raises(UserError, match="a column `n` of strings"):
        make(path, text_key="n")


# ---- documents in rows


@pytest.mark.parametrize("flags", [{"tokenizer": "char"}, BPE], ids=["char", "bpe"])
def test_a_row_is_one_document_with_eos_and_only_its_tokens_are_trained(jsonl, flags):
    task, (tokenizer, loaders, _) = make(jsonl, **flags, pack="no", context_len=40)
    wanted = {}
    for text in DOCUMENTS:
        ids = [*tokenizer.encode(text).tolist(), tokenizer.eos]
        wanted[tuple(ids[:40])] = ids
    seen = 0
    for batch in loaders["train"]:
        for x, y, score, n in zip(batch.x.tolist(), batch.y.tolist(), batch.score.tolist(), batch.lengths, strict=True):
            ids = wanted[tuple([*x[:n], *y[n - 1 : n]][:40])]
            assert x[:n] == ids[:n]
            assert y[:n] == ids[1 : n + 1]
            assert set(y[n:]) <= {-100}
            assert score == [True] * int(n) + [False] * (len(x) - int(n))
            assert n == min(40, len(ids) - 1)
            seen += 1
    assert seen == 20
    assert any("longer than --context_len" in line for line in task.about)


def test_the_documents_of_an_epoch_are_a_function_of_seed_and_epoch_and_can_be_entered_anywhere(jsonl):
    _, (_, loaders, _) = make(jsonl, **BPE, pack="no", train_size=0)
    dataset = loaders["train"].dataset
    plan = DocumentBatches(dataset, len(dataset), 7, seed=3)
    epochs = [[batch.tolist() for batch in plan] for _ in range(2)]
    assert sorted(functools.reduce(operator.iadd, epochs[0], [])) == list(range(len(dataset)))
    assert epochs[0] != epochs[1]
    plan.set_epoch(1, 4)
    assert [batch.tolist() for batch in plan] == epochs[1][4:]
    assert [b.tolist() for b in DocumentBatches(dataset, len(dataset), 7, seed=4)] != epochs[0]


def test_more_rows_than_documents_repeat_none_before_all_were_read(jsonl):
    _, (_, loaders, _) = make(jsonl, **BPE, pack="no", train_size=250)
    counts = Counter(row for batch in loaders["train"].batch_sampler for row in batch.tolist())
    assert set(counts.values()) <= {2, 3}
    assert len(counts) == len(loaders["train"].dataset)


@pytest.mark.parametrize("flags", [{}, BPE], ids=["char", "bpe"])
def test_the_windows_of_a_run_that_is_continued_are_those_it_would_have_read(jsonl, flags):
    """The position in the data is (epoch, batch), which every checkpoint holds."""
    _, (_, whole, _) = make(jsonl, **flags)
    _, (_, parts, _) = make(jsonl, **flags)
    read = [batch.x.tolist() for _ in range(2) for batch in whole["train"]]
    per_epoch = len(whole["train"])
    set_epoch(parts["train"], 1, 2)
    assert [batch.x.tolist() for batch in parts["train"]] == read[per_epoch + 2 :]


# ---- runs


def command(path, *flags):
    return [
        "--task",
        "text",
        "--data_path",
        path,
        "--model",
        "gru",
        *TINY,
        "--max_steps",
        4,
        "--out_dir",
        "run",
        *flags,
    ]


def read(path):
    return json.loads(path.read_text())


def test_a_run_by_tokens_goes_all_the_way(main, jsonl, tmp_path):
    code, out, err = main(*command(jsonl, "--tokenizer", "bpe", "--vocab_size", 5000, "--quiet", "false"))
    assert code == 0
    assert re.search(r"   loss \d.*   bits_per_byte \d", out)
    assert " tokens   " in out
    assert "tokens/s" in err
    assert re.search(r"tokenizer: \d+ tokens of the 5,000 asked for, .*; \d\.\d\d bytes per token", err)
    run = tmp_path / "run"
    assert not (run / "vocab.json").exists()
    document = read(run / "metrics.json")
    test, size = document["final_test"], document["data"]["vocab_size"]
    assert (document["data"]["unit"], test["bpc"]) == ("token", None)
    assert 263 < size < 5000
    assert f"the vocabulary has {size:,} of the 5,000 tokens asked for" in " ".join(document["notes"])
    _task, (tokenizer, loaders, _) = make(jsonl, tokenizer=str(run), context_len=24, test_size=30)
    scored = loaders["test"].dataset
    assert test["n_scored"] == sum(end - start for start, end in scored.spans)
    bits = test["loss"] * test["n_scored"] / math.log(2)
    assert test["bits_per_byte"] == pytest.approx(bits / scored.scored_bytes)
    rows = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    assert {"loss", "bits_per_byte", "heldout_bits_per_byte"} <= {row["metric"] for row in rows}
    assert checkpoint.load(run / "best.pt")["vocab"] == tokenizer.payload()
    assert (run / "samples.txt").read_text(encoding="utf-8").count("--- got") == 5

    code, out, _ = main("generate", "run", "--prompt", "document ☃", "--max_new_tokens", 5, "--greedy")
    assert code == 0
    jsonl_again = jsonl.rename(tmp_path / "moved.jsonl")  # a prompt needs no training text
    assert main("generate", "run", "--prompt", "document ☃", "--max_new_tokens", 5, "--greedy")[1] == out
    jsonl_again.rename(jsonl)
    code, out, _ = main("--eval_only", "--out_dir", "run")
    assert json.loads(out)["best"]["test"]["bits_per_byte"] == test["bits_per_byte"]
    assert main("--vis_only", "--out_dir", "run")[0] == 0


@pytest.mark.slow
def test_a_run_with_another_projects_tokenizer_goes_on_without_that_folder(main, jsonl, plain, tmp_path):
    assert main(*command(jsonl, "--tokenizer", "bpe", "--vocab_size", "300"))[0] == 0
    folder = tmp_path / "run"
    folder.rename(tmp_path / "theirs")
    words = command(jsonl, "--tokenizer", "theirs", "--max_steps", "4")
    assert main(*words)[0] == 0
    assert read(folder / "metrics.json")["args"]["tokenizer"] == "theirs"
    (tmp_path / "theirs").rename(tmp_path / "gone")
    for name in ("metrics.json", "ckpt.pt", "best.pt"):
        (folder / name).unlink()
    assert main("--resume", "--out_dir", "run", "--quiet")[0] == 0
    assert main("--eval_only", "--out_dir", "run")[0] == 0


WRONG = {
    "another task": (["--task", "needle", "--tokenizer", "bpe"], "--tokenizer: got bpe, but task Needle makes its own"),
    "pack of another task": (["--task", "needle", "--pack", "no"], "--pack: got no, but task Needle"),
    "too few tokens": (["--tokenizer", "bpe", "--vocab_size", "262"], "at least 263, the 256 bytes and 7 special"),
    "characters": (["--vocab_size", "300"], "--vocab_size: got 300, but --tokenizer char decides"),
    "a path": (["--tokenizer", "nowhere"], "nowhere', which cannot be read (no such file or folder)"),
    "a size for a path": (["--tokenizer", "own.jsonl", "--vocab_size", "300"], "own.jsonl decides the vocabulary"),
    "a text as tokenizer": (["--tokenizer", "own.jsonl"], "own.jsonl' is not JSON"),
    "lengths of rows": (["--pack", "no", "--eval_lengths", "2x"], "--eval_lengths: got 2x, but a row of --pack no"),
    "no documents": (["--data_path", "own.txt", "--pack", "no"], "--pack: got 'no', but this text has no documents"),
    "no fields": (["--data_path", "own.txt", "--text_key", "body"], "--text_key: got 'body', but"),
    "few documents": (["--data_path", "few.jsonl", "--pack", "no"], "no document is left for val, test"),
    "few tokens": (["--tokenizer", "bpe", "--context_len", "9999"], "tokens of the training text"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_flags_are_one_line_and_nothing_is_written(main, jsonl, plain, tmp_path, kind):
    flags, why = WRONG[kind]
    (tmp_path / "few.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    words = command(jsonl, *flags)
    if flags[0] == "--task":
        words = [w for w in words if w not in ("--data_path", jsonl)]
    code, out, err = main(*words)
    assert (code, out) == (2, "")
    assert why in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


# ---- figures


def tokens_of(metrics, factor):
    """The same invented run by tokens, with `factor` bits per byte for a loss of one nat."""
    for split in ("val", "test"):
        for result in metrics[split].values():
            result.update(bits_per_byte=factor * result["loss"], bpc=None)
    metrics["data"]["unit"] = "token"
    return metrics


def test_axes_say_tokens_and_bits_per_byte():
    axes = figure_loss(tokens_of(good_metrics(kind="language"), 0.5)).axes[0]
    assert axes.get_ylabel() == "loss (nats per scored token)"
    assert [child.get_ylabel() for child in axes.child_axes] == ["bits per byte"]
    plain = figure_loss(good_metrics(kind="language")).axes[0]
    assert (plain.get_ylabel(), plain.child_axes) == ("loss (nats per scored character)", [])


def test_runs_by_characters_and_by_tokens_are_overlaid_in_bits_per_byte(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr("src.figures.style.save", lambda figure, path: drawn.setdefault(path.stem, figure))
    characters = good_metrics(kind="language")
    for result in characters["val"].values():
        result["bits_per_byte"] = 1.5 * result["loss"]
    overlay([("char", characters), ("bpe", tokens_of(good_metrics(kind="language"), 0.5))], tmp_path)
    assert "ppl" not in drawn
    axes = drawn["loss"].axes[0]
    assert axes.get_ylabel() == "validation bits per byte"
    char, bpe = (line.get_ydata() for line in axes.get_lines() if len(line.get_ydata()) > 1)
    assert np.allclose(np.array(char) / 1.5, np.array(bpe) / 0.5)


def test_a_character_counts_its_bytes_and_unk_counts_one():
    tokenizer = CharTokenizer.build("aé☃😀", ["<pad>", "<bos>", "<eos>", "<unk>"])
    assert tokenizer.bytes_of[tokenizer.encode("aé☃😀z")].tolist() == [1, 2, 3, 4, 1]
    assert tokenizer.bytes_of[:3].tolist() == [0, 0, 0]
