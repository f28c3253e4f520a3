"""A suite: the rows of a card, with one budget and one learning-rate protocol for every layer.

    suite = read_suite("core")                        # src/study/suites/core.toml
    suite = read_suite("my_suite.toml")               # a user's own file, read by the same code
    suite.words([suite.rows[0].task], ["mamba"])      # the words of `compare` for one row and one layer

docs/card.md describes the file. Nothing here imports torch.
"""

from __future__ import annotations

import difflib
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.flags.fields import UserError
from src.flags.kinds import suggest
from src.flags.registry import is_path
from src.setup.sides import Side, read_sides
from src.storage.files import digest
from src.study.comparison.stored import slug

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).resolve().parents[1] / "suites"
RECORDS = Path(__file__).resolve().parents[3] / "runs" / "records"
VALUE, BEYOND = "value", "at_mean"  # columns of results.csv that a row may be made of
LARGEST = 1_000_000  # bytes of a suite file
FEWEST_SEEDS = 2  # one seed has no interval

# {key: (type in words, whether it must be there)}
HEAD = {
    "name": ("text", True),
    "parameters": ("whole", True),
    "flags": ("text", True),
    "rates": ("numbers", True),
    "tuning_seed": ("whole", True),
    "seeds": ("wholes", True),
    "layers": ("texts", True),
    "lr_extend": ("whole", False),
    "row": ("tables", True),
}
ROW = {
    "name": ("text", True),
    "says": ("text", True),
    "task": ("text", True),
    "measure": ("texts", False),
    "control": ("switch", False),
    "needs": ("text", False),
}
WORDS = {
    "text": "a text",
    "whole": "a whole number",
    "numbers": "a list of numbers",
    "wholes": "a list of whole numbers",
    "texts": "a list of texts",
    "switch": "true or false",
    "tables": "tables [[row]]",
}
TEXTS = ("tiny_shakespeare",)  # what `needs` may name


@dataclass(frozen=True)
class RowTask(Side):
    """The task of a row. Tables show the row's name, not the flags of the task."""

    row: str = ""

    @property
    def label(self) -> str:
        """The row's name."""
        return self.row


@dataclass(frozen=True)
class Row:
    """A capability.

    says: what it is, as a noun of a sentence.  measure: the columns whose scaled values are averaged.
    is_control: shown, but not counted.  needs: a text that must be there; empty: none.
    """

    name: str
    says: str
    task: RowTask
    measure: tuple[str, ...] = (VALUE,)
    is_control: bool = False
    needs: str = ""


@dataclass(frozen=True)
class Suite:
    """A table of rows, and what all runs share.

    path: of its file.  parameters: outside embeddings and head, of every model.  flags: words of `train` for all runs.
    layers: labels of the published layers.
    """

    name: str
    path: Path
    parameters: int
    flags: tuple[str, ...]
    rates: tuple[float, ...]
    tuning_seed: int
    seeds: tuple[int, ...]
    layers: tuple[str, ...]
    rows: tuple[Row, ...]
    lr_extend: int = 0

    def row(self, name: str) -> Row:
        """The row of this name. KeyError where there is none."""
        return {row.name: row for row in self.rows}[name]

    def words(self, tasks: Sequence[Side], models: Sequence[str], seeds: int = 0) -> list[str]:
        """The words of `compare` for these tasks and models, each with flags of its own. seeds: 0 = those of the suite.

        Everything that decides a number is in them, so a baseline and a user's layer run on the same terms.
        """
        return [
            *("--task", *(shlex.join([task.name, *task.flags]) for task in tasks)),
            *("--model", *models),
            *self.flags,
            *("--match_params", str(self.parameters)),
            *("--lr", *(repr(rate) for rate in self.rates)),
            *("--lr_extend", str(self.lr_extend)),
            *("--tuning_seed", str(self.tuning_seed)),
            *("--seed", str(self.seeds[0])),
            *("--seeds", str(seeds or len(self.seeds))),
        ]

    def protocol_digest(self) -> str:
        """What decides how learning rates are chosen. It does not cover the seeds, of which a run may have more."""
        return digest({"rates": list(self.rates), "lr_extend": self.lr_extend, "tuning_seed": self.tuning_seed})

    @property
    def folder(self) -> Path:
        """Where the records are: below runs/records for a suite of this program, else beside the file of the suite."""
        if self.path.parent == FOLDER:
            return RECORDS / self.name
        return self.path.with_suffix(".baselines")


