"""Two attention layers can copy what followed the last occurrence of a character; one layer cannot look twice."""

from __future__ import annotations

from src.claims.contract import REPRODUCED, SMALL, Claim, Trainings
from src.claims.rules import Ahead, Below, Reaches

ONE, TWO = "transformer --n_layer 1", "transformer --n_layer 2"

CLAIM = Claim(
    key="induction_layers",
    statement="Two attention layers form induction heads; one layer does not.",
    source="Olsson et al. 2022, arXiv:2209.11895; Elhage et al. 2021, Mathematical Framework for Transformer Circuits",
    published="induction heads appear in models of two layers and more, and never in models of one layer",
    rule=(Ahead((TWO,), (ONE,), least=0.2), Reaches((TWO,), 0.7), Below((ONE,), 0.6)),
    predicted=REPRODUCED,
    minutes=3,
    trainings=(
        Trainings(
            "layers",
            (
                *SMALL,
                *("--task", "induction --mode repeat --min_period 4 --max_period 12", "--context_len", "32"),
                *("--model", ONE, TWO, "--pos", "learned", "--match_params", "none", "--batch_chars", "2048"),
            ),
            steps=600,
        ),
    ),
)
