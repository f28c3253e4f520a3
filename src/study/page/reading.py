"""From folders to one `Document`: any mixture of runs, comparisons, studies and records of `speed`.

    document = read(["runs/S", "runs/20250101-120000"])

Runs that are given one by one are grouped by what tells them apart (src/study/page/grouping.py).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from src.flags.fields import UserError
from src.study.page import grouping
from src.study.page.comparison import read_comparison
from src.study.page.evidence import Document, Key, Run, Source
from src.study.page.measured import open_kind, read_speed, read_study
from src.study.page.runs import read_run
from src.study.page.values import shown


def read(folders) -> Document:
    """The document of all folders. UserError, which names the folder, for one that cannot be read."""
    documents, runs = [], []
    for folder in distinct(folders):
        try:
            kind = open_kind(folder)
            if kind == "compare":
                documents.append(read_comparison(folder))
            elif kind == "speed":
                documents.append(read_speed(folder))
            elif kind == "study":
                study, trainings = read_study(folder)
                documents.append(study)
                runs += trainings
            elif kind:
                raise UserError(f"got results of `{shown(kind)}`, allowed: a run, `compare`, `study` or `speed`")
            else:
                found = read_run(folder)
                runs.append(found)
                documents.append(Document(sources=[_source(found[0])]))
        except UserError as error:
            told = str(error)
            raise UserError(told if str(folder) in told else f"'{folder}': {told}") from error
    if runs:
        named = grouping.named(runs)
        documents.append(Document(runs=named, cells=grouping.cells_of(named)))
    return merged(documents)


def distinct(folders) -> list[Path]:
    """The folders, each once."""
    found = {Path(folder).resolve(): Path(folder) for folder in reversed(list(folders))}
    return list(reversed(found.values()))


def _source(run: Run) -> Source:
    return Source("train", run.folder, run.command, run.origin)


def merged(documents: list[Document]) -> Document:
    """One document of several. A cell that two of them have is told apart by the name of its folder."""
    keys = [key for d in documents for key in {cell.key for cell in d.cells}]
    twice = {key for key in keys if keys.count(key) > 1}
    whole = Document()
    for document in documents:
        place = Path(document.sources[0].folder).name if document.sources else "runs"
        told_apart = _renamed(document, twice, place)
        for field in dataclasses.fields(Document):
            value = getattr(told_apart, field.name)
            if isinstance(value, list):
                getattr(whole, field.name).extend(value)
        whole.planned += document.planned
        whole.alpha = document.alpha if whole.alpha is None else whole.alpha
        whole.margin = document.margin if whole.margin is None else whole.margin
    return whole


def _renamed(document: Document, twice: set[Key], place: str) -> Document:
    """The document with the folder in the setting of each cell that another document has as well."""

    def renamed(item):
        if item.key not in twice:
            return item
        return dataclasses.replace(item, key=(*item.key[:2], " ".join(filter(None, (item.key[2], f"in {place}")))))

    def moved(pair):
        both = ((pair.task, pair.a, pair.setting), (pair.task, pair.b, pair.setting))
        if not twice & set(both):
            return pair
        return dataclasses.replace(pair, setting=" ".join(filter(None, (pair.setting, f"in {place}"))))

    return dataclasses.replace(
        document,
        cells=[renamed(cell) for cell in document.cells],
        runs=[renamed(run) for run in document.runs],
        holes=[renamed(hole) for hole in document.holes],
        differences=[moved(pair) for pair in document.differences],
    )
