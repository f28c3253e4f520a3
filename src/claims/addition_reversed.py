"""Written from the units upwards, a digit of a sum depends on the digits before it and a carry; otherwise on all."""

from __future__ import annotations

from src.claims.contract import REPRODUCED, SMALL, Claim, Trainings
from src.claims.rules import Ahead

PLAIN = "addition --n_digits 3 --zero_pad"
REVERSED = "addition --n_digits 3 --zero_pad --reverse_answer"
MODEL = "transformer"

CLAIM = Claim(
    key="addition_reversed",
    statement="Addition is learned sooner when the answer is written from the units upwards.",
    source="Lee et al. 2023, arXiv:2307.03381",
    published="no number quoted here: reversed answers need far fewer examples than plain ones",
    rule=(Ahead((MODEL,), (MODEL,), least=0.1, task=REVERSED, other_task=PLAIN),),
    predicted=REPRODUCED,
    minutes=3,
    trainings=(
        Trainings(
            "order",
            (*SMALL, "--task", PLAIN, REVERSED, "--model", MODEL, "--pos", "learned", "--batch_chars", "2048"),
            steps=600,
        ),
    ),
)
