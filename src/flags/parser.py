"""The command line as data: dataclass fields -> argparse -> typed values. Anything wrong is one line and exit code 2.

A command line is read twice. The first reading (`first_look`) looks only for --task, --model, --layers, --preset and
the directory flags. They decide which classes are loaded, and whether a stored configuration is used. The second
reading (`read_request`) knows exactly the flags of that task and model. So an unknown flag is an error with a
suggestion, and `--help` shows what applies.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from dataclasses import dataclass

from src.flags import kinds
from src.flags.fields import UserError, default_of, field_types, own_config, parse_value, suggest
from src.flags.groups import SHARED, TOKENIZERS, ControlConfig
from src.flags.own_files import absolute
from src.flags.registry import is_path
from src.flags.run_flags import config_parts

HEADLINE = """Train, evaluate, measure and plot a small sequence model on a character-level task.

examples:
  python benchmark.py --task needle --model transformer
  python benchmark.py --task tiny_shakespeare --model gru --max_steps 500
  python benchmark.py check --model my_layer.py
  python benchmark.py list --task dyck

commands: train (default), list, generate, check, speed, profile, kernels, study, compare, report, reproduce, translate,
export, import; each has its own --help."""


MODES = ("eval_only", "vis_only", "resume")  # what `train` does with an existing run
PATHS = ("data_path", "init_from", "chat_template")  # flags that name a file or a folder


class Store(argparse.Action):
    """Stores a flag's text, or `const` for a flag that takes none.

    Two different flags of one field (`--rope --pos alibi`) are an error. One flag given twice is not: the last one
    counts, so that a script can add to a line of its own.
    """

    def __call__(self, parser, namespace, values, option_string=None):
        value = self.const if self.nargs == 0 or values is None else values
        earlier = namespace.__dict__.setdefault("_set_by", {}).setdefault(self.dest, option_string)
        if earlier != option_string and getattr(namespace, self.dest) != value:
            raise UserError(f"{earlier} and {option_string} contradict each other; give one")
        setattr(namespace, self.dest, value)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are UserErrors, and which never guesses an abbreviation."""

    def __init__(self, scope: str = "for this command", **kwargs):
        """scope: what the flags belong to, in the words of an error."""
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **kwargs)
        self.scope = scope

    def error(self, message):
        raise UserError(message.removeprefix("argument "))

    def parse_strict(self, argv):
        """parse_args that names an unknown flag and the nearest known one."""
        values, extra = self.parse_known_args(argv)
        if extra:
            name = extra[0].split("=")[0]
            if not name.startswith("-"):
                raise UserError(
                    f"unexpected argument '{name}'; flags begin with --, and a value of several words needs quotes; "
                    "see --help"
                )
            raise UserError(f"unknown flag {name} {self.scope}{suggest(name, self._option_string_actions)}; see --help")
        return values


def add_flags(parser: argparse.ArgumentParser, config_class, title: str, defaults: dict | None = None) -> None:
    """Add a help group with one flag per field. Values stay text here; `read_flags` converts them.

    Raises UserError for a flag that the parser has already.
    """
    group = parser.add_argument_group(title)
    types = field_types(config_class)
    for f in dataclasses.fields(config_class):

        def add(flag: str, field=f, **options) -> None:
            if flag in parser._option_string_actions:
                raise UserError(f"flag {flag} of {config_class.__qualname__} already exists; rename the field")
            group.add_argument(flag, **{"dest": field.name, "default": argparse.SUPPRESS, **options})

        kind, default = types[f.name], (defaults or {}).get(f.name, default_of(f))
        shown = "must be given" if default is dataclasses.MISSING else kinds.as_text(default)
        text = (f.metadata.get("help") or "").replace("%", "%%") + (f" [{shown}]" if shown else "")
        choices = f.metadata.get("choices")
        if kinds.without_none(kind)[0] is bool:
            add(f"--{f.name}", action=Store, nargs="?", const="true", metavar="BOOL", help=text)
            if f.default is True:
                add(f"--no_{f.name}", action=Store, nargs=0, const="false", help=f"short for --{f.name} false")
        elif choices:
            alone = {"nargs": "?", "const": f.metadata["bare"]} if f.metadata.get("bare") else {}
            add(f"--{f.name}", action=Store, metavar="{" + ",".join(choices) + "}", help=text, **alone)
        else:
            many = kinds.is_list(kind) or f.metadata.get("paths")
            how = {"nargs": "+", "action": "extend"} if many else {"action": Store}
            add(f"--{f.name}", metavar=kinds.metavar(kind), help=text, **how)
        for flag, value in (f.metadata.get("shorthand") or {}).items():
            add(flag, action=Store, nargs=0, const=value, help=f"short for --{f.name} {value}")


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
    """What was asked for.  explicit: typed flags of the run configuration.  control: the flags about the run itself."""

    explicit: dict
    control: ControlConfig
    out_dirs: list[str]


