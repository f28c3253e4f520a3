"""Repeatability: a pass repeats, saved weights load, and a layer has the same initial weights in the model as alone."""

from __future__ import annotations

import contextlib
import io
from unittest import mock

import torch

from src.checks.base import NO_MIXER, Result, Subject, difference, judged, logits_of, mixers, names, skipped


def _exact(subject: Subject) -> float:
    """A CPU repeats every bit. A GPU adds some gradients in an order that varies."""
    return 0.0 if subject.device.type == "cpu" else 1e-5


def forward_twice(subject: Subject) -> Result:
    """The same tokens several times, in eval mode, without setting the seed again."""
    model, x = subject.model(), subject.tokens(2, min(129, subject.longest))
    with torch.no_grad():
        want, worst = model(x), 0.0
        for _ in range(3):
            worst = max(worst, difference(model(x), want))
    return judged(
        "forward repeated",
        worst,
        _exact(subject),
        "4 passes in eval mode gave the same logits",
        "4 passes in eval mode over the same tokens gave different logits",
    )


def backward_twice(subject: Subject) -> Result:
    """The same training step several times from the same random state."""
    model, x = subject.model().train(), subject.tokens(2, min(129, subject.longest))
    runs = []
    for _ in range(3):
        model.zero_grad(set_to_none=True)
        torch.manual_seed(0)
        model(x).float().logsumexp(-1).square().mean().backward()
        runs.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
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
        random_state, given, own = born[id(layer)]
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(random_state)
            alone = type(layer)(*given[0], **given[1])
        for key, p in layer.named_parameters():
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

    Yields {id: (random state before its __init__, arguments, copies of its parameters after)}.
    """
    born: dict = {}

    def watch(cls):
        init = cls.__init__

        def watching(self, *args, **kwargs):
            random_state = torch.get_rng_state()
            init(self, *args, **kwargs)
            if type(self) is cls:
                born[id(self)] = (
                    random_state,
                    (args, kwargs),
                    {key: p.detach().clone() for key, p in self.named_parameters()},
                )

        return mock.patch.object(cls, "__init__", watching)

    with contextlib.ExitStack() as stack:
        for cls in classes:
            stack.enter_context(watch(cls))
        yield born
