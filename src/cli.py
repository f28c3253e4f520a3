"""The command line as data: dataclass fields -> argparse -> typed values; one line and exit code 2 for anything wrong.

Two readings. The first only looks for --task, --model, --preset and the directory flags; they decide which classes are loaded
and whether a stored configuration is used. The second knows exactly the flags of that task and model, so an unknown one is an
error with a suggestion, and `--help` shows what applies.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import typing
from dataclasses import dataclass

from src.config import SHARED, ControlConfig, UserError, field_types, own_config, parse_value, suggest

HEADLINE = """examples:
  python benchmark.py --task needle --model transformer
  python benchmark.py --task tiny_shakespeare --model gru --max_steps 500
  python benchmark.py list --task dyck

commands: train (default), list, generate; each has its own --help."""


class Parser(argparse.ArgumentParser):
    """argparse whose errors are UserErrors and which never guesses an abbreviation."""

    def __init__(self, **kwargs):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **kwargs)

    def error(self, message):
        raise UserError(message)

    def parse_strict(self, argv):
        """parse_args that names an unknown flag and the nearest known one."""
        values, extra = self.parse_known_args(argv)
        if extra:
            name = extra[0].split("=")[0]
            if not name.startswith("-"):
                raise UserError(f"unexpected argument '{name}'; flags begin with --, see --help")
            raise UserError(f"unknown flag {name} for this command, task and model{suggest(name, self._option_string_actions)}; see --help")
        return values


def add_flags(parser: argparse.ArgumentParser, config_class, title: str, defaults: dict | None = None) -> None:
    """A help group with one flag a field. Values stay text here; `read_flags` converts them."""
    group = parser.add_argument_group(title)
    types = field_types(config_class)
    for f in dataclasses.fields(config_class):
        kind, default = types[f.name], (defaults or {}).get(f.name, f.default)
        is_list = typing.get_origin(kind) is tuple
        help_text = (f.metadata.get("help") or "").replace("%", "%%") + (f" [{_show(default)}]" if default not in ("", ()) else "")
        options = {"dest": f.name, "default": argparse.SUPPRESS, "help": help_text}
        if kind is bool:
            group.add_argument(f"--{f.name}", nargs="?", const="true", metavar="BOOL", **options)
            if f.default:
                group.add_argument(f"--no_{f.name}", dest=f.name, action="store_const", const="false", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        elif f.metadata.get("choices"):
            group.add_argument(f"--{f.name}", metavar="{" + ",".join(f.metadata["choices"]) + "}", **options)
        else:
            metavar = {int: "N", float: "X"}.get(kind, "TEXT")
            many = {"nargs": "+", "action": "extend"} if is_list or f.metadata.get("paths") else {}
            group.add_argument(f"--{f.name}", metavar=metavar, **many, **options)
        for flag, value in (f.metadata.get("shorthand") or {}).items():
            group.add_argument(flag, dest=f.name, action="store_const", const=value, default=argparse.SUPPRESS, help=f"short for --{f.name} {value}")


def _show(value) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)


def read_flags(namespace, config_classes) -> dict:
    """The typed values of the flags that were given, checked against their fields."""
    values = {}
    for config_class in config_classes:
        types = field_types(config_class)
        for f in dataclasses.fields(config_class):
            if hasattr(namespace, f.name):
                values[f.name] = parse_value(f, types[f.name], getattr(namespace, f.name))
    return values


@dataclass
class Request:
    """What was asked for. explicit: typed flags of the run configuration; control: everything about the run itself."""

    explicit: dict
    control: ControlConfig
    out_dirs: list[str]
    argv: list[str]


def first_look(argv: list[str]) -> argparse.Namespace:
    """The flags that decide how the rest is read; anything else is left alone."""
    parser = Parser(add_help=False)
    for name in ("--task", "--model", "--preset"):
        parser.add_argument(name, default=None)
    parser.add_argument("--out_dir", nargs="+", action="extend", default=[])
    for name in ("--eval_only", "--vis_only", "--resume"):
        parser.add_argument(name, nargs="?", const="true", default="false")
    parser.add_argument("-h", "--help", action="store_true")
    seen, _ = parser.parse_known_args(argv)
    for name in ("eval_only", "vis_only", "resume"):
        setattr(seen, name, getattr(seen, name).lower() in ("true", "1"))
    modes = [f"--{n}" for n in ("eval_only", "vis_only", "resume") if getattr(seen, n)]
    if len(modes) > 1:
        raise UserError(f"{' and '.join(modes)} contradict each other; give one")
    return seen


def parser_for(task_class=None, model_class=None, defaults: dict | None = None) -> Parser:
    """The parser of `train` for a chosen task and model (either may be None: shared flags only)."""
    note = "" if task_class or model_class else "\nA task's and a model's own flags: --help with --task and --model.\nDefaults in brackets are those of --preset base; --preset small changes them per task."
    parser = Parser(prog="benchmark.py", description="Train, evaluate, measure and plot a small sequence model on a character-level task.\n\n" + HEADLINE + note)
    for part in (*SHARED, ControlConfig):
        add_flags(parser, part, part.__doc__, defaults)
    for kind, cls in (("task", task_class), ("model", model_class)):
        if cls is not None and own_config(cls) is not None:
            add_flags(parser, own_config(cls), f"{kind}: {cls.__name__}", defaults)
    return parser


def read_request(argv: list[str], task_class, model_class, defaults: dict | None = None) -> Request:
    """The second reading: all flags, typed and checked."""
    parser = parser_for(task_class, model_class, defaults)
    namespace = parser.parse_strict(argv)
    out_dirs = namespace.__dict__.pop("out_dir", [])
    owned = [c for c in (own_config(task_class), own_config(model_class)) if c is not None]
    explicit = read_flags(namespace, [*SHARED, *owned])
    control = ControlConfig(**read_flags(namespace, [ControlConfig]), **({"out_dir": out_dirs[0]} if out_dirs else {}))
    return Request(explicit, control, out_dirs, list(argv))


def report_error(error: Exception) -> None:
    """One line on stderr."""
    print("error: " + " ".join(str(error).split("\n")), file=sys.stderr)
