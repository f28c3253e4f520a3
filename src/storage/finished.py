"""The results of a finished training, verified. Nothing here imports torch."""

from __future__ import annotations

from src.flags.fields import UserError
from src.flags.hints import resuming
from src.storage.files import open_sealed
from src.storage.rundir import RunDir
from src.storage.schema import validate


def finished_metrics(run: RunDir) -> dict:
    """metrics.json of a finished run, verified; UserError if it is missing, edited or not of the schema."""
    if not run.finished and run.imported:
        raise UserError(f"{run.path}: imported, so it has no metrics.json; train on from it with --init_from")
    if not run.finished:
        raise UserError(
            f"{run.path}: not finished, it has no metrics.json yet; continue it with `{resuming(run.path)}`"
        )
    document = open_sealed(run.metrics)
    try:
        validate(document)
    except ValueError as error:
        raise UserError(f"{run.metrics}: not of this schema: {error}; make the run again with --overwrite") from error
    return document
