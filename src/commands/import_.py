"""`benchmark.py import DIR --out_dir R`: a folder in Hugging Face's format as a run.

    python benchmark.py import my_model --out_dir runs/R
    python benchmark.py import my_model --out_dir runs/R --data_path book.txt
    python benchmark.py import my_model --out_dir runs/R --task needle --context_len 24

The folder is one that `export` or save_pretrained wrote: config.json, weights in safetensors files, and the tokenizer.
The run can be evaluated (--eval_only, with data of the folder's vocabulary), continued by `generate`, and fine-tuned
with --init_from. It has no training to go on with, so --resume is an error.

The folder decides the flags of the model. Further flags are those of training that concern the data, the evaluation and
the machine: `python benchmark.py --task text --help` shows them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from src.flags.fields import UserError, option
from src.flags.parser import Parser, add_flags, first_look, read_request

TASK = "text"


@dataclass(frozen=True)
class ImportConfig:
    """flags"""  # for --help only: the flags are read with those of the task and the model

    out_dir: str = option("", "the directory of the new run; default runs/<timestamp>")
    overwrite: bool = option(False, "replace an existing run in --out_dir")
    task: str = option(TASK, "what the run is evaluated on and fine-tuned for")
    data_path: str = option("", "file or folder with the text of a language task; --eval_only takes it too")
    context_len: int | None = option(
        None, "characters (tokens) of a window; default: what the folder's model was trained on, if it says so", least=1
    )
    quiet: bool = option(False, "only the run's directory")


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        parser = Parser(prog="benchmark.py import", description=__doc__)
        parser.add_argument("folder", metavar="DIR", help="the folder; it is the first word after `import`")
        add_flags(parser, ImportConfig, ImportConfig.__doc__)
        parser.print_help()
        return 0
    if not argv or argv[0].startswith("-"):
        raise UserError("import: the folder comes first, as `import DIR --out_dir R`")
    return import_folder(argv[0], argv[1:])


def import_folder(folder: str, argv: list[str]) -> int:
    """The work of the command. Everything that can be wrong is found before the first file is written."""
    from src.exchange.incoming import planned, read, write_run
    from src.setup.classes import find_task
    from src.storage.rundir import RunDir

    seen = first_look(argv)
    for name in ("eval_only", "vis_only", "resume"):
        if getattr(seen, name):
            raise UserError(f"--{name}: does not go with import; give it in a second command, with the new run")
    task_name = seen.task or TASK
    request = read_request(argv, find_task(task_name), None)  # the folder decides the flags of the model
    if len(request.out_dirs) > 1:
        raise UserError(f"--out_dir: got {len(request.out_dirs)} folders, allowed: one")
    RunDir.check(request.control.out_dir, request.control.overwrite)
    source = read(folder)
    plan = planned(source, request, task_name)
    run_dir = RunDir.create(request.control.out_dir, overwrite=request.control.overwrite)
    with run_dir.lock():
        write_run(plan, run_dir)
    if not request.control.quiet:
        print(f"{source.config['architectures'][0]} as --model {source.family.model}", file=sys.stderr)
    print(run_dir.path)
    return 0
