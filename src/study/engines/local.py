"""The local engine: runs side by side on this machine, each in a process of its own.

    with LocalEngine(home, workers=2, timeout=600) as engine:
        engine.submit(jobs)
        for outcome in engine.outcomes():
            ...

Starting Python with torch takes seconds, which is longer than many runs of a comparison. So a server imports once what
a run needs (PRELOAD), and each run is a fork of it. The server computes nothing, starts no thread and touches no GPU,
so a run begins there as in a new interpreter, and leaves the same bytes. `start_server` starts it early, so that it
imports while a plan is prepared. Where a system cannot fork (Windows), each run starts an interpreter of its own.

With `drawn`, runs share the examples that they draw alike (dataset/drawn.py): the models of a seed, and the learning
rates of a tuning seed. The folder is removed when the engine ends.

Two small runs side by side do more than one run on two threads. So there are as many workers as `threads` fit into the
cores of this process.

What a job prints goes to `home`/logs/<folder>.txt, both attempts one after the other. A worker that is killed or runs
out of memory is started once more, after the jobs that wait. Its run goes on from the last checkpoint.
How a worker is stopped, and why it cannot outlive its parent: src/study/engines/worker.py.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.forkserver
import os
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path

from dataset import TASKS
from dataset.drawn import VARIABLE as DRAWN
from src.flags.kinds import UserError
from src.models import MODELS
from src.storage.env import PROJECT
from src.storage.files import open_sealed, read_json
from src.storage.rundir import RunDir
from src.study.engines import ATTEMPTS, DIVERGED, DONE, FAILED, TIMEOUT, Job, Outcome, check_folder
from src.study.engines.queued import Queued
from src.study.engines.worker import END, INTERRUPTED, STOP, Errand, work
from src.utils.interrupts import Interrupts
from src.utils.launch import usable_cores
from src.utils.lifetime import LOST

COMMAND = "benchmark:main"
OK, DIVERGENCE = 0, 3  # exit codes of a command; INTERRUPTED is one too
GRACE_SECONDS = 60.0  # for a run to save its state, before it is killed
LONGEST_WAIT = 1.0  # seconds
LOST_SECONDS = 10.0  # for a worker whose server has ended, to end too
TAIL_BYTES, LONGEST_WHY = 64 * 1024, 500
# What a training needs. `benchmark` comes first, because it sets how OpenMP waits before torch is loaded.
PRELOAD = (
    *("benchmark", "numpy", "scipy.stats", "torch", "tqdm", "torch.utils.serialization.config"),
    *("matplotlib.font_manager", "matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.style"),
    *("src.commands.train", "src.commands.resume", "src.checks.ready", "src.setup.run", "src.setup.stored"),
    *(f"src.ops.{op}.recurrent" for op in ("delta_rule", "linear_attention", "selective_scan")),
    *("src.ops.causal_conv.one_pass", "src.study.engines.worker"),
)


@dataclass
class Attempt:
    """A worker that runs. number: 1 or 2.  asked: why it was asked to stop, "" if it was not."""

    job: Job
    number: int
    process: multiprocessing.process.BaseProcess
    control: Connection
    began: float
    asked: str = ""
    kill_at: float | None = None


class LocalEngine(Queued):
    """home: the folder that holds the jobs' folders.  workers: processes at a time; 0 = as many as cores allow.

    threads: CPU threads of one job, which each job's words repeat; 0 leaves OMP_NUM_THREADS as it is.
    timeout: seconds of one attempt; 0 = no limit.  attempts: of a job that is lost.  quiet: give the jobs --quiet.
    logs: False shows what the jobs print on stderr.  target: what a job's words are handed to.
    preload: the modules that it needs. The server of this process keeps those of the first engine.
    drawn: a folder in which the jobs share what they draw; "" for none. SEQ_BENCH_DRAWN, if it is set, comes first.
    """

    def __init__(
        self,
        home,
        workers: int = 0,
        threads: int = 1,
        timeout: float = 0.0,
        quiet: bool = True,
        logs: bool = True,
        attempts: int = ATTEMPTS,
        target: str = COMMAND,
        preload: Sequence[str] | None = None,
        drawn: str | Path = "",
    ):
        super().__init__(home)
        self.threads, self.timeout, self.attempts = threads, timeout, attempts
        self.workers = workers or max(1, usable_cores() // max(1, threads))
        self.quiet, self.logs, self.target = quiet, logs, target
        self.preload = what_a_training_needs() if preload is None else preload
        self.drawn = Path(drawn).absolute() if drawn else None
        self._queue: deque[tuple[Job, int]]
        self._running: dict[int, Attempt]  # by the sentinel of its process
        self._context = None
        self._interrupts = Interrupts()

    def __enter__(self) -> LocalEngine:
        self._interrupts.__enter__()
        return self

    def __exit__(self, *error) -> None:
        try:
            self.stop()
            if self.drawn is not None:
                shutil.rmtree(self.drawn, ignore_errors=True)
        finally:
            self._interrupts.__exit__()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs. ValueError for a folder that is not below home, or that another job is writing to."""
        for job in jobs:
            check_folder(job, self._folders)
            self._folders.add(job.folder)
            self._queue.append((job, 1))

    def _fill(self) -> None:
        while self._queue and len(self._running) < self.workers:
            self._start(*self._queue.popleft())

    def _conclusions(self) -> Iterator[Outcome | None]:
        for attempt in self._ended():
            yield self._conclude(attempt, self._close(attempt))

    def stop(self) -> None:
        """Interrupt all workers, and wait until they have saved their state. A second Ctrl-C kills them at once."""
        self._queue.clear()
        for attempt in self._running.values():
            self._ask(attempt, "stopped")
        try:
            while self._running:
                for attempt in self._ended():
                    self._close(attempt)
        finally:
            self._kill_all()
            self._folders.clear()

    def _kill_all(self) -> None:
        with self._interrupts.held():
            for attempt in list(self._running.values()):
                attempt.process.kill()
                attempt.process.join()
                self._close(attempt)

    def _start(self, job: Job, number: int) -> None:
        """Start a worker for a job."""
        log = ""
        if self.logs:
            log = str(self.log(job).absolute())
            self.log(job).parent.mkdir(parents=True, exist_ok=True)
            if number == 1:
                self.log(job).write_bytes(b"")
        errand = Errand(self.target, tuple(self.command(job)), os.getcwd(), self.environment(), log, self.quiet)
        with self._interrupts.held():
            process, control = self._process(errand)
            attempt = Attempt(job, number, process, control, time.monotonic())
            self._running[process.sentinel] = attempt

    def _process(self, errand: Errand):
        """A started process and this end of its pipe. If the server cannot be used, it starts with an interpreter."""
        if self._context is None:
            self._context = _forking(self.threads, self.preload)
        while True:
            ours, theirs = Pipe()
            process = self._context.Process(target=work, args=(errand, theirs))
            try:
                process.start()
                return process, ours
            except (EOFError, OSError) as error:
                ours.close()
                if self._context.get_start_method() == "spawn":
                    raise
                why = str(error) or "it has ended"
                print(f"notice: runs start slower, without the server of workers ({why})", file=sys.stderr)
                self._context = multiprocessing.get_context("spawn")
            finally:
                theirs.close()

    def environment(self) -> dict[str, str]:
        """The environment variables of a job."""
        environ = dict(os.environ)
        if self.threads:
            environ["OMP_NUM_THREADS"] = str(self.threads)
        if self.drawn is not None:
            environ.setdefault(DRAWN, str(self.drawn))
        return environ

    def command(self, job: Job) -> list[str]:
        """The words that begin a job, or that continue it."""
        folder = self.home / job.folder
        return [*job.words, "--out_dir", str(folder), *how_to_go_on(job, folder), *(["--quiet"] if self.quiet else [])]

    def _ended(self) -> list[Attempt]:
        """Wait until a worker has ended or a time is over; the workers that have ended."""
        now = time.monotonic()
        times = [at for attempt in self._running.values() if (at := self._next_time(attempt)) is not None]
        # Not for ever: Windows, and a thread that interrupts this one, cannot end the wait.
        ready = wait(list(self._running), max(0.0, min([*times, now + LONGEST_WAIT]) - now))
        now = time.monotonic()
        for sentinel, attempt in self._running.items():
            at = self._next_time(attempt)
            if sentinel in ready or at is None or now < at:
                continue
            if attempt.asked:
                attempt.process.kill()
                attempt.kill_at = None
            else:
                self._ask(attempt, f"took longer than {self.timeout:g} s")
        return [self._running[sentinel] for sentinel in ready]

    def _next_time(self, attempt: Attempt) -> float | None:
        """When something has to be done about a worker that goes on: it is interrupted, then killed."""
        if attempt.asked:
            return attempt.kill_at
        return attempt.began + self.timeout if self.timeout else None

    def _ask(self, attempt: Attempt, why: str) -> None:
        """Ask a worker to stop, once."""
        if attempt.asked:
            return
        attempt.asked, attempt.kill_at = why, time.monotonic() + GRACE_SECONDS
        with contextlib.suppress(OSError):  # it has just ended
            attempt.control.send_bytes(STOP)

    def _close(self, attempt: Attempt) -> int:
        """Forget a worker that has ended; its exit code."""
        with self._interrupts.held():
            del self._running[attempt.process.sentinel]
            attempt.process.join()
            code = attempt.process.exitcode
            if code == LOST:
                _see_it_end(attempt.control)
            attempt.process.close()
            attempt.control.close()
        return code

    def _conclude(self, attempt: Attempt, code: int) -> Outcome | None:
        """What became of a job, from its worker's exit code; None if the job is tried once more."""
        job, seconds = attempt.job, time.monotonic() - attempt.began
        if code in (OK, DIVERGENCE):
            diverged = code == DIVERGENCE or has_diverged(self.home / job.folder)
            return Outcome(job, DIVERGED if diverged else DONE, "", seconds, attempt.number)
        if attempt.asked:
            return Outcome(job, TIMEOUT, attempt.asked, seconds, attempt.number)
        killed = how_killed(code)
        why = killed or (last_words(self.log(job)) if self.logs else "") or f"ended with exit code {code}"
        lost = bool(killed) or (code == 1 and "out of memory" in why)
        if lost and attempt.number < self.attempts:
            self._queue.append((job, attempt.number + 1))
            return None
        return Outcome(job, FAILED, why, seconds, attempt.number, lost)


