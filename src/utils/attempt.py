"""What is measured beside the scores may fail without the loss of a training.

state = attempt(failed, "decode_state", lambda: ...)     # None where it raised; failed["decode_state"] says why
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from src.utils.launch import ProcessLost

T = TypeVar("T")


def attempt(failed: dict[str, str], name: str, action: Callable[[], T]) -> T | None:
    """What `action` returns. Where it raises, None, and failed[name] is "failed: reason".

    The end of another process is raised: nothing can be measured after it.
    """
    try:
        return action()
    except ProcessLost:
        raise
    except (Exception, SystemExit) as error:  # the code of a user's layer may raise anything
        failed[name] = failure(error)
        return None


def failure(error: BaseException) -> str:
    """'failed: RuntimeError: the first line of its message'."""
    return f"failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0]:.300}"
