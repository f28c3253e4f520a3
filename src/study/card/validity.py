"""Whether a recorded baseline is still valid: would the same command give the same results today?

    checked = check_baselines(suite, tables, rows)     # {(label, row): Status}
    probe = probe_of(suite, label)                     # losses and scores of a tiny training
    data = data_of(suite, row)                         # digests of what a row is trained and tested on

Three things are compared, and a difference in one of them makes a baseline stale:
- the data of a row: its first training batches, its validation and test examples, and those beyond training; exact;
- the resolved flags of its runs; exact. A flag that is newer than the record must have its default value;
- a probe of the code: a few training steps of the layer, tiny, in fp32, on one thread, and what the evaluation of a run
  then says about validation, the test set and a length beyond training. Losses may differ by TOLERANCE. Rounding
  changes them by about 1e-5 after so few steps, so another machine, another torch and faster code keep a baseline
  valid, and another mathematics does not. Scores may differ by SCORE_TOLERANCE, which is a few characters.

The sequences of the probe have 96 characters, so that a state is carried from chunk to chunk in every chunked form.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from dataset.common import Batch
from dataset.loaders import length_loader
from src.checks.ready import Ready, prepare
from src.flags.fields import UserError, default_of
from src.flags.run_flags import config_parts, to_dict
from src.setup.plan import Setup, plan
from src.setup.session import open_session
from src.storage.files import digest
from src.study.card.baselines import Found, Table
from src.study.card.runs import ask
from src.study.card.suite import Row, Suite
from src.study.comparison.cells import cell_words, wants_positions
from src.utils import results
from src.utils.training import Diverged, make_optimizer, make_scaler, make_scheduler, train_step

TRAIN_BATCHES = 4  # of the training stream, in its digest
DIGITS = 16  # hexadecimal digits of a digest
TOLERANCE = 1e-3  # of a loss of the probe, relative
SCORE_TOLERANCE = 0.02  # of a score of the probe, absolute: one of its 256 scored characters is 0.005 of a scaled score
# What is not part of a baseline's flags: what changes from run to run, where a run takes place, and names whose content
# is compared elsewhere.
NOT_COMPARED = ("lr", "lr_tried", "seed", "threads", "device", "task", "model", "layers", "data_path", "tokenizer")
PROBE_STEPS = 4
PROBE_LOSSES = PROBE_STEPS + 3  # the losses of a probe: of each step, on validation, on test, beyond training
PROBE = (
    *("--task", "recall", "--n_pairs", "4", "--vocab", "8", "--context_len", "96", "--train_lengths", "fixed"),
    *("--eval_lengths", "128", "--train_size", "0", "--val_size", "64", "--test_size", "64", "--eval_size", "0"),
    *("--precision", "fp32", "--device", "cpu", "--threads", "1", "--seed", "7"),
    *("--lr", "0.01", "--min_lr", "0.001", "--warmup_steps", "1", "--max_steps", str(PROBE_STEPS)),
)
# By the flag that the suite has, because the two exclude each other. Three sequences each.
PROBE_BATCH = {"batch_chars": "384", "batch_size": "3"}
VALID, STALE, MISSING = "valid", "stale", "missing"


@dataclass(frozen=True)
class Status:
    """word: VALID, STALE or MISSING.  why: what differs, or what is missing."""

    word: str
    why: str = ""


def check_baselines(suite: Suite, tables: Mapping[str, Table], rows: Sequence[Row]) -> dict[tuple[str, str], Status]:
    """{(label, name of a row): its status} of every layer of the suite, with and without a table."""
    data = {row.name: data_of(suite, row).digest for row in rows}
    found = {}
    for label in suite.layers:
        table = tables.get(label)
        code = check_code(suite, table) if table else Status(MISSING, "no recorded runs")
        for row in rows:
            found[label, row.name] = code if code.word != VALID else check_row(suite, table, row, data[row.name])
    return found


def check_code(suite: Suite, table: Table) -> Status:
    """Whether the protocol and the probe of a table are those of today."""
    if table.protocol != suite.protocol_digest():
        return Status(STALE, "its learning rates were chosen by another protocol")
    try:
        now = probe_of(suite, table.label)
    except Exception as error:  # of any code that the layer or its evaluation runs
        return Status(STALE, f"the layer cannot be probed: {first_line(error)}")
    if not same_probe(table.probe, now):
        return Status(STALE, f"the code changed: a probe gave {_numbers(table.probe)}, and gives {_numbers(now)} now")
    return Status(VALID)


def first_line(error: Exception) -> str:
    """The first line of what an exception says, or its name."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def check_row(suite: Suite, table: Table, row: Row, data: str) -> Status:
    stored = table.rows.get(row.name)
    if stored is None:
        return Status(MISSING, "no recorded runs of this row")
    if stored["data"] != data:
        return Status(STALE, "the data of the row changed")
    setup = expected_setup(suite, row, table.label)
    new = newer_flags(setup, table.names)
    if new:
        return Status(STALE, f"--{new[0]} is newer than the record and not at its default")
    if stored["flags"] != flags_digest(setup, table.names):
        return Status(STALE, "the flags of the row or of the layer changed")
    return Status(VALID)


