"""`benchmark.py profile --task T --model M`: what a training step spends its time and memory on, by torch's profiler.

    python benchmark.py profile --task needle --model mamba
    python benchmark.py profile --task tiny_shakespeare --model transformer --lengths 64,128,256,512
    python benchmark.py profile --vis_only --out_dir runs/<timestamp>

The steps are those of `train` with the same flags: its data, model, optimiser and precision. The run directory gets:

- results.csv: the table by operator
- trace.json (for chrome://tracing or ui.perfetto.dev), stacks.txt (for speedscope.app), tensorboard/ (for its profiler)
- figures: time by operator group, time and memory by length, memory over two steps

The same command with the same --out_dir continues after an interrupt.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from src.flags import presets
from src.flags.fields import UserError, option, own_config
from src.flags.groups import SHARED, MeasureControl
from src.flags.parser import Parser, add_flags, first_look, read_flags
from src.flags.run_flags import config_parts, to_dict

KIND = "profile"
ONLY_TRAIN = ("eval_only", "resume", "figures", "log", "init_from")


@dataclass(frozen=True)
class ProfileConfig:
    """profile"""

    lengths: tuple[int, ...] = option(
        (), "lengths of the training examples for time and memory by length; default: powers of two up to the longest"
    )
    steps: int = option(10, "steps recorded for the table by operator", least=1, most=1000)
    cell_seconds: float = option(2.0, "seconds of timing for each length", above=0.0, most=3600.0)


@dataclass(frozen=True)
class PresetConfig:
    """preset"""

    preset: str = option("auto", "small (default on a CPU), base (default on CUDA), or a name from `list --presets`")


def main(argv: list[str]) -> int:
    seen = first_look(argv)
    if seen.help:
        parser_for(seen.task, seen.model, seen.layers).print_help()
        return 0
    if seen.vis_only:
        return redraw(argv)
    refuse_train_only(argv)
    task = presets.task_of(seen.preset, seen.task)
    parser = parser_for(
        task or "needle", seen.model or "transformer", seen.layers
    )  # a missing one is refused in `plan`
    config, control, rest = read(parser, argv)
    return measure(argv, config, control, rest)


def refuse_train_only(argv: list[str]) -> None:
    """UserError for a flag that only `train` has."""
    for word in argv:
        name = word.split("=")[0].removeprefix("--")
        if word.startswith("--") and name in ONLY_TRAIN:
            raise UserError(f"--{name}: only goes with `train`; leave it out")


def parser_for(task: str | None, model: str | None, layers) -> Parser:
    """The flags of `train` for the chosen task and model, and this command's own."""
    from src.setup.classes import find_model, find_task

    task_class = find_task(task) if task else None
    model_class = find_model(model, layers) if model else None
    parser = Parser(
        prog="benchmark.py profile",
        usage="python benchmark.py profile [--flag value ...]",
        description=__doc__,
        scope="for profile",
    )
    config_parts(task_class, model_class)  # raises for a flag of the user's own files that exists already
    for part in SHARED:
        add_flags(parser, part, part.__doc__)
    for kind, owner in (("task", task_class), ("model", model_class)):
        if own_config(owner) is not None:
            add_flags(parser, own_config(owner), f"{kind} {owner.__name__}")
    for part in (PresetConfig, ProfileConfig, MeasureControl):
        add_flags(parser, part, part.__doc__)
    return parser


def read(parser: Parser, argv: list[str]) -> tuple[ProfileConfig, MeasureControl, list[str]]:
    """This command's own flags, and the words that are `train`'s. UserError for an unknown flag."""
    parser.parse_strict(argv)
    own = Parser(add_help=False)
    for part in (ProfileConfig, MeasureControl):
        add_flags(own, part, "")
    namespace, rest = own.parse_known_args(argv)
    if getattr(namespace, "out_dir", None) == "":
        raise UserError("--out_dir: got '', allowed: a folder; leave the flag out for runs/<timestamp>")
    return (
        ProfileConfig(**read_flags(namespace, [ProfileConfig])),
        MeasureControl(**read_flags(namespace, [MeasureControl])),
        rest,
    )


