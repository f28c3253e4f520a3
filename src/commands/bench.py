"""`benchmark.py bench`: the times that somebody waits for, on this machine, and what got slower than the record.

    python benchmark.py bench                                 # all items
    python benchmark.py bench --only step,decode              # some of them
    python benchmark.py bench --update                        # make this run the record, and write the README's table

Items: the training step of the Tiny Shakespeare recipe, the mixer of mamba, the scan, greedy decoding, the start of a
command, many runs at once, the whole recipe, and the whole main job. Each is measured as it is, and most of them as on
a laptop without AVX-512 and bf16 (AVX2 at most, fp32). Things that are compared take turns.

The last lines say what is slower than the record by more than its interval. Another machine is not compared. After
Ctrl-C, or where an item failed, the same command with --out_dir measures what is missing. Run it on a quiet machine.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass

from src.flags.fields import UserError, option, suggest
from src.flags.parser import Parser, add_flags, read_flags
from src.measure.bench.items import COLUMNS, ITEMS

KIND = "bench"


@dataclass(frozen=True)
class BenchConfig:
    """bench"""

    only: tuple[str, ...] = option((), f"items to measure; default: all of {', '.join(ITEMS)}")
    columns: tuple[str, ...] = option(tuple(COLUMNS), f"kinds of machine: {', '.join(COLUMNS)}")


@dataclass(frozen=True)
class BenchControl:
    """control"""

    out_dir: str = option("", "run directory; default runs/<timestamp>; one with the same flags is continued")
    overwrite: bool = option(False, "replace the results in --out_dir")
    record: str = option("", "record to compare with; default: that of this project")
    update: bool = option(False, "make this run the record, and write its table into the README")
    quiet: bool = option(False, "no progress and no table, only what is slower and the run directory")


def main(argv: list[str]) -> int:
    parser = Parser(prog="benchmark.py bench", description=__doc__, scope="for bench")
    for part in (BenchConfig, BenchControl):
        add_flags(parser, part, part.__doc__)
    namespace = parser.parse_strict(argv)
    config, control = (part(**read_flags(namespace, [part])) for part in (BenchConfig, BenchControl))
    for flag, names, allowed in (("only", config.only, ITEMS), ("columns", config.columns, COLUMNS)):
        for name in names:
            if name not in allowed:
                raise UserError(f"--{flag}: got '{name}', allowed: {', '.join(allowed)}{suggest(name, allowed)}")
    if not config.columns:
        raise UserError(f"--columns: got nothing, allowed: {', '.join(COLUMNS)}")
    for item in (ITEMS[name] for name in config.only):
        if not set(item.columns) & set(config.columns):
            raise UserError(
                f"--only: got '{item.name}' with --columns {','.join(config.columns)}, where it is not measured; "
                f"allowed for it: --columns {','.join(item.columns)}"
            )
    if control.update and (config.only or set(config.columns) != set(COLUMNS)):
        raise UserError("--update: a record has all items and columns; leave out --only and --columns")
    return bench(argv, config, control)


def bench(argv: list[str], config: BenchConfig, control: BenchControl) -> int:
    """Measure, compare and show. Everything that can be wrong is found before the first file is written."""
    from pathlib import Path

    from src.measure.bench import quiet, table
    from src.measure.bench.run import measure
    from src.measure.bench.verdict import compared
    from src.measure.progress import Progress
    from src.measure.session import conduct, continuing, say_interrupted
    from src.storage import env
    from src.storage.record import INTERRUPTED, Record

    if control.record and not Path(control.record).is_file():
        raise UserError(f"--record: got '{control.record}', allowed: the results.jsonl of a run of `bench`")
    before = table.read_record(Path(control.record) if control.record else table.RECORD)
    items = [item for name, item in ITEMS.items() if not config.only or name in config.only]
    settings = {**dataclasses.asdict(config), "items": [item.name for item in items]}
    if control.update:
        table.check_page(table.RECORD, table.PAGE)
        quiet.check_quiet()
    Record.check_dir(KIND, control.out_dir, settings, control.overwrite)
    record = Record.open_for(KIND, control.out_dir, settings, control.overwrite)
    device = env.resolve_device("cpu")
    facts = env.collect(settings, device, ("auto", "of each column"), {})
    progress = Progress(control.quiet, {item.name: item.expected(config.columns) for item in items})

    def work(progress) -> None:
        measure(items, record, config.columns, env.usable_cores(), progress, quiet=control.update)

    def finish(status: str) -> None:
        record.finish({"settings": settings}, status)

    if conduct(record, settings, facts, work, finish, progress) == INTERRUPTED:
        return say_interrupted(record, argv)
    if not control.quiet:
        print("\n".join(table.table(record.rows)))
    for row in record.rows:
        if row["status"] != "ok":
            print(f"error: {row['panel']}, {row['form']}: {row['note']}", file=sys.stderr)
    print("\n".join(compared(record.rows, before)))
    failed = any(row["status"] != "ok" for row in record.rows)
    busy = quiet.beside(record.rows)
    if busy and control.update:
        again = f"on a quiet machine this measures them again: {continuing(KIND, argv, record.path)}"
        print(f"error: --update: the record is unchanged, because {busy}; {again}", file=sys.stderr)
    elif busy:
        print(f"notice: these figures may be too slow, because {busy}", file=sys.stderr)
    elif control.update and not failed:
        table.write_record(record.rows, table.RECORD, table.PAGE)
    print(record.path)
    return 1 if failed or (busy and control.update) else 0
