"""`benchmark.py claims`: published findings, each derived again by one command.

    python benchmark.py claims list                      the claims, their time, and the verdict on record
    python benchmark.py claims parity_delta s3_state     run these two
    python benchmark.py claims --quick                   all of them, with one seed and half the steps
    python benchmark.py claims frontier                  recall against bytes of state, with its figure

Each claim has a rule that was written before its runs. It is reproduced, contradicted or undecided, with its effect,
its 95 % interval and its seeds. Holm's correction covers the whole table: claims that are not run again count with what
the project has on record (docs/findings.md). The quick mode says at most what the runs point to. A finished claim in
--out_dir is not run again, nor is one whose runs are recorded baselines of the card; after Ctrl-C the same command goes
on.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from src.flags.fields import UserError, option
from src.flags.parser import Parser, add_flags, config_of, read_flags

LIST = "list"


@dataclass(frozen=True)
class ClaimsConfig:
    """flags"""

    quick: bool = option(False, "one seed and half the steps; the verdict is at most what the runs point to")
    out_dir: str = option("runs/claims", "folder of the runs; finished claims in it are kept")
    workers: int = option(0, "trainings at the same time; 0 = as many as cores", least=0, most=4096)
    plan: bool = option(False, "print what would be run and how long it takes, and stop")
    quiet: bool = option(False, "no table, only the folder")


def main(argv: list[str]) -> int:
    """List, or run, claims. Wrong input is found before the first file is written."""
    parser = Parser(prog="benchmark.py claims", description=__doc__)
    parser.add_argument("claim", metavar="ID", nargs="*", default=[], help="list, or claims to run; default: all")
    add_flags(parser, ClaimsConfig, ClaimsConfig.__doc__)
    if {"-h", "--help"} & set(argv):
        parser.print_help()
        return 0
    namespace = parser.parse_strict(argv)
    config = config_of(ClaimsConfig, read_flags(namespace, [ClaimsConfig]))
    from src.claims.table import CLAIMS, named

    keys = list(dict.fromkeys(namespace.claim))
    if LIST in keys:
        if len(keys) > 1:
            raise UserError(f"claims: got '{LIST}' and '{next(k for k in keys if k != LIST)}', allowed: one of the two")
        return show_list()
    return run(argv, [named(key) for key in keys] or list(CLAIMS), config)


def show_list() -> int:
    """One line per claim: key, minutes of the full mode, verdict on record, statement."""
    from src.claims.table import CLAIMS

    verdicts = recorded()
    width = max(len(claim.key) for claim in CLAIMS)
    for claim in CLAIMS:
        word = verdicts[claim.key].word
        print(f"{claim.key.ljust(width)}  {claim.minutes:>3.0f} min  {word.ljust(12)}  {claim.statement}")
    return 0


def recorded() -> dict:
    """{key: the verdict on record} of every claim."""
    from src.claims.judge import judge
    from src.claims.known import on_record
    from src.claims.table import CLAIMS

    return {verdict.claim: verdict for verdict in judge([(claim, on_record(claim)) for claim in CLAIMS])}


def run(argv: list[str], claims: list, config: ClaimsConfig) -> int:
    """Run claims one after the other, and print their verdicts; returns the exit code."""
    from src.claims.contract import FULL, QUICK
    from src.claims.judge import judge
    from src.claims.known import on_record
    from src.claims.runs import carry_out, finished
    from src.claims.table import CLAIMS
    from src.measure.session import continuing
    from src.storage.files import make_writable

    mode = QUICK if config.quick else FULL
    home = Path(config.out_dir) / mode
    rest = [claim for claim in CLAIMS if claim not in claims] if mode == FULL else []
    others = [(claim, on_record(claim)) for claim in rest]
    full = recorded() if mode == QUICK else {}
    known = {claim.key: finished(claim, home, mode) for claim in claims}
    missing = [claim for claim in claims if known[claim.key] is None]
    if not config.plan:
        make_writable(home)
    if config.plan or not config.quiet:
        print("\n".join(plan_lines(missing, len(claims), mode)), file=sys.stdout if config.plan else sys.stderr)
    if config.plan:
        return 0
    found, failed = [], 0
    for claim in claims:
        if claim in missing and not config.quiet:
            print(f"{claim.key}: {claim.statement}", file=sys.stderr, flush=True)
        try:
            found.append((claim, known[claim.key] or carry_out(claim, home, mode, config.workers)))
        except KeyboardInterrupt:
            print(f"interrupted; continue with: {continuing('claims', argv, config.out_dir)}", file=sys.stderr)
            return 130
        except UserError as error:
            print(f"error: {claim.key}: {error}", file=sys.stderr)
            found.append((claim, None))
            failed += 1
    verdicts = judge([*found, *others])[: len(found)]
    write(home, found, verdicts)
    if not config.quiet:
        print("\n".join(line_of(verdict, full.get(verdict.claim)) for verdict in verdicts))
    print(home)
    return 1 if failed else 0


def line_of(verdict, full=None) -> str:
    """'parity_delta: reproduced: ...', and where the runs come from if this command did not make them.

    full: of the quick mode, the verdict on record, whose runs took all steps.
    """
    from src.claims.baselines import ORIGIN

    origin = f"; {verdict.origin}" if verdict.origin == ORIGIN else ""
    return f"{verdict.claim}: {verdict.words}{origin}{f'; full runs on record: {full.word}' if full else ''}"


def plan_lines(missing: list, total: int, mode: str) -> list[str]:
    """What is to be run, and how long it may take on two cores."""
    from src.claims.contract import QUICK
    from src.measure.progress import words as time_words

    minutes = sum(claim.minutes * (quick_share(claim) if mode == QUICK else 1) for claim in missing)
    kept = f"; {total - len(missing)} finished before, or recorded for the card" if len(missing) < total else ""
    noun = f"{len(missing)} claim{'s' * (len(missing) != 1)}"
    head = f"{noun} to run ({mode}), about {time_words(60 * minutes)} on two free cores{kept}"
    return [head, *(f"  {claim.key}: {claim.statement}" for claim in missing)]


def quick_share(claim) -> float:
    """The share of the full mode's time that the quick mode takes: one seed instead of several, half the steps."""
    if not claim.trainings:
        return 0.5
    full = sum(len(t.rates or (0,) * 4) + t.seeds for t in claim.trainings)
    quick = sum((len(t.rates) or 3) + 1 for t in claim.trainings)
    return 0.5 * quick / full


def write(home: Path, found: list, verdicts: list) -> None:
    """verdicts.json, and the figure of each claim that has one to draw."""
    from src.claims.figures import draw
    from src.storage.files import seal, write_json

    write_json(home / "verdicts.json", seal({"schema": 1, "verdicts": [v.as_dict() for v in verdicts]}))
    for claim, evidence in found:
        if evidence is not None:
            draw(claim, evidence, home / claim.key)
