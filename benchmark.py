"""One command trains, evaluates, samples and plots a small sequence model:

    python benchmark.py --task needle --model transformer
    python benchmark.py list
    python benchmark.py generate --out_dir runs/<timestamp> --prompt "ROMEO:"

Exit codes: 0 done, 1 the machine failed, 2 the input is wrong, 3 the run diverged, 4 a check failed, 130 interrupted.
"""

import importlib
import os
import sys

from src.cli import report_error
from src.config import UserError, suggest

COMMANDS = ("train", "list", "generate")


def main(argv: list[str]) -> int:
    """Run one command and return its exit code."""
    command, rest = ("train", argv) if not argv or argv[0].startswith("-") else (argv[0], argv[1:])
    try:
        if command not in COMMANDS:
            raise UserError(f"unknown command '{command}', allowed: {', '.join(COMMANDS)}{suggest(command, COMMANDS)}")
        return importlib.import_module(f"src.commands.{command}").main(rest)
    except UserError as error:
        if int(os.environ.get("RANK", "0")) == 0:
            report_error(error)
        return 2
    except OSError as error:
        if error.errno is None:
            raise
        report_error(RuntimeError(f"{error.strerror}: {error.filename or 'while writing'}; finished files and checkpoints are intact"))
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
