"""The types of a user's own flags: Optional, list, tuple, Literal, Enum, bool, and one line about any other.

python -m pytest tests/flags/test_kinds.py
"""

import json
import re
from dataclasses import dataclass

import pytest
from conftest import TINY

from dataset.needle import Needle
from src.figures import runs as run_figures
from src.flags.fields import UserError, field_types
from src.flags.own_files import hosted
from src.flags.run_flags import resolve, to_dict
from src.setup.classes import find_model

LAYER = """from __future__ import annotations
import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, List, Literal, Optional
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Tuple
from torch import nn
from src.models.base import Mixer

class Gate(enum.Enum):
    SIGMOID = "sigmoid"
    TANH = "tanh"

class Size(enum.IntEnum):
    Small = 1
    Large = 2

class Layer(Mixer):
    @dataclass(frozen=True)
    class Config:
        {fields}

    def __init__(self, args):
        super().__init__()
        self.l = nn.Linear(args.d_model, args.d_model)

    def forward(self, x):
        return self.l(x)
"""


def load(tmp_path, fields: str):
    """The class of a layer with these fields in its Config."""
    path = tmp_path / "layer.py"
    path.write_text(LAYER.replace("{fields}", fields))
    with hosted():
        found = find_model(str(path))
        if found.Config.__annotations__:
            field_types(found.Config)  # while its module is there
        return found


@pytest.fixture
def parse(tmp_path, main):
    """parse("k: int = 1", "--k", "4"): the value of args.k, written to JSON and read again."""

    def call(field: str, *words):
        from src.flags.parser import read_request

        model_class = load(tmp_path, field)
        given = read_request(["--task", "needle", "--model", "m", *words], Needle, model_class).explicit
        args = resolve(Needle, model_class, **given)
        name = field.split(":")[0]
        stored = json.loads(json.dumps(to_dict(args)))[name]
        again = getattr(resolve(Needle, model_class, **{name: stored}), name)
        value = getattr(args, name)
        assert (again, type(again)) == (value, type(value))
        return value

    return call


GIVEN = {
    "int | None": ("k: int | None = None", "4", 4),
    "int | None, none": ("k: int | None = 3", "none", None),
    "Optional[float]": ("k: Optional[float] = None", "4", 4.0),
    "bool | None": ("k: bool | None = None", "false", False),
    "str | None": ("k: str | None = None", "a", "a"),
    "list[int]": ("k: list[int] = field(default_factory=list)", "1,2 3", [1, 2, 3]),
    "List[float]": ("k: List[float] = field(default_factory=list)", "1,2", [1.0, 2.0]),
    "list[int] | None": ("k: list[int] | None = None", "1,2", [1, 2]),
    "tuple[int, ...]": ("k: tuple[int, ...] = ()", "1,2", (1, 2)),
    "tuple[int, str]": ("k: tuple[int, str] = (1, 'a')", "2,b", (2, "b")),
    "Tuple, of TYPE_CHECKING": ("k: Tuple[int, ...] = ()", "1,2", (1, 2)),
    "Literal": ("k: Literal['relu', 'gelu'] = 'relu'", "gelu", "gelu"),
    "Literal of numbers": ("k: Literal[1, 2, 4] = 1", "4", 4),
    "Literal and None": ("k: Literal['relu', None] = None", "none", None),
    "list of Literal": ("k: list[Literal['a', 'b']] = field(default_factory=list)", "b,a", ["b", "a"]),
    "bool": ("k: bool = False", "true", True),
    "no default": ("k: int", "4", 4),
    "annotated": ("k: Annotated[int, 'width'] = 1", "4", 4),
}


@pytest.mark.parametrize(("field", "text", "value"), GIVEN.values(), ids=GIVEN)
def test_a_typed_value_has_the_type_of_its_field(parse, field, text, value):
    found = parse(field, "--k", *text.split())
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("field", "text", "name"),
    [
        ("k: Gate = Gate.TANH", "sigmoid", "SIGMOID"),
        ("k: Gate = 'tanh'", "SIGMOID", None),
        ("k: Size = Size.Small", "Large", "Large"),
        ("k: Size | None = None", "large", "Large"),
    ],
)
def test_an_enum_is_typed_by_its_text_or_name(parse, field, text, name):
    if name is None:
        with pytest.raises(UserError, match="--k: got 'SIGMOID', allowed: sigmoid, tanh"):
            parse(field, "--k", text)
    else:
        assert parse(field, "--k", text).name == name


DEFAULTS = {
    "none": ("k: int | None = None", None),
    "a list": ("k: list[int] = field(default_factory=lambda: [1, 2])", [1, 2]),
    "a number that is none": ("k: float = None", None),
    "on": ("k: bool = True", True),
}


@pytest.mark.parametrize(("field", "value"), DEFAULTS.values(), ids=DEFAULTS)
def test_a_default_is_the_value_without_the_flag(parse, field, value):
    assert parse(field) == value


WRONG = {
    "a word for a number or none": (
        "k: int | None = None",
        "four",
        "--k: got 'four', allowed: a whole number, or none",
    ),
    "not of the Literal": (
        "k: Literal['relu', 'gelu'] = 'relu'",
        "gelo",
        "--k: got 'gelo', allowed: relu, gelu; did you mean 'gelu'?",
    ),
    "not of the Enum": ("k: Size = Size.Small", "medium", "--k: got 'medium', allowed: Small, Large"),
    "a word in a list of numbers": (
        "k: list[int] = field(default_factory=list)",
        "1,x",
        "--k: got 'x', allowed: a whole",
    ),
    "too many for a pair": ("k: tuple[int, int] = (1, 2)", "1,2,3", "--k: got 3 values, allowed: 2"),
    "missing": ("k: int", "", "--k: missing, Layer.Config has no default for it; give it a value"),
}


