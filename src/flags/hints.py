"""Command lines that a message asks the user to type, with the real path of benchmark.py.

    resuming("runs/20250101-120000")        # 'python benchmark.py --resume --out_dir runs/20250101-120000'

The path is relative where benchmark.py lies in the working directory or below it, and absolute elsewhere. So the line
works as it is printed, from the folder in which it was printed. Nothing here imports torch.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

PROGRAM = Path(__file__).resolve().parents[2] / "benchmark.py"


def program() -> str:
    """The path of benchmark.py, as it can be typed here."""
    try:
        here = Path.cwd()
    except OSError:  # the working directory was removed
        return str(PROGRAM)
    return str(PROGRAM.relative_to(here)) if here in PROGRAM.parents else str(PROGRAM)


def command(*words, starter: Sequence[str] = ("python",)) -> str:
    """A command line of this program, quoted for a shell.  starter: the words before the program."""
    return shlex.join([*starter, program(), *map(os.fspath, words)])


def resuming(run_dir, *flags: str, starter: Sequence[str] = ("python",)) -> str:
    """The command line that continues a training run."""
    return command("--resume", *flags, "--out_dir", run_dir, starter=starter)
