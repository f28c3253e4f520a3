"""The cells of a comparison: every (task, model, setting), checked as a run would be, and brought to equal terms.

    cells = prepare_cells(asked, say)            # UserError before anything is written
    cells[0].words                               # of `train`, without --lr, --seed and --out_dir
    cells[0].terms                               # what plan.json stores about it

Equal terms are: as many parameters outside embeddings and head as the first model, and the same positions for all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from src.checks.ready import Ready, prepare
from src.flags.fields import UserError
from src.models.contract import ARModel
from src.models.fair import block_words, fair_differences
from src.models.match import count_parameters, decode_state
from src.setup.plan import Setup, plan
from src.setup.sides import Setting, Side
from src.setup.together import check_together
from src.study.comparison.digest import code_digest
from src.study.comparison.rates import half_decades
from src.study.comparison.request import Asked, Comparison, beyond_training
from src.utils.precision import autocast
from src.utils.training import (
    Diverged,
    make_optimizer,
    make_scaler,
    make_scheduler,
    total_steps,
    train_step,
    validation_interval,
)

TIMED_STEPS = 4  # after one that is not counted; a plan of ten cells then takes seconds
START_SECONDS = 3.0  # a worker's start, figures and samples; corrected by the runs that are finished
TABLE, NO_TABLE = "learned", "none"


@dataclass(frozen=True, eq=False)
class Cell:
    """One (task, model, setting).

    words: the command line of `train`, without --lr, --seed and --out_dir.  setup: resolved, of the first fresh seed.
    """

    task: str
    model: str
    setting: str
    words: tuple[str, ...]
    setup: Setup
    terms: dict

    @property
    def group(self) -> tuple[str, str]:
        """What shares a grid of learning rates."""
        return self.task, self.setting

    @property
    def key(self) -> tuple[str, str, str]:
        """What tables name it by."""
        return self.task, self.model, self.setting


def prepare_cells(asked: Asked, say: Callable[[str], None] = lambda line: None) -> list[Cell]:
    """All cells, in the order of the tables. UserError that names the cell where a run could not begin."""
    cells = []
    wants_table = wants_positions(asked)
    for task in asked.comparison.tasks:
        for setting in asked.comparison.settings:
            cells += _group(asked.comparison, task, setting, wants_table, say)
    return cells


def wants_positions(asked: Asked) -> bool:
    """Whether one of the models was published with a learned table of positions."""
    return any(
        asked.classes[model.label].default_pos == TABLE and "--pos" not in " ".join(model.flags)
        for model in asked.comparison.models
    )


def _group(comparison: Comparison, task: Side, setting: Setting, wants_table: bool, say) -> list[Cell]:
    """The cells of one task and setting. The first model decides how many parameters the others get."""
    found: list[Cell] = []
    for model in comparison.models:
        say(f"preparing {' '.join(filter(None, (task.label, model.label, setting.label)))}")
        try:
            first = found[0].terms if found else None
            found.append(_cell(comparison, task, model, setting, wants_table, first))
        except UserError as error:
            where = ", ".join(filter(None, (task.label, model.label, setting.label)))
            raise UserError(f"{where}: {error}{_advice(str(error), comparison)}") from error
    return found


def _advice(message: str, comparison: Comparison) -> str:
    if message.startswith("--match_params") and comparison.config.match_params != "none":
        return "; for `compare`, --match_params none leaves the sizes as given"
    if message.startswith("unknown flag"):
        return '; a flag that only one model or task has goes into its quotes, such as "deltanet --neg_eigen"'
    return ""


def _cell(
    comparison: Comparison, task: Side, model: Side, setting: Setting, wants_table: bool, first: dict | None
) -> Cell:
    words = cell_words(comparison, task, model, setting, wants_table, first)
    ready = prepare(plan([*words, "--seed", str(comparison.seeds[0])])[0])
    return Cell(task.label, model.label, setting.label, words, ready.setup, _terms(ready, model))


def cell_words(
    comparison: Comparison, task: Side, model: Side, setting: Setting, wants_table: bool, first: dict | None = None
) -> tuple[str, ...]:
    """The command line of `train` of a cell, without --lr, --seed and --out_dir. Nothing is built.

    first: the terms of the first model, whose parameters --match_params first takes.
    """
    words = (*comparison.common, *task.words, *model.words, *setting.words, "--threads", str(comparison.threads))
    words = (*words, "--solved_at", f"{comparison.config.solved_at:g}")
    setup, request = plan([*words, "--seed", str(comparison.seeds[0])])
    if request.out_dirs:
        raise UserError("--out_dir: goes with the whole comparison; leave it out of the quotes")
    args = setup.args
    fixed = ("--precision", args.precision, "--device", args.device)  # on every machine as on this one
    if args.pos == "auto" and not args.fair and not issubclass(setup.model_class, ARModel):
        fixed = (*fixed, "--pos", _positions(setup, wants_table))
    if comparison.steps_share < 1:
        fixed = (*fixed, "--max_steps", str(_fewer_steps(setup, comparison.steps_share)))
    if args.stop_at and setup.preset == "small" and "stop_at" not in setup.explicit:
        fixed = (*fixed, "--stop_at", "0")  # losses and steps are compared, so all models train equally long
    return (*words, *fixed, *_match_words(comparison.config.match_params, first))


def _positions(setup: Setup, wants_table: bool) -> str:
    """The positions of every model that does not say otherwise.

    A learned table for all if one of the models was published with it, because attention alone has no order. It ends
    at the training length, so there is none where longer inputs are tested. Recurrent layers among themselves have
    none: at --embed_std 1 a table hides the characters (selective copying with mamba: 1.00 without, 0.01 with it).
    A layer that was published with positions inside it keeps them, as RetNet, which has no flag for them.
    """
    own = setup.model_class.default_pos
    if own in setup.model_class.positions:
        return own
    is_beyond = beyond_training(setup.task_class(setup.args), setup.args.eval_lengths)
    return TABLE if wants_table and not is_beyond else NO_TABLE


def _fewer_steps(setup: Setup, share: float) -> int:
    """The steps of a run under a budget. UserError for a run whose steps come from --epochs, which has none to cut."""
    if not setup.args.max_steps:
        raise UserError("--budget: cannot shorten runs that count --epochs; give --max_steps")
    return max(1, round(share * setup.args.max_steps))


def _match_words(wanted: str, first: dict | None) -> tuple[str, ...]:
    """The flags that give a model as many parameters as the first one has, or as were asked for."""
    if wanted == "none" or (wanted == "first" and first is None):
        return ()
    if wanted != "first":
        return ("--match_params", wanted)
    if first["layer_parameters"] is None:
        return ("--match_params", str(first["parameters"]), "--match_count", "all")
    return ("--match_params", str(first["layer_parameters"]))


def _terms(ready: Ready, side: Side) -> dict:
    """What plan.json stores about a cell: sizes, surroundings, and how long a run takes."""
    setup, session = ready.setup, ready.session
    args, task, model = setup.args, session.task, ready.model
    size = count_parameters(model, len(session.tokenizer))
    with autocast("cpu", args.precision):
        state = decode_state(setup.model_class, args, len(session.tokenizer), task.table_tokens(), task.max_tokens())
    steps = total_steps(args, session.loaders["train"])
    step_seconds, rest_seconds = measured(ready, steps)
    whole = issubclass(setup.model_class, ARModel)
    return {
        "task_name": args.task,
        "model_name": args.model,
        "preset": setup.preset,
        "metric": task.primary,
        "parameters": size.total,
        "embedding_parameters": size.embedding,
        "layer_parameters": size.layers,
        "state_bytes": state,
        "steps": steps,
        "batch": args.batch_size if not args.batch_chars else 0,
        "batch_chars": args.batch_chars,
        "chars": steps * (args.batch_chars or args.batch_size * task.max_tokens()),
        "context": args.context_len,
        "init": args.init,
        "pos": "its own" if whole else args.pos,
        "block": block_words(setup.model_class, args),
        "fair_differences": fair_differences(model, args),
        "precision": args.precision,
        "device": args.device,
        "lr": args.lr,
        "min_lr": args.min_lr,
        "data_digest": session.data.facts.digest if task.reads_text else "",
        "code_digest": code_digest(setup),
        "data_source": session.data.facts.source or "",
        "step_seconds": step_seconds,
        "run_seconds": START_SECONDS + steps * step_seconds + rest_seconds,
        "own_file": side.is_file,
        "lines": [line for line in ready.lines if not line.startswith("block:")],
    }


def measured(ready: Ready, steps: int) -> tuple[float, float]:
    """(seconds per training step, seconds of all evaluations) of a run, from a few steps of a model that is then lost.

    Rough: a few batches, on a machine that may be busy.
    """
    model, args, session = ready.model, ready.setup.args, ready.session
    device = session.device
    optimizer, scaler = make_optimizer(model, args, device), make_scaler(args, device)
    scheduler = make_scheduler(optimizer, args, steps)
    model.train()
    seconds = []
    batches = iter(session.loaders["train"])
    for _ in range(min(steps, TIMED_STEPS + 1)):
        batch = next(batches, None)
        if batch is None:
            break
        began = time.perf_counter()
        try:
            train_step(model, batch, optimizer, scheduler, scaler, device, args)
        except Diverged:
            break
        seconds.append(time.perf_counter() - began)
    per_step = sum(seconds[1:] or seconds or [0.0]) / max(1, len(seconds[1:] or seconds))
    return per_step, _evaluations(ready, steps)


def _evaluations(ready: Ready, steps: int) -> float:
    """Seconds of a run's validations and of its end, from one batch of the validation set."""
    session, args = ready.session, ready.setup.args
    loader = session.loaders["val"]
    batch = next(iter(loader)).to(session.device)
    began = time.perf_counter()
    ready.model.eval()
    with torch.no_grad(), autocast(session.device, args.precision):
        ready.model.loss_fn(batch)
    once = (time.perf_counter() - began) * len(loader)
    validations = steps / max(1, validation_interval(args, steps))
    tests = 2 * len(session.loaders["test"]) / max(1, len(loader)) + 2  # best and last weights, on test and on val
    lengths = len(session.eval_lengths) * tests / 2
    return once * (validations + tests + lengths)


def check_seeds_at_once(cells: Sequence[Cell], seeds: int, engine: str) -> None:
    """UserError that names the cell whose runs cannot be trained several seeds at once."""
    if seeds > 1 and engine != "local":
        raise UserError(f"--seeds_at_once: got {seeds} with --engine {engine}, allowed: with --engine local alone")
    for cell in cells if seeds > 1 else ():
        try:
            check_together(cell.setup, seeds)
        except UserError as error:
            raise UserError(f"{', '.join(filter(None, cell.key))}: {error}") from error


def rates_of(cells: Sequence[Cell], typed: Sequence[float]) -> list[float]:
    """The first grid of a group of cells: as typed, or half a decade around its preset's rate."""
    return sorted(typed) if typed else sorted(half_decades(cells[0].setup.args.lr))