def start_server(threads: int) -> None:
    """Start the server for trainings, and do not wait for it. It ends with this process, whether it is used or not."""
    _forking(threads, what_a_training_needs())


def what_a_training_needs() -> list[str]:
    """The modules that the server imports: what every training needs, and all tasks and layers."""
    modules = [entry.target.split(":")[0] for entry in (*TASKS.values(), *MODELS.values())]
    return [*PRELOAD, *dict.fromkeys(modules)]


def how_to_go_on(job: Job, folder: Path) -> list[str]:
    """The flag that a run in this folder needs: none for a new one, --resume for one that was begun.

    A power cut can damage config.json before there is a checkpoint. Nothing is lost then, and the run begins again.
    """
    run = RunDir(folder)
    if not (job.resumes and run.exists):
        return []
    if not (run.ckpt.exists() or run.finished):
        try:
            open_sealed(run.config)
        except UserError:
            return ["--overwrite"]
    return ["--resume"]


def has_diverged(folder: Path) -> bool:
    """Whether a run that is finished has diverged. --resume of one that is finished ends with exit code 0."""
    metrics = RunDir(folder).metrics
    return metrics.is_file() and read_json(metrics)["status"] == "diverged"


def how_killed(code: int) -> str:
    """'was killed by SIGKILL', from an exit code; empty if nothing outside of the run ended it."""
    if code < 0:
        names = {number.value: number.name for number in signal.Signals}
        return f"was killed by {names.get(-code, f'signal {-code}')}"
    return {INTERRUPTED: "was interrupted", LOST: "lost the process that started it"}.get(code, "")


