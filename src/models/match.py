"""Models of equal size: `--match_params` and `--match_state` solve d_model, and dim_ffn where there is an MLP.

    python benchmark.py --task recall --model mamba --match_params transformer      as many parameters as that model has
    python benchmark.py --task needle --model gla --match_params 250k --match_state 16384

Parameters: those outside embeddings and head (`--match_count layers`), because these two have the size of the
vocabulary and are no part of a layer. `--match_count all` counts them too. Embeddings are the parameters of all
nn.Embedding modules, a learned position table included. The head is the last nn.Linear, if it gives one number per
character of the vocabulary. Where a whole model has no nn.Embedding or no such head, all its parameters are counted,
and a line says so. A model that --match_params names is counted by the same rule.

State: the bytes of a live decoding state after the task's longest sequence, batch 1. Large candidates are sized without
memory, on fake tensors. A layer that cannot run on these is built for real, up to REAL_PARAMETERS. A state that does
not grow with the width is refused. A hybrid and a whole model count as layers without an MLP. What is solved:

    flags             layer with an MLP                                          layer without an MLP
    --match_params    d_model to a multiple of 8, then dim_ffn for the rest      d_model
    --match_state     d_model to a multiple of 8                                 d_model
    both              d_model from the state, dim_ffn from the parameters        refused
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from src.flags.fields import UserError
from src.models.backbone import Backbone, build, resolve_auto
from src.models.contract import ARModel
from src.models.state import OpaqueState, state_after, state_bytes
from src.storage.randomness import kept_random_state

AIM, LIMIT = 0.01, 0.02  # the aim, and the largest error that is accepted, as shares of the target
ROUND = 8  # d_model is a multiple of this where an MLP closes the rest; vector units need it to be fast
WIDEST = 1 << 16
MOST = 1e12  # parameters
SMALL_PARAMETERS = 1 << 22  # of a candidate that is built for real because that is faster: 16 MiB in float32
REAL_PARAMETERS = 1 << 27  # of a candidate that is built for real to size its state: 0.5 GiB in float32
USUAL_WIDTH, FAR = 64, 4  # a state that does not grow from this width to so many times it does not grow with the width
FAKE_LOGGER = "torch._subclasses.fake_tensor"
NARROW = 256  # d_model
NEIGHBOURS = 8  # widths tried on each side of the one that bisection finds
OUTSIDE = " outside embeddings and head"
NOT_FOUND = "no nn.Embedding, or no nn.Linear onto the vocabulary as its last one"


class Counts(NamedTuple):
    """The parameters of a model; shared ones count once, and a tied head as an embedding."""

    total: int
    embedding: int
    layers: int | None  # outside embeddings and head; None where these are not found

    def by(self, rule: str) -> int:
        """The number that `--match_count` compares. rule: "layers" or "all"."""
        return self.total if rule == "all" else self.layers


class Target(NamedTuple):
    """The parameters that a model shall have, how they are counted, and why not as asked (empty: they are)."""

    value: int
    rule: str
    note: str = ""


def count_parameters(model: ARModel, vocab_size: int) -> Counts:
    """The counts of a built model."""
    embedding = {p for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    head = head_of(model, vocab_size)
    every = set(model.parameters())
    layers = None
    if embedding and head is not None:
        layers = _size(every - embedding - set(head.parameters()))
    return Counts(_size(every), _size(embedding), layers)


def head_of(model: ARModel, vocab_size: int) -> nn.Linear | None:
    """The map onto the vocabulary: the backbone's head, or the last nn.Linear of a whole model if it has that width."""
    if isinstance(model, Backbone):
        return model.head
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    return linears[-1] if linears and linears[-1].out_features == vocab_size else None


def _size(parameters) -> int:
    return sum(p.numel() for p in parameters)


def counts(model_class, args, vocab_size: int, max_len: int) -> Counts:
    """The counts of the model of these flags.

    A wide model is counted without memory, unless a layer cannot be built so. A narrow one is built for real, because
    arithmetic on meta tensors imports torch._dynamo, which takes two seconds.
    """
    if args.d_model > NARROW:
        try:
            with torch.device("meta"):
                return count_parameters(build(model_class, vocab_size, args, max_len), vocab_size)
        except UserError:
            raise
        except Exception:  # its __init__ reads the values of a tensor, for example
            pass
    with kept_random_state():
        return count_parameters(build(model_class, vocab_size, args, max_len), vocab_size)


def parameters(model_class, args, vocab_size: int, max_len: int) -> int:
    """All parameters of the model of these flags. A wide model is not allocated."""
    return counts(model_class, args, vocab_size, max_len).total


