"""What `speed`, `profile` and `kernels` share: a locked record, progress, and a Ctrl-C that keeps what was measured.

    status = conduct(record, settings, env, work, finish, Progress(quiet, guess=2.0))
    if status == INTERRUPTED:
        return say_interrupted(record, argv)          # prints the command that continues

work(progress) measures; finish(status) writes history.json.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from src.flags.hints import command as command_line
from src.measure.progress import Progress
from src.storage.record import DONE, INTERRUPTED, Record


def conduct(
    record: Record,
    settings: dict,
    env: dict,
    work: Callable,
    finish: Callable,
    progress: Progress,
) -> str:
    """Measure into a record under its lock. Returns "done" or "interrupted"; in both cases finish(status) was called.

    An error of `work` is raised after finish("interrupted").
    """
    with record.lock():
        record.begin(settings, env)
        status = INTERRUPTED
        try:
            work(progress)
            status = DONE
        except KeyboardInterrupt:
            pass
        finally:
            try:
                progress.close()
            finally:  # also where the terminal of the bar is gone
                finish(status)
    return status


def say_interrupted(record: Record, argv: list[str]) -> int:
    """Print the command that continues; returns the exit code."""
    print(
        f"interrupted; {len(record.rows)} rows are kept, continue with: {continuing(record.kind, argv, record.path)}",
        file=sys.stderr,
    )
    return 130


def continuing(command: str, argv: list[str], path) -> str:
    """The command line that continues: the same flags, with the directory and without --overwrite."""
    rest, i = [], 0
    while i < len(argv):
        flag, equals, _ = argv[i].partition("=")
        value = "" if equals or i + 1 == len(argv) else argv[i + 1]
        if flag == "--out_dir":
            i += 0 if equals else 1
        elif flag == "--overwrite":
            i += value.lower() in ("true", "false", "1", "0")
        else:
            rest.append(argv[i])
        i += 1
    return command_line(command, *rest, "--out_dir", path)


def machine_fields(device, threads: int, precision: str) -> dict:
    """The fields of a row that say where it was measured. device: a torch.device."""
    from src.storage import env

    return {"device": device_words(device), "threads": threads, "precision": precision, "versions": env.versions()}


def device_words(device) -> str:
    """'cpu: Intel(R) Xeon(R) ...', 'cuda:0: NVIDIA ...'."""
    from src.storage import env

    if device.type != "cuda":
        return f"{device}: {env.cpu_model()}"
    import torch

    return f"{device}: {torch.cuda.get_device_name(device)}"
