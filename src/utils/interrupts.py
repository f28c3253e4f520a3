"""Requests to stop, as KeyboardInterrupt: Ctrl-C, SIGTERM (kill) and SIGHUP (the terminal was closed).

    with Interrupts() as interrupts:
        with interrupts.held():        # a request in here raises KeyboardInterrupt at the end of the block
            ...

`benchmark.main` has such a block around each command. So all three end a command that measures in the same way: what
was measured is kept, the command that continues is printed, and the exit code is 130. Training has handlers of its own.

An engine starts processes and must not lose one that it has just started. So such a place holds the request back.
A signal that was ignored before (`nohup`) stays ignored. Outside of the main thread nothing changes, because Python
delivers signals to the main thread alone.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupts:
    """Handlers of the three signals for the time of a `with` block."""

    def __init__(self):
        self._old: dict[int, object] = {}
        self._depth, self._asked = 0, False
        self.happened = False  # whether there was a request, also one whose exception was lost

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._old[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._old.clear()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold requests back until the block has ended."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        self._raise_if_asked()

    def _ask(self, number, frame) -> None:
        self._asked = self.happened = True
        self._raise_if_asked()

    def _raise_if_asked(self) -> None:
        if self._asked and not self._depth:
            self._asked = False
            raise KeyboardInterrupt
