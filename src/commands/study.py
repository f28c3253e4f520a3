"""`benchmark.py study`: one study of what a layer gains in speed and memory, and what it costs in quality.

    python benchmark.py study
    python benchmark.py study --model transformer,linear_attention,gla --train_steps 2000 --out_dir runs/study
    python benchmark.py study --vis_only --out_dir runs/study

The study runs these parts in order, each as a command of its own below the study's folder:
1. short trainings on Tiny Shakespeare, recall and copy (--preset small, as many parameters as the baseline)
2. the panels of `speed`
3. a profile of each model
Then it prints tables (also in tables.md) and the verdicts. Is training faster, and from which length? Does memory grow
as O(T)? Is the decoding state constant? Are perplexity, recall and copying worse?

The baseline is the transformer if it is among the models, else the first model. The defaults (two models, 800 steps)
take at most 15 minutes on two cores. Ctrl-C keeps what was measured. The same command with --out_dir continues it:
finished parts are verified and not repeated.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass

from src.flags.fields import UserError, option
from src.flags.groups import MeasureControl
from src.flags.parser import Parser, add_flags, config_of, read_flags
from src.measure.speed.plan import SpeedConfig, build_subjects, checked, digest, resolve_threads, tried


@dataclass(frozen=True)
class StudyConfig:
    """the study"""

    model: tuple[str, ...] = option(
        ("transformer", "linear_attention"), "names from `list`, or paths to your own .py files"
    )
    lengths: tuple[int, ...] = option(
        (128, 256, 512, 1024, 2048, 4096), "panels: tokens per sequence; decode: positions"
    )
    train_steps: int = option(800, "optimiser steps of each training", least=1, most=10_000_000)
    cell_seconds: float = option(
        3.0,
        "panels: seconds of repeats of one model at one point; at least 3 repeats",
        above=0.0,
        most=3600.0,
    )


@dataclass(frozen=True)
class StudyMachine:
    """run"""

    precision: str = option(
        "auto", "auto = bf16 where the device is fast at it, else fp32", choices=("auto", "fp32", "fp16", "bf16")
    )
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    threads: int = option(0, "CPU threads; 0 = torch's choice", least=0, most=1024)
    seed: int = option(1337, "seed of weights, data and order, the same for every training", least=0, most=2**31 - 1)


def main(argv: list[str]) -> int:
    """Run or redraw a study. Wrong input is found before the first file is written."""
    parts = (StudyConfig, StudyMachine, MeasureControl)
    parser = Parser(prog="benchmark.py study", description=__doc__, scope="for `study`")
    for part in parts:
        add_flags(parser, part, part.__doc__)
    given = read_flags(parser.parse_strict(argv), parts)
    config, machine, control = (config_of(part, given) for part in parts)
    return redraw_study(control, given) if control.vis_only else study(argv, config, machine, control, given)


def study(argv, config: StudyConfig, machine: StudyMachine, control: MeasureControl, given: dict) -> int:
    """Run all parts in order, then write rows, tables and verdicts; return the exit code."""
    from src.measure.session import continuing, machine_fields
    from src.measure.speed.entries import read_entries
    from src.storage import env
    from src.storage.record import DONE, INTERRUPTED, Record
    from src.study import parts as processes
    from src.study import plan as planning
    from src.study import report
    from src.study import run as running
    from src.study.claims import KIND

    entries = read_entries(planning.ordered(absolute(config.model)))
    names = {entry.model: label for label, entry in entries.items()}
    panels = checked(SpeedConfig(model=tuple(names), panel=("train",), lengths=config.lengths))
    parts = planning.plan(names, panels.lengths, config.train_steps, config.cell_seconds, machine_flags(given))
    device = env.resolve_device(machine.device)
    precision = env.resolve_precision(machine.precision, device)
    threads = resolve_threads(machine.threads)
    resolved = {"device": str(device), "precision": precision[0], "threads": threads, "seed": machine.seed}
    settings = {
        "models": {label: digest(model) for model, label in names.items()},
        "lengths": list(panels.lengths),
        "train_steps": config.train_steps,
        "cell_seconds": config.cell_seconds,
        **resolved,
        "parts": {p.folder: list(p.words) for p in parts},
    }
    Record.check_dir(KIND, control.out_dir, settings, control.overwrite)
    check_parts(parts, panels, entries, {"match_params": next(iter(names)), **resolved}, device)
    record = Record.open_for(KIND, control.out_dir, settings, control.overwrite)
    fields = {**machine_fields(device, threads, precision[0]), "seed": machine.seed}
    work = running.Study(parts, names.values(), record, fields, control.quiet, processes.one_by_one)
    with record.lock():
        if not record.exists:
            work.clear()
        record.begin(settings, env.collect(json.loads(json.dumps(settings)), device, precision, {}))
        try:
            work.run(planning.TimeLeft(control.quiet))
            history = {"settings": settings, **work.conclude()}
            report.draw({**history, "rows": record.rows}, record)
        except KeyboardInterrupt:
            record.finish({"settings": settings, **work.conclude()}, INTERRUPTED)
            command = continuing(KIND, argv, record.path)
            print(f"interrupted; finished parts are kept, continue with: {command}", file=sys.stderr)
            return 130
        # A study with a part that failed is not finished: the same command tries that part again.
        record.finish(history, INTERRUPTED if work.failed else DONE)
    if not control.quiet:
        print("\n".join(report.lines({**history, "rows": record.rows})))
    for why in work.failed.values():
        print(f"error: {why}; the same command with --out_dir {record.path} tries it again", file=sys.stderr)
    print(record.path)
    return 1 if work.failed else 0


def machine_flags(given: dict) -> tuple[str, ...]:
    """The flags of StudyMachine as they were typed, for the commands of the parts."""
    typed = [f.name for f in dataclasses.fields(StudyMachine) if f.name in given]
    return tuple(word for name in typed for word in (f"--{name}", str(given[name])))


def absolute(models) -> tuple[str, ...]:
    """The models, paths made absolute: a part may be continued from any folder."""
    from src.flags import own_files
    from src.flags.registry import is_path

    return tuple(str(own_files.absolute(m)) if is_path(m) else m for m in models)


def check_parts(parts, panels: SpeedConfig, entries, given: dict, device) -> None:
    """UserError if one of the parts could not train, match or measure a model. Writes nothing."""
    from dataset.loaders import parse_lengths
    from dataset.tokenizer import CharTokenizer
    from src.checks.admission import check_user_model
    from src.flags.registry import is_path
    from src.models.match import parameters
    from src.setup.classes import blaming
    from src.setup.plan import build_model, plan, resolve_model

    subjects, _, _ = build_subjects(panels, entries, given, device, "auto")
    for subject in subjects.values():
        tried(subject, device)
    for part in parts:
        if part.kind != "training":
            continue
        setup, _ = plan(list(part.words))
        task = setup.task_class(setup.args)
        tokenizer = CharTokenizer.build(task.alphabet)
        setup, _ = resolve_model(setup, tokenizer, task)
        with blaming("model", setup.args.model):
            parameters(setup.model_class, setup.args, len(tokenizer), task.table_tokens())
        if is_path(setup.args.model):
            tokens = [task.max_tokens(length) for length in parse_lengths(task, setup.args.eval_lengths)]
            model = build_model(setup, tokenizer, task, device)
            check_user_model(setup, model, tokenizer, device, task, tokens)


def redraw_study(control: MeasureControl, given: dict) -> int:
    """--vis_only: write the figures and tables.md of an existing study again and print its tables, without torch."""
    from src.storage.record import Record
    from src.study import report
    from src.study.claims import KIND

    if control.overwrite:
        raise UserError("--overwrite: means nothing with --vis_only; leave it out")
    for f in (*dataclasses.fields(StudyConfig), *dataclasses.fields(StudyMachine)):
        if f.name in given:
            raise UserError(f"--{f.name}: means nothing with --vis_only; leave it out")
    record = Record.of(control.out_dir, KIND)
    if not record.history.is_file():
        raise UserError(
            f"{record.path}: the study has neither ended nor been interrupted, so there is no history.json; "
            "run the same command again"
        )
    history = record.read_history()
    paths = report.draw(history, record)
    if not control.quiet:
        print("\n".join(report.lines(history)))
    for path in paths:
        print(path)
    return 0
