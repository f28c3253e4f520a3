"""Checks a layer of the user's own file in about a second, before it is trained."""

from __future__ import annotations

import dataclasses

from src.flags import registry
from src.flags.fields import UserError
from src.setup.plan import Setup

CONSEQUENCES = {
    "decoding": "decoded answers and samples will be wrong",
    "training": "training will go wrong after a validation",
}


def check_user_model(setup: Setup, model, tokenizer, device) -> tuple[Setup, list[str]]:
    """Check whether a layer of the user's own file is causal, and whether its `step` equals its `forward`.

    Returns the setup and the warnings to print. A layer that is not causal raises UserError, unless --allow_noncausal
    is given. The returned setup has allow_noncausal only where the layer needs it, because figures then say so.
    """
    name, allowed = setup.args.model, setup.args.allow_noncausal
    causal = dataclasses.replace(setup, args=dataclasses.replace(setup.args, allow_noncausal=False))
    if not registry.is_path(name):
        return causal, []
    from src.checks import quick, sees_the_future

    results = quick(model, len(tokenizer), device)
    leaks = sees_the_future(results)
    if leaks and not allowed:
        raise UserError(
            f"--model: '{name}' is not causal: check '{leaks[0].name}' failed, {leaks[0].note}. Allowed: a layer whose "
            f"output at t depends on no later input. Run `python benchmark.py check --model {name}` to see all checks, "
            "or give --allow_noncausal to train it; every figure then says so"
        )
    if leaks:
        return setup, [
            f"warning: {name} sees the future (check '{leaks[0].name}': {leaks[0].note}); "
            "its scores do not measure prediction"
        ]
    return causal, [
        f"warning: {name} fails check '{r.name}' ({r.note}); {CONSEQUENCES[r.group]}; run "
        f"`python benchmark.py check --model {name}` to see all checks"
        for r in results
        if r.status == "fail"
    ][:1]
