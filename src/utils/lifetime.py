"""A process that does not outlive the one that started it, also where that one is killed.

    Popen([sys.executable, "-m", "module", str(os.getpid())])
    end_with(int(sys.argv[1]))              # in the new process: it is killed when its parent ends, however that ends

Linux does it by itself (prctl, PR_SET_PDEATHSIG). Elsewhere a thread looks at the parent's process id. A process that
forks must not have threads, so it watches a pipe from its parent in place of that (src/measure/child.py). Nothing here
imports torch.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

PR_SET_PDEATHSIG = 1  # linux/prctl.h
WATCH_SECONDS = 0.2
LOST = 255  # the exit code of a process that has lost its parent


def end_with(parent: int, watch: bool = True) -> None:
    """End this process as soon as its parent has ended. parent: its process id.

    watch: start a thread where the system has no such signal; False where this process forks.
    """
    is_told = sys.platform == "linux" and ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0
    if os.getppid() != parent:  # it ended before this call
        os._exit(LOST)
    if watch and not is_told:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os._exit(LOST)