def same_probe(a: Sequence[float | None], b: Sequence[float | None]) -> bool:
    """Whether two probes agree within TOLERANCE and SCORE_TOLERANCE. None: the probe has no such number."""
    pairs = list(itertools.zip_longest(a, b, fillvalue=math.inf))
    same_losses = all(map(_is_same_loss, pairs[:PROBE_LOSSES]))
    return same_losses and all(map(_is_same_score, pairs[PROBE_LOSSES:]))


def _is_same_loss(pair: tuple[float | None, float | None]) -> bool:
    return pair[0] == pair[1] or (None not in pair and math.isclose(*pair, rel_tol=TOLERANCE))


def _is_same_score(pair: tuple[float | None, float | None]) -> bool:
    return pair[0] == pair[1] or (None not in pair and math.isclose(*pair, rel_tol=0.0, abs_tol=SCORE_TOLERANCE))


def _numbers(values: Iterable[float | None]) -> str:
    return " ".join("none" if value is None else f"{value:.4f}" for value in values)


# Data


@dataclass(frozen=True)
class RowData:
    """digest: of all data of a row.  examples: of the validation and test examples, as each run stores it."""

    digest: str
    examples: str


def data_of(suite: Suite, row: Row) -> RowData:
    """The digests of the data of a row at the first seed of the suite. No model takes part."""
    setup = expected_setup(suite, row, suite.layers[0])
    session = open_session(setup, torch.device("cpu"))
    examples = session.data.facts.digest
    sha = hashlib.sha256(examples.encode())
    for batch in itertools.islice(iter(session.loaders["train"]), TRAIN_BATCHES):
        for part in (batch.x, batch.y):
            sha.update(part.numpy().tobytes())
    for length in session.eval_lengths:
        loader = length_loader(session.task, session.tokenizer, setup.args, length)
        sha.update("".join(sorted(_sequence_digests(loader))).encode())
    return RowData(sha.hexdigest()[:DIGITS], examples)


def _sequence_digests(loader: Iterable[Batch]) -> Iterable[str]:
    """A digest per sequence, so that the order and the sizes of evaluation batches do not count."""
    for batch in loader:
        for x, y, length in zip(batch.x.numpy(), batch.y.numpy(), batch.lengths.tolist(), strict=True):
            yield hashlib.sha256(x[:length].tobytes() + y[:length].tobytes()).hexdigest()


# Flags


def expected_words(suite: Suite, row: Row, label: str) -> tuple[str, ...]:
    """The command line of `train` of this row and layer today, without what changes from run to run."""
    asked = ask(suite, [row], [label])
    (model,), (setting,) = asked.comparison.models, asked.comparison.settings
    return cell_words(asked.comparison, row.task, model, setting, wants_positions(asked))


