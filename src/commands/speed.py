"""`benchmark.py speed`: what each layer costs to train and to decode, and how the cost grows, measured on this machine.

    python benchmark.py speed --model transformer,mamba,gla,gated_deltanet
    python benchmark.py speed --model transformer,my_layer.py --panel train,decode --lengths 128,512,2048 --match_params 1M
    python benchmark.py speed --validate --model transformer,linear_attention
    python benchmark.py speed --vis_only --out_dir runs/<timestamp>

Four panels, all or those of --panel: `train` (step time, tokens a second and peak memory by length, at a constant number of tokens a step), `memory`
(one layer: bytes kept for the backward pass, and peak), `decode` (prefill, time a token and state by position) and `scaling` (1M to 30M
parameters). Exponents and crossovers with 95 % intervals; every number with its backend, threads and versions. Ctrl-C keeps what was measured, and
the same command with --out_dir goes on. Results: results.csv, results.jsonl, history.json and figures/ in the run directory.

`--validate` is the whole study: short trainings at equal parameters, the panels, a profile, and a verdict for each claim of the linear-attention
literature. It has few flags: see `speed --validate --help`.

Every cell is repeated until the interval of its median is within 5 %, or --cell_seconds are spent, 3 times at least; the models take turns.
Positions: a layer published with a learned table gets sinusoids here, unless --pos learned is given; --pos rope
and alibi concern the layers that have them. --backend, and the flags that only some of the models have, likewise.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass

from src.cli import Parser, add_flags, read_flags
from src.config import ModelConfig, UserError, field_types, option, own_config, suggest
from src.suites.subjects import DEFAULTS

KIND = "speed"
VALIDATE_HELP = """`benchmark.py speed --validate`: one study of what a layer gains in speed and memory, and what it costs in quality.

    python benchmark.py speed --validate
    python benchmark.py speed --validate --model transformer,linear_attention,gla --train_steps 2000 --out_dir runs/study
    python benchmark.py speed --validate --vis_only --out_dir runs/study

