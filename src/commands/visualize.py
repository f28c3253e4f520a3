"""`--vis_only --out_dir R`: write R/figures again from metrics.json, without torch.

With several directories, their runs are drawn in the same figures, in --figures DIR.
"""

from __future__ import annotations

from pathlib import Path

from src.figures import runs as run_figures
from src.flags.fields import UserError
from src.flags.groups import ControlConfig
from src.flags.parser import Parser, add_flags, read_flags
from src.storage.finished import finished_metrics
from src.storage.rundir import RunDir


def main(argv: list[str]) -> int:
    """Draw one run, or several into one set of figures, and print the paths."""
    parser = Parser(prog="benchmark.py --vis_only", description=__doc__)
    add_flags(parser, ControlConfig, "control")
    namespace = parser.parse_strict(argv)
    out_dirs = namespace.__dict__.pop("out_dir", [])
    control = ControlConfig(**read_flags(namespace, [ControlConfig]))
    if control.from_checkpoint_log:
        raise UserError("--from_checkpoint_log: only goes with --resume; leave it out")
    if control.seeds_at_once > 1:
        raise UserError("--seeds_at_once: only goes with new runs; leave it out")
    if not out_dirs:
        raise UserError("--vis_only: no --out_dir given; name one run, or several to overlay")
    runs = [RunDir.open(name) for name in out_dirs]
    documents = [finished_metrics(run) for run in runs]
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


def label(document: dict, run: RunDir) -> str:
    """'gru (baseline)', or 'gru-11' alone if the name of the run's folder begins with the model's name."""
    name = run.path.resolve().name
    return name if name.startswith(document["model"]) else f"{document['model']} ({name})"
