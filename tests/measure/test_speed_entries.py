"""`speed` of models with flags of their own: `--model "deltanet --neg_eigen" gru`.

python -m pytest tests/measure/test_speed_entries.py
"""

import contextlib
import gc
import io
import json
import os

import pytest
import torch

from src.commands import speed
from src.figures import speed as speed_figures
from src.flags.fields import UserError
from src.flags.parser import first_look
from src.measure.speed.analysis import analyse, tables
from src.measure.speed.entries import read_entries
from src.measure.speed.plan import SpeedConfig, build_subjects
from src.measure.speed.subjects import VOCABULARY, Subject
from src.models.match import counts
from src.storage.rows import make_row

FILE = """
import torch
from dataclasses import dataclass
from src.models.base import Mixer


@dataclass
class Config:
    shift: int = 1


class Layer(Mixer):
    Config = Config

    def forward(self, x):
        return torch.cumsum(x, 1) * {factor}
"""
SMALL = {"d_model": 16, "n_layer": 1, "n_head": 2, "threads": 1, "precision": "fp32", "seed": 0}
SIZES = ["--d_model", "16", "--n_layer", "1"]
QUICK = "--panel decode --lengths 16 --decode_batches 1 --cell_seconds 0.01 --precision fp32 --threads 1 --quiet"


@pytest.fixture(autouse=True, scope="module")
def frozen():
    """A study collects garbage after each point, which is slow among all that pytest has loaded."""
    gc.freeze()
    yield
    gc.unfreeze()


def own_file(folder, name="layer", factor=1) -> str:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(FILE.format(factor=factor))
    return str(folder / f"{name}.py")


def subjects(*texts, given=(), panel="train", **config):
    """(subjects, sized ones, lines) of what --model names. given: typed flags of all models; None takes one away."""
    given = {k: v for k, v in {**SMALL, **dict(given)}.items() if v is not None}
    made = SpeedConfig(model=texts, panel=(panel,), lengths=(16,), **config)
    return build_subjects(made, read_entries(texts), given, torch.device("cpu"), "auto")


