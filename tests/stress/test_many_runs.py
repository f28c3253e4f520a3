"""A thousand tiny runs in one process: memory, open files, threads, children and temporary files do not grow.

python -m pytest -m slow -s -n 0 tests/stress/test_many_runs.py
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from stressed import say

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]
RUNS = 1000
KIB_PER_RUN = 16  # 16 MiB in a thousand runs: the heap's own scatter, and far less than one model's data per run


def test_a_thousand_runs_leave_nothing_behind(tmp_path):
    script = Path(__file__).with_name("many_runs.py")
    done = subprocess.run([sys.executable, script, tmp_path, str(RUNS)], capture_output=True, text=True, timeout=7200)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    early, late = found[2], found[-1]  # all tasks, models and caches have been met before the early one
    grown = (late["kib"] - early["kib"]) / (late["runs"] - early["runs"])
    say(f"{RUNS} runs: {early} ... {late}; {grown:.1f} KiB per run")
    assert grown < KIB_PER_RUN
    for name in ("open", "threads", "children", "temporary", "folders"):
        assert late[name] <= early[name], name
