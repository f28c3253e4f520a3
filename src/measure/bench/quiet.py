"""Whether figures were measured on a quiet machine, as those of the record have to be. No torch.

check_quiet()             # UserError while other programs compute
words = beside(rows)      # "other programs used up to 1.9 processors beside many, recipe", "" on a quiet machine
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from src.flags.kinds import UserError
from src.utils.load import MARGIN, others_now


def check_quiet() -> None:
    """UserError where other programs use this machine now. A system that does not tell is taken as quiet."""
    others = others_now()
    if (others or 0.0) > MARGIN:
        raise UserError(
            f"--update: got a machine of which other programs use {others:.1f} processors, allowed: at most {MARGIN}; "
            "wait for their end, or leave out --update"
        )


def most(seen: Sequence[float | None]) -> float | None:
    """The largest of several answers of `others_now`; None where the system does not tell."""
    return max((others for others in seen if others is not None), default=None)


def was_busy(row: Mapping) -> bool:
    """Whether other programs used the machine when the calls behind a row began or ended."""
    return (row["settings"].get("others") or 0.0) > MARGIN


def beside(rows: Sequence[Mapping]) -> str:
    """Which items were measured beside other programs, in words; "" where none was."""
    busy = [row for row in rows if was_busy(row)]
    if not busy:
        return ""
    others = max(row["settings"]["others"] for row in busy)
    names = ", ".join(dict.fromkeys(row["panel"] for row in busy))
    return f"other programs used up to {others:.1f} processors beside {names}"