def measure(folder, *words) -> dict:
    """The settings of the record that `speed` leaves. Figures take seconds, so none are drawn."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setattr(speed_figures, "draw_all", lambda history, folder, looks: [])
        assert speed.main([*words, *QUICK.split(), "--out_dir", str(folder)]) == 0
    return json.loads((folder / "config.json").read_text())["settings"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """(folder, settings) of two variants of one layer, and a model of another size."""
    folder = tmp_path_factory.mktemp("entries") / "out"
    return folder, measure(folder, "--model", "gru", "gru --dim_ffn 8", "lstm --d_model 24", *SIZES)


# What is measured


def test_two_variants_of_one_layer_are_two_models_with_their_own_flags(measured):
    folder, _ = measured
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    found = {r["model"]: (r["settings"]["d_model"], r["settings"]["dim_ffn"]) for r in rows}
    assert found == {"gru": (16, 64), "gru --dim_ffn 8": (16, 8), "lstm --d_model 24": (24, 96)}
    assert {r["status"] for r in rows} == {"ok"}
    # Rows come in the order in which cells end, so only the history has the order of the command line.
    assert json.loads((folder / "history.json").read_text())["models"] == [
        "gru",
        "gru --dim_ffn 8",
        "lstm --d_model 24",
    ]


def test_the_record_knows_the_models_by_what_was_typed_and_refuses_other_flags(measured):
    folder, settings = measured
    assert settings["model"] == ["gru", "gru --dim_ffn 8", "lstm --d_model 24"]
    before = (folder / "results.jsonl").read_bytes()
    measure(folder, "--model", "gru", "gru  --dim_ffn 8", "lstm --d_model 24", *SIZES)
    assert (folder / "results.jsonl").read_bytes() == before
    with pytest.raises(UserError, match="was begun with model"):
        measure(folder, "--model", "gru", "gru --dim_ffn 8", "lstm --d_model 32", *SIZES)


def test_the_settings_of_a_record_without_own_flags_are_those_of_earlier_versions(tmp_path, monkeypatch):
    """A record that an earlier version began is continued, so no key may come or go."""

    class Stop(Exception):
        pass

    def stop(kind, out_dir, settings, overwrite):
        raise Stop(settings)

    monkeypatch.setattr("src.storage.record.Record.check_dir", staticmethod(stop))
    with pytest.raises(Stop) as stopped:
        speed.main(["--model", "gru,lstm", "--panel", "train", "--threads", "1", "--precision", "fp32"])
    settings = stopped.value.args[0]
    of_config = (
        "model panel lengths batch_tokens train_batch decode_batches sizes scaling_len scaling_tokens cell_seconds "
        "precision device threads compile backend seed models"
    )
    assert set(settings) == set(of_config.split())
    assert settings["model"] == ("gru", "lstm")
    assert list(settings["models"]) == ["gru", "lstm"]


def test_the_process_for_memory_builds_the_same_variant():
    made, _, _ = subjects("deltanet --neg_eigen --d_model 24 --n_layer 2", "gru")
    for subject in made.values():
        again = Subject.from_spec(json.loads(json.dumps(subject.spec())))
        assert (again.name, again.settings()) == (subject.name, subject.settings())
    other = made["deltanet --neg_eigen --d_model 24 --n_layer 2"]
    assert (other.args.neg_eigen, other.args.d_model, other.args.n_layer) == (True, 24, 2)


def test_flags_in_quotes_win_over_the_shared_ones():
    made, _, _ = subjects("gru --n_layer 3", "lstm", given={"n_layer": 2})
    assert [s.args.n_layer for s in made.values()] == [3, 2]


def test_positions_in_quotes_belong_to_one_model():
    made, _, _ = subjects("transformer --pos rope", "transformer", "gru --pos learned")
    assert [s.args.pos for s in made.values()] == ["rope", "sinusoidal", "learned"]


def test_the_sizes_of_scaling_are_those_of_the_variant():
    _, sized, _ = subjects("deltanet --neg_eigen", panel="scaling", sizes=("60k",))
    (subject,) = sized[60_000].values()
    assert subject.args.neg_eigen
    assert subject.parameters == pytest.approx(60_000, rel=0.02)


# Equal parameters


def layers_of(subject) -> int:
    return counts(subject.model_class, subject.args, VOCABULARY, subject.max_len).layers


def test_the_others_get_as_many_parameters_as_a_model_with_flags_of_its_own():
    first = "transformer --d_model 64 --dim_ffn 96"
    made, _, lines = subjects(first, "gru", "mamba", given={"d_model": None, "match_params": first})
    assert (made[first].args.d_model, made[first].args.dim_ffn) == (64, 96)
    assert [layers_of(made[m]) for m in ("gru", "mamba")] == pytest.approx([layers_of(made[first])] * 2, rel=0.02)
    assert [line.split(":")[0] for line in lines] == ["gru", "mamba"]


def test_a_size_in_quotes_belongs_to_one_model():
    made, _, _ = subjects("gru --match_params 20k", "lstm")
    assert layers_of(made["gru --match_params 20k"]) == pytest.approx(20_000, rel=0.02)
    assert made["lstm"].args.d_model == 16


def test_the_model_whose_parameters_count_has_the_shared_flags_and_not_those_of_the_matched_one():
    made, _, _ = subjects("gru --n_layer 3", given={"d_model": None, "match_params": "lstm"})
    lstm = subjects("lstm", given={"d_model": None})[0]["lstm"]
    assert layers_of(made["gru --n_layer 3"]) == pytest.approx(layers_of(lstm), rel=0.02)


# What --model means


@pytest.mark.parametrize(
    ("texts", "labels"),
    [
        (["gru,lstm"], ["gru", "lstm"]),
        (["gru", "lstm"], ["gru", "lstm"]),
        (["gru, lstm", "mamba"], ["gru", "lstm", "mamba"]),
        (["gru lstm"], ["gru", "lstm"]),
        (["gru,lstm", "gru --n_layer 1"], ["gru", "lstm", "gru --n_layer 1"]),
        (["gru --n_layer=1  --no_bias"], ["gru --n_layer=1 --no_bias"]),
    ],
    ids=repr,
)
def test_a_text_with_a_flag_is_one_model_and_any_other_is_a_list(texts, labels):
    assert list(read_entries(texts)) == labels


def test_files_of_one_name_have_numbers_and_a_file_may_have_flags(tmp_path):
    first, second = own_file(tmp_path / "a"), own_file(tmp_path / "b", factor=2)
    found = read_entries([f"{first},{second}", f"{first} --shift 2"])
    assert list(found) == ["layer", "layer-2", "layer --shift 2"]
    assert [entry.model for entry in found.values()] == [first, second, first]
    assert found["layer --shift 2"].given == {"shift": 2}


def test_a_path_with_a_space_is_one_model(tmp_path):
    path = own_file(tmp_path / "my layers")
    found = read_entries([path, f"'{path}' --shift 2"])
    assert list(found) == ["layer", "layer --shift 2"]
    assert {entry.model for entry in found.values()} == {path}


def test_a_hybrid_in_quotes_has_its_own_layers_and_another_one_those_of_the_flag():
    found = read_entries(["hybrid", "hybrid --layers lstm,lstm,gru"], layers=("gru", "mamba"))
    layers = [[layer.__name__.lower() for layer in e.model_class.layers] for e in found.values()]
    assert layers == [["gru", "mamba"], ["lstm", "lstm", "gru"]]


def test_labels_name_the_models_in_order():
    found = read_entries(["gru --n_layer 1", "lstm"], labels=["ours, one block", "theirs"])
    assert list(found) == ["ours, one block", "theirs"]
    seen = first_look(["--model", "gru --n_layer 1", "--labels", "a b", "c"], texts=("model", "labels"))
    assert (seen.model, seen.labels) == (("gru --n_layer 1",), ("a b", "c"))


def test_labels_are_in_the_record_and_a_record_keeps_them(tmp_path):
    words = ["--model", "gru --d_model 16", "--n_layer", "1"]
    settings = measure(tmp_path / "out", *words, "--labels", "small gru")
    assert list(settings["models"]) == ["small gru"]
    with pytest.raises(UserError, match="was begun with"):
        measure(tmp_path / "out", *words)


WRONG = [
    (["--model", "mamba --pos rope"], "'mamba --pos rope': --pos: got 'rope', which mamba does not have"),
    (["--model", "gru --neg_eigen"], "'gru --neg_eigen': unknown flag --neg_eigen of this model"),
    (["--model", "deltanet --neg_eigne"], "did you mean '--neg_eigen'"),
    (["--model", "gru --n_layer"], "'gru --n_layer': --n_layer: expected one argument"),
    (["--model", "gru --n_layer two"], "'gru --n_layer two': --n_layer: got 'two'"),
    (["--model", "gru --n_layer 0"], "'gru --n_layer 0': --n_layer: got 0"),
    (["--model", "gru --lengths 64"], "--lengths holds for all models, allowed: outside the quotes"),
    (["--model", "gru --threads=2"], "--threads holds for all models, allowed: outside the quotes"),
    (["--model", "gru --quiet"], "--quiet holds for all models, allowed: outside the quotes"),
    (["--model", "gru --lr 1"], "unknown flag --lr of this model"),
    (["--model", "gru --match_state 64"], "unknown flag --match_state of this model"),
    (["--model", "gru --n_layer 1 lstm"], "'gru --n_layer 1 lstm': unexpected argument 'lstm'"),
    (["--model", "gru lstm --n_layer 1"], "several names need commas, or quotes of their own"),
    (["--model", "grru --n_layer 1"], "unknown model 'grru'"),
    (["--model", "gru --n_layer '1"], "No closing quotation"),
    (["--model", "gru --n_layer 1", "gru --n_layer 1"], "'gru --n_layer 1' twice"),
    (["--model", "gru --n_layer 1", "gru  --n_layer 1"], "'gru --n_layer 1' twice"),
    (["--model", "transformer --n_head 5"], "'transformer --n_head 5': --n_head: got 5"),
    (["--model", "gru --match_params 12"], "'gru --match_params 12': --match_params"),
    (["--model", "hybrid --layers gru", "--layers", "gru"], "--layers: only goes with"),
    (["--model", ","], "--model: got none"),
    (["--model", "gru", "--labels", "a", "b"], "--labels: got 2 for 1 models"),
    (["--model", "gru,lstm", "--labels", "a", "a"], "--labels: got 'a', allowed: texts that differ"),
    (["--model", "gru", "--labels", " "], "--labels: got ' ', allowed: texts that differ, none of them empty"),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG, ids=[" ".join(a[1:]) for a, _ in WRONG])
def test_a_wrong_model_is_one_line_and_nothing_is_written(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        speed.main(arguments)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_help_shows_the_flags_of_a_model_in_quotes(capsys):
    assert speed.main(["--model", "deltanet --neg_eigen", "deltanet", "--help"]) == 0
    said = capsys.readouterr().out
    assert "own flags of deltanet:" in said
    assert "--neg_eigen" in said
    assert "A model in quotes has flags of its own" in said


# What is printed


def test_long_labels_do_not_touch_the_numbers_of_the_tables():
    long = "a_layer_with_a_name --and_a_flag_with_a_value 12345"
    rows = [
        make_row(
            "speed",
            panel="train",
            model=model,
            metric="step_ms",
            value=k * x,
            values=[k * x * n for n in (0.99, 1.0, 1.01)],
            unit="ms",
            x_name="length",
            x=x,
            batch=1,
            tokens=x,
        )
        for model, k in ((long, 2.0), ("gru", 1.0))
        for x in (64, 128, 256)
    ]
    lines = tables(rows, analyse(rows))
    growth = next(line for line in lines if long in line and "x^" in line)
    assert f"{long}  x^" in growth
    crossing = next(line for line in lines if f"gru < {long}" in line)
    assert crossing.split(long)[1].startswith("  ")
