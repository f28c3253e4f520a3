"""What the tests of the checks share: a layer as a `Subject` at small sizes, and the results of its checks."""

import functools

from src import checks
from src.checks import CHECKS
from src.checks.base import Result, Subject
from src.flags.run_flags import resolve
from src.models import MODELS
from src.models.backbone import resolve_auto

SIZES = {"d_model": 16, "n_layer": 2, "n_head": 2, "dropout": 0.0}
SHORT = 140  # tokens: more than two chunks of 64
JUDGING = tuple(group for group in CHECKS if group != "cost")


class NoTask:
    Config = None


def subject_of(model_class, longest=SHORT, long=0, **given) -> Subject:
    """A layer at small sizes.  long: tokens of the one long pass; 0 leaves it out, because it takes a second."""
    args = resolve_auto(model_class, resolve(NoTask, model_class, preset=SIZES, **given))
    return Subject(model_class, args, longest=longest, long=long)


def rows(check_function, model_class, long=0, **given) -> dict[str, Result]:
    """{name: result} of one check of a layer."""
    subject = subject_of(model_class, long=long, **given)
    with checks.exact_float32():
        return {r.name: r for r in checks.run_check(check_function, subject)}


def failed(results) -> list:
    return [(r.name, r.value, r.note) for r in results if r.status == "fail"]


@functools.cache
def results_of(name: str) -> dict[str, Result]:
    """{name: result} of every check of a registered layer that passes or fails, computed once per session."""
    return {r.name: r for r in checks.run(subject_of(MODELS[name].load()), JUDGING)}
