"""Whether other programs use this machine while a run begins. It is said once, and no result depends on it.

line = busy_line(threads=2)         # "" on a machine that has room for the run
"""

from __future__ import annotations

import os
from collections.abc import Callable

MARGIN = 0.5  # processors: this process itself, its own start and the system's small jobs count as load too


def busy_line(
    threads: int, load: Callable[[], float] | None = None, cores: int | None = None, own: float | None = None
) -> str:
    """A notice where the programs that run already leave fewer processors than the run has threads, else "".

    load: programs that run or wait for a processor, a mean over the last minute; None asks the system. Windows has no
    such number, so there is no notice.  cores: of the whole machine, as the load is.  own: the part of the load that is
    this process, which has been busy since its start.
    """
    if load is None and not hasattr(os, "getloadavg"):
        return ""
    cores = cores or os.cpu_count() or 1
    others = (load() if load else os.getloadavg()[0]) - (_own_load() if own is None else own)
    if others + threads <= cores + MARGIN:
        return ""
    return (
        f"notice: other programs use this machine ({others:.1f} of {cores} processors); the run takes longer, its "
        "results stay the same"
    )


def _own_load() -> float:
    """What this process has added to the load of the last minute: its processor time in minutes, at most 1."""
    return min(1.0, sum(os.times()[:2]) / 60)
