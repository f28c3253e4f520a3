"""Repeatability: a pass repeats, a seed decides everything, saved weights load, a layer starts as it does alone."""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable
from unittest import mock

import torch
from torch import nn

from src.checks.base import (
    NO_MIXER,
    Result,
    Subject,
    check_logits,
    difference,
    judged,
    logits_of,
    mixers,
    names,
    skipped,
)
from src.checks.decoding import decode
from src.models.backbone import build
from src.ops.precision import as_real
from src.storage.checkpoint import random_state, set_random_state
from src.storage.randomness import kept_random_state, seed_all

DROPOUT = 0.5
DECODED = 9  # tokens of a decoding that is repeated
GENERATORS = {"torch": "torch", "cuda": "torch on CUDA", "python": "Python's random", "numpy": "NumPy"}


def _exact(subject: Subject) -> float:
    """A CPU repeats every bit. A GPU adds some gradients in an order that varies."""
    return 0.0 if subject.device.type == "cpu" else 1e-5


# --- passes in eval mode ---------------------------------------------------------------------------------------------


def forward_twice(subject: Subject):
    """The same tokens several times, in eval mode, without setting the seed again."""
    x = subject.tokens(2, min(129, subject.longest))
    for name, model in _with_and_without_dropout(subject, "forward repeated"):
        yield _repeated(name, functools.partial(_forward, model, x), _exact(subject))


