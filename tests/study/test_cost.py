"""`compare --cost`: the same models at the same sizes in `speed`, after the runs; kept, continued, or measured anew.

python -m pytest tests/study/test_cost.py
"""

import dataclasses
import json
import shlex
import signal

import pytest
import torch
from engine_in_process import in_process
from planted_runs import cells_of

from src.commands import speed
from src.flags.fields import UserError
from src.flags.groups import ModelConfig
from src.flags.hints import program
from src.flags.parser import first_look
from src.measure.speed.entries import read_entries
from src.measure.speed.plan import SpeedConfig, build_subjects
from src.storage.record import DONE, INTERRUPTED, Record
from src.study import parts as processes
from src.study.comparison import cost, folder, planned
from src.study.comparison.digest import run_name

LAYER = """
import torch
from src.models.base import Mixer


class Mine(Mixer):
    def forward(self, x):
        return torch.cumsum(x, 1) * {factor}
"""


class Interrupted(Exception):
    """Ends a planted `speed` as Ctrl-C does."""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A layer of one's own."""
    path = tmp_path_factory.mktemp("own") / "mine.py"
    path.write_text(LAYER.format(factor=1))
    return path


@pytest.fixture(scope="module")
def planned_cells(own):
    """(what was asked, cells) of four models in one setting."""
    models = ("transformer --pos alibi", "deltanet --neg_eigen", "hybrid --layers gru,lstm", str(own))
    return cells_of(*models, typed=("--cost", "--match_params", "none"))


@pytest.fixture(scope="module")
def matched_cells():
    """(what was asked, cells) of two models with equal parameters."""
    return cells_of("transformer --pos alibi", "gru", typed=("--cost",))


def changed(cell, setting=None, **flags):
    """The same cell with other resolved flags."""
    setup = dataclasses.replace(cell.setup, args=dataclasses.replace(cell.setup.args, **flags))
    return dataclasses.replace(cell, setup=setup, setting=cell.setting if setting is None else setting)


class Planted:
    """In place of the command `speed`: it keeps a record with the settings of its words, and measures nothing."""

    def __init__(self, monkeypatch):
        self.calls, self.status, self.code = [], DONE, 0
        monkeypatch.setattr(processes, "one_by_one", in_process(self.run))

    def run(self, words, quiet):
        self.calls.append(words)
        if self.code:
            return self.code
        out_dir = words[words.index("--out_dir") + 1]
        settings = self.settings(words)
        record = Record.open_for("speed", out_dir, settings)
        with record.lock():
            record.begin(settings, {})
            if self.status == INTERRUPTED:
                raise KeyboardInterrupt
            record.finish({"settings": {}}, self.status)
        return 0

    @staticmethod
    def settings(words) -> dict:
        """The settings of the real command, which goes no further."""

        def stop(kind, out_dir, settings, overwrite):
            raise Interrupted(settings)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Record, "check_dir", staticmethod(stop))
            with pytest.raises(Interrupted) as stopped:
                speed.main([word for word in words[1:] if word != "--quiet"])
        return json.loads(json.dumps(stopped.value.args[0]))


@pytest.fixture
def planted(monkeypatch):
    return Planted(monkeypatch)


def measure(home, pair) -> int:
    asked, cells = pair
    return cost.measure_cost(home, asked.comparison, cells, True)


# What is measured


def test_every_model_is_measured_with_the_resolved_flags_of_its_cell(planned_cells):
    asked, cells = planned_cells
    seen = first_look(list(cost.command(asked.comparison, cells)[1:]), texts=("model", "labels"))
    entries = read_entries(seen.model, labels=seen.labels)
    assert list(entries) == [cell.model for cell in cells]
    made = SpeedConfig(model=seen.model, panel=("train",), lengths=(16,))
    given = {"precision": "fp32", "threads": 1, "seed": 0}
    subjects, _, _ = build_subjects(made, entries, given, torch.device("cpu"), "auto")
    for cell, subject in zip(cells, subjects.values(), strict=True):
        names = {f.name for f in dataclasses.fields(ModelConfig)} - {"model", "match_params", "match_count"}
        names |= {"neg_eigen", "layers"} & set(vars(cell.setup.args))
        for name in names:
            assert getattr(subject.args, name) == getattr(cell.setup.args, name), (cell.model, name)
        assert subject.model == cell.setup.args.model


