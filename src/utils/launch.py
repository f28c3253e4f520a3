"""Which of several processes this one is, as `torchrun` says it in the environment. No torch here.

    place = launched()              # Place(rank=0, size=1, local_rank=0) without torchrun
    if place.size > 1: ...

`train`, `--resume` and `--eval_only` share their work among the processes (src/utils/distributed.py). Every other
command does its work in the process of rank 0 alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from typing import NamedTuple

from src.flags.fields import UserError

ADDRESS = ("MASTER_ADDR", "MASTER_PORT")  # where the processes meet
NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
HOW = "start several processes with `torchrun --nproc_per_node N benchmark.py ...`, or unset WORLD_SIZE for one process"
MOST_PORT, MOST_PROCESSES = 65_535, 100_000


class ProcessLost(RuntimeError):
    """Another process of this run has ended, or cannot be reached any more.

    is_first: whether this process was the first to notice. It alone says so, because all others notice too.
    """

    def __init__(self, message: str, is_first: bool = True):
        super().__init__(message)
        self.is_first = is_first


class Place(NamedTuple):
    """The rank of this process among `size` processes, and its rank among those of this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0


def launched(environ: Mapping[str, str] = os.environ) -> Place:
    """The place of this process. An empty variable counts as unset, and without WORLD_SIZE there is one process.

    UserError for a WORLD_SIZE above 1 that the other variables do not fit. With one process they are not read.
    """
    size = _number("WORLD_SIZE", environ, least=1, default=1)
    if size == 1:
        return Place()
    missing = [name for name in ("RANK", *ADDRESS) if not environ.get(name)]
    if missing:
        raise UserError(f"WORLD_SIZE: got {size}, but {' and '.join(missing)} not set; {HOW}")
    _number("MASTER_PORT", environ, most=MOST_PORT)
    rank, local_rank = _number("RANK", environ), _number("LOCAL_RANK", environ, default=0)
    for name, found in (("RANK", rank), ("LOCAL_RANK", local_rank)):
        if found >= size:
            raise UserError(f"{name}: got {found}, allowed: 0 to {size - 1}, because WORLD_SIZE is {size}; {HOW}")
    return Place(rank, size, local_rank)


def check_address(environ: Mapping[str, str] = os.environ) -> None:
    """UserError where no machine has the name in MASTER_ADDR. torch would ask for it again and again, for hours."""
    import socket  # takes milliseconds, and one process alone needs none

    host = environ["MASTER_ADDR"]
    try:
        socket.getaddrinfo(host, int(environ["MASTER_PORT"]))
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"MASTER_ADDR: got '{host}' ({reason}), allowed: the name of a machine; {HOW}") from error


def alone(environ: MutableMapping[str, str] = os.environ) -> None:
    """Make this process a single one, and also every process that it starts."""
    for name in NAMES:
        environ.pop(name, None)


def launcher(environ: Mapping[str, str] = os.environ) -> list[str]:
    """The words that start a run with as many processes as this one: `python`, or `torchrun` with their number."""
    if launched(environ).size == 1:
        return ["python"]
    machines = environ.get("GROUP_WORLD_SIZE", "1")
    each = environ.get("LOCAL_WORLD_SIZE") or environ["WORLD_SIZE"]
    return ["torchrun", *(["--nnodes", machines] if machines != "1" else []), "--nproc_per_node", each]


def usable_cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _number(
    name: str, environ: Mapping[str, str], least: int = 0, most: int = MOST_PROCESSES, default: int | None = None
) -> int:
    text = environ.get(name, "").strip()
    if not text and default is not None:
        return default
    if not text.isdecimal() or len(text) > 20 or not least <= int(text) <= most:
        raise UserError(f"{name}: got '{text:.40}', allowed: a whole number from {least} to {most}; {HOW}")
    return int(text)
