"""A key that gets a new value: the delta rule erases the old one, a sum keeps both.

All layers have a short convolution, so that plain recall is possible for each. Plain recall is the control.
"""

from __future__ import annotations

from src.claims.contract import REPRODUCED, SMALL, Claim, Trainings
from src.claims.rules import Ahead, Reaches

REBIND = "recall --n_pairs 6 --rebind 6 --vocab 32 --context_len 40"
PLAIN = "recall --n_pairs 6 --vocab 32 --context_len 40"
DELTA, SUMS = ("deltanet",), ("linear_attention --short_conv 4", "gla --short_conv 4")

CLAIM = Claim(
    key="rebind_delta",
    statement="Recall of keys that are bound again needs the delta rule; layers that add keep the old value.",
    source="Schlag et al. 2021, arXiv:2102.11174; Yang et al. 2024, arXiv:2406.06484",
    published="no single number: with keys that repeat, the delta rule has a far lower error than sums",
    rule=(
        Ahead(DELTA, SUMS, least=0.1, task=REBIND),
        Reaches(DELTA, 0.9, task=REBIND),
        Reaches(SUMS, 0.8, task=PLAIN),
    ),
    predicted=REPRODUCED,
    minutes=5,
    trainings=(
        Trainings(
            "rebind",
            (
                *SMALL,
                *("--task", REBIND, PLAIN, "--model", *DELTA, *SUMS, "--pos", "none", "--batch_chars", "2048"),
            ),
            steps=400,
            seeds=4,
            rates=(3e-3, 1e-2),
        ),
    ),
    note="Of the layers that add, gla has a decay gate, which may also forget.",
)
