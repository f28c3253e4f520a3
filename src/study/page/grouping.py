"""Runs that were given one by one: which belong together, and what they score over their seeds.

    runs = named(pairs)              # pairs: (Run, typed flags); the same runs with a task, a model and a setting
    cells = cells_of(runs)           # one per task, model and setting

Runs of one task that differ in a typed flag get it into a label: a flag of the data or the task into that of the task,
a model's own into that of the model, any other into the setting. Seed, threads, device and the like never count. The
learning rate counts where one model has several.
"""

from __future__ import annotations

import dataclasses
import shlex
import statistics
from collections import defaultdict

from dataset import TASKS
from src.flags.fields import own_config
from src.flags.groups import SHARED, DataConfig, MachineConfig
from src.flags.kinds import as_text
from src.stats.intervals import t_interval
from src.study.page.evidence import SOLVED_AT, Cell, Key, Run, Share
from src.study.page.values import shown

NEVER = {"task", "model", "lr", "lr_tried", "data_path", *(f.name for f in dataclasses.fields(MachineConfig))}
OF_DATA = {f.name for f in dataclasses.fields(DataConfig)}
OF_ALL = {f.name for part in SHARED for f in dataclasses.fields(part)}
MOST_FLAGS = 8  # in one label


def named(pairs: list[tuple[Run, dict]]) -> list[Run]:
    """The runs with the labels that tell them apart."""
    by_task: dict[str, list] = defaultdict(list)
    for run, typed in pairs:
        by_task[run.task].append((run, typed))
    return _with_rates([run for group in by_task.values() for run in _label(group)])


def _label(group: list[tuple[Run, dict]]) -> list[Run]:
    """The runs of one task, with the flags in which they differ."""
    names = dict.fromkeys(name for _, typed in group for name in typed if name not in NEVER)
    differing = [n for n in names if len({repr(typed.get(n, NEVER)) for _, typed in group}) > 1][:MOST_FLAGS]
    return [dataclasses.replace(run, key=_key(run, typed, differing)) for run, typed in group]


def _key(run: Run, typed: dict, differing: list[str]) -> Key:
    own = own_config(TASKS[run.task].load()) if run.task in TASKS else None
    of_task = OF_DATA | ({f.name for f in dataclasses.fields(own)} if own else set())
    task, model, setting = [run.key[0]], [run.key[1]], []
    for name in (n for n in differing if n in typed):
        value = typed[name]
        if name in OF_ALL - OF_DATA:
            setting.append(f"{name}={as_text(value)}")
        else:
            words = task if name in of_task else model
            words.append(f"--{name}" if value is True else f"--{name} {shlex.quote(as_text(value))}")
    return tuple(shown(" ".join(words)) for words in (task, model, setting))


def _with_rates(runs: list[Run]) -> list[Run]:
    """The learning rate in the setting of runs that differ in it alone."""
    rates: dict[Key, set] = defaultdict(set)
    for run in runs:
        rates[run.key].add(run.lr)
    return [_with_rate(run) if len(rates[run.key]) > 1 else run for run in runs]


def _with_rate(run: Run) -> Run:
    rate = "" if run.lr is None else f"lr={run.lr:g}"
    return dataclasses.replace(run, key=(*run.key[:2], " ".join(filter(None, (run.key[2], rate)))))


def cells_of(runs: list[Run]) -> list[Cell]:
    """The result of each task, model and setting, in the order of the runs."""
    groups: dict[Key, list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.key].append(run)
    return [cell_of(key, group) for key, group in groups.items()]


def cell_of(key: Key, runs: list[Run]) -> Cell:
    """One cell of runs that differ in their seed."""
    first, scores = runs[0], [run.value for run in runs if run.value is not None]
    low, high, interval = interval_of(runs)
    mean = statistics.fmean(scores) if scores else None
    cell = Cell(
        key=key,
        metric=first.metric,
        seeds=tuple(run.seed for run in runs if run.seed is not None),
        values=tuple(scores),
        median=statistics.median(scores) if scores else None,
        mean=mean,
        low=low,
        high=high,
        interval=interval,
        chance=largest(run.chance for run in runs),
        ceiling=first.ceiling,
        threshold=None if first.is_language else SOLVED_AT,
        success=None if first.is_language else success(scores, SOLVED_AT),
        diverged=sum(run.status == "diverged" for run in runs),
        lr=first.lr,
        stopped=tuple(run.stopped_at for run in runs if run.stopped_at is not None),
        **{name: getattr(first, name) for name in ("parameters", "layers", "state_bytes", "chars", "steps")},
        **{name: getattr(first, name) for name in ("init", "pos", "block", "source")},
    )
    return dataclasses.replace(cell, scaled=cell.scale(mean))


def interval_of(runs: list[Run]) -> tuple[float | None, float | None, str]:
    """(low, high, method): of the mean over seeds; of test sampling for one seed, and where all seeds are equal.

    Equal scores say nothing about the spread of other seeds, so a t interval of width zero would be too sure.
    """
    scores = [run.value for run in runs if run.value is not None]
    if len(set(scores)) > 1:
        low, high = t_interval(scores)
        return max(0.0, low), min(1.0, high), f"t, {len(scores)} seeds"
    ends = [(run.low, run.high) for run in runs if run.low is not None and run.high is not None]
    if not ends:
        return None, None, ""
    return min(low for low, _ in ends), max(high for _, high in ends), "test sampling"


def success(scores: list[float], threshold: float) -> Share | None:
    """How many seeds reached the threshold, with Clopper and Pearson's exact interval."""
    if not scores:
        return None
    from scipy.stats import binomtest

    k = sum(score >= threshold for score in scores)
    ends = binomtest(k, len(scores)).proportion_ci(method="exact")
    return Share(k, len(scores), float(ends.low), float(ends.high))


def largest(values) -> float | None:
    """The largest of the values that are there."""
    return max((value for value in values if value is not None), default=None)
