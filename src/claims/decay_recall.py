"""A decay forgets pairs that were written long ago. The same pair of layers as in decay_language."""

from __future__ import annotations

from src.claims.contract import REPRODUCED, SMALL, Claim, Trainings
from src.claims.rules import Ahead, Reaches

FIXED, NONE = "linear_attention --short_conv 4 --decay fixed", "linear_attention --short_conv 4"

CLAIM = Claim(
    key="decay_recall",
    statement="A fixed decay costs linear attention recall when the queries come late.",
    source="Arora et al. 2023, Zoology, arXiv:2312.04927; Arora et al. 2024, Based, arXiv:2402.18668",
    published="no number of this pair: both papers hold that a decay that does not see the input limits recall",
    rule=(Ahead((NONE,), (FIXED,), least=0.05), Reaches((NONE,), 0.8)),
    predicted=REPRODUCED,
    minutes=3,
    trainings=(
        Trainings(
            "recall",
            (
                *SMALL,
                *("--task", "recall --n_pairs 4 --vocab 32 --power_a 1 --min_len 16", "--context_len", "96"),
                *("--model", FIXED, NONE, "--pos", "none", "--batch_chars", "2048"),
            ),
            steps=400,
        ),
    ),
    note=(
        "Here a query comes 24 characters after its pair (the median of the test set) and the slowest head keeps 91 % "
        "over these, so nothing has to be forgotten. The verdict is about these lengths."
    ),
)
