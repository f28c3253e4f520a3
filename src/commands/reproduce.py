"""`benchmark.py reproduce RECORD`: run the rows of a record again, and say whether they come out the same.

    python benchmark.py reproduce main
    python benchmark.py reproduce runs/records/findings --rows parity-gru-11 parity-gru-12
    python benchmark.py reproduce main --out_dir runs/again
    python benchmark.py reproduce runs/S

RECORD is the folder of a record (see runs/records/README.md), or its name under runs/records. It may also be the folder
of a finished comparison; its rows are the runs on its fresh seeds. Each row is a run of its own, with the flags, seed,
precision and threads of the record. There are three answers per row:

- same bytes: all scores, losses, intervals and curves of the record are equal
- within the spread of seeds: a number differs, but each score is equal or in the range of the record's seeds (with
  fewer than three seeds, or equal scores of all seeds: within the interval of test sampling)
- different: a score is outside of that range

After Ctrl-C the same command goes on: finished rows are kept. The answers are in answers.json of the output folder, and
the new runs are a record of their own there. The exit code is 0, or 1 if a row is different or its run failed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from src.flags.fields import option
from src.flags.parser import Parser, add_flags, config_of, read_flags


@dataclass(frozen=True)
class ReproduceConfig:
    """flags"""

    rows: tuple[str, ...] = option((), "the runs to repeat, by their names in the record; default: all")
    out_dir: str = option("", "folder of the new runs; default runs/reproduced/<record>; finished runs in it are kept")
    overwrite: bool = option(False, "run again what is finished in --out_dir")
    quiet: bool = option(False, "no progress and no table, only the folder")


def main(argv: list[str]) -> int:
    """Run the chosen rows, print and write the answers. Wrong input is found before the first file is written."""
    parser = Parser(prog="benchmark.py reproduce", description=__doc__)
    parser.add_argument(
        "record", metavar="RECORD", nargs="?", default="", help="the folder of a record or comparison, or a name"
    )
    add_flags(parser, ReproduceConfig, ReproduceConfig.__doc__)
    if {"-h", "--help"} & set(argv):
        parser.print_help()
        return 0
    namespace = parser.parse_strict(argv)
    return reproduce(argv, namespace.record, config_of(ReproduceConfig, read_flags(namespace, [ReproduceConfig])))


def reproduce(argv: list[str], record: str, config: ReproduceConfig) -> int:
    """The work of the command; returns its exit code."""
    from src.measure.session import continuing
    from src.study import parts as processes
    from src.study import reproduce as reproducing

    folder = reproducing.find_record(record)
    chosen = reproducing.choose(folder, config.rows)
    home = config.out_dir or f"runs/reproduced/{folder.resolve().name}"
    work = reproducing.Reproduction(chosen, home, config.quiet, processes.one_by_one)
    work.check(config.overwrite)
    try:
        answers = work.run(config.overwrite)
    except KeyboardInterrupt:
        command = continuing("reproduce", argv, home)
        print(f"interrupted; finished rows are kept, continue with: {command}", file=sys.stderr)
        return 130
    if not config.quiet:
        print("\n".join(reproducing.lines(answers)))
    print(home)
    return reproducing.exit_code(answers)
