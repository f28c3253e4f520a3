"""What a command line of `compare` asks for: its own flags, the sides, and the flags of `train` that all runs share.

    asked = read(argv)              # UserError where it is wrong; --help is the caller's
    asked.comparison                # what the folder stores: sides, settings, seeds, rates
    asked.control                   # where it runs: --out_dir, --engine, --workers, ...

Flags that `compare` does not have are flags of `train`, the same for every run. Whether they fit each task and model is
checked by src/study/comparison/cells.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from src.flags.fields import UserError, option, own_config, suggest
from src.flags.groups import SHARED, ControlConfig, MachineConfig, ModelConfig, TrainConfig
from src.flags.parser import Parser, add_flags, read_flags
from src.flags.presets import PRESETS
from src.setup.classes import find_model, find_task
from src.setup.plan import plan
from src.setup.sides import Setting, Side, read_settings, read_sides
from src.study.comparison.variants import with_variants

LISTS = {
    "task": "tasks: names from `list` or paths to your own .py files, with commas; one with flags of its own in quotes",
    "preset": "presets from `list --presets`, each with its own task; `small` and `base` go with --task",
    "model": 'models, the first one is the baseline; one with flags of its own in quotes: "deltanet --neg_eigen"',
    "set": "FLAG=VALUE,VALUE: every model once with each value; several flags give every combination",
}
# Flags of `train` that decide which data a run sees. A model cannot have them for itself, because all models of a seed
# see the same examples.
ONE_FOR_ALL = ("lr", "lr_tried", "init_from", "epochs", "max_steps", "batch_size", "batch_chars")
NOT_HERE = {
    "lr_tried": "the comparison records its own rates",
    "init_from": "layers are compared from fresh weights of each seed",
    "resume": "the same command continues a comparison",
    "eval_only": "each run of a comparison is an ordinary run, in DIR/runs",
    "vis_only": "`report DIR` makes the page anew",
    "figures": "`report DIR` makes the page anew",
    "log": "each run of a comparison is an ordinary run, in DIR/runs",
    "allow_code": "a comparison runs the code that its files have now",
}


@dataclass(frozen=True)
class CompareConfig:
    """the comparison"""

    seeds: int = option(3, "fresh seeds of each model at its chosen learning rate", least=1, most=1000)
    seed: int = option(11, "the first of the fresh seeds; the others follow it", least=0, most=2**31 - 1001)
    tuning_seed: int = option(
        1, "seed of the runs that choose the learning rate; never reported", least=0, most=2**31 - 1
    )
    lr: tuple[float, ...] = option(
        (), "learning rates to choose from; default three, half a decade apart, around the preset's; one = no choice"
    )
    lr_extend: int = option(
        2,
        "times that the rates grow by one where the best of any model is the smallest or the largest",
        least=0,
        most=9,
    )
    match_params: str = option(
        "first",
        "layers with as many parameters as the first model's; none = as given; or a count (250k) or a model's name",
    )
    fair: str = option(
        "no",
        "no = each layer as published; yes = all in the same block; both = two tables; without a value: yes",
        choices=("no", "yes", "both"),
        bare="yes",
    )
    variants: bool = option(False, "add known variants that change the answer, such as --neg_eigen for parity")
    solved_at: float = option(0.95, "score from which a run counts as solved", above=0.0, most=1.0)
    margin: float = option(
        0.0,
        "score differences below this count as equivalent, if the data show it; 0 = never say so",
        least=0.0,
        below=1.0,
    )
    claim: str = option(
        "differs",
        "what the verdicts test against the first model: differs, or better, if only an improvement counts",
        choices=("differs", "better"),
    )
    budget: str = option("", "45m, 2h, 90s: fewer extensions, seeds and steps, until the plan takes no longer; said")
    cost: bool = option(False, "afterwards measure the speed of the same models, alone on the machine")


@dataclass(frozen=True)
class CompareControl:
    """where it runs"""

    out_dir: str = option("", "folder of the comparison; default runs/<timestamp>; an existing one is continued")
    reuse: tuple[str, ...] = option(
        (), "folders of other comparisons, whose finished runs are used where they are equal"
    )
    plan: bool = option(False, "print the plan and stop: runs, equal terms, expected time")
    engine: str = option("local", "local: processes of this machine; ray: a Ray cluster", choices=("local", "ray"))
    ray_address: str = option(
        "", "with --engine ray: the cluster to use (auto, HOST:PORT); default: one is started here"
    )
    workers: int = option(0, "runs at the same time; 0 = as many as cores, divided by --threads", least=0, most=4096)
    threads: int = option(1, "CPU threads of each run", least=1, most=1024)
    seeds_at_once: int = option(
        1, "fresh seeds of a cell that one run trains as one batched model, for a GPU; 1 = one each", least=1, most=64
    )
    timeout: float = option(0.0, "minutes after which a run is stopped and reported as a hole; 0 = never", least=0.0)
    quiet: bool = option(False, "no progress and no tables, only the folder of the comparison")


PARTS = (CompareConfig, CompareControl)


@dataclass(frozen=True)
class Comparison:
    """What is compared. It is all that decides the tables.

    tasks: tasks or presets.  models: the first one is the baseline.  common: words of `train` for every run.
    steps_share: the share of each task's steps that --budget left, 1 without it.
    """

    tasks: tuple[Side, ...]
    models: tuple[Side, ...]
    settings: tuple[Setting, ...]
    common: tuple[str, ...]
    config: CompareConfig
    threads: int = 1
    steps_share: float = 1.0

    @property
    def seeds(self) -> tuple[int, ...]:
        """The fresh seeds."""
        return tuple(range(self.config.seed, self.config.seed + self.config.seeds))

    def settings_json(self) -> dict:
        """What config.json stores."""
        return {
            "tasks": [{"label": s.label, "words": list(s.words)} for s in self.tasks],
            "models": [{"label": s.label, "words": list(s.words), "file": s.is_file} for s in self.models],
            "settings": [{"label": s.label, "words": list(s.words)} for s in self.settings],
            "common": list(self.common),
            "seeds": list(self.seeds),
            "threads": self.threads,
            "steps_share": self.steps_share,
            **{
                name: list(value) if isinstance(value, tuple) else value
                for name, value in dataclasses.asdict(self.config).items()
                if name not in ("seeds", "budget")
            },
        }


@dataclass(frozen=True)
class Asked:
    """A command line, read.

    classes: {label of a model: its class}.  tasks: {name of a task: whether it is tested beyond training}.
    """

    comparison: Comparison
    control: CompareControl
    classes: dict[str, type]
    tasks: dict[str, bool]


def parser(description: str) -> Parser:
    """The parser of `compare`. What it does not know is left for `train`."""
    made = Parser(prog="benchmark.py compare", description=description, scope="for `compare`")
    group = made.add_argument_group("what is compared")
    for name, text in LISTS.items():
        group.add_argument(f"--{name}", nargs="+", action="extend", default=[], metavar="NAME", help=text)
    for part in PARTS:
        add_flags(made, part, part.__doc__)
    return made


def read(argv: Sequence[str], description: str = "") -> Asked:
    """The comparison that a command line asks for. UserError where it is wrong, as far as it can be read."""
    made = parser(description)
    values, common = made.parse_known_args(argv)
    sides = {name: read_sides(name, getattr(values, name)) for name in LISTS if name != "set"}
    given = read_flags(values, PARTS)
    config, control = (
        part(**{f.name: given[f.name] for f in dataclasses.fields(part) if f.name in given}) for part in PARTS
    )
    if not sides["model"]:
        raise UserError(
            "compare: no --model given, allowed: two or more, such as --model transformer,mamba,my_layer.py"
        )
    _check_numbers(config)
    classes = {side.label: find_model(side.name, _layers(side.flags)) for side in sides["model"]}
    tasks, common = _tasks(sides, common)
    settings = read_settings(values.set, config.fair)
    _check_decided(tasks, values.set)
    _check_common(common, [find_task(_task_name(side)) for side in tasks], classes.values(), made)
    for side in sides["model"]:
        _check_own(side, classes[side.label], settings)
    names = {_task_name(side): _is_tested_beyond(side, sides["model"][0], common) for side in tasks}
    models = with_variants(names, sides["model"], classes) if config.variants else sides["model"]
    comparison = Comparison(tasks, models, settings, tuple(common), config, control.threads)
    return Asked(comparison, control, classes, names)


def _check_numbers(config: CompareConfig) -> None:
    fresh = range(config.seed, config.seed + config.seeds)
    if config.tuning_seed in fresh:
        raise UserError(
            f"--tuning_seed: got {config.tuning_seed}, which is one of the fresh seeds {fresh[0]} .. {fresh[-1]}; "
            "choose another, so that no reported run decided about its own learning rate"
        )
    for rate in config.lr:
        if not 0 < rate <= 100:
            raise UserError(f"--lr: got {rate:g}, allowed: numbers above 0, up to 100")
    if len(set(config.lr)) < len(config.lr):
        raise UserError(f"--lr: got {', '.join(f'{r:g}' for r in config.lr)}, allowed: rates that differ")


def _tasks(sides: dict[str, tuple[Side, ...]], common: list[str]) -> tuple[tuple[Side, ...], list[str]]:
    """The tasks, then the presets that have one; and the common words, with `small` or `base` before them."""
    general = [side for side in sides["preset"] if side.name in PRESETS and not PRESETS[side.name].task]
    for side in sides["preset"]:
        if side.name not in PRESETS:
            raise UserError(
                f"--preset: got '{side.name}', allowed: a name from `list --presets`{suggest(side.name, PRESETS)}"
            )
    if len(general) > 1:
        raise UserError("--preset: got small and base, allowed: one of the two; --set changes single flags")
    tasks = (*sides["task"], *(side for side in sides["preset"] if side not in general))
    if not tasks:
        raise UserError(
            "compare: no --task and no --preset given, allowed: tasks such as --task recall,copy,parity, or a preset "
            "that has its own task"
        )
    return tasks, [*(word for side in general for word in side.words), *common]


def _task_name(side: Side) -> str:
    return PRESETS[side.name].task if side.kind == "preset" else side.name


def _is_tested_beyond(task: Side, model: Side, common: Sequence[str]) -> bool:
    """Whether a task is tested at lengths beyond training."""
    setup, _ = plan([*common, *task.words, *model.words])
    return bool(beyond_training(setup.task_class(setup.args), setup.args.eval_lengths))


def beyond_training(task, eval_lengths: Sequence[str]) -> list[int]:
    """Those of --eval_lengths that are longer than what the task trains on."""
    from dataset.loaders import parse_lengths  # it imports torch, and --help must answer at once

    longest = max(task.lengths or (0,))
    return [n for n in parse_lengths(task, eval_lengths) if n > longest]


def _layers(flags: Sequence[str]) -> tuple[str, ...]:
    from src.flags.parser import first_look

    return first_look(list(flags)).layers


def _names(words: Sequence[str]) -> list[str]:
    """The flags among words, without dashes, values and `no_`."""
    return [word.split("=")[0].removeprefix("--") for word in words if word.startswith("--")]


def _check_common(common: Sequence[str], tasks: Sequence[type], models, made: Parser) -> None:
    """UserError for words that are no flag of `train`, a task or a model, and for those that mean nothing here."""
    if common and not common[0].startswith("-"):
        raise UserError(
            f"unexpected argument '{common[0]}'; flags begin with --, and a model with flags of its own needs quotes: "
            '--model "deltanet --neg_eigen" gru'
        )
    own = [c for c in map(own_config, (*tasks, *models)) if c is not None]
    known = {f.name for part in (*SHARED, ControlConfig, *own) for f in dataclasses.fields(part)}
    known |= {
        flag.removeprefix("--")
        for part in (*SHARED, *own)
        for f in dataclasses.fields(part)
        for flag in f.metadata.get("shorthand", {})
    }
    known |= {f"no_{f.name}" for part in (*SHARED, *own) for f in dataclasses.fields(part) if f.default is True}
    for name in _names(common):
        if name in NOT_HERE:
            raise UserError(f"--{name}: means nothing for `compare`: {NOT_HERE[name]}; leave it out")
        if name not in known:
            flags = [*made._option_string_actions, *(f"--{n}" for n in known)]
            raise UserError(f"unknown flag --{name} for `compare` and `train`{suggest(f'--{name}', flags)}; see --help")


def _check_decided(tasks: Sequence[Side], settings: Sequence[str]) -> None:
    """UserError for a flag in the quotes of a task, or in --set, that the comparison decides for all runs."""
    decided = {f.name for part in (*PARTS, ControlConfig) for f in dataclasses.fields(part)} | {*LISTS, *NOT_HERE}
    found = [(f"--{side.kind}: '{side.label}' has --{name}", name) for side in tasks for name in _names(side.flags)]
    set_names = [text.partition("=")[0].removeprefix("--") for text in settings]
    for where, name in (*found, *((f"--set: got {name}", name) for name in set_names)):
        if name in decided:
            how = f"{NOT_HERE[name]}; leave it out" if name in NOT_HERE else f"give --{name} of its own"
            raise UserError(f"{where}, which `compare` decides for all runs; {how}")


def _check_own(side: Side, model_class: type, settings: Sequence[Setting]) -> None:
    """UserError for flags of one model that would give it other data, another machine, or that --set changes."""
    own = own_config(model_class)
    parts = (ModelConfig, TrainConfig, *((own,) if own else ()))
    allowed = {f.name for part in parts for f in dataclasses.fields(part)} - set(ONE_FOR_ALL) - {"model", "fair"}
    reader = Parser(prog="", scope=f"of model {side.name}")
    for part in parts:
        add_flags(reader, part, "")
    typed = read_flags(reader.parse_strict(list(side.flags)), parts)
    machine = {f.name for f in dataclasses.fields(MachineConfig)}
    for name in typed:
        if name not in allowed or name in machine:
            advice = "--fair goes with the whole comparison" if name == "fair" else "give it outside the quotes"
            raise UserError(
                f"--model: '{side.label}' has --{name}, which must be the same for all models of a comparison; {advice}"
            )
    for setting in settings:
        for name, _ in setting.flags:
            if name in typed:
                raise UserError(f"--set: got {name}, which '{side.label}' sets for itself; give it in one place")
