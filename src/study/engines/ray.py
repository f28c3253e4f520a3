"""The Ray engine: each run is a task of a Ray cluster, and its run directory comes back as bytes. No disk is shared.

    with RayEngine(home, address="auto", threads=1) as engine:      # as LocalEngine; without an address it starts Ray

A task gets the program (benchmark.py, dataset, src), the user's own files, the text that it reads, and the files of a
run that was begun. It runs on a local engine of its machine (src/study/engines/node.py). A stopped run comes back with
its state. The folder appears below `home` whole, as if the run had been made here: its config.json names the user's
files by their paths here, and its env.json names the commit of this checkout.

A task needs `threads` CPUs, and one GPU if its words say --device cuda. A task whose machine died runs once more, on
another one.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import itertools
import os
import shutil
import socket
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.flags.kinds import UserError
from src.storage.env import PROGRAM, PROJECT, git_commit, open_env, versions, write_env
from src.storage.rundir import RunDir
from src.study.engines import ATTEMPTS, FAILED, Job, Outcome, check_folder
from src.study.engines.local import COMMAND, GRACE_SECONDS
from src.study.engines.node import STOPPED, Delivery, Order, carry_out
from src.study.engines.parcel import DATA, Files, files_of, needed, put
from src.study.engines.queued import Queued
from src.utils.interrupts import Interrupts

INSTALL = "--engine ray: Ray is not installed; run `pip install -r requirements-cluster.txt`"
POLL_SECONDS, CONNECT_SECONDS = 0.5, 10.0
LONGEST_WHY = 500


@dataclass
class Attempt:
    """A task that runs or waits. places: {folder: reference to its files}."""

    job: Job
    number: int
    words: tuple[str, ...]
    places: dict[str, object]
    began: float


class RayEngine(Queued):
    """home: the folder that holds the jobs' folders.  address: of a cluster, `auto` for the one here; "" starts Ray.

    workers: jobs at a time on a Ray that is started here; 0 = as many as cores allow.  threads, timeout, target,
    preload: as for LocalEngine.
    """

    def __init__(
        self,
        home,
        address: str = "",
        workers: int = 0,
        threads: int = 1,
        timeout: float = 0.0,
        target: str = COMMAND,
        preload: Sequence[str] | None = None,
    ):
        super().__init__(home)
        self.address, self.workers, self.threads = address, workers, threads
        self.settings = {"threads": threads, "timeout": timeout, "target": target, "preload": preload}
        self.checks_words = target == COMMAND
        self._queue: deque[Attempt]
        self._running: dict[object, Attempt]  # by the reference of the task
        self._sent: dict[str, object] = {}
        self._closing = contextlib.ExitStack()

    def __enter__(self) -> RayEngine:
        with contextlib.ExitStack() as opened:
            self.ray = installed()
            program = opened.enter_context(tempfile.TemporaryDirectory(prefix="seq-bench-"))
            copy_program(Path(program))
            self._connect(program)
            opened.callback(self.ray.shutdown)
            opened.enter_context(Interrupts())  # after Ray, which sets a handler of its own
            opened.callback(self.stop)
            self._closing = opened.pop_all()
        return self

    def __exit__(self, *error) -> None:
        self._closing.close()

    def _connect(self, program: str) -> None:
        """Connect to the cluster, or start one. UserError of one line where that fails."""
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        cores = {"num_cpus": self.workers * max(1, self.threads)} if self.workers else {}
        check_address(self.address)
        # Without an address Ray would connect to any cluster that it finds on this machine.
        alone = {"address": "local", "include_dashboard": False, **cores}
        where = {"address": self.address} if self.address else alone
        try:
            self.ray.init(**where, **quiet, runtime_env={"working_dir": program})
        except (RuntimeError, ValueError, ConnectionError, TimeoutError) as error:
            what = f"got '{self.address}', which" if self.address else "no cluster is named, and a local one"
            raise UserError(f"--ray_address: {what} cannot be used ({first_line(error)})") from error

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs. UserError for one that no machine of the cluster can take, or whose text cannot be sent."""
        total = self.ray.cluster_resources()
        for job in jobs:
            check_folder(job, self._folders)
            for name, amount in resources(job, self.threads).items():
                if total.get(name, 0) < amount:
                    raise UserError(
                        f"--engine ray: '{job.name}' needs {amount} {name}, but the cluster has "
                        f"{total.get(name, 0):g}; add a machine, or ask for less"
                    )
            words, places = needed(job.words) if self.checks_words else (job.words, {})
            sent = {name: self._send(files) for name, files in places.items()}
            self._folders.add(job.folder)
            self._queue.append(Attempt(job, 1, words, sent, 0.0))

    def _send(self, files: Files):
        """A reference to files in Ray's store; equal files are sent once."""
        key = repr(sorted((name, hashlib.sha256(content).digest()) for name, content in files.items()))
        if key not in self._sent:
            self._sent[key] = self.ray.put(files)
        return self._sent[key]

    def _fill(self) -> None:
        while self._queue:
            self._start(self._queue.popleft())

    def _conclusions(self) -> Iterator[Outcome | None]:
        ready, _ = self.ray.wait(list(self._running), num_returns=1, timeout=POLL_SECONDS)
        for reference in ready:
            yield self._conclude(self._running.pop(reference), reference)

    def stop(self) -> None:
        """Interrupt all tasks and fetch the state that they saved. A second Ctrl-C ends them at once."""
        self._queue.clear()
        self._folders.clear()
        try:
            for reference in self._running:
                self.ray.cancel(reference, force=False)
            until = time.monotonic() + GRACE_SECONDS
            while self._running and time.monotonic() < until:
                for _ in self._conclusions():  # what came back is in its place
                    pass
        finally:
            self._queue.clear()
            for reference in self._running:
                self.ray.cancel(reference, force=True)
            self._running.clear()

    def _start(self, attempt: Attempt) -> None:
        job = attempt.job
        data = os.environ.get(DATA, "")
        order = Order(
            Job(job.name, job.folder, attempt.words, job.resumes),
            files_of(self.home / job.folder),
            versions(),
            str(Path(data).absolute()) if data else "",
            self.settings,
        )
        needs = resources(job, self.threads)
        task = self.ray.remote(run_on_node).options(
            num_cpus=needs["CPU"], num_gpus=needs.get("GPU", 0), max_retries=0, name=job.name
        )
        attempt.began = time.monotonic()
        self._running[task.remote(order, list(attempt.places), *attempt.places.values())] = attempt

    def _conclude(self, attempt: Attempt, reference) -> Outcome | None:
        """What became of a task that has ended; None if its job is tried once more."""
        errors = self.ray.exceptions
        job = attempt.job
        try:
            delivery: Delivery = self.ray.get(reference)
        except (errors.RayTaskError, errors.RuntimeEnvSetupError, errors.TaskCancelledError) as error:
            outcome = Outcome(job, FAILED, last_line(error))
        except errors.RayError as error:  # the machine or Ray's worker has died, or memory ran out
            outcome = Outcome(job, FAILED, first_line(error), lost=True)
        else:
            self._place(job, attempt.number, delivery)
            outcome = delivery.outcome
        if outcome.lost and attempt.number < ATTEMPTS:
            attempt.number += 1
            self._queue.append(attempt)
            return None
        seconds = outcome.seconds or time.monotonic() - attempt.began
        return Outcome(job, outcome.status, outcome.why, seconds, attempt.number, outcome.lost)

    def _place(self, job: Job, number: int, delivery: Delivery) -> None:
        """Put what came back in its place."""
        log = self.log(job)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes((log.read_bytes() if number > 1 and log.exists() else b"") + delivery.log)
        if not delivery.files or (delivery.outcome.status == STOPPED and "config.json" not in delivery.files):
            return
        folder = self.home / job.folder
        put(delivery.files, folder)
        commit, env = git_commit(), RunDir(folder).env
        if commit and env.is_file():
            write_env(env, {**open_env(env), "commit": commit[0], "dirty": commit[1]})


