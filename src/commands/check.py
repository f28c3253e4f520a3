"""`benchmark.py check --model NAME|FILE.py`: the admission gate for a sequence layer, in seconds and before any training.

    python benchmark.py check --model my_layer.py
    python benchmark.py check --model transformer --pos rope
    python benchmark.py check --model my_layer.py --strict --json

Builds the layer small, with random weights, and looks whether it is causal, whether prefill and step equal forward, whether rows, padding and
earlier calls leak, whether odd shapes, bf16 and extreme inputs work, whether its gradients are right and none is dead, and whether it repeats,
saves and initialises itself; then measures what it costs. Each row: what was found, what is allowed (relative to the logits' spread where
nothing else is said). Exit code 4 when a check fails.

--strict fails as well: a skipped check, decoding by replay, a time or memory exponent in T above 1.3, and a step that is more than 1.3 times
dearer late than early. Time on a busy machine is rough: repeat a verdict that hangs on it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

from src.flags.fields import ModelConfig, UserError, option, own_config, resolve
from src.flags.parser import Parser, add_flags, first_look, read_flags
from src.flags.registry import is_path

# Wide enough for two heads, deep enough that one layer feeds another, and small enough for seconds.
DEFAULTS = {"d_model": 32, "n_layer": 2, "n_head": 2, "dropout": 0.0}
ONLY_TRAIN = ("match_params", "match_state")
WIDTHS = {"check": 38, "result": 9, "measured": 12, "allowed": 9}
WIDTH = 120


@dataclass(frozen=True)
class CheckConfig:
    """check"""

    strict: bool = option(False, "a skipped check, replay, steep growth and dearer steps fail too")
    json: bool = option(False, "print the results as JSON and nothing else")
    seed: int = option(0, "seed of weights and tokens", least=0, most=2**31 - 1)
    threads: int = option(0, "CPU threads; 0 = torch's choice", least=0, most=1024)
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    backend: str = option("auto", "kernels: auto, NAME for all ops that have it, or op=NAME,...")


class _NoTask:
    """A task without flags: the gate needs none."""

    Config = None


def main(argv: list[str]) -> int:
    seen = first_look(argv)
    if seen.model is None and not seen.help:
        raise UserError("check: no --model given, allowed: a name from `list`, or a path to your own .py file")
    with contextlib.redirect_stdout(sys.stderr):  # what a user's file prints must not stand in the JSON
        model_class = None if seen.model is None else load(seen)
    parser, parts = parser_for(model_class)
    if seen.help:
        parser.print_help()
        return 0
    config, given = read(parser, argv, parts)
    began = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        results = judge(model_class, config, given)
    report(config, given, results, time.perf_counter() - began)
    return 4 if any(r.status == "fail" for r in results) else 0


def load(seen):
    """The class behind --model; UserError where there is none."""
    from src.setup.classes import find_model

    return find_model(seen.model, seen.layers)


def parser_for(model_class) -> tuple[Parser, list]:
    """The parser of this command for a model (None: shared flags only), and the dataclasses whose fields are its flags."""
    parser = Parser(prog="benchmark.py check", description=__doc__, scope="for this command and model")
    parts = [CheckConfig, ModelConfig]
    add_flags(parser, CheckConfig, CheckConfig.__doc__)
    add_flags(parser, ModelConfig, ModelConfig.__doc__, DEFAULTS)
    own = own_config(model_class)
    if own is not None:
        add_flags(parser, own, f"model {model_class.__name__}")
        parts.append(own)
    return parser, parts


def read(parser: Parser, argv: list[str], parts) -> tuple[CheckConfig, dict]:
    """The settings of the gate, and the typed flags of the model."""
    values = read_flags(parser.parse_strict(argv), parts)
    for name in ONLY_TRAIN:
        if name in values:
            raise UserError(f"--{name}: only goes with `train`; the gate builds a small model")
    if values.get("dropout"):
        raise UserError(f"--dropout: got {values['dropout']}, allowed: 0; what is compared must not be random")
    own = {f.name for f in dataclasses.fields(CheckConfig)}
    return CheckConfig(**{k: v for k, v in values.items() if k in own}), {
        k: v for k, v in values.items() if k not in own
    }


def judge(model_class, config: CheckConfig, given: dict) -> list:
    """The results of all checks; UserError where the model cannot be built at all."""
    from src import checks
    from src.checks.base import Subject
    from src.models.backbone import resolve_auto
    from src.setup.classes import blaming
    from src.setup.plan import set_threads
    from src.storage import env

    set_threads(config.threads)
    device = env.resolve_device(config.device)
    shared = {
        "seed": config.seed,
        "threads": config.threads,
        "device": str(device),
        "backend": config.backend,
        "precision": "fp32",
    }
    args = resolve_auto(model_class, resolve(_NoTask, model_class, preset=DEFAULTS, **shared, **given))
    subject = Subject(model_class, args, device, seed=config.seed)
    name = given["model"]
    with blaming("model", str(Path(name).resolve()) if is_path(name) else name):  # whole, as a traceback has it
        subject.model()
    results = checks.run(subject)
    return checks.strict(results) if config.strict else results


def report(config: CheckConfig, given: dict, results, seconds: float) -> None:
    """The table and its verdict, or JSON alone."""
    failed = [r for r in results if r.status == "fail"]
    if config.json:
        rows = [{k: plain(v) for k, v in dataclasses.asdict(r).items()} for r in results]
        print(
            json.dumps(
                {
                    "schema": 1,
                    "model": given["model"],
                    "flags": {k: list(v) if isinstance(v, tuple) else v for k, v in given.items()},
                    "strict": config.strict,
                    "verdict": "fail" if failed else "pass",
                    "seconds": round(seconds, 2),
                    "results": rows,
                },
                indent=1,
            )
        )
        return
    for line in table(results):
        print(line)
    count = {status: sum(r.status == status for r in results) for status in ("pass", "fail", "skipped", "measured")}
    names = f" ({', '.join(r.name for r in failed[:4])}{', ...' if len(failed) > 4 else ''})" if failed else ""
    print(
        f"\n{'FAIL' if failed else 'pass'}: {given['model']}: {count['pass']} passed, {count['fail']} failed{names}, {count['skipped']} skipped, "
        f"{count['measured']} measured, {seconds:.1f} s"
    )


def plain(value):
    """A value that JSON has: a number that is not finite becomes its name."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def table(results) -> list[str]:
    """Lines of at most WIDTH columns, the notes wrapped, a heading for each group."""
    indent = 2 + sum(WIDTHS.values())
    lines = ["  " + "".join(name.ljust(width) for name, width in WIDTHS.items()) + "note"]
    group = None
    for r in results:
        if r.group != group:
            group = r.group
            lines.append(group)
        cells = (r.name, "FAIL" if r.status == "fail" else r.status, show(r.value), show(r.tolerance))
        head = "  " + "".join(
            (cell + " " if len(cell) >= width else cell).ljust(width)
            for cell, width in zip(cells, WIDTHS.values(), strict=True)
        )
        notes = textwrap.wrap(r.note, WIDTH - indent) or [""]
        lines += [(head + notes[0]).rstrip(), *(" " * indent + note for note in notes[1:])]
    return lines


def show(value) -> str:
    """A table's cell."""
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if isinstance(value, float) else str(value)
