"""The session of a run: its data is built, and what could fail late is checked before anything is written.

    session = open_session(setup, device, world)
    check_batches(session)
    check_lengths(session)

src/utils/session.py defines what a session is.
"""

from __future__ import annotations

import dataclasses

import torch

from dataset.loaders import build_loaders, length_loader, parse_lengths
from dataset.seeds import stream
from dataset.splits import draw_train
from dataset.tokenizer import Tokenizer
from src.flags.fields import UserError
from src.models.backbone import ops_of
from src.ops.choices import choices
from src.setup.classes import blaming
from src.setup.plan import Setup
from src.storage import env
from src.utils.distributed import World
from src.utils.evaluation import teacher_forced_metric
from src.utils.session import Session
from src.utils.training import total_steps

# So many lengths above the shortest one are checked. Longer ones have more keys than can all be held out.
SHORT_LENGTHS = 8


def open_session(
    setup: Setup, device: torch.device, world: World | None = None, tokenizer: Tokenizer | None = None
) -> Session:
    """Build the data of a run. UserError where the task's flags, lengths or sizes do not fit together.

    tokenizer: that of an existing run, where it has one of subwords (`stored_tokenizer`).
    Building the data needs no decision about the model. `with_args` gives the session the flags of the resolved model.
    """
    with blaming("task", setup.args.task):
        task = setup.task_class(setup.args)
        if tokenizer is not None:
            task.given_tokenizer = tokenizer
        eval_lengths = parse_lengths(task, setup.args.eval_lengths)
        _, loaders, data = build_loaders(task, setup.args)
    return Session(setup.args, data, loaders, device, world or World(), tuple(eval_lengths), setup.preset)


def with_args(session: Session, setup: Setup) -> Session:
    """The same data with the flags of a setup whose model is resolved."""
    return dataclasses.replace(session, args=setup.args)


def check_batches(session: Session) -> None:
    """UserError for a batch that has no room for a sequence, and for a run without an end."""
    args, longest = session.args, session.task.max_tokens()
    if args.batch_chars and args.batch_chars < longest:
        raise UserError(
            f"--batch_chars: got {args.batch_chars}, allowed: at least the longest sequence, {longest} "
            f"{session.tokenizer.unit}s"
        )
    total_steps(args, session.loaders["train"])
    if args.stop_at and teacher_forced_metric(session.task) is None:
        raise UserError(
            f"--stop_at: got {args.stop_at:g}, allowed: 0 for this task, whose primary metric {session.task.primary} "
            "needs decoded answers, which a validation does not make"
        )


def check_lengths(session: Session) -> dict[int, int]:
    """UserError for a training length or an evaluation length at which the task has too few distinct examples.

    Returns the longest sequence, in tokens, of each of --eval_lengths.
    """
    task, args, tokens = session.task, session.args, {}
    with blaming("task", args.task):
        for length in session.eval_lengths:
            tokens[length] = length_loader(task, session.tokenizer, args, length).dataset.longest
        low, high = task.lengths or (1, 0)
        for length in range(low, min(high, low + SHORT_LENGTHS) + 1):
            draw_train(task, 1, length, stream(task, "lengths", args.seed))
    return tokens


def check_backends(setup: Setup, device: torch.device) -> dict[str, dict]:
    """{op: its backend on this device, and the reason}. UserError where --backend names what cannot run here."""
    return choices(ops_of(setup.model_class, setup.args), setup.args, device)


def environment(setup: Setup, session: Session, backends: dict[str, dict]) -> dict:
    """The content of env.json: the machine, the choices made on it, and the identity of the data."""
    collected = env.collect(setup.args, session.device, (setup.args.precision, setup.precision_reason), backends)
    facts = session.data.facts
    return {**collected, "data": {"digest": facts.digest, "source": facts.source}}
