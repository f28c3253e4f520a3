"""Attention solves recall at a width at which linear attention without a short convolution does not."""

from __future__ import annotations

from src.claims.contract import REPRODUCED, Claim, Trainings
from src.claims.rules import Ahead, Below, Reaches

CLAIM = Claim(
    key="recall_attention",
    statement="Attention solves recall of 16 pairs where linear attention without a short convolution does not.",
    source="Arora et al. 2023, Zoology, arXiv:2312.04927, Figure 2",
    published="(256, 16), width 64: attention 1.00; gated convolutions and RWKV-4 .05 to .15",
    rule=(
        Ahead(("transformer",), ("linear_attention",), least=0.5),
        Reaches(("transformer",), 0.95),
        Below(("linear_attention",), 0.5),
    ),
    predicted=REPRODUCED,
    minutes=6,
    trainings=(
        Trainings(
            "recall",
            ("--preset", "zoology-256-16-mini", "--model", "transformer,linear_attention"),
            steps=600,
            seeds=5,
            rates=(),
            extend=2,
        ),
    ),
    stored="findings/recall",
    figure=("findings/figures/recall.png", "Accuracy against the distance to the value"),
)