def expected_setup(suite: Suite, row: Row, label: str) -> Setup:
    """What a run of this row and layer would be planned as today. No model is built."""
    return plan([*expected_words(suite, row, label), "--seed", str(suite.seeds[0])])[0]


def recorded_setup(found: Found) -> Setup:
    """What a recorded run was planned as, from its command line."""
    words = shlex.split(found.words)
    last = len(words) - 1 - words[::-1].index("--lr")  # what follows belongs to the single run
    return plan([*words[:last], "--seed", "0"])[0]


def flag_names(setup: Setup) -> tuple[str, ...]:
    """The names of the flags that a digest covers."""
    return tuple(sorted(name for name in to_dict(setup.args) if name not in NOT_COMPARED))


def flags_digest(setup: Setup, names: Iterable[str]) -> str:
    """The digest of these flags. One that no longer exists counts as absent, which is unlike every value."""
    values = to_dict(setup.args)
    return digest({name: values.get(name, "absent") for name in names})[:DIGITS]


def newer_flags(setup: Setup, names: Iterable[str]) -> list[str]:
    """The flags outside these names that are not at their default."""
    known = {*names, *NOT_COMPARED}
    return [
        f.name
        for part in config_parts(setup.task_class, setup.model_class)
        for f in dataclasses.fields(part)
        if f.name not in known and getattr(setup.args, f.name) != default_of(f)
    ]


# Code


def probe_of(suite: Suite, label: str) -> tuple[float | None, ...]:
    """PROBE_LOSSES losses and then the scores of a tiny training of this layer, as the suite sizes it.

    The scores: on validation; on test with both ends of the interval, and scaled; beyond training, and scaled.
    UserError where the layer cannot be planned, or where a loss is not finite.
    """
    ready = prepare(_probe_setup(suite, label))
    try:
        numbers = [*_train(ready), *_evaluate(ready)]
    except Diverged as error:
        raise UserError(f"a loss of its probe is not finite: {error}") from error
    return tuple(None if number is None else float(f"{number:.7g}") for number in numbers)


def _probe_setup(suite: Suite, label: str) -> Setup:
    asked = ask(suite, suite.rows[:1], [label])
    (model,) = asked.comparison.models
    words = [*asked.comparison.common, *model.words, "--match_params", str(suite.parameters), *PROBE]
    batch = "batch_chars" if plan(words)[0].args.batch_chars else "batch_size"
    return plan([*words, f"--{batch}", PROBE_BATCH[batch]])[0]


def _train(ready: Ready) -> list[float]:
    """The losses of the steps of a probe."""
    args, session, network = ready.setup.args, ready.session, ready.model
    device = session.device
    optimizer, scaler = make_optimizer(network, args, device), make_scaler(args, device)
    scheduler = make_scheduler(optimizer, args, PROBE_STEPS)
    network.train()
    batches = itertools.islice(iter(session.loaders["train"]), PROBE_STEPS)
    return [train_step(network, batch, optimizer, scheduler, scaler, device, args)["loss"] for batch in batches]


def _evaluate(ready: Ready) -> list[float | None]:
    """What the evaluation of a run says after the steps: three losses, then the scores."""
    session, network = ready.session, ready.model
    splits, _ = results.evaluate_splits(network, session)
    if not results.has_finite_loss(splits):
        raise Diverged("on validation or test")
    val, test, name = splits["val"], splits["test"], session.task.primary
    levels, ceiling = results.chance_of(session)
    curve = results.length_curve(network, session, test)
    beyond = results.length_mean(session.task, session.args, curve, levels, ceiling)
    losses = [val["loss"], test["loss"], curve[-1]["loss"]]
    of_test = [test[name], *test["intervals"][name], results.scaled(test[name], levels, ceiling)]
    return [*losses, val[name], *of_test, beyond["value"], beyond["scaled"]]
