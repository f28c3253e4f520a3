"""The evidence that the project has on record, per claim.

    evidence = on_record(claim)         # None where its runs are not on record

A claim's own runs are in runs/records/claims/<claim>.json. Where there are none, the card's baselines may hold them, or
an older record (`Claim.stored`) may. Those runs were made before the rule was written, and the verdict says so.
"""

from __future__ import annotations

from pathlib import Path

from src.claims.baselines import of_baselines
from src.claims.contract import FULL, Claim, Evidence
from src.claims.evidence import of_record, read
from src.study.records import PROJECT

RECORDS = PROJECT / "runs" / "records"
FOLDER = RECORDS / "claims"
OLDER = "runs older than the rule"


def on_record(claim: Claim, folder: Path = FOLDER, records: Path = RECORDS) -> Evidence | None:
    """The evidence of a claim; None where there is none. UserError for a record that was edited or is damaged."""
    path = folder / f"{claim.key}.json"
    if path.is_file():
        return read(path, claim.key)
    found = of_baselines(claim)
    if found is not None:
        return found
    if claim.stored:
        record, _, name = claim.stored.partition("/")
        return of_record(records / record, name, FULL, OLDER)
    return None
