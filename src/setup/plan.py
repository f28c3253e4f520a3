"""From a command line, or from a run directory, to everything a command works with: args, task, model, tokenizer, loaders.

A new run is planned by `plan` (nothing on disk changes); an existing one is opened by `open_run`, whose task, model and sizes come
from its config.json alone.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from dataset.splits import largest_train_size
from src.flags import presets, registry
from src.flags.fields import RunFlags, UserError, own_config, resolve, to_dict
from src.flags.parser import Request, first_look, read_request
from src.setup.classes import blaming, file_digest, find_model, find_task
from src.storage import env


@dataclass
class Setup:
    """args: the frozen run configuration.  explicit: what was typed.  reasons: why precision and preset are what they are."""

    args: RunFlags
    explicit: dict
    task_class: type
    model_class: type
    preset: str
    precision_reason: str

    def config(self) -> dict:
        """What config.json stores."""
        return {
            "schema": 1,
            "args": to_dict(self.args),
            "explicit": {k: list(v) if isinstance(v, tuple) else v for k, v in self.explicit.items()},
            "preset": self.preset,
            "precision_reason": self.precision_reason,
            "files": {
                k: file_digest(getattr(self.args, k))
                for k in ("task", "model")
                if registry.is_path(getattr(self.args, k))
            },
        }


def plan(argv: list[str], local_rank: int = 0) -> tuple[Setup, Request]:
    """Read a command line for a new run. Raises UserError; writes nothing."""
    seen = first_look(argv)
    task_name, model_name = (
        named_by_user("task", presets.task_of(seen.preset, seen.task)),
        named_by_user("model", seen.model),
    )
    task_class, model_class = find_task(task_name), find_model(model_name, seen.layers)
    request = read_request(argv, task_class, model_class)
    given = {"task": task_name, "model": model_name, **request.explicit}
    device = env.resolve_device(given.get("device", "auto"))
    if device.type == "cuda" and local_rank:
        device = env.resolve_device(f"cuda:{local_rank}")
    preset, layer = presets.settings(request.control.preset, task_class, device.type)
    args = fit_to_keys(resolve(task_class, model_class, preset=layer, **given), given, task_class)
    return make_setup(args, given, task_class, model_class, preset, device), request


def fit_to_keys(args: RunFlags, explicit: dict, task_class) -> RunFlags:
    """--epochs alone means passes over 20,000 examples; a task with fewer distinct training examples takes those that it has."""
    if "epochs" not in explicit or explicit.keys() & {"train_size", "max_steps"} or task_class.reads_text:
        return args
    with blaming("task", args.task):
        most = largest_train_size(task_class(args))
    return args if most is None or most >= args.train_size else dataclasses.replace(args, train_size=most)


EXAMPLES = {"task": "needle, dyck, recall, tiny_shakespeare", "model": "transformer, mamba, gated_deltanet, gru"}


def named_by_user(kind: str, name: str | None) -> str:
    """The name given with --task or --model; UserError where there is none."""
    if not name:
        raise UserError(
            f"--{kind} is missing, allowed: a name such as {EXAMPLES[kind]} (all: python benchmark.py list), or a path to a .py file"
        )
    return name


def make_setup(args, explicit, task_class, model_class, preset, device) -> Setup:
    """Resolve the machine's `auto` values and check what several flags say together; the model's follow in `settle_model`."""
    precision, reason = env.resolve_precision(args.precision, device)
    args = dataclasses.replace(args, device=str(device), precision=precision, threads=set_threads(args.threads))
    check_together(args, explicit, task_class)
    return Setup(args, explicit, task_class, model_class, preset, reason)


def set_threads(threads: int) -> int:
    """Set torch's CPU threads (0: its own choice) and return their number.

    Numbers below 1e-38 become 0, in threads started later too: gradients that decay over a long haystack reach them, and a CPU is several times
    slower there.
    """
    import torch

    torch.set_flush_denormal(True)
    if threads:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def check_together(args, explicit: dict, task_class) -> None:
    """UserError for flags that contradict each other."""
    if args.min_lr > args.lr:
        raise UserError(f"--min_lr: got {args.min_lr}, allowed: at most --lr {args.lr}")
    if args.micro_batch_size and not args.batch_chars and args.micro_batch_size > args.batch_size:
        raise UserError(
            f"--micro_batch_size: got {args.micro_batch_size}, allowed: at most --batch_size {args.batch_size}"
        )
    if args.data_path and not task_class.reads_text:
        raise UserError(
            f"--data_path: got '{args.data_path}', but task {task_class.__name__} makes its own data; leave it out"
        )
    if "batch_size" in explicit and explicit.get("batch_chars"):
        raise UserError("--batch_size and --batch_chars contradict each other; give one")
    if "epochs" in explicit and not args.max_steps and not args.train_size and not task_class.reads_text:
        raise UserError(
            f"--epochs: got {args.epochs}, but fresh data (--train_size 0) has no epochs; give --max_steps, or a --train_size"
        )


def resolve_model(setup: Setup, tokenizer, task) -> tuple[Setup, list[str]]:
    """The setup with the model's `auto` values resolved and --match_params / --match_state solved, and lines that say what was solved."""
    from src.models.backbone import resolve_auto
    from src.models.match import decode_state, match, parameters, read_target

    args, size = setup.args, (len(tokenizer), task.table_tokens())
    lines = []
    if args.match_params or args.match_state:

        def named(name: str) -> int:
            model_class = find_model(name)
            return parameters(model_class, _args_for(setup, model_class, name), *size)

        with blaming("model", args.model):
            target = read_target(args.match_params, named) if args.match_params else 0
            args, lines = match(
                setup.model_class,
                args,
                setup.explicit,
                lambda a: parameters(setup.model_class, a, *size),
                lambda a: decode_state(setup.model_class, a, *size, task.max_tokens()),
                target,
                args.match_state,
            )
    return dataclasses.replace(setup, args=resolve_auto(setup.model_class, args)), lines


def _args_for(setup: Setup, model_class, name: str):
    """The shared flags of this run, with another model and its own flags at their defaults."""
    own = {f.name for c in (own_config(setup.model_class),) if c is not None for f in dataclasses.fields(c)}
    shared = {k: v for k, v in to_dict(setup.args).items() if k not in own}
    return resolve(setup.task_class, model_class, preset={}, **{**shared, "model": name})


def build_model(setup_or_run, tokenizer, task, device):
    """The model of a run, freshly initialised from its seed, on its device."""
    import torch

    from src.models.backbone import build

    args = setup_or_run.args
    torch.manual_seed(args.seed)
    with blaming("model", args.model):
        return build(setup_or_run.model_class, len(tokenizer), args, task.table_tokens()).to(device)
