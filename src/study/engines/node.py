"""One job on a machine of a cluster: its files are unpacked, it runs on a local engine, its folder goes back as bytes.

The local engine gives what a single machine needs: a log, a time limit, an end for a run that does not stop. Nothing
stays on the machine. Nothing here imports Ray or torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from src.flags.places import VARIABLE
from src.storage.env import versions
from src.study.engines import FAILED, Job, Outcome
from src.study.engines.local import LocalEngine
from src.study.engines.parcel import DATA, Files, files_of, unpack, write

STOPPED = "stopped"  # the status of a job that was interrupted; the engine does not report it
COMPARED = ("torch", "numpy")


@dataclass(frozen=True)
class Order:
    """A job and what it needs. begun: the files of its run so far.  versions: those of the planning machine.

    data: its folder of SEQ_BENCH_DATA, "" if it has none.  settings: of the local engine (threads, timeout, ...).
    """

    job: Job
    begun: Files
    versions: dict[str, str]
    data: str
    settings: dict


@dataclass(frozen=True)
class Delivery:
    """How a job ended, the files of its run, and what it printed."""

    outcome: Outcome
    files: Files
    log: bytes


def carry_out(order: Order, places: Mapping[str, Files]) -> Delivery:
    """Run a job. An interrupt stops it, and its state goes back."""
    job = order.job
    if wrong := different(order.versions, versions()):
        return Delivery(Outcome(job, FAILED, f"{platform.node()} {wrong}"), {}, b"")
    home = Path(tempfile.mkdtemp(prefix="seq-bench-"))
    try:
        write(order.begun, home / job.folder)
        log = b""
        with _surroundings(unpack(places, home / "files"), order.data):
            engine = LocalEngine(home, workers=1, attempts=1, **order.settings)
            try:
                with engine:
                    engine.submit([job])
                    (outcome,) = engine.outcomes()
            except KeyboardInterrupt:
                outcome = Outcome(job, STOPPED)
            with contextlib.suppress(FileNotFoundError):
                log = engine.log(job).read_bytes()
        return Delivery(outcome, files_of(home / job.folder), log)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def different(there: Mapping[str, str], here: Mapping[str, str]) -> str:
    """What keeps a machine from leaving the same bytes, in words; empty if nothing does.

    Python counts without its last number, and a package without what follows `+` (`2.6.0+cpu` is `2.6.0`).
    """
    python = [found["python"].rpartition(".")[0] for found in (there, here)]
    pairs = {"Python": python} | {
        name: [found.get(name, "none").partition("+")[0] for found in (there, here)] for name in COMPARED
    }
    wrong = [f"{name} {two[1]} and not {two[0]}" for name, two in pairs.items() if two[0] != two[1]]
    return f"has {', '.join(wrong)} as the machine of the plan; install the same versions" if wrong else ""


@contextlib.contextmanager
def _surroundings(places: dict[str, str], data: str) -> Iterator[None]:
    """Environment variables that say where the job's files are."""
    before = {name: os.environ.get(name) for name in (VARIABLE, DATA)}
    os.environ[VARIABLE] = json.dumps(places)
    if data in places:
        os.environ[DATA] = places[data]
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
