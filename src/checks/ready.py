"""A new run that is ready to begin: its data, its model, and every check that comes before the first file is written.

    setup, request = plan(argv)
    ready = prepare(setup)                       # UserError for anything that is wrong
    ready.session, ready.model, ready.lines      # what the run works with, and what is to be said about it

`train` begins the run at once. `compare` prepares one run per cell of its plan before it begins the first one.
"""

from __future__ import annotations

from dataclasses import dataclass

from dataset.task import Task
from src.checks.admission import check_user_model
from src.flags.fields import UserError
from src.flags.run_flags import RunArgs, RunFlags
from src.models.contract import ARModel
from src.models.fair import BLOCK_FLAGS, block_words, fair_differences, unread
from src.models.state import refuse_opaque
from src.setup.plan import Setup, build_model, resolve_model
from src.setup.session import check_backends, check_batches, check_lengths, open_session, with_args
from src.setup.trial import try_own_model
from src.storage import env
from src.storage.notes import no_score
from src.utils.distributed import World
from src.utils.results import why_undefined
from src.utils.session import Session


@dataclass(frozen=True)
class Ready:
    """What a run begins with.

    backends: {op: its backend and the reason}.  lines: notices and warnings, in the order in which they are printed.
    """

    setup: Setup
    session: Session
    model: ARModel
    backends: dict[str, dict]
    lines: list[str]


def prepare(setup: Setup, world: World | None = None) -> Ready:
    """Build the data and the model of a run, and check both. UserError where something is wrong. Writes nothing."""
    device = env.resolve_device(setup.args.device)
    if setup.args.compile:
        env.check_compiler(device)
    session = open_session(setup, device, world)
    check_batches(session)
    tokens = check_lengths(session)
    setup, matched = resolve_model(setup, session.tokenizer, session.task)
    backends = check_backends(setup, device)
    model = build_model(setup, session.tokenizer, session.task, device)
    if setup.source:
        setup.source.apply(model, session.tokenizer)
    check_longest(model, session.task, setup.args)
    try_own_model(setup.args, model, session.tokenizer, session.loaders["val"], device)
    refuse_opaque(model)
    setup, warnings = check_user_model(setup, model, session.tokenizer, device, session.task, tokens.values())
    unscored = [f"notice: {note}" for note in no_score({n: why_undefined(model, t) for n, t in tokens.items()})]
    ignored = ignored_lines(setup, len(session.tokenizer))
    block = f"block: {block_words(setup.model_class, setup.args)}"
    began = [f"first weights: {setup.source.words()}"] if setup.source else []
    lines = [block, *began, *matched, *fair_lines(model, setup.args), *ignored, *warnings, *unscored]
    return Ready(setup, with_args(session, setup), model, backends, lines)


def check_longest(model: ARModel, task: Task, args: RunFlags) -> None:
    """UserError for a model that can take fewer tokens than the task feeds."""
    fed = task.max_tokens() if task.reads_text else task.max_tokens() - 1  # the <eos> of an example is never fed
    if model.max_len is not None and model.max_len < fed:
        raise UserError(
            f"--model: {model.limit()} are too few for --task {args.task}, which feeds {fed}; lower --context_len or "
            "--max_len, or raise max_len in the layer"
        )


def fair_lines(model: ARModel, args: RunArgs) -> list[str]:
    """One line if --fair could not make everything equal."""
    found = fair_differences(model, args)
    return [f"notice: --fair leaves these differences: {'; '.join(found)}"] if found else []


def ignored_lines(setup: Setup, vocab_size: int) -> list[str]:
    """One line about typed flags of the block that a whole model does not read: they change nothing."""
    typed = [name for name in BLOCK_FLAGS if name in setup.explicit]
    if not typed or not issubclass(setup.model_class, ARModel):
        return []
    ignored = unread(setup.model_class, vocab_size, setup.args, typed)
    found = ", ".join("--no_bias" if name == "bias" else f"--{name}" for name in ignored)
    whole = f"{setup.model_class.__name__} is a whole model, which has no block of the bench and does not read them"
    return [f"notice: {found} change{'s' * (',' not in found)} nothing: {whole}"] if found else []
