"""Whether other programs use this machine while a run begins. It is said once, and no result depends on it.

line = busy_line(threads=2)         # "" on a machine that has room for the run
others = others_now()               # 1.0 where one other program computes; None on a system that does not tell
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from statistics import fmean

MARGIN = 0.5  # processors: the system's small jobs count too
LOADAVG = Path("/proc/loadavg")  # its fourth field: what runs or waits for a processor now / everything
SAMPLES, PAUSE_SECONDS = 10, 0.005


def busy_line(threads: int, processes: int = 1, cores: int | None = None) -> str:
    """A notice where the programs that run already leave fewer processors than the run has threads, else "".

    threads, processes: of the run.  cores: of the whole machine, as the load is. A system that does not tell what runs
    now is asked for the last minute. Windows has neither number, so there is no notice.
    """
    others, when, then = others_now(processes), "use this machine", ""
    if others is None:
        others, when, then = _others_lately(), "used this machine in the last minute", " if they go on"
    cores = cores or os.cpu_count() or 1
    if others + threads <= cores + MARGIN:
        return ""
    return (
        f"notice: other programs {when} ({others:.1f} of {cores} processors); the run takes longer{then}, its results "
        "stay the same"
    )


def others_now(processes: int = 1) -> float | None:
    """How many processors other programs use or wait for now, seen for a moment; None where the system does not tell.

    processes: of this run. All of them are taken as running.
    """
    found = []
    for _ in range(SAMPLES):
        try:
            found.append(int(LOADAVG.read_text().split()[3].partition("/")[0]))
        except (OSError, ValueError, IndexError):
            return None
        time.sleep(PAUSE_SECONDS)
    return max(0.0, fmean(found) - processes)


def _others_lately() -> float:
    """The mean load of the last minute, without what this process has added: its processor time in minutes, at most 1.

    A program that has just ended is part of it.
    """
    if not hasattr(os, "getloadavg"):
        return 0.0
    return os.getloadavg()[0] - min(1.0, sum(os.times()[:2]) / 60)
