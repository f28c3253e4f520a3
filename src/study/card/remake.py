"""`card --remake` and `card --collect`: run published layers anew, and write their records.

    ROOT/ROW/LAYER      a folder of `compare` with one task and one model, finished or to be continued
    records             one file per layer (src/study/card/baselines.py), written after each layer

A folder is passed whose runs are finished and those of the suite, of all wanted seeds and of the code of today. So the
same command goes on after a Ctrl-C. Runs of another code are passed too where the record of the layer is valid, because
the code then computes the same.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from src.flags.fields import UserError, suggest
from src.measure.progress import words as time_words
from src.measure.session import continuing
from src.study.card.baselines import records_of
from src.study.card.collect import Remade, store
from src.study.card.runs import Prepared, check_layers, prepare
from src.study.card.suite import Row, Suite
from src.study.comparison import folder, planned
from src.study.comparison.budget import seconds_of
from src.study.engines.local import usable_cores

OK, FAILED, INTERRUPTED = 0, 1, 130


def labels_of(suite: Suite, models: Sequence[str]) -> tuple[str, ...]:
    """The published layers that --model names, or all of the suite. UserError for another layer."""
    wanted = [name for text in models for name in ([text] if " " in text else text.split(","))]
    for name in wanted:
        if name not in suite.layers:
            raise UserError(
                f"--model: got '{name}', allowed with --remake and --collect: the published layers of {suite.name}: "
                f"{', '.join(suite.layers)}{suggest(name, suite.layers)}"
            )
    return tuple(label for label in suite.layers if label in wanted or not wanted)


def collect_records(suite: Suite, labels: Sequence[str], config, control) -> int:
    """Write the records from finished runs; returns 1 where some are missing."""
    root = Path(config.collect)
    if not root.is_dir():
        raise UserError(f"--collect: got '{root}', allowed: a folder with the runs of --remake: ROW/LAYER")
    check_layers(suite)
    tables, lines = _remade(suite, root, config).collect(labels)
    paths, dropped = store(suite, records_of(suite, config.baselines), tables)
    _notice([*lines, *dropped])
    if not control.quiet:
        for table, path in zip(tables, paths, strict=True):
            print(f"{table.label}: {len(table.rows)} rows, {len(table.runs)} runs: {path}")
    print(records_of(suite, config.baselines))
    return FAILED if lines else OK


def _remade(suite: Suite, root: Path, config) -> Remade:
    return Remade(suite, root, records_of(suite, config.baselines), config.seeds)


def _notice(lines: Iterable[str]) -> None:
    for line in lines:
        print(f"notice: {line}", file=sys.stderr)


def run(argv: list[str], suite: Suite, labels: Sequence[str], config, control) -> int:
    """Run what is missing, layer by layer over all rows, and write the record after each layer."""
    check_layers(suite)
    root = Path(control.out_dir)
    made = _remade(suite, root, config)
    missing = [(label, row) for label in labels for row in made.rows if not made.is_finished(row, label)]
    print(f"{len(missing)} of {len(labels) * len(made.rows)} comparisons are missing", file=sys.stderr)
    if config.plan:
        return _plan(suite, missing, config, control)
    code = OK
    for label in labels:
        for row in [row for one, row in missing if one == label]:
            code = max(code, _run_one(suite, row, label, config, control, made.folder(row, label)))
            if code == INTERRUPTED:
                print(f"continue with: {continuing('card', argv, root)}", file=sys.stderr)
                return code
        tables, _ = made.collect([label])
        _notice(store(suite, records_of(suite, config.baselines), tables)[1])
    print(records_of(suite, config.baselines))
    return code


def _prepared(suite: Suite, row: Row, label: str, config, control, out_dir: str) -> Prepared:
    words = ["--workers", str(control.workers), "--timeout", f"{control.timeout:g}", "--out_dir", out_dir, "--quiet"]
    return prepare(suite, [label], config.seeds, words, [row])


def _workers(control, prepared: Prepared) -> int:
    return control.workers or max(1, usable_cores() // prepared.asked.control.threads)


def _run_one(suite: Suite, row: Row, label: str, config, control, out_dir: Path) -> int:
    """The runs of one row and one layer, in a folder of their own."""
    prepared = _prepared(suite, row, label, config, control, str(out_dir))
    place = folder.Folder(str(out_dir))
    place.check()
    argv = [*suite.words([row.task], [label], config.seeds), "--out_dir", str(out_dir)]
    return folder.carry_out(place, argv, prepared.asked, prepared.cells, [], _workers(control, prepared))


def _plan(suite: Suite, missing: Sequence[tuple[str, Row]], config, control) -> int:
    """Print what is missing, with the time that it may take."""
    say, total, workers = planned.sayer(control.quiet), 0.0, 1
    for label, row in missing:
        say(f"preparing {row.name} {label}")
        prepared = _prepared(suite, row, label, config, control, "")
        workers = _workers(control, prepared)
        seconds = seconds_of(prepared.cells, prepared.asked.comparison) / workers
        total += seconds
        say("")
        print(f"{row.name}, {label}: about {time_words(seconds)}")
    print(f"expected time: about {time_words(total)} with {workers} runs at the same time")
    return OK