def test_parameters_that_were_matched_stay_matched(matched_cells):
    asked, cells = matched_cells
    words = cost.command(asked.comparison, cells)
    texts = words[words.index("--model") + 1 : words.index("--labels")]
    assert [text.split()[0] for text in texts] == ["transformer", "gru"]
    for cell, text in zip(cells, texts, strict=True):
        flags = dict(zip(*[iter(shlex.split(text)[1:])] * 2, strict=True))
        assert int(flags["--d_model"]) == cell.setup.args.d_model
        assert flags["--pos"] == cell.terms["pos"]
    machine = {"--threads": "1", "--precision": cells[0].terms["precision"], "--device": "cpu"}
    assert {flag: words[words.index(flag) + 1] for flag in machine} == machine


def test_a_value_that_begins_with_a_minus_and_a_float_are_read_back(planned_cells):
    cell = changed(planned_cells[1][0], attn_dropout=0.123456789, bias=False, embed_dropout=-0.5)
    (entry,) = read_entries([shlex.join(["transformer", *cost.flags_of(cell)])]).values()
    found = [entry.given[name] for name in ("attn_dropout", "bias", "embed_dropout")]
    assert found == [0.123456789, False, -0.5]


# The plan


def test_the_plan_says_how_long_it_takes_and_which_sizes_are_measured(planned_cells):
    asked, cells = planned_cells
    assert cost.notes(cells) == []
    same = [dataclasses.replace(cell, task="copy") for cell in cells]
    other = [changed(cell, "n_layer=1", n_layer=1) for cell in cells]
    (note,) = cost.notes([*cells, *same, *other])
    assert note == "--cost measures the models as they are in: parity; their sizes, blocks or positions differ in: " + (
        "parity, n_layer=1"
    )
    shown = planned.lines(asked.comparison, [*cells, *same, *other], [note], 2)
    assert [line for line in shown if line.startswith("--cost: about 2:03 more, after the runs")]
    assert f"note: {note}" in shown
    config = dataclasses.replace(asked.comparison.config, cost=False)
    without = dataclasses.replace(asked.comparison, config=config)
    assert "--cost" not in "\n".join(planned.lines(without, cells, [], 2))


def test_cost_changes_no_run_and_no_name():
    (asked, (cell,)), (plain, (other,)) = (cells_of("gru", typed=typed) for typed in (("--cost",), ()))
    assert cell.words == other.words
    assert run_name(cell, 1e-3, 11) == run_name(other, 1e-3, 11)
    assert asked.comparison.settings_json() == {**plain.comparison.settings_json(), "cost": True}


# Kept, continued, measured anew


def test_a_finished_record_of_the_same_models_is_kept(tmp_path, planted, matched_cells):
    assert measure(tmp_path, matched_cells) == 0
    assert measure(tmp_path, matched_cells) == 0
    assert len(planted.calls) == 1
    assert planted.calls[0][-2:] == [str(tmp_path / "speed"), "--quiet"]


def test_an_unfinished_record_is_continued(tmp_path, planted, matched_cells):
    planted.status = INTERRUPTED
    assert measure(tmp_path, matched_cells) == 130
    planted.status = DONE
    before = (tmp_path / "speed" / "config.json").stat().st_mtime_ns
    assert measure(tmp_path, matched_cells) == 0
    assert planted.calls[0] == planted.calls[1]
    assert (tmp_path / "speed" / "config.json").stat().st_mtime_ns == before
    assert Record(tmp_path / "speed").finished


