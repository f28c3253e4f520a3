"""The checks of a sequence layer, which need seconds and no training.

    results = run(Subject(model_class, args))        every check, for the command `check`
    results = quick(model, vocab_size, device)       causality, rows, decoding, training of a built model, for `train`

A check is a function from a `Subject` to one `Result` or to several (src/checks/base.py). To add a check, write it in
the file of its group, name it in CHECKS and its rows in src/checks/rows.py, and add a layer that it catches to
tests/broken_layers.py.
"""

from __future__ import annotations

import dataclasses
import sys
import traceback
from collections.abc import Callable, Iterable

from src.checks import (
    caching,
    causality,
    cost,
    decoding,
    gradients,
    hash_order,
    isolation,
    leftovers,
    numerics,
    repeatability,
    shapes,
)
from src.checks.base import LONG, QUICK, BuiltSubject, Result, Subject, exact_float32, first_line
from src.checks.rows import ROWS
from src.utils.memory import is_out_of_memory

CHECKS: dict[str, tuple[Callable, ...]] = {
    "causality": (
        causality.changed_tokens,
        causality.under_autocast,
        causality.shorter_sequence,
        causality.gradient,
    ),
    "decoding": (
        decoding.cache,
        decoding.steps_from_empty,
        decoding.steps_after_prefill,
        decoding.prefill_into_state,
        decoding.long_steps,
        decoding.long_prefills,
    ),
    "isolation": (
        isolation.other_rows,
        isolation.other_rows_decoded,
        isolation.row_alone,
        isolation.padding,
        isolation.earlier_calls,
        isolation.two_decodings,
    ),
    "shapes": (shapes.odd_lengths, shapes.width_8, shapes.one_head, shapes.batch_1, shapes.longer_than_trained),
    "numerics": (
        numerics.bf16_forward,
        numerics.bf16_decoding,
        numerics.bf16_gradients,
        numerics.extreme_embeddings,
        numerics.extreme_inputs,
        numerics.one_repeated_token,
    ),
    "gradients": (gradients.differences_float64, gradients.float32, gradients.long_sequence, gradients.every_parameter),
    "repeatability": (
        repeatability.forward_twice,
        repeatability.decoding_twice,
        repeatability.backward_twice,
        repeatability.other_modes,
        repeatability.reseeding,
        leftovers.growth,
        repeatability.same_seed,
        hash_order.other_hashes,
        repeatability.save_and_load,
        repeatability.initialisation,
    ),
    "training": (caching.training_after_inference,),
    "cost": (cost.parameters, cost.output_ratios, cost.fair, cost.decoding, cost.exponents),
}
# The order is that of the reasons to refuse a layer: one that is random or mixes rows cannot be judged on causality.
QUICK_CHECKS = {
    "repeatability": (repeatability.forward_twice, repeatability.reseeding, leftovers.growth),
    "isolation": (isolation.other_rows,),
    "causality": CHECKS["causality"],
    "decoding": CHECKS["decoding"],
    "training": CHECKS["training"],
}


def run(
    subject: Subject, groups: Iterable[str] = tuple(CHECKS), before: Callable[[str, str], None] | None = None
) -> list[Result]:
    """The results of all checks of these groups, in order.

    before: called with the group and the name of each check before the check begins.
    An error that the model raises becomes a failed result. A lack of memory is raised.
    """
    results = []
    with exact_float32():
        for group in groups:
            for check in CHECKS[group]:
                if before is not None:
                    before(group, name_of(check))
                results += run_check(check, subject, group)
    return results


def run_check(check: Callable, subject: Subject, group: str = "") -> list[Result]:
    """The results of one check. An error fails each of its rows that has no result yet, with its reason in one line."""
    results: list[Result] = []
    try:
        found = check(subject)
        for result in (found,) if isinstance(found, Result) else found:
            results.append(dataclasses.replace(result, group=group))
    except Exception as error:
        if is_out_of_memory(error):
            raise
        note = f"could not be run: {reason(error, subject.classes)}"
        given = {result.name for result in results}
        missing = [name for name in ROWS.get(check.__name__, (name_of(check),)) if name not in given]
        results += [Result(name, "fail", note=note, group=group, cause="raised") for name in missing]
    return results


def name_of(check: Callable) -> str:
    """The name of a check in words, for progress and errors."""
    return check.__name__.replace("_", " ")


def reason(error: Exception, classes: Iterable[type]) -> str:
    """The error in one line, with the last line of these classes' files that the traceback contains."""
    files = {getattr(sys.modules.get(cls.__module__), "__file__", None) for cls in classes}
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename in files]
    where = f" (line {frames[-1].lineno}, in {frames[-1].name})" if frames else ""
    return f"{type(error).__name__}: {first_line(error)}{where}"


def strict(results: Iterable[Result]) -> list[Result]:
    """The results as --strict judges them: a skipped check fails, and a measured value beyond its limit fails."""
    judged = []
    for result in results:
        fails = result.status == "skipped" or (result.status == "measured" and result.beyond)
        judged.append(dataclasses.replace(result, status="fail", note="strict: " + result.note) if fails else result)
    return judged


def quick(
    model,
    vocab_size: int,
    device,
    *,
    lengths: tuple[int, ...] = (),
    batch: int = 0,
    precision: str = "fp32",
    long: int = LONG,
) -> list[Result]:
    """Causality, independent rows, decoding and training of a built model, in about a second.

    The model, its mode and all random state stay as they are. vocab_size: ids 0 .. vocab_size - 1 are drawn.
    lengths: tokens of the longest sequences of the run, that of training first.  batch: rows of a training batch.
    precision: of the run. long: tokens of one pass that is longer than the run may be. It is left out where the model
    does not take it.
    """
    bound = model.max_len or max(QUICK, long, *lengths)
    lengths = tuple(dict.fromkeys(min(n, bound) for n in lengths))
    subject = BuiltSubject(
        type(model),
        None,
        device,
        vocab_size,
        min(QUICK, bound),
        quick=True,
        built=model,
        long=min(long, bound),
        run_lengths=lengths,
        run_batch=batch,
        precision=precision,
    )
    with exact_float32():
        return [r for group, found in QUICK_CHECKS.items() for check in found for r in run_check(check, subject, group)]


def sees_the_future(results: Iterable[Result]) -> list[Result]:
    """The results that show a leak: failed ones of the causality group, unless the model raised an error."""
    return [r for r in results if r.group == "causality" and r.status == "fail" and not r.cause]


def mixes_rows(results: Iterable[Result]) -> list[Result]:
    """The results that show that a row of a batch depends on other rows."""
    return [r for r in results if r.group == "isolation" and r.status == "fail" and not r.cause]


def varies(results: Iterable[Result]) -> list[Result]:
    """The results that show that one input gives several outputs in eval mode."""
    names = ROWS["forward_twice"]
    return [r for r in results if r.name in names and r.status == "fail" and not r.cause]


def without_answer(results: Iterable[Result]) -> list[Result]:
    """The results on causality and rows that could not be run, or could not be judged."""
    return [r for r in results if r.group in ("causality", "isolation") and r.cause]
