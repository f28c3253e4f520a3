"""`benchmark.py --seeds_at_once K`: K runs that differ in their seed alone, trained as one batched model.

    python benchmark.py --task copy --model gated_deltanet --seeds_at_once 8 --out_dir runs/copy
    runs/copy/seed1337, runs/copy/seed1338, ...            # ordinary runs: every command reads them as such

What cannot be equal to single runs is refused before anything is written.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from src.flags.fields import UserError
from src.flags.parser import Request
from src.setup.plan import Setup
from src.storage.rundir import RunDir

if TYPE_CHECKING:
    from src.checks.ready import Ready
    from src.utils.distributed import World
    from src.utils.reporter import Reporter

RUNS = "runs"


def train_seeds(setup: Setup, request: Request, world: World, began: float) -> int:
    """New runs of several seeds: everything that can be wrong is found before the first file is written."""
    from src.setup.run import carry_out_together, make_reporter, write_beginning
    from src.setup.together import check_backends_together, check_together
    from src.utils.together import Member, try_stack

    control = request.control
    check_together(setup, control.seeds_at_once, world)
    seeds = range(setup.args.seed, setup.args.seed + control.seeds_at_once)
    folders = folders_of(request, seeds)
    for folder in folders:
        RunDir.check(folder, control.overwrite)
    found = [prepared(setup, seed) for seed in seeds]
    readies = [ready for ready, _ in found]
    check_backends_together(readies[0].backends)
    try_stack([ready.model for ready in readies], [ready.session for ready in readies])
    with contextlib.ExitStack() as held:
        run_dirs = []
        for folder in folders:
            run_dirs.append(RunDir.create(folder, overwrite=control.overwrite))
            run_dirs[-1].acquire()
            held.callback(run_dirs[-1].release)
        for ready, run_dir in zip(readies, run_dirs, strict=True):
            write_beginning(run_dir, ready, seeds_at_once=list(seeds))
        say_first(make_reporter(control, world), readies[0], run_dirs)
        members = [
            Member(ready.model, ready.session, run_dir, make_reporter(control, world, run_dir, f"seed {seed}: "), state)
            for (ready, state), run_dir, seed in zip(found, run_dirs, seeds, strict=True)
        ]
        return carry_out_together(members, began)


def folders_of(request: Request, seeds: Sequence[int]) -> list[str]:
    """The run directory of each seed: one --out_dir per seed, or a folder for all with seedN in it."""
    given = request.out_dirs
    if len(given) > 1:
        if len(given) != len(seeds) or len({str(Path(folder).absolute()) for folder in given}) < len(given):
            raise UserError(
                f"--out_dir: got {len(given)} folders, allowed with --seeds_at_once {len(seeds)}: one for all seeds, "
                f"or {len(seeds)} that differ"
            )
        return list(given)
    home = Path(given[0]) if given else Path(RUNS) / time.strftime("%Y%m%d-%H%M%S")
    if RunDir(home).exists:
        raise UserError(f"--out_dir: '{home}' is a run itself, allowed with --seeds_at_once: a folder for several runs")
    return [str(home / f"seed{seed}") for seed in seeds]


def prepared(setup: Setup, seed: int) -> tuple[Ready, dict]:
    """A run of one seed that is ready to begin, and the state of the random generators at its first step."""
    from src.checks.ready import prepare
    from src.setup.together import of_seed
    from src.storage.checkpoint import random_state

    ready = prepare(of_seed(setup, seed))
    return ready, random_state()


def say_first(reporter: Reporter, ready: Ready, run_dirs: Sequence[RunDir]) -> None:
    """What the runs are, in a few lines."""
    from src.setup.run import announce, say_busy

    announce(reporter, ready.setup, ready.backends, ready.session.data, run_dirs[0])
    for line in ready.lines:
        reporter.say(line)
    reporter.say(f"{len(run_dirs)} seeds at once: {', '.join(str(r.path) for r in run_dirs)}")
    say_busy(ready.session, reporter)
