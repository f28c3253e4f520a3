"""`compare --cost`: a record of `speed` of the models that are compared, at the sizes that they have there.

    words(cells), notes(cells)                            # lines of the plan
    code = measure_cost(home, comparison, cells, quiet)   # into home/speed, after the runs, alone on the machine

Each model is measured with the resolved flags of its cell: widths, depth, block, positions, and its own flags. Where
tasks or settings give it different ones, those of the first task and setting count, and `notes` says so. The labels are
those of the comparison. A finished record of the same measurement is kept.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from src.flags.fields import default_of, own_config
from src.flags.kinds import as_text
from src.measure.progress import words as time_words
from src.measure.speed.entries import model_flags
from src.measure.speed.plan import SpeedConfig, digest
from src.measure.speed.subjects import DEFAULTS, MATCH
from src.storage.files import open_sealed
from src.storage.record import Record
from src.study import parts as processes
from src.study.comparison.cells import Cell
from src.study.comparison.request import Comparison
from src.study.plan import Part, TimeLeft

FOLDER = "speed"
OK, FAILED, INTERRUPTED = 0, 1, 130
# What the page of a comparison shows against length, in a few minutes for four small models on two cores.
PANELS = ("train", "memory", "decode")
LENGTHS = (64, 128, 256, 512, 1024)
BATCH_TOKENS = 2048
DECODE_BATCHES = (1,)
CELL_SECONDS = 2.0
# A guess for the plan: the command's start, and a cell with the memory that is measured before its time.
START_SECONDS, SECONDS_PER_CELL = 15.0, 1.5


def words(cells: Sequence[Cell]) -> str:
    """'--cost: about 2:03 more, after the runs: ...'."""
    return (
        f"--cost: about {time_words(seconds_of(len(_measured(cells))))} more, after the runs: training, memory and "
        f"decoding at {LENGTHS[0]} to {LENGTHS[-1]:,} tokens, at the sizes of this comparison"
    )


def notes(cells: Sequence[Cell]) -> list[str]:
    """One line that says which sizes are measured, where tasks or settings give a model different ones."""
    first, *rest = dict.fromkeys(cell.group for cell in cells)
    wanted = {cell.model: flags_of(cell) for cell in _measured(cells)}
    other = {cell.group for cell in cells if flags_of(cell) != wanted[cell.model]}
    if not other:
        return []
    names = "; ".join(", ".join(filter(None, group)) for group in rest if group in other)
    where = ", ".join(filter(None, first))
    return [f"--cost measures the models as they are in: {where}; their sizes, blocks or positions differ in: {names}"]


def seconds_of(models: int) -> float:
    """Seconds that the measurement of so many small models takes."""
    return START_SECONDS + models * len(PANELS) * (1 + len(LENGTHS)) * SECONDS_PER_CELL


def measure_cost(home: Path, comparison: Comparison, cells: Sequence[Cell], quiet: bool) -> int:
    """Measure what is missing in home/speed; returns 0, 1 after an error, which is said, or 130 after Ctrl-C.

    UserError for a record that was altered, or a folder that holds something else.
    """
    measured = _measured(cells)
    part = Part("cost", FOLDER, command(comparison, measured), seconds_of(len(measured)))
    work = processes.Parts([part], home, quiet, processes.one_by_one)
    if not _is_same(home / FOLDER, comparison, measured):
        work.clear()
    try:
        work.run(TimeLeft(quiet))
    except KeyboardInterrupt:
        return INTERRUPTED
    for why in work.failed.values():
        print(f"error: {why}; the same command with --out_dir {home} tries it again", file=sys.stderr)
    return FAILED if work.failed else OK


def command(comparison: Comparison, cells: Sequence[Cell]) -> tuple[str, ...]:
    """The words of `speed` for these cells, one per model, without --out_dir."""
    config, args = _config(comparison, cells), cells[0].setup.args
    return (
        "speed",
        *("--model", *config.model, "--labels", *(cell.model for cell in cells)),
        *("--panel", ",".join(config.panel), "--lengths", ",".join(map(str, config.lengths))),
        *("--batch_tokens", str(config.batch_tokens), "--cell_seconds", f"{config.cell_seconds:g}"),
        *("--decode_batches", ",".join(map(str, config.decode_batches))),
        *(word for name, value in _machine(comparison, args).items() for word in (f"--{name}", as_text(value))),
    )


def _config(comparison: Comparison, cells: Sequence[Cell]) -> SpeedConfig:
    names = {side.label: side.name for side in comparison.models}
    models = tuple(" ".join(shlex.join([names[cell.model], *flags_of(cell)]).split()) for cell in cells)
    return SpeedConfig(
        model=models,
        panel=PANELS,
        lengths=LENGTHS,
        batch_tokens=BATCH_TOKENS,
        decode_batches=DECODE_BATCHES,
        cell_seconds=CELL_SECONDS,
    )


def _machine(comparison: Comparison, args) -> dict:
    """The flags of the machine: those of the runs."""
    return {
        "precision": args.precision,
        "device": args.device,
        "threads": comparison.threads,
        "backend": args.backend,
        "compile": args.compile,
    }


def flags_of(cell: Cell) -> list[str]:
    """The resolved flags of a cell's model, as far as they are not what `speed` has without them."""
    found = []
    for part in filter(None, (model_flags(), own_config(cell.setup.model_class))):
        for f in dataclasses.fields(part):
            value = getattr(cell.setup.args, f.name)
            is_default = (
                value == DEFAULTS.get(f.name, default_of(f)) and f.name != "layers"
            )  # the class is made of them
            if f.name not in MATCH and not is_default:
                text = repr(value) if isinstance(value, float) else as_text(value)
                found += [f"--{f.name}={text}"] if text.startswith("-") or not text else [f"--{f.name}", text]
    return found


def _measured(cells: Sequence[Cell]) -> list[Cell]:
    """The cells of the first task and setting, one per model."""
    return [cell for cell in cells if cell.group == cells[0].group]


def _is_same(folder: Path, comparison: Comparison, cells: Sequence[Cell]) -> bool:
    """Whether a record there was begun by the same command, with the same files of the user's own."""
    record = Record(folder)
    if not record.exists:
        return False
    stored = open_sealed(record.config).get("settings", {})
    config = {k: v for k, v in dataclasses.asdict(_config(comparison, cells)).items() if k != "labels"}
    asked = json.loads(json.dumps({**config, **_machine(comparison, cells[0].setup.args)}))
    names = {side.label: side.name for side in comparison.models}
    files = {cell.model: digest(names[cell.model]) for cell in cells}
    models = stored.get("models", {})
    return {name: stored.get(name) for name in asked} == asked and {m: models[m].get("file") for m in models} == files
