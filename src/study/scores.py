"""How much worse a trained model is than the baseline, item by item over the same test set.

    found = differences(folder, models, trainings, documents)      # {(task, model): Difference, or why there is none}

Each training left the errors of its best weights in test_items.json (src/storage/items.py): per block of a text, per
sequence of the other tasks.
"""

from __future__ import annotations

from pathlib import Path

from src.flags.fields import UserError
from src.storage.items import Items, read_items
from src.study.claims import trained_tasks
from src.study.claims.contract import Difference, Outcome
from src.study.claims.quality import paired


def differences(folder: Path, models, trainings: dict[tuple[str, str], Outcome], documents: dict) -> dict:
    """{(task, model): Difference from the baseline, or a text that says why there is none}.

    folder: of the study.  models: labels, the baseline first.  documents: {(task, model): its metrics.json}.
    """
    found: dict[tuple[str, str], Difference | str] = {}
    for task in trained_tasks():
        ready = [m for m in models if (task, m) in trainings and trainings[task, m].status == "done"]
        if models[0] not in ready:
            continue
        for m in ready[1:]:
            why = _other_data(m, models[0], documents[task, m]["data"], documents[task, models[0]]["data"])
            pair = (folder / f"{task}-{m}", folder / f"{task}-{models[0]}")
            found[task, m] = why or _difference(*pair, trainings[task, m].metric)
    return found


def _other_data(model: str, baseline: str, mine: dict, theirs: dict) -> str:
    """Why two trainings cannot be compared, by what their metrics.json say about the data. "" where they can."""
    if mine["digest"] == theirs["digest"]:
        return ""
    return (
        f"{model} and {baseline} were trained on different data ({mine['source']} and {theirs['source']}); "
        "train them again with --overwrite"
    )


def _difference(folder: Path, baseline: Path, metric: str) -> Difference | str:
    """How many more errors the run in `folder` makes than the baseline, or why that is not known."""
    try:
        mine, theirs = (read_items(path, metric) for path in (folder, baseline))
    except UserError as error:  # a run of an older version has no items
        return str(error)
    if not _are_alike(mine, theirs):
        return f"{folder.name} and {baseline.name} were tested on different sequences"
    return paired(mine.errors, theirs.errors, mine.counts, is_share=metric != "loss")


def _are_alike(mine: Items, theirs: Items) -> bool:
    """Whether both runs were scored on the same sequences."""
    return mine.digest == theirs.digest and mine.counts.tolist() == theirs.counts.tolist()
