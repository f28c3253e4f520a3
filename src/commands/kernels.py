"""`benchmark.py kernels --op OP`: the forms of one op side by side: time, GB/s, GFLOP/s, and the roof that this machine puts over them.

    python benchmark.py kernels --op selective_scan
    python benchmark.py kernels --op attention --backends explicit,sdpa --lengths 128,512,2048
    python benchmark.py kernels --op rmsnorm --width 1024 --precision bf16

Ops: attention, causal_conv, selective_scan, linear_attention and delta_rule with their backends, and rmsnorm, softmax and linear. Every form is checked
against the op's definition before it is timed, forward and forward with backward; one that cannot run here is a row that says why. Operations and
bytes are counted by formula (src/measure/kernels/subjects.py), the ceilings are a copy and a matrix product measured here. Into the run directory go
results.csv, results.jsonl, history.json and figures; the same command with the same --out_dir continues where it was stopped.
"""

from __future__ import annotations

from dataclasses import dataclass

from src.flags.fields import UserError, option, suggest, to_dict
from src.flags.parser import Parser, add_flags, read_flags
from src.ops.backends import OPS

SIMPLE = ("rmsnorm", "softmax", "linear")
NAMES = (*OPS, *SIMPLE)
INTRODUCTION = f"{__doc__.strip()}\n"
PASSES = ("forward", "forward+backward")


@dataclass(frozen=True)
class KernelsConfig:
    """kernels"""

    op: str = option("", "the op to measure", choices=NAMES)
    backends: tuple[str, ...] = option((), "forms to measure; default: all of the op's")
    lengths: tuple[int, ...] = option((128, 512, 2048), "tokens of a sequence, T")
    batch_tokens: int = option(4096, "tokens a call: B = batch_tokens / T, at least 1", least=1)
    width: int = option(256, "channels E or D, of selective_scan, causal_conv, rmsnorm, softmax, linear", least=1)
    heads: int = option(4, "heads H, of attention, linear_attention, delta_rule", least=1)
    head_dim: int = option(64, "size K of a head", least=1)
    state: int = option(16, "states N a channel, of selective_scan", least=1)
    precision: str = option("fp32", "of inputs and outputs", choices=("fp32", "bf16", "fp16"))
    cell_seconds: float = option(2.0, "seconds of timing for each form, pass and length", above=0.0, most=3600.0)
    threads: int = option(0, "CPU threads; 0 = torch's choice", least=0, most=1024)
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    seed: int = option(1337, "seed of the inputs", least=0, most=2**31 - 1)


@dataclass(frozen=True)
class PlaceConfig:
    """control"""

    out_dir: str = option("", "run directory; default runs/<timestamp>")
    overwrite: bool = option(False, "replace what is in --out_dir")
    vis_only: bool = option(False, "redraw the figures of --out_dir, without torch")
    quiet: bool = option(False, "no progress and no table, only the run directory")


def main(argv: list[str]) -> int:
    parser = Parser(
        prog="benchmark.py kernels",
        usage="python benchmark.py kernels --op OP [--flag value ...]",
        description=INTRODUCTION,
        scope="for kernels",
    )
    for part in (KernelsConfig, PlaceConfig):
        add_flags(parser, part, part.__doc__)
    namespace = parser.parse_strict(argv)
    config, place = (part(**read_flags(namespace, [part])) for part in (KernelsConfig, PlaceConfig))
    if place.vis_only:
        return redraw(place)
    if not config.op:
        raise UserError(f"--op: none given, allowed: {', '.join(NAMES)}")
    return start(config, place, argv)


def start(config: KernelsConfig, place: PlaceConfig, argv: list[str]) -> int:
    """Everything that can be wrong is found before the first file is written."""
    from src.measure.kernels import bench as suite
    from src.measure.progress import Progress
    from src.measure.session import conduct, say_interrupted
    from src.setup.plan import set_threads
    from src.storage import env
    from src.storage.record import INTERRUPTED, Record

    device = env.resolve_device(config.device)
    env.resolve_precision(config.precision, device)
    threads = set_threads(config.threads)
    plan = make_plan(config, device, threads)
    settings = {**to_dict(config), "threads": threads, "device": str(device), "backends": list(plan.forms)}
    Record.check_dir("kernels", place.out_dir, settings, place.overwrite)
    record = Record.open_for("kernels", place.out_dir, settings, place.overwrite)
    title = title_of(config, plan)

    def work(progress):
        progress.begin([""] * suite.steps_of(plan))
        suite.bench(plan, record, progress.next)

    def finish(status):
        draw(record, record.finish({"title": title, "formula": plan.subject.formula}, status))

    facts = env.collect(settings, device, (config.precision, "asked for"), {config.op: list(plan.forms)})
    if conduct(record, settings, facts, work, finish, Progress(place.quiet, config.cell_seconds)) == INTERRUPTED:
        return say_interrupted(record, argv)
    if not place.quiet:
        print("\n".join(table(record.rows, plan.subject)))
    print(record.path)
    return 4 if any(row["status"] == "gate failed" for row in record.rows) else 0


