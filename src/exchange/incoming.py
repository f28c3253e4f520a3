"""A folder in Hugging Face's format as a run: its flags, its model with the folder's weights, and its directory.

    source = read(folder)                              # config.json, tensors, tokenizer; what does not fit is an error
    plan = planned(source, argv)                       # the flags of the run
    write_run(plan, run_dir)

An imported run is a run like any other, except that it has no training to continue: --eval_only, generate and
--init_from work with it, --resume does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dataset.task import Task
from dataset.tokenizer import Tokenizer
from dataset.vocabulary import read_tokenizer
from src.exchange import families
from src.exchange.contract import Family, Settings, Tensors
from src.exchange.folder import digest_of, read_config, read_template, read_tensors
from src.flags import presets
from src.flags.fields import UserError, field_types
from src.flags.groups import ModelConfig, TrainConfig
from src.flags.kinds import as_text
from src.flags.parser import Request
from src.flags.run_flags import RunArgs, resolve, to_dict
from src.models.backbone import Backbone
from src.models.contract import ARModel
from src.setup.classes import find_model, find_task
from src.setup.plan import Setup, build_model, make_setup, resolve_model
from src.storage import checkpoint, env
from src.storage.rundir import RunDir, seal, write_atomic, write_json

# Flags of the model that would change what the folder says, or say how weights start that come from the folder.
WITHOUT_EFFECT = {"fair": False, "match_params": "", "match_state": 0, "init": "published"}
EVALUATION = ("batch_size", "batch_chars")  # flags of the optimisation that evaluation reads too


@dataclass(frozen=True)
class Source:
    """A folder that was read: config.json, its family, how the family is built here, tensors and tokenizer.

    template: the chat template, None without one.
    """

    path: Path
    config: dict
    family: Family
    settings: Settings
    tensors: dict[str, Tensor]
    tokenizer: Tokenizer
    template: str | None


@dataclass(frozen=True)
class Plan:
    """What becomes a run. model: built, with the folder's weights."""

    source: Source
    setup: Setup
    task: Task
    model: ARModel


def read(path: str) -> Source:
    """Read a folder. UserError of one line where a part is missing, damaged, or of a form that is not here."""
    folder = Path(path)
    config = read_config(folder)
    family = families.of_config(config)
    settings = family.settings(config)
    tokenizer = read_tokenizer(folder, "import")
    return Source(folder, config, family, settings, read_tensors(folder), tokenizer, read_template(folder))


def planned(source: Source, request: Request, task_name: str) -> Plan:
    """The run that a folder and the typed flags make. UserError where they do not fit together."""
    task_class, model_class = find_task(task_name), find_model(source.family.model)
    flags = {**source.settings.flags, **WITHOUT_EFFECT, "embed_std": _quiet_std(source.settings.flags["d_model"])}
    typed = {"task": task_name, **request.explicit, "model": source.family.model}
    longest = source.settings.table or source.settings.longest
    if longest and task_class.reads_text:
        typed.setdefault("context_len", longest)
    if task_class.reads_text:
        flags["tokenizer"] = "char" if source.tokenizer.unit == "character" else "bpe"  # of the run, not made anew
    device = env.resolve_device(typed.get("device", "auto"))
    preset, layer = presets.settings(request.control.preset, task_class, device.type, (source.family.model,))
    args = resolve(task_class, model_class, preset={**layer, **source.settings.defaults}, **{**typed, **flags})
    setup = make_setup(args, typed, task_class, model_class, preset, device)
    task = task_class.without_data(setup.args)
    setup, _ = resolve_model(setup, source.tokenizer, task)
    _check_typed(request.explicit, source, setup.args)
    _check_table(source.settings.table, task, setup.args)
    return Plan(source, setup, task, loaded(source, setup, task))


