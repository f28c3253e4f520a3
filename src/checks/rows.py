"""The names of the rows that each check gives. They are the same whether the check passes, is skipped or raises.

A check is named by its function. tests/checks/test_row_names.py compares this table with what every check gives.
"""

from __future__ import annotations

from src.checks import cost

ROWS: dict[str, tuple[str, ...]] = {
    "changed_tokens": ("changed tokens", "changed tokens in train mode"),
    "under_autocast": ("changed tokens under autocast",),
    "shorter_sequence": ("shortened sequence",),
    "gradient": ("gradient of later inputs",),
    "cache": ("cache",),
    "steps_from_empty": ("steps from an empty state",),
    "steps_after_prefill": ("steps after a prefill",),
    "prefill_into_state": ("prefill into a used state",),
    "long_steps": ("steps from an empty state, long",),
    "long_prefills": ("prefill into a used state, long",),
    "other_rows": ("other rows changed", "other rows changed in train mode"),
    "other_rows_decoded": ("other rows changed in decoding",),
    "row_alone": ("row alone, or in a batch",),
    "padding": ("padding",),
    "earlier_calls": ("earlier calls", "earlier calls in train mode"),
    "two_decodings": ("two decodings by turns",),
    "training_after_inference": ("training after inference",),
    "odd_lengths": ("one token, odd lengths",),
    "width_8": ("width 8",),
    "one_head": ("one head",),
    "batch_1": ("batch of one",),
    "longer_than_trained": ("longer than trained",),
    "bf16_forward": ("bf16 forward",),
    "bf16_decoding": ("bf16 decoding",),
    "bf16_gradients": ("bf16 gradients, not finite",),
    "extreme_embeddings": ("embeddings x 100, not finite", "embeddings zero, not finite"),
    "extreme_inputs": (
        "layer inputs x 10, not finite",
        "layer inputs zero, not finite",
        "layer inputs x 100, not finite",
    ),
    "one_repeated_token": ("one repeated token, not finite",),
    "differences_float64": ("gradients, float64",),
    "float32": ("gradients, float32",),
    "long_sequence": ("gradients, long sequence",),
    "every_parameter": ("parameters with a gradient not finite", "parameters without a gradient"),
    "forward_twice": ("forward repeated", "forward repeated at dropout 0.5"),
    "decoding_twice": ("decoding repeated", "decoding repeated at dropout 0.5"),
    "other_modes": ("inference_mode, no_grad, gradients",),
    "reseeding": ("generators reset by __init__", "generators reset by forward"),
    "growth": ("bytes that each call adds",),
    "other_hashes": ("tensors that PYTHONHASHSEED changes",),
    "backward_twice": ("backward repeated",),
    "same_seed": ("tensors that a seed leaves open",),
    "save_and_load": ("saved and loaded",),
    "initialisation": ("initialisation in the backbone",),
    "parameters": ("parameters",),
    "output_ratios": ("mixer output / residual, first block",),
    "fair": ("differences under --fair",),
    "decoding": (
        f"state bytes at T = {cost.NEAR:,}",
        f"state bytes at T = {cost.FAR:,}",
        f"state at {cost.FAR:,} / state at {cost.NEAR}",
        f"step at {cost.FAR:,} / step at {cost.NEAR}",
        "long decoding, not finite",
    ),
    "exponents": ("time exponent in T", "memory exponent in T", "long passes, not finite"),
}
