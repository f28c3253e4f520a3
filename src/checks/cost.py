"""Cost, measured and not judged: parameters, decoding state, what a step costs late and early, time and memory against T.

Exponents are log-log slopes over three lengths, each twice the one before: 1 is linear, 2 quadratic. The MLP is left out, and the lengths
double until the longest takes SLOW seconds, so that fixed costs do not hide the layer's own growth.
"""

from __future__ import annotations

import functools
import math
import statistics
import time

import torch

from src.checks.base import Subject, measured, mixers, skipped
from src.models.contract import state_bytes
from src.utils.memory import kept_bytes

NEAR, FAR, REPLAY_FAR = 128, 4096, 512
PIECE = 256  # tokens a prefill
TIMED = 40  # steps timed at each position
ROWS = 4  # of what is timed: reading a cache then outweighs the calls, and no length fits the processor's caches while the next does not
PATIENCE = 3.0  # seconds that reaching a position may take
SLOW, LONGEST, FIRST = 0.15, 8192, 256
REPEATS = 4
GROWTH = 1.3  # under --strict: above it neither rounding nor a noisy machine makes a constant step dearer or linear growth steep


def parameters(subject: Subject):
    """Of the whole model and of its layers; a shared one counts once."""
    model = subject.model()
    total = sum(p.numel() for p in model.parameters())
    layers = mixers(model)
    note = (
        f"{sum(p.numel() for layer in layers for p in layer.parameters()):,} in {len(layers)} layers" if layers else ""
    )
    return measured("parameters", total, note)


def _sync(device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _timed(device, action, clock=time.perf_counter) -> float:
    """Seconds of one call by a clock."""
    _sync(device)
    began = clock()
    action()
    _sync(device)
    return clock() - began


class _Decoding:
    """A decoding of some rows that stands TIMED steps before `position`, or as near as patience allows."""

    def __init__(self, subject: Subject, model, position: int, rows: int):
        self.model, self.seconds = model, []
        self.x = subject.tokens(rows, position)
        self.state = model.init_state(rows, position)
        self.at, began = 0, time.perf_counter()
        while self.at < position - TIMED and time.perf_counter() - began < PATIENCE:
            end = min(self.at + PIECE, position - TIMED)
            _, self.state = model.prefill(self.x[:, self.at : end], self.state)
            self.at = end
        self.position = self.at + TIMED

    def step(self) -> None:
        _, self.state = self.model.step(self.x[:, self.at], self.state)
        self.at += 1


def decoding(subject: Subject):
    """Bytes of the live state of one row after 128 and 4,096 tokens; the median time of the last steps there of ROWS rows, taken by turns."""
    model = subject.model(max_len=FAR)
    replay = model.cache_kind() == "replay"
    far = min(FAR if not replay else REPLAY_FAR, model.max_len or FAR)
    if far <= NEAR:
        yield skipped("state bytes", f"the model ends at {far} tokens")
        return
    with torch.no_grad():
        for position in (NEAR, far):
            run = _Decoding(subject, model, position, 1)
            for _ in range(TIMED):
                run.step()
            note = "" if run.position in (NEAR, FAR) else f"; stops there: {'replay' if replay else _why(model, far)}"
            yield measured(
                f"state bytes at T = {run.position:,}", state_bytes(run.state), "live tensors, batch 1" + note
            )
        runs = [_Decoding(subject, model, position, ROWS) for position in (NEAR, run.position)]
        for _ in range(TIMED):
            for run in runs:
                run.seconds.append(_timed(subject.device, run.step))
    near, late = (statistics.median(run.seconds[5:]) for run in runs)
    yield measured(
        f"step at {runs[1].position:,} / step at {NEAR}",
        late / near,
        f"{1e3 * near:.2f} ms at {NEAR}, {1e3 * late:.2f} ms late, batch {ROWS}",
        limit=GROWTH,
    )


def _why(model, far: int) -> str:
    return (
        f"its position table has {model.max_len} tokens"
        if far == model.max_len
        else f"further takes over {PATIENCE:g} s"
    )


def exponents(subject: Subject):
    """Growth with T of a training step's time, and of the bytes that its forward pass keeps for the backward pass."""
    model = subject.model(max_len=LONGEST, dim_ffn=0).train()
    most = min(LONGEST, model.max_len or LONGEST)
    if most < FIRST:
        yield skipped("exponents in T", f"the model ends at {most} tokens")
        return

    on_cpu = subject.device.type == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter  # a CPU's own time: other processes add nothing to it

    def run(length: int) -> float:
        x = subject.tokens(ROWS, length)
        return _timed(subject.device, lambda: model(x).float().logsumexp(-1).mean().backward(), clock)

    run(FIRST)
    lengths = [FIRST // 4, FIRST // 2, FIRST]
    while lengths[-1] * 2 <= most and min(run(lengths[-1]) for _ in range(2)) < SLOW:
        lengths = [*lengths[1:], lengths[-1] * 2]
    seconds = {n: [] for n in lengths}
    for _ in range(REPEATS):
        for n in lengths:
            seconds[n].append(run(n))
    at = f"T = {', '.join(f'{n:,}' for n in lengths)}"
    best = {n: min(s) for n, s in seconds.items()}  # noise only ever adds time
    yield measured(
        "time exponent in T",
        slope(best),
        f"{at}: {1e3 * best[lengths[-1]]:.3g} ms{' of CPU time' * on_cpu}",
        limit=GROWTH,
    )
    kept = {n: kept_bytes(functools.partial(model, subject.tokens(ROWS, n)), model.parameters()) for n in lengths}
    yield measured(
        "memory exponent in T",
        slope(kept),
        f"{at}: {kept[lengths[-1]] / 2**20:.3g} MiB kept for backward",
        limit=GROWTH,
    )


def slope(values: dict[int, float]) -> float:
    """Least-squares slope of log value against log T."""
    xs, ys = [math.log(n) for n in values], [math.log(max(v, 1e-12)) for v in values.values()]
    mx, my = statistics.mean(xs), statistics.mean(ys)
    return sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True)) / sum((x - mx) ** 2 for x in xs)
