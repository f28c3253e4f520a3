"""A recurrent network with a non-linear state solves parity at every length; attention falls to chance beyond."""

from __future__ import annotations

from src.claims.contract import REPRODUCED, Claim, Trainings
from src.claims.rules import Ahead, Below, Reaches

CLAIM = Claim(
    key="parity_attention",
    statement="A GRU solves parity at four times the training length; attention is near chance there.",
    source="Deletang et al. 2023, arXiv:2207.02098; Grazzi et al. 2024, arXiv:2411.12537",
    published="lengths 41-500, best of 10 seeds: RNN 100 %, LSTM 100 %, Transformer encoder 52 %",
    rule=(
        Ahead(("gru",), ("transformer",), least=0.3, measure="at_160"),
        Reaches(("gru",), 0.95, measure="at_160"),
        Below(("transformer",), 0.6, measure="at_160"),
    ),
    predicted=REPRODUCED,
    minutes=6,
    trainings=(
        Trainings(
            "parity",
            ("--preset", "grazzi-parity-mini", "--model", "gru,transformer"),
            steps=400,
            seeds=5,
            rates=(),
            extend=2,
        ),
    ),
    stored="findings/parity",
    figure=("findings/figures/parity.png", "Accuracy against length"),
)
