"""`benchmark.py speed`: what each layer costs to train and to decode, and how the cost grows, measured on this machine.

    python benchmark.py speed --model transformer,mamba,gla,gated_deltanet
    python benchmark.py speed --model transformer,my_layer.py --panel train,decode --lengths 128,512,2048 --match_params 1M
    python benchmark.py speed --vis_only --out_dir runs/<timestamp>

Four panels, all or those of --panel: `train` (step time, tokens a second and peak memory by length, at a constant number of tokens a step), `memory`
(one layer: bytes kept for the backward pass, and peak), `decode` (prefill, time a token and state by position) and `scaling` (1M to 30M
parameters). Exponents and crossovers with 95 % intervals; every number with its backend, threads and versions. Ctrl-C keeps what was measured, and
the same command with --out_dir goes on. Results: results.csv, results.jsonl, history.json and figures/ in the run directory.

Every cell is repeated until the interval of its median is within 5 %, or --cell_seconds are spent, 3 times at least; the models take turns.
Positions: a layer published with a learned table gets sinusoids here, unless --pos learned is given; --pos rope
and alibi concern the layers that have them. --backend, and the flags that only some of the models have, likewise.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from dataclasses import dataclass

from src.cli import Parser, add_flags, read_flags
from src.config import ModelConfig, UserError, field_types, option, own_config, suggest
from src.suites.subjects import DEFAULTS

KIND = "speed"
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

    out_dir: str = option("", "run directory; default runs/<timestamp>; one with the same flags is continued")
    overwrite: bool = option(False, "replace the results in --out_dir")
    vis_only: bool = option(False, "redraw the figures of --out_dir and print its tables, without torch")
    quiet: bool = option(False, "no progress and no tables, only the run directory")


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
    """--model, --layers, --help and --vis_only; the rest of the line is read when the models are known."""
    parser = Parser(add_help=False)
    for name in ("--model", "--layers"):
        parser.add_argument(name, nargs="+", action="extend", default=[])
    parser.add_argument("--vis_only", nargs="?", const="true", default="false")
    parser.add_argument("-h", "--help", action="store_true")
    seen, _ = parser.parse_known_args(argv)
    seen.models, seen.layers = (tuple(n for words in given for n in words.replace(",", " ").split()) for given in (seen.model, seen.layers))
    seen.vis_only = seen.vis_only.lower() in ("true", "1")
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
    from src.suites.record import Record
    from src.suites.speed import Study, whole_cells
    from src.utils import env

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
    machine_fields = {"precision": precision[0], "device": device_words(device), "threads": threads, "versions": env.versions()}
    with record.lock():
        record.begin(settings, env.collect(json.loads(json.dumps(settings)), device, precision, {n: s.backends for n, s in subjects.items()}), whole_cells)
        say(control, [*announced(subjects, precision, record), *lines])
        study = Study(config, subjects, sized, device, record, machine_fields)
        return finish(study, record, settings, control, argv)


def finish(study, record, settings, control: SpeedControl, argv) -> int:
    """Measure, then history, figures and tables; the exit code."""
    from src.suites.progress import Progress
    from src.suites.record import DONE, INTERRUPTED
    from src.suites.speed_analysis import analyse
    from src.utils import viz_speed

    progress = Progress(control.quiet, study.config.cell_seconds)
    try:
        study.run(progress)
    except KeyboardInterrupt:
        progress.close()
        record.finish({"settings": settings, **analyse(record.rows, study.subjects)}, INTERRUPTED)
        print(f"interrupted; {len(record.rows)} rows are kept, continue with: {continuing(argv, record.path)}", file=sys.stderr)
        return 130
    progress.close()
    findings = analyse(record.rows, study.subjects)
    history = {"settings": settings, **findings}
    viz_speed.draw_all({**history, "rows": record.rows}, record.figures)
    record.finish(history, DONE)
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


def device_words(device) -> str:
    """'cpu: Intel(R) Xeon(R) ...' for the rows."""
    from src.utils import env

    if device.type != "cuda":
        return f"{device}: {env.cpu_model()}"
    import torch

    return f"{device}: {torch.cuda.get_device_name(device)}"


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


def continuing(argv, path) -> str:
    """The command that goes on: the same, with the directory."""
    rest, i = [], 0
    while i < len(argv):
        flag, equals, _ = argv[i].partition("=")
        value = "" if equals or i + 1 == len(argv) else argv[i + 1]
        if flag == "--out_dir":
            i += 0 if equals else 1
        elif flag == "--overwrite":
            i += value.lower() in ("true", "false", "1", "0")
        else:
            rest.append(argv[i])
        i += 1
    return " ".join(shlex.quote(w) for w in ["python", "benchmark.py", "speed", *rest, "--out_dir", str(path)])
