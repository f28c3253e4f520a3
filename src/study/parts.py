"""Parts that run one after the other, each a command in a process of its own with a folder of its own.

    parts = Parts(list_of_part, home, quiet, one_by_one)
    parts.run(TimeLeft(quiet))            # KeyboardInterrupt passes through; finished parts stay on disk
    parts.failed                          # {part: why}, of those that ended with an error

A process per part keeps a memory peak to that part. A part that was stopped is continued by the same command, a
training from its last checkpoint. `study` and `reproduce` run their trainings this way, on the local engine
(src/study/engines/local.py) with one worker, whose output is shown.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from src.setup.stored import open_run, verify
from src.storage.record import Record
from src.storage.rundir import RunDir
from src.study.engines import DIVERGED, DONE, Engine, Job, make
from src.study.plan import Part, TimeLeft

EngineMaker = Callable[[Path, bool], Engine]


def one_by_one(home: Path, quiet: bool) -> Engine:
    """The engine of parts: one at a time, with their output on stderr, and with the threads that each part chooses."""
    return make("local", home, workers=1, threads=0, quiet=quiet, logs=False)


class Parts:
    """parts: in their order.  home: the folder that holds the folder of each part.

    engine(home, quiet) is the place where they run.
    """

    def __init__(self, parts: list[Part], home, quiet: bool, engine: EngineMaker):
        self.parts, self.home, self.quiet, self.engine = parts, Path(home), quiet, engine
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
        with self.engine(self.home, self.quiet) as engine:
            for part in self.parts:
                if part in done:
                    continue
                time_left.now(part)
                engine.submit([Job(part.name, part.folder, part.words, resumes=part.kind == "training")])
                for outcome in engine.outcomes():
                    if outcome.status not in (DONE, DIVERGED):
                        self.failed[part] = f"{part.name} {outcome.why}"
                time_left.done(part)

    def is_done(self, part: Part) -> bool:
        """Whether a part is finished. UserError if its files were altered."""
        if part.kind != "training":
            record = Record(self.folder(part))
            if not (record.exists and record.finished):
                return False
            record.read_rows()
            return True
        run_dir = RunDir(self.folder(part))
        if not (run_dir.exists and run_dir.finished):
            return False
        verify(open_run(str(run_dir.path)))
        return True
