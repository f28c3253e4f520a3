"""What the commands `profile` and `kernels` share: a locked record, a progress bar with the time left, Ctrl-C that keeps what was measured.

    status = conduct(record, settings, env, work, finish, total=12, quiet=False)      # work(progress) measures, finish(status) writes history.json
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from src.suites.record import DONE, INTERRUPTED

CPUINFO = Path("/proc/cpuinfo")


class Bar:
    """A tqdm line on stderr, or nothing under --quiet; where stderr is no terminal, a line for each piece of work."""

    def __init__(self, total: int, quiet: bool):
        self.total, self.quiet, self.done, self.bar = total, quiet, 0, None
        if not quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=total, unit="cell", dynamic_ncols=True, leave=False)

    def __call__(self, words: str) -> None:
        """Another piece of work begins."""
        if self.bar is not None:
            self.bar.update(1 if self.done else 0)
            self.bar.set_postfix_str(words)
        elif not self.quiet:
            print(f"[{min(self.done + 1, self.total)}/{self.total}] {words}", file=sys.stderr, flush=True)
        self.done += 1

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def conduct(record, settings: dict, env: dict, work: Callable, finish: Callable, total: int, quiet: bool) -> str:
    """Measure into a record under its lock. Returns "done" or "interrupted"; in both cases finish(status) has written what there is."""
    with record.lock():
        record.begin(settings, env)
        bar = Bar(total, quiet)
        status = INTERRUPTED
        try:
            work(bar)
            status = DONE
        except KeyboardInterrupt:
            pass
        finally:
            bar.close()
            finish(status)
    return status


def say_interrupted(record, argv: list[str]) -> int:
    """Tell how to go on; the exit code."""
    given = [word for word in argv if word not in ("--overwrite", "--overwrite=true")]
    where = [] if any(word.split("=")[0] == "--out_dir" for word in given) else ["--out_dir", str(record.path)]
    command = " ".join(map(shlex.quote, [sys.argv[0], record.kind, *given, *where]))
    print(f"interrupted; what was measured is kept, continue with: python {command}", file=sys.stderr)
    return 130


def machine_fields(device, threads: int, precision: str, seed: int) -> dict:
    """The fields of a row that say where it was measured. device: a torch.device."""
    from src.utils import env

    if device.type == "cuda":
        import torch

        kind = torch.cuda.get_device_name(device)
    else:
        kind = env.cpu_model()
    return {"device": f"{device}: {kind}", "threads": threads, "precision": precision, "seed": seed, "versions": env.versions(), "clock": clock_notes(device)}


def clock_notes(device) -> str:
    """Which clock, what it waits for, and how busy the machine is: 'perf_counter; load 1.2 on 2 cores; 2,700 MHz'."""
    notes = ["perf_counter, synchronised with the device" if device.type == "cuda" else "perf_counter"]
    if hasattr(os, "getloadavg"):
        notes.append(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    mhz = _mhz()
    return "; ".join(notes + ([f"{mhz:,.0f} MHz"] if mhz else []))


def _mhz() -> float | None:
    """The first core's clock, where Linux tells it."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return None
    return next((float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")), None)
