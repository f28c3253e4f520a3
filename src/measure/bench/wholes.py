"""Whole commands, as a user starts them: the seconds of the process from its start to its end.

    main_job("here", folder)          # {"main_job_s": [91.2]}

folder: an empty one, for run directories. RuntimeError, with the last line that was printed, where a command fails.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from src.flags.hints import PROGRAM
from src.measure.bench.items import COLUMNS, PRECISION
from src.storage.files import read_json

SMALL = (
    *("--d_model", "64", "--n_layer", "2", "--max_steps", "60", "--eval_every", "30", "--batch_chars", "2048"),
    *("--val_size", "300", "--test_size", "500", "--stop_at", "0", "--precision", "fp32", "--lr", "1e-3"),
)
MANY = ("compare", "--task", "recall,copy", "--model", "gru,transformer", *SMALL, "--seeds", "2", "--quiet")
GRACE_SECONDS = 10.0  # for a process to end after SIGTERM


def process(words: Sequence[str], environment: Mapping[str, str]) -> tuple[float, str]:
    """(seconds, stdout) of a Python process. It is ended with this one's Ctrl-C. RuntimeError where it fails."""
    began = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=PROGRAM.parent,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    try:
        out, err = child.communicate()
    except BaseException:
        child.send_signal(signal.SIGTERM)
        try:
            child.communicate(timeout=GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
        raise
    seconds = time.perf_counter() - began
    if child.returncode:
        last = [line for line in err.splitlines() if line.strip()] or [f"exit code {child.returncode}"]
        raise RuntimeError(last[-1].removeprefix("error: "))
    return seconds, out


def command(words: Sequence[str], column: str, **environment: str) -> float:
    """Seconds of a command of this program."""
    return process([str(PROGRAM), *words], {**COLUMNS[column], **environment})[0]


def main_job(column: str, folder: Path) -> dict[str, list[float]]:
    """The first command of the README."""
    words = ("--task", "needle", "--model", "mamba", "--precision", PRECISION[column], "--quiet")
    return {"main_job_s": [command((*words, "--out_dir", str(folder / "main")), column)]}


def recipe(column: str, folder: Path) -> dict[str, list[float]]:
    """The public recipe on a CPU, and what of it is not training."""
    words = ("--preset", "nanogpt-cpu", "--model", "transformer", "--precision", PRECISION[column], "--quiet")
    whole = command((*words, "--out_dir", str(folder / "recipe")), column)
    training = read_json(folder / "recipe" / "metrics.json")["machine"]["train_seconds"]
    return {"recipe_s": [whole], "recipe_rest_s": [whole - training]}


def start(column: str, folder: Path) -> dict[str, list[float]]:
    """Five steps, warm and with every cache empty."""
    words = ("--task", "needle", "--model", "mamba", "--max_steps", "5", "--quiet", "--overwrite")
    words = (*words, "--out_dir", str(folder / "start"))
    empty = {name: str(folder / name) for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "MPLCONFIGDIR")}
    first = command(words, column, **empty)
    return {"start_first_s": [first], "start_warm_s": [command(words, column) for _ in range(2)]}


def many(column: str, folder: Path) -> dict[str, list[float]]:
    """A small comparison: one run after the other on two threads, then two side by side on one thread each."""

    def seconds(name: str, workers: int, threads: int) -> float:
        words = (*MANY, "--workers", str(workers), "--threads", str(threads), "--out_dir", str(folder / name))
        return command(words, column)

    one, two = seconds("one", 1, 2), seconds("two", 2, 1)
    return {"many_one_s": [one], "many_2_s": [two], "many_gain": [one / two]}
