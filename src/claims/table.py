"""The claims, in the order of the tables. A new claim is a file in this folder, and a line here."""

from __future__ import annotations

from src.claims import (
    addition_reversed,
    bf16_steps,
    constant_state,
    copy_positions,
    cost_crossover,
    cost_exponents,
    decay_language,
    decay_recall,
    frontier,
    induction_layers,
    ngram_models,
    parity_attention,
    parity_delta,
    parity_diagonal,
    rebind_delta,
    recall_attention,
    recall_short_conv,
    s3_state,
    same_seeds,
    same_shuffled,
    selective_copy,
)
from src.claims.contract import Claim
from src.flags.fields import UserError, suggest

CLAIMS: tuple[Claim, ...] = (
    recall_attention.CLAIM,
    recall_short_conv.CLAIM,
    parity_attention.CLAIM,
    parity_delta.CLAIM,
    parity_diagonal.CLAIM,
    s3_state.CLAIM,
    induction_layers.CLAIM,
    copy_positions.CLAIM,
    selective_copy.CLAIM,
    rebind_delta.CLAIM,
    decay_language.CLAIM,
    decay_recall.CLAIM,
    addition_reversed.CLAIM,
    frontier.CLAIM,
    ngram_models.CLAIM,
    cost_exponents.CLAIM,
    constant_state.CLAIM,
    cost_crossover.CLAIM,
    bf16_steps.CLAIM,
    same_seeds.CLAIM,
    same_shuffled.CLAIM,
)


def named(key: str) -> Claim:
    """The claim of a key; UserError for an unknown one."""
    for claim in CLAIMS:
        if claim.key == key:
            return claim
    keys = [claim.key for claim in CLAIMS]
    raise UserError(f"claims: got '{key}', allowed: list, or {', '.join(keys)}{suggest(key, keys)}")
