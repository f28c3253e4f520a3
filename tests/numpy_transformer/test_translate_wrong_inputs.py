"""Wrong input to `translate`: one line that says what was got and what is allowed, exit code 2, and nothing written."""

import io
import re
import shutil
import zipfile

import numpy as np
import pytest
import yaml
from translation_runs import PAIRS, files_of, write_settings

import benchmark


def call(capsys, *words):
    """(exit code, stderr) of the command in this process."""
    capsys.readouterr()
    code = benchmark.main(["translate", *map(str, words)])
    out, err = capsys.readouterr()
    assert not out
    return code, err


def refused(capsys, folder, pattern, *words):
    """The command ends with 2, one line that matches, and the folder as it was before."""
    before = files_of(folder)
    code, err = call(capsys, *words)
    assert (code, err.count("\n"), err[:7]) == (2, 1, "error: "), err
    assert re.search(pattern, err), err
    assert files_of(folder) == before


SETTINGS = {
    "unknown key": ({"model__d_modle": 8}, r"unknown key of model 'd_modle', allowed: .*did you mean 'd_model'\?"),
    "unknown section": ({"modle": {}}, r"unknown key 'modle', allowed: name, data, model, train; did you mean 'model'"),
    "section of another kind": ({"train": 3}, r"train: got 3, allowed: keys and values"),
    "head that does not divide": ({"model__n_head": 3}, r"model\.n_head: got 3, allowed: a divisor of .*=16; try 1"),
    "no heads": ({"model__n_head": 0}, r"model\.n_head: got 0, allowed: >= 1"),
    "size too large": ({"model__d_model": 10**9}, r"model\.d_model: got 1000000000, allowed: <= 4096"),
    "size as a fraction": ({"model__d_ff": 2.5}, r"model\.d_ff: got 2\.5, allowed: a whole number"),
    "size as a switch": ({"model__n_layer": True}, r"model\.n_layer: got True, allowed: a whole number"),
    "switch as a number": ({"model__pre_norm": 1}, r"model\.pre_norm: got 1, allowed: true or false"),
    "dtype unknown": ({"model__dtype": "float16"}, r"model\.dtype: got 'float16', allowed: float32, float64"),
    "lr negative": ({"train__lr": -0.1}, r"train\.lr: got -0\.1, allowed: > 0"),
    "lr not a number": ({"train__lr": float("nan")}, r"train\.lr: got nan, allowed: a finite number"),
    "lr as a word": ({"train__lr": "fast"}, r"train\.lr: got 'fast', allowed: a number"),
    "optimiser unknown": ({"train__optimiser": "adm"}, r"got 'adm', allowed: adam, sgd; did you mean 'adam'"),
    "no epochs": ({"train__epochs": 0}, r"train\.epochs: got 0, allowed: >= 1"),
    "name missing": ({"name": None}, r"name: got nothing, allowed: letters"),
    "name leads out": ({"name": "../x"}, r"name: got '\.\./x', allowed: letters"),
    "path of another kind": ({"data__path": 7}, r"data\.path: got 7, allowed: text"),
    "path with a zero byte": ({"data__path": "a\0.csv"}, r"data\.path: got 'a\\x00\.csv', allowed: text in one line"),
    "path missing": ({"data": {"source": "en"}}, r"data\.path: is missing, allowed: a \.csv"),
    "pairs missing": ({"data__path": "none.csv"}, r"none\.csv': no such file, allowed"),
    "pairs are a folder": ({"data__path": "folder.csv"}, r"folder\.csv': which is a folder, allowed"),
    "pairs of another ending": ({"data__path": "c.yaml"}, r"the ending is '\.yaml', allowed: \.csv, \.tsv, \.parquet"),
    "pairs are no parquet": ({"data__path": "fake.parquet"}, r"fake\.parquet': is no \.parquet file"),
    "column missing": ({"data__source": "english"}, r"the column 'english' is missing; got en, fr, split"),
    "column misspelt": ({"data__target": "fre"}, r"the column 'fre' is missing; .*did you mean 'fr'\?"),
    "split column missing": ({"data__split": "part"}, r"the column 'part' is missing"),
    "split column of other words": (
        {"data__split": "fr"},
        r"line 2: fr: got 'le chat dort\.', allowed: train, heldout",
    ),
    "pair too long": ({"data__max_len": 4}, r"line 2: en has 4 tokens and <eos>, allowed: data\.max_len=4; raise it"),
}
FILES = {
    "empty file": ("", r"is empty, allowed: a header"),
    "only a header": ("en,fr,split\n", r"got 0 pairs, none of them for training"),
    "only held out": ("en,fr,split\na,b,heldout\n", r"got 1 pairs, none of them for training"),
    "another delimiter": (PAIRS.replace(",", ";"), r"the column 'en' is missing; got en;fr;split"),
    "empty side": (PAIRS.replace("le chat dort.", " "), r"line 2: fr is empty, allowed: a sentence on both sides"),
    "row too short": (PAIRS + "a,b\n", r"line 12: got 2 columns, allowed: 3"),
    "row too long": (PAIRS + "a,b,train,c\n", r"line 12: got 4 columns, allowed: 3"),
    "quote that does not end": (PAIRS + '"a,b,train\n', r"line 12: is no row of a \.csv file"),
    "column twice": (PAIRS.replace("en,fr", "en,en"), r"the column 'en' comes twice"),
    "not UTF-8": (PAIRS.encode("utf-16"), r"byte 0 is no UTF-8"),
    "latin 1": ("en,fr,split\na,\u00e9,train\n".encode("latin-1"), r"byte 14 is no UTF-8"),
    "held out and trained": (
        PAIRS + "The  cat sleeps.,x,heldout\n",
        r"line 12: the held-out sentence is also in line 2 for training",
    ),
}
YAMLS = {
    "empty": ("", r"is empty, allowed: the keys name"),
    "a list": ("- 1\n- 2\n", r"holds a list, allowed: the keys name"),
    "a text": ("hello", r"holds a str, allowed"),
    "no YAML": ("name: [1\ndata: }", r"is no YAML of plain values \(line 2: "),
    "a Python object": ("name: !!python/object/apply:os.system ['exit 3']\n", r"is no YAML of plain values \(line 1: "),
    "a key twice": ("name: a\nname: b\n", r"line 2: the key 'name' comes twice"),
    "a key that is a list": ("? [1, 2]\n: 3\n", r"is no YAML of plain values|unknown key"),
    "not UTF-8": ("name: \xe9".encode("latin-1"), r"byte 6 is no UTF-8"),
    "a zero byte": ("name: \0", r"is no YAML of plain values"),
    "very deep": ("[" * 600, r"is no YAML of plain values"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings(name, tmp_path, capsys):
    changed, pattern = SETTINGS[name]
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "fake.parquet").write_text("PAR1 no")
    config = write_settings(tmp_path, **changed)
    refused(capsys, tmp_path, pattern, "prepare", "--config", config, "--out_dir", tmp_path / "run")


@pytest.mark.parametrize("name", FILES)
def test_files_of_pairs(name, tmp_path, capsys):
    content, pattern = FILES[name]
    config = write_settings(tmp_path, pairs=content)
    refused(capsys, tmp_path, pattern, "prepare", "--config", config, "--out_dir", tmp_path / "run")


@pytest.mark.parametrize("name", YAMLS)
def test_yaml_files(name, tmp_path, capsys):
    content, pattern = YAMLS[name]
    path = tmp_path / "c.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(capsys, tmp_path, pattern, "prepare", "--config", path, "--out_dir", tmp_path / "run")


def test_a_number_without_a_dot_is_a_number(tmp_path):
    """YAML 1.1 reads 1e-3 as text."""
    from src.numpy_transformer.config import load_config

    path = write_settings(tmp_path)
    path.write_text(path.read_text().replace("lr: 0.01", "lr: 1e-3"))
    assert load_config(str(path)).train.lr == 1e-3


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder with c.yaml, and a trained run in `run`; tests copy it."""
    folder = tmp_path_factory.mktemp("small")
    config = write_settings(folder, train__epochs=1)
    for action in ("prepare", "train"):
        words = ["translate", action, "--config", str(config), "--out_dir", str(folder / "run"), "--quiet"]
        assert benchmark.main(words) == 0
    return folder


@pytest.fixture
def place(small, tmp_path):
    """A copy of `small`."""
    shutil.copytree(small, tmp_path, dirs_exist_ok=True)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "one.txt").write_text("the cat sleeps.")
    (tmp_path / "gap.txt").write_text("the cat sleeps.\n\nthe dog runs.\n")
    (tmp_path / "latin.txt").write_bytes("the cat\n\xe9".encode("latin-1"))
    return tmp_path


COMMANDS = {
    "no action": ("", r"translate: got '', allowed: prepare, train, run"),
    "action misspelt": ("trian --config {c}", r"got 'trian', allowed: .*did you mean 'train'\?"),
    "no configuration": ("train", r"--config: got nothing, allowed: a YAML file"),
    "configuration missing": ("train --config {f}/none.yaml", r"none\.yaml': no such file, allowed: a YAML file"),
    "configuration is a folder": ("train --config {f}", r"which is a folder, allowed: a YAML file"),
    "flag of another action": ("prepare --config {c} --beam 2", r"--beam: means nothing with `translate prepare`"),
    "flag unknown": ("train --config {c} --outdir x", r"unknown flag --outdir .*did you mean '--out_dir'\?"),
    "folder named by nothing": ("train --config {c} --out_dir=", r"--out_dir: got '', allowed: a folder"),
    "folder is a file": ("prepare --config {c} --out_dir {f}/pairs.csv", r"which is not a folder"),
    "already prepared": ("prepare --config {c} --out_dir {f}/run", r"holds results of `translate`; .*--overwrite"),
    "not prepared": ("train --config {c} --out_dir {f}/new", r"is not prepared; run `translate prepare`"),
    "already trained": ("train --config {c} --out_dir {f}/run", r"holds a training; go on with --resume"),
    "both at once": ("train --config {c} --out_dir {f}/run --resume --overwrite", r"contradict each other"),
    "no text": ("run --config {c} --out_dir {f}/run", r"give either --text or --file"),
    "text and file": ("run --config {c} --out_dir {f}/run --text a --file b", r"give either --text or --file"),
    "text empty": ("run --config {c} --out_dir {f}/run --text=", r"--text: got 0 words and marks, allowed: 1 \.\. 7"),
    "text too long": ("run --config {c} --out_dir {f}/run --text " + ",".join("abcde"), r"got 9 words and marks"),
    "beam of zero": ("run --config {c} --out_dir {f}/run --text a --beam 0", r"--beam: got 0, allowed: >= 1"),
    "beam too wide": ("run --config {c} --out_dir {f}/run --text a --beam 99", r"--beam: got 99, allowed: <= 64"),
    "beam as a word": ("run --config {c} --out_dir {f}/run --text a --beam x", r"--beam: got 'x', allowed: a whole"),
    "file missing": ("run --config {c} --out_dir {f}/run --file {f}/none", r"no such file, allowed: a text file"),
    "file is a folder": ("run --config {c} --out_dir {f}/run --file {f}", r"which is a folder, allowed: a text file"),
    "file empty": ("run --config {c} --out_dir {f}/run --file {f}/empty.txt", r"which is empty"),
    "file with a gap": ("run --config {c} --out_dir {f}/run --file {f}/gap.txt", r"--file, line 2: got 0 words"),
    "file not UTF-8": ("run --config {c} --out_dir {f}/run --file {f}/latin.txt", r"byte 8 is no UTF-8"),
    "figure of a file": ("run --config {c} --out_dir {f}/run --file {f}/one.txt --attention a.png", r"needs --text"),
    "figure of another kind": ("run --config {c} --out_dir {f}/run --text a --attention a.pdf", r"allowed: a \.png"),
    "figure nowhere": ("run --config {c} --out_dir {f}/run --text a --attention {f}/no/a.png", r"a folder that exists"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_command_lines(name, place, capsys):
    words, pattern = COMMANDS[name]
    refused(capsys, place, pattern, *words.format(c=place / "c.yaml", f=place).split())


def other_settings(place, **changed):
    """Rewrite c.yaml with other settings, beside the run that is there."""
    return write_settings(place, **{"train__epochs": 1, **changed})


@pytest.mark.parametrize(
    ("action", "changed", "pattern"),
    [
        ("run --text a", {"model__d_model": 8}, r"is of a training with model\.d_model 16, and --config says 8"),
        ("run --text a", {"model__pre_norm": False}, r"with model\.pre_norm true, and --config says false"),
        ("run --text a", {"data__max_len": 9}, r"was prepared with data\.max_len 8, and --config says 9"),
        ("train --resume", {"train__lr": 0.5}, r"is of a training with train\.lr 0\.01, and --config says 0\.5"),
        ("train --resume", {"data__limit": 3}, r"was prepared with data\.limit 0, and --config says 3"),
    ],
)
def test_a_checkpoint_of_another_configuration(action, changed, pattern, place, capsys):
    config = other_settings(place, **changed)
    refused(capsys, place, pattern, *action.split(), "--config", config, "--out_dir", place / "run")


def test_pairs_that_changed_after_they_were_prepared(place, capsys):
    config = other_settings(place, pairs=PAIRS + "the cat sings.,le chat chante.,train\n")
    pattern = r"pairs\.csv' has changed since .* was prepared"
    refused(capsys, place, pattern, "train", "--resume", "--config", config, "--out_dir", place / "run")


def test_a_folder_of_another_command(place, capsys):
    from src.storage.files import seal, write_json

    write_json(place / "run/config.json", seal({"kind": "speed", "settings": {}}))
    words = ["run", "--text", "a", "--config", place / "c.yaml", "--out_dir", place / "run"]
    refused(capsys, place, r"holds another command's results", *words)


def member(array, shape=None, **how):
    """The bytes of a .npy file. shape: what its header says, if that is not the truth."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, **how)
    text = buffer.getvalue()
    return text if shape is None else text.replace(str(array.shape).encode(), str(shape).encode())


def archive(path, members, kind=zipfile.ZIP_STORED):
    """Write an .npz file with these members."""
    with zipfile.ZipFile(path, "w", kind) as file:
        for name, content in members.items():
            file.writestr(name, content)


def flip(path):
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


EVIL = np.array([{"code": 1}], dtype=object)
DAMAGE = {
    "truncated": lambda p: p.write_bytes(p.read_bytes()[:-700]),
    "empty": lambda p: p.write_bytes(b""),
    "one bit": flip,
    "text": lambda p: p.write_text("hello"),
    "pickle": lambda p: archive(p, {"settings.npy": member(EVIL, allow_pickle=True)}),
    "bare pickle": lambda p: archive(p, {"settings.npy": b"\x80\x04K\x01."}),
    "header of a huge array": lambda p: archive(p, {"a.npy": member(np.zeros(1), (1 << 60,))}),
    "compressed": lambda p: archive(p, {"a.npy": member(np.zeros(10**6))}, zipfile.ZIP_DEFLATED),
    "without settings": lambda p: archive(p, {"a.npy": member(np.zeros(3))}),
    "a folder": lambda p: (p.unlink(), p.mkdir()),
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("action", ["run --text a", "train --resume"])
def test_a_damaged_checkpoint(name, action, place, capsys):
    DAMAGE[name](place / "run/checkpoint.npz")
    words = [*action.split(), "--config", place / "c.yaml", "--out_dir", place / "run"]
    refused(capsys, place, r"checkpoint\.npz'", *words)


def test_a_parameter_that_is_missing_or_not_finite(place, capsys):
    from src.numpy_transformer.arrays import read_arrays, write_arrays

    path = place / "run/checkpoint.npz"
    words = ["run", "--text", "a", "--config", place / "c.yaml", "--out_dir", place / "run"]
    for value, got in ((None, "nothing"), (np.full((16, 16), np.nan, np.float32), r"float32 \(16, 16\)")):
        arrays = read_arrays(path)
        arrays.pop("param.encoder.0.attention.q.w", None)
        write_arrays(path, arrays | ({} if value is None else {"param.encoder.0.attention.q.w": value}))
        refused(capsys, place, rf"param\.encoder\.0\.attention\.q\.w: got {got}, allowed: finite float32", *words)


@pytest.mark.parametrize("name", ["truncated", "one bit", "pickle", "without settings"])
def test_damaged_pairs(name, place, capsys):
    DAMAGE[name](place / "run/pairs.npz")
    words = ["train", "--resume", "--config", place / "c.yaml", "--out_dir", place / "run"]
    refused(capsys, place, r"pairs\.npz'", *words)


@pytest.mark.parametrize("name", ["vocab_source.json", "config.json"])
def test_an_edited_file_is_noticed(name, place, capsys):
    path = place / "run" / name
    path.write_text(re.sub(r"cat|en", "car", path.read_text(), count=1))
    words = ["run", "--text", "a", "--config", place / "c.yaml", "--out_dir", place / "run"]
    refused(capsys, place, r"was edited or damaged", *words)


def test_a_second_process_in_the_folder_is_told(place, capsys):
    from src.storage.lock import FolderLock

    lock = FolderLock(place / "run")
    lock.acquire()
    try:
        words = ["train", "--resume", "--config", place / "c.yaml", "--out_dir", place / "run"]
        refused(capsys, place, r"is in use by process \d+", *words)
    finally:
        lock.release()


def test_the_wrong_inputs_are_wrong_in_one_thing_only(tmp_path):
    """The settings that the cases change are right as they are."""
    config = write_settings(tmp_path)
    assert yaml.safe_load(config.read_text())["name"] == "mini"
    assert benchmark.main(["translate", "prepare", "--config", str(config), "--out_dir", str(tmp_path / "run")]) == 0


def test_another_command_is_told_what_is_in_the_folder(place, capsys):
    before = files_of(place)
    capsys.readouterr()
    assert benchmark.main(["--resume", "--out_dir", str(place / "run")]) == 2
    err = capsys.readouterr().err
    assert err.endswith("allowed: the directory of a training run; continue it with the same `translate` command\n")
    assert files_of(place) == before
