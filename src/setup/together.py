"""What several seeds that are trained at once must have, or must not have, so that each equals a single run.

check_together(setup, 8, world)              # UserError for flags that cannot be shared by seeds
check_backends_together(backends)
of_seed(setup, 12)                           # the setup of a single run with that seed
"""

from __future__ import annotations

import dataclasses

from src.flags.fields import UserError
from src.flags.run_flags import drop_rate
from src.setup.plan import Setup
from src.utils.distributed import World

MOST_SEED = 2**31 - 1


def of_seed(setup: Setup, seed: int) -> Setup:
    """The same setup with another seed, as if it had been typed."""
    return dataclasses.replace(
        setup, args=dataclasses.replace(setup.args, seed=seed), explicit={**setup.explicit, "seed": seed}
    )


def check_together(setup: Setup, seeds: int, world: World | None = None) -> None:
    """UserError, of one line, for what cannot be equal to single runs, or is not there for several seeds."""
    args = setup.args
    places = {"--dropout": args.dropout} | {f"--{p}_dropout": drop_rate(args, p) for p in ("embed", "attn")}
    dropped = [f"{flag} {rate:g}" for flag, rate in places.items() if rate]
    wrong = {
        "several processes": world is not None and world.size > 1,
        f"{dropped[0]}, whose random numbers would not be those of single runs" if dropped else "": bool(dropped),
        "--precision fp16, whose scale of the loss is one for all": args.precision == "fp16",
        "--compile": args.compile,
        "--micro_batch_size": bool(args.micro_batch_size),
    }
    if found := next((words for words, is_so in wrong.items() if is_so), None):
        way = "--dropout 0" if dropped and found.startswith("--") and "dropout" in found else "leave one of them out"
        raise UserError(f"--seeds_at_once: got {seeds} with {found}, allowed: only without it; {way}")
    if args.seed + seeds - 1 > MOST_SEED:
        raise UserError(
            f"--seed: got {args.seed}, allowed with --seeds_at_once {seeds}: at most {MOST_SEED - seeds + 1}"
        )


def check_backends_together(backends: dict[str, dict]) -> None:
    """UserError for a kernel of this project that takes the numbers of one model alone. backends: of `choices`."""
    for op, choice in backends.items():
        if "triton" in choice["backend"]:
            raise UserError(
                f"--backend: got triton for {op}, allowed with --seeds_at_once: eager, which several models can share"
            )
