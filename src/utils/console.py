"""stdout and stderr that take any text: on a terminal of another encoding, into a pipe that closes, or without either.

prepare()                       # once, before the first line is printed
...
finish()                        # at the end: raises BrokenPipeError or another OSError if text could not be written
"""

from __future__ import annotations

import os
import sys


def prepare() -> None:
    """Let stdout and stderr print every character, and give this process the streams that it was started without.

    A character that the encoding lacks is printed as its escape, such as \\u6e01. Under UTF-8 the bytes of a path that
    are no UTF-8 stay as they are. An error handler that the user chose (PYTHONIOENCODING=ascii:replace) stays.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:  # closed before the start, as by `>&-`, or a Windows program without a console
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))
        elif mode == "w" and hasattr(stream, "reconfigure"):
            exact = stream.errors == "surrogateescape" and stream.encoding.lower().replace("-", "") == "utf8"
            if stream.errors in ("strict", "surrogateescape") and not exact:
                stream.reconfigure(errors="backslashreplace")


def finish() -> None:
    """Write what stdout still holds, so that an error shows now and not when Python ends."""
    try:
        sys.stdout.flush()
    except OSError:
        drop()
        raise


def drop() -> None:
    """Write nothing more to a stream that takes no more text: its reader has gone, or its disk is full."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            target = os.open(os.devnull, os.O_WRONLY)
            os.dup2(target, stream.fileno())
            os.close(target)
