"""What is measured beside the scores may fail without the loss of a training.

state = attempt(failed, "decode_state", lambda: ...)     # None where it raised; failed["decode_state"] says why
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def attempt(failed: dict[str, str], name: str, action: Callable[[], T]) -> T | None:
    """What `action` returns. Where it raises, None, and failed[name] is "failed: reason"."""
    try:
        return action()
    except (Exception, SystemExit) as error:  # the code of a user's layer may raise anything
        failed[name] = failure(error)
        return None


def failure(error: BaseException) -> str:
    """'failed: RuntimeError: the first line of its message'."""
    return f"failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0]:.300}"
