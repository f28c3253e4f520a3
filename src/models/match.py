"""Models of equal size: `--match_params` and `--match_state` solve d_model, and dim_ffn where there is an MLP.

    python benchmark.py --task recall --model mamba --match_params transformer      as many parameters as that model has
    python benchmark.py --task needle --model gla --match_params 250k --match_state 16384

Parameters: all of them, embeddings and head included. State: the bytes of a live decoding state after the task's
longest sequence, batch 1. A hybrid and a whole model count as layers without an MLP. What is solved:

    flags             layer with an MLP                                          layer without an MLP
    --match_params    d_model to a multiple of 8, then dim_ffn for the rest      d_model
    --match_state     d_model to a multiple of 8                                 d_model
    both              d_model from the state, dim_ffn from the parameters        refused
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch

from src.flags.fields import UserError
from src.models.backbone import build, resolve_auto
from src.models.contract import ARModel, state_after, state_bytes

AIM, LIMIT = 0.01, 0.02  # the aim, and the largest error that is accepted, as shares of the target
ROUND = 8  # d_model is a multiple of this where an MLP closes the rest; vector units need it to be fast
WIDEST = 1 << 16


def parameters(model_class, args, vocab_size: int, max_len: int) -> int:
    """Parameters of the model of these flags; shared ones count once. Nothing is allocated."""
    with torch.device("meta"):
        return sum(p.numel() for p in build(model_class, vocab_size, args, max_len).parameters())


def decode_state(model_class, args, vocab_size: int, max_len: int, tokens: int) -> int:
    """Bytes of a live decoding state of one sequence after `tokens` tokens."""
    with torch.random.fork_rng(devices=[]):
        return state_bytes(state_after(build(model_class, vocab_size, args, max_len), tokens))


def read_target(text: str, count_named: Callable[[str], int]) -> int:
    """--match_params: a count such as 250000, 250k, 1.5M, else the parameters of the model of that name."""
    scale = {"k": 1e3, "m": 1e6}.get(text[-1:].lower(), 1)
    try:
        target = float(text[:-1] if scale > 1 else text) * scale
    except ValueError:
        return count_named(text)
    if not 1 <= target < 1e12:
        raise UserError(
            f"--match_params: got '{text}', allowed: a count from 1 to 1e12 such as 250000, 250k or 1M, "
            "or a model's name"
        )
    return round(target)


def match(model_class, args, explicit: dict, count: Callable, measure: Callable, target: int, target_state: int):
    """(flags with the solved widths, lines that say what changed).

    explicit: the typed flags; a typed d_model or dim_ffn stays.  count, measure: flags -> parameters, flags -> bytes.
    target, target_state: parameters and bytes; 0 where it is free.
    Raises UserError where the nearest size is beyond LIMIT, or where nothing is left to solve.
    """
    before = resolve_auto(model_class, args)
    has_mlp = not issubclass(model_class, ARModel) and not hasattr(model_class, "layers") and before.dim_ffn > 0
    free_mlp = has_mlp and "dim_ffn" not in explicit
    lines = []
    if target_state:
        if "d_model" in explicit:
            raise UserError("--d_model and --match_state contradict each other; give one")
        args = dataclasses.replace(
            args, d_model=_solve_width(model_class, args, measure, target_state, ROUND if free_mlp else 1)
        )
        lines.append(_verdict("--match_state", "bytes of decoding state", target_state, measure(args)))
    if target:
        if not target_state and "d_model" not in explicit:
            args = dataclasses.replace(
                args, d_model=_solve_width(model_class, args, count, target, ROUND if free_mlp else 1)
            )
        elif not free_mlp:
            raise UserError(
                "--match_params: nothing is left to solve, because the width is fixed and the MLP is too or there is "
                "none; leave --d_model or --dim_ffn free"
            )
        if free_mlp:
            args = _solve_mlp(model_class, args, count, target)
        lines.append(_verdict("--match_params", "parameters", target, count(args)))
    after = resolve_auto(model_class, args)
    changed = [
        f"{name} {getattr(before, name)} -> {getattr(after, name)}"
        for name in ("d_model", "dim_ffn")
        if getattr(before, name) != getattr(after, name)
    ]
    return args, [f"{line}; {', '.join(changed) or 'nothing had to change'}" for line in lines]


def _solve_width(model_class, args, measure, target: int, multiple: int) -> int:
    """The allowed width whose measure is nearest to the target, by bisection: the measure grows with the width."""
    heads = 2 * args.n_head if model_class.has_heads else 1  # keeps head sizes whole and even
    step = math.lcm(heads, multiple)

    def at(n: int) -> int:
        return measure(dataclasses.replace(args, d_model=n * step))

    high = 1
    while at(high) < target:
        high *= 2
        if high * step > WIDEST:
            raise UserError(f"no --d_model up to {WIDEST} reaches {target:,}; lower the target")
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if at(middle) < target else (low, middle)
    return step * (high if low == 0 or at(high) - target <= target - at(low) else low)


def _solve_mlp(model_class, args, count, target: int):
    """The flags with the MLP's width that brings the parameters to the target. Parameters are affine in that width."""
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


def _verdict(flag: str, what: str, target: int, got: int) -> str:
    """One line with the size and its error; UserError where the error is beyond LIMIT."""
    off = got / target - 1
    if abs(off) > LIMIT:
        raise UserError(
            f"{flag}: the nearest possible is {got:,} {what}, {100 * off:+.1f} % off {target:,}, "
            f"allowed: within {100 * LIMIT:g} %; choose another target, or fewer --n_head, "
            "or leave --d_model and --dim_ffn free"
        )
    note = "" if abs(off) <= AIM else f" (beyond the {100 * AIM:g} % aimed at: widths are whole numbers)"
    return f"{flag}: {got:,} {what}, {100 * off:+.2f} % off {target:,}{note}"
