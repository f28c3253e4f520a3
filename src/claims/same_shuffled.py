"""A control of the method: one layer on twelve seeds that are divided at random. No difference may be shown.

The division was drawn once, before the runs.
"""

from __future__ import annotations

from src.claims.contract import REPRODUCED, SMALL, Claim, Trainings
from src.claims.rules import Same

CLAIM = Claim(
    key="same_shuffled",
    statement="A/A control: a linear attention against itself, its twelve seeds shuffled into two halves.",
    source="this project; Colas et al. 2019, arXiv:1904.06979, on comparisons of one algorithm with itself",
    published="a method at level .05 shows a difference in at most 5 % of such pairs",
    rule=(Same("linear_attention --short_conv 4", (0, 2, 5, 7, 8, 11)),),
    predicted=REPRODUCED,
    minutes=2,
    trainings=(
        Trainings(
            "twelve",
            (
                *SMALL,
                *("--task", "recall --mixture 16:4,32:8 --vocab 64", "--context_len", "32", "--batch_chars", "2048"),
                *("--model", "linear_attention --short_conv 4", "--pos", "none"),
            ),
            steps=150,
            seeds=12,
            rates=(3e-3,),
        ),
    ),
)
