"""`benchmark.py profile --task T --model M`: what a training step spends its time and memory on, by torch's profiler.

    python benchmark.py profile --task needle --model mamba
    python benchmark.py profile --task tiny_shakespeare --model transformer --lengths 64,128,256,512
    python benchmark.py profile --vis_only --out_dir runs/<timestamp>

The steps are those of `train` with the same flags: its data, model, optimiser and precision. Into the run directory go the table by operator
(results.csv), trace.json for chrome://tracing or ui.perfetto.dev, stacks.txt for speedscope.app, tensorboard/ for its profiler plugin, and figures: time
by operator group, time and memory by length, memory over two steps. The same command with the same --out_dir continues where it was stopped.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from src.flags.fields import UserError, option, to_dict
from src.flags.parser import Parser, add_flags, first_look, read_flags
from src.flags.parser import parser_for as train_parser

ONLY_TRAIN = ("eval_only", "resume", "figures", "log")
ROWS_SHOWN = 20
INTRODUCTION = f"{__doc__.strip()}\n"


@dataclass(frozen=True)
class ProfileConfig:
    """profile"""

    lengths: tuple[int, ...] = option(
        (), "lengths of the training examples for time and memory by length; default: powers of two up to the longest"
    )
    steps: int = option(10, "steps recorded for the table by operator", least=1, most=1000)
    cell_seconds: float = option(2.0, "seconds of timing for each length", above=0.0, most=3600.0)


def main(argv: list[str]) -> int:
    seen = first_look(argv)
    if seen.help:
        parser_for(seen.task, seen.model, seen.layers).print_help()
        return 0
    if seen.vis_only:
        return redraw(argv)
    config, rest = read(parser_for(seen.task or "needle", seen.model or "transformer", seen.layers), argv)
    return start(config, rest, argv)


def parser_for(task: str | None, model: str | None, layers) -> Parser:
    """Flags of `train` for the chosen task and model, and this command's own."""
    from src.setup.classes import find_model, find_task

    task_class = find_task(task) if task else None
    model_class = find_model(model, layers) if model else None
    parser = train_parser(task_class, model_class)
    parser.prog, parser.usage, parser.scope = (
        "benchmark.py profile",
        "python benchmark.py profile [--flag value ...]",
        "for profile",
    )
    parser.description = INTRODUCTION
    add_flags(parser, ProfileConfig, ProfileConfig.__doc__)
    return parser


def read(parser: Parser, argv: list[str]) -> tuple[ProfileConfig, list[str]]:
    """This command's settings, and the words that are `train`'s. UserError for an unknown flag, or one that only `train` has."""
    parser.parse_strict(argv)
    own = Parser(add_help=False)
    add_flags(own, ProfileConfig, "")
    namespace, rest = own.parse_known_args(argv)
    for word in rest:
        name = word.split("=")[0].removeprefix("--")
        if word.startswith("--") and name in ONLY_TRAIN:
            raise UserError(f"--{name}: only goes with `train`; leave it out")
    return ProfileConfig(**read_flags(namespace, [ProfileConfig])), rest


def start(config: ProfileConfig, rest: list[str], argv: list[str]) -> int:
    """Everything that can be wrong is found before the first file is written."""
    from src.measure.gate import Gate
    from src.measure.profile import steps as suite
    from src.measure.progress import Progress
    from src.measure.session import conduct, machine_fields, say_interrupted
    from src.measure.timing import Limits
    from src.setup.classes import try_own_model
    from src.setup.plan import build_model, plan, resolve_model
    from src.setup.session import check_backends, environment, open_session, with_args
    from src.storage import env
    from src.storage.record import INTERRUPTED, Record
    from src.utils.training import Diverged, total_steps

    setup, request = plan(rest)
    if len(request.out_dirs) > 1:
        raise UserError(f"--out_dir: got {len(request.out_dirs)} folders, allowed: one")
    device = env.resolve_device(setup.args.device)
    session = open_session(setup, device)
    total_steps(setup.args, session.loaders["train"])
    setup, lines = resolve_model(setup, session.tokenizer, session.task)
    session, args = with_args(session, setup), setup.args
    settings = {"profile": to_dict(config), "args": to_dict(args)}
    Record.check_dir("profile", request.control.out_dir, settings, request.control.overwrite)
    backends = check_backends(setup, device)
    model = build_model(setup, session.tokenizer, session.task, device)
    try_own_model(args.model, model, session.tokenizer, session.loaders["val"], device)
    job = suite.Job(session, setup.model_class)
    drawn = suite.draw(job, config.lengths)
    verdict = Gate(device, args.precision).check(backends)
    if not verdict.passed:
        print(f"error: nothing is timed, because an op of this model is wrong here: {verdict.note}", file=sys.stderr)
        return 4
    job.machine = {**machine_fields(device, args.threads, args.precision), "seed": args.seed, "backend": backends}
    quiet = request.control.quiet
    for line in [] if quiet else [*lines, verdict.note]:
        print(line, file=sys.stderr)
    record = Record.open_for("profile", request.control.out_dir, settings, request.control.overwrite)
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
        draw(
            record,
            record.finish(
                {"title": title_of(args), "memory": suite.memory_of(record.path), "gate": verdict.note}, status
            ),
        )

    status = conduct(
        record, settings, environment(setup, session, backends), work, finish, Progress(quiet, config.cell_seconds)
    )
    if status == INTERRUPTED:
        return say_interrupted(record, argv)
    if not quiet:
        print("\n".join(table(record.rows)))
    if diverged:
        print(f"error: {diverged}, so the steps after it are not measured; lower --lr", file=sys.stderr)
    print(record.path)
    return 3 if diverged else 0


