"""From a command line to the setup of a new run: flags, task class and model class. Nothing is written to disk.

    setup, request = plan(argv)                              # the machine's `auto` values are decided
    session = open_session(setup, device)                    # src/setup/session.py: the data
    setup, lines = resolve_model(setup, session.tokenizer, session.task)      # the model's `auto` values are decided
    model = build_model(setup, session.tokenizer, session.task, device)

An existing run is opened by src/setup/stored.py instead. torch is imported inside the functions, so that a wrong
command line is answered at once.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from dataset.splits import largest_train_size
from dataset.task import Task
from src.flags import presets
from src.flags.fields import UserError, own_config
from src.flags.groups import TOKEN_DEFAULTS
from src.flags.kinds import as_text, to_json
from src.flags.parser import Request, first_look, read_request
from src.flags.run_flags import RunFlags, resolve, to_dict
from src.setup.classes import blaming, find_model, find_task
from src.setup.code import identity
from src.setup.source import Source, open_source
from src.storage import env
from src.utils.allocator import keep_freed_memory

if TYPE_CHECKING:
    import torch

    from dataset.tokenizer import Tokenizer
    from src.models.contract import ARModel

NARROW = 64  # widest --d_model that --threads 0 trains with one thread
TRAINING_BYTES = 16  # per parameter: the weight, its gradient and AdamW's two moments in float32
EXAMPLES = {"task": "needle, dyck, recall, tiny_shakespeare", "model": "transformer, mamba, gated_deltanet, gru"}


@dataclass
class Setup:
    """What a run is made from.

    args: the frozen flags. `resolve_model` makes them RunArgs, in which every `auto` is decided.
    explicit: the flags that the user typed.  preset: the name of the preset.
    precision_reason: why the precision is what it is.  source: where the first weights come from, if not from --seed.
    """

    args: RunFlags
    explicit: dict
    task_class: type[Task]
    model_class: type
    preset: str
    precision_reason: str
    source: Source | None = None

    def config(self) -> dict:
        """The content of config.json, before it is sealed."""
        return {
            "schema": 1,
            "args": to_dict(self.args),
            "explicit": {k: to_json(v) for k, v in self.explicit.items()},
            "preset": self.preset,
            "precision_reason": self.precision_reason,
            **({"init_from": self.source.described()} if self.source else {}),
            **identity(self.args),
        }


class HasModel(Protocol):
    """What `build_model` reads: a Setup has it, and a StoredRun (src/setup/stored.py)."""

    args: RunFlags
    model_class: type


def plan(argv: list[str], local_rank: int = 0) -> tuple[Setup, Request]:
    """Read the command line of a new run. UserError where it is wrong. local_rank: the GPU of this process."""
    seen = first_look(argv)
    task_name = named_by_user("task", presets.task_of(seen.preset, seen.task))
    source = open_source(seen.init_from) if seen.init_from else None
    model_name = named_by_user("model", seen.model or (source and source.payload["args"]["model"]))
    task_class = find_task(task_name)
    model_class = source.model_class if source and not seen.model else find_model(model_name, seen.layers)
    request = read_request(argv, task_class, model_class)
    given = {"task": task_name, "model": model_name, **request.explicit}
    if source:
        source.check_typed(request.explicit, task_class)
        given["init_from"] = source.run
    device = env.resolve_device(given.get("device", "auto"))
    if device.type == "cuda" and local_rank:
        device = env.resolve_device(f"cuda:{local_rank}")
    preset, layer = presets.settings(request.control.preset, task_class, device.type, (model_name, *seen.layers))
    layer = {**layer, **source.flags(task_class)} if source else layer
    args = fit_to_keys(resolve(task_class, model_class, preset=layer, **given), given, task_class)
    return make_setup(args, given, task_class, model_class, preset, device, source), request


def named_by_user(kind: str, name: str | None) -> str:
    """The name given with --task or --model. UserError where there is none."""
    if not name:
        raise UserError(
            f"--{kind} is missing, allowed: a name such as {EXAMPLES[kind]} "
            "(all: python benchmark.py list), or a path to a .py file"
        )
    return name


def fit_to_keys(args: RunFlags, explicit: dict, task_class: type[Task]) -> RunFlags:
    """Limit the training set of `--epochs` alone to the distinct examples that the task has.

    `--epochs N` alone means N passes over 20,000 examples. A task may have fewer distinct ones.
    """
    if "epochs" not in explicit or explicit.keys() & {"train_size", "max_steps"} or task_class.reads_text:
        return args
    with blaming("task", args.task):
        most = largest_train_size(task_class(args))
    return args if most is None or most >= args.train_size else dataclasses.replace(args, train_size=most)


def make_setup(
    args: RunFlags,
    explicit: dict,
    task_class: type[Task],
    model_class: type,
    preset: str,
    device: torch.device,
    source: Source | None = None,
) -> Setup:
    """Decide the machine's `auto` values, set torch's threads, and check the flags together.

    The `auto` values of the model are decided later, by `resolve_model`.
    """
    keep_freed_memory()
    precision, reason = env.resolve_precision(args.precision, device)
    threads = set_threads(args.threads or usual_threads(args.d_model, device))
    args = dataclasses.replace(args, device=str(device), precision=precision, threads=threads)
    check_together(args, explicit, task_class)
    return Setup(args, explicit, task_class, model_class, preset, reason, source)


def usual_threads(width: int, device: torch.device, environ: Mapping[str, str] = os.environ) -> int:
    """What --threads 0 means: 1 for a narrow model on a CPU, 0 (torch's own choice) for any other.

    width: --d_model.  OMP_NUM_THREADS in the environment is a choice of the user's, which torch follows.
    The threads of one operation wait for each other at its end. So a program beside them delays all of them, each time.
    The operations of a narrow model are so short that this costs more than the second thread gains. The load of the
    machine decides nothing: results would depend on it.
    """
    return 1 if width <= NARROW and device.type == "cpu" and not environ.get("OMP_NUM_THREADS") else 0


def set_threads(threads: int) -> int:
    """Set the CPU threads of torch (0: torch's own choice) and return their number.

    Numbers below 1e-38 become 0, here and in threads that start later. Gradients that decay over a long haystack are
    that small, and a CPU computes with them several times slower.
    """
    import torch

    torch.set_flush_denormal(True)
    if threads:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def check_together(args: RunFlags, explicit: dict, task_class: type[Task]) -> None:
    """UserError for flags that contradict each other."""
    if args.min_lr > args.lr:
        raise UserError(f"--min_lr: got {args.min_lr}, allowed: at most --lr {args.lr}")
    if args.micro_batch_size and not args.batch_chars and args.micro_batch_size > args.batch_size:
        raise UserError(
            f"--micro_batch_size: got {args.micro_batch_size}, allowed: at most --batch_size {args.batch_size}"
        )
    for name in ("embed_dropout", "attn_dropout"):
        if -1 < getattr(args, name) < 0:
            raise UserError(f"--{name}: got {getattr(args, name)}, allowed: -1 (as --dropout), or 0 .. 0.95")
    if args.lr_tried and args.lr not in args.lr_tried:
        tried = ", ".join(f"{rate:g}" for rate in args.lr_tried)
        raise UserError(f"--lr: got {args.lr:g}, allowed: one of --lr_tried ({tried}); add it there, or correct it")
    if args.data_path and not task_class.reads_text:
        raise UserError(
            f"--data_path: got '{args.data_path}', but task {task_class.__name__} makes its own data; leave it out"
        )
    if not task_class.takes_tokenizer:
        given = [name for name, default in TOKEN_DEFAULTS.items() if getattr(args, name) != default]
        if given:
            raise UserError(
                f"--{given[0]}: got {as_text(getattr(args, given[0]))}, but task {task_class.__name__} makes its own "
                "data out of single characters; leave it out"
            )
    if "match_count" in explicit and not args.match_params:
        raise UserError("--match_count: only goes with --match_params; leave it out")
    if "batch_size" in explicit and explicit.get("batch_chars"):
        raise UserError("--batch_size and --batch_chars contradict each other; give one")
    if "epochs" in explicit and not args.max_steps and not args.train_size and not task_class.reads_text:
        raise UserError(
            f"--epochs: got {args.epochs}, but fresh data (--train_size 0) has no epochs; "
            "give --max_steps, or a --train_size"
        )


def resolve_model(setup: Setup, tokenizer: Tokenizer, task: Task) -> tuple[Setup, list[str]]:
    """Decide the model's `auto` values, and solve --match_params and --match_state.

    Returns the setup with its RunArgs, and lines that say what was solved.
    """
    from src.models.backbone import resolve_auto
    from src.models.match import Counts, counts, decode_state, match, read_target
    from src.utils.precision import autocast

    args, size = setup.args, (len(tokenizer), task.table_tokens())
    lines = []
    if args.match_params or args.match_state:

        def named(name: str) -> Counts:
            model_class = find_model(name)
            return counts(model_class, _args_for(setup, model_class, name), *size)

        def count(flags: RunFlags) -> Counts:
            return counts(setup.model_class, flags, *size)

        def measure(a) -> int:
            with autocast("cpu", args.precision):  # a cache of keys and values has autocast's dtype
                return decode_state(setup.model_class, a, *size, task.max_tokens())

        with blaming("model", args.model):
            target = read_target(args.match_params, args.match_count, count(args), named) if args.match_params else None
            args, lines = match(
                setup.model_class,
                args,
                setup.explicit,
                count,
                measure,
                target,
                args.match_state,
            )
            check_memory(args, count(args).total)
    return dataclasses.replace(setup, args=resolve_auto(setup.model_class, args)), lines


def check_memory(args: RunFlags, parameters: int) -> None:
    """UserError for a solved size whose training needs more memory than the machine has."""
    import torch

    needed, there = TRAINING_BYTES * parameters, env.memory_bytes(torch.device(args.device))
    if there is not None and needed > there:
        flag = "match_state" if args.match_state else "match_params"
        raise UserError(
            f"--{flag}: the model of that size has --d_model {args.d_model} and {parameters:,} parameters, whose "
            f"training takes {needed / 2**30:,.0f} GiB, allowed: the {there / 2**30:,.0f} GiB of this machine; lower "
            "the target"
        )


def build_model(run: HasModel, tokenizer: Tokenizer, task: Task, device: torch.device) -> ARModel:
    """The model of a run on its device, with fresh weights that its seed decides."""
    from src.models.backbone import build
    from src.storage.randomness import seed_all

    args = run.args
    seed_all(args.seed)
    with blaming("model", args.model):
        return build(run.model_class, len(tokenizer), args, task.table_tokens()).to(device)


def _args_for(setup: Setup, model_class: type, name: str) -> RunFlags:
    """The shared flags of this run with another model, whose own flags keep their defaults."""
    own = {f.name for c in (own_config(setup.model_class),) if c is not None for f in dataclasses.fields(c)}
    shared = {k: v for k, v in to_dict(setup.args).items() if k not in own}
    return resolve(setup.task_class, model_class, preset={}, **{**shared, "model": name})
