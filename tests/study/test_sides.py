"""The sides of a comparison: names with flags of their own, their labels, and the product of settings.

python -m pytest tests/study/test_sides.py
"""

import re

import pytest

from src.flags.fields import UserError
from src.setup.sides import Setting, Side, read_settings, read_sides


def labels(*texts, kind="model") -> list[str]:
    return [side.label for side in read_sides(kind, texts)]


# Sides


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["gru"], ["gru"]),
        (["gru,lstm"], ["gru", "lstm"]),
        (["gru,lstm", "mamba"], ["gru", "lstm", "mamba"]),
        (["gru,,lstm,"], ["gru", "lstm"]),
        ([" gru "], ["gru"]),
        (["deltanet --neg_eigen", "deltanet"], ["deltanet --neg_eigen", "deltanet"]),
        (["gru   --n_layer   1"], ["gru --n_layer 1"]),
        (["hybrid --layers gru,lstm"], ["hybrid --layers gru,lstm"]),
        ([], []),
    ],
    ids=repr,
)
def test_commas_separate_names_and_a_text_with_flags_is_one_side(texts, found):
    assert labels(*texts) == found


def test_a_side_gives_its_part_of_a_command_line():
    (side,) = read_sides("task", ["word_problem --group S3 --max_len '1 2'"])
    assert side.flags == ("--group", "S3", "--max_len", "1 2")
    assert side.words == ("--task", "word_problem", "--group", "S3", "--max_len", "1 2")


def test_an_own_file_has_its_stem_as_label_and_its_whole_path_as_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_layer.py").touch()
    plain, flagged, missing = read_sides("model", ["my_layer.py", "./my_layer.py --n_layer 1", "other.py"])
    path = str(tmp_path / "my_layer.py")
    assert [s.label for s in (plain, flagged, missing)] == ["my_layer", "my_layer --n_layer 1", "other"]
    assert (plain.name, flagged.name, missing.name) == (path, path, str(tmp_path / "other.py"))
    assert all(s.is_file for s in (plain, flagged, missing))
    assert not Side("model", "gru").is_file


@pytest.mark.parametrize("name", ["my layer.py", "a,b.py"])
def test_a_file_that_exists_is_one_side_whatever_its_name(tmp_path, name):
    (tmp_path / name).touch()
    (side,) = read_sides("model", [str(tmp_path / name)])
    assert (side.name, side.flags) == (str(tmp_path / name), ())


@pytest.mark.parametrize("kind", ["task", "preset", "model"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "got '', allowed: a name from `list`, or a path to your own .py file"),
        ("  ", "got '  ', allowed: a name from `list`"),
        (",", "got ',', allowed: a name from `list`"),
        ("gru lstm", "a name, and then flags that begin with --; several names need commas"),
        ("gru, lstm", "several names need commas, or quotes of their own"),
        ("gru --name 'x", "(No closing quotation), allowed: a name and its flags, such as 'gru --n_layer 1'"),
    ],
)
def test_a_text_that_names_no_side_is_one_line(kind, text, words):
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        read_sides(kind, [text])
    assert str(caught.value).startswith(f"--{kind}: got '{text}'")
    assert "\n" not in str(caught.value)


def test_two_sides_with_one_label_are_refused(tmp_path):
    for texts in (["gru,gru"], ["gru", "lstm", "gru"], ["gru --n_layer 1", "gru  --n_layer 1"]):
        with pytest.raises(UserError, match=r"twice, allowed: sides with labels of their own; name it once"):
            read_sides("model", texts)
    with pytest.raises(UserError, match=r"got 'layer' twice, .*; rename one of the files"):
        read_sides("model", [f"{tmp_path}/a/layer.py,{tmp_path}/b/layer.py"])
    assert labels("gru", "gru --n_layer 1", "gru --n_layer 2") == ["gru", "gru --n_layer 1", "gru --n_layer 2"]


# Settings


def test_without_set_there_is_one_setting_without_a_label():
    assert read_settings([]) == (Setting(),)
    assert read_settings([])[0].words == ()


def test_every_combination_of_values_is_a_setting():
    found = read_settings(["n_layer=1,2", "--dropout=0,0.1"])
    assert [s.label for s in found] == [
        "n_layer=1 dropout=0",
        "n_layer=1 dropout=0.1",
        "n_layer=2 dropout=0",
        "n_layer=2 dropout=0.1",
    ]
    assert found[1].words == ("--n_layer", "1", "--dropout", "0.1")


def test_a_flag_with_one_value_is_set_and_not_in_the_label():
    found = read_settings(["n_layer=2", "dropout=0,0.1"])
    assert [s.label for s in found] == ["dropout=0", "dropout=0.1"]
    assert all(s.words[:2] == ("--n_layer", "2") for s in found)
    assert [s.label for s in read_settings(["n_layer=2"])] == [""]


def test_a_value_may_contain_an_equals_sign():
    assert read_settings(["backend=delta_rule=eager"])[0].flags == (("backend", "delta_rule=eager"),)


@pytest.mark.parametrize(
    ("fair", "found"),
    [
        ("no", [("n=1", ()), ("n=2", ())]),
        ("yes", [("n=1", ("--fair", "true")), ("n=2", ("--fair", "true"))]),
        (
            "both",
            [
                ("n=1 published", ()),
                ("n=2 published", ()),
                ("n=1 fair", ("--fair", "true")),
                ("n=2 fair", ("--fair", "true")),
            ],
        ),
    ],
)
def test_fair_goes_to_all_settings_and_both_gives_two_tables(fair, found):
    made = read_settings(["n=1,2"], fair)
    assert [(s.label, s.words[2:]) for s in made] == found
    alone = {"no": [""], "yes": [""], "both": ["published", "fair"]}[fair]
    assert [s.label for s in read_settings([], fair)] == alone


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["n_layer"], "got 'n_layer', allowed: FLAG=VALUE,VALUE such as n_layer=1,2"),
        (["n_layer="], "got 'n_layer=', allowed: FLAG=VALUE,VALUE"),
        (["n_layer=,"], "got 'n_layer=,', allowed: FLAG=VALUE,VALUE"),
        (["=1"], "got '=1', allowed: FLAG=VALUE,VALUE"),
        (["--=1"], "got '--=1', allowed: FLAG=VALUE,VALUE"),
        (["n_layer=1", "--n_layer=2"], "got n_layer twice, allowed: once, with all its values"),
        (["n_layer=1,2,1"], "got n_layer=1,2,1, allowed: values that differ"),
    ],
)
def test_a_wrong_set_is_one_line(texts, words):
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        read_settings(texts)
    assert str(caught.value).startswith("--set: ")
    assert "\n" not in str(caught.value)