def first_look(
    argv: list[str],
    lists: tuple[str, ...] = ("layers",),
    modes: tuple[str, ...] = MODES,
    texts: tuple[str, ...] = (),
) -> argparse.Namespace:
    """The flags that decide how the rest of the line is read. Anything else is left alone.

    --task, --model, --preset and --init_from are texts or None, --out_dir is a list of paths, --help and --allow_code
    are bools.
    lists: flags that become tuples, of words with commas or spaces between them.
    modes: flags that are on or off, and of which at most one may be on.
    texts: flags that become tuples of their words as they were typed.
    """
    parser = Parser(add_help=False)
    for name in ("task", "model", "preset", "init_from"):
        if name not in (*lists, *texts):
            parser.add_argument(f"--{name}", default=None)
    for name in ("out_dir", *lists, *texts):
        parser.add_argument(f"--{name}", nargs="+", action="extend", default=[])
    switches = (*modes, "allow_code")
    for name in switches:
        parser.add_argument(f"--{name}", nargs="?", const="true", default="false")
    parser.add_argument("-h", "--help", action="store_true")
    seen, _ = parser.parse_known_args(argv)
    for name in lists:
        setattr(seen, name, tuple(w for words in getattr(seen, name) for w in words.replace(",", " ").split()))
    for name in texts:
        setattr(seen, name, tuple(getattr(seen, name)))
    for name in switches:
        value = getattr(seen, name).lower()
        if value not in ("true", "1", "false", "0"):
            raise UserError(
                f"--{name}: got '{value}', allowed: nothing, or true or false; the run's directory goes after --out_dir"
            )
        setattr(seen, name, value in ("true", "1"))
    on = [f"--{name}" for name in modes if getattr(seen, name)]
    if len(on) > 1:
        raise UserError(f"{' and '.join(on)} contradict each other; give one")
    return seen


def parser_for(task_class=None, model_class=None, defaults: dict | None = None, layer_note: str = "") -> Parser:
    """The parser of `train` for a chosen task and model (either may be None: shared flags only).

    defaults: a preset's values, shown in place of the dataclass defaults.  layer_note: says whose values these are.
    """
    config_parts(task_class, model_class)  # a user's flag that exists already
    own = (
        [] if task_class and model_class else ["", "A task's and a model's own flags: --help with --task and --model."]
    )
    layer = (
        ["Defaults in brackets are those of --preset base; --preset small changes them per task."]
        if defaults is None
        else [layer_note]
    )
    parser = Parser(
        prog="benchmark.py",
        usage="python benchmark.py [COMMAND] [--flag value ...]",
        description="\n".join([HEADLINE, *own, *layer]),
    )
    for part in (*SHARED, ControlConfig):
        add_flags(parser, part, part.__doc__, defaults)
    for kind, cls in (("task", task_class), ("model", model_class)):
        if cls is not None and own_config(cls) is not None:
            add_flags(parser, own_config(cls), f"{kind} {cls.__name__}", defaults)
    return parser


def read_request(argv: list[str], task_class, model_class) -> Request:
    """The second reading: all flags, typed and checked."""
    parser = parser_for(task_class, model_class)
    parser.scope = "for this task and model"
    namespace = parser.parse_strict(argv)
    out_dirs = namespace.__dict__.pop("out_dir", [])
    if "" in out_dirs:
        raise UserError("--out_dir: got '', allowed: a folder; leave the flag out for runs/<timestamp>")
    owned = [c for c in (own_config(task_class), own_config(model_class)) if c is not None]
    explicit = read_flags(namespace, [*SHARED, *owned])
    for name in ("task", "model", "tokenizer", *PATHS):  # whole paths: the run is continued from any folder
        if explicit.get(name) and _names_path(name, explicit[name]):
            explicit[name] = str(absolute(explicit[name]))
    control = ControlConfig(**read_flags(namespace, [ControlConfig]), **({"out_dir": out_dirs[0]} if out_dirs else {}))
    if control.seeds_at_once > 1 and (mode := next((m for m in MODES if getattr(control, m)), "")):
        raise UserError(f"--seeds_at_once: only goes with new runs, not with --{mode}, which takes one seed at a time")
    return Request(explicit, control, out_dirs)


def _names_path(name: str, value: str) -> bool:
    if name == "tokenizer":
        return value not in TOKENIZERS
    return name in PATHS or is_path(value)


def report_error(error: Exception) -> None:
    """One line on stderr."""
    print("error: " + " ".join(str(error).split("\n")), file=sys.stderr)


def config_of(config_class, given: dict):
    """A config made of those given values that are its own."""
    return config_class(**{f.name: given[f.name] for f in dataclasses.fields(config_class) if f.name in given})
