"""The log of a run that goes on: verified against its checkpoint, or written again from it.

    known = known_log(run_dir, payload, rebuild=False)      # UserError, and nothing is changed
    run_dir.training_log.restore(known.lines)

ckpt.pt holds a copy of the log up to its step (src/storage/log_copy.py). What the log has beyond it is dropped, because
the run measures it again. A checkpoint that is older than the copy is continued where the log has every step once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from src.flags.fields import UserError
from src.flags.hints import resuming
from src.storage.log import difference, problem_of
from src.storage.log_copy import unpacked
from src.storage.rundir import RunDir
from src.utils.results import loss_curve

FLAG = "--from_checkpoint_log"


@dataclass(frozen=True)
class KnownLog:
    """The lines that a run goes on from, each with its line break.  notice: what to say about them."""

    lines: list[bytes]
    notice: str = ""


def known_log(run_dir: RunDir, payload: dict | None, rebuild: bool = False) -> KnownLog:
    """The log up to a checkpoint. payload: of ckpt.pt, or None where there is none yet.

    rebuild: take the copy in the checkpoint, whatever the file holds.
    UserError where the file is not what was logged, and where there is no copy to rebuild it from.
    """
    if payload is None:
        if rebuild:
            raise UserError(f"{FLAG}: '{run_dir.ckpt}' does not exist, so no line of the log counts; leave it out")
        return KnownLog([])
    if "log" not in payload:
        return _older(run_dir, payload["step"], rebuild)
    lines = _copied(run_dir, payload)
    problem = "" if rebuild else difference(run_dir.log, lines)
    if problem:
        raise changed(run_dir, problem)
    written = "written again from ckpt.pt, to the byte" if rebuild and difference(run_dir.log, lines) else ""
    return KnownLog(lines, f"'{run_dir.log}' is {written}" if written else "")


def verify_log(run_dir: RunDir, payload: dict, document: dict) -> None:
    """UserError where the log of a finished run is not that of its checkpoint and of its metrics.json."""
    known = known_log(run_dir, payload)
    rows = [json.loads(line) for line in known.lines]
    content, logged = run_dir.log.read_bytes(), b"".join(known.lines)
    if content != logged:
        raise changed(run_dir, f"has {len(content) - len(logged)} bytes after the last line that the run logged")
    if loss_curve(rows) != document["loss_curve"]:
        raise changed(run_dir, "has other losses than the curve in metrics.json")


def changed(run_dir: RunDir, problem: str) -> UserError:
    """The error for a log that is not what the run logged."""
    return UserError(
        f"'{run_dir.log}' {problem}; restore it, or write it again from the checkpoint with "
        f"`{resuming(run_dir.path, FLAG)}`, or start again with --overwrite"
    )


def _copied(run_dir: RunDir, payload: dict) -> list[bytes]:
    """The lines that ckpt.pt holds. UserError where they are not those of a training up to its step."""
    try:
        lines = unpacked(payload["log"])
        problem = problem_of([json.loads(line) for line in lines], payload["step"])
    except (ValueError, OverflowError) as error:
        problem = str(error).splitlines()[0]
    if problem:
        raise UserError(f"'{run_dir.ckpt}': its copy of the log is damaged ({problem}); train again with --overwrite")
    return lines


def _older(run_dir: RunDir, step: int, rebuild: bool) -> KnownLog:
    """The log of a run whose checkpoint was written before there were copies."""
    if rebuild:
        raise UserError(
            f"{FLAG}: '{run_dir.ckpt}' is of an older version and holds no copy of the log; restore "
            f"'{run_dir.log}', or start again with --overwrite"
        )
    found = [(line, row) for line, row in run_dir.training_log.rows() if row["step"] <= step]
    if problem := problem_of([row for _, row in found], step):
        raise UserError(
            f"'{run_dir.log}' {problem}, and '{run_dir.ckpt}' is of an older version, which held no copy of it; "
            "restore it, or start again with --overwrite"
        )
    return KnownLog(
        [line + b"\n" for line, _ in found],
        f"'{run_dir.ckpt}' is of an older version without a copy of the log; {run_dir.log.name} has every step once, "
        "but nothing shows whether its numbers were changed",
    )
