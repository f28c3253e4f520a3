"""The commands that the stress tests interrupt, what each leaves, and which part of it two equal commands share.

A training leaves bytes that do not depend on interruptions. A measuring command leaves times, so its rows are compared
by what they are about: each cell must be there once.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from conftest import ROOT
from run_content import content

TINY = (
    "--context_len 24 --d_model 16 --n_layer 1 --n_head 2 --max_steps 30 --eval_every 5 --batch_chars 512 "
    "--val_size 20 --test_size 30 --warmup_steps 2 --threads 1 --precision fp32"
).split()
NEEDLE = ["--task", "needle", "--model", "transformer", *TINY, "--quiet"]
# What a row is about. The rest is measured.
ABOUT = "kind panel task model op form metric unit x_name x batch tokens parameters backend seed status".split()
TIMES = ("seconds", "step_seconds", "machine", "peak_mib")
SIGNALS = [s for s in (getattr(signal, n, None) for n in ("SIGKILL", "SIGTERM", "SIGHUP", "SIGINT")) if s]


@dataclass(frozen=True)
class Stressed:
    """A command.  arguments(folder): the words that begin or continue it.  left(folder): what equal commands share.

    prepare(folder): what must be there before its start.
    """

    arguments: Callable[[Path], list[str]]
    left: Callable[[Path], object]
    prepare: Callable[[Path], None] = lambda folder: None


def start(arguments: list[str]) -> subprocess.Popen:
    """`benchmark.py` in a session of its own, so that its children can be found when it is gone."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "benchmark.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(arguments: list[str]) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command that nothing interrupts."""
    process = start(arguments)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def members(session: int) -> list[int]:
    """The processes of a session that still run."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(entry.name))
    return found


def gone(session: int, seconds: float = 10.0) -> bool:
    """Whether all processes of a session end within this time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not members(session):
            return True
        time.sleep(0.05)
    return False


def train(folder: Path) -> list[str]:
    return ["--resume", "--out_dir", str(folder)] if (folder / "config.json").is_file() else [*NEEDLE, *out(folder)]


def evaluate(folder: Path) -> list[str]:
    return ["--eval_only", "--out_dir", str(folder), "--test_size", "20"]


def compare(folder: Path) -> list[str]:
    asked = "compare --task parity --model gru,lstm --lr 1e-3,3e-3 --lr_extend 0 --seeds 2".split()
    return [*asked, *TINY, "--quiet", *out(folder)]


def speed(folder: Path) -> list[str]:
    asked = "speed --model gru,template --panel train,decode --lengths 16,32 --d_model 16 --n_layer 1 --threads 1"
    return [*asked.split(), "--cell_seconds", "0.1", "--quiet", *out(folder)]


def kernels(folder: Path) -> list[str]:
    asked = "kernels --op causal_conv --lengths 16,32 --width 16 --batch_tokens 64 --cell_seconds 0.05 --threads 1"
    return [*asked.split(), "--quiet", *out(folder)]


def profile(folder: Path) -> list[str]:
    asked = "profile --task needle --model gru --steps 2 --lengths 8,16 --cell_seconds 0.1"
    return [*asked.split(), *TINY, "--quiet", *out(folder)]


def out(folder: Path) -> list[str]:
    return ["--out_dir", str(folder)]


def rows(folder: Path) -> Counter:
    """How often the folder has a row about each cell."""
    lines = (folder / "results.jsonl").read_text().splitlines()
    return Counter(json.dumps([json.loads(line)[name] for name in ABOUT]) for line in lines)


def verdict(folder: Path) -> dict:
    return {name: (folder / name).read_bytes() for name in ("summary.csv", "verdicts.json")}


def evaluated(folder: Path) -> object:
    """The run as training left it, and what the evaluations found."""
    reports = sorted(folder.glob("eval-*.json"))
    found = [without_times(json.loads(path.read_text())) for path in reports]
    kept = {name: value for name, value in content(folder).items() if not name.startswith("eval-")}
    return kept, found[-1]


def without_times(value):
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in TIMES and k != "sha256"}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def trained(folder: Path) -> None:
    code, _, err = finish(train(folder))
    assert code == 0, err


COMMANDS = {
    "train": Stressed(train, content),
    "eval": Stressed(evaluate, evaluated, trained),
    "compare": Stressed(compare, verdict),
    "speed": Stressed(speed, rows),
    "kernels": Stressed(kernels, rows),
    "profile": Stressed(profile, rows),
}


def one_line(err: str) -> str:
    """The error of a command that stopped. AssertionError if it is a traceback."""
    assert "Traceback" not in err, err
    return err.strip().splitlines()[-1] if err.strip() else ""


def say(text: str) -> None:
    """A line of figures, for `pytest -s` and for docs/robustness.md."""
    print(text, file=sys.stderr, flush=True)


def is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0
