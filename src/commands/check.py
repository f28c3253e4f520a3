"""`benchmark.py check --model NAME|FILE.py`: checks a sequence layer in seconds, before any training.

    python benchmark.py check --model my_layer.py
    python benchmark.py check --model transformer --pos rope
    python benchmark.py check --model my_layer.py --strict --json

Builds a small model with random weights. Is the layer causal? Do prefill and step equal forward? Do other rows, padding
or earlier calls change a result? Does it work with odd shapes, bf16 and extreme inputs? Are its gradients right? Does
it repeat, save and initialise itself? At the end its cost is measured.

Each row shows the measured value, the largest allowed value, and what was seen. Differences of logits are relative to
their standard deviation. The exit code is 4 when a check fails.

--strict fails as well: a skipped check, decoding by replay, an exponent of time or memory in T above 1.3, and a state
that is more than 1.3 times larger, or a step more than 1.3 times slower, at a late position than at an early one.
Times on a busy machine are rough, so repeat a run that fails on them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass

from src.flags.fields import UserError, option, own_config
from src.flags.groups import TORCH_THREADS, ModelConfig, machine_flags
from src.flags.kinds import to_json
from src.flags.own_files import absolute
from src.flags.parser import Parser, add_flags, first_look, read_flags
from src.flags.registry import is_path
from src.flags.run_flags import resolve

# Large enough for two heads and for one layer that feeds another, small enough for seconds.
DEFAULTS = {"d_model": 32, "n_layer": 2, "n_head": 2, "dropout": 0.0}
ONLY_TRAIN = ("match_params", "match_count", "match_state")
WIDTHS = {"check": 38, "result": 9, "measured": 12, "allowed": 9}
WIDTH = 120
FIRST = 21  # tokens of the first pass, which finds wrong shapes and dtypes
GUESS = 0.5  # seconds per check, for the time left before a check of the same group has run


SEED = option(0, "seed of weights and tokens", least=0, most=2**31 - 1)


@dataclass(frozen=True)
class CheckConfig(machine_flags("device", "backend", threads=TORCH_THREADS, seed=SEED)):
    """check"""

    length: int = option(0, "tokens of the longest sequence of a run, tried as well; 0 = none", least=0, most=1 << 16)
    batch_size: int = option(0, "rows of the batch of a run, tried as well; 0 = none", least=0, most=1 << 16)
    strict: bool = option(False, "a skipped check, replay, steep growth and slower late steps fail too")
    json: bool = option(False, "print the results as JSON and nothing else")
    quiet: bool = option(False, "no progress, only the results")


class _NoTask:
    """A task without flags, because the checks need no task."""

    Config = None


def main(argv: list[str]) -> int:
    seen = first_look(argv)
    if seen.model is None and not seen.help:
        raise UserError("check: no --model given, allowed: a name from `list`, or a path to your own .py file")
    model_class = None if seen.model is None else load(seen)
    parser, parts = parser_for(model_class)
    if seen.help:
        parser.print_help()
        return 0
    config, given = read(parser, argv, parts)
    began = time.perf_counter()
    results = judge(model_class, config, given)
    seconds = time.perf_counter() - began
    if config.json:
        print(json.dumps(document(config, given, results, seconds), indent=1))
    else:
        print("\n".join([*table(results), "", verdict(given["model"], results, seconds)]))
    return 4 if failed(results) else 0


def load(seen):
    """The class that --model names. UserError where there is none."""
    from src.setup.classes import find_model

    return find_model(seen.model, seen.layers)


def parser_for(model_class) -> tuple[Parser, list]:
    """The parser of this command and the dataclasses that hold its flags. Without a model: shared flags alone."""
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
    """The settings of this command, and the flags of the model that were typed."""
    values = read_flags(parser.parse_strict(argv), parts)
    for name in ONLY_TRAIN:
        if name in values:
            raise UserError(f"--{name}: only goes with `train`; `check` builds a small model")
    for name in ("dropout", "embed_dropout", "attn_dropout"):
        if values.get(name, 0) > 0:
            raise UserError(f"--{name}: got {values[name]}, allowed: 0; passes that are compared must not be random")
    own = {f.name for f in dataclasses.fields(CheckConfig)}
    return CheckConfig(**{k: v for k, v in values.items() if k in own}), {
        k: v for k, v in values.items() if k not in own
    }


def judge(model_class, config: CheckConfig, given: dict) -> list:
    """The results of all checks. UserError where the model cannot be built, or returns no logits at all.

    The first pass comes before the checks, because a fault in it would fill the table with one and the same error.
    """
    from src import checks
    from src.checks.base import LONGEST, Subject
    from src.models.backbone import resolve_auto
    from src.setup.classes import blaming
    from src.setup.forms import check_forms
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
    lengths = (config.length,) if config.length else ()
    subject = Subject(
        model_class,
        args,
        device,
        longest=max(LONGEST, config.length),
        seed=config.seed,
        run_lengths=lengths,
        run_batch=config.batch_size,
    )
    name = given["model"]
    path = str(absolute(name)) if is_path(name) else name  # the whole path, as in a traceback
    with blaming("model", path), checks.exact_float32():
        model = subject.model()
        longest = model.max_len or subject.longest
        check_forms(name, model, subject.tokens(2, min(FIRST, longest)), subject.vocab_size)
    subject = dataclasses.replace(subject, longest=min(subject.longest, longest))
    kinds = [group for group, functions in checks.CHECKS.items() for _ in functions]
    with progress_of(kinds, quiet=config.quiet or config.json) as before:
        results = checks.run(subject, before=before)
    return checks.strict(results) if config.strict else results


@contextlib.contextmanager
def progress_of(kinds: list[str], quiet: bool) -> Iterator:
    """Show the progress of the checks on stderr: one bar on a terminal, else one line per group.

    kinds: the group of each check.  Yields the function to call before each check, with its group and its name.
    """
    from src.measure.progress import Progress

    progress = Progress(quiet, GUESS)
    progress.begin(kinds)
    running = []

    def before(group: str, name: str) -> None:
        if running:
            progress.done(running.pop())
        running.append(group)
        progress.now(group, name)

    try:
        yield before
    finally:
        progress.close()


def failed(results) -> list:
    return [r for r in results if r.status == "fail"]


def document(config: CheckConfig, given: dict, results, seconds: float) -> dict:
    """What --json prints."""
    return {
        "schema": 1,
        "model": given["model"],
        "flags": {k: to_json(v) for k, v in given.items()},
        "strict": config.strict,
        "verdict": "fail" if failed(results) else "pass",
        "seconds": round(seconds, 2),
        "results": [{k: plain(v) for k, v in dataclasses.asdict(r).items()} for r in results],
    }


def plain(value):
    """The value as JSON allows it. NaN and inf become text."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def verdict(model: str, results, seconds: float) -> str:
    """The last line: pass or FAIL, and how many results there are of each kind."""
    count = {status: sum(r.status == status for r in results) for status in ("pass", "fail", "skipped", "measured")}
    wrong = [r.name for r in failed(results)]
    names = f" ({', '.join(wrong[:4])}{', ...' if len(wrong) > 4 else ''})" if wrong else ""
    return (
        f"{'FAIL' if wrong else 'pass'}: {model}: {count['pass']} passed, {count['fail']} failed{names}, "
        f"{count['skipped']} skipped, {count['measured']} measured, {seconds:.1f} s"
    )


def table(results) -> list[str]:
    """Lines of at most WIDTH columns with wrapped notes, and a heading for each group."""
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
    """The text of a table cell."""
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if isinstance(value, float) else str(value)
