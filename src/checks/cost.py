"""Cost: parameters, bytes of state, the time of late and early steps, and growth of time and memory with T.

These values are measured. Only --strict judges them. What long passes compute must be finite, which is judged. An
exponent is the log-log slope over three lengths, each twice the one before: 1 is linear, 2 is quadratic. A backbone has
no MLP here, and the lengths double until the longest takes SLOW seconds, so that fixed overhead does not hide the
growth of the layer. A whole model stays as it is.

Each check that measures time takes a `clock`, a function that returns seconds.
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable

import torch

from src.checks.base import NO_MIXER, Result, Subject, judged, measured, mixers, not_finite, skipped
from src.models.contract import ARModel
from src.models.fair import fair_differences
from src.models.state import state_bytes
from src.utils.memory import kept_bytes

NEAR, FAR, REPLAY_FAR = 128, 4096, 512
PIECE = 256  # tokens per prefill
TIMED = 40  # steps timed at each position
WARM_UP = 5  # of them left out
ROWS = 4  # batch of what is timed, so that reading a cache takes longer than the calls themselves
PATIENCE = 3.0  # seconds that reaching a position may take
SLOW, LONGEST, FIRST = 0.15, 8192, 256
REPEATS = 4
GROWTH = 1.3  # limit of --strict. Rounding and a noisy machine leave constant steps and linear growth below it

Clock = Callable[[], float]


def parameters(subject: Subject) -> Result:
    """Parameters of the whole model and of its layers. A shared parameter counts once."""
    model = subject.model()
    total = sum(p.numel() for p in model.parameters())
    layers = mixers(model)
    own = sum(p.numel() for layer in layers for p in layer.parameters())
    return measured("parameters", total, f"{own:,} of them are in {len(layers)} layers" if layers else "")


def output_ratios(subject: Subject) -> Result:
    """How much the mixer of each block adds to the residual stream at the start: RMS of its output over the residual's.

    Far below 1 the layer is hardly heard at first. Far above 1 it drowns the embeddings.
    """
    name = "mixer output / residual, first block"
    model = subject.model(awake=False)
    found = model.output_ratios(subject.tokens(subject.batch, min(129, subject.longest)))
    if found is None:
        return skipped(name, NO_MIXER)
    blocks = ", ".join(f"{ratio:.2g}" for ratio in found["mixer"])
    return measured(name, found["mixer"][0], f"RMS, at --embed_std {subject.args.embed_std:g}; all blocks: {blocks}")


def fair(subject: Subject):
    """How many differences `--fair` leaves, and which. Without --fair there is no row."""
    found = subject.args and fair_differences(subject.model(), subject.args)
    if found is not None:
        yield measured("differences under --fair", len(found), "; ".join(found))


def decoding(subject: Subject, clock: Clock = time.perf_counter):
    """Bytes of the live state of one row after 128 and 4,096 tokens, and the median time of a step at both positions.

    The timed steps at the two positions alternate.
    """
    model = subject.model(max_len=FAR)
    replay = model.cache_kind() == "replay"
    far = min(FAR if not replay else REPLAY_FAR, model.max_len or FAR)
    if far <= NEAR:
        yield skipped("state bytes", f"the model takes {far} tokens at most")
        return
    sizes = []
    with torch.no_grad():
        for position in (NEAR, far):
            run = _Decoding(subject, model, position, 1, clock)
            for _ in range(TIMED):
                run.step()
            note = "" if run.position in (NEAR, FAR) else f", measured no later because {_why(model, replay, far)}"
            sizes.append(state_bytes(run.state))
            yield measured(f"state bytes at T = {run.position:,}", sizes[-1], "live tensors of one row" + note)
        yield measured(
            f"state at {run.position:,} / state at {NEAR}",
            sizes[1] / sizes[0] if sizes[0] else 1.0,
            "the state has the same size at both" if sizes[0] == sizes[1] else "bytes of the state of one row",
            limit=GROWTH,
        )
        runs = [_Decoding(subject, model, position, ROWS, clock) for position in (NEAR, run.position)]
        for _ in range(TIMED):
            for run in runs:
                run.seconds.append(_timed(subject.device, run.step, clock))
    near, late = (statistics.median(run.seconds[WARM_UP:]) for run in runs)
    yield measured(
        f"step at {runs[1].position:,} / step at {NEAR}",
        late / near,
        f"{1e3 * near:.2f} ms at {NEAR}, {1e3 * late:.2f} ms at {runs[1].position:,}, batch {ROWS}",
        limit=GROWTH,
    )
    yield _all_finite("long decoding, not finite", {run.at: run.broken() for run in runs}, "logits")


def _all_finite(name: str, counts: dict[int, int], what: str) -> Result:
    """Pass where no value was NaN or infinite.  counts: {tokens: how many were}."""
    bad = [n for n, count in counts.items() if count]
    return judged(
        name,
        sum(counts.values()),
        0,
        f"all {what} are finite up to T = {max(counts):,}",
        f"{what} are NaN or infinite from T = {min(bad, default=0):,} on",
    )


def _why(model, replay: bool, far: int) -> str:
    """Why no later position was measured."""
    if replay:
        return "replay is slow"
    if far == model.max_len:
        return f"the position table has {model.max_len} tokens"
    return f"a later one takes more than {PATIENCE:g} s"


class _Decoding:
    """A decoding of some rows, brought to TIMED steps before `position`, or as far as PATIENCE allows."""

    def __init__(self, subject: Subject, model, position: int, rows: int, clock: Clock):
        self.model, self.seconds = model, []
        self.x = subject.tokens(rows, position)
        self.state = model.init_state(rows, position)
        self.at, began = 0, clock()
        while self.at < position - TIMED and clock() - began < PATIENCE:
            end = min(self.at + PIECE, position - TIMED)
            self.logits, self.state = model.prefill(self.x[:, self.at : end], self.state)
            self.at = end
        self.position = self.at + TIMED

    def step(self) -> None:
        self.logits, self.state = self.model.step(self.x[:, self.at], self.state)
        self.at += 1

    def broken(self) -> int:
        """How many of the last logits are NaN or infinite."""
        return not_finite([self.logits])


def exponents(subject: Subject, clock: Clock | None = None):
    """Growth with T of the time of a training step, and of the bytes that its forward pass keeps for the backward pass.

    clock: None for the CPU time of this process, to which other processes add nothing, or for time.perf_counter on a
    GPU.
    """
    without_mlp = {} if issubclass(subject.model_class, ARModel) else {"dim_ffn": 0}
    model = subject.model(max_len=LONGEST, **without_mlp).train()
    most = min(LONGEST, model.max_len or LONGEST)
    if most < FIRST:
        yield skipped("exponents in T", f"the model takes {most} tokens at most")
        return
    on_cpu = subject.device.type == "cpu"
    clock = clock or (time.process_time if on_cpu else time.perf_counter)

    broken: dict[int, int] = {}

    def seconds(length: int) -> float:
        x, logits = subject.tokens(ROWS, length), []
        model.zero_grad(set_to_none=True)

        def train() -> None:
            logits.append(model(x))
            logits[0].float().logsumexp(-1).mean().backward()

        taken = _timed(subject.device, train, clock)
        if length not in broken:
            broken[length] = not_finite([*logits, *(p.grad for p in model.parameters())])
        return taken

    best = _best_seconds(seconds, most)
    lengths = list(best)
    at = f"T = {', '.join(f'{n:,}' for n in lengths)}"
    yield measured(
        "time exponent in T",
        slope(best),
        f"{at}; the longest takes {1e3 * best[lengths[-1]]:.3g} ms{' of CPU time' * on_cpu}",
        limit=GROWTH,
    )
    kept = {n: kept_bytes(functools.partial(model, subject.tokens(ROWS, n)), model.parameters()) for n in lengths}
    yield measured(
        "memory exponent in T",
        slope(kept),
        f"{at}; the longest keeps {kept[lengths[-1]] / 2**20:.3g} MiB for backward",
        limit=GROWTH,
    )
    yield _all_finite("long passes, not finite", broken, "logits and gradients")


def _best_seconds(seconds: Callable[[int], float], most: int) -> dict[int, float]:
    """{length: least seconds of REPEATS} for three lengths that double, the last one slow or the longest possible."""
    seconds(FIRST)
    lengths = [FIRST // 4, FIRST // 2, FIRST]
    while lengths[-1] * 2 <= most and min(seconds(lengths[-1]) for _ in range(2)) < SLOW:
        lengths = [*lengths[1:], lengths[-1] * 2]
    rounds = [[seconds(n) for n in lengths] for _ in range(REPEATS)]
    # The least of several, because noise only adds time.
    return {n: min(found) for n, found in zip(lengths, zip(*rounds, strict=True), strict=True)}


def _timed(device, action: Callable[[], None], clock: Clock) -> float:
    """Seconds of one call."""
    _sync(device)
    began = clock()
    action()
    _sync(device)
    return clock() - began


def _sync(device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def slope(values: dict[int, float]) -> float:
    """Least-squares slope of log value against log T."""
    xs, ys = [math.log(n) for n in values], [math.log(max(v, 1e-12)) for v in values.values()]
    return statistics.linear_regression(xs, ys).slope
