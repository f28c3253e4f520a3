"""Carrying out claims: the comparisons and measurements of each, into a folder, one claim after the other.

    evidence = finished(claim, home, mode)               # None: it has to be run
    evidence = carry_out(claim, home, mode, workers)     # KeyboardInterrupt passes on

    home/<claim>/<comparison>/     an ordinary folder of `compare`, which continues where it was left
    home/<claim>/evidence.json     what the verdict rests on, written when all of it is finished
    home/panels/                   the record of `speed` that claims about cost share

A finished claim is not run again, unless its definition has changed since. Nor is one whose runs are those of the card,
as long as the card's recorded baselines are valid.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path

from src.claims.baselines import of_baselines, stale
from src.claims.contract import FULL, Claim, Evidence, Trainings
from src.claims.evidence import of_comparisons, read, write
from src.flags.fields import UserError
from src.storage.files import digest

EVIDENCE = "evidence.json"
INTERRUPTED = 130  # exit code of a comparison that was stopped


def definition(claim: Claim, mode: str) -> str:
    """The digest of what is run, the same in every checkout. The rule and the words of a claim do not count."""
    argv = [[Path(word).name if word.endswith(".py") else word for word in t.argv(mode)] for t in claim.trainings]
    return digest({"argv": argv, "measured": claim.measured(mode) if claim.measured else False})


def finished(claim: Claim, home: Path, mode: str) -> Evidence | None:
    """The evidence of an earlier command in this folder, where it is of the same runs; or that of the card's baselines.

    UserError where either was edited.
    """
    folder = home / claim.key
    if not (folder / EVIDENCE).is_file():
        found = of_baselines(claim) if mode == FULL else None
        return None if found is None or stale(claim) else found
    found = read(folder / EVIDENCE, claim.key)
    is_same = found.mode == mode and found.machine.get("definition") == definition(claim, mode)
    return found if is_same else None


def carry_out(claim: Claim, home: Path, mode: str, workers: int) -> Evidence:
    """Run what is missing of a claim that is not `finished`.

    UserError where a run failed, or the folder holds something else.
    """
    folder = home / claim.key
    folder.mkdir(parents=True, exist_ok=True)
    for training in claim.trainings:
        _compare(training, folder, mode, workers)
    if claim.trainings:
        found = of_comparisons([folder / t.name for t in claim.trainings], mode)
    else:
        found = Evidence(mode, "measured by this command", (), (), claim.measure(folder, mode), _machine())
    machine = {**found.machine, "definition": definition(claim, mode)}
    found = Evidence(found.mode, found.origin, found.cells, found.items, found.numbers, machine)
    write(folder / EVIDENCE, claim.key, found)
    return read(folder / EVIDENCE, claim.key)  # rounded, as every later reader sees it


def _compare(training: Trainings, folder: Path, mode: str, workers: int) -> None:
    """One comparison, continued where it was left. UserError for a run that failed."""
    from src.study.comparison import folder as places
    from src.study.comparison import request
    from src.study.comparison.cells import prepare_cells
    from src.study.engines.local import usable_cores

    out = folder / training.name
    argv = [*training.argv(mode), "--out_dir", str(out), "--quiet"]
    asked = request.read(argv)
    place = places.Folder(str(out))
    place.check()
    cells = prepare_cells(asked)
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for the verdicts
        code = places.carry_out(place, argv, asked, cells, [], workers or usable_cores())
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        raise UserError(f"claims: a run of {folder.name} failed, see above; the same command tries it again")


def _machine() -> Mapping:
    """Commit, versions and processor of this process."""
    from src.storage import env

    commit, dirty = env.git_commit() or ("", False)
    found = {"machines": [env.cpu_model()], "versions": env.versions()}
    return {**found, "commits": [commit], "dirty": ["yes" if dirty else "no"]} if commit else found