def measure(argv: list[str], config: ProfileConfig, control: MeasureControl, rest: list[str]) -> int:
    """Everything that can be wrong is found before the first file is written."""
    from src.measure.gate import Gate
    from src.measure.profile import steps as suite
    from src.measure.profile.report import table
    from src.measure.progress import Progress
    from src.measure.session import conduct, machine_fields, say_interrupted
    from src.measure.speed.observe import observed
    from src.measure.timing import Limits
    from src.setup.plan import build_model, plan, resolve_model
    from src.setup.session import check_backends, environment, open_session, with_args
    from src.setup.trial import try_own_model
    from src.storage import env
    from src.storage.record import INTERRUPTED, Record
    from src.utils.training import Diverged, total_steps

    setup, _ = plan(rest)
    device = env.resolve_device(setup.args.device)
    if setup.args.compile:
        env.check_compiler(device)
    session = open_session(setup, device)
    total_steps(setup.args, session.loaders["train"])
    setup, lines = resolve_model(setup, session.tokenizer, session.task)
    session, args = with_args(session, setup), setup.args
    settings = {"profile": to_dict(config), "args": to_dict(args)}
    Record.check_dir(KIND, control.out_dir, settings, control.overwrite)
    backends = check_backends(setup, device)
    model = build_model(setup, session.tokenizer, session.task, device)
    try_own_model(args, model, session.tokenizer, session.loaders["val"], device)
    job = suite.Job(session, setup.model_class)
    drawn = suite.draw(job, config.lengths)
    if backends:
        backends = observed(model, backends, device, args.precision, len(session.tokenizer))
    verdict = Gate(device, args.precision).check(backends)
    if not verdict.passed:
        print(f"error: nothing is timed, because an op of this model is wrong here: {verdict.note}", file=sys.stderr)
        return 4
    job.machine = {**machine_fields(device, args.threads, args.precision), "seed": args.seed, "backend": backends}
    for line in [] if control.quiet else [*lines, verdict.note]:
        print(line, file=sys.stderr)
    record = Record.open_for(KIND, control.out_dir, settings, control.overwrite)
    diverged = ""

    def work(progress):
        nonlocal diverged
        progress.begin([""] * suite.steps_of(drawn))
        try:
            suite.measure(job, drawn, config.steps, Limits(config.cell_seconds), record, progress.next)
        except Diverged as error:
            diverged = str(error)
            record.add(job.row(panel="diverged", metric="step_ms", status="diverged", note=diverged))

    def finish(status):
        history = {"title": title_of(args), "memory": suite.memory_of(record.path), "gate": verdict.note}
        draw(record, record.finish(history, status))

    facts = environment(setup, session, backends)
    status = conduct(record, settings, facts, work, finish, Progress(control.quiet, config.cell_seconds))
    if status == INTERRUPTED:
        return say_interrupted(record, argv)
    if not control.quiet:
        print("\n".join(table(record.rows)))
    if diverged:
        print(f"error: {diverged}, so the steps after it are not measured; lower --lr", file=sys.stderr)
    print(record.path)
    return 3 if diverged else 0


def title_of(args) -> str:
    """'needle · mamba · d_model 64, 2 layers · fp32 on cpu, 2 threads'."""
    threads = f"{args.threads} thread{'s' if args.threads > 1 else ''}"
    sizes = f"d_model {args.d_model}, {args.n_layer} layers"
    return f"{args.task} · {args.model} · {sizes} · {args.precision} on {args.device}, {threads}"


def draw(record, history: dict):
    from src.figures import kernels as kernel_figures

    return kernel_figures.draw_profile(history, record.figures)


def redraw(argv: list[str]) -> int:
    """--vis_only: figures and tables of an existing record, without torch."""
    from src.measure.profile.report import table
    from src.storage.record import Record

    parser = Parser(prog="benchmark.py profile --vis_only", description=__doc__, scope="with --vis_only")
    add_flags(parser, MeasureControl, MeasureControl.__doc__)
    control = MeasureControl(**read_flags(parser.parse_strict(argv), [MeasureControl]))
    if not control.out_dir:
        raise UserError("--vis_only: no --out_dir given; name a run of `profile`")
    record = Record.of(control.out_dir, KIND)
    history = record.read_history()
    paths = draw(record, history)
    if not control.quiet:
        print("\n".join(table(history["rows"])))
    for path in paths:
        print(path)
    print(record.path)
    return 0
