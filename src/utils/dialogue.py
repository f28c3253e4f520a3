"""A conversation in a terminal: a line is a message, and the answer is printed as it comes.

    hold(talk)            # until /quit, or the end of stdin

`/reset` forgets the conversation, `/quit` ends the program. Ctrl-C stops an answer, and a second one before it has
stopped ends the program. Answers go to stdout, everything else to stderr.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator

from src.flags.fields import UserError
from src.utils.conversation import Talk

GREETING = "one message per line; /reset forgets the conversation, /quit ends, Ctrl-C stops an answer"


def hold(talk: Talk) -> None:
    """Read messages and print answers. A message that is wrong is answered with its error."""
    print(GREETING, file=sys.stderr)
    while True:
        text = _next_line()
        if text is None or text.strip() == "/quit":
            return
        if text.strip() == "/reset":
            talk.reset()
            print("the conversation is forgotten", file=sys.stderr)
        elif text.strip():
            try:
                say(talk, text)
            except UserError as error:
                print(f"error: {error}", file=sys.stderr)


def say(talk: Talk, text: str) -> None:
    """Print the answer to one message. UserError for a message that cannot be answered."""
    with interrupts() as asked:
        pieces = talk.answer(text, stopped=lambda: bool(asked))
        _print_notices(talk)
        for piece in pieces:
            print(piece, end="", flush=True)
    print(talk.last_piece, flush=True)
    if not talk.messages[-1].content:
        print("note: the model ends its answer at once, so it is empty", file=sys.stderr)
    _print_notices(talk)


def _print_notices(talk: Talk) -> None:
    while talk.notices:
        print(f"note: {talk.notices.pop(0)}", file=sys.stderr)


@contextlib.contextmanager
def interrupts() -> Iterator[list[int]]:
    """Collect the first Ctrl-C in a list, instead of raising it. A second one raises KeyboardInterrupt."""
    asked: list[int] = []

    def note(number, frame):
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        before = signal.signal(signal.SIGINT, note)
    except ValueError:  # only the main thread may set handlers
        yield asked
        return
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def _next_line() -> str | None:
    """The next line of stdin, None at its end. Ctrl-C leaves an unfinished line and asks again."""
    at_terminal = sys.stdin.isatty()
    while True:
        try:
            if not (at_terminal and sys.stdout.isatty()):  # stdout is for answers; `input` would write its prompt there
                print("you> " if at_terminal else "", end="", file=sys.stderr, flush=True)
                return input()
            return input("you> ")
        except EOFError:
            if at_terminal:
                print(file=sys.stderr)  # so that the shell's prompt begins a line
            return None
        except UnicodeDecodeError as error:
            raise UserError(f"stdin: not text in {error.encoding} (byte {error.start})") from None
        except KeyboardInterrupt:
            if not at_terminal:
                raise
            print("\n(/quit or Ctrl-D ends)", file=sys.stderr)
