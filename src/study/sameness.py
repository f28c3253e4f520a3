"""Whether a run that was repeated says the same as its row in a record, and if not, how far it is off.

    compare(row, curves, fresh_row, fresh_curves, rows)                       -> Answer
    causes(row, curves, fresh_row, fresh_curves, machines, fresh_machines)    -> lines: code, flags, data, machine

Both sides are a row of results.csv and a part of curves.json, as `collect` of src/study/records.py writes them. So both
have been rounded to the same number of digits.

- SAME: each number that the record holds is equal. These are scores, losses, intervals, chance levels, counts, loss
  curves, slices and length curves. Times, memory and the names of machine, commit and backends are not compared.
- WITHIN: a number differs, but each score is equal or lies within its spread. The scores are the primary metric on the
  test set and at each length.
- DIFFERENT: a score lies outside of its spread. So does one that diverged on one side only, or has another metric.

The spread of a score is made of all seeds of the same command in the record. With three or more seeds whose
scores are not all equal, it is the 95 % prediction interval of one more run, mean +- t sqrt(1 + 1/n) s, made wider to
hold all of these seeds. With fewer seeds it is the 95 % interval of test sampling of the row itself.
Nothing here imports torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from src.stats.intervals import t_quantile
from src.storage.env import changed_files

SAME, WITHIN, WITHIN_SAMPLING = "same bytes", "within the spread of seeds", "within the interval of test sampling"
DIFFERENT, FAILED = "different", "failed"
LEAST_SEEDS = 3
LEVEL = 0.95
EXPERIMENT = ("task", "model", "preset", "flags", "metric")  # rows that agree in these differ by their seed only
SETTINGS = ("run", "task", "model", "preset", "flags", "seed", "precision", "threads")
OF_MACHINE = ("train_s", "command_s", "peak_mib", "backends", "machine", "commit", "in_history", "dirty")
CURVES = ("kind", "chance", "loss_curve", "weights", "slices", "length_curve")
UNDEFINED = "undefined"  # a score beyond the position table
AT_LENGTH = re.compile(r"at_\d+")


@dataclass(frozen=True)
class Spread:
    """Where a score may lie. low, high: None if the record does not tell.  seeds: how many it is made of, 0 for none.

    seeds = 0 means the interval of test sampling.
    """

    low: float | None
    high: float | None
    seeds: int

    @property
    def words(self) -> str:
        """What it is made of."""
        return f"spread of {self.seeds} seeds" if self.seeds else "interval of test sampling"

    def holds(self, value: float) -> bool:
        """Whether a score lies within it."""
        return self.low is not None and self.high is not None and self.low <= value <= self.high


@dataclass(frozen=True)
class Score:
    """One score of a row on both sides, as text: a number, `undefined`, or nothing."""

    name: str
    recorded: str
    now: str
    spread: Spread

    @property
    def difference(self) -> float | None:
        """now - recorded; None unless both are numbers."""
        old, new = number(self.recorded), number(self.now)
        return None if old is None or new is None else new - old

    @property
    def is_within(self) -> bool:
        """Equal, or within the spread."""
        value = number(self.now)
        return self.recorded == self.now or (
            number(self.recorded) is not None and value is not None and self.spread.holds(value)
        )


@dataclass(frozen=True)
class Answer:
    """The answer for one row. differs: the columns of results.csv and parts of curves.json that are not equal."""

    run: str
    answer: str
    scores: Sequence[Score] = ()
    differs: Sequence[str] = ()
    causes: Sequence[str] = ()


def compare(row: dict, curves: dict, fresh_row: dict, fresh_curves: dict, rows: Sequence[dict]) -> Answer:
    """The answer for one row of a record.

    row, curves: what the record holds.  fresh_row, fresh_curves: the same of the repeated run.
    rows: all rows of the record, for the spread of seeds.
    """
    differs = [
        *(name for name in row if name not in (*SETTINGS, *OF_MACHINE) and row[name] != fresh_row.get(name, "")),
        *(name for name in CURVES if name in curves and not holds(curves[name], fresh_curves.get(name))),
    ]
    scores = [Score(name, row[name], fresh_row.get(name, ""), spread(rows, row, name)) for name in score_names(row)]
    if not differs:
        return Answer(row["run"], SAME, scores)
    is_comparable = all(row[name] == fresh_row[name] for name in ("status", "metric"))
    if not is_comparable or not all(score.is_within for score in scores):
        return Answer(row["run"], DIFFERENT, scores, differs)
    by_sampling = any(not score.spread.seeds and score.recorded != score.now for score in scores)
    return Answer(row["run"], WITHIN_SAMPLING if by_sampling else WITHIN, scores, differs)


def spread(rows: Sequence[dict], row: dict, name: str) -> Spread:
    """Where one more run of this row's command may lie, in the score `name`: see the head of this file."""
    alike = {r["seed"]: r for r in rows if all(r[key] == row[key] for key in EXPERIMENT)}  # two comparisons share runs
    values = [value for value in (number(r.get(name, "")) for r in alike.values()) if value is not None]
    if len(values) < LEAST_SEEDS or len(set(values)) == 1:
        low, high = ("low", "high") if name == "value" else (f"{name}_low", f"{name}_high")
        return Spread(number(row.get(low, "")), number(row.get(high, "")), 0)
    n, mean = len(values), float(np.mean(values))
    half = float(t_quantile(LEVEL, n - 1)) * float(np.std(values, ddof=1)) * math.sqrt(1 + 1 / n)
    return Spread(min(mean - half, *values), max(mean + half, *values), n)


