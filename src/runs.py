"""From a command line, or from a run directory, to everything a command works with: args, task, model, tokenizer, loaders.

A new run is planned by `plan` (nothing on disk changes); an existing one is opened by `open_run`, whose task, model and sizes come
from its config.json alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import traceback
from dataclasses import dataclass
from pathlib import Path

from dataset import TASKS
from dataset.base import Task
from src import presets, registry
from src.cli import Request, first_look, read_request
from src.config import UserError, own_config, resolve, to_dict
from src.models import MODELS
from src.utils import env
from src.utils.rundir import RunDir, open_sealed


@dataclass
class Setup:
    """args: the frozen run configuration.  explicit: what was typed.  reasons: why precision and preset are what they are."""

    args: object
    explicit: dict
    task_class: type
    model_class: type
    preset: str
    precision_reason: str

    def config(self) -> dict:
        """What config.json stores."""
        return {"schema": 1, "args": to_dict(self.args), "explicit": {k: list(v) if isinstance(v, tuple) else v for k, v in self.explicit.items()},
                "preset": self.preset, "precision_reason": self.precision_reason,
                "files": {k: file_digest(getattr(self.args, k)) for k in ("task", "model") if registry.is_path(getattr(self.args, k))}}


def file_digest(path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def find_task(name: str):
    return registry.find("task", TASKS, name, (Task,))


def find_model(name: str, layers: tuple[str, ...] = ()):
    """The class behind --model, for a hybrid that of its --layers."""
    found = registry.find("model", MODELS, name, _model_bases)
    return found.of(tuple(layers)) if layers and hasattr(found, "of") else found


def _model_bases():
    from src.models.base import ARModel, Mixer

    return Mixer, ARModel


def plan(argv: list[str], local_rank: int = 0) -> tuple[Setup, Request]:
    """Read a command line for a new run. Raises UserError; writes nothing."""
    seen = first_look(argv)
    task_name, model_name = presets.task_of(seen.preset, seen.task) or "needle", seen.model or "transformer"
    task_class, model_class = find_task(task_name), find_model(model_name, seen.layers)
    request = read_request(argv, task_class, model_class)
    given = {"task": task_name, "model": model_name, **request.explicit}
    device = env.resolve_device(given.get("device", "auto"))
    if device.type == "cuda" and local_rank:
        device = env.resolve_device(f"cuda:{local_rank}")
    preset, layer = presets.settings(request.control.preset, task_class, device.type)
    args = resolve(task_class, model_class, preset=layer, **given)
    return make_setup(args, given, task_class, model_class, preset, device), request


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
        raise UserError(f"--micro_batch_size: got {args.micro_batch_size}, allowed: at most --batch_size {args.batch_size}")
    if args.data_path and task_class.kind != "language":
        raise UserError(f"--data_path: got '{args.data_path}', but task {task_class.__name__} makes its own data; leave it out")
    if "batch_size" in explicit and explicit.get("batch_chars"):
        raise UserError("--batch_size and --batch_chars contradict each other; give one")
    if "epochs" in explicit and not args.max_steps and not args.train_size and task_class.kind != "language":
        raise UserError(f"--epochs: got {args.epochs}, but fresh data (--train_size 0) has no epochs; give --max_steps, or a --train_size")


def table_size(task) -> int:
    """Tokens of a learned position table: the task's longest sequence, and for an answer the slack that decoding may use."""
    from dataset.common import DECODE_SLACK

    return task.max_tokens() + (0 if task.kind == "language" else DECODE_SLACK)


def settle_model(setup: Setup, tokenizer, task) -> tuple[Setup, list[str]]:
    """The setup with the model's `auto` values resolved and --match_params / --match_state solved, and lines that say what was solved."""
    from src.models.base import settle
    from src.models.match import decode_state, match, parameters, read_target

    args, size = setup.args, (len(tokenizer), table_size(task))
    lines = []
    if args.match_params or args.match_state:
        def named(name: str) -> int:
            model_class = find_model(name)
            return parameters(model_class, _args_for(setup, model_class, name), *size)

        with blaming("model", args.model):
            target = read_target(args.match_params, named) if args.match_params else 0
            args, lines = match(setup.model_class, args, setup.explicit, lambda a: parameters(setup.model_class, a, *size),
                                lambda a: decode_state(setup.model_class, a, *size, task.max_tokens()), target, args.match_state)
    return dataclasses.replace(setup, args=settle(setup.model_class, args)), lines


