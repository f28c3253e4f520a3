"""test_items.json: how many errors the best weights of a run make on each unit of the test set.

    write_json(run.items, items_document("copy", "sequence", digest, errors, step))
    items = read_items("runs/R")            # Items: two runs with equal digests can be compared unit by unit

A unit is what is independent of the others: a sequence, or a block of neighbouring windows of a text (the units of the
intervals). The file is sealed, and metrics.json holds its digest. So it is known to belong to the run.

    "digest"     of the test sequences
    "metrics"    {metric: {"errors": [...], "counts": [...]}}, one number per unit: of the primary metric, and of "loss"
                 where the task is on a text
    "reason"     why there are no items; null where there are

`errors` sums over the unit what is lost: 1 - score (wrong characters or answers), or nats of a loss. `counts` says over
how many scored characters or answers. So sum(errors) / sum(counts) is 1 - the score on the test set, or the loss.
Nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from src.flags.fields import UserError
from src.storage.files import open_sealed, seal
from src.storage.rundir import RunDir

ITEMS_SCHEMA = 1
DIGITS = 9  # significant digits of a number that is not whole

UnitErrors = dict[str, tuple[np.ndarray, np.ndarray]]  # metric: (errors, counts), each (n,)


@dataclass(frozen=True)
class Items:
    """The errors of one metric. errors, counts: (n,) float, one entry per unit.  digest: of the test sequences."""

    metric: str
    unit: str
    errors: np.ndarray
    counts: np.ndarray
    digest: str


def items_document(
    primary: str, unit: str, digest: str, errors: UnitErrors, step: int | None, reason: str | None = None
) -> dict:
    """The sealed content of test_items.json.

    unit: "sequence" or "block of text".  digest: of the test sequences.  step: of the weights.
    reason: why there are no items, for a run that diverged. `errors` is empty then.
    """
    metrics = {
        name: {"errors": _short(lost), "counts": [int(n) for n in counts]} for name, (lost, counts) in errors.items()
    }
    head = {"schema": ITEMS_SCHEMA, "split": "test", "weights": "best", "step": step, "unit": unit}
    return seal({**head, "digest": digest, "primary": primary, "metrics": metrics, "reason": reason})


def read_items(run_dir, metric: str = "") -> Items:
    """The test items of a finished run, of its primary metric or of another one that the file holds ("loss" of a text).

    run_dir: a RunDir or a path.
    Raises UserError for a run without items (older than the file, or diverged), and for a file that is missing, was
    edited, or belongs to another run.
    """
    run = run_dir if isinstance(run_dir, RunDir) else RunDir(run_dir)
    document = open_items(run, open_sealed(run.metrics))
    if document is None:
        raise UserError(
            f"'{run.path}' has no {run.items.name}, because the run is older than that file; "
            "train it again with --overwrite"
        )
    if document["reason"] is not None:
        raise UserError(f"'{run.items}' has no items: {document['reason']}")
    name = metric or document["primary"]
    if name not in document["metrics"]:
        raise UserError(f"'{run.items}': got metric '{name}', allowed: {', '.join(document['metrics'])}")
    found = document["metrics"][name]
    errors, counts = (np.array(found[key], dtype=float) for key in ("errors", "counts"))
    return Items(name, document["unit"], errors, counts, document["digest"])


def open_items(run: RunDir, metrics: dict) -> dict | None:
    """The verified content of test_items.json; None for a run that is older than the file. metrics: its metrics.json.

    Raises UserError for a file that is missing, was edited, is of another version, or belongs to another run.
    """
    if "test_items" not in metrics:
        return None
    document = open_sealed(run.items)
    if document["sha256"] != metrics["test_items"]:
        raise UserError(f"'{run.items}' belongs to another run; restore it, or start again with --overwrite")
    if document.get("schema") != ITEMS_SCHEMA:
        raise UserError(
            f"'{run.items}': got schema {document.get('schema')!r:.40}, allowed: {ITEMS_SCHEMA}; "
            "it belongs to another version of this program"
        )
    return document


def _short(values: np.ndarray) -> list[int | float]:
    """Numbers as short JSON: whole ones as int, others with DIGITS significant digits."""
    rounded = [float(f"{value:.{DIGITS}g}") for value in values.tolist()]
    return [int(value) if value.is_integer() else value for value in rounded]
