"""A control of the method: one layer against itself, on other seeds. No difference may be shown."""

from __future__ import annotations

from src.claims.contract import REPRODUCED, SMALL, Claim, Trainings
from src.claims.rules import Same

CLAIM = Claim(
    key="same_seeds",
    statement="A/A control: a transformer on six seeds against itself on six others shows no difference.",
    source="this project; Colas et al. 2019, arXiv:1904.06979, on comparisons of one algorithm with itself",
    published="a method at level .05 shows a difference in at most 5 % of such pairs",
    rule=(Same("transformer", (0, 1, 2, 3, 4, 5), measure="at_40"),),
    predicted=REPRODUCED,
    minutes=2,
    trainings=(
        Trainings(
            "twelve",
            (
                *SMALL,
                *(
                    "--task",
                    "parity --min_len 3 --max_len 20",
                    "--context_len",
                    "20",
                    "--eval_lengths",
                    "40",
                    "--batch_chars",
                    "1024",
                ),
                *("--model", "transformer", "--pos", "none", "--embed_std", "1"),
            ),
            steps=200,
            seeds=12,
            rates=(3e-3,),
        ),
    ),
)
