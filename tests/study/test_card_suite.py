"""Suite files: what is read, and that every mistake in one is a single line.

python -m pytest tests/study/test_card_suite.py
"""

import pytest
from planted_cards import SUITE, write_suite

from src.flags.fields import UserError
from src.study.card import runs, suite
from src.study.card.suite import file_name, read_suite


def test_a_suite_file_is_read_with_its_rows_and_protocol(tmp_path):
    found = write_suite(tmp_path)
    assert (found.name, found.parameters, found.rates, found.seeds) == ("tiny", 20000, (0.003, 0.01), (11, 12, 13))
    assert [(row.name, row.measure, row.is_control) for row in found.rows] == [
        ("parity", ("value", "at_mean"), False),
        ("recall", ("value",), False),
    ]
    assert found.row("parity").task.label == "parity"
    assert found.row("parity").task.flags[:2] == ("--min_len", "4")
    assert found.folder == tmp_path / "tiny.baselines"


def test_the_words_of_a_run_hold_everything_that_decides_its_numbers(tmp_path):
    found = write_suite(tmp_path)
    words = found.words([found.rows[1].task], ["gru"])
    assert words[:2] == ["--task", "recall --n_pairs 2 --context_len 12 --max_steps 6 --batch_size 8"]
    rest = " ".join(words[2:])
    for part in ("--model gru", "--match_params 20000", "--lr 0.003 0.01", "--tuning_seed 1", "--seed 11 --seeds 3"):
        assert part in rest
    assert "--seeds 5" in " ".join(found.words([found.rows[1].task], ["gru"], 5))


def test_the_name_of_a_layers_file_has_no_spaces():
    assert file_name("deltanet --neg_eigen") == "deltanet-neg_eigen"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("rates = [0.003, 0.01]", "", "rates is missing, allowed: a list of numbers"),
        ("rates = [0.003, 0.01]", "rates = [0.003, 0.003]", "rates: got"),
        ("rates = [0.003, 0.01]", "rates = ['x']", "rates: got"),
        ("rates =", "rate =", "unknown key 'rate', allowed: .*did you mean 'rates'"),
        ("seeds = [11, 12, 13]", "seeds = [11, 13]", "that follow each other"),
        ("seeds = [11, 12, 13]", "seeds = [11]", "at least 2"),
        ("parameters = 20000", "parameters = true", "parameters: got True"),
        ("parameters = 20000", "parameters = 0", "above 0"),
        ('name = "tiny"', 'name = "two words"', "one word of letters"),
        ('name = "recall"', 'name = "parity"', "one word that no other row has"),
        ('says = "parity"', "", "row 'parity': says is missing"),
        ('measure = ["value", "at_mean"]', 'measure = ["at_mean"]', "measure: got"),
        ('says = "parity"', 'says = "parity"\nneeds = "bible"', "needs: got 'bible'"),
        ('says = "parity"', 'says = "parity"\ntimes = 3', "row 'parity': unknown key 'times'"),
        ('"gru"]', '"gru", "gru"]', "layers: got 'gru' twice"),
        ('"gru"]', '"mine.py"]', "layers: got .*mine.py', allowed: layers of this program"),
        ("rates = [0.003, 0.01]", f"rates = [1{'0' * 400}]", "rates: got"),
        ("rates = [0.003, 0.01]", f"rates = [1{'0' * 5000}]", "is not TOML"),
        ('name = "tiny"', f'name = "tiny"\nx = {"[" * 5000}{"]" * 5000}', "is nested too deeply"),
        ('task = "recall ', 'task = "recall what ', "flags that begin with --"),
        ("[[row]]", "[row", "is not TOML"),
    ],
)
def test_a_mistake_in_a_suite_file_is_one_line_that_names_it(tmp_path, old, new, said):
    assert old in SUITE
    with pytest.raises(UserError, match=said) as raised:
        write_suite(tmp_path, SUITE.replace(old, new, 1))
    assert str(raised.value).startswith("--suite: 'tiny.toml': ")
    assert "\n" not in str(raised.value)


def test_an_unknown_suite_and_a_file_that_is_not_there_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "FOLDER", tmp_path)
    (tmp_path / "core.toml").write_text(SUITE)
    assert read_suite("core").folder == suite.RECORDS / "tiny"
    with pytest.raises(UserError, match=r"--suite: got 'cor', allowed: core, or a path.*did you mean 'core'"):
        read_suite("cor")
    with pytest.raises(UserError, match="which is no file"):
        read_suite(str(tmp_path / "none.toml"))


def test_a_task_of_ones_own_lies_beside_the_suite_file(tmp_path):
    text = SUITE.replace('task = "recall --n_pairs 2', 'task = "my_task.py')
    assert write_suite(tmp_path, text).row("recall").task.name == str(tmp_path / "my_task.py")


@pytest.mark.parametrize("flags", [" --context_len 12", ""])
def test_the_path_of_a_task_and_the_folder_of_a_suite_may_have_spaces(tmp_path, flags):
    folder = tmp_path / "my suites"
    folder.mkdir()
    row = 'task = "recall --n_pairs 2 --context_len 12 --max_steps 6 --batch_size 8"'
    task = write_suite(folder, SUITE.replace(row, f"""task = "'my task.py'{flags}\"""")).row("recall").task
    assert (task.name, list(task.flags)) == (str(folder / "my task.py"), flags.split())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("--n_layer 1", "--n_layers 1", "suite tiny: unknown flag --n_layers"),
        ("--n_pairs 2", "--n_pears 2", "suite tiny, row recall: unknown flag --n_pears"),
        ("--n_pairs 2", "--n_pairs 2 --lr 1", "suite tiny, row recall: .*--lr, which `compare` decides for all runs"),
    ],
)
def test_a_wrong_flag_in_a_suite_names_the_suite_before_anything_runs(tmp_path, old, new, said):
    found = write_suite(tmp_path, SUITE.replace(old, new, 1))
    with pytest.raises(UserError, match=said) as raised:
        runs.prepare(found, ["gru"])
    assert str(raised.value).startswith("suite tiny")


def test_a_row_whose_text_is_not_there_is_left_out_with_its_reason(tmp_path, monkeypatch):
    """builtin: the few kilobytes that stand in for the text where it cannot be fetched."""
    from dataset.corpus import sources
    from dataset.tiny_shakespeare import TinyShakespeare

    builtin = sources.Corpus("to be or not " * 400, "builtin")
    monkeypatch.setattr(TinyShakespeare, "corpus", lambda self: builtin)
    row = (
        '\n[[row]]\nname = "text"\nsays = "a text"\ntask = "tiny_shakespeare --max_steps 4"\nneeds = "tiny_shakespeare"'
    )
    found = write_suite(tmp_path, SUITE + row)
    assert "not to be had here (source builtin)" in runs.without_text(found, found.row("text"))
    assert runs.without_text(found, found.row("recall")) == ""
    canonical = sources.Corpus(builtin.text, "canonical")
    monkeypatch.setattr(TinyShakespeare, "corpus", lambda self: canonical)
    assert runs.without_text(found, found.row("text")) == ""