def score_names(row: dict) -> list[str]:
    """The columns of a row that are scores: `value`, and `at_N` for the lengths that it has."""
    return ["value", *(name for name in row if AT_LENGTH.fullmatch(name) and row[name])]


def holds(recorded, now) -> bool:
    """Whether `now` has all that the record holds. Further keys of a dict, which the record does not know, are fine."""
    if isinstance(recorded, dict):
        return isinstance(now, dict) and all(k in now and holds(v, now[k]) for k, v in recorded.items())
    if isinstance(recorded, list):
        return isinstance(now, list) and len(recorded) == len(now) and all(map(holds, recorded, now))
    return recorded == now


def number(text: str) -> float | None:
    """The number of a cell; None for an empty one and for `undefined`."""
    try:
        return float(text)
    except ValueError:
        return None


def causes(row: dict, curves: dict, fresh_row: dict, fresh_curves: dict, machines: dict, fresh_machines: dict) -> list:
    """Lines that say in what the two runs differ besides their numbers, the first explanation first."""
    old, new = machines.get(row["machine"], {}), fresh_machines.get(fresh_row["machine"], {})
    return [
        of_code(row, fresh_row),
        *_settings(curves.get("args", {}), fresh_curves.get("args", {})),
        *([] if curves.get("digest") == fresh_curves.get("digest") else ["data: it is not the data of the record"]),
        *_machine(row, old, fresh_row, new),
    ]


def of_code(row: dict, fresh_row: dict) -> str:
    """How the code of the record and of the repeated run differ, as far as the history tells."""
    old, new = row["commit"], fresh_row["commit"]
    dirty = " The record was made with uncommitted changes, so its exact code is not known." * (row["dirty"] == "yes")
    dirty += " This run had uncommitted changes." * (fresh_row["dirty"] == "yes")
    if not old or not new:
        return f"code: the commit of {'this run' if old else 'the record'} is not known.{dirty}"
    if old == new:
        return f"code: both are of commit {old[:12]}.{dirty}"
    n = changed_files(old, new)
    if n is None:
        what = "the history does not hold both"
    elif not n:
        return f"code: equal, though the record's commit is {old[:12]} and this one is {new[:12]}.{dirty}"
    else:
        what = f"{n} file{'s' if n > 1 else ''} of the program differ{'s' if n == 1 else ''}"
    return (
        f"code: the record's commit is {old[:12]}, this one is {new[:12]}: {what}. "
        f"Changed code is the first explanation of a difference.{dirty}"
    )


def _settings(old: dict, new: dict) -> list[str]:
    changed = [f"--{k} {old[k]} -> {new[k]}" for k in old if k in new and old[k] != new[k]]
    return [f"flags: the same command means other values now: {', '.join(changed)}"] if changed else []


def _common_ops(old: str | None, new: str | None) -> tuple[str, str]:
    """The backends of the ops that both name: a record may be older than an op."""
    mine, theirs = (
        dict(part.split(": ", 1) for part in re.split(r", (?=\w+: )", text or "") if part) for text in (old, new)
    )
    ops = mine.keys() & theirs.keys()
    return tuple(", ".join(f"{op}: {named[op]}" for op in sorted(ops)) or "none" for named in (mine, theirs))


def _machine(row: dict, old: dict, fresh_row: dict, new: dict) -> list[str]:
    """The processor or GPU, the versions and the backends that are not equal."""
    pairs = {
        "machine": (row["machine"], fresh_row["machine"]),
        "processor": tuple(m.get("cpu", {}).get("model", "unknown") for m in (old, new)),
        "bf16 units": tuple("+".join(m.get("cpu", {}).get("bf16", ())) or "none" for m in (old, new)),
        "backends": _common_ops(row["backends"], fresh_row["backends"]),
    }
    before, after = old.get("versions", {}), new.get("versions", {})
    pairs |= {name: (before.get(name, "none"), after.get(name, "none")) for name in ("torch", "numpy", "python")}
    changed = [f"{name} {a} -> {b}" for name, (a, b) in pairs.items() if a != b]
    return [f"machine: {'; '.join(changed)}" if changed else f"machine: the same kind and versions ({row['machine']})"]
