"""A decay favours recent characters, which is what text needs. The same pair of layers as in decay_recall."""

from __future__ import annotations

from src.claims.contract import REPRODUCED, SMALL, Claim, Trainings
from src.claims.rules import Ahead

FIXED, NONE = "linear_attention --short_conv 4 --decay fixed", "linear_attention --short_conv 4"

CLAIM = Claim(
    key="decay_language",
    statement="A decay lowers the loss of linear attention on Tiny Shakespeare.",
    source="Sun et al. 2023, RetNet, arXiv:2307.08621; Yang et al. 2023, GLA, arXiv:2312.06635",
    published="no number quoted here: both papers report a higher perplexity without the decay",
    rule=(Ahead((FIXED,), (NONE,), least=0.01, measure="test_loss"),),
    predicted=REPRODUCED,
    minutes=3,
    trainings=(
        Trainings(
            "language",
            (
                *SMALL,
                *("--task", "tiny_shakespeare", "--context_len", "128", "--batch_chars", "2048"),
                *("--model", FIXED, NONE, "--pos", "none"),
            ),
            steps=300,
        ),
    ),
)