def names() -> list[str]:
    """The suites of this program."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def file_name(label: str) -> str:
    """The label of a layer as a folder's or file's name: 'deltanet --neg_eigen' becomes 'deltanet-neg_eigen'."""
    return slug(label)


def read_suite(text: str) -> Suite:
    """The suite of this name, or in this file. UserError where it is unknown or wrong."""
    known = names()
    if text in known:
        return _read(FOLDER / f"{text}.toml")
    if not text.endswith(".toml"):
        raise UserError(
            f"--suite: got '{text}', allowed: {', '.join(known)}, or a path to your own .toml file"
            f"{suggest(text, known)}"
        )
    path = Path(text).absolute()
    if not path.is_file():
        raise UserError(f"--suite: got '{text}', which is no file, allowed: {', '.join(known)}, or an existing file")
    return _read(path)


def _read(path: Path) -> Suite:
    wrong = _Wrong(path.name)
    try:
        data = path.read_bytes()
        if len(data) > LARGEST:
            raise wrong(f"it has {len(data):,} bytes, allowed: at most {LARGEST:,}")
        document = tomllib.loads(data.decode("utf-8"))
    except OSError as error:
        raise wrong(f"cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise wrong("is nested too deeply; docs/card.md has an example") from error
    except ValueError as error:  # of the encoding, of TOML, or of a number with thousands of digits
        raise wrong(f"is not TOML ({str(error).splitlines()[0]}); docs/card.md has an example") from error
    head = _checked(document, HEAD, "", wrong)
    _check_numbers(head, wrong)
    if not re.fullmatch(r"\w{1,40}", head["name"]):
        raise wrong(f"name: got '{head['name']:.60}', allowed: one word of letters, digits and _, at most 40")
    return Suite(
        name=head["name"],
        path=path,
        parameters=head["parameters"],
        flags=tuple(_words(head["flags"], "flags", wrong)),
        rates=tuple(sorted(map(float, head["rates"]))),
        tuning_seed=head["tuning_seed"],
        seeds=tuple(head["seeds"]),
        layers=_labels(head["layers"], wrong),
        rows=_rows(head["row"], path.parent, wrong),
        lr_extend=head.get("lr_extend", 0),
    )


class _Wrong:
    """Makes the error of a wrong suite file, which begins with the file's name."""

    def __init__(self, name: str):
        self.name = name

    def __call__(self, message: str) -> UserError:
        return UserError(f"--suite: '{self.name}': {message}")


def _checked(table: Mapping, keys: Mapping[str, tuple[str, bool]], where: str, wrong: _Wrong) -> dict:
    """The table, if it has the keys that it must have, no other ones, and values of their types."""
    for key in table:
        if key not in keys:
            near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
            meant = f"; did you mean '{near[0]}'?" if near else ""
            raise wrong(f"{where}unknown key '{key}', allowed: {', '.join(keys)}{meant}")
    for key, (kind, is_needed) in keys.items():
        if key in table and not _fits(table[key], kind):
            raise wrong(f"{where}{key}: got {table[key]!r:.60}, allowed: {WORDS[kind]}")
        if is_needed and key not in table:
            raise wrong(f"{where}{key} is missing, allowed: {WORDS[kind]}")
    return dict(table)


