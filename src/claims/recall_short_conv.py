"""One attention layer cannot compare a key with its neighbour; a short convolution lets it."""

from __future__ import annotations

from src.claims.contract import REPRODUCED, SMALL, Claim, Trainings
from src.claims.rules import Ahead, Below, Reaches

BARE, CONV = "transformer --n_layer 1", "transformer --n_layer 1 --short_conv 4"

CLAIM = Claim(
    key="recall_short_conv",
    statement="A short convolution lets one attention layer recall; one layer without it does not.",
    source="Arora et al. 2024, Based, arXiv:2402.18668; Fu et al. 2022, H3, arXiv:2212.14052",
    published="Zoology's recipe puts a convolution of width 3 before one layer of attention, and reaches 1.00",
    rule=(Ahead((CONV,), (BARE,), least=0.3), Reaches((CONV,), 0.9), Below((BARE,), 0.6)),
    predicted=REPRODUCED,
    minutes=2,
    trainings=(
        Trainings(
            "conv",
            (
                *SMALL,
                *("--task", "recall --mixture 16:4,32:8 --vocab 64", "--context_len", "32", "--batch_chars", "2048"),
                *("--model", BARE, CONV, "--pos", "learned", "--match_params", "none", "--stop_at", "0.99"),
            ),
            steps=400,
        ),
    ),
)