def title_of(args) -> str:
    threads = f"{args.threads} thread{'s' if args.threads > 1 else ''}"
    return f"{args.task} · {args.model} · d_model {args.d_model}, {args.n_layer} layers · {args.precision} on {args.device}, {threads}"


def draw(record, history: dict):
    from src.figures import kernels as kernel_figures

    return kernel_figures.draw_profile(history, record.figures)


def redraw(argv: list[str]) -> int:
    """--vis_only: the figures anew from history.json, without torch."""
    from src.flags.fields import ControlConfig
    from src.storage.record import Record

    parser = Parser(prog="benchmark.py profile --vis_only", description=INTRODUCTION, scope="with --vis_only")
    add_flags(parser, ControlConfig, ControlConfig.__doc__)
    namespace = parser.parse_strict(argv)
    out_dirs = namespace.__dict__.get("out_dir", [])
    if len(out_dirs) != 1:
        raise UserError(f"--vis_only: got {len(out_dirs)} --out_dir, allowed: one run of `profile`")
    record = Record.of(out_dirs[0], "profile")
    for path in draw(record, record.read_history()):
        print(path)
    print(record.path)
    return 0


# The table -------------------------------------------------------------------------------------------------------------------------------


def table(rows) -> list[str]:
    """The dearest operators, the groups, and the lengths, in at most 120 columns."""
    whole = next((r["value"] for r in rows if r["form"] == "whole step"), None)
    lines = [f"{'operator':<58}{'group':<20}{'ms a step':>10}{'share':>8}{'quartiles':>20}"]
    found = sorted((r for r in rows if r["panel"] == "operators"), key=lambda r: -r["value"])
    lines += [f"{shorten(r['op'], 56):<58}{r['form']:<20}{cells(r, whole)}" for r in found[:ROWS_SHOWN]]
    rest = found[ROWS_SHOWN:]
    if rest:
        lines.append(f"{str(len(rest)) + ' more, in results.csv':<78}{sum(r['value'] for r in rest):>10.3f}")
    lines += ["", f"{'group':<78}{'ms a step':>10}{'share':>8}{'quartiles':>20}"]
    lines += [f"{r['form']:<78}{cells(r, whole)}" for r in rows if r["panel"] == "groups"]
    lines += [f"{'drawing a batch (before the step)':<78}{cells(r, whole)}" for r in rows if r["panel"] == "data"]
    return lines + length_table(rows)


def cells(row: dict, whole: float | None) -> str:
    share = f"{row['value'] / whole:>8.1%}" if whole else " " * 8
    quartiles = f"{row['q1']:.3f} to {row['q3']:.3f}"
    return f"{row['value']:>10.3f}{share}{quartiles:>20}"


def length_table(rows) -> list[str]:
    found = [r for r in rows if r["panel"] == "length"]
    if not found:
        return []
    lines = ["", f"{'length':>10}{'rows':>8}{'tokens':>10}{'ms a step':>14}{'us a token':>14}{'peak MiB':>12}"]
    for length in sorted({r["x"] for r in found}, key=lambda x: x or 0):
        at = {r["metric"]: r for r in found if r["x"] == length}
        broken = next((r for r in at.values() if r["status"] != "ok"), None)
        if broken is not None:
            lines.append(f"{'' if length is None else format(length, ','):>10}  {broken['note']}")
            continue
        if len(at) == 3:
            step, token, peak = at["step_ms"], at["token_us"], at["peak_bytes"]
            lines.append(
                f"{length:>10,}{step['batch']:>8,}{step['tokens']:>10,}{step['value']:>14.3f}{token['value']:>14.3f}{peak['value'] / 2**20:>12.2f}"
            )
    return lines + growth(found)


def growth(rows) -> list[str]:
    """How the time of a sequence grows with its length, in words; nothing below three lengths."""
    from src.stats.exponents import TAIL, fit

    timed = {r["x"]: r for r in rows if r["metric"] == "step_ms" and r["status"] == "ok"}
    found = (
        fit({x: r["values"] for x, r in timed.items()}, share={x: r["batch"] for x, r in timed.items()})
        if timed
        else None
    )
    if found is None or found.exponent is None:
        return []
    end = f", over the {TAIL} longest ~ length^{found.tail:.2f}" if len(found.used) > TAIL else ""
    return [
        f"time a sequence ~ length^{found.exponent:.2f} [{found.low:.2f}, {found.high:.2f}]{end}; a step's fixed cost is in it, `speed` holds it apart"
    ]


def shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 4] + " ..."
