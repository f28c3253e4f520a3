"""`--vis_only --out_dir R`: rewrite R/figures from metrics.json, without torch; several directories are overlaid into --figures DIR."""

from __future__ import annotations

from pathlib import Path

from src.figures import runs as run_figures
from src.flags.fields import ControlConfig, UserError
from src.flags.parser import Parser, add_flags, read_flags
from src.storage.rundir import RunDir, open_sealed
from src.storage.schema import validate


def main(argv: list[str]) -> int:
    parser = Parser(prog="benchmark.py --vis_only", description=__doc__)
    add_flags(parser, ControlConfig, "control")
    namespace = parser.parse_strict(argv)
    out_dirs = namespace.__dict__.pop("out_dir", [])
    control = ControlConfig(**read_flags(namespace, [ControlConfig]))
    if not out_dirs:
        raise UserError("--vis_only: no --out_dir given; name one run, or several to overlay")
    runs = [RunDir.open(name) for name in out_dirs]
    documents = [load_metrics(run) for run in runs]
    if len(runs) == 1:
        folder = Path(control.figures) if control.figures else runs[0].figures
        paths = run_figures.draw_all(documents[0], folder)
    else:
        if not control.figures:
            raise UserError(f"--vis_only: got {len(runs)} runs but no --figures DIR to overlay them into")
        paths = run_figures.overlay(
            [(label(d, run), d) for d, run in zip(documents, runs, strict=True)], Path(control.figures)
        )
    for path in paths:
        print(path)
    return 0


def load_metrics(run: RunDir) -> dict:
    if not run.finished:
        raise UserError(f"{run.path}: not finished, it has no metrics.json yet; continue it with --resume")
    document = open_sealed(run.metrics)
    try:
        validate(document)
    except ValueError as error:
        raise UserError(f"{run.metrics}: not of this schema: {error}") from error
    return document


def label(document: dict, run: RunDir) -> str:
    return f"{document['model']} ({run.path.name})"
