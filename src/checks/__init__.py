"""The checks of a sequence layer, which need seconds and no training.

    results = run(Subject(model_class, args))        every check, for the command `check`
    results = quick(model, vocab_size, device)       causality, decoding and training of a built model, for `train`

A check is a function from a `Subject` to one `Result` or to several (src/checks/base.py). To add a check, write it in
the file of its group, name it in CHECKS, and add a layer that it catches to tests/broken_layers.py.
"""

from __future__ import annotations

import dataclasses
import sys
import traceback
from collections.abc import Callable, Iterable

from src.checks import caching, causality, cost, decoding, gradients, isolation, numerics, repeatability, shapes
from src.checks.base import QUICK, BuiltSubject, Result, Subject, exact_float32
from src.utils.memory import is_out_of_memory

CHECKS: dict[str, tuple[Callable, ...]] = {
    "causality": (causality.changed_tokens, causality.shorter_sequence, causality.gradient),
    "decoding": (decoding.cache, decoding.steps_from_empty, decoding.steps_after_prefill, decoding.prefill_into_state),
    "isolation": (
        isolation.other_rows,
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
    "gradients": (gradients.differences_float64, gradients.float32, gradients.every_parameter),
    "repeatability": (
        repeatability.forward_twice,
        repeatability.backward_twice,
        repeatability.same_seed,
        repeatability.save_and_load,
        repeatability.initialisation,
    ),
    "training": (caching.training_after_inference,),
    "cost": (cost.parameters, cost.output_ratios, cost.fair, cost.decoding, cost.exponents),
}
QUICK_GROUPS = ("causality", "decoding", "training")


def run(
    subject: Subject, groups: Iterable[str] = tuple(CHECKS), before: Callable[[str, str], None] | None = None
) -> list[Result]:
    """The results of all checks of these groups, in order.

    before: called with the group and the name of each check before the check begins.
    An error that the model raises becomes a failed result. A lack of memory is raised.
    """
    results = []
    with exact_float32(subject.device):
        for group in groups:
            for check in CHECKS[group]:
                if before is not None:
                    before(group, name_of(check))
                results += run_check(check, subject, group)
    return results


def run_check(check: Callable, subject: Subject, group: str = "") -> list[Result]:
    """The results of one check. An error becomes a failed result, with its reason in one line."""
    results: list[Result] = []
    try:
        found = check(subject)
        for result in (found,) if isinstance(found, Result) else found:
            results.append(dataclasses.replace(result, group=group))
    except Exception as error:
        if is_out_of_memory(error):
            raise
        results.append(Result(name_of(check), "fail", note=reason(error, subject.classes), group=group))
    return results


def name_of(check: Callable) -> str:
    """The name of a check in words, for progress and errors."""
    return check.__name__.replace("_", " ")


def reason(error: Exception, classes: Iterable[type]) -> str:
    """The error in one line, with the last line of these classes' files that the traceback contains."""
    files = {getattr(sys.modules.get(cls.__module__), "__file__", None) for cls in classes}
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename in files]
    where = f" (line {frames[-1].lineno}, in {frames[-1].name})" if frames else ""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}{where}"


def strict(results: Iterable[Result]) -> list[Result]:
    """The results as --strict judges them: a skipped check fails, and a measured value beyond its limit fails."""
    judged = []
    for result in results:
        fails = result.status == "skipped" or (result.status == "measured" and result.beyond)
        judged.append(dataclasses.replace(result, status="fail", note="strict: " + result.note) if fails else result)
    return judged


def quick(model, vocab_size: int, device) -> list[Result]:
    """Causality, decoding and training of a built model, in about a second.

    The model, its mode and all random state stay as they are. vocab_size: ids 0 .. vocab_size - 1 are drawn.  Sequences
    have 70 tokens, or fewer where a position table ends earlier.
    """
    longest = min(QUICK, model.max_len or QUICK)
    subject = BuiltSubject(type(model), None, device, vocab_size, longest, quick=True, built=model)
    return run(subject, QUICK_GROUPS)


def sees_the_future(results: Iterable[Result]) -> list[Result]:
    """The failed results of the causality group."""
    return [result for result in results if result.group == "causality" and result.status == "fail"]