def run_on_node(order: Order, folders: list[str], *files: Files) -> Delivery:
    """The task. Ray replaces the references among its arguments by their content."""
    return carry_out(order, dict(zip(folders, files, strict=True)))


def installed():
    """The package ray; UserError if it is missing."""
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise UserError(INSTALL) from error


def check_address(address: str) -> None:
    """UserError if nothing listens at HOST:PORT. Ray itself would try for minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon:
        return  # `auto`, or nothing
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(
            f"--ray_address: got '{address}', where no cluster answers ({first_line(error)}), allowed: HOST:PORT of a "
            "cluster's head, or auto; leave it out to start Ray here"
        ) from error


def copy_program(folder: Path) -> None:
    """Copy what decides the numbers of a run, and nothing else of the checkout."""
    for name in PROGRAM:
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / name)


def resources(job: Job, threads: int) -> Mapping[str, int]:
    """{"CPU": n, "GPU": n} that a job needs."""
    words = [part for word in job.words for part in word.split("=", 1)]
    devices = [value for flag, value in itertools.pairwise(words) if flag == "--device"]
    gpu = {"GPU": 1} if devices and devices[-1].startswith("cuda") else {}
    return {"CPU": max(1, threads), **gpu}


def first_line(error: Exception) -> str:
    """The first line of an error that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:LONGEST_WHY]


def last_line(error: Exception) -> str:
    """The last line of an error, which names the exception that a task raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1][:LONGEST_WHY]
