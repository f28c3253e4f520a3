"""The delta rule solves parity only if its transitions have negative eigenvalues."""

from __future__ import annotations

from src.claims.contract import REPRODUCED, Claim, Trainings
from src.claims.rules import Ahead, Below, Reaches

CLAIM = Claim(
    key="parity_delta",
    statement="Negative eigenvalues let the delta rule solve parity at four times the training length.",
    source="Grazzi et al. 2024, arXiv:2411.12537",
    published="scaled accuracy, best of 3 seeds: DeltaNet [0, 1] .02, DeltaNet [-1, 1] 1.0",
    rule=(
        Ahead(("deltanet --neg_eigen",), ("deltanet",), least=0.3, measure="at_160"),
        Reaches(("deltanet --neg_eigen",), 0.95, measure="at_160"),
        Below(("deltanet",), 0.7, measure="at_160"),
    ),
    predicted=REPRODUCED,
    minutes=6,
    trainings=(
        Trainings(
            "eigen",
            ("--preset", "grazzi-parity-mini", "--model", "deltanet", "deltanet --neg_eigen"),
            steps=400,
            seeds=5,
            rates=(),
            extend=2,
        ),
    ),
    stored="findings/eigen",
)