def decoding_twice(subject: Subject):
    """The same prompt and steps several times, in eval mode, without setting the seed again."""
    x = subject.tokens(2, min(DECODED, subject.longest))
    plan = [("prefill", (x.shape[1] + 1) // 2), ("step", x.shape[1] // 2)]
    for name, model in _with_and_without_dropout(subject, "decoding repeated"):
        yield _repeated(name, functools.partial(decode, model, x, plan), _exact(subject))


def _with_and_without_dropout(subject: Subject, name: str):
    """(name of the row, model in eval mode). A built model has the dropout of its run already."""
    yield name, subject.model()
    if subject.args is not None:
        changes = {"dropout": DROPOUT, "embed_dropout": DROPOUT, "attn_dropout": DROPOUT}
        yield f"{name} at dropout {DROPOUT}", subject.model(**changes)


def _forward(model, x):
    with torch.no_grad():
        logits = model(x)
    check_logits(logits, x)
    return logits


def _repeated(name: str, run: Callable, allowed: float) -> Result:
    """Four calls of `run` give the same logits, and draw no random numbers."""
    before = random_state()
    want, *others = (run() for _ in range(4))
    drawn = _changed(before, random_state())
    worst = max(difference(got, want) for got in others)
    if drawn:
        why = (
            f"random in eval mode: it draws from {' and '.join(drawn)}, or seeds it; dropout must be off there "
            "(F.dropout needs training=self.training)"
        )
        return Result(name, "fail", worst, allowed, why)
    return judged(
        name,
        worst,
        allowed,
        "4 times the same logits, no random number drawn",
        "the same tokens gave different logits in eval mode: something is kept from call to call, or is random",
    )


def _changed(before: dict, after: dict) -> list[str]:
    """The generators whose state differs between two results of `random_state`."""
    return [words for name, words in GENERATORS.items() if not _equal(before[name], after[name])]


def _equal(one, two) -> bool:
    """Whether two states are equal. torch's are tensors."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, list) and len(one) == len(two):
        return all(map(_equal, one, two))
    return one == two


def other_modes(subject: Subject) -> Result:
    """inference_mode, no_grad and a pass that keeps gradients give the same logits, in eval and in train mode."""
    worst, where = 0.0, ""
    x = subject.tokens(2, min(129, subject.longest))
    contexts = {"inference_mode": torch.inference_mode, "no_grad": torch.no_grad, "enable_grad": torch.enable_grad}
    for mode in ("eval", "train"):
        found = {}
        for name, context in contexts.items():
            model = subject.model().train(mode == "train")
            seed_all(0)
            with context():
                logits = model(x)
                check_logits(logits, x)
                found[name] = logits.detach().double()
        for name, got in found.items():
            off = difference(got.clone(), found["enable_grad"])
            if off > worst:
                worst, where = off, f"{name} gave other logits than enable_grad, in {mode} mode"
    return judged(
        "inference_mode, no_grad, gradients",
        worst,
        subject.tolerance,
        "the same logits in all three, eval and train mode",
        where,
    )


# --- seeds -----------------------------------------------------------------------------------------------------------


def reseeding(subject: Subject):
    """Generators with different seeds still differ after building the model, and after a pass in train mode."""
    if subject.args is not None:
        yield _reseeded("generators reset by __init__", lambda: build_again(subject))
    model, x = subject.model().train(), subject.tokens(2, min(33, subject.longest))
    yield _reseeded("generators reset by forward", lambda: model(x))


def build_again(subject: Subject):
    """A new model from the present random state."""
    return build(subject.model_class, subject.vocab_size, subject.args, subject.longest)


def _reseeded(name: str, action: Callable) -> Result:
    """No generator has one state after `action` for two different states before it."""
    after = []
    with kept_random_state():
        for seed in (1, 2):
            seed_all(seed)
            action()
            after.append(random_state())
    alike = [words for key, words in GENERATORS.items() if len(after[0][key]) and _equal(after[0][key], after[1][key])]
    return judged(
        name,
        len(alike),
        0,
        "what is drawn afterwards still depends on the seed",
        f"{' and '.join(alike)} gives the same numbers afterwards whatever the seed is: use a generator of your own",
    )


def backward_twice(subject: Subject) -> Result:
    """The same training step several times from the same random state."""
    model, x = subject.model().train(), subject.tokens(2, min(129, subject.longest))
    runs = []
    for _ in range(3):
        model.zero_grad(set_to_none=True)
        seed_all(0)
        model(x).float().logsumexp(-1).square().mean().backward()
        runs.append(torch.cat([as_real(p.grad).flatten() for p in model.parameters() if p.grad is not None]))
    worst = max(difference(run, runs[0]) for run in runs[1:])
    return judged(
        "backward repeated",
        worst,
        _exact(subject),
        "3 steps from one random state agree",
        "3 training steps from one random state gave different gradients",
    )


def same_seed(subject: Subject) -> Result:
    """Two models of one seed have the same parameters and buffers."""
    one, two = (subject.model(awake=False).state_dict() for _ in range(2))
    differing = [name for name in one if not torch.equal(one[name], two[name])]
    return judged(
        "tensors that a seed leaves open",
        len(differing),
        0,
        f"two models of one seed share all {len(one)} tensors",
        f"two models of one seed differ in {names(differing)}",
    )


def save_and_load(subject: Subject) -> Result:
    """Saved weights that are loaded into a model of another seed give the same logits."""
    model, x = subject.model(), subject.tokens(2, min(65, subject.longest))
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = subject.model(seed=subject.seed + 1)
    other.load_state_dict(torch.load(file, map_location=subject.device, weights_only=True))
    return judged(
        "saved and loaded",
        difference(logits_of(other, x), logits_of(model, x)),
        1e-6,
        "the same logits in a model of another seed",
        "saved weights gave other logits in a model of another seed",
    )


def initialisation(subject: Subject) -> Result:
    """With `--init published` the model keeps what a layer's own __init__ set, as when the layer is built alone."""
    name = "initialisation in the backbone"
    layers = mixers(subject.model(awake=False))
    if not layers:
        return skipped(name, NO_MIXER)
    with _watched({type(layer) for layer in layers}) as born:
        built = mixers(subject.model(awake=False, init="published"))  # another --init replaces them on purpose
    changed, n = [], 0
    for i, layer in enumerate(built):
        state, given, own = born[id(layer)]
        with kept_random_state():
            set_random_state(state)
            alone = type(layer)(*given[0], **given[1])
        for key, p in layer.named_parameters():
            if key not in own:
                continue
            n += 1
            if not (torch.equal(p.cpu(), own[key]) and torch.equal(p.cpu(), alone.get_parameter(key).detach())):
                changed.append(f"{key} of layer {i}")
    return judged(
        name,
        len(changed),
        0,
        f"{n} tensors keep what the layer's __init__ set",
        f"not what the layer's own __init__ set: {names(changed)}",
    )


@contextlib.contextmanager
def _watched(classes):
    """Record each object of these classes that is built.

    Yields {id: (random state before its __init__, arguments, copies of its parameters after)}. A lazy parameter has no
    values then, so it is left out.
    """
    born: dict = {}

    def watch(cls):
        init = cls.__init__

        def watching(self, *args, **kwargs):
            state = random_state()
            init(self, *args, **kwargs)
            if type(self) is cls:
                made = {k: p.detach().clone() for k, p in self.named_parameters() if not nn.parameter.is_lazy(p)}
                born[id(self)] = (state, (args, kwargs), made)

        return mock.patch.object(cls, "__init__", watching)

    with contextlib.ExitStack() as stack:
        for cls in classes:
            stack.enter_context(watch(cls))
        yield born
