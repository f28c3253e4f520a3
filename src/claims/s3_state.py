"""Non-linear state tracks S3, the smallest group that does not commute; attention and positive eigenvalues do not.

Z2 x Z2 is the control: as many generators, but every product commutes. Its scores are in the table of the claim. The
rule does not use them. The measure is the mean over lengths beyond training.
"""

from __future__ import annotations

from src.claims.contract import REPRODUCED, SMALL, Claim, Trainings
from src.claims.rules import Ahead, Below, Reaches

S3 = "word_problem --group s3 --max_len 16"
CONTROL = "word_problem --group z2xz2 --max_len 16"
TRACKS, LOSES = ("gru", "lstm"), ("transformer", "gla", "deltanet")

CLAIM = Claim(
    key="s3_state",
    statement="GRU and LSTM track the group S3; attention and layers with positive eigenvalues do not.",
    source="Merrill et al. 2024, arXiv:2404.08819; Grazzi et al. 2024, arXiv:2411.12537",
    published="permutation groups: recurrent networks 100 % beyond training, attention and Mamba fail beyond it",
    rule=(
        Ahead(TRACKS, LOSES, least=0.2, measure="at_mean", task=S3),
        Reaches(TRACKS, 0.9, measure="at_mean", task=S3),
        Below(LOSES, 0.8, measure="at_mean", task=S3),
    ),
    predicted=REPRODUCED,
    minutes=5,
    trainings=(
        Trainings(
            "groups",
            (
                *SMALL,
                *("--task", S3, CONTROL, "--eval_lengths", "24,32", "--batch_chars", "1024"),
                *("--model", *TRACKS, *LOSES, "--pos", "none", "--embed_std", "1"),
            ),
            steps=600,
            seeds=3,
        ),
    ),
    rows=((S3, "s3"), (CONTROL, "z2xz2")),
    models=(*TRACKS, *LOSES),
    note="The control, Z2 x Z2, is in the table. The rule does not use it.",
)
