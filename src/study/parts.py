"""Parts that run one after the other, each a command in a process of its own with a folder of its own.

    parts = Parts(list_of_part, home, quiet, run_child)
    parts.run(TimeLeft(quiet))            # KeyboardInterrupt passes through; finished parts stay on disk
    parts.failed                          # {part: why}, of those that ended with an error

A process per part keeps a memory peak to that part. A part that was stopped is continued by the same command, a
training from its last checkpoint. `study` and `reproduce` run their trainings this way.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from src.setup.stored import open_run, verify
from src.storage.record import Record
from src.storage.rundir import RunDir
from src.study.plan import Part, TimeLeft

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmark.py"
OK, DIVERGED, INTERRUPTED = 0, 3, 130  # exit codes of a command
GRACE_SECONDS = 3.0  # a terminal's Ctrl-C reaches the child too; wait so long before a signal is sent to it


class Parts:
    """parts: in their order.  home: the folder that holds the folder of each part.

    runner(words, quiet) runs a command and returns its exit code.
    """

    def __init__(self, parts: list[Part], home, quiet: bool, runner: Callable[[list[str], bool], int]):
        self.parts, self.home, self.quiet, self.runner = parts, Path(home), quiet, runner
        self.failed: dict[Part, str] = {}

    def folder(self, part: Part) -> Path:
        """The folder of a part."""
        return self.home / part.folder

    def clear(self) -> None:
        """Remove what was left in the parts' folders by an earlier command, as `--overwrite` of each part would."""
        for part in self.parts:
            if RunDir(self.folder(part)).exists:
                Record.create(str(self.folder(part)), overwrite=True)

    def run(self, time_left: TimeLeft) -> None:
        """Run every part that is not finished. A part that fails is noted, and the next one follows."""
        done = [part for part in self.parts if self.is_done(part)]
        time_left.begin(self.parts, done)
        for part in self.parts:
            if part in done:
                continue
            time_left.now(part)
            code = self.runner(self.command(part), self.quiet)
            if code == INTERRUPTED:
                raise KeyboardInterrupt
            if code not in (OK, DIVERGED):
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                self.failed[part] = f"{part.name} {how}"
            time_left.done(part)

    def command(self, part: Part) -> list[str]:
        """The words that begin a part or continue it. A training needs --resume to continue; records do not."""
        goes_on = part.kind == "training" and RunDir(self.folder(part)).exists
        return [*part.words, "--out_dir", str(self.folder(part)), *(["--resume"] if goes_on else [])]

    def is_done(self, part: Part) -> bool:
        """Whether a part is finished. UserError if its files were altered."""
        if part.kind != "training":
            record = Record(self.folder(part))
            return record.exists and record.finished and bool(record.read_history())
        run_dir = RunDir(self.folder(part))
        if not (run_dir.exists and run_dir.finished):
            return False
        verify(open_run(str(run_dir.path)))
        return True


def run_child(words: list[str], quiet: bool) -> int:
    """Run `benchmark.py` with these words in a process of its own, its output on stderr; return the exit code.

    On Ctrl-C the child is ended first, then KeyboardInterrupt passes through.
    """
    child = subprocess.Popen(
        [sys.executable, str(BENCHMARK), *words, *(["--quiet"] if quiet else [])],
        stdout=subprocess.DEVNULL if quiet else 2,
    )
    try:
        return child.wait()
    except BaseException:
        _stop(child)
        raise


def _stop(child) -> None:
    """Wait for a child that got the same Ctrl-C; interrupt it, and then kill it, if it goes on."""
    for number in (None, signal.SIGINT, signal.SIGKILL):
        if number is not None:
            child.send_signal(number)
        try:
            child.wait(timeout=GRACE_SECONDS if number is None else 20 * GRACE_SECONDS)
            return
        except subprocess.TimeoutExpired:
            continue