def _fits(value, kind: str) -> bool:
    if kind in ("numbers", "wholes", "texts", "tables"):
        single = {"numbers": "number", "wholes": "whole", "texts": "text", "tables": "table"}[kind]
        return isinstance(value, list) and bool(value) and all(_fits(item, single) for item in value)
    if kind == "whole":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "number":
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return isinstance(value, {"text": str, "switch": bool, "table": dict}[kind])


def _check_numbers(head: Mapping, wrong: _Wrong) -> None:
    seeds, rates = head["seeds"], head["rates"]
    if seeds != list(range(seeds[0], seeds[0] + len(seeds))) or len(seeds) < FEWEST_SEEDS or seeds[0] < 0:
        raise wrong(f"seeds: got {seeds!r:.60}, allowed: at least {FEWEST_SEEDS} that follow each other: [11, 12, 13]")
    if len(set(rates)) < len(rates) or not all(0 < rate <= 100 for rate in rates):
        raise wrong(f"rates: got {rates!r:.60}, allowed: learning rates that differ, above 0, up to 100")
    if head["parameters"] < 1:
        raise wrong(f"parameters: got {head['parameters']}, allowed: a number above 0, such as 100000")


def _labels(texts: Sequence[str], wrong: _Wrong) -> tuple[str, ...]:
    """The labels of the layers, as `compare` has them. Two of them must not have one file name."""
    sides = [side for text in texts for side in _sides("model", text, wrong)]
    for side in sides:
        if side.is_file:
            raise wrong(f"layers: got '{side.name:.60}', allowed: layers of this program; yours goes to --model")
    labels = tuple(side.label for side in sides)
    files = [file_name(label).casefold() for label in labels]
    for label, name in zip(labels, files, strict=True):
        if files.count(name) > 1:
            raise wrong(f"layers: got '{label}' twice, allowed: layers that differ")
    return labels


def _rows(tables: Iterable[Mapping], folder: Path, wrong: _Wrong) -> tuple[Row, ...]:
    rows: list[Row] = []
    for n, table in enumerate(tables, 1):
        where = f"row {n}: " if not isinstance(table.get("name"), str) else f"row '{table['name']:.40}': "
        found = _checked(table, ROW, where, wrong)
        name, measure = found["name"], tuple(found.get("measure", (VALUE,)))
        if not re.fullmatch(r"\w{1,40}", name) or name in (row.name for row in rows):
            raise wrong(f"{where}name: got '{name:.60}', allowed: one word that no other row has, at most 40 letters")
        if measure not in ((VALUE,), (VALUE, BEYOND)):
            raise wrong(f"{where}measure: got {list(measure)!r:.60}, allowed: ['{VALUE}'] or ['{VALUE}', '{BEYOND}']")
        if found.get("needs", "") not in ("", *TEXTS):
            raise wrong(f"{where}needs: got '{found['needs']:.60}', allowed: '' or {', '.join(TEXTS)}")
        sides = _sides("task", _beside(found["task"], folder), wrong, where)
        if len(sides) != 1:
            raise wrong(f"{where}task: got {len(sides)} tasks, allowed: one task with its flags")
        task = RowTask(sides[0].kind, sides[0].name, sides[0].flags, name)
        rows.append(
            Row(name, found["says"].strip(), task, measure, found.get("control", False), found.get("needs", ""))
        )
    return tuple(rows)


def _beside(text: str, folder: Path) -> str:
    """The text of a task; a path of a user's own file is below the folder of the suite."""
    try:
        name, *flags = shlex.split(text)
    except ValueError:  # also of an empty text, or with quotes that do not match; read_sides says what is wrong
        return text
    return shlex.join([str(folder / name), *flags]) if is_path(name) else text


def _sides(kind: str, text: str, wrong: _Wrong, where: str = "") -> tuple[Side, ...]:
    try:
        return read_sides(kind, [text])
    except UserError as error:
        raise wrong(f"{where}{error}") from error


def _words(text: str, key: str, wrong: _Wrong) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise wrong(f"{key}: got '{text:.60}' ({error}), allowed: flags of `train`") from error
