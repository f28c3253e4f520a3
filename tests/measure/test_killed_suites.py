"""Suites that are killed at random moments and continued: each row once, as without a kill. All tests are slow.

python -m pytest -m slow tests/measure/test_killed_suites.py
"""

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter

import pytest
from conftest import ROOT, TINY, bench

pytestmark = pytest.mark.slow

KILLS = 8  # of each suite; a damaged cell would need one of them to fall between two rows
SUITES = {
    "kernels": (
        "kernels --op softmax --lengths 8,16,32 --batch_tokens 64 --width 16 --cell_seconds 0.1 --threads 1 --quiet "
        "--backends eager,fused"
    ).split(),
    "profile": [
        *("profile", "--task", "needle", "--model", "gru", *TINY, "--steps", "3", "--cell_seconds", "0.3"),
        *("--lengths", "16,24,48"),
    ],
    "speed": (
        "speed --model gru,lstm --panel train,memory --lengths 16,32 --batch_tokens 64 --cell_seconds 0.1 --d_model 16 "
        "--n_layer 1 --n_head 2 --threads 1 --precision fp32 --quiet"
    ).split(),
}


def keys(folder) -> Counter:
    """How often each measurement is among the rows. The table by operator may name other operators each time."""
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    names = ("panel", "model", "op", "form", "metric", "backend", "x", "batch")
    return Counter(json.dumps([row[n] for n in names]) for row in rows if row["panel"] != "operators")


def killed(words, folder, after: float, number) -> int:
    """Start a suite, end it by a signal after some seconds, and return its exit code."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "benchmark.py"), *words, "--out_dir", str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        return process.wait(timeout=after)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        return process.wait(timeout=60)


@pytest.mark.parametrize("suite", SUITES)
def test_a_suite_that_was_killed_again_and_again_has_each_row_once(suite, tmp_path):
    words, rng = SUITES[suite], random.Random(suite)
    whole = bench(*words, "--out_dir", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    began = 2.0  # before that it imports
    for i in range(KILLS):
        number = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)[i % 4]
        code = killed(words, tmp_path / "R", began + 0.6 * i + rng.random(), number)
        assert code in (0, -number, 130)
    last = bench(*words, "--out_dir", tmp_path / "R")
    assert last.returncode == 0, last.stderr
    found = keys(tmp_path / "R")
    assert set(found.values()) == {1}
    assert found == keys(tmp_path / "whole")
    history = json.loads((tmp_path / "R" / "history.json").read_text())
    assert history["status"] == "done"
    assert len(history["rows"]) == len((tmp_path / "R" / "results.jsonl").read_bytes().splitlines())
