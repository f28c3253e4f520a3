"""One command trains, evaluates, samples and plots a small sequence model:

    python benchmark.py --task needle --model transformer
    python benchmark.py list
    python benchmark.py generate --out_dir runs/<timestamp> --prompt "ROMEO:"
    python benchmark.py check --model my_layer.py
    python benchmark.py speed --model transformer,mamba
    python benchmark.py card --model my_layer.py
    python benchmark.py reproduce main
    python benchmark.py export runs/<timestamp> --to my_model
    python benchmark.py translate train --config src/numpy_transformer/configs/tiny_enfr.yaml

Exit codes: 0 done, 1 the machine failed or a reproduced row is different, 2 the input is wrong, 3 the run diverged,
4 a check failed, 130 interrupted.
"""

# ruff: noqa: E402 a Ctrl-C during the imports below ends in `leave`, so they come after it
import os
import sys
from _signal import SIGINT, default_int_handler, getsignal, signal  # the module `signal` takes milliseconds to load

EXIT_CODE = [130]


def leave(*_):
    """End at once, without a traceback: nothing is written yet, or everything."""
    os._exit(EXIT_CODE[0])


if __name__ == "__main__" and getsignal(SIGINT) is default_int_handler:
    signal(SIGINT, leave)

import importlib

# How long GNU OpenMP's threads spin before they sleep; it must be set before torch is loaded. The default makes the
# steps of a small model over ten times slower on a busy machine. Sleeping at once makes them twice as slow on an idle
# one.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# PYTHONSAFEPATH=1 and `python -P` leave the folder of the script out.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from dataset import TASKS
from src.flags import own_files
from src.flags.fields import UserError, suggest
from src.flags.parser import first_look, report_error
from src.models import MODELS
from src.utils import console
from src.utils.intact import looked
from src.utils.interrupts import Interrupts
from src.utils.launch import Place, ProcessLost, alone, launched
from src.utils.memory import is_out_of_memory

HOW_TO = """Train, evaluate and measure small sequence models. Five commands to start with:

  python benchmark.py list
  python benchmark.py --task needle --model mamba
  python benchmark.py --task needle --model src/models/template.py
  python benchmark.py check --model src/models/template.py
  python benchmark.py speed --model transformer,mamba

`python benchmark.py --help` shows all flags."""

REQUIRED = ("torch", "numpy", "scipy", "tqdm", "matplotlib", "numba", "platformdirs", "jinja2", "yaml", "safetensors")
INSTALL = "enter the environment that has it (such as `. .venv/bin/activate`), or run `pip install -r requirements.txt`"
COMMANDS = (
    *("train", "list", "generate", "check", "speed", "profile", "kernels", "study", "compare", "card", "claims"),
    *("report", "reproduce", "translate", "export", "import", "bench"),
)
FILES = {"import": "import_"}  # the file of a command whose name Python does not allow for a module
SYNONYMS = {"sweep": "compare", "tune": "compare", "grid": "compare", "benchmark": "bench", "eval": "train --eval_only"}
SHARED = ("train", "resume", "evaluate")  # torchrun's processes share their work; of the others rank 0 does all


def main(argv: list[str]) -> int:
    """Run one command and return its exit code."""
    interrupts = Interrupts()
    try:
        return run_safely(argv, interrupts)
    except Exception as error:  # an import can lose a KeyboardInterrupt, and fail later with an error of its own
        if not (interrupts.happened or from_interrupt(error)):
            raise
        print("interrupted", file=sys.stderr)
        return 130


def run_safely(argv: list[str], interrupts: Interrupts) -> int:
    """Run one command. What the user can act on is one line; anything else is raised."""
    console.prepare()
    place = Place()
    try:
        place = launched()
        with interrupts, own_files.hosted():
            code = run(argv, place)
        console.finish()
        return code
    except UserError as error:
        if place.rank == 0:
            report_error(error)
        return 2
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in REQUIRED:
            raise
        report_error(RuntimeError(f"{error.name} is not installed for {sys.executable}; {INSTALL}"))
        return 1
    except BrokenPipeError:  # `benchmark.py list | head`: the reader has seen enough
        console.drop()
        return 1
    except OSError as error:
        if error.errno is None:
            raise
        report_error(RuntimeError(f"{error.strerror}: {error.filename or 'while writing'}{looked()}"))
        return 1
    except KeyboardInterrupt:
        if place.rank == 0:
            print("interrupted", file=sys.stderr)
        return 130
    except ProcessLost as error:
        if error.is_first:
            report_error(error)
        return 1
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        report_error(
            RuntimeError(
                "out of memory; lower --batch_size, --batch_chars, --context_len or --d_model, or give a "
                "--micro_batch_size"
            )
        )
        return 1


def from_interrupt(error: BaseException) -> bool:
    """Whether a Ctrl-C is behind an error: Python turns one inside of some imports into another error."""
    seen, waiting = set(), [error]
    while waiting:
        one = waiting.pop()
        if isinstance(one, KeyboardInterrupt):
            return True
        if one is not None and id(one) not in seen:  # a chain can lead back to itself
            seen.add(id(one))
            waiting += [one.__cause__, one.__context__]
    return False


def run(argv: list[str], place: Place) -> int:
    """The exit code of a command. One that does not share its work among processes runs on rank 0 alone.

    UserError where a user's own file ends the program.
    """
    command, rest = command_of(argv) if argv else ("", [])
    if place.size > 1 and (command not in SHARED or {"-h", "--help"} & set(rest)):
        if place.rank:
            return 0
        alone()
    if not command:
        print(HOW_TO, file=sys.stderr)
        return 2
    try:
        return importlib.import_module(f"src.commands.{FILES.get(command, command)}").main(rest)
    except SystemExit as error:
        frames = own_files.own_frames(error)
        if not frames:
            raise
        at = f"'{frames[-1].filename}', line {frames[-1].lineno}, in {frames[-1].name}"
        raise UserError(f"{at}: {own_files.told(error)}") from error


def command_of(argv: list[str]) -> tuple[str, list[str]]:
    """The file of src/commands that runs this command line, and the rest of the line."""
    if not argv or argv[0].startswith("-"):
        command, rest = "train", argv
    else:
        command, rest = argv[0], argv[1:]
    if command not in COMMANDS:
        raise UserError(f"unknown command '{command}', allowed: {', '.join(COMMANDS)}{meant(command)}")
    if command == "train":
        seen = first_look(rest)
        if not seen.help:
            command = (
                "visualize" if seen.vis_only else "evaluate" if seen.eval_only else "resume" if seen.resume else "train"
            )
    return command, rest


def meant(command: str) -> str:
    """The end of a message: the command that was probably meant, also where a task's or a model's name stands alone."""
    for flag, names in (("--task", TASKS), ("--model", MODELS)):
        if command in names:
            return f"; did you mean '{flag} {command}'?"
    if command in SYNONYMS:
        return f"; did you mean '{SYNONYMS[command]}'?"
    return suggest(command, COMMANDS) or "; flags begin with --, see --help"


if __name__ == "__main__":
    EXIT_CODE[0] = main(sys.argv[1:])
    sys.exit(EXIT_CODE[0])
