"""The flags that `speed`, `profile` and `kernels` share have one definition.

python -m pytest tests/measure/test_command_flags.py
"""

import contextlib
import dataclasses

import pytest

from src.commands import kernels, profile, speed
from src.flags.fields import UserError, field_types, option
from src.flags.groups import MachineConfig, MeasureControl, machine_flags

MACHINE = {f.name: f for f in dataclasses.fields(MachineConfig)}


def test_machine_flags_are_those_of_training_with_their_own_help():
    made = machine_flags("device", "threads", seed="seed of the inputs")
    assert [f.name for f in dataclasses.fields(made)] == ["device", "threads", "seed"]
    for f in dataclasses.fields(made):
        mine = (
            {**MACHINE[f.name].metadata, "help": "seed of the inputs"} if f.name == "seed" else MACHINE[f.name].metadata
        )
        assert (f.default, dict(f.metadata)) == (MACHINE[f.name].default, dict(mine))
        assert field_types(made)[f.name] is field_types(MachineConfig)[f.name]
    assert made(threads=2).device == "auto"


def test_a_machine_flag_may_have_its_own_default_and_choices():
    made = machine_flags(precision=option("fp32", "of inputs", choices=("fp32", "bf16")), seed=option(0, "of sampling"))
    assert (made().precision, made().seed) == ("fp32", 0)
    assert {f.name: f.metadata["choices"] for f in dataclasses.fields(made)} == {
        "precision": ("fp32", "bf16"),
        "seed": None,
    }


def test_a_machine_flag_that_training_does_not_have_is_refused():
    with pytest.raises(ValueError, match="machine_flags: got 'devise', allowed: precision, device"):
        machine_flags("devise")


@pytest.mark.parametrize("machine", [speed.SpeedMachine, kernels.KernelsMachine], ids=["speed", "kernels"])
def test_the_flags_about_the_machine_are_a_part_of_those_of_training(machine):
    fields = dataclasses.fields(machine)
    assert {"device", "threads", "precision", "seed"} <= {f.name for f in fields} <= MACHINE.keys()
    for f in fields:
        assert f.metadata["least"] == MACHINE[f.name].metadata["least"]
        assert f.metadata["most"] == MACHINE[f.name].metadata["most"]


@pytest.mark.parametrize("command", [speed, profile, kernels], ids=["speed", "profile", "kernels"])
def test_each_command_shows_the_same_control_flags(command, capsys):
    with contextlib.suppress(SystemExit):  # argparse's own --help ends the program
        command.main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for f in dataclasses.fields(MeasureControl):
        assert f.metadata["help"] in shown


@pytest.mark.parametrize("arguments", [["--validate"], ["--validate", "--quiet", "--out_dir", "x"]])
def test_the_old_spelling_of_study_is_answered_by_one_line(arguments, main, tmp_path):
    code, out, err = main("speed", *arguments)
    assert (code, out) == (2, "")
    assert err == "error: --validate is a command of its own now: python benchmark.py study\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "words"),
    [(kernels, "--vis_only: no --out_dir given; name a run of `kernels`"), (profile, "name a run of `profile`")],
    ids=["kernels", "profile"],
)
def test_vis_only_needs_a_run(command, words):
    with pytest.raises(UserError, match=words):
        command.main(["--vis_only"])