def loaded(source: Source, setup: Setup, task: Task) -> Backbone:
    """The model of a folder with its weights.

    Shapes are compared on a device without memory first: a config.json of a damaged folder may ask for any size.
    """
    tensors = source.family.normalised(source.tensors, setup.args)
    if setup.args.n_layer > len(tensors):
        raise UserError(
            f"config.json: got {setup.args.n_layer} layers, but '{source.path}' has only {len(tensors)} tensors; "
            "restore the file that is wrong"
        )
    with torch.device("meta"):
        empty = build_model(setup, source.tokenizer, task, torch.device("meta"))
    check_tensors(source, tensors, source.family.to_theirs(empty.state_dict(), setup.args))
    model = build_model(setup, source.tokenizer, task, torch.device("cpu"))
    model.load_state_dict(source.family.to_ours(tensors, setup.args))
    return model


def check_tensors(source: Source, tensors: Tensors, wanted: Tensors) -> None:
    """UserError that names the first tensor that is missing, too much, or of another shape."""
    expected = {name: tuple(t.shape) for name, t in wanted.items()}
    for name, shape in expected.items():
        if name not in tensors:
            raise UserError(f"import: '{source.path}' lacks the tensor '{name}', needed: {shape}; restore the weights")
        if tuple(tensors[name].shape) != shape:
            raise UserError(
                f"import: '{source.path}' has '{name}' in shape {tuple(tensors[name].shape)}, needed by its "
                f"config.json and tokenizer: {shape}; restore the file that is wrong"
            )
    if unknown := sorted(tensors.keys() - expected.keys()):
        raise UserError(
            f"import: '{source.path}' has the tensor '{unknown[0]}', for which the layer here has no place; the model "
            "has another form than its config.json says"
        )


def write_run(plan: Plan, run_dir: RunDir) -> None:
    """Write the run's files. config.json comes last: a directory without it counts as new. Hold the lock."""
    setup, source = plan.setup, plan.source
    payload = {
        "model": plan.model.state_dict(),
        "args": to_dict(setup.args),
        "vocab": source.tokenizer.payload(),
        "step": 0,
    }
    origin = {"architecture": source.config["architectures"][0], "sha256": digest_of(source.path)}
    source.tokenizer.save(run_dir.path)
    if source.template is not None:
        write_atomic(run_dir.template, source.template.encode())
    write_json(run_dir.env, _environment(setup, origin))
    for path in (run_dir.ckpt, run_dir.best):
        checkpoint.save(path, payload)
    write_json(run_dir.config, seal({**setup.config(), "status": "imported", "imported": origin}))


def _environment(setup: Setup, origin: dict) -> dict:
    """env.json: the machine, and no data, because an import reads none."""
    args, device = setup.args, torch.device(setup.args.device)
    chosen = env.collect(args, device, (args.precision, setup.precision_reason), {})
    return {**chosen, "data": {"digest": "", "source": "none read"}, "imported": origin}


def _quiet_std(width: int) -> float:
    """--embed_std of an imported run: as most models start, and so small that a tied head has no scale."""
    return min(0.02, 0.5 * width**-0.5)


def _check_typed(explicit: dict, source: Source, args: RunArgs) -> None:
    """UserError for a typed flag that the folder decides, or that has no effect without a training."""
    training = field_types(TrainConfig).keys() - set(EVALUATION)
    model = field_types(ModelConfig).keys()
    for name, value in explicit.items():
        if name in training:
            raise UserError(f"--{name}: got {as_text(value)}, allowed: no flag of training; give it with --init_from")
        if name in model - source.settings.defaults.keys() and value != getattr(args, name):
            raise UserError(
                f"--{name}: got {as_text(value)}, allowed: {as_text(getattr(args, name))}, that of '{source.path}'; "
                "leave it out"
            )


def _check_table(table: int | None, task: Task, args: RunArgs) -> None:
    needed = task.table_tokens()
    if table is not None and needed != table:
        raise UserError(
            f"--context_len: got {args.context_len}, with which task {args.task} needs {needed} positions, allowed: "
            f"as many as the folder's table has, {table}; try --context_len {max(1, args.context_len + table - needed)}"
        )
