"""A record's rows run again: which commands, in which folders, and what is written about the answers.

    chosen = choose(find_record("main"), ("mamba-1337",))     # rows of the record; UserError before anything is written
    work = Reproduction(chosen, home, quiet, one_by_one)
    work.check()                                              # flags, and what is in the folders already
    work.run()                                                # KeyboardInterrupt passes through; finished rows stay
    answers = work.conclude()                                 # tables of the new runs, and answers.json

A comparison's folder is a record too: its rows are the runs on fresh seeds.
Below `home` each row has a run directory of its name. A finished one with the same flags is kept and compared again.
`home` itself becomes a record of the new runs (results.csv, curves.json, env.json), next to answers.json.
What the answers mean: src/study/sameness.py.
"""

from __future__ import annotations

import dataclasses
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from src.flags.fields import UserError, suggest
from src.flags.own_files import absolute
from src.flags.parser import first_look
from src.flags.places import here
from src.flags.registry import is_path
from src.setup.plan import Setup, plan
from src.setup.stored import open_run
from src.storage import executed
from src.storage.env import git_commit
from src.storage.files import make_writable, read_json, seal, write_json
from src.storage.lock import FolderLock
from src.storage.rundir import RunDir
from src.study import records
from src.study.comparison.stored import is_comparison, open_stored
from src.study.parts import EngineMaker, Parts
from src.study.plan import Part, TimeLeft
from src.study.sameness import DIFFERENT, FAILED, UNDEFINED, Answer, causes, compare, number, score_names

RECORDS = records.PROJECT / "runs" / "records"
ANSWERS = "answers.json"
TABLES = ("results.csv", "curves.json", "panel.json")
DEFAULT_SECONDS = 60.0  # of a row that does not say how long it took


@dataclass(frozen=True)
class Chosen:
    """Rows of a record that are to run again.

    folder: the record's.  rows: all of its rows, for the spread of seeds.  curves: {run: its part of curves.json}.
    machines: the content of env.json.  names: of the chosen runs, in the order of the record.
    """

    folder: Path
    rows: Sequence[dict]
    curves: dict[str, dict]
    machines: dict[str, dict]
    names: Sequence[str]

    def row(self, name: str) -> dict:
        """The row of a run."""
        return next(row for row in self.rows if row["run"] == name)


def find_record(text: str) -> Path:
    """The folder of a record or of a comparison: a path, or the bare name of a record under runs/records.

    UserError if it is none.
    """
    known = sorted(path.parent.name for path in RECORDS.glob("*/results.csv"))
    allowed = f"allowed: the folder of a record or of a comparison, or one of {', '.join(known)}"
    if not text:
        raise UserError(f"reproduce: got no record, {allowed}")
    path = Path(text)
    if path.name == text and not path.is_dir():
        path = RECORDS / text
    if is_comparison(path):
        return path
    if not (path / "results.csv").is_file():
        what = "no such record" if not path.exists() else "a file" if path.is_file() else "a folder without results.csv"
        raise UserError(f"reproduce: got '{text}' ({what}), {allowed}{suggest(text, known)}")
    return path


def choose(folder: Path, wanted: Sequence[str] = ()) -> Chosen:
    """The rows of a record, or of a comparison, that are wanted; all of them by default.

    Raises UserError for a damaged record, for a record of `speed`, for a comparison that is not finished, and for a run
    that the record does not have.
    """
    if is_comparison(folder):
        with tempfile.TemporaryDirectory() as place:
            records.collect([folder], place)
            return _with_own_files(dataclasses.replace(_choose(Path(place), wanted), folder=folder))
    if (folder / "panel.json").is_file():
        panel = read_json(folder / "panel.json")
        command = panel.get("run", {}).get("command", "python benchmark.py speed")
        raise UserError(
            f"reproduce: '{folder}' is a record of `speed`, and times are never the same bytes; "
            f"measure them again with: {command}"
        )
    return _choose(folder, wanted)


def _with_own_files(chosen: Chosen) -> Chosen:
    """The same, where a row of a comparison names a user's file by its path. In a table it has its stem alone."""
    stored = {name: read_json(RunDir(path).config)["args"] for name, path in open_stored(chosen.folder).runs.items()}
    rows = [{**row, **{kind: stored[row["run"]][kind] for kind in ("task", "model")}} for row in chosen.rows]
    return dataclasses.replace(chosen, rows=rows)


