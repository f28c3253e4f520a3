"""The rows of one `speed` command that several claims about cost read. It is run once, alone on the machine.

    rows = panel_rows(home, mode)       # of transformer and of layers whose cost should be linear in T

UserError where it failed. Its folder is beside those of the claims, so the second claim finds it finished.
"""

from __future__ import annotations

from pathlib import Path

from src.claims.contract import QUICK
from src.flags.fields import UserError

ATTENTION = "transformer"
LINEAR = ("linear_attention", "gla", "gated_deltanet", "mamba", "gru")
LENGTHS = {"full": (128, 256, 512, 1024, 2048, 4096), QUICK: (128, 256, 512, 1024)}
BATCH = 2  # sequences per step at every length: with fewer at a greater length, a recurrence loses what it does at once
FOLDER = "panels"
SECONDS = 120.0  # a guess, for the line that says what is left


def words_of(mode: str) -> tuple[str, ...]:
    """The command line of `speed`."""
    return (
        *("speed", "--model", ",".join((ATTENTION, *LINEAR)), "--panel", "train,memory"),
        *("--lengths", ",".join(map(str, LENGTHS[mode])), "--train_batch", str(BATCH)),
        *("--cell_seconds", "0.5" if mode == QUICK else "1.5"),
        *("--d_model", "64", "--n_layer", "2", "--n_head", "4", "--threads", "1", "--precision", "fp32"),
    )


def panel_rows(home: Path, mode: str) -> list[dict]:
    """The rows of the finished command, which is run where it is missing. home: the folder of all claims of a mode."""
    from src.storage.record import Record
    from src.study.parts import Parts, one_by_one
    from src.study.plan import Part, TimeLeft

    home.mkdir(parents=True, exist_ok=True)
    part = Part("panels", FOLDER, words_of(mode), SECONDS)
    work = Parts([part], home, True, one_by_one)
    work.run(TimeLeft(True))
    for why in work.failed.values():
        raise UserError(f"claims: {why}; the same command tries it again")
    return Record(home / FOLDER).read_rows()
