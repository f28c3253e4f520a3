"""A finished training run directory as a `Run`: verified, typed, with thinned curves.

    run, typed = read_run(Path("runs/R"))       # typed: the flags that somebody typed, which name it among others

Raises UserError, which names the folder, for a run that is missing, unfinished, edited or not of the schema.
"""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

from src.flags.fields import UserError
from src.flags.kinds import as_text
from src.storage.files import open_sealed, read_json
from src.storage.finished import finished_metrics
from src.storage.rundir import RunDir
from src.study.page import values as v
from src.study.page.evidence import Bin, Origin, Run, Sample

LARGEST_FILE = 256 * 2**20  # bytes
MOST_POINTS = 60  # of one curve
MOST_BINS = 64
MOST_SAMPLES = 8
SAMPLE_BYTES = 200_000  # of samples.txt
NO_LABELS = ("  (at the labelled characters)", "  (· is no character but a special token)")
WRONG = "   (wrong)"
BETWEEN_TEXTS = "\n" + "=" * 80 + "\n"


def read_run(folder: Path) -> tuple[Run, dict]:
    """The run in a folder, with the key (task, model, ""), and the flags that were typed for it."""
    directory = RunDir.open(folder)
    for path in (directory.metrics, directory.config, directory.env):
        check_size(path)
    metrics, config = finished_metrics(directory), open_sealed(directory.config)
    typed = v.part(config, "explicit")
    run = Run(
        key=(v.text(metrics, "task"), v.text(metrics, "model"), ""),
        folder=v.shown(str(folder)),
        name=v.shown(directory.path.resolve().name),
        code_digest=v.text(v.part(config, "files"), "model"),
        command=command_of(typed),
        samples=read_samples(directory.samples),
        origin=read_origin(directory.env),
    )
    return dataclasses.replace(run, **_score(metrics), **_size(metrics), **_curves(metrics), **_setup(metrics)), typed


def check_size(path: Path) -> None:
    """UserError for a file that is larger than any file of this program."""
    if path.is_file() and path.stat().st_size > LARGEST_FILE:
        raise UserError(f"'{path}': got {path.stat().st_size:,} bytes, allowed: {LARGEST_FILE:,}; leave the folder out")


def read_origin(path: Path) -> Origin:
    """Commit, machine and versions of an env.json; UserError if it is missing or damaged."""
    env = read_json(path)
    device, cpu, versions = v.part(env, "device"), v.part(env, "cpu"), v.part(env, "versions")
    dirty = env.get("dirty") if isinstance(env, dict) else None
    return Origin(
        commit=v.text(env, "commit", 40),
        dirty=dirty if isinstance(dirty, bool) else None,
        device=", ".join(filter(None, (v.text(device, "name"), v.text(device, "kind")))),
        platform=v.text(env, "platform"),
        cores=v.count(cpu, "usable_cores"),
        threads=v.count(v.part(env, "threads"), "torch"),
        versions=tuple((v.shown(name), v.text(versions, name)) for name in list(versions)[:20]),
    )


def command_of(typed: dict) -> str:
    """The command line of a run from its typed flags, without its folder."""
    words = []
    for name, value in typed.items():
        words += [f"--{name}"] if value is True else [f"--{name}", shlex.quote(as_text(value))]
    return v.shown(f"python benchmark.py {' '.join(words)}", v.LONGEST_COMMAND).replace("\n", " ")


def read_samples(path: Path) -> tuple[Sample, ...]:
    """The examples of a samples.txt in either of its forms; () without the file."""
    try:
        with open(path, "rb") as file:
            whole = file.read(SAMPLE_BYTES).decode("utf-8", "replace")
    except OSError:
        return ()
    is_text = whole.startswith("prompt\n")
    blocks = whole.split(BETWEEN_TEXTS) if is_text else whole.split("\n\n")
    found = [(_continuation if is_text else _example)(block) for block in blocks]
    return tuple(sample for sample in found if sample is not None)[:MOST_SAMPLES]


def _example(block: str) -> Sample | None:
    """prompt, expected and got on a line each, the word in the first ten columns."""
    parts = {line[:10].strip(): line[10:] for line in block.strip("\n").split("\n")}
    if not {"prompt", "expected", "got"} <= parts.keys():
        return None
    expected, got = parts["expected"], parts["got"]
    is_right = not got.endswith(WRONG)
    for words in (*NO_LABELS, WRONG):
        expected, got = expected.removesuffix(words), got.removesuffix(words)
    return _sample(parts["prompt"], expected, got, is_right and expected == got)


def _continuation(block: str) -> Sample | None:
    """A prompt, the text's own continuation, and that of the model."""
    prompt, _, rest = block.removeprefix("prompt\n").partition("\n--- expected\n")
    expected, _, got = rest.partition("\n--- got")
    return _sample(prompt, expected, got.partition("\n")[2].rstrip("\n"), None) if got else None