def _choose(folder: Path, wanted: Sequence[str]) -> Chosen:
    """The wanted rows of a record of training runs."""
    found = records.read_runs(folder)
    machines = read_json(folder / "env.json")
    rows = [row for _, row, _ in found]
    names = [row["run"] for row in rows]
    for line, row, _ in found:
        where = f"'{folder / 'results.csv'}' line {line}"
        if names.count(row["run"]) > 1 or Path(row["run"]).name != row["run"] or row["run"] in ("", ".", ".."):
            raise UserError(
                f"{where}: got run '{row['run']}', allowed: a name of its own for each run, without slashes; "
                "restore the record"
            )
        _check_cells(where, row)
    for name in wanted:
        if name not in names:
            raise UserError(f"--rows: got '{name}', allowed: {', '.join(names)}{suggest(name, names)}")
    curves = {row["run"]: part for _, row, part in found}
    return Chosen(folder, rows, curves, machines, [name for name in names if not wanted or name in wanted])


def _check_cells(where: str, row: dict) -> None:
    """UserError for a row whose flags or scores cannot be read."""
    try:
        shlex.split(row["flags"])
    except ValueError as error:
        raise UserError(
            f"{where}: got flags '{row['flags']}' ({error}), allowed: a command line; restore it"
        ) from error
    for name in score_names(row):
        if row[name] not in ("", UNDEFINED) and number(row[name]) is None:
            raise UserError(f"{where}: got {name} '{row[name]}', allowed: a number; restore it")


def words_of(row: dict, curves: dict) -> tuple[str, ...]:
    """The command line of a row, with the precision, threads and device that it was run with, whatever chose them."""
    device = curves.get("args", {}).get("device", "auto")
    return (
        *("--preset", row["preset"], "--task", row["task"], "--model", row["model"], *shlex.split(row["flags"])),
        *("--seed", row["seed"], "--precision", row["precision"], "--threads", row["threads"], "--device", device),
    )


class Reproduction:
    """chosen: of `choose`.  home: where the runs go.  engine(home, quiet) is the place where they run."""

    def __init__(self, chosen: Chosen, home, quiet: bool, engine: EngineMaker):
        self.chosen, self.home, self.quiet = chosen, Path(home), quiet
        self.parts = [self._part(name) for name in chosen.names]
        self.work = Parts(self.parts, self.home, quiet, engine)

    def _part(self, name: str) -> Part:
        row = self.chosen.row(name)
        words = words_of(row, self.chosen.curves[name])
        return Part("training", name, words, number(row["command_s"]) or DEFAULT_SECONDS, row["task"], name)

    def check(self, overwrite: bool = False) -> None:
        """UserError for a row whose command is wrong today, or a folder that holds something else. Writes nothing."""
        RunDir.check(str(self.home))  # not a file, not a run, and it can be written
        foreign = [name for name in TABLES if (self.home / name).exists()]
        if foreign and not (self.home / ANSWERS).is_file():
            raise UserError(
                f"--out_dir: '{self.home}' holds a {foreign[0]} that `reproduce` did not write; choose another"
            )
        for part in self.parts:
            try:
                _refuse_unknown_code(part)
                setup, _ = plan(list(part.words))
            except UserError as error:
                raise UserError(f"'{self.chosen.folder}', row '{part.folder}': {error}") from error
            if RunDir(self.work.folder(part)).exists and not overwrite:
                self._check_same(part, setup)
                self.work.is_done(part)

    def _check_same(self, part: Part, setup: Setup) -> None:
        """UserError if the row's folder holds a run of other flags."""
        stored, wanted = open_run(str(self.work.folder(part))).config, setup.config()
        if any(stored.get(key, wanted[key]) != wanted[key] for key in ("explicit", "preset", "files", "helpers")):
            raise UserError(
                f"--out_dir: '{self.work.folder(part)}' holds a run with other flags than row '{part.folder}'; "
                "choose another --out_dir, or replace it with --overwrite"
            )

    def run(self, overwrite: bool = False) -> list[Answer]:
        """Run what is not finished, one row after the other, and conclude. KeyboardInterrupt passes through."""
        make_writable(self.home)
        lock = FolderLock(self.home)
        lock.acquire()
        try:
            if not (self.home / ANSWERS).is_file():
                self._write([])
            if overwrite:
                self.work.clear()
            try:
                self.work.run(TimeLeft(self.quiet))
            finally:
                answers = self.conclude()
        finally:
            lock.release()
        return answers

    def conclude(self) -> list[Answer]:
        """Write the tables of the finished runs and answers.json; return one answer per row that was run."""
        finished = [p for p in self.parts if p not in self.work.failed and RunDir(self.work.folder(p)).finished]
        answers = {p.folder: Answer(p.folder, FAILED, causes=(why,)) for p, why in self.work.failed.items()}
        if finished:
            records.collect([self.work.folder(part) for part in finished], self.home)
            machines, head = read_json(self.home / "env.json"), (git_commit() or ("",))[0]
            for _, fresh_row, fresh_curves in records.read_runs(self.home):
                name = fresh_row["run"]
                pair = (self.chosen.row(name), self.chosen.curves[name], fresh_row, fresh_curves)
                answer = compare(*pair, self.chosen.rows)
                why = [*_kept(fresh_row["commit"], head), *causes(*pair, self.chosen.machines, machines)]
                answers[name] = dataclasses.replace(answer, causes=why)
        ordered = [answers[name] for name in self.chosen.names if name in answers]
        self._write(ordered)
        return ordered

    def _write(self, answers: list[Answer]) -> None:
        document = {"schema": 1, "record": self.chosen.folder.name, "rows": [as_json(answer) for answer in answers]}
        write_json(self.home / ANSWERS, seal(document))