@pytest.mark.parametrize(("field", "text", "told"), WRONG.values(), ids=WRONG)
def test_a_wrong_value_is_told_with_what_is_allowed(parse, field, text, told):
    with pytest.raises(UserError, match=re.escape(told)):
        parse(field, *(["--k", text] if text else []))


UNKNOWN = {
    "dict": ("k: dict = None", "got the type dict, allowed: int, float, bool, str, Literal"),
    "bare list": ("k: list = None", "got the type list, allowed"),
    "a list of lists": ("k: list[list[int]] = None", "got the type list[list[int]], allowed"),
    "two types": ("k: int | str = 1", "got the type int | str, allowed"),
    "a callable of TYPE_CHECKING": ("k: Callable = None", "'Callable' cannot be read|got the type .*Callable"),
    "a name that is nowhere": ("k: Widht = None", "its type 'Widht' cannot be read (NameError: name 'Widht'"),
    "a module": ("k: nn.Module = None", "got the type Module, allowed"),
}
COMMANDS = {
    "train": [*TINY, "--task", "needle"],
    "check": ["check", "--quiet"],
    "help": ["--help"],
    "list": ["list"],
    "speed": ["speed", "--lengths", "16", "--panel", "train"],
}


@pytest.mark.parametrize("command", [pytest.param(c, marks=[] if c == "check" else pytest.mark.slow) for c in COMMANDS])
@pytest.mark.parametrize("case", UNKNOWN)
def test_an_unknown_type_is_one_line_that_names_the_field(main, tmp_path, command, case):
    field, told = UNKNOWN[case]
    (tmp_path / "layer.py").write_text(LAYER.replace("{fields}", field))
    answer = main(*COMMANDS[command], "--model", "layer.py")
    assert "field 'k' of Layer.Config: " in answer[2]
    if case != "a callable of TYPE_CHECKING":  # `typing` knows the name
        told = re.escape(told)
    assert re.search(told, answer[2]), answer[2]
    assert (answer[0], answer[2].count("\n")) == (2, 1)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("field", ["d_model: int = 3", "seed: int = 1", "no_bias: bool = False", "help: int = 1"])
def test_a_flag_that_exists_is_one_line_in_every_command(main, tmp_path, command, field):
    (tmp_path / "layer.py").write_text(LAYER.replace("{fields}", field))
    code, _, err = main(*COMMANDS[command], "--model", "layer.py")
    if (command, field.split(":")[0]) in {("list", "no_bias"), ("list", "help")}:
        pytest.skip("`list` shows the flags of the file alone")
    assert (code, err.count("\n")) == (2, 1), err
    assert re.search(rf"flag --{field.split(':')[0]} of .* already exists.*; rename the field", err), err


def test_a_config_that_is_no_dataclass_is_told(main, tmp_path):
    text = LAYER.replace("{fields}", "k: int = 1").replace("    @dataclass(frozen=True)\n", "")
    (tmp_path / "layer.py").write_text(text)
    code, _, err = main("check", "--model", "layer.py")
    assert (code, err) == (2, "error: Layer.Config: is not a dataclass, so it has no flags; put @dataclass above it\n")


def test_a_run_with_such_flags_is_trained_and_opened_again(main, tmp_path, monkeypatch):
    """Through config.json, --help, the listing and `speed`."""
    monkeypatch.setattr(run_figures, "draw_all", lambda document, folder: [])
    fields = [
        "k: int",
        "w: int | None = None",
        "sizes: list[int] = field(default_factory=lambda: [1])",
        "gate: Gate = Gate.TANH",
        "size: Size = Size.Small",
        "act: Literal['relu', 'gelu'] = 'relu'",
    ]
    (tmp_path / "layer.py").write_text(LAYER.replace("{fields}", "\n        ".join(fields)))
    mine = ["--model", "layer.py", "--k", "4", "--w", "5", "--sizes", "2", "3", "--gate", "sigmoid", "--size", "Large"]
    small = [*TINY, "--max_steps", "2", "--val_size", "4", "--test_size", "4", "--task", "needle"]
    assert main(*small, *mine, "--out_dir", "R")[:2] == (0, "R\n")
    args = json.loads((tmp_path / "R/metrics.json").read_text())["args"]
    assert {name: args[name] for name in ("k", "w", "sizes", "gate", "size", "act")} == {
        "k": 4,
        "w": 5,
        "sizes": [2, 3],
        "gate": "sigmoid",
        "size": "Large",
        "act": "relu",
    }
    assert main("--resume", "--out_dir", "R", *mine)[0] == 0
    assert main("--eval_only", "--out_dir", "R", "--gate", "sigmoid")[0] == 0
    assert "--gate: got tanh, but the run has sigmoid" in main("--eval_only", "--out_dir", "R", "--gate", "tanh")[2]
    shown = main("--help", "--model", "layer.py")[1]
    for line in (r"--k N +\[must be given\]", r"--w N +\[none\]", r"--gate {sigmoid,tanh}", r"--act {relu,gelu}"):
        assert re.search(line, shown), shown
    assert re.search(r"--sizes TEXT \[TEXT \.\.\.\]\s+\[1\]", main("list", "--model", "layer.py")[1])


@dataclass
class Unfrozen:
    k: int = 1


def test_a_config_need_not_be_frozen():
    assert resolve(type("T", (), {"Config": Unfrozen}), preset={}, k=2).k == 2
