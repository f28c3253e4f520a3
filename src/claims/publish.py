"""From a folder of `claims` to the record of the project and docs/findings.md.

    python -m src.claims.publish runs/claims/full     # take every finished claim of this folder, and write the page
    python -m src.claims.publish                      # write the page, verdicts and figures of what is on record

It writes runs/records/claims: one evidence file per claim, verdicts.json, and figures/. Claims that are not finished in
the folder keep the evidence that is on record. Runs of the quick mode are refused. Wrong input is one line,
exit code 2.
"""

from __future__ import annotations

import sys
from pathlib import Path

from src.claims import known
from src.claims.contract import FULL, QUICK
from src.claims.evidence import read, write
from src.claims.figures import draw, draw_effects
from src.claims.judge import judge
from src.claims.page import Entry, page
from src.claims.rules import Ahead, Grows, Same, is_loss
from src.claims.runs import EVIDENCE, definition
from src.claims.table import CLAIMS
from src.flags.fields import UserError
from src.flags.parser import Parser, report_error
from src.storage.files import seal, write_atomic, write_json
from src.study.records import PROJECT

PAGE = PROJECT / "docs" / "findings.md"


def take(folder: Path) -> list[str]:
    """Copy the finished claims of a folder into the record; returns their keys. UserError where there are none."""
    taken = []
    for claim in CLAIMS:
        path = folder / claim.key / EVIDENCE
        if not path.is_file():
            continue
        found = read(path, claim.key)
        if found.mode == QUICK:
            raise UserError(f"'{path}': got runs of the quick mode, allowed: those of the full one")
        if found.machine.get("definition") != definition(claim, FULL):
            print(f"notice: {claim.key} was run with another definition and is left out", file=sys.stderr)
            continue
        known.FOLDER.mkdir(parents=True, exist_ok=True)
        write(known.FOLDER / f"{claim.key}.json", claim.key, found)
        taken.append(claim.key)
    if not taken:
        raise UserError(
            f"got '{folder}', allowed: a folder of `claims` with a finished claim, such as runs/claims/full"
        )
    return taken


def on_record() -> list[Entry]:
    """Every claim with its evidence on record and its verdict."""
    found = [(claim, known.on_record(claim)) for claim in CLAIMS]
    return [(claim, evidence, verdict) for (claim, evidence), verdict in zip(found, judge(found), strict=True)]


def shares() -> list[str]:
    """The claims whose effect is a difference of shares of a score, so that one axis holds them."""
    kinds = (Ahead, Grows, Same)
    return [c.key for c in CLAIMS if isinstance(c.rule[0], kinds) and not is_loss(c.rule[0].measure)]


def publish() -> list[Path]:
    """Write verdicts, figures and the page; returns their paths."""
    table = on_record()
    verdicts = [verdict for _, _, verdict in table]
    known.FOLDER.mkdir(parents=True, exist_ok=True)
    path = known.FOLDER / "verdicts.json"
    write_json(path, seal({"schema": 1, "verdicts": [verdict.as_dict() for verdict in verdicts]}))
    figures = known.FOLDER / "figures"
    drawn = [draw_effects(verdicts, shares(), figures / "effects.png")]
    for claim, evidence, _ in table:
        if evidence is not None:
            drawn += draw(claim, evidence, figures)
    write_atomic(PAGE, page(table).encode("utf-8"))
    return [path, *drawn, PAGE]


def main(argv: list[str]) -> int:
    """Take a folder, where one is named; write the page; print what was written."""
    parser = Parser(prog="python -m src.claims.publish", description=__doc__)
    parser.add_argument(
        "folder", metavar="FOLDER", nargs="?", default="", help="a folder of `claims`, such as runs/full"
    )
    try:
        given = parser.parse_strict(argv)
        taken = take(Path(given.folder)) if given.folder else []
        paths = publish()
    except UserError as error:
        report_error(error)
        return 2
    print("\n".join([*(f"taken: {key}" for key in taken), *map(str, paths)]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