def _refuse_unknown_code(part: Part) -> None:
    """UserError for a row with a file that this user has not run. A record may come from somebody else.

    It must come before `plan`, which imports the files.
    """
    seen = first_look(list(part.words), texts=("match_params",))
    for name in filter(None, (seen.task, seen.model, *seen.match_params)):
        if is_path(name) and here(absolute(name)).is_file() and not executed.is_as_it_was_run(absolute(name)):
            raise UserError(
                f"the file '{name}' is not known as one that you have run on this machine "
                f"('{executed.executed_folder()}'); read it first, if the record is not yours; then a run of it, "
                "or `check --model PATH`, makes it known"
            )


def _kept(commit: str, head: str) -> list[str]:
    """A line about a run that an earlier call finished with other code than that of today."""
    if not head or commit in ("", head):
        return []
    return [f"kept: this run is of commit {commit[:12]}, the code is at {head[:12]} now; --overwrite runs it again"]


def as_json(answer: Answer) -> dict:
    """An answer as answers.json holds it."""
    scores = [
        {"score": s.name, "recorded": s.recorded, "now": s.now, "difference": s.difference, **vars(s.spread)}
        for s in answer.scores
    ]
    return {**vars(answer), "scores": scores}


def exit_code(answers: Sequence[Answer]) -> int:
    """1 if a row is different, or its run failed; else 0."""
    return int(any(answer.answer in (DIFFERENT, FAILED) for answer in answers))


def lines(answers: Sequence[Answer]) -> list[str]:
    """What the command prints: one line per score, then what differs, and how code and machine differ."""
    head = ("row", "score", "recorded", "now", "difference", "range", "made of", "answer")
    table = [head, *(cells for answer in answers for cells in _cells(answer))]
    widths = [max(len(cells[i]) for cells in table) for i in range(len(head))]
    printed = [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() for cells in table
    ]
    shared: dict[str, list[str]] = {}
    for answer in answers:
        differs = [f"not equal: {', '.join(answer.differs)}"] if answer.differs else []
        for cause in (*differs, *answer.causes):
            shared.setdefault(cause, []).append(answer.run)
    return [*printed, "", *(f"{', '.join(runs)}: {cause}" for cause, runs in shared.items())]


def _cells(answer: Answer) -> list[tuple[str, ...]]:
    """The cells of one answer: a line per score, with the answer on the first."""
    if not answer.scores:
        return [(answer.run, "-", "-", "-", "-", "-", "-", answer.answer)]
    found = []
    for i, score in enumerate(answer.scores):
        spread = score.spread
        difference = "-" if score.difference is None else f"{score.difference:+.4g}"
        limits = "-" if spread.low is None or spread.high is None else f"[{spread.low:.6g}, {spread.high:.6g}]"
        name, verdict = ("", "") if i else (answer.run, answer.answer)
        values = (score.recorded or "-", score.now or "-")
        found.append((name, score.name, *values, difference, limits, spread.words, verdict))
    return found
