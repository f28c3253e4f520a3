"""Positions that copy beyond the training length.

A learned table ends at the training length, so its score beyond would be undefined, and the comparison could not be
lost. The task of src/claims/roomy_copy.py gives the table rows for the longer words. They are there, and training
never reaches them.
"""

from __future__ import annotations

from pathlib import Path

from src.claims.contract import REPRODUCED, SMALL, Claim, Trainings
from src.claims.rules import Ahead, Below, Reaches

TASK = str(Path(__file__).with_name("roomy_copy.py"))
FAR = ("transformer --pos alibi", "transformer --pos none")
NEAR = ("transformer --pos learned", "transformer --pos sinusoidal")

CLAIM = Claim(
    key="copy_positions",
    statement="ALiBi or no positions copy beyond the training length; learned or sinusoidal ones do not.",
    source="Jelassi et al. 2024, arXiv:2402.01032; Kazemnejad et al. 2023, arXiv:2305.19466; Press et al. 2021",
    published="no single number: forms of ALiBi copy furthest, learned tables and sinusoids fail beyond training",
    rule=(
        Ahead(FAR, NEAR, least=0.2, measure="at_12"),
        Reaches(FAR, 0.3, measure="at_12"),
        Below(NEAR, 0.1, measure="at_12"),
    ),
    predicted=REPRODUCED,
    minutes=5,
    trainings=(
        Trainings(
            "positions",
            (
                *SMALL,
                *("--task", TASK, "--context_len", "8", "--eval_lengths", "12,16", "--batch_chars", "2048"),
                *("--model", *FAR, *NEAR),
            ),
            steps=600,
            seeds=3,
        ),
    ),
    note=(
        "The runs without positions do not copy at the training length either (0.57 to 0.64 of the words of 8 "
        "letters), at a rate at the edge of the grid. So this verdict is about these runs, not about their positions. "
        "ALiBi alone goes in the published direction."
    ),
    figure=("findings/figures/copy.png", "An older run: exact match against the length of the word"),
)