def test_other_models_sizes_threads_or_code_are_measured_anew(tmp_path, planted, planned_cells, own):
    asked, cells = planned_cells
    cells = [cells[0], cells[3]]
    wider = [changed(cell, d_model=cell.setup.args.d_model + 8) for cell in cells]
    threads = dataclasses.replace(asked, comparison=dataclasses.replace(asked.comparison, threads=2))
    pairs = [(asked, cells), (asked, wider), (threads, wider[1:])]
    for n, pair in enumerate(pairs, 1):
        assert [measure(tmp_path, pair), measure(tmp_path, pair)] == [0, 0]
        assert len(planted.calls) == n
    own.write_text(LAYER.format(factor=2))
    assert [measure(tmp_path, pair), measure(tmp_path, pair)] == [0, 0]
    assert len(planted.calls) == len(pairs) + 1


def test_a_measurement_that_fails_is_one_line_and_is_tried_again(tmp_path, planted, matched_cells, capsys):
    planted.code = 2
    assert measure(tmp_path, matched_cells) == 1
    said = capsys.readouterr().err
    assert said.splitlines() == [
        f"error: cost ended with exit code 2; the same command with --out_dir {tmp_path} tries it again"
    ]
    planted.code = 0
    assert measure(tmp_path, matched_cells) == 0


def test_a_killed_measurement_says_by_what(tmp_path, planted, matched_cells, capsys):
    planted.code = -signal.SIGKILL
    assert measure(tmp_path, matched_cells) == 1
    assert "cost was killed by SIGKILL" in capsys.readouterr().err


def test_an_altered_record_is_refused(tmp_path, planted, matched_cells):
    assert measure(tmp_path, matched_cells) == 0
    config = tmp_path / "speed" / "config.json"
    config.write_text(config.read_text().replace("gru", "lstm"))
    with pytest.raises(UserError, match=r"config\.json"):
        measure(tmp_path, matched_cells)


# In a comparison


def carry_out(tmp_path, monkeypatch, pair, error=None) -> int:
    """The exit code of a comparison without runs. error: what ends them."""

    def run(campaign, control, workers, board):
        if error:
            raise error

    asked, cells = pair
    monkeypatch.setattr(folder, "_run", run)
    monkeypatch.setattr(folder, "judge", lambda campaign: {"holes": [], "pairs": []})
    place = folder.Folder(str(tmp_path / "C"))
    control = dataclasses.replace(asked.control, quiet=True)
    asked = dataclasses.replace(asked, control=control)
    return folder.carry_out(place, ["--task", "parity"], asked, cells, [], 1)


def test_the_cost_comes_after_the_tables_and_ctrl_c_there_keeps_them(
    tmp_path, planted, matched_cells, monkeypatch, capsys
):
    planted.status = INTERRUPTED
    assert carry_out(tmp_path, monkeypatch, matched_cells) == 130
    assert {"results.csv", "summary.csv", "verdicts.json"} <= {p.name for p in (tmp_path / "C").iterdir()}
    assert f"continue with: python {program()} compare --task parity --out_dir" in capsys.readouterr().err
    planted.status = DONE
    assert carry_out(tmp_path, monkeypatch, matched_cells) == 0
    assert Record(tmp_path / "C" / "speed").finished
    planted.code = 2
    assert carry_out(tmp_path, monkeypatch, matched_cells) == 0  # finished, so it is not tried


def test_an_error_in_the_cost_is_exit_code_1_and_interrupted_runs_have_no_cost(
    tmp_path, planted, matched_cells, monkeypatch
):
    planted.code = 2
    assert carry_out(tmp_path, monkeypatch, matched_cells) == 1
    assert len(planted.calls) == 1
    assert carry_out(tmp_path, monkeypatch, matched_cells, KeyboardInterrupt()) == 130
    assert len(planted.calls) == 1


def test_without_the_flag_nothing_is_measured(tmp_path, planted, matched_cells, monkeypatch):
    asked, cells = matched_cells
    config = dataclasses.replace(asked.comparison.config, cost=False)
    asked = dataclasses.replace(asked, comparison=dataclasses.replace(asked.comparison, config=config))
    assert carry_out(tmp_path, monkeypatch, (asked, cells)) == 0
    assert planted.calls == []
    assert not (tmp_path / "C" / "speed").exists()
