"""The plan of a comparison in words: how many runs, the equal terms of each task, and what is to be known first."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from src.measure.progress import words as time_words
from src.study.comparison import cost
from src.study.comparison.budget import run_seconds, seconds_of
from src.study.comparison.cells import Cell, rates_of
from src.study.comparison.request import Comparison

HEAD = ("model", "parameters", "of layers", "state bytes", "init", "positions", "s per run", "block")


def sayer(quiet: bool) -> Callable[[str], None]:
    """A function that shows what is prepared, on one line of a terminal that is written over; else nothing.

    An empty text removes the line.
    """
    if quiet or not sys.stderr.isatty():
        return lambda line: None

    def say(line: str) -> None:
        print(f"\r\033[K{line}{' ...' * bool(line)}", end="", file=sys.stderr, flush=True)

    return say


def lines(comparison: Comparison, cells: Sequence[Cell], notes: Sequence[str], workers: int) -> list[str]:
    """What --plan prints."""
    shown = [*_head(comparison, cells, workers), *([cost.words(cells)] if comparison.config.cost else [])]
    shown.append("")
    for task, setting in dict.fromkeys(cell.group for cell in cells):
        group = [cell for cell in cells if cell.group == (task, setting)]
        shown += [*_group(group, comparison), ""]
    shown += _terms(comparison, cells)
    shown += [
        f"note: {line}" for line in dict.fromkeys((*notes, *(f"{c.model}: {n}" for c in cells for n in _warnings(c))))
    ]
    return shown


def _head(comparison: Comparison, cells: Sequence[Cell], workers: int) -> list[str]:
    config = comparison.config
    trials = sum(len(g) if (g := rates_of([cell], config.lr))[1:] else 0 for cell in cells)
    report = config.seeds * len(cells)
    counts = [
        _count(len(comparison.tasks), "task"),
        _count(len(comparison.models), "model"),
        *([_count(len(comparison.settings), "setting")] if len(comparison.settings) > 1 else []),
    ]
    seeds = ", ".join(map(str, comparison.seeds))
    first = f"comparison: {' x '.join(counts)}: {trials + report} runs"
    if not trials:
        return [
            f"{first}, {_count(config.seeds, 'seed')} ({seeds}) at one learning rate",
            "no tuning: --lr names one rate for every model, which may suit one of them better than another",
            _expected(cells, comparison, workers),
        ]
    more = config.lr_extend * 2 * len(cells)
    extra = f"; at most {more} more where the best rate is at an edge" if more else ""
    return [
        f"{first}: {trials} to choose learning rates (seed {config.tuning_seed}), {report} on seeds {seeds}{extra}",
        _expected(cells, comparison, workers),
    ]


def _expected(cells: Sequence[Cell], comparison: Comparison, workers: int) -> str:
    seconds = seconds_of(cells, comparison) / max(1, workers)
    threads = f"{_count(comparison.threads, 'thread')} each"
    return f"expected time: about {time_words(seconds)} with {_count(workers, 'run')} at the same time, {threads}"


def _group(cells: Sequence[Cell], comparison: Comparison) -> list[str]:
    terms = cells[0].terms
    size = f"{terms['batch_chars']:,} characters" if terms["batch_chars"] else f"{terms['batch']:,} examples"
    rates = ", ".join(f"{rate:g}" for rate in rates_of(cells, comparison.config.lr))
    title = ", ".join(filter(None, cells[0].group))
    table = [HEAD, *(_row(cell) for cell in cells)]
    widths = [max(len(row[i]) for row in table) for i in range(len(HEAD) - 1)]
    rows = [
        "  "
        + "  ".join(
            cell.ljust(width) if i in (0, 4, 5) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=False))
        )
        + f"  {row[-1]}"
        for row in table
    ]
    return [
        f"{title}: {terms['metric']}, {terms['steps']:,} steps of {size}, {terms['precision']} on {terms['device']}; "
        f"learning rates {rates}",
        *rows,
    ]


def _row(cell: Cell) -> tuple[str, ...]:
    terms = cell.terms
    layers = "-" if terms["layer_parameters"] is None else f"{terms['layer_parameters']:,}"
    return (
        cell.model,
        f"{terms['parameters']:,}",
        layers,
        f"{terms['state_bytes']:,}",
        terms["init"],
        terms["pos"],
        f"{run_seconds(cell):.0f}",
        terms["block"],
    )


def _terms(comparison: Comparison, cells: Sequence[Cell]) -> list[str]:
    """What is equal, in words."""
    config = comparison.config
    found = []
    if config.match_params == "first":
        found.append(f"as many parameters outside embeddings and head as {comparison.models[0].label} (within 2 %)")
    elif config.match_params == "none":
        found.append("the same widths, so the parameters differ (--match_params none)")
    else:
        found.append(f"parameters outside embeddings and head: {config.match_params} (within 2 %)")
    positions = {cell.terms["pos"] for cell in cells}
    found.append(f"positions {positions.pop()} for all" if len(positions) == 1 else "positions differ, see the table")
    form = {"no": "each layer in its published form", "yes": "all in the same block (--fair)"}
    found.append(form.get(config.fair, "two tables: as published, and all in the same block"))
    found.append("the same training and test examples for all models of a seed")
    return [f"equal terms: {'; '.join(found)}"]


def _warnings(cell: Cell) -> list[str]:
    """The notices of a cell's run that a reader must know. What was solved is in the table."""
    return [line for line in cell.terms["lines"] if not line.startswith("--match_")]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
