"""`benchmark.py study`: one study of what a layer gains in speed and memory, and what it costs in quality.

    python benchmark.py study
    python benchmark.py study --model transformer,linear_attention,gla --train_steps 2000 --out_dir runs/study
    python benchmark.py study --vis_only --out_dir runs/study

In this order, each a command of its own below the study's folder: short trainings on Tiny Shakespeare, recall and copy (--preset small,
with as many parameters as the baseline has), the panels of `speed`, and a profile of each model. Then come tables (tables.md) and the
verdicts. Is training faster, and from which length? Does memory grow as O(T)? Is the decoding state constant? What do perplexity and recall
pay for it? The baseline is the transformer where it is among the models, else the first model. The defaults (two models, 800 steps) take at
most 15 minutes on two cores. Ctrl-C keeps what was measured, and the same command with --out_dir goes on. Finished parts are verified and
not repeated.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass

from src.flags.fields import MeasureControl, UserError, option
from src.flags.parser import Parser, add_flags, config_of, read_flags
from src.measure.speed.plan import SpeedConfig, build_subjects, checked, digest, resolve_threads, tried


@dataclass(frozen=True)
class StudyConfig:
    """the study"""

    model: tuple[str, ...] = option(
        ("transformer", "linear_attention"), "names from `list`, or paths to your own .py files"
    )
    lengths: tuple[int, ...] = option(
        (128, 256, 512, 1024, 2048, 4096), "panels: tokens of a sequence; of decode the positions"
    )
    train_steps: int = option(800, "optimiser steps of each training", least=1, most=10_000_000)
    cell_seconds: float = option(
        3.0,
        "panels: seconds that one model may be repeated at one point; below 3 repeats it goes on",
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
    """Run or redraw a study. Everything that can be wrong is found before the first file is written."""
    parts = (StudyConfig, StudyMachine, MeasureControl)
    parser = Parser(prog="benchmark.py study", description=__doc__, scope="for `study`")
    for part in parts:
        add_flags(parser, part, part.__doc__)
    given = read_flags(parser.parse_strict(argv), parts)
    config, machine, control = (config_of(part, given) for part in parts)
    return redraw_study(control, given) if control.vis_only else study(argv, config, machine, control, given)


def study(argv, config: StudyConfig, machine: StudyMachine, control: MeasureControl, given: dict) -> int:
    """All parts in order, then rows, tables and verdicts; the exit code."""
    from src.measure.session import continuing, machine_fields
    from src.measure.speed.subjects import labels, load_classes
    from src.storage import env
    from src.storage.record import DONE, INTERRUPTED, Record
    from src.study import report
    from src.study import validation as suite

    classes = load_classes(suite.ordered(absolute(config.model)))
    names = labels(classes)
    panels = checked(SpeedConfig(model=tuple(classes), panel=("train",), lengths=config.lengths))
    flags = [
        word
        for f in dataclasses.fields(StudyMachine)
        if f.name in given
        for word in (f"--{f.name}", str(given[f.name]))
    ]
    parts = suite.plan(names, panels.lengths, config.train_steps, config.cell_seconds, tuple(flags))
    device = env.resolve_device(machine.device)
    precision = env.resolve_precision(machine.precision, device)
    threads = resolve_threads(machine.threads)
    settings = {
        "models": {label: digest(model) for model, label in names.items()},
        "lengths": list(panels.lengths),
        "train_steps": config.train_steps,
        "cell_seconds": config.cell_seconds,
        "device": str(device),
        "precision": precision[0],
        "threads": threads,
        "seed": machine.seed,
        "parts": {p.folder: list(p.words) for p in parts},
    }
    Record.check_dir(suite.KIND, control.out_dir, settings, control.overwrite)
    check_parts(
        parts,
        panels,
        classes,
        {
            "match_params": next(iter(names)),
            "precision": precision[0],
            "threads": threads,
            "seed": machine.seed,
            "device": str(device),
        },
        device,
    )
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
            print(
                f"interrupted; finished parts are kept, continue with: {continuing(suite.KIND, argv, record.path)}",
                file=sys.stderr,
            )
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

    from src.flags.registry import is_path

    return tuple(str(Path(m).resolve()) if is_path(m) else m for m in models)


def check_parts(parts, panels: SpeedConfig, classes, given: dict, device) -> None:
    """UserError for a model that one of the parts could not train, match or measure; writes nothing."""
    from dataset.tokenizer import CharTokenizer
    from src.checks.admission import check_user_model
    from src.flags.registry import is_path
    from src.models.match import parameters
    from src.setup.classes import blaming
    from src.setup.plan import build_model, plan, resolve_model

    subjects, _, _ = build_subjects(panels, classes, given, device, "auto")
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
            parameters(setup.model_class, setup.args, len(tokenizer)(task))
        if is_path(setup.args.model):
            check_user_model(setup, build_model(setup, tokenizer, task, device), tokenizer, device)


def redraw_study(control: MeasureControl, given: dict) -> int:
    """--vis_only: figures, tables.md and the printed tables of an existing study, without torch."""
    from src.storage.record import Record
    from src.study import report
    from src.study.claims import KIND as STUDY

    if control.overwrite:
        raise UserError("--overwrite: means nothing with --vis_only; leave it out")
    for f in (*dataclasses.fields(StudyConfig), *dataclasses.fields(StudyMachine)):
        if f.name in given:
            raise UserError(f"--{f.name}: means nothing with --vis_only; leave it out")
    record = Record.of(control.out_dir, STUDY)
    if not record.history.is_file():
        raise UserError(
            f"{record.path}: nothing was measured to its end or interrupted yet, so there is no history.json; run the same command again"
        )
    history = record.read_history()
    paths = report.draw(history, record)
    if not control.quiet:
        print("\n".join(report.lines(history)))
    for path in paths:
        print(path)
    return 0
