"""A quick look at a layer of the user's own file before it is trained."""

from __future__ import annotations

import dataclasses

from src.flags import registry
from src.flags.fields import UserError


def check_user_model(setup, model, tokenizer, device) -> tuple:
    """(setup, lines to print) after a quick look at a layer of the user's own file: does it see the future, and does `step` equal `forward`?

    One that sees the future is a UserError without --allow_noncausal; the setup's allow_noncausal is then true only where it is needed.
    """
    allowed = setup.args.allow_noncausal
    causal = dataclasses.replace(setup, args=dataclasses.replace(setup.args, allow_noncausal=False))
    if not registry.is_path(setup.args.model):
        return causal, []
    from src.checks import quick, sees_the_future

    results = quick(model, len(tokenizer), device)
    leaks = sees_the_future(results)
    if leaks and not allowed:
        raise UserError(
            f"--model: '{setup.args.model}' is not causal ({leaks[0].name}: {leaks[0].note}); see `benchmark.py check --model "
            f"{setup.args.model}`, or give --allow_noncausal, which is then written on every figure"
        )
    if leaks:
        return setup, [
            f"warning: {setup.args.model} sees the future ({leaks[0].name}: {leaks[0].note}); its scores say nothing about prediction"
        ]
    broken = [r for r in results if r.status == "fail"]
    return causal, [
        f"warning: {r.name} fails ({r.note}): decoded answers and samples will be wrong; see `benchmark.py check`"
        for r in broken[:1]
    ]
