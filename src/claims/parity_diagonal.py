"""A diagonal state space solves parity only if its transitions may be negative."""

from __future__ import annotations

from src.claims.contract import REPRODUCED, SMALL, Claim, Trainings
from src.claims.rules import Ahead, Below, Reaches

CLAIM = Claim(
    key="parity_diagonal",
    statement="Negative eigenvalues let a diagonal model, Mamba, solve parity at four times the training length.",
    source="Grazzi et al. 2024, arXiv:2411.12537",
    published="scaled accuracy, best of 3 seeds: Mamba [0, 1] 0, Mamba [-1, 1] 1.0",
    rule=(
        Ahead(("mamba --neg_eigen",), ("mamba",), least=0.2, measure="at_80"),
        Reaches(("mamba --neg_eigen",), 0.9, measure="at_80"),
        Below(("mamba",), 0.75, measure="at_80"),
    ),
    predicted=REPRODUCED,
    minutes=3,
    trainings=(
        Trainings(
            "diagonal",
            (
                *SMALL,
                *(
                    "--task",
                    "parity --min_len 3 --max_len 20",
                    "--context_len",
                    "20",
                    "--eval_lengths",
                    "80",
                    "--batch_chars",
                    "1024",
                ),
                *("--model", "mamba", "mamba --neg_eigen", "--pos", "none", "--embed_std", "1"),
            ),
            steps=400,
            rates=(3e-3, 1e-2, 3e-2),
        ),
    ),
)
