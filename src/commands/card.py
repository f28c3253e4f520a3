"""`benchmark.py card`: what a layer is good and bad at, row by row beside published layers.

    python benchmark.py card --model my_layer.py
    python benchmark.py card --model "my_layer.py --d_state 32" gru --out_dir runs/my_card
    python benchmark.py card --model my_layer.py --suite my_suite.toml --plan
    python benchmark.py card --remake --model gru --out_dir runs/core

What it does for each layer:
1. `check`, for a layer of your own file: one that fails is not trained
2. three learning rates on a tuning seed, then three fresh seeds, on each row of the suite, with as many parameters as
   the published layers have
3. the cost of training and decoding
4. card.json and report.html: per row the scaled score with its interval, the rank among the published layers, the
   nearest of them, and a sentence

The published layers are not trained again: their runs are recorded (runs/records/core). A record whose data, flags or
code are not those of today is named as stale and not ranked; --remake makes it anew. Ctrl-C keeps finished runs, and
the same command with --out_dir goes on. Exit code 1 means that some run failed; it is a named hole.
"""

from __future__ import annotations

from dataclasses import dataclass

from src.flags.fields import UserError, option
from src.flags.parser import Parser, add_flags, config_of, read_flags

KIND = "card"


@dataclass(frozen=True)
class CardConfig:
    """the card"""

    suite: str = option("core", "the rows: a suite of this program, or a path to your own .toml file")
    seeds: int = option(0, "fresh seeds of each row; 0 = as many as the suite says", least=0, most=100)
    baselines: str = option("", "folder with the records of the published layers; default that of the suite")
    remake: bool = option(
        False, "run published layers anew: all of the suite, or those of --model; into --out_dir/ROW/LAYER"
    )
    collect: str = option("", "write the records from the finished runs of --remake in this folder, and run nothing")
    cost: bool = option(True, "measure the cost of training and decoding after the runs")
    plan: bool = option(False, "print the plan and stop: runs, expected time, which records are valid")


@dataclass(frozen=True)
class CardControl:
    """where it runs"""

    out_dir: str = option("", "folder of the card; default runs/<timestamp>; an existing one is continued")
    reuse: tuple[str, ...] = option(
        (), "folders of other cards or comparisons, whose finished runs are used where they are equal"
    )
    workers: int = option(0, "runs at the same time; 0 = as many as cores, divided by --threads", least=0, most=4096)
    timeout: float = option(0.0, "minutes after which a run is stopped and reported as a hole; 0 = never", least=0.0)
    quiet: bool = option(False, "no progress and no tables, only the folder of the card")


def parser() -> Parser:
    """The parser of the command."""
    made = Parser(prog="benchmark.py card", description=__doc__, scope="for `card`")
    made.add_argument(
        "--model",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help='layers, each with a card of its own; one with flags of its own in quotes: "deltanet --neg_eigen"',
    )
    for part in (CardConfig, CardControl):
        add_flags(made, part, part.__doc__)
    return made


def main(argv: list[str]) -> int:
    """Read the suite and the layers, check everything, then run; returns the exit code."""
    made = parser()
    if {"-h", "--help"} & set(argv) or not argv:
        made.print_help()
        return 0 if argv else 2
    namespace = made.parse_strict(argv)
    models = namespace.__dict__.pop("model")
    given = read_flags(namespace, (CardConfig, CardControl))
    config, control = config_of(CardConfig, given), config_of(CardControl, given)
    check_together(models, config, control)

    from src.study.card.suite import read_suite

    suite = read_suite(config.suite)
    if config.collect or config.remake:
        from src.study.card import remake

        labels = remake.labels_of(suite, models)
        if config.collect:
            return remake.collect_records(suite, labels, config, control)
        return remake.run(argv, suite, labels, config, control)
    from src.study.card import work

    return work.run(argv, suite, models, config, control)


def check_together(models: list[str], config: CardConfig, control: CardControl) -> None:
    """UserError for flags that contradict each other, and for no layer at all."""
    if config.remake and config.collect:
        raise UserError("--remake and --collect contradict each other; --remake collects what it has run")
    if not models and not (config.remake or config.collect):
        raise UserError("card: no --model given, allowed: one or more, such as --model my_layer.py")
    if config.seeds == 1:
        raise UserError("--seeds: got 1, allowed: 0 or at least 2, because one seed has no interval")
    if config.remake and not control.out_dir:
        raise UserError("--remake: needs --out_dir, the folder of its runs, so that the same command can continue it")