def decode_state(model_class, args, vocab_size: int, max_len: int, tokens: int) -> int:
    """Bytes of a live decoding state of one sequence after `tokens` tokens, or after the most that the model can take.

    A model of up to SMALL_PARAMETERS is built for real, which is fast. Above that fake tensors size it without memory.
    Where a layer cannot run on them, a model of up to REAL_PARAMETERS is built.
    Raises UserError above that, and OpaqueState for a state that cannot be counted.
    """

    def size(flags) -> int:
        with kept_random_state():
            model = build(model_class, vocab_size, flags, max_len)
            return state_bytes(state_after(model, min(tokens, model.max_len or tokens)))

    number = counts(model_class, args, vocab_size, max_len).total
    if number <= SMALL_PARAMETERS:
        return size(args)
    try:
        # Compiled loops over NumPy arrays cannot run on fake tensors, and no backend changes the size of a state.
        with _quiet(FAKE_LOGGER), FakeTensorMode(allow_non_fake_inputs=True):
            return size(dataclasses.replace(args, backend="eager"))
    except (UserError, OpaqueState):
        raise
    except Exception:  # it reads the values of a tensor, or calls a library that does
        if number > REAL_PARAMETERS:
            raise UserError(
                f"--match_state: the state of {model_class.__name__} can be sized only by building the model, and at "
                f"--d_model {args.d_model} it has {number:,} parameters, allowed: {REAL_PARAMETERS:,}; lower the target"
            ) from None
        return size(args)


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Silence a logger. torch logs an error of a fake tensor with its traceback, also where it is caught."""
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def read_target(text: str, rule: str, mine: Counts, count_named: Callable[[str], Counts]) -> Target:
    """--match_params: a count such as 250000, 250k, 1.5M, else the parameters of the model of that name.

    rule: --match_count.  mine: the counts of the model to be matched, at any size.
    """
    number = read_number(text)
    theirs = count_named(text) if number is None else None
    if number is not None and not 1 <= number < MOST:
        raise UserError(
            f"--match_params: got '{text}', allowed: a count from 1 to 1e12 such as 250000, 250k or 1M, "
            "or a model's name"
        )
    note = ""
    if rule == "layers" and None in (mine.layers, theirs.layers if theirs else 0):
        whose = "this model" if mine.layers is None else text
        rule, note = "all", f"--match_count: all parameters are compared, because {whose} has {NOT_FOUND}"
    return Target(theirs.by(rule) if theirs else round(number), rule, note)


def read_number(text: str) -> float | None:
    """A count such as 250000, 250k or 1.5M; None for other text."""
    scale = {"k": 1e3, "m": 1e6}.get(text[-1:].lower(), 1)
    try:
        return float(text[:-1] if scale > 1 else text) * scale
    except ValueError:
        return None


def match(
    model_class,
    args,
    explicit: dict,
    count: Callable[..., Counts],
    measure: Callable,
    target: Target | None,
    target_state: int,
):
    """(flags with the solved widths, lines that say what changed).

    explicit: the typed flags; a typed d_model or dim_ffn stays.  count, measure: flags -> Counts, flags -> bytes.
    target: None where the parameters are free.  target_state: bytes; 0 where they are free.
    Raises UserError where the nearest size is beyond LIMIT, or where nothing is left to solve.
    """
    before = resolve_auto(model_class, args)
    has_mlp = not issubclass(model_class, ARModel) and not hasattr(model_class, "layers") and before.dim_ffn > 0
    free_mlp = has_mlp and "dim_ffn" not in explicit
    lines, notes = [], []
    if target_state:
        if "d_model" in explicit:
            raise UserError("--d_model and --match_state contradict each other; give one")
        multiple = ROUND if free_mlp else 1
        guess = _guess_width(model_class, args, measure, target_state, multiple)
        width = _solve_width("--match_state", model_class, args, measure, target_state, multiple, guess)
        args = dataclasses.replace(args, d_model=width)
        lines.append(_verdict("--match_state", "bytes of decoding state", target_state, measure(args)))
    if target:
        wanted, rule, note = target

        def size(flags) -> int:
            return count(flags).by(rule)

        if not target_state and "d_model" not in explicit:
            width = _solve_width("--match_params", model_class, args, size, wanted, ROUND if free_mlp else 1)
            args = dataclasses.replace(args, d_model=width)
        elif not free_mlp:
            raise UserError(
                "--match_params: nothing is left to solve, because the width is fixed and the MLP is too or there is "
                "none; leave --d_model or --dim_ffn free"
            )
        if free_mlp:
            args = _solve_mlp(model_class, args, size, wanted)
        got, what = count(args), f"parameters{OUTSIDE if rule == 'layers' else ''}"
        notes = [note] if note else []
        lines.append(_verdict("--match_params", what, wanted, got.by(rule), _other_count(got, rule)))
    after = resolve_auto(model_class, args)
    changed = [
        f"{name} {getattr(before, name)} -> {getattr(after, name)}"
        for name in ("d_model", "dim_ffn")
        if getattr(before, name) != getattr(after, name)
    ]
    return args, [*notes, *(f"{line}; {', '.join(changed) or 'nothing had to change'}" for line in lines)]


def _other_count(got: Counts, rule: str) -> str:
    """The count that was not compared, in words."""
    if rule == "layers":
        return f", {got.total:,} with them"
    return "" if got.layers is None else f", {got.layers:,}{OUTSIDE}"


def _solve_width(flag: str, model_class, args, measure, target: int, multiple: int, guess: float = 0) -> int:
    """The allowed width whose measure is nearest to the target, by bisection: the measure grows with the width.

    Where a layer derives its heads from the width (Mamba-2), it grows only on the whole. So where bisection ends beyond
    AIM, the neighbours are tried too. guess: the width around which the search begins.
    """
    step = _width_step(model_class, args, multiple)

    @functools.cache
    def at(n: int) -> int:
        return measure(dataclasses.replace(args, d_model=n * step))

    low, high, gap = 0, min(max(1, round(guess / step)), WIDEST // step), 1
    if at(high) >= target:
        while high - gap > 0 and at(high - gap) >= target:
            high, gap = high - gap, 2 * gap
        low = max(0, high - gap)
    else:
        while at(high) < target:
            low, high, gap = high, high + gap, 2 * gap
            if high * step > WIDEST:
                raise UserError(f"{flag}: no --d_model up to {WIDEST} reaches {target:,}; lower the target")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if at(middle) < target else (low, middle)
    best = high if low == 0 or at(high) - target <= target - at(low) else low
    if abs(at(best) / target - 1) > AIM:
        best = min(range(max(1, best - NEIGHBOURS), best + NEIGHBOURS + 1), key=lambda n: abs(at(n) - target))
    return step * best


def _width_step(model_class, args, multiple: int) -> int:
    """The smallest allowed width, of which all others are multiples: head sizes stay whole and even."""
    return math.lcm(2 * args.n_head if model_class.has_heads else 1, multiple)


def _guess_width(model_class, args, measure, target: int, multiple: int) -> float:
    """The width whose state has about `target` bytes; UserError for a state that has the same bytes at every width."""
    step = _width_step(model_class, args, multiple)
    width = step * -(-USUAL_WIDTH // step)
    small, large = (measure(dataclasses.replace(args, d_model=n * width)) for n in (1, FAR))
    if large <= small:
        raise UserError(
            f"--match_state: the decoding state of {model_class.__name__} does not grow with --d_model "
            f"({small:,} bytes at {width}, {large:,} at {FAR * width}), so no width is found for {target:,}; leave the "
            "flag out"
        )
    power = math.log(large / max(1, small)) / math.log(FAR)
    return width * (target / max(1, small)) ** (1 / power)


def _solve_mlp(model_class, args, count, target: int):
    """The flags with the MLP's width that brings the parameters to the target.

    Parameters are affine in that width: two maps for gelu, three for swiglu.
    """
    d, hidden = args.d_model, resolve_auto(model_class, args).dim_ffn
    here = dataclasses.replace(args, dim_ffn=hidden)
    slope = count(dataclasses.replace(args, dim_ffn=hidden + 1)) - count(here)
    best = hidden + round((target - count(here)) / slope)
    if best < 1:
        raise UserError(
            f"--match_params: {target:,} parameters leave no MLP at d_model {d}; "
            "give --dim_ffn 0, another --d_model, or a larger target"
        )
    return dataclasses.replace(args, dim_ffn=best)


def _verdict(flag: str, what: str, target: int, got: int, more: str = "") -> str:
    """One line with the size, its error and `more`; UserError where the error is beyond LIMIT."""
    off = got / target - 1
    if abs(off) > LIMIT:
        raise UserError(
            f"{flag}: the nearest possible is {got:,} {what}, {100 * off:+.1f} % off {target:,}, "
            f"allowed: within {100 * LIMIT:g} %; choose another target, or fewer --n_head, "
            f"or leave --d_model and --dim_ffn free{', or give --match_count all' * what.endswith(OUTSIDE)}"
        )
    note = "" if abs(off) <= AIM else f" (beyond the {100 * AIM:g} % aimed at: widths are whole numbers)"
    return f"{flag}: {got:,} {what}, {100 * off:+.2f} % off {target:,}{note}{more}"
