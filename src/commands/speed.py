"""`benchmark.py speed`: what each layer costs to train and to decode, and how the cost grows, measured on this machine.

    python benchmark.py speed --model transformer,mamba,gla,gated_deltanet
    python benchmark.py speed --model transformer,my_layer.py --panel train,decode --lengths 128,512 --match_params 1M
    python benchmark.py speed --model deltanet "deltanet --neg_eigen" "mamba --d_model 72"
    python benchmark.py speed --vis_only --out_dir runs/<timestamp>

Four panels, all of them or those of --panel:

- train: step time, tokens per second and peak memory by length, at a constant number of tokens per step
- memory: one layer alone; bytes kept for the backward pass, and peak
- decode: time to read a prompt, time per token, and bytes of state, by position
- scaling: training steps of models of 1M to 30M parameters

Then exponents and crossover lengths with 95 % intervals. Every number comes with its backend, threads and versions.
Models are timed alternately. Each point is repeated until the interval of its median is within 5 %, or until
--cell_seconds are spent, and at least 3 times. After Ctrl-C the same command with --out_dir continues. Results are in
the run directory: results.csv, results.jsonl, history.json and figures/.

A model in quotes has flags of its own: of its layer, its size, its surroundings and its positions. They win over the
same flags outside the quotes, which hold for all models. One layer may be measured in several variants.

Positions: a layer that was published with a learned table gets sinusoids here, unless --pos learned is given.
--pos rope, --pos alibi, --backend and a model's own flags apply to the models that have them.
"""

from __future__ import annotations

import dataclasses
import json
import sys

from src.flags.fields import UserError, copy_of, field_types, own_config
from src.flags.groups import TORCH_THREADS, MeasureControl, machine_flags
from src.flags.parser import Parser, add_flags, config_of, first_look, read_flags
from src.measure.speed.entries import Entry, model_flags, read_entries
from src.measure.speed.plan import SpeedConfig, build_subjects, checked, digest, resolve_threads, tried
from src.measure.speed.subjects import DEFAULTS

KIND = "speed"
SpeedMachine = machine_flags(
    "precision",
    "device",
    "backend",
    threads=TORCH_THREADS,
    compile="torch.compile the model where it trains (not the lone mixer of `memory`, nor decoding)",
    seed="seed of weights, tokens and bootstraps",
)


def union(entries: dict[str, Entry]):
    """The own flags of all models, a shared one once; None if there are none.

    Raises UserError for a flag that `speed` has already.
    """
    taken = {
        f.name for part in (SpeedConfig, SpeedMachine, MeasureControl, model_flags()) for f in dataclasses.fields(part)
    }
    fields: dict[str, tuple] = {}
    for name, config in ((e.model, own_config(e.model_class)) for e in entries.values()):
        if config is None:
            continue
        types = field_types(config)
        for f in dataclasses.fields(config):
            if f.name in taken:
                raise UserError(f"flag --{f.name} of {name} already exists in `speed`; rename the field")
            fields.setdefault(f.name, (f.name, types[f.name], copy_of(f)))
    return (
        dataclasses.make_dataclass("OwnFlags", fields.values(), frozen=True, namespace={"__module__": __name__})
        if fields
        else None
    )


def main(argv: list[str]) -> int:
    seen = first_look(argv, lists=("layers",), modes=("vis_only", "validate"), texts=("model", "labels"))
    if seen.validate:
        raise UserError("--validate is a command of its own now: python benchmark.py study")
    if seen.vis_only and not seen.help:
        return redraw(argv)
    entries = None
    if seen.model or not seen.help:
        entries = read_entries(seen.model or SpeedConfig().model, seen.layers, seen.labels)
    parser, parts = parser_for(entries)
    if seen.help:
        parser.print_help()
        return 0
    given = read_flags(parser.parse_strict(argv), parts)
    if seen.model:
        given["model"] = tuple(entry.text for entry in entries.values())  # a text in quotes is one model
    return measure(argv, entries, given)


def parser_for(entries: dict[str, Entry] | None):
    """The parser, and the dataclasses whose fields are its flags."""
    parser = Parser(prog="benchmark.py speed", description=__doc__, scope="for `speed` and these models")
    shared = model_flags()
    parts = [SpeedConfig, shared, SpeedMachine, MeasureControl]
    for part in parts:
        add_flags(parser, part, part.__doc__, DEFAULTS if part is shared else None)
    own = union(entries) if entries else None
    if own is not None:
        add_flags(parser, own, f"own flags of {', '.join(dict.fromkeys(e.model for e in entries.values()))}")
        parts.append(own)
    return parser, parts