In this order, each a command of its own below the study's folder: short trainings on Tiny Shakespeare, recall and copy (--preset small, as many
parameters as the baseline has), the panels of `speed`, a profile of each model. Then tables (tables.md) and the verdicts: is training faster, and from
which length; does memory grow as O(T); is decoding state constant; what do perplexity and recall pay for it. The baseline is the transformer where it is
among the models, else the first. The defaults, two models and 800 steps, are meant for at most 15 minutes on two cores. Ctrl-C keeps what was measured
and the same command with --out_dir goes on; finished parts are verified and not repeated.
"""
PANELS = ("train", "memory", "decode", "scaling")
SHORTEST, LONGEST = 16, 1 << 20
DECODE_STEPS = 64  # rows of a learned position table beyond the longest prompt


@dataclass(frozen=True)
class SpeedConfig:
    """what is measured"""

    model: tuple[str, ...] = option(("transformer", "mamba", "gla", "gated_deltanet"), "names from `list`, or paths to your own .py files")
    panel: tuple[str, ...] = option(PANELS, "train, memory, decode, scaling")
    lengths: tuple[int, ...] = option((128, 256, 512, 1024, 2048, 4096, 8192), "tokens of a sequence; of decode the positions")
    batch_tokens: int = option(8192, "train: tokens an optimiser step, at every length", least=SHORTEST, most=1 << 24)
    decode_batches: tuple[int, ...] = option((1, 32), "decode: sequences side by side")
    sizes: tuple[str, ...] = option(("1M", "3M", "10M", "30M"), "scaling: parameters")
    scaling_len: int = option(512, "scaling: tokens of a sequence", least=SHORTEST, most=LONGEST)
    scaling_tokens: int = option(1024, "scaling: tokens a step", least=SHORTEST, most=1 << 24)
    cell_seconds: float = option(5.0, "seconds that one model may be repeated at one point; below 3 repeats it goes on", above=0.0, most=3600.0)

    def sizes_as_numbers(self) -> tuple[int, ...]:
        """--sizes as parameters, rising."""
        from src.models.match import read_target

        return tuple(sorted({read_target(text, _no_name) for text in self.sizes}))


@dataclass(frozen=True)
class SpeedMachine:
    """run"""

    precision: str = option("auto", "auto = bf16 where the device is fast at it, else fp32", choices=("auto", "fp32", "fp16", "bf16"))
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    threads: int = option(0, "CPU threads; 0 = torch's choice", least=0, most=1024)
    compile: bool = option(False, "torch.compile the model where it trains (not the lone mixer of `memory`, nor decoding)")
    backend: str = option("auto", "kernels: auto, NAME for all ops that have it, or op=NAME,...")
    seed: int = option(1337, "seed of weights, tokens and bootstraps", least=0, most=2**31 - 1)


@dataclass(frozen=True)
class SpeedControl:
    """control"""

    validate: bool = option(False, "the whole study with a verdict for each claim; its flags: speed --validate --help")
    out_dir: str = option("", "run directory; default runs/<timestamp>; one with the same flags is continued")
    overwrite: bool = option(False, "replace the results in --out_dir")
    vis_only: bool = option(False, "redraw the figures of --out_dir and print its tables, without torch")
    quiet: bool = option(False, "no progress and no tables, only the run directory")


@dataclass(frozen=True)
class ValidateConfig:
    """the study"""

    model: tuple[str, ...] = option(("transformer", "linear_attention"), "names from `list`, or paths to your own .py files")
    lengths: tuple[int, ...] = option((128, 256, 512, 1024, 2048, 4096), "panels: tokens of a sequence; of decode the positions")
    train_steps: int = option(800, "optimiser steps of each training", least=1, most=10_000_000)
    cell_seconds: float = option(3.0, "panels: seconds that one model may be repeated at one point; below 3 repeats it goes on", above=0.0, most=3600.0)


@dataclass(frozen=True)
class ValidateMachine:
    """run"""

    precision: str = option("auto", "auto = bf16 where the device is fast at it, else fp32", choices=("auto", "fp32", "fp16", "bf16"))
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    threads: int = option(0, "CPU threads; 0 = torch's choice", least=0, most=1024)
    seed: int = option(1337, "seed of weights, data and order, the same for every training", least=0, most=2**31 - 1)


def _no_name(text: str) -> int:
    raise UserError(f"--sizes: got '{text}', allowed: counts such as 250000, 250k or 1.5M")


def model_flags():
    """ModelConfig without what `speed` has in its own way."""
    types = field_types(ModelConfig)
    kept = [(f.name, types[f.name], dataclasses.field(default=f.default, metadata=f.metadata)) for f in dataclasses.fields(ModelConfig)
            if f.name not in ("model", "match_state")]
    made = dataclasses.make_dataclass("ModelFlags", kept, frozen=True, namespace={"__module__": __name__})
    made.__doc__ = "model (shared by all that are named)"
    return made


def union(classes: dict[str, type]):
    """The own flags of all the models, one that several have once; None where there are none. UserError where one collides with a flag of `speed`."""
    taken = {f.name for part in (SpeedConfig, SpeedMachine, SpeedControl, model_flags()) for f in dataclasses.fields(part)}
    fields: dict[str, tuple] = {}
    for name, config in ((n, own_config(c)) for n, c in classes.items()):
        if config is None:
            continue
        types = field_types(config)
        for f in dataclasses.fields(config):
            if f.name in taken:
                raise UserError(f"flag --{f.name} of {name} already exists in `speed`; rename the field")
            fields.setdefault(f.name, (f.name, types[f.name], dataclasses.field(default=f.default, metadata=f.metadata)))
    return dataclasses.make_dataclass("OwnFlags", fields.values(), frozen=True, namespace={"__module__": __name__}) if fields else None


def main(argv: list[str]) -> int:
    seen = first_look(argv)
    if seen.validate:
        return validate(argv, seen)
    if seen.vis_only and not seen.help:
        return redraw(argv)
    classes = None
    if seen.models or not seen.help:
        from src.suites.subjects import load_classes

        classes = load_classes(seen.models or SpeedConfig().model, seen.layers)
    parser, parts = parser_for(classes)
    if seen.help:
        parser.print_help()
        return 0
    given = read_flags(parser.parse_strict(argv), parts)
    return measure(argv, classes, given)


def first_look(argv: list[str]):
    """--model, --layers, --help, --vis_only and --validate; the rest of the line is read when the models are known."""
    parser = Parser(add_help=False)
    for name in ("--model", "--layers"):
        parser.add_argument(name, nargs="+", action="extend", default=[])
    for name in ("--vis_only", "--validate"):
        parser.add_argument(name, nargs="?", const="true", default="false")
    parser.add_argument("-h", "--help", action="store_true")
    seen, _ = parser.parse_known_args(argv)
    seen.models, seen.layers = (tuple(n for words in given for n in words.replace(",", " ").split()) for given in (seen.model, seen.layers))
    seen.vis_only, seen.validate = (value.lower() in ("true", "1") for value in (seen.vis_only, seen.validate))
    return seen


def parser_for(classes: dict[str, type] | None):
    """The parser, and the dataclasses whose fields are its flags."""
    parser = Parser(prog="benchmark.py speed", description=__doc__, scope="for `speed` and these models")
    shared = model_flags()
    parts = [SpeedConfig, shared, SpeedMachine, SpeedControl]
    for part in parts:
        add_flags(parser, part, part.__doc__, DEFAULTS if part is shared else None)
    own = union(classes) if classes else None
    if own is not None:
        add_flags(parser, own, f"own flags of {', '.join(classes)}")
        parts.append(own)
    return parser, parts


def split(config_class, given: dict):
    """A config made of those given values that are its own."""
    return config_class(**{f.name: given[f.name] for f in dataclasses.fields(config_class) if f.name in given})


def checked(config: SpeedConfig) -> SpeedConfig:
    """The config with its lists in order and without repeats; UserError for a value that means nothing."""
    for name in config.panel:
        if name not in PANELS:
            raise UserError(f"--panel: unknown panel '{name}', allowed: {', '.join(PANELS)}{suggest(name, PANELS)}")
    for flag, values, least, most in (("lengths", config.lengths, SHORTEST, LONGEST), ("decode_batches", config.decode_batches, 1, 1 << 16)):
        if not values:
            raise UserError(f"--{flag}: got none, allowed: at least one number")
        for value in values:
            if not least <= value <= most:
                raise UserError(f"--{flag}: got {value}, allowed: {least} to {most:,}")
    if not config.panel or not config.sizes:
        raise UserError(f"--{'sizes' if config.panel else 'panel'}: got none, allowed: at least one")
    config.sizes_as_numbers()
    if config.scaling_tokens < config.scaling_len:
        raise UserError(f"--scaling_tokens: got {config.scaling_tokens}, allowed: at least --scaling_len {config.scaling_len}")
    return dataclasses.replace(config, panel=tuple(p for p in PANELS if p in config.panel), lengths=tuple(sorted(set(config.lengths))),
                               decode_batches=tuple(sorted(set(config.decode_batches))))


def measure(argv, classes: dict[str, type], given: dict) -> int:
    """Everything that can be wrong is found before the first file is written."""
    from src.suites.progress import Progress
    from src.suites.record import DONE, INTERRUPTED, Record
    from src.suites.session import conduct, machine_fields, say_interrupted
    from src.suites.speed import Study, whole_cells
    from src.suites.speed_analysis import analyse
    from src.utils import env, viz_speed

    config, control, machine = checked(split(SpeedConfig, given)), split(SpeedControl, given), split(SpeedMachine, given)
    device = env.resolve_device(machine.device)
    precision = env.resolve_precision(machine.precision, device)
    threads = resolve_threads(machine.threads)
    model_args = {**{k: v for k, v in given.items() if k not in {f.name for part in (SpeedConfig, SpeedControl) for f in dataclasses.fields(part)}},
                  "precision": precision[0], "threads": threads, "seed": machine.seed, "device": str(device)}
    subjects, sized, lines = build_subjects(config, classes, model_args, device, machine.backend)
    settings = {**dataclasses.asdict(config), **dataclasses.asdict(machine), "device": str(device), "precision": precision[0], "threads": threads,
                "models": {name: {**s.settings(), "file": digest(s.model)} for name, s in subjects.items()}}
    Record.check_dir(KIND, control.out_dir, settings, control.overwrite)
    subjects = {name: tried(subject, device) for name, subject in subjects.items()}
    sized = {size: {name: s if isinstance(s, str) else tried(s, device) for name, s in models.items()} for size, models in sized.items()}
    record = Record.open_for(KIND, control.out_dir, settings, control.overwrite)
    study = Study(config, subjects, sized, device, record, machine_fields(device, threads, precision[0]))
    findings = {}

    def work(progress):
        say(control, [*announced(subjects, precision, record), *lines])
        study.run(progress)

    def finish(status):
        findings.update(analyse(record.rows, subjects))
        history = {"settings": settings, **findings}
        if status == DONE:
            viz_speed.draw_all({**history, "rows": record.rows}, record.figures)
        record.finish(history, status)

    facts = env.collect(json.loads(json.dumps(settings)), device, precision, {n: s.backends for n, s in subjects.items()})
    if conduct(record, settings, facts, work, finish, Progress(control.quiet, config.cell_seconds), whole_cells) == INTERRUPTED:
        return say_interrupted(record, argv)
    show(record.rows, findings, control.quiet)
    print(record.path)
    return 0


def redraw(argv) -> int:
    """--vis_only: the figures and tables of an existing record, without torch and without its models."""
    from src.suites.record import Record
    from src.suites.speed_analysis import analyse
    from src.utils import viz_speed

    parser = Parser(prog="benchmark.py speed --vis_only", description=__doc__, scope="with --vis_only")
    add_flags(parser, SpeedControl, SpeedControl.__doc__)
    control = SpeedControl(**read_flags(parser.parse_strict(argv), [SpeedControl]))
    if control.overwrite:
        raise UserError("--overwrite: means nothing with --vis_only; leave it out")
    record = Record.of(control.out_dir, KIND)
    if not record.history.is_file():
        raise UserError(f"{record.path}: nothing was measured to its end or interrupted yet, so there is no history.json; run the same command again")
    history = record.read_history()
    findings = analyse(history["rows"], history["models"])
    paths = viz_speed.draw_all({**history, **findings}, record.figures)
    show(history["rows"], findings, control.quiet)
    for path in paths:
        print(path)
    return 0


def validate(argv: list[str], seen) -> int:
    """--validate. Everything that can be wrong is found before the first file is written."""
    parser = Parser(prog="benchmark.py speed --validate", description=VALIDATE_HELP, scope="with --validate")
    for part in (ValidateConfig, ValidateMachine, SpeedControl):
        add_flags(parser, part, part.__doc__)
    if seen.help:
        parser.print_help()
        return 0
    given = read_flags(parser.parse_strict(argv), (ValidateConfig, ValidateMachine, SpeedControl))
    config, machine, control = (split(part, given) for part in (ValidateConfig, ValidateMachine, SpeedControl))
    return redraw_study(control, given) if control.vis_only else study(argv, config, machine, control, given)


def study(argv, config: ValidateConfig, machine: ValidateMachine, control: SpeedControl, given: dict) -> int:
    """All parts of --validate in order, then rows, tables and verdicts; the exit code."""
    from src.suites import validate as suite
    from src.suites import validate_report as report
    from src.suites.record import DONE, INTERRUPTED, Record
    from src.suites.session import continuing, machine_fields
    from src.suites.subjects import labels, load_classes
    from src.utils import env

    classes = load_classes(suite.ordered(absolute(config.model)))
    names = labels(classes)
    panels = checked(SpeedConfig(model=tuple(classes), panel=("train",), lengths=config.lengths))
    flags = [word for f in dataclasses.fields(ValidateMachine) if f.name in given for word in (f"--{f.name}", str(given[f.name]))]
    parts = suite.plan(names, panels.lengths, config.train_steps, config.cell_seconds, tuple(flags))
    device = env.resolve_device(machine.device)
    precision = env.resolve_precision(machine.precision, device)
    threads = resolve_threads(machine.threads)
    settings = {"models": {label: digest(model) for model, label in names.items()}, "lengths": list(panels.lengths), "train_steps": config.train_steps,
                "cell_seconds": config.cell_seconds, "device": str(device), "precision": precision[0], "threads": threads, "seed": machine.seed,
                "parts": {p.folder: list(p.words) for p in parts}}
    Record.check_dir(suite.KIND, control.out_dir, settings, control.overwrite)
    check_parts(parts, panels, classes, {"match_params": next(iter(names)), "precision": precision[0], "threads": threads, "seed": machine.seed,
                                         "device": str(device)}, device)
    record = Record.open_for(suite.KIND, control.out_dir, settings, control.overwrite)
    fields = {**machine_fields(device, threads, precision[0]), "seed": machine.seed}
    work = suite.Validation(parts, names.values(), record, fields, control.quiet, suite.run_child)
    with record.lock():
        if not record.exists:
            work.clear()
        record.begin(settings, env.collect(json.loads(json.dumps(settings)), device, precision, {}), lambda rows: [])
        try:
            work.run(suite.Clock(control.quiet))
            history = {"settings": settings, **work.conclude()}
            report.draw({**history, "rows": record.rows}, record)
        except KeyboardInterrupt:
            record.finish({"settings": settings, **work.conclude(compare=False)}, INTERRUPTED)
            print(f"interrupted; finished parts are kept, continue with: {continuing(KIND, argv, record.path)}", file=sys.stderr)
            return 130
        # A study with a part that failed is not finished: the same command tries that part again.
        record.finish(history, INTERRUPTED if work.failed else DONE)
    if not control.quiet:
        print("\n".join(report.lines({**history, "rows": record.rows})))
    for why in work.failed.values():
        print(f"error: {why}; the same command with --out_dir {record.path} tries it again", file=sys.stderr)
    print(record.path)
    return 1 if work.failed else 0


def absolute(models) -> tuple[str, ...]:
    """The models with whole paths, as every part runs with them and may be continued from any folder."""
    from pathlib import Path

    from src.registry import is_path

    return tuple(str(Path(m).resolve()) if is_path(m) else m for m in models)


def check_parts(parts, panels: SpeedConfig, classes, given: dict, device) -> None:
    """UserError for a model that one of the parts could not train, match or measure; writes nothing."""
    from src.commands.train import admit
    from src.models.match import parameters
    from src.registry import is_path
    from src.runs import blaming, build_model, plan, settle_model, table_size
    from src.utils.tokenizer import CharTokenizer

    subjects, _, _ = build_subjects(panels, classes, given, device, "auto")
    for subject in subjects.values():
        tried(subject, device)
    for part in parts:
        if part.kind != "training":
            continue
        setup, _ = plan(list(part.words))
        task = setup.task_class(setup.args)
        tokenizer = CharTokenizer.build(task.alphabet)
        setup, _ = settle_model(setup, tokenizer, task)
        with blaming("model", setup.args.model):
            parameters(setup.model_class, setup.args, len(tokenizer), table_size(task))
        if is_path(setup.args.model):
            admit(setup, build_model(setup, tokenizer, task, device), tokenizer, device)


def redraw_study(control: SpeedControl, given: dict) -> int:
    """--validate --vis_only: figures, tables.md and the printed tables of an existing study, without torch."""
    from src.suites import validate_report as report
    from src.suites.record import Record
    from src.suites.validate_claims import KIND as STUDY

    if control.overwrite:
        raise UserError("--overwrite: means nothing with --vis_only; leave it out")
    for f in (*dataclasses.fields(ValidateConfig), *dataclasses.fields(ValidateMachine)):
        if f.name in given:
            raise UserError(f"--{f.name}: means nothing with --vis_only; leave it out")
    record = Record.of(control.out_dir, STUDY)
    if not record.history.is_file():
        raise UserError(f"{record.path}: nothing was measured to its end or interrupted yet, so there is no history.json; run the same command again")
    history = record.read_history()
    paths = report.draw(history, record)
    if not control.quiet:
        print("\n".join(report.lines(history)))
    for path in paths:
        print(path)
    return 0


def build_subjects(config: SpeedConfig, classes, given: dict, device, backend: str):
    """(name -> Subject, size -> name -> Subject or the reason why there is none, lines to print); UserError for anything wrong."""
    from src.suites.subjects import check_backends, check_positions, labels, make_subject, sized_subject

    check_positions(given.get("pos", "auto"), classes)
    match = given.get("match_params", "")
    max_len = max(*config.lengths, config.scaling_len) + DECODE_STEPS
    subjects, sized, lines = {}, {}, []
    names = labels(classes)
    for model, model_class in classes.items():
        subjects[names[model]], solved = make_subject(names[model], model, model_class, given, max_len, device, match)
        lines += [f"{names[model]}: {line}" for line in solved]
    check_backends(backend, subjects.values())
    for size in config.sizes_as_numbers() if "scaling" in config.panel else ():
        sized[size] = {}
        for model, model_class in classes.items():
            try:
                sized[size][names[model]] = sized_subject(names[model], model, model_class, given, config.scaling_len + DECODE_STEPS, device, size)
            except UserError as error:
                sized[size][names[model]] = str(error)
    return subjects, sized, lines


def tried(subject, device):
    """The subject with the backends that really run; UserError where a user's own file fails on its first tokens, before anything is written."""
    import torch

    from src.registry import is_path
    from src.runs import blaming, check_shape
    from src.suites.observe import as_it_runs
    from src.suites.subjects import VOCABULARY

    with blaming("model", subject.model):
        if is_path(subject.model):
            with torch.no_grad():
                x = torch.zeros(2, SHORTEST, dtype=torch.long, device=device)
                check_shape(subject.model, "model", subject.build(device).eval()(x), (*x.shape, VOCABULARY))
        return as_it_runs(subject, device)


def resolve_threads(threads: int) -> int:
    from src.runs import set_threads

    return set_threads(threads)


def digest(model: str) -> str:
    """The SHA-256 of a user's file, so that a changed one does not continue old results; empty for a registered name."""
    from src.registry import is_path
    from src.runs import file_digest

    return file_digest(model) if is_path(model) else ""


def announced(subjects, precision, record) -> list[str]:
    """What is measured with what, in a few lines."""
    lines = [f"{record.path}: {len(record.rows)} rows are there already, going on"] if record.rows else []
    lines.append(f"precision {precision[0]}: {precision[1]}")
    for name, s in subjects.items():
        kernels = "; ".join(f"{op}: {c['backend']} ({c['reason']})" for op, c in s.backends.items())
        lines.append(f"{name}: {s.parameters:,} parameters, d_model {s.args.d_model}, n_layer {s.args.n_layer}{'; ' + kernels if kernels else ''}")
    return lines


def say(control: SpeedControl, lines) -> None:
    if not control.quiet:
        for line in lines:
            print(line, file=sys.stderr, flush=True)


def show(rows, findings, quiet: bool) -> None:
    from src.suites.speed_analysis import tables

    if not quiet:
        print("\n".join(tables(rows, findings)))
