"""`benchmark.py kernels --op OP`: the forms of one op side by side, under the roofline of this machine.

    python benchmark.py kernels --op selective_scan
    python benchmark.py kernels --op attention --backends explicit,sdpa --lengths 128,512,2048
    python benchmark.py kernels --op rmsnorm --width 1024 --precision bf16

Ops: all of src/ops with their backends. Those that torch has too (rmsnorm, swiglu, rope, softmax, linear) are also
measured under torch.compile. For each form: time, GB/s and GFLOP/s, forward and forward with backward. A form is timed
only if it agrees with the op's definition. A form that cannot run here gets a row that says why.

Operations and bytes are counted by formula (src/measure/kernels/subjects.py). The ceilings are a copy and a matrix
product, measured here. The run directory gets results.csv, results.jsonl, history.json and figures. The same command
with the same --out_dir continues after an interrupt.
"""

from __future__ import annotations

from dataclasses import dataclass

from src.flags.fields import UserError, option, suggest
from src.flags.groups import TORCH_THREADS, MeasureControl, machine_flags
from src.flags.parser import Parser, add_flags, read_flags
from src.flags.run_flags import to_dict
from src.ops.backends import OPS

KIND = "kernels"
NAMES = tuple(OPS)


@dataclass(frozen=True)
class KernelsConfig:
    """kernels"""

    op: str = option("", "the op to measure", choices=NAMES)
    backends: tuple[str, ...] = option((), "forms to measure; default: all of the op's")
    lengths: tuple[int, ...] = option((128, 512, 2048), "tokens of a sequence, T")
    batch_tokens: int = option(4096, "tokens per call: B = batch_tokens / T, at least 1", least=1)
    width: int = option(256, "channels E or D, of the ops without heads", least=1)
    heads: int = option(4, "heads H, of attention, linear_attention, delta_rule, rope", least=1)
    head_dim: int = option(64, "size K of a head", least=1)
    state: int = option(16, "states N per channel, of selective_scan", least=1)
    cell_seconds: float = option(2.0, "seconds of timing for each form, pass and length", above=0.0, most=3600.0)


KernelsMachine = machine_flags(
    "device",
    threads=TORCH_THREADS,
    precision=option("fp32", "of inputs and outputs", choices=("fp32", "bf16", "fp16")),
    seed="seed of the inputs",
)
PARTS = (KernelsConfig, KernelsMachine, MeasureControl)


def main(argv: list[str]) -> int:
    parser = Parser(
        prog="benchmark.py kernels",
        usage="python benchmark.py kernels --op OP [--flag value ...]",
        description=__doc__,
        scope="for kernels",
    )
    for part in PARTS:
        add_flags(parser, part, part.__doc__)
    namespace = parser.parse_strict(argv)
    config, machine, control = (part(**read_flags(namespace, [part])) for part in PARTS)
    if control.vis_only:
        return redraw(control)
    if not config.op:
        raise UserError(f"--op: none given, allowed: {', '.join(NAMES)}")
    return measure(argv, config, machine, control)


def measure(argv: list[str], config: KernelsConfig, machine, control: MeasureControl) -> int:
    """Everything that can be wrong is found before the first file is written."""
    from src.measure.kernels.bench import bench, steps_of
    from src.measure.kernels.report import table
    from src.measure.progress import Progress
    from src.measure.session import conduct, say_interrupted
    from src.setup.plan import set_threads
    from src.storage import env
    from src.storage.record import INTERRUPTED, Record

    device = env.resolve_device(machine.device)
    env.resolve_precision(machine.precision, device)
    threads = set_threads(machine.threads)
    plan = make_plan(config, machine, device, threads)
    settings = {
        **to_dict(config),
        **to_dict(machine),
        "threads": threads,
        "device": str(device),
        "backends": list(plan.forms),
    }
    Record.check_dir(KIND, control.out_dir, settings, control.overwrite)
    record = Record.open_for(KIND, control.out_dir, settings, control.overwrite)
    title = title_of(config, plan)

    def work(progress):
        progress.begin([""] * steps_of(plan))
        bench(plan, record, progress.next)

    def finish(status):
        draw(record, record.finish({"title": title, "formula": plan.subject.formula}, status))

    facts = env.collect(settings, device, (machine.precision, "asked for"), {config.op: list(plan.forms)})
    if conduct(record, settings, facts, work, finish, Progress(control.quiet, config.cell_seconds)) == INTERRUPTED:
        return say_interrupted(record, argv)
    if not control.quiet:
        print("\n".join(table(record.rows, plan.subject)))
    print(record.path)
    return 4 if any(row["status"] == "gate failed" for row in record.rows) else 0


def make_plan(config: KernelsConfig, machine, device, threads: int):
    """The shapes and forms that the flags name; UserError for an unknown form or a length below 1."""
    from src.measure.kernels.bench import Plan
    from src.measure.kernels.contract import Shape
    from src.measure.kernels.subjects import SUBJECTS, known_names
    from src.measure.session import machine_fields
    from src.measure.timing import Limits

    subject = SUBJECTS[config.op]
    for name in config.backends:
        if name not in known_names():
            allowed = f"{', '.join(subject.forms)}{suggest(name, subject.forms)}"
            raise UserError(f"--backends: unknown form '{name}' of {config.op}, allowed: {allowed}")
    if not config.lengths or min(config.lengths) < 1:
        raise UserError(f"--lengths: got {','.join(map(str, config.lengths))}, allowed: whole numbers >= 1")
    if config.op == "rope" and config.head_dim % 2:
        raise UserError(f"--head_dim: got {config.head_dim}, allowed: an even number, because rope rotates pairs")
    shapes = tuple(
        Shape(max(1, config.batch_tokens // T), T, config.width, config.heads, config.head_dim, config.state)
        for T in sorted(set(config.lengths))
    )
    forms = tuple(dict.fromkeys(config.backends)) or tuple(subject.forms)
    fields = {**machine_fields(device, threads, machine.precision), "seed": machine.seed}
    return Plan(subject, shapes, forms, device, machine.precision, machine.seed, Limits(config.cell_seconds), fields)


def title_of(config: KernelsConfig, plan) -> str:
    """'softmax · width 256 · fp32 on cpu: ..., 2 threads'."""
    dims = {"width": "width", "heads": "heads", "head_dim": "head size", "state": "states"}
    sizes = ", ".join(f"{dims[name]} {getattr(config, name)}" for name in plan.subject.dims)
    threads = plan.machine["threads"]
    where = f"{plan.precision} on {plan.machine['device']}, {threads} thread{'s' if threads > 1 else ''}"
    return f"{config.op} · {sizes} · {where}"


def draw(record, history: dict):
    from src.figures import kernels as kernel_figures

    return kernel_figures.draw_kernels(history, record.figures)


def redraw(control: MeasureControl) -> int:
    """--vis_only: figures and tables of an existing record, without torch."""
    from src.measure.kernels.report import table
    from src.measure.kernels.subjects import SUBJECTS
    from src.storage.record import Record

    if not control.out_dir:
        raise UserError("--vis_only: no --out_dir given; name a run of `kernels`")
    record = Record.of(control.out_dir, KIND)
    history = record.read_history()
    paths = draw(record, history)
    if not control.quiet:
        for op in dict.fromkeys(row["op"] for row in history["rows"] if row["op"]):
            print("\n".join(table(history["rows"], SUBJECTS[op])))
    for path in paths:
        print(path)
    print(record.path)
    return 0