def measure(argv, entries: dict[str, Entry], given: dict) -> int:
    """Everything that can be wrong is found before the first file is written."""
    from src.figures import speed as speed_figures
    from src.measure.progress import Progress
    from src.measure.session import conduct, machine_fields, say_interrupted
    from src.measure.speed.analysis import analyse
    from src.measure.speed.panels import looks
    from src.measure.speed.run import Study
    from src.storage import env
    from src.storage.record import DONE, INTERRUPTED, Record

    shown = looks()
    config, control = checked(config_of(SpeedConfig, given)), config_of(MeasureControl, given)
    machine = config_of(SpeedMachine, given)
    device = env.resolve_device(machine.device)
    if machine.compile:
        env.check_compiler(device)
    precision = env.resolve_precision(machine.precision, device)
    threads = resolve_threads(machine.threads)
    not_of_models = {f.name for part in (SpeedConfig, MeasureControl) for f in dataclasses.fields(part)}
    model_args = {
        **{name: value for name, value in given.items() if name not in not_of_models},
        "precision": precision[0],
        "threads": threads,
        "seed": machine.seed,
        "device": str(device),
    }
    subjects, sized, lines = build_subjects(config, entries, model_args, device, machine.backend)
    settings = {
        **{name: value for name, value in dataclasses.asdict(config).items() if name != "labels"},  # keys of `models`
        **dataclasses.asdict(machine),
        "device": str(device),
        "precision": precision[0],
        "threads": threads,
        "models": {name: {**s.settings(), "file": digest(s.model)} for name, s in subjects.items()},
    }
    Record.check_dir(KIND, control.out_dir, settings, control.overwrite)
    decodes = "decode" in config.panel  # the forms of decoding are compared where they are timed
    subjects = {name: tried(subject, device, decodes) for name, subject in subjects.items()}
    sized = {
        size: {name: s if isinstance(s, str) else tried(s, device, decodes=False) for name, s in models.items()}
        for size, models in sized.items()
    }
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
            speed_figures.draw_all({**history, "rows": record.rows}, record.figures, shown)
        record.finish(history, status)

    backends = {name: subject.backends for name, subject in subjects.items()}
    facts = env.collect(json.loads(json.dumps(settings)), device, precision, backends)
    progress = Progress(control.quiet, config.cell_seconds)
    if conduct(record, settings, facts, work, finish, progress) == INTERRUPTED:
        return say_interrupted(record, argv)
    show(record.rows, findings, control.quiet)
    print(record.path)
    return 0


def redraw(argv) -> int:
    """--vis_only: the figures and tables of an existing record, without torch and without its models."""
    from src.figures import speed as speed_figures
    from src.measure.speed.analysis import analyse
    from src.measure.speed.panels import looks
    from src.storage.record import Record

    parser = Parser(prog="benchmark.py speed --vis_only", description=__doc__, scope="with --vis_only")
    add_flags(parser, MeasureControl, MeasureControl.__doc__)
    control = MeasureControl(**read_flags(parser.parse_strict(argv), [MeasureControl]))
    if control.overwrite:
        raise UserError("--overwrite: means nothing with --vis_only; leave it out")
    record = Record.of(control.out_dir, KIND)
    if not record.history.is_file():
        raise UserError(
            f"{record.path}: its command did not end yet, so it has no history.json; run the same command again"
        )
    history = record.read_history()
    findings = analyse(history["rows"], history["models"])
    paths = speed_figures.draw_all({**history, **findings}, record.figures, looks())
    show(history["rows"], findings, control.quiet)
    for path in paths:
        print(path)
    return 0


def announced(subjects, precision, record) -> list[str]:
    """Lines that say what is measured: precision, models, backends, blocks, and remarks about decoding."""
    from src.models.fair import block_words
    from src.ops.choices import in_words
    from src.storage.rows import WRONG_DECODING

    lines = [f"{record.path}: {len(record.rows)} rows are there already, continuing"] if record.rows else []
    lines.append(f"precision {precision[0]}: {precision[1]}")
    for name, s in subjects.items():
        kernels = in_words(s.backends)
        sizes = f"{s.parameters:,} parameters, d_model {s.args.d_model}, n_layer {s.args.n_layer}"
        lines.append(f"{name}: {sizes}{'; ' + kernels if kernels else ''}")
        lines.append(f"{name}: block: {block_words(s.model_class, s.args)}")
        lines += [f"{'warning' if text.startswith(WRONG_DECODING) else 'notice'}: {name}: {text}" for text in s.remarks]
    return lines


def say(control: MeasureControl, lines) -> None:
    if not control.quiet:
        for line in lines:
            print(line, file=sys.stderr, flush=True)


def show(rows, findings, quiet: bool) -> None:
    from src.measure.speed.analysis import tables

    if not quiet:
        print("\n".join(tables(rows, findings)))
