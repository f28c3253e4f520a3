"""`benchmark.py compare`: several models on the same tasks, from learning rates to verdicts and one page.

    python benchmark.py compare --task recall,copy,parity --model transformer,mamba,my_layer.py --seeds 3
    python benchmark.py compare --preset grazzi-parity-mini --model deltanet "deltanet --neg_eigen" gru --lr 1e-3,1e-2
    python benchmark.py compare --task recall --model transformer,gla --plan

What it does, for each task and setting:
1. brings all models to as many parameters as the first one (--match_params none: not), with the same positions
2. trains each at three learning rates on a tuning seed, chooses on val, and adds rates where the best is at an edge
3. trains each on fresh seeds at its chosen rate
4. writes results.csv, summary.csv, verdicts.json, figures/ and report.html

--plan prints the runs, the equal terms and the expected time, and stops. Ctrl-C keeps finished runs, and the same
command with --out_dir goes on, also with more models, tasks or seeds. Any flag of `train` may be given: it holds for
all runs. --cost measures, after the runs, what the same models cost to train and to decode. Exit code 1 means that some
run failed; it is a named hole in every table.
"""

from __future__ import annotations

import sys


def main(argv: list[str]) -> int:
    """Plan, and then run, a comparison. Wrong input is found before the first file is written."""
    from src.study.comparison import request

    if {"-h", "--help"} & set(argv) or not argv:
        request.parser(__doc__).print_help()
        return 0 if argv else 2
    asked = request.read(argv)
    return compare(argv, asked)


def compare(argv: list[str], asked) -> int:
    """Prepare every cell, show the plan, and carry it out; returns the exit code."""
    import dataclasses

    from src.study.comparison import cost, folder, planned, variants, verdicts
    from src.study.comparison.budget import fit, read_budget
    from src.study.comparison.cells import check_seeds_at_once, prepare_cells
    from src.study.engines.local import start_server, usable_cores
    from src.study.engines.ray import installed

    control, config = asked.control, asked.comparison.config
    budget = read_budget(config.budget) if config.budget else 0.0
    place = folder.Folder(control.out_dir)
    place.check(control.reuse)
    if control.engine == "ray":
        installed()
    elif not control.plan:
        start_server(control.threads)  # it imports while the cells are prepared
    say = planned.sayer(control.quiet)
    cells = prepare_cells(asked, say)
    check_seeds_at_once(cells, control.seeds_at_once, control.engine)
    workers, left_out = control.workers or max(1, usable_cores() // control.threads), []
    if budget:
        fitted, left_out = fit(cells, asked.comparison, budget, workers)
        if fitted.steps_share < 1:
            cells = prepare_cells(dataclasses.replace(asked, comparison=fitted), say)
        asked = dataclasses.replace(asked, comparison=fitted)
    say("")
    missing = variants.missing(asked.tasks, asked.comparison.models, asked.classes)
    notes = [
        *left_out,
        *verdicts.seeds_notes(asked.comparison),
        *(cost.notes(cells) if config.cost else []),
        *(variants.question(variant, sides) for variant, sides in missing),
    ]
    if control.plan or not control.quiet:
        print(
            "\n".join(planned.lines(asked.comparison, cells, notes, workers)),
            file=sys.stdout if control.plan else sys.stderr,
        )
    if control.plan:
        return 0
    return folder.carry_out(place, argv, asked, cells, notes, workers)