def make_plan(config: KernelsConfig, device, threads: int):
    """The shapes and forms that the flags mean; UserError for a form that no op has, or a length that is none."""
    from src.measure.kernels import bench as suite
    from src.measure.kernels.contract import Shape
    from src.measure.kernels.subjects import SUBJECTS, known_names
    from src.measure.session import machine_fields
    from src.measure.timing import Limits

    subject = SUBJECTS[config.op]
    for name in config.backends:
        if name not in known_names():
            raise UserError(
                f"--backends: unknown form '{name}' of {config.op}, allowed: {', '.join(subject.forms)}{suggest(name, subject.forms)}"
            )
    if not config.lengths or min(config.lengths) < 1:
        raise UserError(f"--lengths: got {','.join(map(str, config.lengths))}, allowed: whole numbers >= 1")
    shapes = tuple(
        Shape(max(1, config.batch_tokens // T), T, config.width, config.heads, config.head_dim, config.state)
        for T in sorted(set(config.lengths))
    )
    forms = tuple(dict.fromkeys(config.backends)) or tuple(subject.forms)
    machine = {**machine_fields(device, threads, config.precision), "seed": config.seed}
    return suite.Plan(
        subject, shapes, forms, device, config.precision, config.seed, Limits(config.cell_seconds), machine
    )


def title_of(config: KernelsConfig, plan) -> str:
    dims = {"width": "width", "heads": "heads", "head_dim": "head size", "state": "states"}
    sizes = ", ".join(f"{dims[name]} {getattr(config, name)}" for name in plan.subject.dims)
    threads = plan.machine["threads"]
    return f"{config.op} · {sizes} · {config.precision} on {plan.machine['device']}, {threads} thread{'s' if threads > 1 else ''}"


def draw(record, history: dict):
    from src.figures import kernels as kernel_figures

    return kernel_figures.draw_kernels(history, record.figures)


def redraw(place: PlaceConfig) -> int:
    from src.storage.record import Record

    if not place.out_dir:
        raise UserError("--vis_only: no --out_dir given; name a run of `kernels`")
    record = Record.of(place.out_dir, "kernels")
    for path in draw(record, record.read_history()):
        print(path)
    print(record.path)
    return 0


# The table -------------------------------------------------------------------------------------------------------------------------------


def table(rows, subject) -> list[str]:
    """Ceilings, then each pass and length: its forms, the fastest first; at the end those without a time, with the reason."""
    from src.measure.kernels.bench import ceilings_of

    ceilings = ceilings_of(rows)
    lines = [
        f"ceilings here: copy {ceilings.bytes_per_s / 1e9:.1f} GB/s, matrix product {ceilings.operations_per_s / 1e9:.1f} GFLOP/s (medians)",
        f"operations of {subject.name}: {subject.formula}",
    ]
    found = [row for row in rows if row["op"] == subject.name]
    for which in PASSES:
        lines += [
            "",
            f"{which:<18}{'T':>8}{'ms':>12}{'quartiles':>22}{'GB/s':>9}{'GFLOP/s':>10}{'of roof':>9}{'x plain':>9}{'first ms':>11}",
        ]
        for length in sorted({row["x"] for row in found}):
            lines += lines_at([row for row in found if row["form"] == which and row["x"] == length], subject, ceilings)
    lost = {}
    for row in found:
        if row["status"] != "ok":
            lost.setdefault(f"{row['backend']}: {row['status']}: {row['note']}", []).append(
                f"{row['x']:,} {row['form']}"
            )
    return lines + [""] * bool(lost) + [f"no time for {what} (T {', '.join(where)})" for what, where in lost.items()]


def lines_at(rows, subject, ceilings) -> list[str]:
    """The lines of one pass and length."""
    by_form: dict = {}
    for row in rows:
        by_form.setdefault(row["backend"], {})[row["metric"]] = row
    timed = {name: cells for name, cells in by_form.items() if cells["ms"]["status"] == "ok"}
    plain = timed[subject.plain]["ms"]["value"] if subject.plain in timed else None
    lines = []
    for name, cells in sorted(timed.items(), key=lambda item: item[1]["ms"]["value"]):
        ms, rate = cells["ms"], cells["gflop_per_s"]["value"]
        roof = ceilings.roof(ms["settings"]["operations"] / ms["settings"]["bytes"]) / 1e9
        quartiles = f"{ms['q1']:.4g} to {ms['q3']:.4g}"
        ratio = f"{plain / ms['value']:.2f}" if plain else ""
        lines.append(
            f"  {name:<16}{ms['x']:>8,}{ms['value']:>12.4g}{quartiles:>22}{cells['gb_per_s']['value']:>9.3g}{rate:>10.4g}{rate / roof:>9.1%}{ratio:>9}"
            f"{ms['first_ms']:>11.4g}"
        )
    return lines
