"""Non-linear state tracks S3, the smallest group that does not commute; attention and positive eigenvalues do not.

Z2 x Z2 is the control: as many generators, but every product commutes. Its scores are in the table of the claim. The
rule does not use them. The measure is the accuracy at four times the training length. Tasks and flags are those of two
rows of the card's suite. Their recorded runs are the evidence, where they are there.
"""

from __future__ import annotations

from src.claims.contract import REPRODUCED, Claim, Trainings
from src.claims.rules import Ahead, Below, Reaches

S3 = "word_problem --group s3 --context_len 16 --max_len 16 --eval_lengths 64"
CONTROL = "word_problem --group z2xz2 --context_len 16 --max_len 16 --eval_lengths 64"
SUITE = tuple(
    "--n_layer 2 --pos none --embed_std 0.3 --precision fp32 --batch_chars 2048 --warmup_steps 30 --eval_every 50 "
    "--val_size 300 --test_size 1000 --stop_at 0.99 --match_params 100000 --threads 1".split()
)
TRACKS, LOSES = ("gru", "lstm"), ("transformer --pos alibi", "gla", "deltanet")

CLAIM = Claim(
    key="s3_state",
    statement="GRU and LSTM track the group S3; attention and layers with positive eigenvalues do not.",
    source="Merrill et al. 2024, arXiv:2404.08819; Grazzi et al. 2024, arXiv:2411.12537",
    published="permutation groups: recurrent networks 100 % beyond training, attention and Mamba fail beyond it",
    rule=(
        Ahead(TRACKS, LOSES, least=0.2, measure="at_64", task=S3),
        Reaches(TRACKS, 0.9, measure="at_64", task=S3),
        Below(LOSES, 0.8, measure="at_64", task=S3),
    ),
    predicted=REPRODUCED,
    minutes=5,
    trainings=(
        Trainings(
            "groups",
            (*SUITE, "--task", S3, CONTROL, "--model", *TRACKS, *LOSES),
            steps=500,
            seeds=3,
            rates=(2e-3, 6e-3, 2e-2),
        ),
    ),
    rows=((S3, "s3"), (CONTROL, "z2xz2")),
    models=(*TRACKS, *LOSES),
    note=(
        "The rule does not use the control, Z2 x Z2, where all products commute. Attention, gla and deltanet do not "
        "solve it either within these steps, so the runs show that they do not learn S3, and not that its order is why."
    ),
)