def last_words(log: Path) -> str:
    """The last line of a log that begins with `error:`, or else its last line."""
    with contextlib.suppress(OSError), open(log, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        return (errors or lines or [""])[-1][:LONGEST_WHY]
    return ""


def _see_it_end(control: Connection) -> None:
    """Wait for the end of a worker whose server has ended, so that its folder's lock is free."""
    with contextlib.suppress(OSError):
        control.send_bytes(END)
        control.poll(LOST_SECONDS)


def _forking(threads: int, preload: Sequence[str]):
    """The way to start a process: as a fork of a server where the system has that, else with a new interpreter.

    The server lives as long as this process. It is started with the signals of a terminal blocked, because a Ctrl-C
    while it imports would end it; a worker unblocks them.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    multiprocessing.forkserver.set_forkserver_preload(list(preload))
    path = os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
    more = {"PYTHONPATH": path, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    with _changed(more), _blocked((signal.SIGINT, signal.SIGHUP)):
        multiprocessing.forkserver.ensure_running()
    return multiprocessing.get_context("forkserver")


@contextlib.contextmanager
def _changed(more: dict[str, str]) -> Iterator[None]:
    """Environment variables for a process that starts in this block."""
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _blocked(numbers: Iterable[int]) -> Iterator[None]:
    """Signals blocked, in this thread and in a process that it starts."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