def _args_for(setup: Setup, model_class, name: str):
    """The shared flags of this run, with another model and its own flags at their defaults."""
    own = {f.name for c in (own_config(setup.model_class),) if c is not None for f in dataclasses.fields(c)}
    shared = {k: v for k, v in to_dict(setup.args).items() if k not in own}
    return resolve(setup.task_class, model_class, preset={}, **{**shared, "model": name})


def build_model(setup_or_run, tokenizer, task, device):
    """The model of a run, freshly initialised from its seed, on its device."""
    import torch

    from src.models.base import build

    args = setup_or_run.args
    torch.manual_seed(args.seed)
    with blaming("model", args.model):
        return build(setup_or_run.model_class, len(tokenizer), args, table_size(task)).to(device)


def try_own_model(name: str, model, tokenizer, loader, device) -> None:
    """UserError where a model of the user's own file fails on its first batch, or gives another shape than it must."""
    import torch

    if not registry.is_path(name):
        return
    x = next(iter(loader)).x[:2].to(device)
    with blaming("model", name), torch.no_grad():
        model.eval()
        if hasattr(model, "blocks"):
            h = torch.zeros(*x.shape, model.embed.embedding_dim, device=device)
            check_shape(name, "mixer", model.blocks[0].mixer(h), h.shape)
        check_shape(name, "model", model(x), (*x.shape, len(tokenizer)))


def check_shape(name: str, what: str, got, wanted) -> None:
    shape = tuple(got.shape) if hasattr(got, "shape") else type(got).__name__
    if shape != tuple(wanted):
        raise UserError(f"--model: the forward of the {what} in '{name}' returns {shape}, allowed: a tensor of shape {tuple(wanted)}")


@contextlib.contextmanager
def blaming(kind: str, name: str):
    """What a user's own file raises becomes a UserError of one line, with the file's line; a registered name changes nothing."""
    try:
        yield
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:
        if not registry.is_path(name):
            raise
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == name]
        where = f", line {frames[-1].lineno}, in {frames[-1].name}" if frames else ""
        text = (str(error).splitlines() or [""])[0]
        raise UserError(f"--{kind}: '{name}'{where}: {type(error).__name__}: {text}") from error


@dataclass
class StoredRun:
    """An existing run directory, verified: its configuration and classes."""

    run_dir: RunDir
    args: object
    task_class: type
    model_class: type
    config: dict


def load_checkpoint(run: StoredRun, path, device) -> dict:
    """The payload of one of a run's checkpoints; UserError when it is missing, damaged, or another run's."""
    from src.utils import checkpoint

    payload = checkpoint.load(path, device)
    if payload["args"] != run.config["args"]:
        name = next((k for k in run.config["args"] if payload["args"].get(k) != run.config["args"][k]), "args")
        raise UserError(f"'{path}' belongs to another run (--{name} was {payload['args'].get(name)!r} there, here {run.config['args'].get(name)!r}); "
                        "restore the right file, or train again with --overwrite")
    return payload


def open_run(out_dir: str) -> StoredRun:
    """Open a run by path or bare name; UserError for a missing, edited or foreign one."""
    run_dir = RunDir.open(out_dir)
    config = open_sealed(run_dir.config)
    stored = config["args"]
    for kind, digest in config["files"].items():
        if not Path(stored[kind]).is_file() or file_digest(stored[kind]) != digest:
            raise UserError(f"{run_dir.path}: the {kind} file '{stored[kind]}' of this run is missing or has changed since; restore it, or train anew")
    task_class, model_class = find_task(stored["task"]), find_model(stored["model"], stored.get("layers", ()))
    return StoredRun(run_dir, resolve(task_class, model_class, preset={}, **stored), task_class, model_class, config)


def override(run: StoredRun, changes: dict) -> StoredRun:
    """The same run with some flags changed (typed and checked already)."""
    return dataclasses.replace(run, args=dataclasses.replace(run.args, **changes))