def _sample(prompt: str, expected: str, got: str, is_right: bool | None) -> Sample:
    return Sample(*(v.shown(text, v.LONGEST_SAMPLE) for text in (prompt, expected, got)), is_right)


def _score(metrics: dict) -> dict:
    """The fields of the score: of the best weights on test, or chance where the run diverged."""
    primary, result = metrics["primary"], metrics["final_test"] or {}
    chance = max((v.number(level, "primary") or 0.0 for level in metrics["floors"].values()), default=None)
    basis = v.part(v.part(result, "interval_basis"), primary)
    low, high = v.pair(v.part(result, "intervals"), primary)
    return {
        "status": metrics["status"],
        "metric": v.shown(primary),
        "value": v.number(result, primary) if result else chance,
        "low": low,
        "high": high,
        "n": v.count(basis, "units"),
        "unit": v.text(basis, "unit"),
        "scaled": v.number(metrics, "scaled"),
        "chance": chance,
        "ceiling": v.number(metrics, "ceiling"),
        "val_value": v.number(metrics["val"]["best"], primary),
        "steps": v.count(metrics, "steps"),
        "diverged_at": v.count(metrics, "diverged_at"),
        "stopped_at": v.count(metrics, "stopped_at"),
        "solved_at": v.count(v.part(metrics, "solved_at"), "step"),
        "is_language": metrics["kind"] == "language",
        "loss_unit": v.text(v.part(metrics, "data"), "unit") or "character",
        "notes": v.texts(metrics, "notes"),
    }


def _size(metrics: dict) -> dict:
    """The fields of size and cost."""
    machine, state, parameters = metrics["machine"], metrics["decode_state"], metrics["parameters"]
    step = v.number(machine, "step_seconds_median")
    return {
        "chars": v.count(metrics, "chars_seen"),
        "parameters": v.count(parameters, "total"),
        "layers": v.count(parameters, "layers"),
        "state_bytes": v.count(state, "bytes"),
        "cache": v.text(state, "cache"),
        "train_s": v.number(machine, "train_seconds"),
        "step_ms": None if step is None else v.finite(1e3 * step),
        "peak_mib": v.number(machine, "peak_memory_mib"),
    }


def _setup(metrics: dict) -> dict:
    """The fields of what was trained: flags, data, digests."""
    args, data = metrics["args"], metrics["data"]
    block = [v.text(args, "norm"), v.text(args, "mlp") if (v.number(args, "dim_ffn") or 0) > 0 else "no MLP"]
    conv = v.count(args, "short_conv")
    return {
        "seed": v.count(args, "seed"),
        "lr": v.number(args, "lr"),
        "init": v.text(args, "init"),
        "pos": v.text(args, "pos"),
        "block": ", ".join([*filter(None, block), *([f"conv {conv}"] if conv else [])]),
        "precision": v.text(metrics, "precision") or v.text(args, "precision"),
        "threads": v.count(args, "threads"),
        "sees_the_future": v.flag(args, "allow_noncausal"),
        "source": v.text(data, "source"),
        "data_digest": v.text(data, "digest"),
        "result_digest": v.text(metrics, "sha256"),
    }


def _curves(metrics: dict) -> dict:
    """The fields of curves: validation loss, and the score against distance and against length."""
    result = metrics["final_test"] or {}
    gap = v.part(v.part(result, "slices"), "gap")
    lengths = v.records(metrics, "length_curve")
    inside = [n for row in lengths if v.flag(row, "in_distribution") and (n := v.number(row, "length")) is not None]
    return {
        "losses": thin(v.points(metrics["loss_curve"], "val")),
        "gaps": tuple(filter(None, map(_gap_bin, v.records(gap, "bins")[:MOST_BINS]))),
        "gap_label": v.text(gap, "label"),
        "gap_metric": v.text(gap, "metric"),
        "lengths": thin(tuple(filter(None, map(_length_bin, lengths)))) if len(lengths) > 1 else (),
        "trained_to": max(inside, default=None),
    }


def _gap_bin(row: dict) -> Bin | None:
    low, high = v.number(row, "lo"), v.number(row, "hi")
    return None if low is None or high is None else _bin(max(low, (low + high) / 2), row)


def _length_bin(row: dict) -> Bin | None:
    length = v.number(row, "length")
    return None if length is None else _bin(length, row)


def _bin(x: float, row: dict) -> Bin | None:
    value = v.number(row, "value")
    return None if value is None else Bin(x, value, *v.pair(row, "ci"), v.count(row, "count") or 0)


def thin(points: tuple) -> tuple:
    """At most MOST_POINTS of them, evenly chosen, the first and the last included."""
    if len(points) <= MOST_POINTS:
        return points
    return tuple(points[round(i * (len(points) - 1) / (MOST_POINTS - 1))] for i in range(MOST_POINTS))
